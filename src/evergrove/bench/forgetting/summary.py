"""From matrices to what is quoted: average, forgetting, backward and forward transfer, and intervals over seeds.

R[i, j] is a metric on lesson j's conditions after lesson i was learnt; row 0 is before the first, row i after the i-th,
so R is (n + 1, n). NaN stands where nothing was measured. After Lopez-Paz & Ranzato 2017 (GEM, arXiv 1706.08840) and
Chaudhry et al. 2018 (arXiv 1801.10112). For distances (FID, KID, drift) less is better, for shares more is.
"""

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from evergrove.rules.student import quantile

Matrix = NDArray[np.float64]


class Interval(msgspec.Struct, frozen=True):
    """A mean over ``n`` seeds with its 95 % interval by Student's t; without one (NaN) for a single seed."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside."""
        return self.low > 0.0 or self.high < 0.0


def average(r: Matrix) -> float:
    """The mean over lessons at the end."""
    return float(np.nanmean(r[-1]))


def forgetting(r: Matrix, less_is_better: bool) -> float:
    """How much worse earlier lessons are at the end than they were at their best, on average; > 0 is worse."""
    n = r.shape[1]
    if n < 2:
        return 0.0
    sign = 1.0 if less_is_better else -1.0
    lost = [sign * r[-1, j] - np.nanmin(sign * r[j + 1 : -1, j]) for j in range(n - 1)]
    return float(np.mean(lost))


def backward_transfer(r: Matrix) -> float:
    """The mean over earlier lessons of end minus just learnt, in the metric's own direction."""
    n = r.shape[1]
    return float(np.mean([r[-1, j] - r[j + 1, j] for j in range(n - 1)])) if n > 1 else 0.0


def forward_transfer(r: Matrix) -> float:
    """The mean over later lessons of just before they are learnt minus before the first one."""
    n = r.shape[1]
    return float(np.mean([r[j, j] - r[0, j] for j in range(1, n)])) if n > 1 else 0.0


def interval(values: Sequence[float]) -> Interval:
    """Mean and 95 % interval by Student's t over seeds."""
    x = np.asarray(values, np.float64)
    mean, n = float(x.mean()), len(x)
    if n < 2:
        return Interval(mean, math.nan, math.nan, n)
    half = quantile(0.025, n - 1) * float(x.std(ddof=1)) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def paired(mine: Sequence[float], other: Sequence[float]) -> Interval:
    """The interval of mine minus other, seed by seed; both as long and in the same order of seeds."""
    return interval([a - b for a, b in zip(mine, other, strict=True)])
