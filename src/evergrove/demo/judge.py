"""Measures what a model can still draw: pictures by the sampler's settings, read by an oracle that nothing else uses.

An adapter's bytes (or none: the release alone) come in; out come pictures per emotion and the share of them that the
oracle reads as what was asked for. The same conditions and the same noise for every model.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from evergrove.adapters.release import Release
from evergrove.core.conditions import Vocabulary
from evergrove.core.rng import seed_of, stream
from evergrove.demo.script import FACTOR
from evergrove.learn.adapter import Adapter, Basis, attach, blank_adapter, fuse, read_adapter
from evergrove.learn.adapter_file import adapter_of_bytes
from evergrove.learn.generator import FlowGenerator, to_condition, to_uint8
from evergrove.media.packs import Pack, read_pack
from evergrove.runtime.assembly import open_parts

if TYPE_CHECKING:
    from evergrove.learn.oracle import Oracle

BATCH = 16


@dataclass(frozen=True)
class Judged:
    """Per emotion: the share that is right, the pictures uint8 (H, W, 3), and what the wrong ones look like."""

    right: dict[str, float]
    pictures: dict[str, list[NDArray[np.uint8]]]
    mistaken: dict[str, dict[str, int]]

    def mean(self, emotions: Sequence[str]) -> float:
        """The mean share over some emotions; one that the model does not know counts 0."""
        return float(np.mean([self.right.get(e, 0.0) for e in emotions]))


class Judge:
    """One release's networks and one oracle, opened once."""

    def __init__(self, release: Release, oracle: "Oracle", seed: int) -> None:
        self.release = release
        self.manifest = release.manifest
        self.oracle = oracle
        self.seed = seed
        self.parts = open_parts(release)
        self.model: nn.Module = self.parts.model
        self.basis: Basis = self.parts.basis

    def known(self) -> list[str]:
        """The emotions that the release knows."""
        return list(_factor_values(self.manifest.vocabulary))

    def judge(self, adapter: Adapter | None, emotions: Sequence[str], n: int) -> Judged:
        """``n`` pictures of every emotion that release and adapter know, and what the oracle reads in them."""
        vocabulary = adapter.vocabulary if adapter is not None else self.manifest.vocabulary
        known = [e for e in emotions if e in _factor_values(vocabulary)]
        codes = self._codes(vocabulary, known, n)
        pictures = self._draw(fuse(self.model, self.basis, self.parts.serving(adapter)), codes)
        index = self.oracle.vocabulary.names.index(FACTOR)
        values = self.oracle.vocabulary.factors[index].values
        read = [values[number - 1] for number in self.oracle.read(pictures)[:, index]]
        right, shown, mistaken = {}, {}, {}
        for i, emotion in enumerate(known):
            mine = slice(i * n, (i + 1) * n)
            right[emotion] = sum(r == emotion for r in read[mine]) / n
            shown[emotion] = list(pictures[mine])
            mistaken[emotion] = dict(Counter(r for r in read[mine] if r != emotion))
        return Judged(right, shown, mistaken)

    def adapter(self, data: bytes) -> Adapter:
        """An adapter from a file's bytes."""
        return adapter_of_bytes(data)

    def rehearsal(self) -> Pack:
        """The release's rehearsal pack: public pictures of what the base knows."""
        return read_pack(self.release.path_of(self.manifest.rehearsal))

    def unfinished(self, tensors: Mapping[str, torch.Tensor], vocabulary: Vocabulary) -> Adapter:
        """The adapter as it stood in a trainer's checkpoint."""
        attached = attach(self.model, self.basis, blank_adapter(self.model, self.basis, vocabulary))
        with torch.no_grad():
            for name, parameter in attached.parameters.items():
                parameter.copy_(tensors[f"value.{name}"])
        return read_adapter(attached)

    def _codes(self, vocabulary: Vocabulary, emotions: Sequence[str], n: int) -> NDArray[np.int16]:
        """``n`` looks, the same for every emotion, of values that the release knows."""
        rng = stream(self.seed, "demo", "judge")
        known = list(zip(self.manifest.vocabulary.factors, self.manifest.known, strict=True))
        looks = [{f.name: f.values[int(rng.integers(size))] for f, size in known if size} for _ in range(n)]
        codes = [vocabulary.encode({**look, FACTOR: emotion}) for emotion in emotions for look in looks]
        return np.array(codes, np.int16)

    def _draw(self, network: nn.Module, codes: NDArray[np.int16]) -> NDArray[np.uint8]:
        px = self.manifest.image_px
        generator = FlowGenerator(network, (3, px, px), self.manifest.sampler)

        def part(start: int) -> NDArray[np.uint8]:
            rng = torch.Generator().manual_seed(seed_of(self.seed, "demo", "noise", start))
            return to_uint8(generator.sample(to_condition(codes[start : start + BATCH]), rng))

        # One thread per batch: two that share a batch mostly wait for one another.
        with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
            return np.concatenate(list(pool.map(part, range(0, len(codes), BATCH))))


def _factor_values(vocabulary: Vocabulary) -> tuple[str, ...]:
    return vocabulary.factors[vocabulary.names.index(FACTOR)].values
