"""Empirical privacy: what an attacker who tries can show of a claim. A bound, an estimate and an attack; never a proof.

``one_run_bound``: a lower bound on ε from one run with random canaries (Steinke, Nasr & Jagielski 2023, 'Privacy
auditing with one (1) training run'). ``canary_estimate``: an *estimate* from canary clients' cosines (Andrew et al.
2023, 'One-shot empirical privacy estimation for federated learning'). ``membership``: TPR at 1 % FPR of a loss-based
attack (Carlini et al. 2022), with its interval. Imports scipy.stats; for clouds and for studies.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import bdtrc, gammaln, log_ndtr

from evergrove.core.errors import UsageError

Vector = NDArray[np.float64]

EPSILON_MAX = 100.0
CANARIES_MAX = 1_000_000
GROUPS = 20


class OneRun(NamedTuple):
    """``bound`` ≤ ε with the confidence asked for; ``ceiling`` is the most that so many canaries could ever show."""

    bound: float
    ceiling: float

    def refutes(self, claim: float) -> bool:
        """Whether the run shows more than the claim: then the implementation or the proof is wrong."""
        return self.bound > claim


def one_run_bound(n_canaries: int, n_guesses: int, n_correct: int, delta: float, confidence: float = 0.95) -> OneRun:
    """A lower bound on ε: of ``n_canaries`` (m), each in the data by a fair coin of its own, an attacker said of
    ``n_guesses`` (r) whether it was in, and was right ``n_correct`` (v) times; on the others it abstained.

    Under (ε, δ)-DP (their main theorem) the count is no larger than W ~ Binomial(r, e^ε/(1 + e^ε)), but
    with probability P(W ≥ v) + 2mδ·max_i P(v − i ≤ W < v)/i. The bound is the largest ε at which that is below 1 −
    ``confidence``. Raises ``UsageError`` for counts that make no sense.
    """
    if not (1 <= n_guesses <= n_canaries <= CANARIES_MAX and 0 <= n_correct <= n_guesses):
        raise UsageError(f"{n_correct} right of {n_guesses} guesses about {n_canaries} canaries: that cannot be")
    if not (0 <= delta < 1 and 0.5 <= confidence < 1):
        raise UsageError(f"δ = {delta}, confidence {confidence}; say δ from 0, and a confidence from .5 to below 1")

    ceiling = _refuted(n_canaries, n_canaries, n_canaries, delta, confidence)
    return OneRun(_refuted(n_canaries, n_guesses, n_correct, delta, confidence), ceiling)


class CanaryEstimate(NamedTuple):
    """``epsilon`` is an estimate, at best: the attacker's statistic was fitted by normal distributions.

    ``error`` is its standard error by the jackknife over 20 groups of canaries: far out in a tail, where δ is small, a
    few per cent of the spread are much of ε. ``mean`` and ``std`` are those of the cosines; ``n`` how many there were.
    """

    epsilon: float
    error: float
    mean: float
    std: float
    n: int


def cosines(released: Vector, canaries: NDArray[np.float64]) -> Vector:
    """The cosine of each canary (rows, n × size) with what was released (size); 0 where either is zero."""
    lengths = np.linalg.norm(canaries, axis=1) * np.linalg.norm(released)
    products: Vector = canaries @ released
    result: Vector = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    return result


def canary_estimate(observed: Vector, size: int, delta: float) -> CanaryEstimate:
    """The estimate of ε from the cosines of canary clients that took part, each a random direction of ``size`` numbers.

    A direction that took no part has a cosine ~ N(0, 1/size); those observed are fitted by N(μ, s²). The estimate is
    the larger ε, over both directions, at which the two are (ε, δ)-indistinguishable. It depends on how
    the canaries took part, and goes below the true ε where better attacks exist. Raises ``UsageError`` for fewer than
    two cosines.
    """
    if observed.ndim != 1 or observed.size < 2 or not np.isfinite(observed).all() or size < 2:
        raise UsageError(f"an estimate from {observed.size} cosines of {size} numbers; it takes two of each or more")
    groups = min(GROUPS, observed.size // 2)
    parts = [_fitted(np.delete(observed, slice(g, None, groups)), size, delta) for g in range(groups)]
    error = math.sqrt((groups - 1) / groups * sum((p - sum(parts) / groups) ** 2 for p in parts)) if groups > 1 else 0.0
    whole = _fitted(observed, size, delta)
    return CanaryEstimate(whole, error, float(observed.mean()), float(observed.std(ddof=1)), observed.size)


class Membership(NamedTuple):
    """``tpr``: the part of members that the attack recognises where it accuses ``fpr`` ≤ 1 % of non-members.

    ``low`` and ``high`` are the Clopper-Pearson interval of the ``tpr``.
    """

    tpr: float
    low: float
    high: float
    fpr: float
    n_members: int
    n_others: int


def membership(members: Vector, others: Vector, fpr_most: float = 0.01, confidence: float = 0.95) -> Membership:
    """The loss-based attack: whose loss is below a threshold is called a member (of the training data).

    ``members``, ``others``: losses of things that were learnt and of things that were not, or any score that is
    smaller for members (a loss less a reference model's, which is the stronger attack). The threshold is the largest
    at which at most ``fpr_most`` of the others are accused; ties are not accused. Raises ``UsageError`` where there are
    too few others to tell such a rate.
    """
    for name, scores in (("members", members), ("others", others)):
        if scores.ndim != 1 or scores.size < 1 or not np.isfinite(scores).all():
            raise UsageError(f"the losses of the {name} must be one flat vector of finite numbers")
    if not (0 < fpr_most < 1 and 0 < confidence < 1):
        raise UsageError(f"a false-positive rate of {fpr_most}, confidence {confidence}: both lie between 0 and 1")
    n_accused = math.floor(fpr_most * others.size + 1e-9)
    if n_accused < 1:
        raise UsageError(
            f"{others.size} others cannot show a rate of {fpr_most:g}; {math.ceil(1 / fpr_most)} are needed"
        )
    threshold = np.sort(others)[n_accused] if n_accused < others.size else math.inf
    hits, n = int((members < threshold).sum()), members.size
    tail = (1 - confidence) / 2
    low = float(stats.beta.ppf(tail, hits, n - hits + 1)) if hits else 0.0
    high = float(stats.beta.isf(tail, hits + 1, n - hits)) if hits < n else 1.0
    return Membership(hits / n, low, high, float((others < threshold).mean()), n, others.size)


def normal_delta(mean: float, std: float, other_mean: float, other_std: float, epsilon: float) -> float:
    """∫ (p − e^ε q)₊ for two normal densities, p with ``mean`` and ``std``: their δ at ε in this direction.

    log p − log q is a quadratic; between (or beyond) its crossings of ε both integrals are differences of Φ.
    """
    # a·x² + b·x + c = log p(x) − log q(x) − ε, with x in units of q's spread around q's mean.
    s, m = std / other_std, (mean - other_mean) / other_std
    a, b, c = 0.5 - 0.5 / s**2, m / s**2, -0.5 * m**2 / s**2 - math.log(s) - epsilon
    if abs(a) < 1e-12:
        if abs(b) < 1e-300:
            return max(0.0, -math.expm1(epsilon))
        inside = [(-c / b, math.inf)] if b > 0 else [(-math.inf, -c / b)]
    else:
        square = b * b - 4 * a * c
        if square <= 0:
            return max(0.0, -math.expm1(epsilon)) if a > 0 else 0.0
        # The stable form of both roots.
        q = -0.5 * (b + math.copysign(math.sqrt(square), b))
        low, high = sorted((q / a, c / q if q else -q / a))
        inside = [(low, high)] if a < 0 else [(-math.inf, low), (high, math.inf)]
    total = 0.0
    for low, high in inside:
        p = _between((low - m) / s, (high - m) / s)
        total += math.exp(p) - math.exp(min(epsilon + _between(low, high), 700.0)) if p > -math.inf else 0.0
    return max(total, 0.0)


def _fitted(observed: Vector, size: int, delta: float) -> float:
    """ε between N(0, 1/size) and the normal distribution fitted to the cosines."""
    null = 1 / math.sqrt(size)
    # Cosines that are all the same have no spread to fit; a spread of nothing would make any ε.
    mean, spread = float(observed.mean()), max(float(observed.std(ddof=min(1, observed.size - 1))), 1e-3 * null)
    return max(
        _largest(lambda e: normal_delta(0, null, mean, spread, e) > delta),
        _largest(lambda e: normal_delta(mean, spread, 0, null, e) > delta),
    )


def _between(low: float, high: float) -> float:
    """log P(low < N(0, 1) < high), also far out in a tail."""
    if low > 0:
        low, high = -high, -low
    upper, lower = float(log_ndtr(high)), float(log_ndtr(low))
    return upper + math.log1p(-math.exp(lower - upper)) if upper > lower else -math.inf


@lru_cache(64)
def _refuted(m: int, r: int, v: int, delta: float, confidence: float) -> float:
    """The largest ε at which v or more of r right guesses are less likely than 1 − ``confidence``.

    ``stats.binom`` would count the ways to be right anew at each of the forty ε that are tried.
    """
    counts = np.arange(v - 1, -1, -1, dtype=np.float64)
    ways = gammaln(r + 1) - gammaln(counts + 1) - gammaln(r - counts + 1)

    def chance(epsilon: float) -> float:
        """How likely v or more are right under (ε, δ)-DP, at most."""
        log_right, log_wrong = -math.log1p(math.exp(-epsilon)), -epsilon - math.log1p(math.exp(-epsilon))
        beyond = float(bdtrc(v - 1, r, math.exp(log_right))) if v else 1.0
        if v == 0 or delta == 0:
            return min(beyond, 1.0)
        below = np.cumsum(np.exp(ways + counts * log_right + (r - counts) * log_wrong)) / np.arange(1, v + 1)
        return min(beyond + 2 * m * delta * float(below.max()), 1.0)

    return _largest(lambda e: chance(e) <= 1 - confidence)


def _largest(refuted: Callable[[float], bool]) -> float:
    """The largest ε (0-100) that is refuted, by bisection: whatever is below a refuted one is refuted, too."""
    low, high = 0.0, EPSILON_MAX
    if not refuted(low):
        return 0.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low
