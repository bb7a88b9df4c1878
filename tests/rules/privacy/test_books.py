"""The cloud's own ε ledgers: what is refused whatever a fog thought, and what is charged once."""

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from noise_plans import plan

from evergrove.core.sums import NoisedSum, noised_sum
from evergrove.rules.privacy import books, ledger, words
from evergrove.rules.privacy.accounting import epsilon_of, split
from evergrove.rules.privacy.ledger import Budget, Ledger
from evergrove.rules.privacy.plan import NoisePlan

ONE = Budget(1e-6, 1.0, 1.3)
"""Room for one generation of ε = 1, and hardly for half of another."""
Z, COUNTS = split(1.0, 1e-6)


def stream(generation: int, **changes: Any) -> NoisePlan:
    """A plan for ε = 1."""
    return plan(generation=generation, **{"multiplier": Z, "quantile_multiplier": COUNTS, **changes})


def handed(made: NoisePlan | None, number: int, budget: Budget = ONE) -> NoisedSum:
    """A sum of that plan as its fog hands it up; None: one without noise."""
    return noised_sum(
        np.ones(6, np.float32), generation=3 if made is None else made.generation, base="b" * 64, basis="a" * 64,
        n_updates=5, denominator=5, noise=None if made is None else words.words_of(made, budget), number=number,
    )  # fmt: skip


def take(known: dict[str, Ledger], fog: str, *sums: NoisedSum) -> dict[str, Ledger]:
    """The books after these, all of which fit."""
    for one in sums:
        assert books.refusal(known, fog, one) == ""
        assert one.noise is not None
        known = books.booked(known, fog, one.noise, one.generation, one.number)
    return known


def as_far_as_it_goes(known: dict[str, Ledger], fog: str, made: NoisePlan, budget: Budget = ONE) -> int:
    """How many rounds of a stream fit."""
    return next((n for n in range(made.rounds) if books.refusal(known, fog, handed(made, n, budget))), made.rounds)


def test_a_round_past_the_lifetime_is_refused_though_its_fog_hands_it_up() -> None:
    """As many rounds of the second generation fit as the fog's own ledger would release; no more, ever."""
    known = take({}, "7", handed(stream(3), 11))
    own = ledger.charge_through(ledger.open_stream(Ledger(ONE), stream(3)), 3, "north", 11)
    own = ledger.open_stream(own, stream(4))
    n = as_far_as_it_goes(known, "7", stream(4))
    assert 0 < n < 12
    own = ledger.charge_through(own, 4, "north", n - 1)
    with pytest.raises(ledger.BudgetSpent, match="lifetime"):
        ledger.charge_round(own, 4, "north", n)
    known = take(known, "7", handed(stream(4), n - 1))
    assert known["7"] == own
    why = books.refusal(known, "7", handed(stream(4), n))
    assert "would bring the lifetime of a device to ε = 1.3" in why
    assert "the budget is 1.3 (δ = 1e-06): the cloud does not take it" in why


def test_the_budget_is_what_the_fog_states_and_tells_its_devices() -> None:
    """As in the fog's own ledger: a lifetime that is raised, and said, holds from then on, and one that is lowered."""
    known = take({}, "7", handed(stream(3), 11))
    n = as_far_as_it_goes(known, "7", stream(4))
    for larger in (Budget(1e-6, 1.0, 50.0), Budget(1e-6, 1.0, None)):
        assert as_far_as_it_goes(known, "7", stream(4), larger) == 12
        raised = take(known, "7", handed(stream(4), 0, larger))
        assert raised["7"].budget == larger
        assert as_far_as_it_goes(raised, "7", stream(4)) == n


def test_a_device_that_changes_fogs_is_bounded_by_all_of_them() -> None:
    """A new fog, or an old one under a new name, begins where the dearest of each other generation ended."""
    known = take({}, "7", handed(stream(3), 11))
    known = take(known, "8", handed(stream(3, fog="south"), 2))
    alone = as_far_as_it_goes(known, "7", stream(4))
    assert 0 < as_far_as_it_goes(known, "8", stream(4, fog="south")) == alone < 12
    assert as_far_as_it_goes(known, "new", stream(4)) == alone
    assert as_far_as_it_goes(known, "new", stream(3)) == 12, "in one generation a device has one home fog"
    (first, _, last) = books.lines(take(known, "8", handed(stream(4, fog="south"), 0)))
    assert (first.fog, first.rounds, last.fog, last.rounds) == ("7", 12, "8", 1)
    spent = stream(3).mu_squared(12) + stream(4).mu_squared(1)
    assert last.epsilon_lifetime == pytest.approx(epsilon_of(spent, 1e-6))


def test_the_generations_budget_is_held_by_the_cloud() -> None:
    """A plan for ε = 1 whose fog promised .5: only the rounds that fit into a half are taken."""
    half = Budget(1e-6, 0.5, 8.0)
    n = as_far_as_it_goes({}, "7", stream(3), half)
    assert 0 < n < 12
    assert "generation 3 to ε = 0.5" in books.refusal({}, "7", handed(stream(3), n, half))


@pytest.mark.parametrize("change", [{"clip": 0.8}, {"separation": 5}, {"multiplier": Z * 1.001}, {"fog": "south"}])
def test_a_plan_that_is_changed_in_a_generation_is_refused(change: dict[str, Any]) -> None:
    """Two noises would not be one stream: their ε would add up, and no plan says to what. The next may have another."""
    known = take({}, "7", handed(stream(3), 0))
    why = books.refusal(known, "7", handed(stream(3, **change), 1))
    assert "another noise plan than the one that this fog began generation 3 with" in why
    assert books.refusal(known, "8", handed(stream(3, **change), 1)) == ""
    assert books.refusal(known, "7", handed(stream(4, **change), 1)) == ""


def test_the_same_round_is_charged_once_and_those_that_never_came_too() -> None:
    """Rounds 4, 4 and 2 are five rounds; a round that is charged is let through even where the budget is spent."""
    known = take({}, "7", handed(stream(3), 4), handed(stream(3), 4), handed(stream(3), 2))
    assert [s.rounds for s in known["7"].streams] == [5]
    known = take(known, "7", handed(stream(3), 11), handed(stream(4), 1))
    spent = {**known, "8": Ledger(ONE, (ledger.Spent(stream(5, fog="south"), 12),))}
    assert books.refusal(spent, "7", handed(stream(4), 2))
    assert books.refusal(spent, "7", handed(stream(4), 1)) == ""


def test_without_noise_there_are_no_books() -> None:
    """ε is infinite, which its devices are told; nothing is refused for it."""
    known = {"7": Ledger(ONE, (ledger.Spent(stream(3), 12),))}
    assert books.refusal(known, "7", handed(None, 99)) == ""
    assert books.lines({}) == ()


def test_what_the_books_say_is_never_less_than_one_fogs_own_ledger() -> None:
    """Line by line, and they come back from JSON as they were."""
    known = take({}, "8", handed(stream(3, fog="south"), 5))
    known = take(known, "7", handed(stream(3), 2), handed(stream(4), 1))
    own = ledger.lines(known["7"])
    mine = [line for line in books.lines(known) if line.fog == "7"]
    for said, alone in zip(mine, own, strict=True):
        assert (said.epsilon, said.rounds) == (alone.epsilon, alone.rounds)
        assert (said.epsilon_lifetime or math.inf) >= (alone.epsilon_lifetime or math.inf)
    assert mine[1].epsilon_lifetime != own[1].epsilon_lifetime
    assert msgspec.json.decode(msgspec.json.encode(known), type=dict[str, Ledger]) == known
