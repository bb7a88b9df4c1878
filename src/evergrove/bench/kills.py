"""``evergrove bench kills``: a device is killed at every write of its life, and must come back from each.

The life (``kills_acts``) is lived once. Before each step that changes the disk, the whole folder is looked at as any
other process would see it (``kills_disk``), and what a power cut could leave is made from that. From each such state
the device must come back (``kills_check``). Starting again writes, too: each of these writes is a place to be killed at
as well. The worker is killed alone at each of its writes, and every act is lived again in a process of its own that the
kernel kills at each write (``kills_process``).
"""

import asyncio
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from evergrove.adapters.files import Files
from evergrove.bench import kills_process
from evergrove.bench.kills_acts import ACTS, TURNS, Act
from evergrove.bench.kills_check import come_back, outlive_worker
from evergrove.bench.kills_disk import Instant, Recorder, digest, write_tree
from evergrove.bench.kills_life import Life, Setting, Told
from evergrove.core.errors import EvergroveError

KINDS = ("writes", "power cuts", "starts", "workers", "processes")
"""Ways to be killed: at each write; with what was not synced lost or torn; at each write of the start after a kill; the
worker alone at each of its writes; and each write again, by SIGKILL in a process of its own.

After each the device is started and looked through. After a kill at a write it also lives the interrupted act again and
learns once more, after a power cut it learns once more.
"""
KINDS_QUICK = ("writes", "workers")


class Fault(msgspec.Struct, frozen=True):
    """A kill that the device did not come back from as it must: in which act, at which write, and what was wrong."""

    act: str
    kind: str
    write: str
    what: str


class Count(msgspec.Struct, frozen=True):
    """Kills of one kind, and how many of them the device came back from."""

    name: str
    kills: int
    recovered: int


class Report(msgspec.Struct, frozen=True):
    """``kinds`` are the ways to be killed (``KINDS``), ``steps`` the writes of the life by what is written.

    ``states`` is how many different disks the kills left (those of ``processes`` and ``workers`` not counted).
    """

    kinds: tuple[Count, ...]
    steps: tuple[Count, ...]
    acts: tuple[str, ...]
    states: int
    faults: tuple[Fault, ...]
    seconds: float

    @property
    def kills(self) -> int:
        """All of them."""
        return sum(kind.kills for kind in self.kinds)

    @property
    def recovered(self) -> int:
        """Those after which all was as it must be."""
        return sum(kind.recovered for kind in self.kinds)

    @property
    def met(self) -> bool:
        """Whether the device came back from every one."""
        return self.recovered == self.kills > 0


Say = Callable[[str, int, int], None]


def run(say: Say = lambda what, done, total: None, acts: Sequence[Act] = ACTS, kinds: Sequence[str] = KINDS) -> Report:
    """Lives, kills and recovers. The first of the ``acts`` makes the device.

    Everything is in a temporary folder, in memory where the system has one for that.
    """
    shm = Path("/dev/shm")
    place = str(shm) if os.access(shm, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="evergrove-kills-", dir=place) as folder:
        return _Enumeration(Path(folder), say, acts, kinds).report()


@dataclass
class _Enumeration:
    """The life lived once, and every instant of it recovered from."""

    folder: Path
    say: Say
    acts: Sequence[Act]
    kinds: Sequence[str]
    seen: dict[tuple[bytes, int, int], str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)
    good: Counter[str] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)
    good_steps: Counter[str] = field(default_factory=Counter)
    n_homes: int = 0

    def report(self) -> Report:
        """All of it."""
        started_s = time.monotonic()
        recorder = asyncio.run(self._live())
        for kind, instants in (("writes", recorder.instants), ("power cuts", recorder.cuts)):
            for i, instant in enumerate(instants if kind in self.kinds else ()):
                self.say(kind, i, len(instants))
                good = self._recover(kind, instant, recorder)
                if kind == "writes":
                    self.steps[instant.kind] += 1
                    self.good_steps[instant.kind] += good
        if "workers" in self.kinds:
            self._kill_workers(recorder)
        if "processes" in self.kinds:
            self._kill_processes(recorder)
        return Report(
            kinds=tuple(Count(kind, self.kills[kind], self.good[kind]) for kind in self.kinds),
            steps=tuple(Count(name, n, self.good_steps[name]) for name, n in sorted(self.steps.items())),
            acts=tuple(act.__name__ for act in self.acts),
            states=len({key[0] for key in self.seen}),
            faults=tuple(self.faults),
            seconds=round(time.monotonic() - started_s, 1),
        )

    async def _live(self) -> Recorder:
        home = self._home()
        home.mkdir(mode=0o700)
        recorder = Recorder(home, power="power cuts" in self.kinds)
        life = recorder.life = Life(home / "device", Setting(), Files(recorder.at), Told())
        for recorder.act, act in enumerate(self.acts):
            self.say("living", recorder.act, len(self.acts))
            turned = life.versions.read_pointer() if recorder.act else None
            await act(life)
            if act in TURNS and life.versions.read_pointer() == turned:
                raise EvergroveError(f"the life is not what it should be: nothing came of the act '{act.__name__}'")
        recorder.life = None
        recorder.tellings.append(life.told)
        life.end()
        shutil.rmtree(home)
        return recorder

    def _home(self) -> Path:
        self.n_homes += 1
        return self.folder / f"home-{self.n_homes}"

    def _count(self, kind: str, act: int, write: str, wrong: str) -> bool:
        """One kill, and what came of it."""
        self.kills[kind] += 1
        self.good[kind] += not wrong
        if wrong:
            self.faults.append(Fault(self.acts[act].__name__, kind, write, wrong))
        return not wrong

    def _recover(self, kind: str, instant: Instant, life: Recorder) -> bool:
        """Whether all is well after a kill at this instant. A disk that was seen is not tried again.

        With it, where these are asked for, kills at each write of the start after it.
        """
        key, start = (digest(instant.tree), instant.told, instant.act), None
        if key not in self.seen:
            home = self._home()
            write_tree(instant.tree, home)
            start = Recorder(home) if kind == "writes" and "starts" in self.kinds else None
            act = self.acts[instant.act]
            told, later = life.told(instant)
            course = act, instant.act == 0, instant.setting, told, later, start, kind == "writes", kind != "starts"
            self.seen[key] = asyncio.run(come_back(home, *course))
            shutil.rmtree(home)
        good = self._count(kind, instant.act, instant.kind, self.seen[key])
        for again in start.instants if start else ():
            self._recover("starts", Instant(again.kind, instant.act, again.tree, again.setting, instant.told), life)
        return good

    def _kill_workers(self, life: Recorder) -> None:
        """The worker alone is killed at each of its writes; the agent starts it again."""
        number = next(i for i, act in enumerate(self.acts) if act.__name__ == "learn")
        first = next(instant for instant in life.instants if instant.act == number)
        fault: str | None = ""
        n = 0
        while fault is not None:
            self.say("workers", n, n + 1)
            home = self._home()
            write_tree(first.tree, home)
            fault = asyncio.run(outlive_worker(home, self.acts[number], first.setting, life.told(first)[0], n))
            shutil.rmtree(home)
            if fault is not None:
                self._count("workers", number, f"write {n}", fault)
            n += 1

    def _kill_processes(self, life: Recorder) -> None:
        """Each act in a process of its own, killed by the kernel at each of its writes."""
        for number, act in enumerate(self.acts):
            start = next((instant for instant in life.instants if instant.act == number), None)
            if start is None:
                continue
            given = act, number == 0, start.setting, life.told(start)[0]
            home = self._home()
            write_tree(start.tree, home)
            course = kills_process.live(home, *given)
            shutil.rmtree(home)
            for n, mark in enumerate(course.marks):
                self.say(f"processes: {act.__name__}", n, len(course.marks))
                home = self._home()
                write_tree(start.tree, home)
                try:
                    kills_process.die(home, *given, n)
                    after = act, number == 0, mark.setting, *course.told(n)
                    wrong = asyncio.run(come_back(home, *after, again=False, more=False))
                except EvergroveError as fault:
                    wrong = str(fault)
                shutil.rmtree(home)
                self._count("processes", number, f"write {n}", wrong)
