"""What takes too long to be asked on the agent's path: it is asked in the background, and its last answer has an age.

``Slow`` holds the last outcome of one such job; ``Background`` runs the jobs one after the other on a thread that lives
only while there is something to do. A job that hangs makes the ages of all grow, and what is too old counts as missing.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from evergrove.adapters.telemetry.host import Unusable
from evergrove.adapters.telemetry.parse import reason_of

T = TypeVar("T")
Start = Callable[[Callable[[], None]], None]
"""Sees to it that a job is done: soon, on another thread (``Background()``), or at once (``at_once``)."""


def at_once(job: Callable[[], None]) -> None:
    """Does the job here and now: for someone who would rather wait than get an old answer, or none."""
    job()


class Background:
    """Does jobs in their order on a thread of its own."""

    def __init__(self) -> None:
        self._jobs: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()
        self._alive = False

    def __call__(self, job: Callable[[], None]) -> None:
        """Queues the job. Each ``Slow`` waits for its outcome before it comes again, which bounds the queue."""
        with self._lock:
            self._jobs.append(job)
            if self._alive:
                return
            self._alive = True
        threading.Thread(target=self._work, name="telemetry", daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._jobs:
                    self._alive = False
                    return
                job = self._jobs.popleft()
            try:
                job()
            except BaseException:
                with self._lock:
                    self._alive = False  # the next call starts a new thread for what is left
                raise


class Slow(Generic[T]):
    """One job, done again when its outcome is ``every_s`` old and somebody asks for it."""

    def __init__(self, job: Callable[[], T], every_s: float, elapsed_s: Callable[[], float], start: Start) -> None:
        """Nothing is asked yet."""
        self._job = job
        self._every_s = every_s
        self._elapsed_s = elapsed_s
        self._start = start
        self._busy = False
        self._outcome: tuple[float, T | Unusable] | None = None

    def begin(self) -> None:
        """Asks, if the last answer is old and no question is out."""
        if not self._busy and (self._outcome is None or self._elapsed_s() - self._outcome[0] >= self._every_s):
            self._busy = True
            self._start(self._refresh)

    def know(self, answer: T) -> None:
        """Takes an answer that somebody else got just now."""
        self._outcome = self._elapsed_s(), answer

    def latest(self) -> tuple[T, float]:
        """The last answer and its age in seconds, at once. Raises ``Unusable`` where there is none, or a fault."""
        self.begin()
        if self._outcome is None:
            raise Unusable("not answered yet")
        at_s, answer = self._outcome
        if isinstance(answer, Unusable):
            raise answer
        return answer, max(self._elapsed_s() - at_s, 0.0)

    def _refresh(self) -> None:
        asked_s = self._elapsed_s()
        answer: T | Unusable
        try:
            answer = self._job()
        except Unusable as fault:
            answer = fault
        except Exception as fault:  # noqa: BLE001  drivers' libraries fail in ways of their own, all meaning: no reading
            answer = Unusable(reason_of(fault))
        self._outcome = asked_s, answer
        self._busy = False
