"""Every fact that a device's log can hold, as one tagged union, and its encoding.

An event states what happened, in the past tense; its meaning never changes, new kinds are added. A log names conditions
by numbers only (their names live in the encrypted vault) and carries neither hashes nor features of observations.
All events here are ``local``: they never leave a device. Unknown kinds and unknown fields are refused.
"""

from typing import ClassVar, Literal

import msgspec

from evergrove.core.conditions import Code
from evergrove.core.errors import CorruptState
from evergrove.core.measures import Choice, Comparison, Facts
from evergrove.core.rollout import Directive, Mark
from evergrove.core.telemetry import Telemetry

SCHEMA = 1
"""Version of the encoding; a log of another version is refused, with the way out."""

Scope = Literal["local", "shared"]


class Fact(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """Base of the events. ``scope`` says whether a kind may ever be sent: ``transport`` refuses a local one."""

    scope: ClassVar[Scope] = "local"


class DeviceInitialised(Fact, frozen=True, tag="device_initialised"):
    """A device was made from a release (its manifest's SHA-256), with or without a teacher for the student check.

    ``vocabulary`` holds the number of values of each factor, ``known`` those that the release's golden set judges
    (empty: all).
    """

    device: str
    release: str
    vocabulary: tuple[int, ...]
    teacher: bool
    seed: int
    known: tuple[int, ...] = ()


class AgentStarted(Fact, frozen=True, tag="agent_started"):
    """An agent took the device over; whatever was under way is taken up again."""

    software: str


class ConditionAdded(Fact, frozen=True, tag="condition_added"):
    """The device met a value that its vocabulary did not hold: factor index and the value's new number."""

    factor: int
    value: int


class ObservationMeasured(Fact, frozen=True, tag="observation_measured"):
    """An observation arrived and was decoded and compared with what is kept."""

    observation: str
    code: Code
    n_bytes: int
    facts: Facts


class ObservationKept(Fact, frozen=True, tag="observation_kept"):
    """The observation is durable in the replay buffer."""

    observation: str
    code: Code
    split: str
    reason: str


class ObservationDropped(Fact, frozen=True, tag="observation_dropped"):
    """The observation was not worth keeping."""

    observation: str
    code: Code
    reason: str


class ObservationRefused(Fact, frozen=True, tag="observation_refused"):
    """What was handed over could not be used at all."""

    n_bytes: int
    reason: str


class ObservationLost(Fact, frozen=True, tag="observation_lost"):
    """A record that the log knows is not in the buffer: cut off before acceptance, damaged, or the disk is full."""

    observation: str
    reason: str


class LearningRequested(Fact, frozen=True, tag="learning_requested"):
    """Somebody, or the schedule, asked for a learning job. ``steps`` 0 means the configured number."""

    by: str
    steps: int


class LearningDeferred(Fact, frozen=True, tag="learning_deferred"):
    """A request to learn was not followed now, with the reason in words."""

    reason: str


class TelemetryRead(Fact, frozen=True, tag="telemetry_read"):
    """The device looked at its own body."""

    reading: Telemetry


class PlacementDecided(Fact, frozen=True, tag="placement_decided"):
    """Where a waiting or running job goes on, and with which share of one core; logged when that changes.

    ``choice``: local, assisted, trusted or defer. ``share`` is 0 for all but a job that trains here.
    """

    job: str
    choice: str
    share: float
    sentence: str


class AssistReceived(Fact, frozen=True, tag="assist_received"):
    """A fog's assist arrived and passed its checks; ``assist`` is its SHA-256."""

    job: str
    assist: str
    n_bytes: int


class OffloadFailed(Fact, frozen=True, tag="offload_failed"):
    """A fog did not give what was asked of it (``choice``: assisted or trusted)."""

    job: str
    choice: str
    reason: str


class BytesSent(Fact, frozen=True, tag="bytes_sent"):
    """The byte ledger: what left the device, by kind, and to whom."""

    category: str
    n_bytes: int
    peer: str


class DriftNoticed(Fact, frozen=True, tag="drift_noticed"):
    """What arrives of a condition is no longer like what was kept of it (``statistic`` past its threshold)."""

    condition: Code
    statistic: float
    threshold: float


class TrainingStarted(Fact, frozen=True, tag="training_started"):
    """A worker began, or resumed, a training job."""

    job: str
    attempt: int


class TrainingFinished(Fact, frozen=True, tag="training_finished"):
    """A worker finished a training job."""

    job: str
    candidate: str
    steps: int
    seconds: float
    loss: float
    n_bytes: int


class JobInterrupted(Fact, frozen=True, tag="job_interrupted"):
    """A worker ended without an outcome: killed, out of memory, or past its time-out."""

    job: str
    reason: str


class JobFailed(Fact, frozen=True, tag="job_failed"):
    """A worker stopped on an error that trying again would repeat."""

    job: str
    reason: str


class AdapterOffered(Fact, frozen=True, tag="adapter_offered"):
    """Somebody handed over an adapter made elsewhere; it must pass the same gate as our own."""

    source: str


class CandidateMeasured(Fact, frozen=True, tag="candidate_measured"):
    """A candidate was measured on the golden set, scaled by ``gamma``."""

    job: str
    candidate: str
    gamma: float
    comparisons: tuple[Comparison, ...]
    seconds: float


class CandidateRefused(Fact, frozen=True, tag="candidate_refused"):
    """An adapter failed its checks before any measurement."""

    job: str
    reason: str


class GateJudged(Fact, frozen=True, tag="gate_judged"):
    """The golden gate's verdict and the conditions that failed.

    Of an update: accept, rescale, reject or refresh; of a re-check: passed or alarm.
    """

    job: str
    verdict: str
    gamma: float
    failed: tuple[tuple[str, Code], ...]
    sentence: str


class VersionActivated(Fact, frozen=True, tag="version_activated"):
    """The pointer turned: ``adapter`` serves from now on (None: the release alone)."""

    adapter: str | None
    sequence: int


class ProbationPassed(Fact, frozen=True, tag="probation_passed"):
    """The active version counts as good."""

    adapter: str | None


class VersionRolledBack(Fact, frozen=True, tag="version_rolled_back"):
    """The device goes back to an earlier version."""

    bad: str | None
    good: str | None
    reason: str


class RollbackRequested(Fact, frozen=True, tag="rollback_requested"):
    """Somebody asked to go back to the previous version."""

    by: str


class GenerationFailed(Fact, frozen=True, tag="generation_failed"):
    """An app could not load a version, or it made something that is not finite."""

    adapter: str | None
    reason: str


class TermsRead(Fact, frozen=True, tag="terms_read"):
    """The home fog said by what terms it gathers, and they are others than it said before.

    ``epsilon`` is the budget of the generation (None: no noise, no bound), ``protection`` the fog's own sentence.
    """

    fog: str
    generation: int
    epsilon: float | None
    protection: str


class UpdateCounted(Fact, frozen=True, tag="update_counted"):
    """The fog counted the update that was made of ``version``, once, in this cohort of this generation."""

    version: str
    token: str
    generation: int
    cohort: int


class UpdateRefused(Fact, frozen=True, tag="update_refused"):
    """No update of ``version`` will be counted: the fog, or the device's own limits, refused it for good."""

    version: str
    token: str
    reason: str


class UpdateDelayed(Fact, frozen=True, tag="update_delayed"):
    """An update of ``version`` could not be made or sent now; ``token`` is that of one that waits in the outbox."""

    version: str
    token: str
    reason: str


class DirectiveRead(Fact, frozen=True, tag="directive_read"):
    """The fleet said, signed, which release runs where, and it is another word than before.

    ``member`` is the name that the fleet knows the device by.
    """

    member: str
    directive: Directive


class ReleaseFetched(Fact, frozen=True, tag="release_fetched"):
    """A release was fetched and verified; it lies on the disk, whole, under its manifest's SHA-256."""

    version: int
    release: str


class FetchFailed(Fact, frozen=True, tag="fetch_failed"):
    """A release could not be fetched, or was not believed. ``damaged``: what came did not verify."""

    version: int
    damaged: bool
    reason: str


class ReleaseMeasured(Fact, frozen=True, tag="release_measured"):
    """What the device may run on a release was measured, at each share of what it has learnt itself; best first.

    Conditions are numbered as the release has them: ``table[f][n]`` is the number of value n of factor f there;
    ``known`` and ``teacher`` are the release's.
    """

    job: str
    choices: tuple[Choice, ...]
    known: Code
    table: tuple[Code, ...]
    teacher: bool
    seconds: float


class ReleaseActivated(Fact, frozen=True, tag="release_activated"):
    """The pointer turned to another release, and to ``adapter`` on it (None: the release alone).

    ``sizes`` and ``known`` are the numbers of values per factor that the device knows from now on, and that the
    release's golden set judges. ``table[f][n]`` is the new number of value n of factor f; ``golden``: the golden set is
    another one.
    """

    release: str
    adapter: str | None
    sequence: int
    sizes: Code
    known: Code
    table: tuple[Code, ...]
    teacher: bool
    golden: bool


class ReportSent(Fact, frozen=True, tag="report_sent"):
    """The fog has the device's word on a rollout."""

    rollout: str
    mark: Mark
    shadow: bool


class ReportDelayed(Fact, frozen=True, tag="report_delayed"):
    """The device's word on a rollout did not reach the fog."""

    reason: str


class RecheckRequested(Fact, frozen=True, tag="recheck_requested"):
    """A golden re-check without an update is due, or was asked for."""

    by: str


class ForgettingAsked(Fact, frozen=True, tag="forgetting_asked"):
    """Somebody wants something forgotten: one ``observation``, one ``condition``, or ``all``.

    ``records`` are those that it is about, golden ones too (of ``all``, none are named). ``code``: a training that saw
    all of its numbers may have seen what has left the buffer since (None: only what is held is meant).
    """

    what: str
    records: tuple[str, ...]
    code: Code | None


class Forgotten(Fact, frozen=True, tag="forgotten"):
    """It is gone: the records with their keys, and the ``versions`` whose training had seen them.

    ``current`` and ``previous`` are what is left to serve; ``receipt`` is the SHA-256 of the receipt.
    """

    job: str
    what: str
    n_records: int
    versions: tuple[str, ...]
    current: str | None
    previous: str | None
    sequence: int
    receipt: str


class TimePassed(Fact, frozen=True, tag="time_passed"):
    """The clock moved on and something that waits for time may be due."""


Event = (
    DeviceInitialised
    | AgentStarted
    | ConditionAdded
    | ObservationMeasured
    | ObservationKept
    | ObservationDropped
    | ObservationRefused
    | ObservationLost
    | LearningRequested
    | LearningDeferred
    | TelemetryRead
    | PlacementDecided
    | AssistReceived
    | OffloadFailed
    | BytesSent
    | DriftNoticed
    | TrainingStarted
    | TrainingFinished
    | JobInterrupted
    | JobFailed
    | AdapterOffered
    | CandidateMeasured
    | CandidateRefused
    | GateJudged
    | VersionActivated
    | ProbationPassed
    | VersionRolledBack
    | RollbackRequested
    | GenerationFailed
    | TermsRead
    | UpdateCounted
    | UpdateRefused
    | UpdateDelayed
    | DirectiveRead
    | ReleaseFetched
    | FetchFailed
    | ReleaseMeasured
    | ReleaseActivated
    | ReportSent
    | ReportDelayed
    | RecheckRequested
    | ForgettingAsked
    | Forgotten
    | TimePassed
)


class Stamped(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of an exported log: when it happened (seconds since 1970, by the device's clock), and the fact."""

    at_s: float
    event: Event


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Event)


def encode(event: Event) -> bytes:
    """An event as JSON; ``decode`` gives back an equal one."""
    return _encoder.encode(event)


def decode(data: bytes) -> Event:
    """The event behind some JSON. Raises ``CorruptState`` with the path to the fault."""
    try:
        event: Event = _decoder.decode(data)
        return event
    except (msgspec.ValidationError, msgspec.DecodeError) as fault:
        raise CorruptState(f"event not understood: {fault}; was it written by a newer Evergrove?") from fault
