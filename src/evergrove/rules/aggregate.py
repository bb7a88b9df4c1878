"""Summing a cohort exactly, and what a cloud does with the sums of several fogs.

Sums: every update is clipped, put on a fixed grid (a power of two, 2⁻³² of the clip or a little finer, rounded towards
zero so that no norm grows) and added up as 64-bit integers. Integer addition is associative: the sum is the same bytes
in any order, in any grouping over workers, and after any crash. Weights are uniform and the denominator is the plan's.

Across fogs, only noised sums are visible: a check of norms always; coordinate-wise trimmed mean or median from five
fogs on (Yin et al. 2018). Privacy is untouched by either (post-processing), but the noise of later rounds cancels that
of earlier ones only in plain sums: ``Combined.cancels`` says whether a study of the noise may count on it.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Literal, TypeVar, assert_never

import msgspec
import numpy as np
from numpy.typing import NDArray

from evergrove.core.errors import InvalidInput, UsageError
from evergrove.rules.privacy.clipping import clip_factor, norm_of
from evergrove.rules.privacy.quantile import N_COUNTS, bucket

Float = TypeVar("Float", np.float32, np.float64)
Vector = NDArray[np.float64]
Fixed = NDArray[np.int64]
Rule = Literal["mean", "trimmed mean", "median"]

GRID_BITS = 32
N_UPDATES_MAX = 1 << 20
"""Updates in one sum: 2²⁰ · 2³³ is far from what 64 bits hold, and leaves room for the noise."""
FOGS_ROBUST = 5
"""Fewer fogs cannot outvote one of them in every coordinate."""


class CohortSum(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a cohort, or all of it: how many updates, and their sum on the grid of ``clip``, int64 of 8 bytes.

    ``counts``: how many of them had which norm before they were clipped (``privacy/quantile.bucket``).
    """

    clip: float
    n_updates: int
    total: bytes
    counts: tuple[int, ...] = (0,) * N_COUNTS

    @property
    def numbers(self) -> Fixed:
        """The sum in units of ``quantum(clip)``."""
        return np.frombuffer(self.total, "<i8").astype(np.int64)

    @property
    def values(self) -> Vector:
        """The sum in the units of an update, float64."""
        return self.numbers.astype(np.float64) * quantum(self.clip)


def quantum(clip: float) -> float:
    """The grid: a power of two, so that putting a number on it is exact but for the rounding."""
    clip_factor(0.0, clip)  # a clip that makes sense
    return math.ldexp(1.0, math.frexp(clip)[1] - 1 - GRID_BITS)


def on_grid(update: NDArray[Float], clip: float) -> Fixed:
    """An update, clipped to ``clip``, in whole units of ``quantum(clip)``, rounded towards zero.

    Checks that it is finite first. Raises ``InvalidInput`` as ``norm_of`` does.
    """
    return _on_grid(update, norm_of(update), clip)


def total(updates: Iterable[NDArray[Float]], size: int, clip: float) -> CohortSum:
    """The sum of the updates, each clipped to ``clip``: the same bytes in any order. Nothing is an empty cohort.

    Raises ``InvalidInput`` for an update of another size, or that is not finite; then nothing is summed.
    """
    numbers, counts, n = np.zeros(size, np.int64), [0] * N_COUNTS, 0
    for update in updates:
        if update.shape != (size,):
            raise InvalidInput(f"an update of shape {update.shape} in a cohort of {size} numbers each: refuse it")
        if n == N_UPDATES_MAX:
            raise UsageError(f"a cohort holds at most {N_UPDATES_MAX} updates")
        norm = norm_of(update)
        numbers += _on_grid(update, norm, clip)
        if (where := bucket(norm, clip)) is not None:
            counts[where] += 1
        n += 1
    return CohortSum(clip, n, numbers.astype("<i8").tobytes(), tuple(counts))


def join(first: CohortSum, second: CohortSum) -> CohortSum:
    """The sum of two disjoint parts of one cohort. Raises ``UsageError`` for parts that do not belong together."""
    if first.clip != second.clip or len(first.total) != len(second.total):
        raise UsageError("two sums of different clips or sizes: the clip is constant within a generation")
    n = first.n_updates + second.n_updates
    if n > N_UPDATES_MAX:
        raise UsageError(f"a cohort holds at most {N_UPDATES_MAX} updates")
    counts = tuple(a + b for a, b in zip(first.counts, second.counts, strict=True))
    return CohortSum(first.clip, n, (first.numbers + second.numbers).astype("<i8").tobytes(), counts)


class FogSum(msgspec.Struct, frozen=True):
    """What a fog handed up for one step: its noised sum, the public denominator, and the noise's size.

    ``values`` float64, ``cohort`` is K, ``clip`` C, ``noise_std`` the standard deviation of this row of noise in a
    coordinate; 0 without noise. All but ``values`` come from the cloud's own copy of the plan (``rounds.handed_up``).
    """

    fog: str
    values: Vector
    cohort: int
    clip: float
    noise_std: float


class Combined(msgspec.Struct, frozen=True):
    """The mean update of the grove (float64), the fogs in it, and those that were left out, each with the reason."""

    values: Vector
    used: tuple[str, ...]
    refused: tuple[tuple[str, str], ...]
    cancels: bool


def norm_most(one: FogSum, chance: float = 1e-9) -> float:
    """The largest norm that an honest fog's sum has, but with probability ``chance``: K clips and the noise.

    A normal vector of n coordinates is longer than σ(√n + √(2 ln 1/p)) with probability p at most (Gaussian
    concentration of the 1-Lipschitz norm).
    """
    noise = one.noise_std * (math.sqrt(len(one.values)) + math.sqrt(2 * math.log(1 / chance)))
    return one.cohort * one.clip * (1 + 1e-9) + noise


def combine(sums: Sequence[FogSum], rule: Rule = "mean", trim: float = 0.2) -> Combined:
    """The mean update over fogs by ``rule``, after each sum's norm was checked; the same for any order of ``sums``.

    ``mean`` weighs fogs by their public denominators; ``trimmed mean`` leaves out the ``trim`` part (0-0.5) of fogs at
    either end of every coordinate, ``median`` all but the middle: both treat fogs alike. Raises ``InvalidInput`` where
    no sum passes, ``UsageError`` for sums that do not belong together or a robust rule over fewer than five.
    """
    # 1. Which sums can be what they say?
    ordered = sorted(sums, key=lambda one: one.fog)
    if len({one.fog for one in ordered}) < len(ordered) or len({one.values.shape for one in ordered}) > 1:
        raise UsageError("a fog twice in one step, or sums of different sizes")
    judged = [(one, fault(one)) for one in ordered]
    refused = tuple((one.fog, why) for one, why in judged if why)
    sound = [one for one, why in judged if not why]
    if not sound:
        raise InvalidInput("no fog's sum is sound: " + "; ".join(f"{fog}: {why}" for fog, why in refused))

    # 2. One update of them.
    used = tuple(one.fog for one in sound)
    if rule == "mean":
        whole = np.sum([one.values for one in sound], axis=0) / sum(one.cohort for one in sound)
        return Combined(whole, used, refused, cancels=not refused)
    if len(sound) < FOGS_ROBUST:
        raise UsageError(f"a {rule} over {len(sound)} fogs; it takes {FOGS_ROBUST}, use the mean with its norm check")
    means = np.sort(np.stack([one.values / one.cohort for one in sound]), axis=0)
    match rule:
        case "trimmed mean":
            if not 0 <= trim < 0.5:
                raise UsageError(f"a trim of {trim}; it lies between 0 and a half")
            cut = min(math.ceil(trim * len(sound)), (len(sound) - 1) // 2)
            robust = means[cut : len(sound) - cut].mean(axis=0)
        case "median":
            robust = np.median(means, axis=0)
        case _:
            assert_never(rule)
    return Combined(robust, used, refused, cancels=False)


def fault(one: FogSum) -> str:
    """Why this cannot be an honest fog's sum; empty where it can."""
    if not np.isfinite(one.values).all():
        return "not finite"
    norm, most = norm_of(one.values), norm_most(one)
    return "" if norm <= most else f"a norm of {norm:.3g}; {one.cohort} clips and the noise make {most:.3g} at most"


def _on_grid(update: NDArray[Float], norm: float, clip: float) -> Fixed:
    factor = clip_factor(norm, clip)
    return np.trunc(update.astype(np.float64) * factor / quantum(clip)).astype(np.int64)
