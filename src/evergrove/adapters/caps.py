"""How a trainer makes itself small: each cap that the system offers, applied to this process, and whether it holds.

Lowest priority, idle scheduling class, the least of sessions, idle disk class, one core of its own, and a control group
with ``cpu.idle`` and ``cpu.max`` where this process may write one. What is refused is reported with the reason; nothing
here raises.
``python -m evergrove.adapters.caps`` applies them to a process of its own and prints what became of it, for ``doctor``.
"""

import contextlib
import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path

import msgspec

IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "armv7l": 314, "armv6l": 314, "i686": 289, "ppc64le": 273}
"""The number of the system call, for which the C library has no function, by machine."""
IOPRIO_WHO_PROCESS, IOPRIO_IDLE = 1, 3 << 13
GROUP = "evergrove-trainer"
SESSION = "lowest session"
ONE_CORE = "100000 100000"
"""``cpu.max``: 100 ms of CPU time in each 100 ms."""
NICEST = 19


class Cap(msgspec.Struct, frozen=True):
    """One way in which a trainer is held back: ``in_force`` or not, and ``found`` says how, or why not."""

    name: str
    in_force: bool
    found: str


class Caps(msgspec.Struct, frozen=True):
    """All caps of a process. ``idle`` is whether an app that wants the core gets it at once."""

    every: tuple[Cap, ...]

    @property
    def idle(self) -> bool:
        """Whether the system itself takes the core away from this process whenever another one wants it."""
        in_force = {cap.name for cap in self.every if cap.in_force}
        return {"idle scheduling class", SESSION} <= in_force or "cgroup cpu.idle" in in_force


def make_small(system: Path = Path("/")) -> Caps:
    """Applies every cap to this process, for good. ``system`` is where ``proc`` and ``sys`` lie."""
    return Caps((priority(), idle_class(), own_session(system), idle_disk(), own_core(system), *control_group(system)))


def probe() -> Caps:
    """What ``make_small`` comes to here, tried in a process of its own."""
    command = [sys.executable, "-m", "evergrove.adapters.caps"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=30, check=False)
        return msgspec.json.decode(done.stdout, type=Caps)
    except (OSError, subprocess.TimeoutExpired, msgspec.MsgspecError) as fault:
        return Caps((Cap("trainer's caps", False, f"could not be tried: {fault}"),))


def priority() -> Cap:
    """The lowest ordinary priority."""
    try:
        os.nice(NICEST)
    except OSError as fault:
        return Cap("lowest priority", False, _reason(fault))
    return Cap("lowest priority", True, f"nice {NICEST}")


def idle_class() -> Cap:
    """The scheduling class that runs only where no other process wants the core."""
    name = "idle scheduling class"
    if sys.platform != "linux":
        return Cap(name, False, f"unknown to {platform.system()}")
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except OSError as fault:
        return Cap(name, False, _reason(fault))
    return Cap(name, True, "an app takes the core from the trainer at once")


def own_session(system: Path = Path("/")) -> Cap:
    """A session of its own, at the lowest weight: Linux may share cores between sessions before it looks at classes.

    With autogroups (``sched_autogroup_enabled``), every session gets an equal part, and the idle class counts only
    inside one: measured, an idle-class loop in another session made a picture of 46 ms take 112 ms, and 47 ms at this
    weight.
    """
    group = system / "proc/self/autogroup"
    if not group.exists():
        return Cap(SESSION, True, "sessions do not share the cores here")
    with contextlib.suppress(OSError):
        os.setsid()
    if os.getsid(0) != os.getpid():
        return Cap(SESSION, False, "this process leads its terminal's job, whose weight would be lowered with it")
    try:
        group.write_text(f"{NICEST}")
    except OSError as fault:
        return Cap(SESSION, False, _reason(fault))
    return Cap(SESSION, True, f"autogroup nice {NICEST}")


def idle_disk() -> Cap:
    """The disk class that is served when nobody else waits. Schedulers other than BFQ (``none``, say) ignore it."""
    name, number = "idle disk class", IOPRIO_SET.get(platform.machine())
    if sys.platform != "linux" or number is None:
        return Cap(name, False, f"unknown to {platform.system()} on {platform.machine()}")
    if ctypes.CDLL(None, use_errno=True).syscall(number, IOPRIO_WHO_PROCESS, 0, IOPRIO_IDLE):
        return Cap(name, False, os.strerror(ctypes.get_errno()))
    return Cap(name, True, "ioprio idle")


def own_core(system: Path = Path("/")) -> Cap:
    """One core out of several, so that the trainer does not wander into an app's.

    Where other trainers keep to all of them it is kept to none, and the system shares out what there is.
    """
    name = "a core of its own"
    if sys.platform != "linux":
        return Cap(name, False, f"{platform.system()} does not let a process choose")
    try:
        allowed = os.sched_getaffinity(0)
        if len(allowed) < 2:
            return Cap(name, False, "there is only one core; the frame gate alone keeps training out of frames")
        while free := allowed - set(trainers(system).values()):
            core = best_core(free, {n: capacity(n, system) for n in free})
            os.sched_setaffinity(0, {core})
            rivals = [pid for pid, at in trainers(system).items() if at == core]
            if all(pid > os.getpid() for pid in rivals):
                return Cap(name, True, f"core {core} of {len(allowed)}")
            os.sched_setaffinity(0, allowed)  # two that began at the same moment: the older stays
    except OSError as fault:
        return Cap(name, False, _reason(fault))
    return Cap(name, False, "other trainers keep to every core")


def trainers(system: Path = Path("/")) -> dict[int, int]:
    """The other trainers that keep to a core (idle class, one core), by process: two on a core halve one another."""
    found: dict[int, int] = {}
    for entry in (system / "proc").iterdir():
        pid = int(entry.name) if entry.name.isdigit() else os.getpid()
        with contextlib.suppress(OSError):
            if pid != os.getpid() and os.sched_getscheduler(pid) == os.SCHED_IDLE:
                only = os.sched_getaffinity(pid)
                if len(only) == 1:
                    found[pid] = min(only)
    return found


def best_core(allowed: set[int], capacities: dict[int, int]) -> int:
    """The core for a trainer: the weakest kind (frames need the strong ones), and of that kind the last.

    Systems put interrupts and the first programs on the first cores, and a scheduler that looks for a free core for an
    app tries them in order.
    """
    return min(allowed, key=lambda n: (capacities.get(n, 0), -n))


def capacity(core: int, system: Path) -> int:
    """How strong a core is beside the others of its machine; 0 where the system does not say."""
    folder = system / f"sys/devices/system/cpu/cpu{core}"
    for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        with contextlib.suppress(OSError, ValueError):
            return int((folder / name).read_text())
    return 0


def control_group(system: Path = Path("/")) -> tuple[Cap, Cap]:
    """A control group (v2) for the trainer, under or beside this process's own, with ``cpu.idle`` and ``cpu.max``."""
    idle, most = "cgroup cpu.idle", "cgroup cpu.max"
    mount = system / "sys/fs/cgroup"
    try:
        lines = (system / "proc/self/cgroup").read_text().splitlines()
        mine = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), None)
        if mine is None or not (mount / "cgroup.controllers").exists():
            return (Cap(idle, False, why := "no cgroup v2 here"), Cap(most, False, why))
    except OSError as fault:
        return (Cap(idle, False, why := _reason(fault)), Cap(most, False, why))
    own = mount / mine
    # A group with processes in it cannot hand a controller down, so a group beside our own is the likelier place.
    refusals = []
    for parent in dict.fromkeys((own.parent if own != mount else own, own)):
        group = parent / GROUP
        try:
            controllers = (parent / "cgroup.subtree_control").read_text().split()
            if "cpu" not in controllers:
                (parent / "cgroup.subtree_control").write_text("+cpu")
            group.mkdir(exist_ok=True)
            found = _write(group / "cpu.idle", "1", idle), _write(group / "cpu.max", ONE_CORE, most)
            if any(cap.in_force for cap in found):
                (group / "cgroup.procs").write_text(str(os.getpid()))
                return found
            refusals.append(found[1].found)
        except OSError as fault:
            refusals.append(_reason(fault))
        with contextlib.suppress(OSError):
            group.rmdir()
    why = f"this process may not make a group of its own ({refusals[-1]}); a service with Delegate=cpu may"
    return Cap(idle, False, why), Cap(most, False, why)


def _write(path: Path, text: str, name: str) -> Cap:
    try:
        path.write_text(text)
    except OSError as fault:
        return Cap(name, False, _reason(fault))
    return Cap(name, True, text)


def _reason(fault: OSError) -> str:
    return (fault.strerror or str(fault)).lower()


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(make_small()))
