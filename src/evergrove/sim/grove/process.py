"""A process of a simulated grove: it lives on real files, is killed between two steps of its work or at a write, and
starts again from what is on its disk.

``Files`` announces every write, so a kill can fall into any of them; what a process holds in memory is dropped with it.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from evergrove.adapters.files import Files
from evergrove.core.errors import Unreachable
from evergrove.sim.engine import Action, Engine, PowerCut

T = TypeVar("T")


class Down(Unreachable):
    """The process that was asked is down, or went down before it had answered."""


class Fuse:
    """Files that burn through at a write: from then on nothing more is written in this life."""

    def __init__(self) -> None:
        self.files = Files(self._step)
        self.left: int | None = None
        """Writes until it burns through; None: it holds."""
        self._burnt = False

    def mend(self) -> None:
        """As new: what is written now is another life's."""
        self.left, self._burnt = None, False

    def _step(self, step: str, path: Path) -> None:
        if self.left is not None:
            self.left -= 1
            self._burnt = self._burnt or self.left <= 0
        if self._burnt:
            raise PowerCut(f"killed before '{step}' of {path.name}")


class Process(ABC):
    """One process. ``_open`` and ``_close`` are what it does at its start, and what the system does at its end."""

    kind = ""

    def __init__(self, engine: Engine, name: str, down_s: float) -> None:
        self.engine, self.name = engine, name
        self.up, self.n_killed = False, 0
        self._down_s, self._fuse, self._life = down_s, Fuse(), 0

    @property
    def files(self) -> Files:
        """Where it writes."""
        return self._fuse.files

    def boot(self) -> None:
        """Starts it, from what is on its disk."""
        if self.up:
            return
        self.up, self._life = True, self._life + 1
        self._fuse.mend()
        with contextlib.suppress(Down):
            self.run(self._open)

    def kill(self, at_write: int = 0) -> None:
        """Kills it now, or at its n-th write from now on."""
        if not self.up:
            return
        if at_write == 0:
            self._die()
        elif self._fuse.left is None:
            self._fuse.left = at_write

    def spare(self) -> None:
        """A kill that was to come does not."""
        self._fuse.left = None

    def run(self, act: Callable[[], T]) -> T:
        """Lets it act. Raises ``Down`` where it is not there, or dies over it."""
        if not self.up:
            raise Down(f"{self.name} does not answer")
        try:
            return act()
        except PowerCut as fault:
            self._die()
            raise Down(f"{self.name} went away") from fault

    def later(self, delay_s: float, act: Action) -> None:
        """Lets it act after a time, if it lives until then."""
        life = self._life

        def run() -> None:
            if self._life == life:
                with contextlib.suppress(Down):
                    self.run(act)

        self.engine.after(delay_s, run)

    def every(self, period_s: float, act: Action) -> None:
        """Lets it act again and again, in this life."""

        def again() -> None:
            self.later(period_s, again)
            act()

        self.later(period_s, again)

    def end(self) -> None:
        """Ends it for good."""
        if self.up:
            self.up, self._life = False, self._life + 1
            self._fuse.mend()
            self._close()

    def _die(self) -> None:
        self.up, self._life = False, self._life + 1
        self.n_killed += 1
        self._fuse.mend()  # the system lets go of what it held, in silence
        self._close()
        self.engine.after(self._down_s, self.boot)

    @abstractmethod
    def _open(self) -> None: ...

    @abstractmethod
    def _close(self) -> None: ...
