"""The cores: how many, how busy, how fast they run, and how often they were slowed down.

``throttle_count`` only ever rises; what it starts from means nothing, differences do. It adds up what the machine has:
Intel's counters, the throttle bits of a Raspberry Pi, the clock reasons of an NVIDIA card.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from evergrove.adapters.telemetry.heat import model
from evergrove.adapters.telemetry.host import Unusable
from evergrove.adapters.telemetry.parse import quote
from evergrove.adapters.telemetry.probe import Probe, Sheet
from evergrove.adapters.telemetry.slow import Slow
from evergrove.core.telemetry import Value

CPUS = "/sys/devices/system/cpu"
CORES_MAX = 4096
POLICIES_MAX = 8
"""Frequency domains that are read; of more, as many evenly spread over them."""
COUNTERS_MAX = 16
"""Cores whose own throttle counter is read; the one of the package speaks for all."""
BOOST_MAX = 1.3
"""By how much a core may run above its nominal greatest frequency; more is garbage."""
COUNT_MAX = 10**15
TICKS_MIN = 10
"""Ticks (of 10 ms) in all cores together below which a share of them would be noise."""
PI_BITS = "/sys/devices/platform/soc/soc:firmware/get_throttled"
PI_NOW = 0b1111
"""Under-voltage, frequency capped, throttled, soft temperature limit: each of them means slower cores, now."""
PI_EVERY_S = 30.0
"""How often ``vcgencmd`` is run."""


class Cores:
    """How many cores there are, and which part of all of them was busy since the last reading."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self.n_cores = 1
        self._ticks: tuple[int, int] | None = None
        self._last: tuple[float, float] | None = None
        """The last share and when it was made, in seconds."""

    def scan(self) -> None:
        """Counts the cores that are online, and takes the first ticks to count from."""
        psutil = self._probe.host.psutil()
        self.n_cores = (
            count_list(self._probe.word(f"{CPUS}/online"))
            or len(core_names(self._probe))
            or (psutil.cpu_count() if psutil is not None else 0)
            or 1
        )
        if self._ticks is None:
            try:
                self._ticks = self._now()[0]
            except Unusable:
                self._ticks = None

    def read(self, sheet: Sheet) -> None:
        """``load_share``, from the first line of /proc/stat."""
        sheet.take("load_share", self._share)

    def _share(self) -> Value:
        ticks, age_s = self._now()
        before, now_s = self._ticks, self._probe.elapsed_s()
        if before is None:
            self._ticks = ticks
            raise Unusable("needs two readings")
        total, busy = ticks[0] - before[0], ticks[1] - before[1]
        if total < 0 or busy < 0 or busy > total:
            self._ticks, self._last = ticks, None
            raise Unusable("the counters ran backwards")
        if total < TICKS_MIN:
            if self._last is None:
                raise Unusable("needs two readings")
            return Value(self._last[0], max(now_s - self._last[1], 0.0))
        self._ticks, self._last = ticks, (busy / total, now_s)
        return Value(busy / total, age_s)

    def _now(self) -> tuple[tuple[int, int], float]:
        """All ticks and the busy ones: neither idle, nor waiting for a disk, nor taken by a hypervisor."""
        text, age_s = self._probe.text("/proc/stat", 512, head=True)
        line = text.partition("\n")[0]
        found = re.fullmatch(r"cpu +([0-9]{1,19}(?: [0-9]{1,19}){3,11}) *", line, re.ASCII)
        if not found:
            raise Unusable(f"not the counters of a processor: {quote(line)}" if line.strip() else "empty")
        user, nice, system, idle, iowait, irq, softirq, steal = ([int(n) for n in found[1].split()] + [0] * 4)[:8]
        busy = user + nice + system + irq + softirq
        return (busy + idle + iowait + steal, busy), age_s


class Clocks:
    """``cpu_freq_share``: the frequency of the cores as a part of their greatest, mean over their domains."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._domains: tuple[tuple[str, int], ...] = ()

    def scan(self) -> None:
        """The frequency domains and the greatest frequency of each in kHz."""
        base = f"{CPUS}/cpufreq"
        places = [f"{base}/{name}" for name in sorted(self._probe.names(base)) if name.startswith("policy")]
        if not places:
            places = [f"{CPUS}/{name}/cpufreq" for name in core_names(self._probe)]
        domains = []
        for place in places:
            most = self._probe.fact(f"{place}/cpuinfo_max_freq", 10_000, 20_000_000)
            if most is not None:
                domains.append((f"{place}/scaling_cur_freq", most))
        step = -(-len(domains) // POLICIES_MAX) or 1
        self._domains = tuple(domains[::step])

    def read(self, sheet: Sheet) -> None:
        """0 to 1."""
        sheet.take("cpu_freq_share", self._share)

    def _share(self) -> Value:
        if not self._domains:
            raise Unusable("no frequency is told")
        shares, age_s = [], 0.0
        for path, most in self._domains:
            now = self._probe.number(path, 1_000, 20_000_000)
            if now.value > BOOST_MAX * most:
                raise Unusable(f"out of range: {now.value:.0f} kHz of {most:.0f}")
            shares.append(min(now.value / most, 1.0))
            age_s = max(age_s, now.age_s)
        return Value(sum(shares) / len(shares), age_s)


@dataclass(frozen=True)
class Count:
    """One part of ``throttle_count``: where it comes from, and how it is read (raises ``Unusable``)."""

    name: str
    read: Callable[[], Value]


class Throttles:
    """``throttle_count``: the sum of all parts that the machine has. One that cannot be read hides the others."""

    def __init__(self, probe: Probe, other: Callable[[], tuple[Count, ...]] = tuple) -> None:
        """``other`` gives the parts that somebody else looks after."""
        self._probe = probe
        self._other = other
        self._counts: tuple[Count, ...] = ()
        self._bits = PiBits()
        self._command: Slow[str] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Where the count comes from."""
        return tuple(count.name for count in (*self._counts, *self._other()))

    def scan(self) -> None:
        """Looks for counters and throttle bits anew."""
        counts = []
        files = self._intel()
        if files:
            counts.append(Count("processor", lambda: self._sum(files)))
        if self._probe.word(PI_BITS):
            counts.append(Count("firmware", lambda: self._pi(self._probe.text(PI_BITS))))
        elif model(self._probe).startswith("Raspberry Pi") and self._probe.host.has("vcgencmd"):
            command = self._command or self._probe.later(self._vcgencmd, PI_EVERY_S)
            self._command = command
            command.begin()
            counts.append(Count("vcgencmd", lambda: self._pi(command.latest())))
        self._counts = tuple(counts)

    def read(self, sheet: Sheet) -> None:
        """The sum, as old as its oldest part."""
        sheet.take("throttle_count", self._total)

    def _total(self) -> Value:
        values = [count.read() for count in (*self._counts, *self._other())]
        if not values:
            raise Unusable("no counter of throttling")
        return Value(sum(value.value for value in values), max(value.age_s for value in values))

    def _intel(self) -> tuple[str, ...]:
        """One counter of each package, and those of the first cores."""
        packages: dict[str, str] = {}
        cores: list[str] = []
        for name in core_names(self._probe):
            base = f"{CPUS}/{name}/thermal_throttle"
            package = self._probe.word(f"{CPUS}/{name}/topology/physical_package_id") or "0"
            if package not in packages and self._probe.word(f"{base}/package_throttle_count"):
                packages[package] = f"{base}/package_throttle_count"
            if len(cores) < COUNTERS_MAX and self._probe.word(f"{base}/core_throttle_count"):
                cores.append(f"{base}/core_throttle_count")
        return (*packages.values(), *cores)

    def _sum(self, files: tuple[str, ...]) -> Value:
        values = [self._probe.number(path, 0, COUNT_MAX, register=False) for path in files]
        return Value(sum(value.value for value in values), max(value.age_s for value in values))

    def _pi(self, answer: tuple[str, float]) -> Value:
        text, age_s = answer
        return Value(float(self._bits.count(text, self._probe.elapsed_s() - age_s)), age_s)

    def _vcgencmd(self) -> str:
        return self._probe.host.run("vcgencmd", "get_throttled")[:256].decode("ascii", "replace")


class PiBits:
    """Turns the throttle bits of a Raspberry Pi into a count that rises with each look that finds the cores slowed.

    The bits from 16 on say that something *has* happened since boot: one that appears between two looks counts too.
    """

    def __init__(self) -> None:
        self._n = 0
        self._past: int | None = None
        self._at_s: float | None = None

    def count(self, text: str, at_s: float) -> int:
        """Takes what was said at ``at_s``, in hexadecimal, bare or as ``throttled=0x50005``; the same look counts once.

        Raises ``Unusable``.
        """
        found = re.fullmatch(r"(?:throttled=)?(?:0x)?([0-9a-fA-F]{1,8})", text.strip(), re.ASCII)
        if not found or int(found[1], 16) >> 20:
            raise Unusable(f"no throttle bits: {quote(text.strip())}" if text.strip() else "empty")
        if self._at_s is not None and at_s - self._at_s < 1e-3:
            return self._n
        bits, self._at_s = int(found[1], 16), at_s
        past = bits >> 16
        if bits & PI_NOW or (self._past is not None and past & ~self._past):
            self._n += 1
        self._past = past | (self._past or 0)
        return self._n


def core_names(probe: Probe) -> list[str]:
    """``cpu0``, ``cpu1``, … in their order."""
    names = [name for name in probe.names(CPUS) if re.fullmatch(r"cpu[0-9]{1,4}", name, re.ASCII)]
    return sorted(names, key=lambda name: int(name[3:]))


def count_list(text: str) -> int:
    """How many the kernel's list names: ``0-3,6`` → 5; 0 for what is no such list."""
    n = 0
    for part in text.split(","):
        found = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", part.strip(), re.ASCII)
        if not found:
            return 0
        n += int(found[2] or found[1]) - int(found[1]) + 1
    return n if 0 < n <= CORES_MAX else 0
