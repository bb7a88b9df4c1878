"""A fog's words: the plan that it gathers by, the facts of its log, the orders to its driver, its answers to devices.

Facts state what happened and are local to the fog; only ``Terms`` and ``Receipt`` go out to devices. A fog's log names
devices and refusals, never a number of an update. Unknown kinds and fields are refused.
"""

from typing import ClassVar, Literal

import msgspec

from evergrove.core.errors import CorruptState, UsageError
from evergrove.core.transport import Update

Reason = Literal[
    "unknown device", "revoked", "closed", "malformed", "wrong format", "wrong names", "wrong dtype", "wrong shape",
    "not finite", "too large", "wrong size", "wrong digest", "wrong base", "wrong generation", "token of another",
    "token reused", "enormous norm", "too often", "too soon", "budget spent", "busy", "cut off", "timed out",
]  # fmt: skip
"""Why an update is refused: the word that the device is told and the log keeps."""
RETRY: frozenset[str] = frozenset({"busy", "closed", "too soon", "cut off", "timed out"})
"""The same update may be sent again later; every other refusal is final for it."""


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one generation is gathered; constant within it but for ``releases`` and ``n_bytes``.

    ``base``, ``basis`` and ``layout`` are digests, ``releases`` the manifests (SHA-256) whose devices may take part,
    ``n_bytes`` the sizes that an update's body can have. ``cohort`` (K) updates, or ``cohort_min`` once ``wait_s`` have
    passed since the first, are summed; K is the fixed denominator either way. There are at most ``rounds`` cohorts. A
    device takes part at most ``participations`` (k) times and ``separation`` (b) cohorts apart. ``clip`` (C) bounds the
    Euclidean norm of an update; one over ``norm_max`` is refused.
    """

    generation: int
    base: str
    basis: str
    layout: str
    releases: tuple[str, ...]
    n_bytes: tuple[int, ...]
    cohort: int
    cohort_min: int
    wait_s: float
    rounds: int
    separation: int
    participations: int
    clip: float
    norm_max: float

    def check(self) -> None:
        """Raises ``UsageError`` where the numbers make no sense together."""
        if not 1 <= self.cohort_min <= self.cohort:
            raise UsageError(f"a cohort of {self.cohort_min} to {self.cohort} updates; say 1 ≤ cohort_min ≤ cohort")
        if min(self.rounds, self.separation, self.participations) < 1 or self.generation < 0 or not self.wait_s > 0:
            raise UsageError(
                "rounds, separation, participations and wait_s are greater than 0, the generation is not negative"
            )
        if not 0 < self.clip <= self.norm_max < float("inf"):
            raise UsageError(f"clip {self.clip:g}, norm_max {self.norm_max:g}; say 0 < clip ≤ norm_max")
        if not self.releases or not self.n_bytes:
            raise UsageError("a plan names at least one release and one size")


class Cohort(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One cohort's name: its generation, and its number in it, which is the iteration of the noise stream."""

    generation: int
    number: int


# ---- facts -----------------------------------------------------------------------------------------------------------


class FogFact(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """Base of the facts."""

    scope: ClassVar[Literal["local"]] = "local"


class FogStarted(FogFact, frozen=True, tag="fog_started"):
    """A worker began; what was under way is asked for again."""

    software: str


class GenerationPlanned(FogFact, frozen=True, tag="generation_planned"):
    """A plan arrived: of a new generation, or of the present one with other releases."""

    plan: Plan


class PlanRefused(FogFact, frozen=True, tag="plan_refused"):
    """A plan that would change what must stay constant within a generation, or go back to an older one."""

    generation: int
    reason: str


class DeviceEnrolled(FogFact, frozen=True, tag="device_enrolled"):
    """The authority's certificate was given to this device, or seen for the first time."""

    device: str


class DeviceRevoked(FogFact, frozen=True, tag="device_revoked"):
    """The device may not take part any more, for good."""

    device: str
    reason: str


class UpdateOffered(FogFact, frozen=True, tag="update_offered"):
    """An authenticated device showed the head of an update. Nothing is counted yet; never logged."""

    device: str
    head: Update


class UpdateMeasured(FogFact, frozen=True, tag="update_measured"):
    """The body behind a head is durable and was checked: ``fault`` (None: sound), and its norm.

    Logged only as what follows from it.
    """

    device: str
    head: Update
    norm: float
    fault: Reason | None = None
    detail: str = ""


class UpdateCounted(FogFact, frozen=True, tag="update_counted"):
    """The update belongs to this cohort; ``factor`` (0-1] is what clipping multiplies it by."""

    device: str
    token: str
    digest: str
    cohort: Cohort
    factor: float


class UpdateRepeated(FogFact, frozen=True, tag="update_repeated"):
    """The device sent again what had been counted: it had not seen the acknowledgement. Counted once."""

    device: str
    token: str
    cohort: Cohort


class UpdateRefused(FogFact, frozen=True, tag="update_refused"):
    """An update was not taken; ``detail`` is a sentence for people."""

    device: str
    reason: Reason
    detail: str


class CohortClosed(FogFact, frozen=True, tag="cohort_closed"):
    """A cohort is complete: ``full``, or its ``time`` is over. Nobody joins it any more."""

    cohort: Cohort
    n_updates: int
    why: Literal["full", "time"]


class CohortSummed(FogFact, frozen=True, tag="cohort_summed"):
    """The sum is durable, by its SHA-256. ``epsilon`` is what this generation has spent with it; None: no bound."""

    cohort: Cohort
    digest: str
    n_bytes: int
    epsilon: float | None


class CohortWithheld(FogFact, frozen=True, tag="cohort_withheld"):
    """The sum is not handed over, for good: the budget does not allow it, or an update cannot be read any more."""

    cohort: Cohort
    reason: str


class BudgetEnded(FogFact, frozen=True, tag="budget_ended"):
    """Another cohort would pass the ε budget: nothing more is gathered in this generation."""

    generation: int
    reason: str


class CohortDropped(FogFact, frozen=True, tag="cohort_dropped"):
    """The generation, or its budget, ended before the cohort was complete: its updates fit nothing any more."""

    cohort: Cohort
    n_updates: int


class CohortHandedOver(FogFact, frozen=True, tag="cohort_handed_over"):
    """The cloud has the sum, durably."""

    cohort: Cohort


class TimePassed(FogFact, frozen=True, tag="time_passed"):
    """The clock moved on, and a cohort's time may be over. Logged only as what follows from it."""


FogEvent = (
    FogStarted | GenerationPlanned | PlanRefused | DeviceEnrolled | DeviceRevoked | UpdateOffered | UpdateMeasured
    | UpdateCounted | UpdateRepeated | UpdateRefused | CohortClosed | CohortSummed | CohortWithheld | CohortDropped
    | CohortHandedOver | BudgetEnded | TimePassed
)  # fmt: skip


# ---- orders ----------------------------------------------------------------------------------------------------------


class FogOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """Base of the orders. Every one may be carried out twice with the same result."""


class FogEmit(FogOrder, frozen=True, tag="emit"):
    """This fact follows, in the same transaction."""

    event: FogEvent


class ReceiveBody(FogOrder, frozen=True, tag="receive_body"):
    """Nothing speaks against the head: read its body, check it, make it durable, and answer ``UpdateMeasured``."""

    head: Update


class SumCohort(FogOrder, frozen=True, tag="sum_cohort"):
    """Sum a closed cohort in the canonical order, add noise, make the sum durable; answer ``CohortSummed``."""

    cohort: Cohort


class DeleteBodies(FogOrder, frozen=True, tag="delete_bodies"):
    """Delete the single updates of a cohort."""

    cohort: Cohort


class HandOver(FogOrder, frozen=True, tag="hand_over"):
    """Offer the cohort's sum to the cloud until it has it: always the same bytes."""

    cohort: Cohort


# ---- answers ---------------------------------------------------------------------------------------------------------


class Receipt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The update of this token is counted, once, in this cohort; ``repeated``: it had been before."""

    token: str
    cohort: Cohort
    repeated: bool
    version: int = 1


class Terms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a device is told before it takes part: who gathers, how, which cohort is open, and what protects it.

    ``epsilon`` is the budget of the generation; None: no noise is added, and ε is infinite. ``protection`` says it in
    words. ``fog`` is the name of the device's home fog for the generation. ``budget_spent``: no update is taken in it
    any more.
    """

    fog: str
    plan: Plan
    cohort: int
    epsilon: float | None
    protection: str
    budget_spent: bool = False
    version: int = 1


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(FogEvent)


def encode(event: FogEvent) -> bytes:
    """A fact as JSON; ``decode`` gives back an equal one."""
    return _encoder.encode(event)


def decode(data: bytes | str) -> FogEvent:
    """The fact behind some JSON. Raises ``CorruptState`` with the path to the fault."""
    try:
        event: FogEvent = _decoder.decode(data)
        return event
    except (msgspec.ValidationError, msgspec.DecodeError) as fault:
        raise CorruptState(
            f"a fog's event was not understood: {fault}; was it written by a newer Evergrove?"
        ) from fault
