"""What the golden gate judges by (DESIGN §5): paired differences in denoising loss, per condition, on fixed items.

Networks and golden items come in; ``Comparison``s go out, which hold a count, a mean and a deviation per condition and
nothing of any item. Every network sees the same (t, noise) for the same item, fixed by the golden set's hash, so that
what differs between two networks is the networks. Values per item may be cached on the device; they never leave it.
"""

import hashlib
import io
import math
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evergrove.core.conditions import Code, Vocabulary
from evergrove.core.errors import UsageError
from evergrove.core.measures import Comparison, Kind
from evergrove.core.rng import seed_of
from evergrove.learn.adapter import Adapter, Basis, blank_adapter, extend_rows, fuse
from evergrove.learn.flow import mix
from evergrove.learn.strategies import Samples
from evergrove.learn.trainer import write_durably

Values = NDArray[np.float64]
Arrays = Mapping[str, NDArray[np.generic]]
CACHED_MAX = 64
"""Files of values in a device's cache; one measurement reads or writes up to ten."""


@dataclass(frozen=True)
class Probe:
    """Where an item is looked at: ``draws`` pairs (t, noise), t one from each part of [``t_low``, ``t_high``].

    Measured on avatars: below t = .2 losses differ by chance of the noise (deviations of .5, where a lost condition
    costs 1); from .3 to .8 a lost condition costs as much and an innocent one deviates by .01-.06. One look is not
    enough: what one (t, noise) does to one picture then bears half of a good update's bound. A condition of few items
    gets more draws of each, up to ``draws_max``, until it has ``looks_min``: what one draw adds by chance then weighs
    less. The first ``teacher_draws`` also give the distance to the teacher (None: all of them).
    """

    draws: int = 2
    t_low: float = 0.3
    t_high: float = 0.8
    teacher_draws: int | None = None
    batch: int = 32
    looks_min: int = 96
    draws_max: int = 6

    def deepened(self, golden: "Golden") -> "Probe":
        """This probe with the draws that the smallest condition of ``golden`` asks for."""
        counts = [len(rows_of(golden.samples.codes, condition)) for condition in golden.conditions]
        fewest = min((n for n in counts if n), default=self.looks_min)
        draws = max(self.draws, min(self.draws_max, math.ceil(self.looks_min / fewest)))
        return replace(self, draws=draws)

    @property
    def n_teacher(self) -> int:
        """Draws that the distance to the teacher is taken at."""
        return self.draws if self.teacher_draws is None else min(self.teacher_draws, self.draws)


@dataclass(frozen=True)
class Network:
    """A network and the name of what it is (a hash), under which its values may be cached; None: never cached."""

    module: nn.Module
    name: str | None = None


@dataclass(frozen=True)
class Roles:
    """Who is compared: all understand the candidate's vocabulary (``network``), but the teacher, asked about the
    release's golden items only. None as teacher: its questions are left out."""

    candidate: Network
    incumbent: Network
    release: Network
    teacher: Network | None = None


@dataclass(frozen=True)
class Golden:
    """Golden items, and the conditions (masked codes) that are asked about. ``seed`` comes from the set's hash.

    ``sizes``: how many values each factor has, where a factor may have only one.
    """

    samples: Samples
    conditions: tuple[Code, ...]
    seed: int
    sizes: Code = ()


@dataclass(frozen=True)
class Items:
    """Per item: the squared error of x̂ and, where there is a teacher, the squared distance of x̂ to the teacher's."""

    loss: Values
    distance: Values | None = None


def network(
    model: nn.Module, basis: Basis, adapter: Adapter | None, vocabulary: Vocabulary, name: str | None = None
) -> Network:
    """The fused network of an adapter (None: the base alone), widened to ``vocabulary`` by untrained rows."""
    start = blank_adapter(model, basis, vocabulary) if adapter is None else extend_rows(model, adapter, vocabulary)
    return Network(fuse(model, basis, start), name)


def measure(
    roles: Roles,
    golden: Golden,
    own: Golden,
    learnt: Sequence[Code],
    probe: Probe | None = None,
    cache: Path | None = None,
    before_batch: Callable[[], object] = lambda: None,
) -> tuple[Comparison, ...]:
    """Every comparison that the gate may ask for.

    ``golden`` is the release's set: incumbent, release and (with a teacher) teacher comparisons per condition. ``own``
    is the device's: per new condition an incumbent comparison, and a gain where a condition is in ``learnt``. All are
    in units of what the condition is worth (``worth``), to the release or, of the device's own items, to the incumbent.
    ``before_batch`` is called before every batch (the frame gate); ``cache`` is a folder for named networks' values.
    """
    probe = probe or Probe()
    look = _Look(probe, cache, before_batch)
    outputs = None if roles.teacher is None else look.teacher_outputs(roles.teacher, golden)
    comparisons: list[Comparison] = []

    candidate = look.items(roles.candidate, golden, outputs, roles.teacher)
    incumbent = look.items(roles.incumbent, golden, outputs, roles.teacher)
    release = look.items(roles.release, golden, outputs, roles.teacher)
    mistaken = look.items(roles.release, told_wrongly(golden))
    for condition in golden.conditions:
        rows = rows_of(golden.samples.codes, condition)
        scale = worth(release.loss[rows], mistaken.loss[rows])
        comparisons.append(compared("incumbent", condition, candidate.loss[rows], incumbent.loss[rows], scale))
        comparisons.append(compared("release", condition, candidate.loss[rows], release.loss[rows], scale))
        if candidate.distance is not None and release.distance is not None:
            far, near = candidate.distance[rows], release.distance[rows]
            comparisons.append(compared("teacher", condition, far, near, scale))
    if len(own.samples):
        candidate, incumbent = look.items(roles.candidate, own), look.items(roles.incumbent, own)
        mistaken = look.items(roles.incumbent, told_wrongly(own))
        for condition in own.conditions:
            rows = rows_of(own.samples.codes, condition)
            scale = worth(incumbent.loss[rows], mistaken.loss[rows])
            # Harm to what the release knows is measured on the release's own items, above.
            kinds: tuple[Kind, ...] = () if condition in golden.conditions else ("incumbent",)
            if condition in learnt:
                kinds = (*kinds, "gain")
            for kind in kinds:
                comparisons.append(compared(kind, condition, candidate.loss[rows], incumbent.loss[rows], scale))
    look.prune()
    return tuple(comparisons)


def told_wrongly(golden: Golden) -> Golden:
    """The same items, each under another condition: the judged factor takes its first value, or its second.

    Where it has no second one it is left open, which is as little as can be known of it.
    """
    codes = golden.samples.codes.copy()
    for condition in golden.conditions:
        factor = next((f for f, value in enumerate(condition) if value), None)
        if factor is not None:
            other = 2 if condition[factor] == 1 else 1
            lone = bool(golden.sizes) and other > golden.sizes[factor]
            codes[rows_of(golden.samples.codes, condition), factor] = 0 if lone else other
    return replace(golden, samples=Samples(golden.samples.images, codes))


def worth(right: Values, wrong: Values) -> float:
    """What a condition is worth in loss: how much worse its items are estimated under another one's name.

    A network that hardly tells them apart has no such scale; its own loss is the least that is taken. Near 1 then
    means 'as bad as never having known it', however good the network is (docs/adr/0005).
    """
    if not len(right):
        return 1.0
    return max(float(wrong.mean() - right.mean()), float(right.mean()), 1e-12)


def compared(kind: Kind, condition: Code, candidate: Values, other: Values, scale: float) -> Comparison:
    """The sufficient statistics of candidate − other (harm positive), divided by ``scale``."""
    n = len(candidate)
    if n == 0:
        return Comparison(kind, condition, 0, 0.0, 0.0)
    difference = (candidate - other) / scale
    mean, spread = float(difference.mean()), float(difference.std())
    skew = float(((difference - mean) ** 3).mean()) / spread**3 if spread > 1e-12 else 0.0
    return Comparison(kind, condition, n, mean, float(difference.std(ddof=1)) if n > 1 else 0.0, skew)


def rows_of(codes: NDArray[np.int16], condition: Code) -> NDArray[np.intp]:
    """The items of a masked code: those that agree with it wherever it is not 0."""
    if codes.ndim != 2 or codes.shape[1] != len(condition):
        raise UsageError(f"condition {condition} has {len(condition)} factors, the items have codes {codes.shape}")
    wanted = np.asarray(condition)
    return np.flatnonzero(((codes == wanted) | (wanted == 0)).all(axis=1))


def item_values(
    model: nn.Module,
    golden: Golden,
    probe: Probe,
    outputs: NDArray[np.float16] | None = None,
    before_batch: Callable[[], object] = lambda: None,
) -> Items:
    """Losses (N,), averaged over the draws, and with the teacher's ``outputs`` the distances to it (N,)."""
    n = len(golden.samples)
    loss, distance = np.zeros(n), np.zeros(n)
    for draw in range(probe.draws):
        for rows, x, x_hat in _estimates(model, golden, probe, draw, before_batch):
            loss[rows] += (x_hat - x).square().mean(dim=(1, 2, 3)).double().numpy() / probe.draws
            if outputs is not None and draw < probe.n_teacher:
                off = x_hat - torch.from_numpy(outputs[draw, rows]).float()
                distance[rows] += off.square().mean(dim=(1, 2, 3)).double().numpy() / probe.n_teacher
    return Items(loss, distance if outputs is not None else None)


@torch.no_grad()
def _estimates(
    model: nn.Module, golden: Golden, probe: Probe, draw: int, before_batch: Callable[[], object]
) -> Iterator[tuple[NDArray[np.intp], Tensor, Tensor]]:
    """Batch by batch: row numbers, pictures x, and the network's x̂ at the draw's (t, noise)."""
    part = (probe.t_high - probe.t_low) / probe.draws
    for first in range(0, len(golden.samples), probe.batch):
        before_batch()
        rows = np.arange(first, min(first + probe.batch, len(golden.samples)))
        x, code = golden.samples.pick(torch.from_numpy(rows))
        rng = torch.Generator().manual_seed(seed_of(golden.seed, "gate", draw, first))
        t = probe.t_low + part * (draw + torch.rand(len(rows), generator=rng))
        noise = torch.randn(x.shape, generator=rng)
        yield rows, x, model(mix(x, noise, t), t, code)


class _Look:
    """One measurement: networks in, values per item out, from the cache where they are there."""

    def __init__(self, probe: Probe, cache: Path | None, before_batch: Callable[[], object]) -> None:
        self._probe = probe
        self._cache = cache
        self._before_batch = before_batch

    def items(
        self,
        who: Network,
        golden: Golden,
        outputs: NDArray[np.float16] | None = None,
        teacher: Network | None = None,
    ) -> Items:
        key = None if who.name is None else f"{who.name} {teacher.name if teacher else None}"
        if teacher is not None and teacher.name is None:
            key = None

        probe = self._probe.deepened(golden)

        def compute() -> Arrays:
            items = item_values(who.module, golden, probe, outputs, self._before_batch)
            return {"loss": items.loss} | ({} if items.distance is None else {"distance": items.distance})

        values = self._cached("items", key, golden, probe, compute)
        distance = values.get("distance")
        return Items(values["loss"].astype(np.float64), None if distance is None else distance.astype(np.float64))

    def teacher_outputs(self, teacher: Network, golden: Golden) -> NDArray[np.float16]:
        probe = self._probe.deepened(golden)

        def compute() -> Arrays:
            outputs = np.zeros((probe.n_teacher, *golden.samples.images.transpose(0, 3, 1, 2).shape), np.float16)
            for draw in range(probe.n_teacher):
                for rows, _, x_hat in _estimates(teacher.module, golden, probe, draw, self._before_batch):
                    outputs[draw, rows] = x_hat.half().numpy()
            return {"outputs": outputs}

        return self._cached("teacher", teacher.name, golden, probe, compute)["outputs"].astype(np.float16)

    def prune(self) -> None:
        """Deletes what has not been asked for lately: every candidate, and every new golden item, adds to the cache."""
        if self._cache is None or not self._cache.is_dir():
            return
        files = sorted(self._cache.glob("*.npz"), key=lambda path: path.stat().st_mtime_ns)
        for path in files[:-CACHED_MAX]:
            path.unlink(missing_ok=True)

    def _cached(
        self, kind: str, key: str | None, golden: Golden, probe: Probe, compute: Callable[[], Arrays]
    ) -> Arrays:
        if self._cache is None or key is None:
            return compute()
        digest = hashlib.blake2b(repr((kind, key, golden.seed, probe)).encode(), digest_size=16)
        digest.update(golden.samples.images.tobytes() + golden.samples.codes.tobytes())
        path = self._cache / f"{digest.hexdigest()}.npz"
        try:
            os.utime(path)  # asked for now: what was asked for last stays longest
            with np.load(path, allow_pickle=False) as file:
                return dict(file)
        except (OSError, ValueError, zipfile.BadZipFile):
            pass  # not there yet, or damaged: measured anew and written over
        values = compute()
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            for name, array in values.items():
                with file.open(f"{name}.npy", "w") as entry:
                    np.lib.format.write_array(entry, array, allow_pickle=False)
        self._cache.mkdir(parents=True, exist_ok=True)
        write_durably(path, buffer.getvalue())
        return values
