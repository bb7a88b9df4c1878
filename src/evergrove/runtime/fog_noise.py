"""A fog's noise at work: one BLT stream a generation, charged to a ledger over all generations, by ``rules/privacy``.

In come a cohort's exact sum and what the last round left; out go the noised sum and what must be durable with it.
Chance is the operating system's (getrandom; on Linux ChaCha20): each normal number from 64 bits of its own, by Box and
Muller. The stream's state is a secret and leaves here encrypted (AES-256-GCM, ``adapters/sealed``).
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np

from evergrove.adapters import sealed
from evergrove.adapters.fog_books import Kept
from evergrove.core import fog
from evergrove.core.cloud_events import Noise
from evergrove.core.errors import BudgetSpent, CorruptState, UsageError
from evergrove.core.fog import Cohort
from evergrove.rules.aggregate import CohortSum
from evergrove.rules.privacy import ledger as ledgers
from evergrove.rules.privacy import rounds, words
from evergrove.rules.privacy.accounting import split
from evergrove.rules.privacy.blt import Blt, Vector
from evergrove.rules.privacy.history import Entry
from evergrove.rules.privacy.ledger import Budget, Ledger, Spent
from evergrove.rules.privacy.noise import NoiseState, normals, start
from evergrove.rules.privacy.optimise import optimise
from evergrove.rules.privacy.plan import NoisePlan

NO_NOISE = (
    "NO NOISE: ε = ∞. This fog adds no noise to its sums: they are not differentially private, and who reads a sum or "
    "a release may learn about single devices. The fog's operator sees single updates in any case."
)
NO_BUDGET = Budget(generation=None, lifetime=None)
"""ε = ∞."""
LIFETIME = 8.0
"""ε of a lifetime where nobody says another, or that of a generation, if it is larger."""


@dataclass(frozen=True)
class Noised:
    """One round's outcome: what may leave, what is kept with it, and what is said about it.

    ``counts`` are those of norms, noised too. ``denominator`` is the plan's K. ``epsilon`` is what the generation has
    spent with it (None: no bound). ``words`` go up with the sum. ``over`` says why no other round of this generation
    fits into the budget; "" where one does, or the rounds are over anyway.
    """

    values: Vector
    counts: tuple[int, ...]
    kept: Kept
    entry: Entry
    denominator: int
    epsilon: float | None
    words: Noise | None
    over: str


class FogNoise:
    """The noise of one fog, under one budget; the same for every worker of the fog."""

    def __init__(
        self, fog: str, budget: Budget = NO_BUDGET, key: bytes = b"", chance: Callable[[int], bytes] = os.urandom
    ) -> None:
        """``key``: 32 bytes that encrypt the noise's state; not used where ``budget`` bounds nothing.

        ``chance(n)`` gives n uniform bytes: the operating system's but in a simulation. Raises ``UsageError``.
        """
        if budget.generation is not None and len(key) != 32:
            raise UsageError(f"a noise key of {len(key)} bytes; it has 32")
        self._fog, self.budget, self._key, self._chance = fog, budget, key, chance

    @property
    def epsilon(self) -> float | None:
        """The budget of a generation; None: there is none, and ε is infinite."""
        return self.budget.generation

    @property
    def protection(self) -> str:
        """Who is protected from whom, and how far."""
        if self.budget.generation is None:
            return NO_NOISE
        lifetime = "without a bound" if self.budget.lifetime is None else f"of at most {self.budget.lifetime:g}"
        return (
            f"ε = {self.budget.generation:g} at most in a generation and, over a device's lifetime, {lifetime} "
            f"(δ = {self.budget.delta:g}, for all updates of one device together). It protects who takes part against "
            "the cloud, other devices, and whoever reads a release. It does not protect against this fog's operator, "
            "who sees single updates until they are summed: if one operator runs fog and cloud, there is no "
            "differential privacy from that operator."
        )

    # ---- generations -------------------------------------------------------------------------------------------------

    def check(self, kept: Kept, generation: int) -> None:
        """That a generation which is open goes on as it began.

        Raises ``UsageError`` for other settings, ``CorruptState`` where the state cannot be read.
        """
        ledger = self._ledger(kept)
        known = ledger.find(generation, self._fog)
        if known is not None and ledger.budget != self.budget:
            raise UsageError(
                f"generation {generation} began with {_told(ledger.budget)}, not {_told(self.budget)}: the noise stays "
                "as it is within a generation; start the fog as before, or begin a new generation"
            )
        if known is not None and known.plan.multiplier is not None:
            self._state(kept, known)

    def open(self, kept: Kept, plan: fog.Plan, size: int, n_closed: int) -> bytes:
        """The ledger with this generation's stream in it, ready for its next round.

        ``size``: numbers of an update; ``n_closed``: cohorts that the generation has had. Raises ``UsageError`` where
        it began otherwise, and ``BudgetSpent`` where not even one more round fits.
        """
        self.check(kept, plan.generation)
        ledger = self._ledger(kept)
        known = ledger.find(plan.generation, self._fog)
        if known is None and n_closed:
            raise UsageError(
                f"generation {plan.generation} has had {n_closed} cohorts that no ε ledger of '{self._fog}' knows: the "
                "fog had another name, or an older program; begin a new generation"
            )
        if known is None:
            ledger = msgspec.structs.replace(ledger, budget=self.budget)
            return ledgers.encode(ledgers.open_stream(ledger, self._plan(plan, size)))
        noise = self._plan(plan, size, known.plan)
        ledger = ledgers.open_stream(ledger, noise)
        over = self._over(ledger, noise)
        if over and self.budget.generation is not None:
            raise BudgetSpent(f"{over}. To hand over what waits and serve releases, start the fog without --release")
        return ledgers.encode(ledger)

    def _plan(self, plan: fog.Plan, size: int, known: NoisePlan | None = None) -> NoisePlan:
        """The stream's constants; ``known``: its matrix and strength are kept, whatever a newer optimiser would say."""
        epsilon, delta = self.budget.generation, self.budget.delta
        if known is not None:
            blt, strengths = known.blt, (known.multiplier, known.quantile_multiplier)
        elif epsilon is None:
            blt, strengths = Blt(), (None, None)
        else:
            blt, strengths = optimise(plan.rounds, plan.separation, plan.participations), split(epsilon, delta)
        return NoisePlan(
            plan.generation, self._fog, plan.rounds, plan.separation, plan.participations, plan.cohort, size,
            plan.clip, strengths[0], blt, strengths[1],
        )  # fmt: skip

    # ---- rounds ------------------------------------------------------------------------------------------------------

    def close(self, kept: Kept, cohort: Cohort, total: CohortSum, withheld: bool = False) -> Noised:
        """The noise of one cohort, added; for one that is ``withheld``, ``total`` is empty, and the values go nowhere.

        Raises ``BudgetSpent`` where the cohort is past the budget, ``UsageError`` for one of an unknown stream,
        ``CorruptState`` where state and ledger do not belong together or the key is another. Nothing is changed then.
        """
        ledger = self._ledger(kept)
        spent = ledger.find(cohort.generation, self._fog)
        if spent is None:
            raise UsageError(f"generation {cohort.generation} at '{self._fog}' has no noise stream in the ε ledger")
        if cohort.number < spent.rounds:
            raise CorruptState(f"cohort {cohort.generation}.{cohort.number} has its noise: its bytes are sent again")
        if cohort.number > spent.rounds:
            raise BudgetSpent(
                f"the noise of generation {cohort.generation} ended with round {spent.rounds}: its budget was spent; "
                "begin a new generation"
            )
        plan, state = spent.plan, self._state(kept, spent)
        fresh = None
        if plan.multiplier is not None:
            fresh = normals(self._chance(16 * -(-plan.width // 2)))[: plan.width]
        closed = rounds.close(plan, total, state, ledger, fresh)
        sealed_state = None if plan.multiplier is None else self._sealed(closed.state, plan)
        epsilon = _finite(closed.ledger.epsilon_generation(plan.generation))
        entry = Entry(
            cohort.generation, cohort.number, self._fog, "none" if plan.multiplier is None else "blt", plan.digest,
            epsilon, _finite(closed.ledger.epsilon_lifetime()), ledger.budget.delta,
        )  # fmt: skip
        return Noised(
            closed.values,
            closed.counts,
            Kept(sealed_state, ledgers.encode(closed.ledger)),
            entry,
            plan.cohort,
            epsilon,
            None if withheld else words.words_of(plan, ledger.budget),
            self._over(closed.ledger, plan),
        )

    def _over(self, ledger: Ledger, plan: NoisePlan) -> str:
        """Why the stream's next round does not fit into the budget; "" where it does, or there is none."""
        spent = ledger.find(plan.generation, plan.fog)
        assert spent is not None, "the caller's stream"
        if spent.rounds >= plan.rounds:
            return ""
        try:
            ledgers.charge_round(ledger, plan.generation, plan.fog, spent.rounds)
        except BudgetSpent as fault:
            return str(fault)
        return ""

    # ---- what is kept ------------------------------------------------------------------------------------------------

    def _ledger(self, kept: Kept) -> Ledger:
        return ledgers.decode(kept.ledger) if kept.ledger else Ledger(self.budget)

    def _state(self, kept: Kept, spent: Spent) -> NoiseState:
        """Where the stream stands. Raises ``CorruptState``."""
        plan = spent.plan
        if plan.multiplier is None:
            return NoiseState(plan.digest, spent.rounds, b"")
        if kept.noise is None:
            return start(plan)
        try:
            data = sealed.unseal((self._key,), self._fog, _box(plan), kept.noise)
            return msgspec.msgpack.decode(data, type=NoiseState)
        except (CorruptState, msgspec.MsgspecError) as fault:
            raise CorruptState(
                f"the noise of generation {plan.generation} cannot be read: {fault}; bring the fog's noise key back, "
                "or begin a new generation"
            ) from fault

    def _sealed(self, state: NoiseState, plan: NoisePlan) -> bytes:
        return sealed.seal(self._key, self._fog, _box(plan), msgspec.msgpack.encode(state))


def budget_of(epsilon: float, delta: float, lifetime: float | None) -> Budget:
    """ε of a generation and of a lifetime; ``lifetime`` None: 8, or ``epsilon`` if that is more; ∞ bounds nothing."""
    if lifetime is None:
        lifetime = max(LIFETIME, epsilon)
    return Budget(delta, epsilon, None if lifetime == float("inf") else lifetime)


def empty(size: int, clip: float) -> CohortSum:
    """What a withheld cohort is closed with."""
    return CohortSum(clip, 0, np.zeros(size, "<i8").tobytes())


def _finite(epsilon: float) -> float | None:
    return epsilon if math.isfinite(epsilon) else None


def _box(plan: NoisePlan) -> str:
    return f"noise of generation {plan.generation}"


def _told(budget: Budget) -> str:
    if budget.generation is None:
        return "no noise"
    lifetime = "∞" if budget.lifetime is None else f"{budget.lifetime:g}"
    return f"ε = {budget.generation:g}, δ = {budget.delta:g}, lifetime {lifetime}"
