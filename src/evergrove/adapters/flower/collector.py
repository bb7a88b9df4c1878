"""The cloud's loop over fogs: each is asked on its own, none waits for another, every sum is taken once.

One step: hear what came back; take what is new, write the checkpoint; ask every fog that has no question open. A fog
that stays silent past ``patience_s`` is asked again while the older question is still listened to; who fails rests,
longer each time. A sum is acknowledged only when the consolidator has it durably.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from evergrove.adapters.flower.checkpoint import Checkpoint, CheckpointFile, FogMark
from evergrove.adapters.flower.port import SUMS_MAX, Answer, Failed, Fogs, Question, Reply
from evergrove.core.errors import UsageError
from evergrove.core.sums import Consolidator

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """How fogs are asked. ``wait_s``: how long a fog waits for its next sum before it answers with none (a question
    costs it a process). ``ttl_s``: how long a question and its answer stay valid. ``patience_s``: silence after which
    another one is sent. ``rest_s`` doubles with each failure in a row. ``limit``: sums in one answer."""

    wait_s: float = 30.0
    ttl_s: float = 6 * 3600.0
    patience_s: float = 120.0
    rest_s: float = 2.0
    rest_s_max: float = 120.0
    questions_max: int = 4
    limit: int = 8

    def check(self) -> None:
        """Raises ``UsageError`` for values that make no sense together."""
        if not 0 <= self.wait_s < self.patience_s <= self.ttl_s:
            raise UsageError(
                f"wait {self.wait_s:g}, patience {self.patience_s:g}, ttl {self.ttl_s:g} s; say wait < patience ≤ ttl"
            )
        if not 0 <= self.rest_s <= self.rest_s_max or self.questions_max < 1 or not 1 <= self.limit <= SUMS_MAX:
            raise UsageError(f"rest, questions and limit are above 0; limit is at most {SUMS_MAX}")


@dataclass
class _Open:
    """What is under way with one fog: questions by name with the time they were sent, and its rest."""

    asked: dict[str, float] = field(default_factory=dict)
    failures: int = 0
    rests_until_s: float = 0.0


class Collector:
    """One collection from many fogs into one consolidator; ``checkpoint`` must have been acquired."""

    def __init__(
        self,
        fogs: Fogs,
        consolidator: Consolidator,
        checkpoint: CheckpointFile,
        settings: Settings | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings or Settings()
        self._settings.check()
        self._fogs, self._consolidator, self._file, self._now_s = fogs, consolidator, checkpoint, now_s
        self._state = checkpoint.load()
        self._open: dict[str, _Open] = {}

    @property
    def state(self) -> Checkpoint:
        """What is on disk now."""
        return self._state

    def step(self) -> int:
        """Hears, takes, asks; gives how many sums it took. Raises ``Unreachable``, and what the consolidator does."""
        owner = {asked: fog for fog, one in self._open.items() for asked in one.asked}
        n = 0
        for reply in self._fogs.replies(list(owner)):
            # who is meant is what we wrote down, not what the reply says: an error reply may name nobody
            if (fog := owner.pop(reply.asked, None)) is not None:
                n += self._hear(fog, reply)
        self._forget_old()
        for fog in self._fogs.online():
            self._ask(fog)
        return n

    def _hear(self, fog: str, reply: Reply) -> int:
        under_way = self._open[fog]
        is_newest = reply.asked == max(under_way.asked, key=under_way.asked.__getitem__)
        del under_way.asked[reply.asked]
        mark = self._state.fogs.get(fog, FogMark())
        match reply.outcome:
            case Failed(reason):
                if not is_newest:  # a fog that was away fails all its questions at once: that is one failure
                    return 0
                under_way.failures += 1
                rest_s = min(self._settings.rest_s * 2 ** min(under_way.failures - 1, 16), self._settings.rest_s_max)
                under_way.rests_until_s = self._now_s() + rest_s
                _log.warning("fog %s: %s; it rests for %.0f s", mark.name or fog, reason, rest_s)
                self._save(fog, msgspec.structs.replace(mark, n_failed=mark.n_failed + 1))
                return 0
            case Answer() as answer:
                under_way.failures = 0
                return self._take(fog, mark, answer)

    def _take(self, fog: str, mark: FogMark, answer: Answer) -> int:
        heard = set(answer.acknowledged)
        pending = tuple(id for id in mark.pending if id not in heard)
        if (pending, answer.fog) != (mark.pending, mark.name):
            mark = self._save(fog, msgspec.structs.replace(mark, name=answer.fog, pending=pending))
        if answer.reports:
            self._consolidator.hear(fog, answer.reports)
            after = max(mark.reports_after, answer.reports[-1].position)
            mark = self._save(fog, msgspec.structs.replace(mark, reports_after=after))
        n = 0
        for one in answer.sums:
            new = not self._consolidator.taken(fog, one.id)
            if new:
                self._consolidator.take(fog, one)
                n += 1
                _log.info(
                    "fog %s: took %s, %d updates of generation %d",
                    mark.name,
                    one.id[:12],
                    one.n_updates,
                    one.generation,
                )
            pending = mark.pending if one.id in mark.pending else (*mark.pending, one.id)
            mark = self._save(
                fog, msgspec.structs.replace(mark, after=one.id, pending=pending, n_taken=mark.n_taken + int(new))
            )
        return n

    def _ask(self, fog: str) -> None:
        one, now_s = self._open.setdefault(fog, _Open()), self._now_s()
        silent = one.asked and now_s - max(one.asked.values()) <= self._settings.patience_s
        if silent or now_s < one.rests_until_s or len(one.asked) >= self._settings.questions_max:
            return
        mark = self._state.fogs.get(fog, FogMark())
        question = Question(
            mark.after, mark.pending[:SUMS_MAX], self._settings.wait_s, self._settings.limit, mark.reports_after
        )
        one.asked[self._fogs.ask(fog, question, self._settings.ttl_s)] = now_s

    def _forget_old(self) -> None:
        now_s = self._now_s()
        for one in self._open.values():
            for asked in [asked for asked, at_s in one.asked.items() if now_s - at_s > self._settings.ttl_s]:
                del one.asked[asked]

    def _save(self, fog: str, mark: FogMark) -> FogMark:
        self._state = Checkpoint(self._state.step + 1, {**self._state.fogs, fog: mark})
        self._file.save(self._state)
        return mark
