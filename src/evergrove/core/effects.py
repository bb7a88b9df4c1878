"""What a tier asks its driver to do. An effect is an order in words; the driver carries it out and answers by events.

Every effect may be carried out twice with the same result: after a crash the reducer asks again.
"""

import msgspec

from evergrove.core.conditions import Code
from evergrove.core.events import Event
from evergrove.core.rollout import Mark


class Effect(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """Base of the effects."""


class Emit(Effect, frozen=True, tag="emit"):
    """Log this fact next, in the same transaction: a decision that follows from the event alone."""

    event: Event


class StoreObservation(Effect, frozen=True, tag="store_observation"):
    """Write the pending observation into the replay buffer (``split`` train or golden); answer when it is durable."""

    observation: str
    split: str
    reason: str


class DropObservation(Effect, frozen=True, tag="drop_observation"):
    """Forget the pending observation's bytes."""

    observation: str


class EvictRecords(Effect, frozen=True, tag="evict_records"):
    """Delete records of the replay buffer that the reservoir gave up."""

    records: tuple[str, ...]


class ReconcileRecords(Effect, frozen=True, tag="reconcile_records"):
    """After a start: delete records that are not in ``known``, report those of ``known`` that are missing."""

    known: tuple[str, ...]


class StartTraining(Effect, frozen=True, tag="start_training"):
    """Run (or resume) a training job in a worker process: learn the ``fresh`` records on top of ``parent``.

    ``assist`` is the SHA-256 of what a fog gave for it.
    """

    job: str
    parent: str | None
    fresh: tuple[str, ...]
    steps: int
    attempt: int
    assist: str | None = None


class SetShare(Effect, frozen=True, tag="set_share"):
    """Let the worker, the present one or the next, use this part of one core from now on; 0 pauses it where it is."""

    share: float


class ParkWorker(Effect, frozen=True, tag="park_worker"):
    """End the worker of this job, but keep its folder: it goes on from its checkpoint later."""

    job: str


class FetchAssist(Effect, frozen=True, tag="fetch_assist"):
    """Get the fog's assist for the device's release; the request names nothing but the release."""

    job: str
    release: str


class SendTrusted(Effect, frozen=True, tag="send_trusted"):
    """Hand the whole training step to the trusted fog that the configuration names, encrypted for its key."""

    job: str
    parent: str | None
    fresh: tuple[str, ...]
    steps: int


class StartMeasuring(Effect, frozen=True, tag="start_measuring"):
    """Measure a candidate, scaled by ``gamma``, against the incumbent on the golden set in a worker process.

    ``candidate`` is one of the device's own adapters, ``source`` a file from elsewhere; with neither, the incumbent
    itself is checked again. ``learnt`` are the new conditions that must show a gain.
    """

    job: str
    candidate: str | None
    source: str | None
    incumbent: str | None
    learnt: tuple[Code, ...]
    gamma: float
    attempt: int


class ActivateVersion(Effect, frozen=True, tag="activate_version"):
    """Turn the pointer, durably, between two calls of ``generate``; None stands for the release alone."""

    current: str | None
    previous: str | None
    sequence: int
    probation: bool
    release: str = ""
    """The release that ``current`` is for, by its manifest's SHA-256; "": the one that runs."""


class ConfirmVersion(Effect, frozen=True, tag="confirm_version"):
    """End the probation of this adapter."""

    adapter: str | None


class StartChoosing(Effect, frozen=True, tag="start_choosing"):
    """Measure in a worker process what may run on ``release``, which is here: it, and shares of what was learnt.

    ``incumbent`` serves now (None: the present release alone), ``given`` is what the last update was made of,
    ``held_back`` are records that the incumbent was not trained on, ``learnt`` the conditions that it has learnt.
    """

    job: str
    release: str
    incumbent: str | None
    given: str | None
    held_back: tuple[str, ...]
    attempt: int
    learnt: tuple[Code, ...] = ()


class FetchRelease(Effect, frozen=True, tag="fetch_release"):
    """Fetch and verify a published version, whose manifest must be ``release``; answered by ``ReleaseFetched`` or
    ``FetchFailed``."""

    version: int
    release: str


class SendReport(Effect, frozen=True, tag="send_report"):
    """Tell the fog how a release fared here; answered by ``ReportSent`` or ``ReportDelayed``."""

    rollout: str
    mark: Mark
    shadow: bool


class ShareLearnt(Effect, frozen=True, tag="share_learnt"):
    """Send the fog what ``version`` has learnt over ``given`` (None: the release alone), clipped, by way of the outbox.

    What waits in the outbox goes first. ``heard`` is the token of the last update whose end is known (""): a later one
    that has ended is only told of. Answered by ``UpdateCounted``, ``UpdateRefused`` or ``UpdateDelayed``.
    """

    version: str
    given: str | None
    heard: str


class StopWorker(Effect, frozen=True, tag="stop_worker"):
    """End the worker of this job and remove its folder."""

    job: str


class Erase(Effect, frozen=True, tag="erase"):
    """Destroy ``records`` with their keys, every version but ``current``, ``previous``, ``keep``, and leave a receipt.

    ``what``: observation, condition or all; ``code`` as in ``ForgettingAsked``. ``gone`` are the versions that served
    and had seen what is to be forgotten. ``withdraw``: what was given to the fleet, or is to be, had seen it, too; what
    waits to be sent is deleted, and the device takes no further part in this generation. ``asked_s``: since when.
    """

    job: str
    what: str
    records: tuple[str, ...]
    code: Code | None
    gone: tuple[str, ...]
    current: str | None
    previous: str | None
    probation: bool
    keep: tuple[str, ...]
    withdraw: bool
    asked_s: float
