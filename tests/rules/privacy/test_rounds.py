"""One round as one step; and every condition of the proof that DESIGN §7 lists, each refused where it is broken."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from noise_plans import PLAN, plan

from evergrove.core.errors import BudgetSpent, CorruptState, UsageError
from evergrove.rules.aggregate import CohortSum, combine, quantum, total
from evergrove.rules.privacy import ledger, noise
from evergrove.rules.privacy.accounting import mu_squared_within
from evergrove.rules.privacy.ledger import Budget, Ledger
from evergrove.rules.privacy.plan import NoisePlan
from evergrove.rules.privacy.rounds import close, handed_up, row_std

FREE = Budget(generation=None, lifetime=None)


def begun(one: NoisePlan = PLAN, budget: Budget = FREE) -> tuple[noise.NoiseState, Ledger]:
    """State and ledger before the first round."""
    return noise.start(one), ledger.open_stream(Ledger(budget), one)


def cohort(seed: int, one: NoisePlan = PLAN, n: int = 5) -> CohortSum:
    """A sum of ``n`` updates of any norm."""
    return total(np.random.default_rng(seed).standard_normal((n, one.size)), one.size, one.clip)


def test_a_stream_is_the_sums_plus_the_correlated_noise() -> None:
    """Twelve rounds: what is handed up differs from the sums by σ·C⁻¹Z, to half a step of the grid; the counts of norms
    go through the same stream, on whole numbers.
    """
    state, book = begun()
    fresh = np.random.default_rng(5).standard_normal((12, PLAN.width))
    handed, sums, counted, counts = [], [], [], []
    for i in range(12):
        closed = close(PLAN, cohort(i), state, book, fresh[i])
        handed.append(closed.values)
        sums.append(cohort(i).values)
        counted.append(closed.counts)
        counts.append(cohort(i).counts)
        state, book = closed.state, closed.ledger
    C = np.array([[PLAN.blt.coefficients(12)[i - j] if i >= j else 0.0 for j in range(12)] for i in range(12)])
    rows = np.linalg.solve(C, fresh)
    expected = PLAN.noise_std * rows[:, :6]
    assert np.abs(np.array(handed) - np.array(sums) - expected).max() <= 0.51 * quantum(PLAN.clip)
    assert PLAN.noise_std == pytest.approx(20 * PLAN.sensitivity() * 0.75)
    assert np.abs(np.array(counted) - np.array(counts) - PLAN.quantile_std * rows[:, 6:]).max() <= 0.5 + 1e-9
    assert PLAN.quantile_std == pytest.approx(90 * PLAN.sensitivity())
    assert np.sum(counts) == 12 * 5, "each of 60 updates is in one count"
    with pytest.raises(BudgetSpent, match="begin a new generation"):
        close(PLAN, cohort(12), state, book, fresh[0])


def test_what_is_handed_up_lies_on_the_grid() -> None:
    """Sum and noise are added as whole numbers: no low bit of a float tells one from the other (Mironov 2012)."""
    closed = close(PLAN, cohort(1), *begun(), np.random.default_rng(0).standard_normal(PLAN.width))
    steps = closed.values / quantum(PLAN.clip)
    assert np.array_equal(steps, np.rint(steps))


def test_without_noise_the_sum_is_exact_and_epsilon_infinite() -> None:
    """The small fleet: the noise is off, the books are kept all the same."""
    off = plan(multiplier=None, quantile_multiplier=None)
    closed = close(off, cohort(1, off), *begun(off), None)
    assert np.array_equal(closed.values, cohort(1, off).values)
    assert closed.state.round == 1
    assert closed.ledger.epsilon_lifetime() == float("inf")
    assert closed.counts == cohort(1, off).counts
    assert row_std(off, 0) == 0


def test_a_withheld_cohort_is_closed_empty() -> None:
    """A round that is thrown away still is a round: b and k count it."""
    closed = close(PLAN, total([], 6, PLAN.clip), *begun(), np.ones(PLAN.width))
    assert closed.state.round == 1
    assert closed.ledger.find(3, "north") == ledger.Spent(PLAN, 1)


# ---- the conditions of the proof -------------------------------------------------------------------------------------


def test_one_round_has_one_noise() -> None:
    """The step is a function: again with the same arguments it gives the same bytes; after it, it is refused."""
    state, book = begun()
    fresh = np.random.default_rng(2).standard_normal(PLAN.width)
    first, again = (close(PLAN, cohort(1), state, book, fresh) for _ in range(2))
    assert first.values.tobytes() == again.values.tobytes()
    assert (first.state, first.ledger) == (again.state, again.ledger)
    with pytest.raises(CorruptState, match="one of them was restored alone"):
        close(PLAN, cohort(1), state, first.ledger, fresh)  # the ledger was committed, the noise was not
    with pytest.raises(CorruptState, match="one of them was restored alone"):
        close(PLAN, cohort(1), first.state, book, fresh)  # the noise was, the ledger was not


def test_the_clip_is_constant_in_a_generation() -> None:
    """A cohort clipped otherwise, or a plan with another clip, is not of this stream."""
    state, book = begun()
    with pytest.raises(UsageError, match="for the whole generation"):
        close(PLAN, cohort(1, plan(clip=0.7)), state, book, np.zeros(PLAN.width))
    with pytest.raises(UsageError, match="no stream under this plan"):
        close(plan(clip=0.7), cohort(1, plan(clip=0.7)), state, book, np.zeros(PLAN.width))


def test_the_denominator_is_public_and_fixed_and_weights_are_uniform() -> None:
    """Two of five came: the mean is a fifth of their sum. Six of five, and a cohort of another size, are refused."""
    off = plan(multiplier=None, quantile_multiplier=None)
    two = total([np.full(6, 0.1), np.full(6, 0.2)], 6, off.clip)
    closed = close(off, two, *begun(off), None)
    assert combine([handed_up(off, 0, closed.values)]).values == pytest.approx(np.full(6, 0.3 / 5))
    with pytest.raises(UsageError, match="public denominator is 5"):
        close(PLAN, cohort(1, n=6), *begun(), np.zeros(PLAN.width))
    with pytest.raises(UsageError, match="7 numbers"):
        close(PLAN, cohort(1, plan(size=7)), *begun(), np.zeros(PLAN.width))


def test_no_update_counts_more_than_the_clip() -> None:
    """What one device can move in a sum is C, however large its update is: the sensitivity of the proof."""
    rest = np.random.default_rng(3).standard_normal((4, 6)).astype(np.float32)
    huge = np.full((1, 6), 1e30, np.float32)
    moved = total([*rest, *huge], 6, PLAN.clip).values - total(rest, 6, PLAN.clip).values
    assert 0.999 * PLAN.clip < np.linalg.norm(moved) <= PLAN.clip


def test_the_budget_is_asked_before_anything_is_made() -> None:
    """A refused round has no noise, no sum and no entry."""
    tight = Budget(generation=0.1, lifetime=None)
    state, book = begun(PLAN, tight)
    while (charged := book.find(3, "north")) is not None and PLAN.mu_squared(charged.rounds + 1) < (
        mu_squared_within(0.1, 1e-6)
    ):
        closed = close(PLAN, cohort(state.round), state, book, np.ones(PLAN.width))
        state, book = closed.state, closed.ledger
    assert 0 < state.round < 12
    with pytest.raises(BudgetSpent):
        close(PLAN, cohort(state.round), state, book, np.ones(PLAN.width))


def test_noise_is_given_exactly_where_the_plan_has_it() -> None:
    """A plan with noise is never closed without, and none is thrown in where nothing is claimed."""
    with pytest.raises(UsageError, match="exactly where"):
        close(PLAN, cohort(1), *begun(), None)
    off = plan(multiplier=None, quantile_multiplier=None)
    with pytest.raises(UsageError, match="exactly where"):
        close(off, cohort(1, off), *begun(off), np.zeros(PLAN.width))


def test_noise_that_64_bits_cannot_hold_is_refused() -> None:
    """It would wrap around, and be no noise."""
    loud = plan(multiplier=1e6, rounds=1000, participations=1000, separation=1)
    with pytest.raises(UsageError, match="no plan that makes sense"):
        close(loud, cohort(1, loud), *begun(loud), np.full(loud.width, 1e6))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["close", "crash", "lost state", "lost ledger"]), max_size=25), st.integers(0, 99))
def test_crashes_never_make_a_second_noise_of_a_round(acts: list[str], seed: int) -> None:
    """A store that commits the three together, one that crashes before it does, and one that loses a half: each round
    that anybody saw was made once.
    """
    rng = np.random.default_rng(seed)
    state, book = begun()
    older, seen = (state, book), {}
    for act in acts:
        try:
            closed = close(PLAN, cohort(state.round), state, book, rng.standard_normal(PLAN.width))
        except BudgetSpent:
            break
        except CorruptState:
            state, book = older  # an operator restores both halves; what was handed up is sent again, not made anew
            break
        if act == "crash":
            continue  # nothing committed, nothing handed over
        older = (closed.state, closed.ledger)
        assert state.round not in seen
        seen[state.round] = closed.values.tobytes()
        state = closed.state if act != "lost state" else state
        book = closed.ledger if act != "lost ledger" else book
    found = older[1].find(3, "north")
    assert found is not None
    assert found.rounds == len(seen)


def test_row_std_is_the_spread_of_a_row() -> None:
    """What the cloud's norm check counts on: ‖row of C⁻¹‖·σ."""
    one = plan(size=20000, rounds=5)
    rng, (state, book) = np.random.default_rng(0), begun(one)
    for i in range(3):
        closed = close(one, total([], one.size, one.clip), state, book, rng.standard_normal(one.width))
        assert closed.values.std() == pytest.approx(row_std(one, i), rel=0.03)
        state, book = closed.state, closed.ledger
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=noise.NoiseState) == state
