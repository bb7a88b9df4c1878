"""The next generation's clip: a private quantile of the norms of this generation's updates (ADR 0027).

Andrew et al. 2021 ('Differentially private learning with adaptive clipping') move a clip after every round, by the
noised part of updates that lie below it: C ← C·exp(−η(b̃ − γ)). Here C is constant in a generation, so a fog counts over
a fixed grid of norms for as long as it lasts; the counts go through the noise stream of the sums, beside them, and what
follows from them is post-processing. Devices send what they clipped themselves, so of a norm above C all that is seen
is *that* it is above: below C the quantile is read off the counts, above it their update is made, once.
"""

import math
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from evergrove.core.cloud_events import Norms
from evergrove.core.errors import UsageError

Vector = NDArray[np.float64]

STEPS = 8
"""Steps of √2 below the clip: a factor of 16, the furthest that a clip falls in one generation."""
N_COUNTS = STEPS + 2
REACHED = 1.0 - 2.0**-8
"""From this part of the clip on an update counts as clipped: a device clips, and then rounds to float16."""
RISE_MOST = 2.0
"""What the clip is multiplied by where all updates reach it; η = ln RISE_MOST / γ."""
SIGNAL_MIN = 5.0
"""The clip stays where all counts together are fewer than this many standard deviations of their noise."""
DIGITS = 3
"""Of a proposed clip: it is estimated no better, and people say it to each other."""


def edges(clip: float) -> Vector:
    """The grid: 9 norms from C/16 to C, the last one a little below it (``REACHED``)."""
    grid: Vector = clip * 2.0 ** (np.arange(-STEPS, 1) / 2)
    grid[-1] *= REACHED
    return grid


def bucket(norm: float, clip: float) -> int | None:
    """Which count an update's norm adds 1 to: the first whose edge is not below it, the last one if none is.

    None for a norm of 0: an update of nothing is not counted. So a device whose updates are replaced by zeros moves one
    count by one for each of them, not two. Raises ``UsageError`` for a norm that is not finite.
    """
    if not (math.isfinite(norm) and norm >= 0):
        raise UsageError(f"a norm of {norm} is not counted: such an update is refused")
    return int(np.searchsorted(edges(clip), norm, side="left")) if norm else None


def next_clip(clip: float, released: Vector, noise_std: float, target: float = 0.5) -> float:
    """The clip that the ``target`` part γ (0-1) of norms lies below, read off the noised counts of one or more fogs.

    ``released`` is their sum, ``noise_std`` the standard deviation of the noise in each count. The same clip where the
    noise drowns the counts; at least C/16, at most ``RISE_MOST``·C. Raises ``UsageError`` for counts of another shape.
    """
    if not 0 < target < 1 or released.shape != (N_COUNTS,) or not np.isfinite(released).all():
        raise UsageError(f"target {target}, counts of shape {released.shape}: say a part of 1, and {N_COUNTS} counts")
    n = float(released.sum())
    if _drowned(n, noise_std):
        return clip
    # The part of norms up to each edge: not falling, and in 0 … 1, whatever the noise did.
    below = np.clip(np.maximum.accumulate(np.cumsum(released)[:-1] / n), 0.0, 1.0)
    if below[-1] < target:
        return clip * math.exp(math.log(RISE_MOST) / target * (target - float(below[-1])))
    grid = np.log2(edges(clip))
    if below[0] >= target:
        return float(2.0 ** grid[0])
    i = int(np.argmax(below >= target))
    part = (target - below[i - 1]) / (below[i] - below[i - 1])
    return float(2.0 ** (grid[i - 1] + part * (grid[i] - grid[i - 1])))


# ---- over a generation -----------------------------------------------------------------------------------------------


class Tally(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One fog's counts, added up over the ``rounds`` that came of those up to ``last``.

    ``noise_sum_std`` is the deviation of the noise in each count had all come, ``noise_std_max`` the largest that one
    round's own noise had.
    """

    counts: tuple[int, ...] = (0,) * N_COUNTS
    rounds: int = 0
    last: int = -1
    noise_sum_std: float = 0.0
    noise_std_max: float = 0.0

    @property
    def noise_std(self) -> float:
        """At most the deviation of the noise in each count: that of a round that never came is not cancelled."""
        return self.noise_sum_std + (self.last + 1 - self.rounds) * self.noise_std_max


def added(tally: Tally, norms: Norms, number: int) -> Tally:
    """With the counts of round ``number`` (from 0), which comes once; rounds may come in any order."""
    counts = tuple(a + b for a, b in zip(tally.counts, norms.counts, strict=True))
    later = number > tally.last
    return Tally(
        counts, tally.rounds + 1, max(number, tally.last), norms.noise_sum_std if later else tally.noise_sum_std,
        max(tally.noise_std_max, norms.noise_std),
    )  # fmt: skip


class Proposal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the next generation is to clip to. ``now`` is this one's clip, ``counted`` the (noised) number of updates.

    ``noise_std`` is the deviation of the noise in each count, ``below`` the part of updates below ``now``; None where
    nothing can be said. ``says`` is for people.
    """

    now: float
    clip: float
    target: float
    counted: int
    noise_std: float
    below: float | None
    says: str


def proposal(now: float, tallies: Iterable[Tally], target: float) -> Proposal:
    """What all fogs' counts together ask for, rounded to ``DIGITS``; this generation's clip where they say nothing."""
    known = [one for one in tallies if one.rounds]
    released: Vector = np.zeros(N_COUNTS)
    for one in known:
        released += one.counts
    std = math.sqrt(math.fsum(one.noise_std**2 for one in known))
    n = float(released.sum())
    found = next_clip(now, released, std, target)
    if not known or _drowned(n, std):
        says = "no norms were counted yet" if not known else "too few updates were counted to tell norms from noise"
        return Proposal(now, now, target, round(n), std, None, says)
    below = min(max(float(released[:-1].sum()) / n, 0.0), 1.0)
    clip = float(f"{found:.{DIGITS}g}")
    where = f"{below:.0%} of about {round(n)} updates lay below {now:g}, {target:.0%} are asked for"
    return Proposal(now, clip, target, round(n), std, below, where)


def check_counts(counts: Sequence[int], n_updates: int, noise_std: float) -> str:
    """Why these cannot be an honest fog's counts of one cohort; empty where they can. Eight deviations are allowed."""
    if len(counts) != N_COUNTS:
        return f"{len(counts)} counts of norms; {N_COUNTS} belong to a cohort"
    room = 8 * noise_std + 1
    if not all(-room <= count <= n_updates + room for count in counts):
        return f"a count of norms that {n_updates} updates and their noise cannot give"
    total = sum(counts)
    if not -room * math.sqrt(N_COUNTS) <= total <= n_updates + room * math.sqrt(N_COUNTS):
        return f"{total} norms in a cohort of {n_updates} updates"
    return ""


def _drowned(n: float, noise_std: float) -> bool:
    """Whether ``n`` updates in all say nothing under the noise of every count."""
    return n <= 0 or n <= SIGNAL_MIN * noise_std * math.sqrt(N_COUNTS)
