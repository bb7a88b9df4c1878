"""Every fact that the cloud's log can hold, as one tagged union, and its encoding.

As in ``core/events``: past tense, a meaning never changes, new kinds are added, what is not known is refused.
"""

import msgspec

from evergrove.core.errors import CorruptState
from evergrove.core.rollout import Mark, Policy, Stage

SCHEMA = 1
"""Version of the encoding; a log of another version is refused."""


class CloudFact(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """Base of the events."""


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

CloudEvent = RolloutEvent


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
