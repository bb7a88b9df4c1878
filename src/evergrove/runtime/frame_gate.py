"""The frame gate: a small file in shared memory in which apps say when they make frames; training yields to them.

Each app has a *slot* that it alone writes: when a frame begins, is due and has ended, and how it went. The agent writes
the training share d; the trainer writes what it has used. Everybody reads everything. No frame waits for another
process: every field is one aligned 8-byte word with one writer, and who reads an old word merely knows less. What is
older than its limits counts as not there, so a process that was killed in the middle of anything blocks neither
training nor frames. Times are seconds of the system-wide monotonic clock.
"""

import contextlib
import fcntl
import hashlib
import math
import mmap
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np

from evergrove.core.errors import UsageError
from evergrove.core.telemetry import Telemetry, Value

VERSION: Final = 1
MAGIC: Final = int.from_bytes(b"EVGROVEG", "little") >> 1
SHARES: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
SLOTS: Final = 16
"""Apps that may announce frames at once; one more works unannounced."""
RING: Final = 512
"""Latest scheduled frames that a slot remembers: 17 s at 30 a second."""

# The layout, in words of 8 bytes: header, agent, trainer, then the slots, each with its ring behind it.
_MAGIC, _VERSION, _AGENT, _TRAINER, _FIRST = 0, 1, 8, 16, 32
_SHARE = _AGENT
_PID, _ALIVE, _CPU, _PIECES, _ROWS, _OVERRUNS, _STARVED = range(_TRAINER, _TRAINER + 7)
_OWNER, _THREADS, _BEGAN, _ENDED, _NEXT, _PERIOD, _SERVED, _LATE, _SCHEDULED = range(9)
_RING = 16
_STRIDE = _RING + 2 * RING
N_WORDS: Final = _FIRST + SLOTS * _STRIDE

FRAME_S_MAX: Final = 1.0
"""A frame that began longer ago and has not ended belongs to an app that died, or hangs: nobody waits for it."""
PERIODS_MISSED_MAX: Final = 2.0
"""A stream that is this many periods behind its own schedule has stopped, whatever it announced."""
AHEAD_S_MAX: Final = 60.0
"""Nobody knows that far ahead: a frame that is announced for later is a damaged word."""
RECENT_S: Final = 30.0
"""How far back the p99 of frames looks."""
TRAINER_S_MAX: Final = 3.0
"""A trainer looks at the gate far more often than this while it lives."""


def path_of(root: Path) -> Path:
    """Where the gate of a device lies: in memory (``/dev/shm``) where the system has such a place, else in its folder.

    A mapped file on a disk would do, but storing into it can wait for the file system while dirty pages are written
    back: that is a frame lost to a log flush (the JVM's ``hsperfdata`` in ``/tmp`` taught this).
    """
    shm = Path("/dev/shm")
    if not os.access(shm, os.W_OK):
        return root / "frames.gate"
    name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:24]
    return shm / f"evergrove-{os.getuid()}-{name}.gate{VERSION}"


class Frames(NamedTuple):
    """Frames of all apps. ``served`` and ``late`` count since the gate was made and never go down.

    ``p99_ratio`` is the p99 of the last half minute's frame times over their budgets: 0 where no frame had a schedule
    (then nothing can be late), else with the number ``n`` of frames behind it and the age of the newest, ``age_s``.
    """

    served: int
    late: int
    p99_ratio: float
    n: int
    age_s: float


class Training(NamedTuple):
    """What the trainer has used. ``cpu_s`` is CPU time up to ``at_s``.

    ``overruns`` counts pieces that took longer than the slack that they were let into, ``starved`` how often the
    shortest possible piece was longer than any slack.
    """

    pid: int
    at_s: float
    cpu_s: float
    pieces: int
    rows: int
    overruns: int
    starved: int


class Moment(NamedTuple):
    """What is going on right now. ``threads`` are those of the apps that make frames, ``making`` those in a frame.

    ``slack_s`` is the time until the next frame is to begin, infinite where none is announced.
    """

    threads: int
    making: int
    slack_s: float


class FrameGate:
    """A gate as one process maps it. The agent sets the share, an app takes a slot (``app``), the trainer reports."""

    def __init__(self, path: Path, now_s: Callable[[], float] = time.monotonic) -> None:
        """Opens the gate at ``path``, makes it where there is none or it is of no use.

        Raises ``OSError`` where that is not allowed, or the file is somebody else's.
        """
        self.path = path
        self.now_s = now_s
        self._map, self._inode = _open(path)
        whole = memoryview(self._map)
        self._i: memoryview[int] = whole.cast("q")
        self._f: memoryview[float] = whole.cast("d")

    def close(self, remove: bool = False) -> None:
        """Lets go of the gate. ``remove`` deletes the file too, unless an app that lives has it open."""
        if self._map.closed:
            return
        if remove:
            with contextlib.suppress(OSError), _locked(self.path):
                if not any(_lives(self._i[slot + _OWNER]) for slot in _slots()):
                    self.path.unlink()
        self._i.release()
        self._f.release()
        with contextlib.suppress(BufferError):  # an array of ``frames`` may still be alive in another thread
            self._map.close()

    # The agent's side

    def set_share(self, share: float) -> None:
        """Lets the trainer use this part of one core from its next micro-batch on; 0 pauses it where it is."""
        if share not in SHARES:
            raise UsageError(f"a training share is one of {', '.join(f'{d:g}' for d in SHARES)}, not {share}")
        self._f[_SHARE] = share

    @property
    def share(self) -> float:
        """The training share d ∈ {0, ¼, ½, ¾, 1}; a word that is none of these (a damaged file) counts as 0."""
        share = self._f[_SHARE]
        return share if share in SHARES else 0.0

    def frames(self) -> Frames:
        """The frames of all apps so far, and how the latest did."""
        now_s = self.now_s()
        served = late = 0
        recent: list[np.ndarray] = []
        newest_s = -math.inf
        for slot in _slots():
            served += max(0, self._i[slot + _SERVED])
            late += max(0, self._i[slot + _LATE])
            if self._i[slot + _SCHEDULED]:
                ring = np.array(self._f[slot + _RING : slot + _STRIDE]).reshape(RING, 2)
                fresh = (ring[:, 0] > now_s - RECENT_S) & (ring[:, 0] <= now_s) & np.isfinite(ring[:, 1])
                recent.append(ring[fresh, 1])
                newest_s = max(newest_s, float(ring[fresh, 0].max(initial=-math.inf)))
        ratios = np.concatenate(recent) if recent else np.empty(0)
        if not len(ratios):
            return Frames(served, late, 0.0, 0, 0.0)
        return Frames(served, late, float(np.percentile(ratios, 99)), len(ratios), max(0.0, now_s - newest_s))

    def training(self) -> Training | None:
        """What the trainer last said of itself; None where none lives."""
        i, f = self._i, self._f
        if not _lives(i[_PID]) or not 0.0 <= self.now_s() - f[_ALIVE] <= TRAINER_S_MAX:
            return None
        return Training(i[_PID], f[_ALIVE], f[_CPU], i[_PIECES], i[_ROWS], i[_OVERRUNS], i[_STARVED])

    # The trainer's side

    def moment(self) -> Moment:
        """Who makes frames now, and how long until the next one begins."""
        now_s, i, f = self.now_s(), self._i, self._f
        threads, making, slack_s = 0, 0, math.inf
        for slot in _slots():
            if not i[slot + _OWNER]:
                continue
            began_s, period_s, next_s = f[slot + _BEGAN], f[slot + _PERIOD], f[slot + _NEXT]
            busy = f[slot + _ENDED] < began_s and 0.0 <= now_s - began_s <= FRAME_S_MAX
            due = period_s > 0.0 and -PERIODS_MISSED_MAX * period_s <= next_s - now_s <= AHEAD_S_MAX
            if not (busy or due) or not _lives(i[slot + _OWNER]):
                continue
            threads += max(1, i[slot + _THREADS])
            making += busy
            if due:
                slack_s = min(slack_s, max(0.0, next_s - now_s))
        return Moment(threads, making, 0.0 if making else slack_s)

    def report(self, training: Training) -> None:
        """The trainer's word on itself; ``at_s`` goes last, so that it vouches for the rest."""
        i, f = self._i, self._f
        i[_PID], f[_CPU] = training.pid, training.cpu_s
        i[_PIECES], i[_ROWS], i[_OVERRUNS], i[_STARVED] = training[3:]
        f[_ALIVE] = training.at_s

    # An app's side

    def app(self, threads: int = 1) -> "Announcer | None":
        """A slot for this process, whose frames take ``threads`` threads; None where all are taken.

        Takes a file lock for a moment, against other apps that open now; frames never do. Raises ``OSError`` where the
        gate was removed since it was opened.
        """
        with _locked(self.path) as handle:
            if os.fstat(handle).st_ino != self._inode:
                raise FileNotFoundError(f"{self.path}: the gate that was opened has been removed; open it again")
            for slot in _slots():
                if not _lives(self._i[slot + _OWNER]):
                    return Announcer(self, self._i, self._f, slot, threads)
        return None


class Announcer:
    """One app's word in the gate. Its threads may make frames at once; a schedule is one stream's alone."""

    def __init__(self, gate: FrameGate, i: "memoryview[int]", f: "memoryview[float]", slot: int, threads: int) -> None:
        self._now_s = gate.now_s
        self._i, self._f, self._slot = i, f, slot
        self._own = threading.Lock()
        self._making = 0
        f[slot + _BEGAN] = f[slot + _ENDED] = f[slot + _PERIOD] = f[slot + _NEXT] = 0.0
        i[slot + _THREADS] = threads
        i[slot + _OWNER] = os.getpid()

    def begin(self) -> None:
        """A frame begins."""
        with self._own:
            self._making += 1
            self._f[self._slot + _BEGAN] = self._now_s()

    def end(self, budget_s: float = 0.0, late: bool = False, took_s: float = 0.0) -> None:
        """The frame has ended. With a ``budget_s`` it had a schedule: it took ``took_s`` of it, and was late or not."""
        i, f, slot = self._i, self._f, self._slot
        with self._own:
            now_s = self._now_s()
            self._making -= 1
            if not self._making:
                f[slot + _ENDED] = now_s
            i[slot + _SERVED] += 1
            if budget_s > 0.0:
                at = slot + _RING + 2 * (i[slot + _SCHEDULED] % RING)
                f[at + 1], f[at] = took_s / budget_s, now_s
                i[slot + _SCHEDULED] += 1
                i[slot + _LATE] += late

    def schedule(self, next_s: float, period_s: float) -> None:
        """The next frame begins at ``next_s``, then one each ``period_s``; a period of 0 ends the stream."""
        self._f[self._slot + _NEXT] = next_s
        self._f[self._slot + _PERIOD] = period_s

    def close(self) -> None:
        """Gives the slot back; what it counted stays."""
        self._f[self._slot + _PERIOD] = 0.0
        self._f[self._slot + _ENDED] = self._now_s()
        self._i[self._slot + _OWNER] = 0


class Meter:
    """The agent's reading of a gate, for telemetry: call ``complete`` once per reading."""

    def __init__(self, gate: FrameGate) -> None:
        self._gate = gate
        self._last: Training | None = None

    def train_share(self) -> float:
        """The part of one core that the trainer used since the last call; 0 where none runs."""
        last, self._last = self._last, self._gate.training()
        if last is None or self._last is None or last.pid != self._last.pid or self._last.at_s <= last.at_s:
            return 0.0
        return max(0.0, (self._last.cpu_s - last.cpu_s) / (self._last.at_s - last.at_s))

    def complete(self, reading: Telemetry) -> Telemetry:
        """The reading with what only the gate knows: frames, and the trainer's share."""
        frames = self._gate.frames()
        return msgspec.structs.replace(
            reading,
            train_share=Value(round(self.train_share(), 4)),
            frame_p99_ratio=Value(round(frames.p99_ratio, 4), round(frames.age_s, 3)),
            frames_served=Value(float(frames.served)),
            frames_late=Value(float(frames.late)),
        )


def _open(path: Path) -> tuple[mmap.mmap, int]:
    """The gate's bytes, shared; one that is too short, of another kind or half made is replaced by a new one."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid():
                raise PermissionError(f"{path}: not a file of this user's; remove it")
            if not _is_at(found, path):
                continue  # somebody removed it meanwhile: what is there now is the gate
            if found.st_size == 0:
                os.ftruncate(handle, 8 * N_WORDS)
                words = memoryview(mapped := mmap.mmap(handle, 8 * N_WORDS)).cast("q")
                words[_VERSION] = VERSION
                words[_MAGIC] = MAGIC
                words.release()
                memoryview(mapped).cast("d")[_SHARE] = 1.0
                return mapped, found.st_ino
            if found.st_size == 8 * N_WORDS:
                mapped = mmap.mmap(handle, 8 * N_WORDS)
                with memoryview(mapped) as whole, whole.cast("q") as words:
                    if words[_MAGIC] == MAGIC and words[_VERSION] == VERSION:
                        return mapped, found.st_ino
                mapped.close()
            # Never cut short in place: another process that maps it would be ended by SIGBUS.
            path.unlink()
        finally:
            # The mapping holds a copy of the handle, which would hold the lock for as long as the gate is open.
            fcntl.flock(handle, fcntl.LOCK_UN)
            os.close(handle)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)


def _is_at(found: os.stat_result, path: Path) -> bool:
    try:
        there = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (found.st_dev, found.st_ino)


def _slots() -> range:
    return range(_FIRST, N_WORDS, _STRIDE)


def _lives(pid: int) -> bool:
    """Whether a process exists. A number that went to another one meanwhile looks alive until its times are old."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
