"""The ledger: budgets that hold, whatever is asked of it; what it never does is count too little."""

import math
from contextlib import suppress
from itertools import combinations, pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from noise_plans import PLAN, plan
from scipy.linalg import toeplitz

from evergrove.core.errors import BudgetSpent, CorruptState, EvergroveError, UsageError
from evergrove.rules.privacy import accounting, ledger
from evergrove.rules.privacy.accounting import calibrate, epsilon, epsilon_of, split
from evergrove.rules.privacy.ledger import Budget, Ledger, Spent
from evergrove.rules.privacy.plan import NoisePlan

FREE = Budget(generation=None, lifetime=None)


def released(one: NoisePlan, n: int, budget: Budget = FREE) -> Ledger:
    """A ledger with ``n`` rounds of one stream."""
    return spend(Ledger(budget), one, n)


def spend(book: Ledger, one: NoisePlan, n: int) -> Ledger:
    """The first ``n`` rounds of one more stream."""
    book = ledger.open_stream(book, one)
    for i in range(n):
        book = ledger.charge_round(book, one.generation, one.fog, i)
    return book


def as_far_as_it_goes(one: NoisePlan, budget: Budget) -> tuple[Ledger, int]:
    """A stream until the ledger refuses, and how many rounds that was."""
    book = ledger.open_stream(Ledger(budget), one)
    for i in range(one.rounds + 1):
        try:
            book = ledger.charge_round(book, one.generation, one.fog, i)
        except BudgetSpent:
            return book, i
    raise AssertionError("nothing was refused")


def test_one_round_by_hand() -> None:
    """C = 1, b = 1, k = 4, n = 4, z = 2: after one round μ = 1/(2·√4), so ε is that of z = 4; after four, of z = 2."""
    one = plan(blt=type(PLAN.blt)(), rounds=4, separation=1, participations=4, multiplier=2.0, quantile_multiplier=None)
    assert released(one, 1).epsilon_generation(3) == pytest.approx(epsilon(4.0, 1e-6))
    assert released(one, 4).epsilon_generation(3) == pytest.approx(epsilon(2.0, 1e-6))


def test_a_stream_made_for_the_budget_ends_exactly_with_it() -> None:
    """Calibrated to ε = 1, all its rounds with their counts of norms fit, and nothing after them."""
    z, counts = split(1.0, 1e-6)
    book = released(plan(multiplier=z, quantile_multiplier=counts), 12, Budget(generation=1.0))
    assert 1 - 1e-5 < book.epsilon_generation(3) <= 1.0
    with pytest.raises(BudgetSpent, match="has released the 12 rounds"):
        ledger.charge_round(book, 3, "north", 12)
    assert BudgetSpent.exit_code == 6


def test_a_round_past_the_generations_budget_is_refused_and_nothing_changes() -> None:
    """Noise for ε = 2 under a budget of 1: the stream stops where the spent part of μ² would pass it."""
    one = plan(multiplier=calibrate(2.0, 1e-6), quantile_multiplier=None)
    book, done = as_far_as_it_goes(one, Budget(generation=1.0))
    assert 0 < done < 12
    with pytest.raises(BudgetSpent, match=r"generation 3 to ε = .* budget is 1 .*nothing was released"):
        ledger.charge_round(book, 3, "north", done)
    assert book.epsilon_generation(3) <= 1.0 < epsilon_of(one.mu_squared(done + 1), 1e-6)
    found = book.find(3, "north")
    assert found is not None
    assert found.rounds == done


def test_a_lifetime_adds_generations_up_and_takes_the_worst_fog_of_each() -> None:
    """Generations of ε = 1: a lifetime of 2 has room for three (Σ μ² grows as ε², about) and refuses a fourth."""
    z, budget = calibrate(1.0, 1e-6), Budget(generation=1.0, lifetime=2.0)
    book, one = Ledger(budget), plan(multiplier=z, quantile_multiplier=None)
    room = int(accounting.mu_squared_within(2.0, 1e-6) * z**2)
    assert room == 3
    for generation in range(room):
        for fog in ("north", "south"):
            book = spend(book, msgspec.structs.replace(one, generation=generation, fog=fog), 12)
    assert 1.5 < book.epsilon_lifetime() <= 2.0
    with pytest.raises(BudgetSpent, match="the lifetime of a device"):
        spend(book, msgspec.structs.replace(one, generation=room), 12)


def test_counts_of_norms_cost_what_they_add() -> None:
    """By hand: z = 20 and z_q = 90 after all rounds, μ² = 1/400 + 1/8100. Noise made for the sums alone does not pay
    for the counts as well: the last rounds are refused.
    """
    assert released(PLAN, 12).epsilon_generation(3) == pytest.approx(epsilon_of(1 / 400 + 1 / 8100, 1e-6))
    both, _ = as_far_as_it_goes(plan(multiplier=calibrate(1.0, 1e-6), quantile_multiplier=9.0), Budget(generation=1.0))
    found = both.find(3, "north")
    assert found is not None
    assert 0 < found.rounds < 12
    assert both.epsilon_generation(3) <= 1.0


def test_without_noise_epsilon_is_infinite_and_a_budget_refuses_it() -> None:
    """Noise off is possible only where nothing is claimed."""
    off = plan(multiplier=None, quantile_multiplier=None)
    book = released(off, 1)
    assert book.epsilon_generation(3) == book.epsilon_lifetime() == math.inf
    for budget in (Budget(lifetime=None), Budget(generation=None)):
        with pytest.raises(BudgetSpent, match="ε = inf"):
            ledger.open_stream(Ledger(budget), off)
    assert ledger.decode(ledger.encode(book)) == book


def test_the_ledger_for_people() -> None:
    """A line a stream: its own ε, and the lifetime's so far; what has no noise is infinite, written None."""
    book = spend(released(PLAN, 12), plan(generation=4, fog="south", quantile_multiplier=None), 3)
    first, second = ledger.lines(book)
    assert (first.rounds, first.rounds_most, second.rounds, second.fog) == (12, 12, 3, "south")
    assert first.epsilon == first.epsilon_lifetime == pytest.approx(epsilon_of(20.0**-2 + 90.0**-2, 1e-6))
    assert second.epsilon == pytest.approx(book.epsilon_generation(4))
    assert second.epsilon_lifetime == pytest.approx(book.epsilon_lifetime())
    (off,) = ledger.lines(released(plan(multiplier=None, quantile_multiplier=None), 1))
    assert off.epsilon is off.epsilon_lifetime is None


def test_rounds_come_in_order_and_once() -> None:
    """The same round twice: two noises of one sum. A gap: b and k would count other rounds than the noise does."""
    book = released(PLAN, 3)
    with pytest.raises(UsageError, match="charged already: send its bytes again"):
        ledger.charge_round(book, 3, "north", 2)
    with pytest.raises(UsageError, match="comes after round 3"):
        ledger.charge_round(book, 3, "north", 4)
    with pytest.raises(UsageError, match="open it first"):
        ledger.charge_round(book, 3, "south", 0)


def test_a_cloud_charges_what_it_is_handed_and_all_that_was_withheld() -> None:
    """Rounds 0 and 4 arrive, 4 twice: five rounds are spent. One past the budget is refused by the cloud, too."""
    book = ledger.open_stream(Ledger(FREE), PLAN)
    for round_ in (0, 4, 4, 2):
        book = ledger.charge_through(book, 3, "north", round_)
    assert book == released(PLAN, 5)
    tight = ledger.open_stream(Ledger(Budget(generation=1.0)), plan(multiplier=calibrate(2.0, 1e-6)))
    with pytest.raises(BudgetSpent, match="generation 3 to ε"):
        ledger.charge_through(tight, 3, "north", 11)
    with pytest.raises(BudgetSpent, match="the 12 rounds"):
        ledger.charge_through(book, 3, "north", 12)


@pytest.mark.parametrize(
    "change", [{"clip": 0.8}, {"multiplier": 21.0}, {"separation": 5}, {"participations": 3}, {"cohort": 6}]
)
def test_a_plan_is_constant_in_its_generation(change: dict[str, float]) -> None:
    """Clip, noise, b, k and the denominator: an open stream takes no other plan, and the same one changes nothing."""
    book = released(PLAN, 2)
    assert ledger.open_stream(book, PLAN) is book
    with pytest.raises(UsageError, match="constant in it"):
        ledger.open_stream(book, plan(**change))


def test_copies_that_contradict_each_other() -> None:
    """Another plan for the same stream, or another budget: somebody altered something."""
    with pytest.raises(CorruptState, match="contradict"):
        ledger.merge(released(PLAN, 2), released(plan(clip=0.8), 2))
    with pytest.raises(CorruptState, match="different budgets"):
        ledger.merge(released(PLAN, 2), Ledger(Budget()))


def worst_mu_squared(one: NoisePlan, n: int) -> float:
    """μ² of n rounds by trying every pattern of taking part on the dense matrix, sums and counts of norms alike."""
    if n == 0:
        return 0.0
    assert one.multiplier is not None
    assert one.quantile_multiplier is not None
    C, worst = toeplitz(one.blt.coefficients(one.rounds), np.zeros(one.rounds))[:n, :n], 0.0
    for size in range(1, one.participations + 1):
        for rounds in combinations(range(n), size):
            if all(later - earlier >= one.separation for earlier, later in pairwise(rounds)):
                worst = max(worst, float(np.linalg.norm(C[:, list(rounds)].sum(axis=1))))
    return (worst * one.clip / one.noise_std) ** 2 + (worst / one.quantile_std) ** 2


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from("ab")), min_size=1, max_size=40),
    st.sampled_from([None, 1.0]),
    st.floats(2, 40),
    st.floats(0.5, 4),
)
def test_it_never_counts_too_little(acts: list[tuple[int, str]], bound: float | None, z: float, counts: float) -> None:
    """Any order of rounds at two fogs: ε is at least what a user in the worst pattern truly spent, by Google's
    composition of every sum and every count of norms, and never past the budget. A crash back to an older copy, merged
    with what the cloud has, loses nothing.
    """
    import dp_accounting
    from dp_accounting import pld

    plans = {
        (g, f): plan(generation=g, fog=f, rounds=6, separation=2, multiplier=z, quantile_multiplier=counts * z)
        for g in range(3)
        for f in "ab"
    }
    book = cloud = Ledger(Budget(generation=bound, lifetime=bound))
    for generation, fog in acts:
        before = book
        try:
            book = ledger.open_stream(book, plans[generation, fog])
            spent = book.find(generation, fog)
            assert spent is not None
            book = ledger.charge_round(book, generation, fog, spent.rounds)
        except EvergroveError:
            assert book.streams[: len(before.streams)] == before.streams or len(book.streams) > len(before.streams)
        cloud = ledger.merge(cloud, book)
    assert ledger.merge(Ledger(book.budget), cloud) == cloud
    assert {s.plan.fog: s for s in cloud.streams} == {s.plan.fog: s for s in book.streams}

    events, by_generation = [], {}
    for s in book.streams:
        one = worst_mu_squared(s.plan, s.rounds)
        if one > by_generation.get(s.plan.generation, (0.0, None))[0]:
            by_generation[s.plan.generation] = (one, s)
    for _, s in by_generation.values():
        if s.rounds:  # apart: the sums, then the counts
            whole = worst_mu_squared(s.plan, s.rounds)
            part = whole / (1 + counts**-2)
            events += [dp_accounting.GaussianDpEvent(mu2**-0.5) for mu2 in (part, whole - part)]
    if events:
        truth = pld.PLDAccountant().compose(dp_accounting.ComposedDpEvent(events)).get_epsilon(1e-6)
        assert book.epsilon_lifetime() >= truth * (1 - 1e-6) - 1e-6
        if bound is not None:
            assert truth <= bound * (1 + 1e-6)


BOOKS = st.lists(st.tuples(st.integers(0, 3), st.sampled_from("abc"), st.integers(0, 12)), max_size=8).map(
    lambda rows: Ledger(
        FREE,
        tuple(Spent(plan(generation=g, fog=f), n) for (g, f), n in sorted({(g, f): n for g, f, n in rows}.items())),
    )
)


@settings(max_examples=60, deadline=None)
@given(BOOKS, BOOKS, BOOKS)
def test_merging_copies_is_a_join(a: Ledger, b: Ledger, c: Ledger) -> None:
    """In any order and as often as you like; and never less than either copy."""
    assert ledger.merge(a, a) == a
    assert ledger.merge(a, b) == ledger.merge(b, a)
    assert ledger.merge(ledger.merge(a, b), c) == ledger.merge(a, ledger.merge(b, c))
    both = ledger.merge(a, b)
    for one in (a, b):
        for s in one.streams:
            found = both.find(s.plan.generation, s.plan.fog)
            assert found is not None
            assert found.rounds >= s.rounds
    assert ledger.decode(ledger.encode(both)) == both


def test_digest_and_equality_do_not_depend_on_who_wrote_a_number() -> None:
    """A clip of 1 and of 1.0, written and read again: one plan."""
    one = plan(clip=1, multiplier=20)
    again = msgspec.json.decode(msgspec.json.encode(one), type=NoisePlan)
    assert again == one
    assert again.digest == one.digest == plan(clip=1.0).digest


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{}x",
        b'{"budget":{"delta":0.0}}',
        b'{"budget":{"generation":0.0}}',
        b'{"unknown":1}',
        b'{"version":2}',
        b'{"\xecudget":1}',
        b'{"streams":' + b"[" * 100_000,
    ],
)
def test_damaged_ledgers_are_refused(damage: bytes) -> None:
    """What is not understood in full is not understood: nothing may be released on a guess."""
    with pytest.raises(CorruptState):
        ledger.decode(damage)


def test_altered_ledgers_are_refused() -> None:
    """More rounds than the plan has, a stream twice, a plan that cannot be."""
    text = ledger.encode(released(PLAN, 3))
    for old, new in ((b'"rounds":3', b'"rounds":13'), (b'"rounds":3', b'"rounds":-1'), (b'"clip":0.75', b'"clip":0')):
        assert old in text
        with pytest.raises(CorruptState):
            ledger.decode(text.replace(old, new))
    with pytest.raises(CorruptState, match="once and in order"):
        Ledger(FREE, (Spent(PLAN), Spent(PLAN)))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_bit_flip_is_refused_or_read_as_what_it_says(data: st.DataObject) -> None:
    """Fuzz: any one byte changed; the answer is a ledger or ``CorruptState``, never another error."""
    text = bytearray(ledger.encode(released(PLAN, 3)))
    text[data.draw(st.integers(0, len(text) - 1))] ^= data.draw(st.integers(1, 255))
    with suppress(CorruptState):
        assert isinstance(ledger.decode(bytes(text)), Ledger)


@pytest.mark.parametrize(
    "change",
    [
        {"generation": -1},
        {"fog": ""},
        {"rounds": 0},
        {"separation": 0},
        {"participations": 0},
        {"cohort": 0},
        {"size": 0},
        {"clip": 0.0},
        {"clip": math.nan},
        {"multiplier": 0.0},
        {"multiplier": math.inf},
        {"quantile_multiplier": -1.0},
        {"multiplier": None},
        {"version": 2},
    ],
)
def test_plans_that_make_no_sense(change: dict[str, float]) -> None:
    """Every constant of a stream is checked when it is written down."""
    with pytest.raises(UsageError):
        plan(**change)
