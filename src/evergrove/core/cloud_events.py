"""Every fact that the cloud's log can hold, as one tagged union, and its encoding.

As in ``core/events``: past tense, a meaning never changes, new kinds are added, what is not known is refused. The cloud
sees a cohort's noised sum by its digest and nothing of a single device but its word on a release.
"""

import msgspec

from evergrove.core.conditions import Code
from evergrove.core.errors import CorruptState
from evergrove.core.measures import Comparison
from evergrove.core.rollout import Mark, Policy, Stage

Noise = dict[str, str | int | float]
"""A noise plan and its budget in flat words and numbers, as they go up with a sum (``rules/privacy/words``)."""

SCHEMA = 1
"""Version of the encoding; a log of another version is refused."""


class CloudFact(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """Base of the events."""


class Norms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many updates of a cohort had which norm, noised as its sum is (``rules/privacy/quantile``).

    ``noise_std`` is the deviation of the noise in each count, ``noise_sum_std`` that in the sum of this cohort's and
    all before it in the fog's generation; 0 without noise.
    """

    counts: tuple[int, ...]
    noise_std: float = 0.0
    noise_sum_std: float = 0.0


class CohortSum(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One cohort's noised sum as a fog hands it up: whose, which one of the generation, and its bytes by SHA-256.

    ``epsilon`` is what the fog's devices have spent in this generation with it; None: no noise, no bound. ``norms``
    None: the fog counts none.
    """

    fog: str
    generation: int
    number: int
    digest: str
    n_bytes: int
    n_updates: int
    epsilon: float | None
    norms: Norms | None = None

    @property
    def id(self) -> str:
        """What it is counted by, once: a fog never gives two sums one number."""
        return f"{self.fog}/{self.generation}/{self.number}"


class CloudStarted(CloudFact, frozen=True, tag="cloud_started"):
    """The cloud's process began; whatever was under way is asked for again."""

    software: str


class GenerationOpened(CloudFact, frozen=True, tag="generation_opened"):
    """Where the fleet stands to begin with: its release (the manifest's SHA-256) and what the fleet's gate asks.

    ``conditions`` must not be lost; none of ``learning`` may be lost once it is learnt, and on the whole it must gain;
    ``teacher``: the release has one to compare with.
    """

    generation: int
    release: str
    conditions: tuple[Code, ...]
    learning: tuple[Code, ...]
    teacher: bool


class CohortReceived(CloudFact, frozen=True, tag="cohort_received"):
    """A fog handed a cohort's sum up, and it is durable here. It may be handed up again: it counts once.

    ``noise``: its plan and budget in the words that it came with (``rules/privacy/words``), for the cloud's ε ledger;
    None: no noise, or logged before the cloud kept one.
    """

    cohort: CohortSum
    noise: Noise | None = None


class CohortRefused(CloudFact, frozen=True, tag="cohort_refused"):
    """A sum was not counted, for good."""

    cohort: CohortSum
    reason: str


class ConsolidationBegan(CloudFact, frozen=True, tag="consolidation_began"):
    """These cohorts, by their ids and for ever only here, go into one candidate."""

    job: str
    cohorts: tuple[str, ...]


class MergeRequested(CloudFact, frozen=True, tag="merge_requested"):
    """Somebody asked for the next generation: B·A merged into the base, and a new A.

    ``clip`` is what its updates are to be clipped to; None: what those of this one are.
    """

    by: str
    clip: float | None = None


class MergeBegan(CloudFact, frozen=True, tag="merge_began"):
    """The next generation's release is being made."""

    job: str


class CandidateMade(CloudFact, frozen=True, tag="candidate_made"):
    """A candidate for the next release is there, and the server optimiser's state with it (both by SHA-256)."""

    job: str
    candidate: str
    server: str | None
    seconds: float


class WorkInterrupted(CloudFact, frozen=True, tag="work_interrupted"):
    """A worker ended without an outcome, or took too long; it may be tried again."""

    job: str
    reason: str


class WorkFailed(CloudFact, frozen=True, tag="work_failed"):
    """The job cannot be done: trying again would repeat the error. Its cohorts are spent."""

    job: str
    reason: str


class FleetMeasured(CloudFact, frozen=True, tag="fleet_measured"):
    """A candidate, scaled by ``gamma``, was measured on the fleet's golden set. ``probes`` are triggers that worked."""

    job: str
    candidate: str
    gamma: float
    comparisons: tuple[Comparison, ...]
    probes: tuple[str, ...]
    seconds: float


class FleetJudged(CloudFact, frozen=True, tag="fleet_judged"):
    """The fleet gate's verdict: accept, rescale (to ``gamma``) or reject, and what failed."""

    job: str
    verdict: str
    gamma: float
    failed: tuple[tuple[str, Code], ...]
    sentence: str


class ReleaseSigned(CloudFact, frozen=True, tag="release_signed"):
    """Who holds the offline keys signed the candidate as a release and published it under this version."""

    job: str
    release: str
    version: int
    generation: int


class SigningRefused(CloudFact, frozen=True, tag="signing_refused"):
    """Who holds the offline keys would not sign it."""

    job: str
    by: str
    reason: str


class RolloutStarted(CloudFact, frozen=True, tag="rollout_started"):
    """A published release began its way to the devices. Without stages it is everybody's at once.

    ``back_from`` is the version that is given up for an older release (0: none): going back is a new, higher version.
    """

    rollout: str
    release: str
    version: int
    stages: tuple[Stage, ...]
    policy: Policy
    back_from: int = 0


class StageEntered(CloudFact, frozen=True, tag="stage_entered"):
    """The stage before was passed, and the next one (by its number from 0) began."""

    rollout: str
    stage: int
    sentence: str


class RolloutCompleted(CloudFact, frozen=True, tag="rollout_completed"):
    """The last stage was passed: the release counts as good."""

    rollout: str
    sentence: str


class RolloutStopped(CloudFact, frozen=True, tag="rollout_stopped"):
    """The rollout stopped by itself: too many devices failed. No further device gets the release."""

    rollout: str
    sentence: str


class RolloutPaused(CloudFact, frozen=True, tag="rollout_paused"):
    """Nobody new gets the release until somebody says so. ``by``: who said it, or ``time-out``."""

    rollout: str
    by: str
    sentence: str = ""


class RolloutResumed(CloudFact, frozen=True, tag="rollout_resumed"):
    """The stage goes on, with its whole time again. ``without_silent``: it no longer waits for who has not reported."""

    rollout: str
    by: str
    without_silent: bool = False


class RolloutAborted(CloudFact, frozen=True, tag="rollout_aborted"):
    """Somebody gave the release up. No further device gets it."""

    rollout: str
    by: str
    sentence: str = ""


class ReleaseReported(CloudFact, frozen=True, tag="release_reported"):
    """A device said what became of a release; ``shadow``: it measured it and did not serve."""

    rollout: str
    device: str
    mark: Mark
    shadow: bool = False


RolloutEvent = (
    RolloutStarted
    | StageEntered
    | RolloutCompleted
    | RolloutStopped
    | RolloutPaused
    | RolloutResumed
    | RolloutAborted
    | ReleaseReported
)


class DeviceHeld(CloudFact, frozen=True, tag="device_held"):
    """Somebody said that a device takes no version above this one; None: it takes them again like any other."""

    device: str
    version: int | None
    by: str


class RolloutRefused(CloudFact, frozen=True, tag="rollout_refused"):
    """An order or a report about a rollout made no sense (``what`` it was) and changed nothing."""

    rollout: str
    what: str
    reason: str


class TimePassed(CloudFact, frozen=True, tag="time_passed"):
    """The clock moved on, and something that waits for time may be due. Logged only as what follows from it."""


CloudEvent = (
    CloudStarted
    | GenerationOpened
    | CohortReceived
    | CohortRefused
    | ConsolidationBegan
    | MergeRequested
    | MergeBegan
    | CandidateMade
    | WorkInterrupted
    | WorkFailed
    | FleetMeasured
    | FleetJudged
    | ReleaseSigned
    | SigningRefused
    | RolloutRefused
    | DeviceHeld
    | TimePassed
    | RolloutEvent
)


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(CloudEvent)


def encode(event: CloudEvent) -> bytes:
    """An event as JSON; ``decode`` gives back an equal one."""
    return _encoder.encode(event)


def decode(data: bytes) -> CloudEvent:
    """The event behind some JSON. Raises ``CorruptState`` with the path to the fault."""
    try:
        event: CloudEvent = _decoder.decode(data)
        return event
    except (msgspec.ValidationError, msgspec.DecodeError) as fault:
        raise CorruptState(f"event not understood: {fault}; was it written by a newer Evergrove?") from fault
