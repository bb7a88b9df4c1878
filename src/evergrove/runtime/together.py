"""What a fog is asked to train, in passes: tasks that wait at the same time and are alike go together, others alone.

Callers bring a task each, from threads of their own, and have their own result or error back. Nobody is made to wait
for others to come: a task that finds the place free is trained at once, and those that come meanwhile are there for
the next pass. The oldest is always in it, so that each comes to its turn.
"""

import logging
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evergrove.core.errors import EvergroveError, Unreachable
from evergrove.core.transport import TrustedResult
from evergrove.learn.adapter_file import adapter_bytes
from evergrove.learn.strategies import Task
from evergrove.learn.together import Learnt, alike, separable, train_together
from evergrove.learn.trainer import Hooks, train

TASKS_MAX, ROWS_MAX = 8, 128
"""Most tasks of a pass, and most rows of one of its steps: all are in memory at once, where the trainer cuts them in
micro-batches of 16."""
N_LOSSES = 25
"""The last steps, over which a result's loss is the mean."""
log = logging.getLogger("evergrove.fog")


@dataclass(eq=False)
class _Asked:
    task: Task
    outcome: TrustedResult | Exception | None = None


class Passes:
    """Thread-safe. ``place`` is held while a pass is trained: whatever else computes there has its turn too."""

    def __init__(self, place: threading.Lock) -> None:
        self.place = place
        self._changed = threading.Condition()
        self._waiting: list[_Asked] = []  # the oldest first
        self._busy = self._closed = False
        self.sizes: list[int] = []
        """How many tasks each of the last passes had."""

    @property
    def n_waiting(self) -> int:
        """How many tasks wait for a pass to come."""
        return len(self._waiting)

    def result(self, task: Task) -> TrustedResult:
        """Blocks until the task is trained, in whosever pass. Raises what its training raises, ``Unreachable`` where
        the fog ends before its turn."""
        mine = _Asked(task)
        with self._changed:
            if self._closed:
                raise _ending()
            self._waiting.append(mine)
            self._changed.wait_for(lambda: mine.outcome is not None or (not self._busy and self._waiting[0] is mine))
            group = self._take() if mine.outcome is None else []
        if group:
            self._train(group)
        if isinstance(mine.outcome, Exception):
            try:
                raise mine.outcome
            finally:
                mine.outcome = None  # it knows this frame: in a circle the networks would outlive the request
        assert mine.outcome is not None
        return mine.outcome

    def close(self) -> None:
        """Turns away whoever waits, or comes later; what is being trained is finished."""
        with self._changed:
            self._closed = True
            for asked in self._waiting:
                asked.outcome = _ending()
            self._waiting.clear()
            self._changed.notify_all()

    def _take(self) -> list[_Asked]:
        """The oldest that waits and what goes with it; the place is taken for them."""
        first = self._waiting[0]
        most = min(TASKS_MAX, ROWS_MAX // first.task.recipe.batch) if separable(first.task) else 1
        fitting = [a for a in self._waiting if a is first or (separable(a.task) and alike(first.task, a.task))]
        group = fitting[: max(most, 1)]
        self._waiting = [a for a in self._waiting if a not in group]
        self._busy = True
        self.sizes = [*self.sizes[-99:], len(group)]
        return group

    def _train(self, group: Sequence[_Asked]) -> None:
        try:
            with self.place:
                _fill(group)
        finally:
            with self._changed:
                for asked in group:
                    asked.outcome = asked.outcome or EvergroveError("the fog's training was broken off")
                self._busy = False
                self._changed.notify_all()


def _fill(group: Sequence[_Asked]) -> None:
    """Trains a pass: every task has its outcome."""
    if len(group) > 1:
        try:
            for asked, outcome in zip(group, _together([asked.task for asked in group]), strict=True):
                asked.outcome = outcome
            return
        except Exception as fault:  # noqa: BLE001
            # Whose fault it is shows when each is trained alone; so does what does not fit into memory together.
            log.warning("%d tasks could not be trained together (%s); each is trained alone", len(group), fault)
    for asked in group:
        asked.outcome = _alone(asked.task)  # no name for it here: an error knows this frame too


def _together(tasks: Sequence[Task]) -> list[TrustedResult | Exception]:
    start_s = time.monotonic()
    learnt = train_together(tasks)
    seconds = time.monotonic() - start_s
    return [_result_of(one, seconds) for one in learnt]


def _result_of(learnt: Learnt | EvergroveError, seconds: float) -> TrustedResult | Exception:
    """``seconds`` are the whole pass's: as long as each of its tasks took."""
    if isinstance(learnt, EvergroveError):
        return learnt
    try:
        candidate = adapter_bytes(learnt.adapter)
    except EvergroveError as fault:
        return fault
    return TrustedResult(candidate, len(learnt.losses), seconds, float(np.mean(learnt.losses[-N_LOSSES:])))


def _alone(task: Task) -> TrustedResult | Exception:
    """By the trainer, in a folder that is deleted."""
    try:
        with tempfile.TemporaryDirectory(prefix="evergrove-fog-") as folder:
            outcome = train(task, Path(folder), Hooks())
            if outcome.candidate is None:
                raise EvergroveError("the fog's training ended without a candidate")
            loss = float(np.mean(outcome.losses[-N_LOSSES:]))
            return TrustedResult(outcome.candidate.read_bytes(), outcome.steps, outcome.seconds, loss)
    except Exception as fault:  # noqa: BLE001  its own caller gets it
        return fault


def _ending() -> Unreachable:
    return Unreachable("the fog is about to end and trains nothing more; send it again later")
