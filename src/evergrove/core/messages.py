"""What an app and the agent of its device say to each other over the local socket: one request, one reply.

``PROTOCOL`` is checked at the first message, so that an app and an agent of different versions part with a clear error.
"""

import msgspec

from evergrove.core.conditions import Vocabulary

PROTOCOL = 1


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """Base of requests and replies."""


class Hello(Message, frozen=True, tag="hello"):
    """The first request of every connection."""

    protocol: int


class Observe(Message, frozen=True, tag="observe"):
    """Offer one observation: encoded media and its condition."""

    media: bytes
    condition: dict[str, str]


class LearnNow(Message, frozen=True, tag="learn_now"):
    """Ask for a learning job. ``steps`` 0 means the configured number."""

    steps: int = 0


class Offer(Message, frozen=True, tag="offer"):
    """Hand over an adapter file made elsewhere; it goes through the gate."""

    path: str


class Recheck(Message, frozen=True, tag="recheck"):
    """Ask for a golden re-check of the active version."""


class RollBack(Message, frozen=True, tag="roll_back"):
    """Go back to the previous version."""


class Forget(Message, frozen=True, tag="forget"):
    """Ask for one of these to be forgotten for good: an observation, a condition, everything."""

    observation: str = ""
    condition: dict[str, str] = {}
    everything: bool = False


class ReportFailure(Message, frozen=True, tag="report_failure"):
    """An app could not load or use a version."""

    adapter: str | None
    reason: str


class GetStatus(Message, frozen=True, tag="get_status"):
    """Ask for the device's status."""


class Stop(Message, frozen=True, tag="stop"):
    """Ask the agent to end once its current effect is done; jobs resume at the next start."""


Request = Hello | Observe | LearnNow | Offer | Recheck | RollBack | Forget | ReportFailure | GetStatus | Stop


class Welcome(Message, frozen=True, tag="welcome"):
    """The answer to ``Hello``: which device, and what it understands today."""

    device: str
    release: str
    vocabulary: Vocabulary
    pid: int


class Observed(Message, frozen=True, tag="observed"):
    """What became of an observation, and why. ``kept`` true means: it is durable."""

    observation: str
    kept: bool
    split: str
    reason: str
    new_values: tuple[str, ...] = ()


class Done(Message, frozen=True, tag="done"):
    """The request was taken; ``job`` names what it started, if it started something."""

    job: str = ""
    note: str = ""


class JobState(Message, frozen=True, tag="job_state"):
    """A job under way: what it is for, how far it is."""

    job: str
    stage: str
    attempt: int
    step: int = 0
    steps: int = 0
    loss: float = 0.0
    eta_s: float = 0.0
    pid: int = 0


class JobResult(Message, frozen=True, tag="job_result"):
    """How a job ended: accepted, rejected, refused or failed, with one sentence and the conditions that failed."""

    job: str
    verdict: str
    sentence: str
    gamma: float = 0.0
    failed: tuple[str, ...] = ()
    adapter: str | None = None
    steps: int = 0
    seconds: float = 0.0
    n_bytes: int = 0


class FleetState(Message, frozen=True, tag="fleet_state"):
    """What a device has to do with its fleet. ``fog`` is an address, ``home`` the fog's name ("" until it was heard).

    ``epsilon`` is the budget of ``generation`` as the fog told it (None: none is known, or there is no noise: then
    ``protection`` says so), ``waits`` says what is still to be sent, and why.
    ``version`` is the published number of the release that runs (0: the one that it was made with), ``rollout`` says
    how far the fleet's latest one is, and what this device does about it.
    """

    fog: str
    federates: bool
    home: str = ""
    generation: int = -1
    epsilon: float | None = None
    protection: str = ""
    n_counted: int = 0
    n_refused: int = 0
    waits: str = ""
    version: int = 0
    rollout: str = ""


class Status(Message, frozen=True, tag="status"):
    """What a device is, holds and does; ``decisions`` are its latest ones, newest last, each one sentence."""

    device: str
    release: str
    vocabulary: Vocabulary
    active: str | None
    previous: str | None
    on_probation: bool
    sequence: int
    observed: int
    kept: int
    dropped: dict[str, int]
    records: dict[str, int]
    waiting: int
    golden: dict[str, int]
    job: JobState | None
    results: tuple[JobResult, ...]
    gate_looks: int
    gate_looks_max: int
    decisions: tuple[str, ...]
    warnings: tuple[str, ...]
    fleet: FleetState | None = None


class Fault(Message, frozen=True, tag="fault"):
    """The request was refused: the error's class in core/errors, its message, and its short reason if it has one."""

    error: str
    message: str
    reason: str = ""


Reply = Welcome | Observed | Done | Status | Fault
