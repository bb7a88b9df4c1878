"""The ε ledger: what every noise stream has released, and the refusal of what would pass the budget (DESIGN §7).

It holds plans and counts, never an ε: that is computed from them, so a copy can be checked by anyone who trusts nothing
but the plans. A user has one home fog a generation, so generations add up and the fogs of one do not: a lifetime's Σ μ²
is the sum over generations of the largest among its fogs. The enforced claim is the budget: a stop on Σ μ² holds for
streams chosen one after the other in the light of earlier releases (Smith & Thakurta 2022, 'Fully adaptive composition
for Gaussian DP'). What is *spent* so far is a reading. Charged before a release, so a crash can only over-count.
"""

import math
from functools import lru_cache

import msgspec

from evergrove.core.errors import BudgetSpent, CorruptState, EvergroveError, UsageError
from evergrove.rules.privacy.accounting import EPSILON_BUDGET, epsilon_of, mu_squared_within
from evergrove.rules.privacy.plan import NoisePlan

STREAMS_MAX = 10_000
FOGS_WAY_OUT = "nothing was released; begin a new generation, or raise the budget and say so"


class Budget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The claim: ε for one generation and for a lifetime, each at ``delta``.

    None claims nothing: ε = ∞, and a stream without noise is allowed. Say so in large print.
    """

    delta: float = 1e-6
    generation: float | None = 1.0
    lifetime: float | None = 8.0

    def __post_init__(self) -> None:
        if not 1e-15 <= self.delta < 0.5:
            raise UsageError(f"δ = {self.delta}; say a small probability, such as 1e-6")
        for name, bound in (("generation", self.generation), ("lifetime", self.lifetime)):
            if bound is not None and not EPSILON_BUDGET[0] <= bound <= EPSILON_BUDGET[1]:
                raise UsageError(
                    f"an ε of {bound} for a {name}; say one from {EPSILON_BUDGET[0]:g} to {EPSILON_BUDGET[1]:g}, or "
                    "None to claim nothing"
                )


class Spent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One stream: rounds 0 … ``rounds`` − 1 are released, or were to be, each with its counts of norms."""

    plan: NoisePlan
    rounds: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.rounds <= self.plan.rounds:
            raise CorruptState(f"{self.rounds} rounds spent of a plan of {self.plan.rounds}: restore the ledger")

    @property
    def mu_squared(self) -> float:
        """Σ μ² of this stream."""
        return _mu_squared(self.plan, self.rounds)


class Ledger(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The budget and every stream ever opened, by generation and fog."""

    budget: Budget = Budget()
    streams: tuple[Spent, ...] = ()
    version: int = 1

    def __post_init__(self) -> None:
        keys = [(s.plan.generation, s.plan.fog) for s in self.streams]
        if keys != sorted(set(keys)) or self.version != 1:
            raise CorruptState("the ledger's streams are not each there once and in order: restore it from a backup")

    def find(self, generation: int, fog: str) -> Spent | None:
        """What this stream has spent; None where it was never opened."""
        return next((s for s in self.streams if (s.plan.generation, s.plan.fog) == (generation, fog)), None)

    def epsilon_generation(self, generation: int) -> float:
        """ε spent so far by a user of the generation's fog that released most; infinite without noise."""
        return epsilon_of(_by_generation(self).get(generation, 0.0), self.budget.delta)

    def epsilon_lifetime(self) -> float:
        """ε spent so far by a user who was in every generation, each time at the fog that released most."""
        return epsilon_of(math.fsum(_by_generation(self).values()), self.budget.delta)


def open_stream(ledger: Ledger, plan: NoisePlan) -> Ledger:
    """The ledger with this stream in it, nothing spent; the same ledger if it is open already under the same plan.

    Raises ``UsageError`` for another plan of an open stream (clip, noise, b and k are constant in a generation), and
    ``BudgetSpent`` for a plan whose *first* round would pass the budget.
    """
    known = ledger.find(plan.generation, plan.fog)
    if known is not None:
        if known.plan != plan:
            raise UsageError(
                f"the noise stream of generation {plan.generation} at '{plan.fog}' runs under another plan: clip, "
                "noise, limits and denominator are constant in it; begin a new generation to change them"
            )
        return ledger
    if len(ledger.streams) >= STREAMS_MAX:
        raise UsageError(f"a ledger holds at most {STREAMS_MAX} noise streams")
    _check(_with(ledger, Spent(plan, 1)), plan.generation, FOGS_WAY_OUT)
    return _with(ledger, Spent(plan))


def charge_round(ledger: Ledger, generation: int, fog: str, round_: int) -> Ledger:
    """The ledger after round ``round_`` (from 0), or no round: ``BudgetSpent`` where it would pass the budget.

    Rounds are charged in order, each once; ``UsageError`` for one that was charged (its bytes are sent again, never
    made anew: two noises of one round give the sum away) and for one ahead of its turn (a cohort that is withheld is
    released empty, to nobody: b and k count the rounds of the noise).
    """
    spent = _open(ledger, generation, fog)
    if round_ < spent.rounds:
        raise UsageError(
            f"round {round_} of generation {generation} at '{fog}' is charged already: send its bytes again"
        )
    if round_ > spent.rounds:
        raise UsageError(
            f"round {round_} of generation {generation} at '{fog}' comes after round {spent.rounds}, not now"
        )
    return _charged(ledger, spent, round_, FOGS_WAY_OUT)


def charge_through(ledger: Ledger, generation: int, fog: str, round_: int) -> Ledger:
    """The ledger of a cloud that is handed round ``round_``: that one is charged, and all before it that it never saw.

    The same ledger where it is charged already: a cloud may be handed the same bytes twice. Raises ``BudgetSpent``
    where the round would pass the budget: then the cloud does not take it, whatever its fog thought.
    """
    spent = _open(ledger, generation, fog)
    if round_ < spent.rounds:
        return ledger
    return _charged(ledger, spent, round_, "the cloud does not take it")  # the last costs no less than those before


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One stream of the ledger for people: what is released of how much, and its ε alone and with all before it.

    None stands for infinite.
    """

    generation: int
    fog: str
    rounds: int
    rounds_most: int
    epsilon: float | None
    epsilon_lifetime: float | None


def lines(ledger: Ledger) -> tuple[Line, ...]:
    """The ledger stream by stream, in order; the lifetime's ε is that of its generation and all earlier ones."""
    largest, delta = _by_generation(ledger), ledger.budget.delta

    def finite(mu_squared: float) -> float | None:
        value = epsilon_of(mu_squared, delta)
        return value if math.isfinite(value) else None

    return tuple(
        Line(
            s.plan.generation,
            s.plan.fog,
            s.rounds,
            s.plan.rounds,
            finite(s.mu_squared),
            finite(math.fsum(mu for generation, mu in largest.items() if generation <= s.plan.generation)),
        )
        for s in ledger.streams
    )


def merge(first: Ledger, second: Ledger) -> Ledger:
    """What two copies know together, a fog's and the cloud's say: of every stream the one that has spent more.

    Associative, commutative and idempotent, and never less than either. Raises ``CorruptState`` for copies that
    contradict each other in budget or plan.
    """
    if first.budget != second.budget:
        raise CorruptState("two ledgers of different budgets are not of one grove")
    merged = first
    for other in second.streams:
        known = merged.find(other.plan.generation, other.plan.fog) or other
        if known.plan != other.plan:
            raise CorruptState(
                f"two ledgers contradict each other on generation {other.plan.generation} at '{other.plan.fog}': "
                "one of them was altered; stop releasing, and find out which"
            )
        merged = _with(merged, Spent(known.plan, max(known.rounds, other.rounds)))
    return merged


def encode(ledger: Ledger) -> bytes:
    """The ledger as JSON; ``decode`` gives back an equal one."""
    return msgspec.json.encode(ledger)


def decode(data: bytes) -> Ledger:
    """The ledger behind some JSON. Raises ``CorruptState`` with the path to the fault."""
    try:
        return msgspec.json.decode(data, type=Ledger)
    except CorruptState:
        raise
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, EvergroveError) as fault:
        raise CorruptState(f"a privacy ledger was not understood: {fault}; restore it, or stop releasing") from fault


def _open(ledger: Ledger, generation: int, fog: str) -> Spent:
    spent = ledger.find(generation, fog)
    if spent is None:
        raise UsageError(f"generation {generation} at '{fog}' has no noise stream in the ledger: open it first")
    return spent


def _charged(ledger: Ledger, spent: Spent, round_: int, way_out: str) -> Ledger:
    """The ledger with this stream's rounds up to ``round_``. Raises ``BudgetSpent``."""
    plan = spent.plan
    if round_ >= plan.rounds:
        raise BudgetSpent(
            f"generation {plan.generation} at '{plan.fog}' has released the {plan.rounds} rounds that its noise is "
            "made for: begin a new generation"
        )
    after = _with(ledger, msgspec.structs.replace(spent, rounds=round_ + 1))
    _check(after, plan.generation, way_out)
    return after


def _with(ledger: Ledger, spent: Spent) -> Ledger:
    key = (spent.plan.generation, spent.plan.fog)
    others = [s for s in ledger.streams if (s.plan.generation, s.plan.fog) != key]
    streams = sorted([*others, spent], key=lambda s: (s.plan.generation, s.plan.fog))
    return msgspec.structs.replace(ledger, streams=tuple(streams))


def _by_generation(ledger: Ledger) -> dict[int, float]:
    """Σ μ² of each generation: the largest among its fogs, of which a user has one."""
    largest: dict[int, float] = {}
    for spent in ledger.streams:
        largest[spent.plan.generation] = max(largest.get(spent.plan.generation, 0.0), spent.mu_squared)
    return largest


def _check(after: Ledger, generation: int, way_out: str) -> None:
    """Raises ``BudgetSpent`` where the ledger would be past its budget."""
    spent, delta = _by_generation(after), after.budget.delta
    for what, bound, mu_squared in (
        (f"generation {generation}", after.budget.generation, spent[generation]),
        ("the lifetime of a device", after.budget.lifetime, math.fsum(spent.values())),
    ):
        if bound is not None and not mu_squared <= mu_squared_within(bound, delta):
            raise BudgetSpent(
                f"another release would bring {what} to ε = {epsilon_of(mu_squared, delta):.4g}, the budget is "
                f"{bound:g} (δ = {delta:g}): {way_out}"
            )


@lru_cache(maxsize=65_536)
def _mu_squared(plan: NoisePlan, rounds: int) -> float:
    """A ledger adds the same streams up at every round."""
    return plan.mu_squared(rounds)
