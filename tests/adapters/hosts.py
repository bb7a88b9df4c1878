"""Machines for the tests of telemetry: a recorded tree whose files fail as sensors do, and a clock to turn."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from evergrove.adapters.telemetry import Reader
from evergrove.adapters.telemetry.host import LocalHost, Unusable
from evergrove.adapters.telemetry.slow import Start, at_once
from evergrove.bench.recorded import Tree, plant


class Clock:
    """Seconds that pass only when a test, or a slow file, lets them."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        """The time."""
        return self.now_s


class Machine(LocalHost):
    """A recorded tree in ``root``. ``faults`` by path are raised, ``slow_s`` by path pass, ``commands`` answer."""

    def __init__(self, root: Path, clock: Clock) -> None:
        super().__init__(root, root)
        self.root = root
        self.clock = clock
        self.faults: dict[str, OSError] = {}
        self.slow_s: dict[str, float] = {}
        self.commands: dict[str, bytes | Exception] = {}
        self.free: Callable[[], int] = lambda: 123_000_000
        self.libraries: dict[str, Any] = {}
        self.n_reads = 0
        self.n_runs = 0

    def read(self, path: str, n_bytes: int, *, keep: bool = False) -> bytes:
        """Late, broken, or what the tree says."""
        self.n_reads += 1
        self.clock.now_s += self.slow_s.get(path, 0.0)
        if path in self.faults:
            raise self.faults[path]
        return super().read(path, n_bytes, keep=keep)

    def names(self, path: str) -> list[str]:
        """The tree's entries, or a fault."""
        if path in self.faults:
            raise self.faults[path]
        return super().names(path)

    def disk_free_bytes(self) -> int:
        """What the test says."""
        return self.free()

    def has(self, command: str) -> bool:
        """Whether the test has an answer."""
        return command in self.commands

    def run(self, *words: str) -> bytes:
        """The test's answer."""
        self.n_runs += 1
        answer = self.commands[words[0]]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def nvml(self) -> Any:
        """What gives the test's library, if it has one."""
        return partial(self.libraries.get, "nvml") if "nvml" in self.libraries else None

    def psutil(self) -> Any:
        """The test's library, if it has one."""
        return self.libraries.get("psutil")

    def write(self, path: str, text: str) -> None:
        """A sensor changes its mind."""
        plant(self.root, {path: text})

    def remove(self, path: str) -> None:
        """A sensor is unplugged."""
        (self.root / path.lstrip("/")).unlink()

    def reader(self, start: Start = at_once, metered: str = "auto", rescan_s: float = 300.0) -> Reader:
        """A reader of this machine that does slow jobs at once."""
        return Reader(self, metered=metered, rescan_s=rescan_s, elapsed_s=self.clock, start=start)


class Later:
    """Does jobs when told to: the background of a test."""

    def __init__(self) -> None:
        self.jobs: list[Callable[[], None]] = []

    def __call__(self, job: Callable[[], None]) -> None:
        """Queues it."""
        self.jobs.append(job)

    def work(self) -> None:
        """Does all that waits."""
        jobs, self.jobs = self.jobs, []
        for job in jobs:
            job()


MADE: list[Machine] = []


def machine(folder: Path, tree: Tree) -> Machine:
    """A machine with these files. Ends with the test that made it."""
    MADE.append(Machine(plant(folder, tree), Clock()))
    return MADE[-1]


def end_machines() -> None:
    """Closes what machines hold open."""
    while MADE:
        MADE.pop().close()


__all__ = ["Clock", "Later", "Machine", "Unusable", "end_machines", "machine"]
