"""A worker process in virtual time: a job's core-seconds, done at the pace that its share and the heat allow."""

from collections.abc import Callable

from evergrove.core import effects as do
from evergrove.sim.engine import Action, Engine

Order = do.StartTraining | do.StartMeasuring | do.StartChoosing


class Worker:
    """One job at work. ``pace`` is core-seconds of progress per second; at 0 it rests where it is."""

    def __init__(self, engine: Engine, order: Order, cost_s: float, done_s: float, finished: Action) -> None:
        """``done_s`` of ``cost_s`` core-seconds are done already; ``finished`` runs when all of it is."""
        self.order = order
        self.cost_s = cost_s
        self.done_s = done_s
        self.pace = 0.0
        self._engine = engine
        self._finished = finished
        self._since_s = engine.now_s
        self._ticket: int | None = None

    def set_pace(self, pace: float) -> None:
        """Goes on at another pace from now on."""
        if pace == self.pace:
            return
        self.settle()
        self.pace = pace
        self._plan()

    def settle(self) -> float:
        """Counts the progress up to now; gives the core-seconds since the last count."""
        now_s = self._engine.now_s
        gained = min(self.pace * (now_s - self._since_s), self.cost_s - self.done_s)
        self.done_s += gained
        self._since_s = now_s
        return gained

    def stop(self) -> None:
        """Ends it; it will not finish."""
        self.settle()
        self.pace = 0.0
        self._plan()

    def _plan(self) -> None:
        if self._ticket is not None:
            self._engine.cancel(self._ticket)
            self._ticket = None
        if self.pace > 0:
            self._ticket = self._engine.after((self.cost_s - self.done_s) / self.pace, self._finish)

    def _finish(self) -> None:
        self._ticket = None
        self.settle()
        self.done_s = self.cost_s
        self.pace = 0.0
        self._finished()


class Gateway:
    """A fog as its devices see it: an assist that is computed once for each release, and whole steps for its owner.

    ``up`` says whether it answers at a time. What it promises is declared in the scenario; the in-process fog of the
    library keeps it.
    """

    def __init__(self, engine: Engine, assist_s: float, up: Callable[[float], float]) -> None:
        self._engine = engine
        self._assist_s = assist_s
        self._up = up
        self._ready_s: dict[str, float] = {}
        self.counted: dict[tuple[str, str], int] = {}
        """The updates by (device, token), each with its number: counted once, however often it comes."""
        self.n_computed = 0
        self.n_answered = 0

    def assist(self, release: str) -> float | None:
        """In how many seconds the assist of a release will be ready; None where nobody answers."""
        now_s = self._engine.now_s
        if not self._up(now_s):
            return None
        if release not in self._ready_s:
            self._ready_s[release] = now_s + self._assist_s
            self.n_computed += 1
        self.n_answered += 1
        return max(0.0, self._ready_s[release] - now_s)

    def update(self, device: str, token: str) -> int | None:
        """The number under which an update is counted; None where nobody answers."""
        if not self._up(self._engine.now_s):
            return None
        self.n_answered += 1
        return self.counted.setdefault((device, token), len(self.counted))

    def work(self, seconds: float) -> float | None:
        """In how many seconds a step that takes as long is done; None where nobody answers."""
        if not self._up(self._engine.now_s):
            return None
        self.n_answered += 1
        return seconds
