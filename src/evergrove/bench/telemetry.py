"""``evergrove bench telemetry``: what one look at the device's own body costs, here and on recorded kinds of device.

The files of a recorded tree lie in memory, as those of sysfs do, but a real driver may wait for a bus behind each of
them: what that costs, only the device itself can say. Readings are apart by ``PAUSE_S``, so that caches cool a little.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from evergrove.adapters.telemetry import Reader
from evergrove.adapters.telemetry.host import LocalHost
from evergrove.bench import recorded
from evergrove.bench.measure import Bar, Machine, Spread, machine

READING_MS_MAX = 2.0
"""What one reading may cost (issue 3, §2)."""
PAUSE_S = 0.02
SETTLE_S = 0.5
"""After the first reading: what is asked in the background has been loaded then."""
KINDS: dict[str, Callable[[], recorded.Tree]] = {
    "phone": recorded.phone,
    "pi": recorded.pi,
    "jetson": recorded.jetson,
    "laptop": recorded.laptop,
}


class Cost(msgspec.Struct, frozen=True):
    """One machine: a reading, a scan for sensors (off the path), CPU time of a reading with all that it starts.

    ``n_values`` and ``n_zones`` are what a reading found, ``n_missing`` what it says is missing.
    """

    name: str
    reading: Spread
    scan_ms: float
    cpu_ms: float
    n_values: int
    n_zones: int
    n_missing: int


class Report(msgspec.Struct, frozen=True):
    """The whole measurement; the first cost is that of this machine."""

    machine: Machine
    costs: tuple[Cost, ...]

    @property
    def bars(self) -> tuple[Bar, ...]:
        """p99 of each."""
        return tuple(Bar(f"reading on {cost.name}, p99", cost.reading.p99, READING_MS_MAX, "ms") for cost in self.costs)


def run(n: int = 300, say: Callable[[str, int, int], None] = lambda what, done, total: None) -> Report:
    """``n`` readings of this machine and of each recorded one; about 7 s for each of them."""
    costs = []
    say("this machine", 0, len(KINDS) + 1)
    with tempfile.TemporaryDirectory(prefix="evergrove-bench-") as folder:
        costs.append(cost("this machine", LocalHost("/", folder), n))
        for i, (name, tree) in enumerate(KINDS.items(), 1):
            say(name, i, len(KINDS) + 1)
            root = recorded.plant(Path(folder) / name, tree())
            costs.append(cost(f"a recorded {name}", LocalHost(root, folder), n))
    return Report(machine(), tuple(costs))


def cost(name: str, host: LocalHost, n: int) -> Cost:
    """``n`` readings of one host."""
    started_s = time.perf_counter()
    reader = Reader(host)
    scan_ms = (time.perf_counter() - started_s) * 1000
    reading = reader.read()
    time.sleep(SETTLE_S)
    spent_ms = []
    cpu_s = 0.0
    for _ in range(n):
        time.sleep(PAUSE_S)
        busy_s, started_s = time.process_time(), time.perf_counter()
        reading = reader.read()
        spent_ms.append((time.perf_counter() - started_s) * 1000)
        cpu_s += time.process_time() - busy_s
    given = sum(getattr(reading, field) is not None for field in reading.__struct_fields__) - 3  # cores, zones, missing
    return Cost(
        name=name,
        reading=Spread.of(spent_ms, "ms"),
        scan_ms=round(scan_ms, 2),
        cpu_ms=round(cpu_s / n * 1000, 4),
        n_values=given,
        n_zones=len(reading.zones),
        n_missing=len(reading.missing),
    )
