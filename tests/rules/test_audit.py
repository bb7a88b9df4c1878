"""Audits: the published check values, an audit of our own noise and of a broken one, and intervals that cover."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from evergrove.core.errors import UsageError
from evergrove.rules.audit import canary_estimate, cosines, membership, normal_delta, one_run_bound
from evergrove.rules.privacy.accounting import calibrate, gaussian_delta, gaussian_epsilon

DELTA = 1e-6


@pytest.mark.parametrize(
    ("m", "r", "v", "epsilon"), [(1000, 100, 100, 3.4902), (1000, 100, 90, 1.6304), (200, 200, 120, 0.1590)]
)
def test_check_values_of_steinke_et_al(m: int, r: int, v: int, epsilon: float) -> None:
    """ANCHORS.md: what was right of how many guesses, and the ε that it shows."""
    assert one_run_bound(m, r, v, DELTA).bound == pytest.approx(epsilon, abs=5e-5)


def test_pure_dp_by_hand() -> None:
    """δ = 0, all r right: (e^ε/(1 + e^ε))^r = .05. No better than a coin: nothing is shown."""
    p = 0.05 ** (1 / 20)
    assert one_run_bound(20, 20, 20, 0.0).bound == pytest.approx(math.log(p / (1 - p)), abs=1e-6)
    assert one_run_bound(100, 100, 50, DELTA).bound == 0.0
    assert one_run_bound(100, 100, 0, DELTA).bound == 0.0


def test_the_ceiling_is_what_every_guess_right_would_show() -> None:
    """200 canaries can never show more than 4.19; no number of guesses shows more than all of them."""
    found = one_run_bound(200, 200, 120, DELTA)
    assert found.ceiling == pytest.approx(4.1931, abs=1e-4)
    assert all(one_run_bound(200, r, r, DELTA).bound <= found.ceiling for r in range(1, 201, 20))
    assert found.refutes(0.1)
    assert not found.refutes(0.2)


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 300), st.data())
def test_the_bound_grows_with_what_was_right_and_falls_with_delta(m: int, data: st.DataObject) -> None:
    """One more right shows no less; a larger δ explains more; more confidence shows less; the ceiling holds."""
    r = data.draw(st.integers(1, m))
    v = data.draw(st.integers(0, r - 1))
    here = one_run_bound(m, r, v, DELTA)
    assert one_run_bound(m, r, v + 1, DELTA).bound >= here.bound
    assert one_run_bound(m, r, v, 1e-3).bound <= here.bound
    assert one_run_bound(m, r, v, DELTA, confidence=0.99).bound <= here.bound
    assert here.bound <= here.ceiling


def audited(multiplier: float, seed: int, m: int = 600, r: int = 120) -> float:
    """One run: m canary updates, each a direction of its own, in or out by a coin; the r clearest guessed."""
    rng = np.random.default_rng(seed)
    present = rng.random(m) < 0.5
    released = np.where(present, 1.0, 0.0) + multiplier * rng.standard_normal(m)
    score = released - 0.5
    order = np.argsort(score)
    guesses = np.concatenate([order[: r // 2], order[-(r // 2) :]])
    correct = int(((score[guesses] > 0) == present[guesses]).sum())
    return one_run_bound(m, r, correct, DELTA).bound


def test_our_noise_is_not_refuted_and_a_forgotten_one_is() -> None:
    """Gaussian noise for ε = 4: twenty audits, at 95 % each, refute it at most thrice. A tenth of it is refuted."""
    z = calibrate(4.0, DELTA)
    assert sum(audited(z, seed) > 4.0 for seed in range(20)) <= 3
    assert audited(z, 0) > 0.2  # it is an attack that sees something
    assert all(one > 4.0 for one in (audited(z / 10, seed, m=2000, r=2000) for seed in range(3)))


@pytest.mark.parametrize(("m", "r", "v"), [(0, 0, 0), (10, 11, 5), (10, 5, 6), (10, 5, -1), (10, 0, 0)])
def test_counts_that_cannot_be(m: int, r: int, v: int) -> None:
    """More right than guessed, more guessed than there were."""
    with pytest.raises(UsageError, match="that cannot be"):
        one_run_bound(m, r, v, DELTA)
    with pytest.raises(UsageError, match="confidence"):
        one_run_bound(10, 5, 5, DELTA, confidence=1.0)


# ---- canaries --------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.floats(-3, 3), st.floats(0.3, 3), st.floats(-3, 3), st.floats(0.3, 3), st.floats(0, 4))
def test_delta_of_two_normals_is_the_integral(a: float, s: float, b: float, t: float, epsilon: float) -> None:
    """Against numerical integration of (p − e^ε q)₊."""
    x = np.linspace(a - 12 * s, a + 12 * s, 40_001)
    gap = stats.norm.pdf(x, a, s) - math.exp(epsilon) * stats.norm.pdf(x, b, t)
    assert normal_delta(a, s, b, t, epsilon) == pytest.approx(integrate.trapezoid(np.maximum(gap, 0), x), abs=2e-5)


@pytest.mark.parametrize(("z", "epsilon"), [(1.0, 1.0), (1.0, 4.0), (0.3, 10.0), (4.2, 1.0)])
def test_equal_spreads_are_the_gaussian_mechanism(z: float, epsilon: float) -> None:
    """In both directions."""
    assert normal_delta(0, z, 1, z, epsilon) == pytest.approx(gaussian_delta(z, epsilon), rel=1e-9)
    assert normal_delta(1, z, 0, z, epsilon) == pytest.approx(gaussian_delta(z, epsilon), rel=1e-9)


@pytest.mark.parametrize(("z", "delta"), [(1.0, DELTA), (2.0, 1e-3)])
def test_the_estimate_is_near_the_truth_for_one_release(z: float, delta: float) -> None:
    """600 canaries of norm 1 in one sum of 10 000 numbers with noise z: ε(z), to three of its standard errors."""
    rng, n, size = np.random.default_rng(3), 600, 10_000
    canaries = rng.standard_normal((n, size))
    canaries /= np.linalg.norm(canaries, axis=1, keepdims=True)
    released = canaries.sum(axis=0) + z * rng.standard_normal(size)
    found = canary_estimate(cosines(released, canaries), size, delta)
    assert found.n == n
    assert abs(found.epsilon - gaussian_epsilon(z, delta)) < 3 * found.error < found.epsilon
    others = canary_estimate(cosines(released, rng.standard_normal((n, size))), size, delta)
    assert others.epsilon < 3 * others.error


def test_cosines_by_hand_and_nonsense() -> None:
    """(1, 1) and (0, 1) have a cosine of √½; a zero has none, that is 0; one cosine makes no estimate."""
    assert cosines(np.array([1.0, 1.0]), np.array([[0.0, 1.0], [0.0, 0.0]])) == pytest.approx([math.sqrt(0.5), 0])
    with pytest.raises(UsageError, match="it takes two"):
        canary_estimate(np.array([0.5]), 10, DELTA)
    assert canary_estimate(np.full(5, 0.9), 10_000, DELTA).epsilon > 50  # no spread, far from chance: everything leaks


# ---- membership ------------------------------------------------------------------------------------------------------


def test_membership_by_hand() -> None:
    """200 others at 1 … 200: two may be accused, so the threshold is 3. Of 10 members at .5 … 9.5 three are below."""
    found = membership(np.arange(10) + 0.5, np.arange(1.0, 201))
    assert (found.tpr, found.fpr) == (0.3, 0.01)
    assert (found.low, found.high) == pytest.approx((0.0667, 0.6525), abs=1e-4)  # printed tables: 3 of 10 at 95 %


def test_ties_accuse_nobody_and_the_ends_of_the_interval() -> None:
    """Equal losses tell nothing apart; none and all recognised have an end at 0 and 1."""
    none = membership(np.zeros(10), np.zeros(200))
    assert (none.tpr, none.low, none.fpr) == (0.0, 0.0, 0.0)
    assert none.high == pytest.approx(1 - 0.025**0.1)
    every = membership(np.full(10, -1.0), np.zeros(200))
    assert (every.tpr, every.high) == (1.0, 1.0)
    assert every.low == pytest.approx(0.025**0.1)


@settings(max_examples=60, deadline=None)
@given(st.integers(100, 400), st.integers(1, 50), st.integers(0, 3), st.integers(0, 9999))
def test_no_more_than_one_percent_of_others_is_accused(n: int, m: int, digits: int, seed: int) -> None:
    """With many ties (0 digits) or few; and the interval holds the rate."""
    rng = np.random.default_rng(seed)
    found = membership(rng.standard_normal(m).round(digits), rng.standard_normal(n).round(digits))
    assert found.fpr <= 0.01
    assert found.low <= found.tpr <= found.high


def test_the_interval_covers_the_true_rate() -> None:
    """An attack of known strength, 300 times: the interval holds the truth in 95 % of them or more."""
    rng, held = np.random.default_rng(0), 0
    truth = stats.norm.cdf(stats.norm.ppf(0.01) + 1.5)
    others = stats.norm.ppf((np.arange(10_000) + 0.5) / 10_000)  # a threshold without luck
    for _ in range(300):
        found = membership(rng.standard_normal(60) - 1.5, others)
        held += found.low <= truth <= found.high
    assert held >= 0.94 * 300


def test_too_few_others() -> None:
    """Ninety-nine cannot show one in a hundred."""
    with pytest.raises(UsageError, match="100 are needed"):
        membership(np.zeros(5), np.zeros(99))
    with pytest.raises(UsageError, match="finite"):
        membership(np.array([np.nan]), np.zeros(100))
    with pytest.raises(UsageError, match="between 0 and 1"):
        membership(np.zeros(5), np.zeros(100), fpr_most=0.0)
