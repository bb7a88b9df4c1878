"""Temperatures: thermal zones with their trip points, and hwmon chips with their limits.

A zone's name stays the same from boot to boot (``cpu-thermal``, ``coretemp/Package id 0``), for thermal models and the
shield remember it by its name. Which sensors count, and which trip point, is decided at a scan; a reading reads one
small file for each.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from evergrove.adapters.telemetry.host import Unusable
from evergrove.adapters.telemetry.parse import WHOLE
from evergrove.adapters.telemetry.probe import Probe, Sheet
from evergrove.core.telemetry import Zone

THERMAL = "/sys/class/thermal"
HWMON = "/sys/class/hwmon"
ZONES_MAX = 16
"""Phones have up to a hundred zones, most of them of one core each: of a cluster, the first ones speak for all."""
TRIPS_MAX = 16
TRIP_KINDS = frozenset({"passive", "hot", "critical"})
"""Trip points at which the system slows down or switches off; at an ``active`` one a fan starts."""
TRIP_C_MIN, TRIP_C_MAX = 35.0, 125.0
"""What is outside is a register's reset value: 0, −274, 127 and 255 °C are common."""
PI_TRIP_C = 80.0
"""From here on the firmware of a Raspberry Pi slows its cores, whatever the kernel's trip point says (it says 110)."""
PI_SOFT_TRIP_C = 60.0
"""The same where there is a soft limit, which is on a 3 A+ and 3 B+ ('Frequency management', Raspberry Pi docs)."""
ASIDE = re.compile(r"iwlwifi|ath[0-9]+k|mt7[0-9]|rtw|brcmf|phy[0-9]|cv[0-9]-therm|PMIC-Die|fan-est", re.ASCII)
"""Radios and a Jetson's vision cores say nothing while they are off; its PMIC-Die always says 100 °C."""
LOOSE = re.compile(r"nct[67]|it8|w83|f71|asus", re.ASCII)
"""Board chips whose inputs are often not connected and float: used only where a machine has nothing better."""
WHOLE_CHIP = re.compile(r"Package|Tdie|Tctl|Composite|edge|junction", re.ASCII)
"""Labels that speak for a whole chip: its single cores then need no reading of their own."""
NEAR = re.compile(r"cpu|soc|gpu|tj|package|core|skin|batt|x86|k10|tctl|tdie", re.ASCII | re.IGNORECASE)
"""Names of what heats when a device learns, and of what people touch: first where there are too many zones."""


@dataclass(frozen=True)
class Sensor:
    """One temperature: its lasting name, its file, its trip point in °C, and the file that says 'broken', if any."""

    name: str
    path: str
    trip_c: float | None
    fault_path: str = ""


class Heat:
    """The thermal sensors of a host."""

    def __init__(self, probe: Probe, frozen: "Frozen") -> None:
        self._probe = probe
        self._frozen = frozen
        self._sensors: tuple[Sensor, ...] = ()
        self._left_out = 0
        self._good: set[str] = set()

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """What the last scan has found and what is read."""
        return self._sensors

    def scan(self) -> None:
        """Looks for sensors anew. First come those that were good before, then those with a trip point of each kind."""
        zones, kinds = _zones(self._probe)
        chips = _chips(self._probe, kinds)
        if any(sensor.name.startswith("coretemp/") for sensor in chips):  # the same sensor, and it knows its limit
            zones = [sensor for sensor in zones if sensor.name != "x86_pkg_temp"]
        firm = [sensor for sensor in (*zones, *chips) if not LOOSE.match(sensor.name)]
        named = _named(firm or chips)
        good = frozenset(self._good)

        families: dict[str, int] = {}

        def rank(sensor: Sensor) -> tuple[bool, bool, bool, int, bool]:
            family = re.sub(r"[0-9]+(?=[^0-9]*$)", "", sensor.name)
            n = families[family] = families.get(family, -1) + 1
            readable = bool(self._probe.word(sensor.path))
            return sensor.name not in good, not readable, sensor.trip_c is None, n, not NEAR.search(sensor.name)

        ranked = sorted(named, key=rank)
        self._left_out = max(len(ranked) - ZONES_MAX, 0)
        self._sensors = tuple(ranked[:ZONES_MAX])

    def read(self, sheet: Sheet) -> None:
        """A zone for each sensor that gives a temperature; each other one is missing, under ``zone:NAME``."""
        temps: dict[str, float] = {}
        sensors = self._sensors
        zones: list[Zone] = []
        for sensor in sensors:
            try:
                zones.append(self._measure(sensor))
                temps[sensor.name] = zones[-1].temp_c
            except Unusable as fault:
                sheet.miss(f"zone:{sensor.name}", str(fault))
        self._good.update(temps)
        load = sheet.values.get("load_share")
        stuck = self._frozen.update(self._probe.elapsed_s(), load.value if load else None, temps)
        for name, reason in stuck.items():
            sheet.miss(f"zone:{name}", reason)
        sheet.zones.extend(zone for zone in zones if zone.name not in stuck)
        for name in self._good.difference(sensor.name for sensor in sensors):
            sheet.miss(f"zone:{name}", "gone since the last scan")
        if self._left_out:
            sheet.miss("zones", f"{self._left_out} more than {ZONES_MAX} are not read")
        elif not sensors:
            sheet.miss("zones", "no thermal zone and no hwmon temperature")

    def _measure(self, sensor: Sensor) -> Zone:
        if sensor.fault_path and self._probe.text(sensor.fault_path).text.strip() == "1":
            raise Unusable("the chip says that the sensor is broken")
        temp = self._probe.celsius(sensor.path)
        return Zone(sensor.name, temp.value, sensor.trip_c, temp.age_s)


class Frozen:
    """Tells a sensor that hangs from one that has nothing to say.

    A reading that does not change is no proof: a server's zone in whole degrees stands still for hours, and many a
    laptop has an ``acpitz`` that never moves at all. So a temperature is frozen only if it is the same to the last
    digit for ``FROZEN_S`` while the load of the machine (low-passed at a minute, as heat is) moved by ``LOAD_SWING``
    of all cores, *and* it moved earlier, or no other sensor of the device moves. Then it counts as missing, and the
    shield stops training until it moves again or ``shield.ignore_sensors`` names it. One that has never moved beside
    others that do is left as it is: it guards nothing, and it warns of nothing.
    """

    FROZEN_S = 1800.0
    LOAD_SWING = 0.5
    LOW_PASS_S = 60.0

    def __init__(self) -> None:
        self._at_s: float | None = None
        self._load: float | None = None
        self._tracks: dict[str, _Track] = {}

    def update(self, now_s: float, load: float | None, temps: Mapping[str, float]) -> dict[str, str]:
        """Takes one reading (°C by name, ``load`` as a part of all cores); gives the frozen ones and why."""
        if load is not None:
            gain = 1.0 if self._at_s is None else 1 - math.exp(-max(now_s - self._at_s, 0.0) / self.LOW_PASS_S)
            self._load = load if self._load is None else self._load + gain * (load - self._load)
        self._at_s = now_s
        for name, temp_c in temps.items():
            track = self._tracks.get(name)
            if track is None or track.temp_c != temp_c:
                self._tracks[name] = _Track(temp_c, now_s, track is not None, self._load, self._load)
            elif self._load is not None:
                low = self._load if track.low is None else min(track.low, self._load)
                high = self._load if track.high is None else max(track.high, self._load)
                self._tracks[name] = _Track(temp_c, track.since_s, track.moved, low, high)
        still = {name for name in temps if self._is_still(self._tracks[name], now_s)}
        alone = len(still) == len(temps)
        return {
            name: f"frozen at {temps[name]:.1f} °C for {self._minutes(name, now_s):.0f} min while the load changed"
            for name in sorted(still)
            if alone or self._tracks[name].moved
        }

    def _minutes(self, name: str, now_s: float) -> float:
        return (now_s - self._tracks[name].since_s) / 60

    def _is_still(self, track: "_Track", now_s: float) -> bool:
        swing = 0.0 if track.low is None or track.high is None else track.high - track.low
        return now_s - track.since_s >= self.FROZEN_S and swing >= self.LOAD_SWING


@dataclass(frozen=True)
class _Track:
    """A temperature, since when it is the same, whether it ever changed, and the range of the load since then."""

    temp_c: float
    since_s: float
    moved: bool
    low: float | None
    high: float | None


# Scanning


def trip_of(trips: Iterable[tuple[str, str]]) -> float | None:
    """The lowest plausible trip point in °C, from pairs of kind and thousandths of a degree; None without one."""
    plausible = [
        int(text) / 1000
        for kind, text in trips
        if kind in TRIP_KINDS and WHOLE.fullmatch(text) and TRIP_C_MIN <= int(text) / 1000 <= TRIP_C_MAX
    ]
    return min(plausible, default=None)


def _zones(probe: Probe) -> tuple[list[Sensor], frozenset[str]]:
    """The enabled thermal zones, and the kinds of all of them, as hwmon writes them."""
    sensors, kinds = [], set()
    limit_c = _pi_limit_c(probe)
    for entry in sorted((name for name in probe.names(THERMAL) if name.startswith("thermal_zone")), key=_numbered):
        base = f"{THERMAL}/{entry}"
        kind = _plain(probe.word(f"{base}/type")) or entry
        kinds.add(kind.replace("-", "_"))
        if probe.word(f"{base}/mode") == "disabled" or ASIDE.search(kind):
            continue
        points = [n for n in range(TRIPS_MAX) if probe.word(f"{base}/trip_point_{n}_type")]
        trip_c = trip_of(
            (probe.word(f"{base}/trip_point_{n}_type"), probe.word(f"{base}/trip_point_{n}_temp")) for n in points
        )
        if limit_c is not None:
            trip_c = min(limit_c, trip_c or limit_c)
        sensors.append(Sensor(kind, f"{base}/temp", trip_c))
    return sensors, frozenset(kinds)


def _chips(probe: Probe, zones: frozenset[str]) -> list[Sensor]:
    """The temperatures of hwmon chips that count and are no second face of a thermal zone."""
    sensors = []
    for entry in sorted(probe.names(HWMON), key=_numbered):
        chip = _plain(probe.word(f"{HWMON}/{entry}/name")) or entry
        if ASIDE.search(chip) or chip.replace("-", "_") in zones:
            continue
        for base in (f"{HWMON}/{entry}", f"{HWMON}/{entry}/device"):  # older kernels: one folder further down
            found = _inputs(probe, chip, base)
            if found:
                sensors.extend(found)
                break
    return sensors


def _inputs(probe: Probe, chip: str, base: str) -> list[Sensor]:
    names = set(probe.names(base))
    numbers = sorted(int(name[4:-6]) for name in names if re.fullmatch(r"temp[0-9]{1,3}_input", name, re.ASCII))
    labels = {n: _plain(probe.word(f"{base}/temp{n}_label")) or f"temp{n}" for n in numbers}
    chosen = [n for n in numbers if WHOLE_CHIP.match(labels[n])] or numbers
    if any(labels[n].startswith("Tdie") for n in chosen):  # Tctl is the same with an offset for the fan
        chosen = [n for n in chosen if not labels[n].startswith("Tctl")]
    return [
        Sensor(
            f"{chip}/{labels[n]}",
            f"{base}/temp{n}_input",
            trip_of(("critical", probe.word(f"{base}/temp{n}_{limit}")) for limit in ("crit", "max")),
            f"{base}/temp{n}_fault" if f"temp{n}_fault" in names else "",
        )
        for n in chosen
    ]


def _named(sensors: Iterable[Sensor]) -> list[Sensor]:
    """The same sensors under names that are unique: the second of a name gets ``#2``."""
    seen: dict[str, int] = {}
    named = []
    for sensor in sensors:
        n = seen[sensor.name] = seen.get(sensor.name, 0) + 1
        named.append(sensor if n == 1 else Sensor(f"{sensor.name}#{n}", sensor.path, sensor.trip_c, sensor.fault_path))
    return named


def model(probe: Probe) -> str:
    """The model of a board with a device tree, such as ``Raspberry Pi 4 Model B Rev 1.4``; else empty."""
    return probe.word("/proc/device-tree/model") or probe.word("/sys/firmware/devicetree/base/model")


def _pi_limit_c(probe: Probe) -> float | None:
    board = model(probe)
    if not board.startswith("Raspberry Pi"):
        return None
    soft = "Pi 3 Model" in board and "Plus" in board
    return PI_SOFT_TRIP_C if soft else PI_TRIP_C


def _plain(text: str) -> str:
    """A name that can stand in a list and in a sentence."""
    return re.sub(r"[^\w .+/#-]", "_", text, flags=re.ASCII)[:48].strip()


def _numbered(name: str) -> tuple[str, int]:
    """Sorts ``thermal_zone2`` before ``thermal_zone10``."""
    digits = re.search(r"[0-9]{1,9}$", name, re.ASCII)
    return (name[: digits.start()], int(digits.group())) if digits else (name, -1)
