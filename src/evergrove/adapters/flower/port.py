"""What cloud and fog say to each other, and the narrow port that hides how it travels.

The cloud asks a fog: give me what closed after this one; these I have. The fog answers with sums, and with what it has
heard as acknowledged. Both sides may say the same twice: sums are counted by their name.
"""

from collections.abc import Collection, Sequence
from typing import Protocol

import msgspec

from evergrove.core.sums import NoisedSum

SUMS_MAX = 64
"""Sums in one answer, and acknowledgements in one question, at most."""
WAIT_S_MAX = 600.0


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``after`` is the id of the last sum taken from this fog (empty: none), ``acknowledge`` those that are durable.

    Where there is nothing yet, the fog waits up to ``wait_s`` for it. At most ``limit`` sums come back.
    """

    after: str
    acknowledge: tuple[str, ...]
    wait_s: float
    limit: int


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sums in the order in which their cohorts closed, and what the fog has heard as acknowledged.

    ``fog`` is the name that the fog gives itself, for people; who it is, the link knows.
    """

    fog: str
    acknowledged: tuple[str, ...]
    sums: tuple[NoisedSum, ...]


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
