"""The gate's error rates by simulation, on ONE FIXED golden set per trial, and that a broken gate fails the same test.

Each trial draws a golden set once: every item has an effect of its own that all candidates share (half of the
variance), and each candidate adds its own. So the looks of a trial are dependent, as on a device. Paired differences
have the deviation 2δ. With 150 items a condition (DESIGN §5) the gate holds both of its promises; the last test states
what fewer items cost. Seeds are fixed; margins are exact (Clopper-Pearson) bounds at 99 %.
"""

from dataclasses import dataclass

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from evergrove.core.measures import Comparison
from evergrove.rules.gate import Policy, Question, State, bound_on_harm, examine, judge, questions
from evergrove.rules.student import quantile

POLICY = Policy(delta=0.05, cumulative=0.10, tau=0.10, own=0.25)
N_ITEMS = 150
STD = 2 * POLICY.delta
UPDATES = POLICY.updates_max


def at_least(hits: int, trials: int) -> float:
    """The rate that lies below the true one with 99 % confidence."""
    return float(stats.beta.ppf(0.01, hits, trials - hits + 1)) if hits else 0.0


def at_most(hits: int, trials: int) -> float:
    """The rate that lies above the true one with 99 % confidence."""
    return float(stats.beta.ppf(0.99, hits + 1, trials - hits)) if hits < trials else 1.0


@dataclass(frozen=True)
class Looks:
    """Means and deviations (trials, looks) of paired differences on one golden set per trial."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    def bounds(self, alpha: float, n: int = N_ITEMS) -> NDArray[np.float64]:
        """The gate's upper bounds on harm."""
        return self.mean + quantile(alpha, n - 1) * self.std / np.sqrt(n)


def looks_at(harm: NDArray[np.float64], trials: int, seed: int, n: int = N_ITEMS, shared: float = 0.5) -> Looks:
    """Looks at candidates of these true harms (looks,); ``shared`` of the variance are the items' fixed effects."""
    rng = np.random.default_rng(seed)
    fixed = rng.standard_normal((trials, n), np.float32) * np.float32(STD * np.sqrt(shared))
    own = np.float32(STD * np.sqrt(1 - shared))
    mean, std = np.empty((trials, len(harm))), np.empty((trials, len(harm)))
    for k, h in enumerate(harm):
        differences = np.float32(h) + fixed + rng.standard_normal((trials, n), np.float32) * own
        mean[:, k], std[:, k] = differences.mean(1), differences.std(1, ddof=1)
    return Looks(mean, std)


@pytest.fixture(scope="module")
def harmful() -> Looks:
    """Candidates with harm of exactly δ at every look of 200 updates, rescaled ones no better: the worst case."""
    return looks_at(np.full(POLICY.looks_max, POLICY.delta), trials=1000, seed=1)


def test_family_false_accept_at_harm_delta(harmful: Looks) -> None:
    """In 600 looks at harm exactly δ a set lets one through in at most 5 % of all cases."""
    let_through = (harmful.bounds(POLICY.alpha_look) <= POLICY.delta).any(1)
    assert at_most(int(let_through.sum()), len(let_through)) <= POLICY.alpha


def test_without_spending_alpha_it_would_not_hold(harmful: Looks) -> None:
    """A broken gate, which tests every look at .05, fails the very same simulation."""
    let_through = (harmful.bounds(POLICY.alpha) <= POLICY.delta).any(1)
    assert at_least(int(let_through.sum()), len(let_through)) > 5 * POLICY.alpha


def test_the_bound_is_nearly_used_up_by_independent_looks() -> None:
    """Without shared effects the family error is near .05, and a gate that forgets to count rescaled looks is caught.

    Means and deviations are drawn directly here: they are independent for normal differences.
    """
    rng = np.random.default_rng(2)
    shape, n = (8_000, POLICY.looks_max), N_ITEMS
    mean = rng.standard_normal(shape, np.float32) * (STD / np.sqrt(n)) + POLICY.delta
    std = STD * np.sqrt(2 * rng.standard_gamma((n - 1) / 2, shape, np.float32) / (n - 1))
    rate = (mean + quantile(POLICY.alpha_look, n - 1) * std / np.sqrt(n) <= POLICY.delta).any(1).mean()
    assert 0.04 < rate < 0.055
    forgetful = quantile(POLICY.alpha / POLICY.updates_max, n - 1)  # rescaled looks not counted
    assert (mean + forgetful * std / np.sqrt(n) <= POLICY.delta).any(1).mean() > 0.1


def test_power_at_zero_harm() -> None:
    """Six conditions, incumbent and release, no harm: at least 90 % of the updates pass, the last as the first."""
    trials, n_conditions = 6000, 6
    passed = np.ones(trials, bool)
    for condition in range(n_conditions):
        look = looks_at(np.zeros(1), trials, seed=10 + condition)
        passed &= look.bounds(POLICY.alpha_look)[:, 0] <= POLICY.delta  # Δ = 2δ on the same items then holds a fortiori
    assert at_least(int(passed.sum()), trials) >= 0.9


def test_fifty_small_harms_in_a_row_are_caught() -> None:
    """Each update harms by δ/5, too little for the incumbent's margin; the cumulative margin stops the ratchet.

    Harm that was accepted adds up, so the truth after k acceptances is k·δ/5, and Δ is reached after ten.
    """
    trials, step = 300, POLICY.delta / 5
    with_cumulative = _ratchet(trials, step, cumulative=True)
    assert with_cumulative.max() <= POLICY.cumulative + 1e-9
    assert np.median(with_cumulative) > 0  # not by refusing everything
    without = _ratchet(trials, step, cumulative=False)
    assert np.median(without) > 2 * POLICY.cumulative


def _ratchet(trials: int, step: float, *, cumulative: bool) -> NDArray[np.float64]:
    """The true harm that has piled up on each of ``trials`` fixed sets after 50 updates of ``step`` harm each."""
    rng = np.random.default_rng(3)
    n, harm = N_ITEMS, np.zeros(trials)
    incumbent = np.zeros((trials, n))
    t = quantile(POLICY.alpha_look, n - 1) / np.sqrt(n)
    for _ in range(50):
        # Small updates differ little from the incumbent: their paired deviation is a fifth of 2δ.
        change = step + rng.normal(0, STD / 5, (trials, n))
        candidate = incumbent + change
        accepted = change.mean(1) + t * change.std(1, ddof=1) <= POLICY.delta
        if cumulative:
            accepted &= candidate.mean(1) + t * candidate.std(1, ddof=1) <= POLICY.cumulative
        incumbent[accepted] = candidate[accepted]
        harm[accepted] += step
    return harm


def test_judge_is_the_rule_that_was_simulated() -> None:
    """``judge`` itself on 200 updates of one fixed set: the same decisions as the arrays, and α booked per look."""
    known = [(1,), (2,)]
    expected = questions(known, [], [(7,)], teacher=False)
    rng = np.random.default_rng(4)
    fixed = rng.normal(0, STD * 0.7, (2, N_ITEMS))
    state, decisions, bounds = State(), [], []
    for _ in range(UPDATES):
        harm = rng.uniform(-0.01, POLICY.delta)
        differences = harm + fixed + rng.normal(0, STD * 0.7, (2, N_ITEMS))
        mean, std = differences.mean(1), differences.std(1, ddof=1)
        comparisons = [
            Comparison(q.kind, q.condition, N_ITEMS, float(mean[q.condition[0] - 1]), float(std[q.condition[0] - 1]))
            for q in expected
            if q.kind != "gain"
        ]
        comparisons.append(Comparison("gain", (7,), 12, -0.4, 0.1))
        state, verdict = judge(state, POLICY, comparisons, expected, 1.0)
        decisions.append(verdict.outcome == "accept")
        bounds.append(
            max(bound_on_harm(float(m), float(s), N_ITEMS, POLICY.alpha_look) for m, s in zip(mean, std, strict=True))
        )
    assert decisions == [b <= POLICY.delta for b in bounds]
    assert 0 < sum(decisions) < UPDATES
    assert state == State(n_updates=UPDATES, n_looks=UPDATES)
    assert judge(state, POLICY, [], expected, 1.0)[1].outcome == "refresh"


def test_how_many_items_it_takes() -> None:
    """Items a condition for power .9 over six conditions at zero harm, by the deviation of the paired differences.

    Exact for normal differences (noncentral t): 146 where the deviation is 2δ, 42 where it is δ, 16 where it is δ/2.
    """

    def needed(std_in_deltas: float, power: float) -> int:
        for n in range(5, 2000):
            noncentral = np.sqrt(n) / std_in_deltas
            if stats.nct.sf(quantile(POLICY.alpha_look, n - 1), n - 1, noncentral) >= power:
                return n
        raise AssertionError

    counts = {std: needed(std, 0.9 ** (1 / 6)) for std in (0.5, 1.0, 2.0)}
    assert counts == ITEMS_NEEDED
    assert counts[2.0] <= N_ITEMS


ITEMS_NEEDED = {0.5: 16, 1.0: 42, 2.0: 146}


def test_harm_in_a_few_items_does_not_slip_through() -> None:
    """Exponential differences at exactly δ and .001 a look: the gate holds its level; told no skew, it errs thrice."""
    alpha, trials, sad = 1e-3, 40_000, (3, 0)
    policy = msgspec.structs.replace(POLICY, alpha=alpha * POLICY.looks_max)
    d = POLICY.delta + STD * (np.random.default_rng(6).exponential(1.0, (trials, N_ITEMS)) - 1)
    mean, std = d.mean(1), d.std(1, ddof=1)
    skew = ((d - mean[:, None]) ** 3).mean(1) / d.std(1) ** 3
    asked = [Question("incumbent", sad)]

    def accepted(skews: NDArray[np.float64]) -> int:
        rows = zip(mean.tolist(), std.tolist(), skews.tolist(), strict=True)
        return sum(not examine(policy, [Comparison("incumbent", sad, N_ITEMS, *row)], asked) for row in rows)

    assert at_least(accepted(np.zeros(trials)), trials) > 3 * alpha
    assert at_most(accepted(skew), trials) < 2 * alpha


def test_of_few_items_the_skew_is_not_known() -> None:
    """Eleven items all alike and one outlier: a device's own condition is judged as it was, by mean and deviation."""
    few = Comparison("incumbent", (7, 0), 12, 0.0, 0.05, 3.0)
    asked = [Question("incumbent", (7, 0), own=True)]
    plain = msgspec.structs.replace(few, skew=0.0)
    assert examine(POLICY, [few], asked) == examine(POLICY, [plain], asked)


def test_gain_level_is_not_part_of_the_family() -> None:
    """Without any gain the gain test passes in 5 % of all looks: it is no guard, and is documented as none."""
    rng = np.random.default_rng(5)
    d = rng.normal(0, 0.1, (20_000, 12))
    bounds = d.mean(1) + quantile(POLICY.alpha_gain, 11) * d.std(1, ddof=1) / np.sqrt(12)
    assert 0.045 < (bounds < 0).mean() < 0.055
    assert msgspec.structs.replace(POLICY, alpha_gain=0.01).alpha_look == POLICY.alpha_look
