"""What cloud and fog say to each other, and the narrow port that hides how it travels.

The cloud asks a fog: give me what closed after this one; these I have. The fog answers with sums, and with what it has
heard as acknowledged. Both sides may say the same twice: sums are counted by their name.
"""

from collections.abc import Collection, Sequence
from typing import Protocol

import msgspec

from evergrove.core.errors import InvalidInput
from evergrove.core.rollout import DeviceReport
from evergrove.core.sums import NoisedSum

SUMS_MAX = 64
"""Sums in one answer, and acknowledgements in one question, at most."""
REPORTS_MAX = 1000
"""Devices' words in one answer, at most."""
WORD_MAX = 128
"""Characters of a device's or a rollout's name."""
WAIT_S_MAX = 600.0


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``after`` is the id of the last sum taken from this fog (empty: none), ``acknowledge`` those that are durable.

    Where there is nothing yet, the fog waits up to ``wait_s`` for it. At most ``limit`` sums come back, and what
    devices have said of releases after the position ``reports_after``.
    """

    after: str
    acknowledge: tuple[str, ...]
    wait_s: float
    limit: int
    reports_after: int = 0


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sums in the order in which their cohorts closed, and what the fog has heard as acknowledged.

    ``fog`` is the name that the fog gives itself, for people; who it is, the link knows. ``reports`` are what devices
    have said of releases, in the order of their positions.
    """

    fog: str
    acknowledged: tuple[str, ...]
    sums: tuple[NoisedSum, ...]
    reports: tuple[DeviceReport, ...] = ()


def check_reports(reports: Sequence[DeviceReport], after: int) -> None:
    """Raises ``InvalidInput`` unless the reports are few, in order, after that position, and their names short."""
    if len(reports) > REPORTS_MAX:
        raise InvalidInput(f"{len(reports)} reports at once; at most {REPORTS_MAX} are taken")
    for one in reports:
        if not after < one.position < 1 << 62:
            raise InvalidInput(f"a report at position {one.position} after {after}; positions grow")
        if not (0 < len(one.device) <= WORD_MAX and 0 < len(one.rollout) <= WORD_MAX):
            raise InvalidInput(f"report {one.position}: a name of more than {WORD_MAX} characters, or of none")
        after = one.position


class Failed(msgspec.Struct, frozen=True):
    """A question that brought no answer, and why in words."""

    reason: str


class Reply(msgspec.Struct, frozen=True):
    """What became of the question called ``asked``."""

    asked: str
    fog: str
    outcome: Answer | Failed


class Fogs(Protocol):
    """All fogs, as the cloud reaches them. ``fog`` is the link's own, authenticated name for one."""

    def online(self) -> Sequence[str]:
        """The fogs that can be asked now. Raises ``Unreachable`` where the link stays down."""
        ...

    def ask(self, fog: str, question: Question, ttl_s: float) -> str:
        """Sends a question and gives its name; never waits for the answer. Raises ``Unreachable``."""
        ...

    def replies(self, asked: Collection[str]) -> Sequence[Reply]:
        """What has come back for these questions; each comes once. Raises ``Unreachable``."""
        ...
