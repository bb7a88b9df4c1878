"""The port ``Fogs`` over a Flower ``Grid``: pushes and pulls, each with a bounded number of tries.

Flower itself tries again for ever where nothing answers, and raises at once where a SuperLink dies in the middle
(``ObjectPushError``) or answers nonsense. The classes of its errors are not public, so whatever it raises is retried.
"""

import logging
import time
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from evergrove.adapters.flower.port import Answer, Failed, Question, Reply
from evergrove.adapters.flower.records import answer_of_records, question_to_records
from evergrove.core.errors import InvalidInput, Unreachable

TRIES = 6
BACKOFF_S, BACKOFF_S_MAX = 0.5, 8.0
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class FlowerFogs:
    """All SuperNodes of a federation as ``Fogs``; a fog's name is its node id, which its key vouches for."""

    def __init__(self, grid: Grid, sleep: Callable[[float], None] = time.sleep, tries: int = TRIES) -> None:
        self._grid, self._sleep, self._tries = grid, sleep, tries

    def online(self) -> Sequence[str]:
        """Node ids of the SuperNodes that are connected. Raises ``Unreachable``."""
        return [str(node) for node in self._patiently("list the fogs", lambda: list(self._grid.get_node_ids()))]

    def ask(self, fog: str, question: Question, ttl_s: float) -> str:
        """Pushes one message. A push that is cut off is made anew: the fog may be asked twice, which harms nothing.

        Raises ``Unreachable``.
        """

        def push() -> str:
            # made anew each time: Flower gives a message its name when it is pushed
            message = Message(question_to_records(question), int(fog), MessageType.QUERY, ttl=ttl_s)
            (named,) = self._grid.push_messages([message])
            if not named:
                raise Unreachable(f"the SuperLink refused a message to fog {fog}; its log says why")
            return str(named)

        return self._patiently(f"ask fog {fog}", push)

    def replies(self, asked: Collection[str]) -> Sequence[Reply]:
        """Pulls what has come back. A reply that is cut off while it is pulled is lost: the fog must be asked again.

        Raises ``Unreachable``.
        """
        if not asked:
            return []
        pulled = self._patiently("pull answers", lambda: list(self._grid.pull_messages(list(asked))))
        return [_reply(message) for message in pulled]

    def _patiently(self, what: str, act: Callable[[], _T]) -> _T:
        wait_s = BACKOFF_S
        for left in reversed(range(self._tries)):
            try:
                return act()
            except Exception as fault:
                _log.warning("could not %s: %s: %s; %d tries left", what, type(fault).__name__, fault, left)
                if not left:
                    raise Unreachable(
                        f"could not {what} in {self._tries} tries: {fault}; is the SuperLink up?"
                    ) from fault
            self._sleep(wait_s)
            wait_s = min(2 * wait_s, BACKOFF_S_MAX)
        raise AssertionError("at least one try")


def _reply(message: Message) -> Reply:
    asked = message.metadata.reply_to_message_id
    outcome: Answer | Failed
    if message.has_error():
        outcome = Failed(f"{message.error.reason} (Flower's error {message.error.code})")
    else:
        try:
            outcome = answer_of_records(message.content)
        except InvalidInput as fault:
            outcome = Failed(str(fault))
    return Reply(asked, str(message.metadata.src_node_id), outcome)
