"""A cloud's ε ledgers, one for each fog by the name that the cloud knows it by: what it charges, what it refuses.

A fog's own ledger knows its own generations. A device has one home fog a generation and may have had another in each
before, so a round of a fog is refused here by the sum over all other generations of the *largest* among all fogs, and
this fog's own of the present one: that is what a device of this fog can have spent, wherever it was. So in the next
generation no fog is rid of its past by a new name. The budget is what the fog states with the sum: its devices are told
the same, and are told when it is raised. A fog without noise bounds nothing, says so to its devices, and is in no
ledger.

Checked before a sum is taken (``refusal``); booked with the fact that it was (``booked``), which computes no ε.
"""

from collections.abc import Mapping

import msgspec

from evergrove.core.cloud_events import Noise
from evergrove.core.errors import BudgetSpent
from evergrove.core.sums import NoisedSum
from evergrove.rules.privacy import ledger as ledgers
from evergrove.rules.privacy import words
from evergrove.rules.privacy.ledger import Ledger, Line, Spent

Books = Mapping[str, Ledger]


def refusal(books: Books, fog: str, one: NoisedSum) -> str:
    """Why a sum does not fit into its fog's budget or generation; empty where it does, was charged, or has no noise.

    Raises ``InvalidInput`` for words that ``words.plan_of`` does not read.
    """
    planned = words.plan_of(one)
    if planned is None:
        return ""
    plan, stated = planned
    own = books.get(fog, Ledger(stated))
    known = _stream(own, plan.generation)
    if known is not None and known.plan != plan:
        return (
            f"it is of another noise plan than the one that this fog began generation {plan.generation} with "
            f"({known.plan.digest[:12]}): clip, noise, limits and denominator are constant in a generation"
        )
    streams = (*_elsewhere(books, plan.generation), known or Spent(plan))
    whole = Ledger(stated, tuple(sorted(streams, key=lambda s: s.plan.generation)))
    try:
        ledgers.charge_through(whole, plan.generation, plan.fog, one.number)
    except BudgetSpent as fault:
        return str(fault)
    return ""


def booked(books: Books, fog: str, noise: Noise, generation: int, number: int) -> dict[str, Ledger]:
    """The books after a sum with this noise was taken: its round is charged and all before it; again, the same books.

    The budget is the one that the fog stated last.
    """
    plan, stated = words.read(noise, generation, f"{fog}/{generation}/{number}")
    own = msgspec.structs.replace(books.get(fog, Ledger(stated)), budget=stated)
    return {**books, fog: ledgers.merge(own, Ledger(stated, (Spent(plan, number + 1),)))}


def lines(books: Books) -> tuple[Line, ...]:
    """Every stream for people, by generation and the cloud's name of its fog, at the δ that the fog stated last.

    The lifetime's ε is that of a device which was at this fog in this generation, and before at those that spent most.
    """
    found = []
    for fog, own in books.items():
        for spent in own.streams:
            generation = spent.plan.generation
            before = [s for s in _elsewhere(books, generation) if s.plan.generation < generation]
            whole = Ledger(own.budget, (*sorted(before, key=lambda s: s.plan.generation), spent))
            found.append(msgspec.structs.replace(ledgers.lines(whole)[-1], fog=fog))
    return tuple(sorted(found, key=lambda line: (line.generation, line.fog)))


def _stream(own: Ledger, generation: int) -> Spent | None:
    """A fog's one stream of a generation, by whatever name the fog calls itself."""
    return next((s for s in own.streams if s.plan.generation == generation), None)


def _elsewhere(books: Books, generation: int) -> list[Spent]:
    """Of every other generation the stream that has spent most."""
    largest: dict[int, Spent] = {}
    for spent in (s for own in books.values() for s in own.streams if s.plan.generation != generation):
        known = largest.get(spent.plan.generation)
        if known is None or known.mu_squared < spent.mu_squared:
            largest[spent.plan.generation] = spent
    return list(largest.values())
