"""The next generation's clip: a private quantile of the norms of this generation's updates.

Andrew et al. 2021 ('Differentially private learning with adaptive clipping') move a clip by C ← C·exp(−η(b̃ − γ)) a
round, b̃ the noised part of norms below it. Here C is constant in a generation, so what is counted is a whole histogram
over a geometric grid around C; its noised counts are released once, at the end, and the update is run on them to its
fixed point, where b̃ = γ: post-processing, which costs nothing. The one release is Gaussian with L2 sensitivity k (a
device adds 1 to one count, k times at most) and is charged in the ledger.
"""

import math

import numpy as np
from numpy.typing import NDArray

from evergrove.core.errors import UsageError
from evergrove.rules.privacy.blt import Vector
from evergrove.rules.privacy.plan import NoisePlan

STEPS = 8
"""Steps of √2 below and above the clip: a factor of 16, the furthest that a clip moves in one generation."""
N_COUNTS = 2 * STEPS + 2
SIGNAL_MIN = 5.0
"""The clip stays where all counts together are fewer than this many standard deviations of their noise."""

Counts = NDArray[np.int64]


def edges(clip: float) -> Vector:
    """The grid: 17 norms from C/16 to 16·C."""
    return clip * 2.0 ** (np.arange(-STEPS, STEPS + 1) / 2)


def bucket(norm: float, clip: float) -> int:
    """Which count an update's norm adds 1 to: the first whose edge is not below it, the last one if none is.

    The norm is the one before clipping. Raises ``UsageError`` for a norm that is not finite.
    """
    if not (math.isfinite(norm) and norm >= 0):
        raise UsageError(f"a norm of {norm} is not counted: such an update is refused")
    return int(np.searchsorted(edges(clip), norm, side="left"))


def noised(plan: NoisePlan, counts: Counts, fresh: NDArray[np.float64]) -> Vector:
    """The counts with their noise: what may leave the fog, once, after ``ledger.charge_quantile``.

    ``fresh``: 18 standard normal numbers, never used before. Raises ``UsageError`` for another shape, counts that are
    negative, or a plan that foresees no count.
    """
    if plan.quantile_multiplier is None:
        raise UsageError("the plan foresees no count of norms")
    if counts.shape != (N_COUNTS,) or counts.min() < 0 or fresh.shape != (N_COUNTS,) or not np.isfinite(fresh).all():
        raise UsageError(f"counts of shape {counts.shape}, noise of shape {fresh.shape}; {N_COUNTS} of each are needed")
    return np.rint(counts + plan.quantile_std * fresh)


def next_clip(clip: float, released: Vector, noise_std: float, target: float = 0.5) -> float:
    """The clip that the ``target`` part (0-1) of norms lies below, read off the noised counts of one or more fogs.

    ``released`` is their sum, ``noise_std`` the standard deviation of its noise in one count. The same clip where the
    noise drowns the counts; never further than the grid goes.
    """
    if not 0 < target < 1 or released.shape != (N_COUNTS,) or not np.isfinite(released).all():
        raise UsageError(f"target {target}, counts of shape {released.shape}: say a part of 1, and {N_COUNTS} counts")
    n = float(released.sum())
    if n <= SIGNAL_MIN * noise_std * math.sqrt(N_COUNTS) or n <= 0:
        return clip
    # The part of norms up to each edge: not falling, and in 0 … 1, whatever the noise did.
    below = np.clip(np.maximum.accumulate(np.cumsum(released)[:-1] / n), 0.0, 1.0)
    grid = np.log2(edges(clip))
    if below[0] >= target:
        return float(2.0 ** grid[0])
    if below[-1] < target:
        return float(2.0 ** grid[-1])
    i = int(np.argmax(below >= target))
    part = (target - below[i - 1]) / (below[i] - below[i - 1])
    return float(2.0 ** (grid[i - 1] + part * (grid[i] - grid[i - 1])))
