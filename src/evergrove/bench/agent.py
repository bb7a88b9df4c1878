"""``evergrove bench agent``: what a device's agent takes while it has nothing to do, with an app attached.

A temporary device that has seen a few pictures; its agent's CPU time comes from ``/proc/PID/stat`` (with the processes
that it started and that ended), its memory from ``/proc/PID/status``. Nothing asks the agent for anything meanwhile.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from evergrove.adapters.release import open_release
from evergrove.bench.measure import Bar, Machine, machine, rss_mb
from evergrove.bootstrap import Device
from evergrove.core.errors import EvergroveError
from evergrove.media.packs import read_pack

CPU_SHARE_MAX = 0.005
"""Of one core, idle over five minutes (issue 3, §2)."""
MEMORY_MB_MAX = 80.0
"""Resident (DESIGN §3)."""
SECONDS = 300.0
SECONDS_QUICK = 20.0
SETTLE_S = 3.0
"""After the last request: what it wrote and froze is behind it then."""
N_OBSERVATIONS = 24
LOOKS = 10
"""How often the memory is looked at."""


class Report(msgspec.Struct, frozen=True):
    """``cpu_share`` is of one core; ``cpu_s_step`` is the grain of the kernel's count. ``mb`` is the greatest seen."""

    release: str
    seconds: float
    cpu_s: float
    cpu_s_step: float
    cpu_share: float
    mb: float
    wakeups_per_s: float
    machine: Machine

    @property
    def bars(self) -> tuple[Bar, ...]:
        """What the design promises."""
        return (
            Bar("agent idle, of one core", round(100 * self.cpu_share, 4), 100 * CPU_SHARE_MAX, "%"),
            Bar("agent idle, resident", self.mb, MEMORY_MB_MAX, "MB"),
        )


def run(
    seconds: float = SECONDS,
    place: str | Path = "avatars",
    say: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Report:
    """Watches an idle agent for so many seconds. Raises ``EvergroveError`` where there is no /proc, or it ended."""
    release = open_release(place)
    pack = read_pack(release.path_of(release.manifest.rehearsal))
    flags = {"agent.linger_s": str(seconds + 120), "learn.auto": "false"}
    with (
        tempfile.TemporaryDirectory(prefix="evergrove-bench-") as folder,
        Device.create(Path(folder) / "device", release=place, flags=flags) as device,
    ):
        try:
            for image, code in zip(pack.images[:N_OBSERVATIONS], pack.codes, strict=False):
                device.observe(image, device.vocabulary.decode(tuple(int(number) for number in code)))
            pid = device.agent_pid
            time.sleep(SETTLE_S)
            found = watch(pid, seconds, say)
            if device.agent_pid != pid:
                raise EvergroveError("another agent has taken over while one was measured; measure again")
        finally:
            device.close(stop_agent=True)
    cpu_s, took_s, mb, wakeups = found
    return Report(
        release=release.manifest.name,
        seconds=round(took_s, 1),
        cpu_s=round(cpu_s, 3),
        cpu_s_step=1 / os.sysconf("SC_CLK_TCK"),
        cpu_share=float(f"{cpu_s / took_s:.3g}"),
        mb=round(mb, 1),
        wakeups_per_s=round(wakeups / took_s, 2),
        machine=machine(),
    )


def watch(
    pid: int, seconds: float, say: Callable[[str, int, int], None], proc: Path = Path("/proc")
) -> tuple[float, float, float, int]:
    """CPU seconds, the seconds that it really took, the greatest resident MB, and how often the process woke up.

    Raises ``EvergroveError`` where the process ended or cannot be looked at.
    """
    try:
        cpu_s, wakeups, started_s, mb = cpu_seconds(pid, proc), switches(pid, proc), time.monotonic(), 0.0
        for look in range(LOOKS):
            say("idle", look, LOOKS)
            time.sleep(max(started_s + (look + 1) * seconds / LOOKS - time.monotonic(), 0.0))
            mb = max(mb, rss_mb(pid, proc))
        took_s = time.monotonic() - started_s
        return cpu_seconds(pid, proc) - cpu_s, took_s, mb, switches(pid, proc) - wakeups
    except OSError as fault:
        raise EvergroveError(f"the agent (process {pid}) cannot be watched: {fault}; this needs Linux") from fault


def cpu_seconds(pid: int, proc: Path = Path("/proc")) -> float:
    """CPU time of a process and of its children that ended: fields 14 to 17 of its stat, after its name in brackets."""
    fields = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def switches(pid: int, proc: Path = Path("/proc")) -> int:
    """How often its main thread has given up the core by itself; 0 where the kernel does not tell."""
    for line in (proc / str(pid) / "status").read_text().splitlines():
        if line.startswith("voluntary_ctxt_switches:"):
            return int(line.split()[1])
    return 0
