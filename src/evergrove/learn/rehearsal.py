"""What the fleet has learnt and a release has no pictures of: drawn by the release itself, to be rehearsed.

A device that never saw such a value would lose it while it learns another (measured on 'tiny': from .79 to 0). The
release draws it (generative replay, Shin et al. 2017, from a model that does not drift), which keeps two thirds of it;
public pictures in the rehearsal pack keep nearly all, and then nothing is drawn.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from evergrove.core.release import Manifest
from evergrove.core.rng import seed_of, stream
from evergrove.learn.adapter import Adapter
from evergrove.learn.generator import FlowGenerator, to_condition, to_uint8
from evergrove.learn.strategies import Samples
from evergrove.rules.learnt import first_row

BATCH = 32
Value = tuple[int, int]
"""Factor and number."""


def fleet_values(manifest: Manifest, adapter: Adapter | None, shown: Iterable[NDArray[np.int16]]) -> list[Value]:
    """The values that the golden set does not judge, that the fleet has learnt, and that no code of ``shown`` has.

    One whose row is still the one that its name draws was never trained: there is nothing to keep.
    """
    return [value for value, is_trained in _fleet(manifest, adapter, shown) if is_trained]


def untaught_values(manifest: Manifest, adapter: Adapter | None, shown: Iterable[NDArray[np.int16]]) -> list[Value]:
    """The values that the fleet has words for, that nobody has taught yet, and that no code of ``shown`` has."""
    return [value for value, is_trained in _fleet(manifest, adapter, shown) if not is_trained]


def _fleet(
    manifest: Manifest, adapter: Adapter | None, shown: Iterable[NDArray[np.int16]]
) -> Iterator[tuple[Value, bool]]:
    """Every value that only the adapter has a row for and nothing of ``shown`` is of, and whether it was trained."""
    if adapter is None:
        return
    seen = {(f, int(n)) for codes in shown for f in range(codes.shape[1]) for n in np.unique(codes[:, f])}
    for f, (factor, size) in enumerate(zip(manifest.vocabulary.factors, manifest.known, strict=True)):
        for n in range(size + 1, len(factor.values) + 1):
            row = adapter.rows[f"{f}:{n}"].half().numpy()
            first = first_row(factor.name, factor.values[n - 1], len(row)).astype(np.float16)
            if (f, n) not in seen:
                yield (f, n), not np.array_equal(row, first)


def codes_of(values: Iterable[Value], manifest: Manifest, n_each: int, seed: int = 0) -> NDArray[np.int16]:
    """``n_each`` codes (N, F) of every value; what else they say is drawn among what the release is judged on."""
    known = manifest.known
    drawn = [np.zeros((0, len(known)), np.int16)]
    for f, n in values:
        rng = stream(seed, "rehearsal", f, n)
        codes = np.stack([rng.integers(min(k, 1), k + 1, size=n_each) for k in known], axis=1).astype(np.int16)
        codes[:, f] = n
        drawn.append(codes)
    return np.concatenate(drawn)


def draw(network: nn.Module, manifest: Manifest, codes: NDArray[np.int16], seed: int = 0) -> Samples:
    """One picture for every code, by the release's ``network`` at its own sampler settings; the same every time."""
    shape = (3, manifest.image_px, manifest.image_px)
    generator = FlowGenerator(network, shape, manifest.sampler)
    rng = torch.Generator().manual_seed(seed_of(seed, "rehearsal", "noise"))
    images = [np.zeros((0, *shape[1:], 3), np.uint8)]
    with torch.no_grad():
        images += [
            to_uint8(generator.sample(part, rng)) for part in torch.split(to_condition(codes), BATCH) if len(part)
        ]
    return Samples(np.concatenate(images), codes)
