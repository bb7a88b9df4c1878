"""Battery, mains and watts: the power supplies of the kernel, and the INA3221 monitors of a Jetson.

``battery_share`` is the mean over the batteries, by what each can hold where all of them tell. ``power_w`` is what
the whole device draws: current times voltage of the batteries that discharge, or the input rail. On mains, without a
rail to look at, nobody measures it.
"""

import re
from dataclasses import dataclass

from evergrove.adapters.telemetry.heat import HWMON
from evergrove.adapters.telemetry.host import Unusable
from evergrove.adapters.telemetry.parse import quote
from evergrove.adapters.telemetry.probe import Probe, Sheet
from evergrove.core.telemetry import Value

SUPPLIES = "/sys/class/power_supply"
BATTERIES_MAX = 8
RAILS_MAX = 16
CURRENT_UA = (10_000, 60_000_000)
"""10 mA to 60 A. Less, on a device that runs this program, is a driver that counts in mA."""
VOLTAGE_UV = (2_500_000, 100_000_000)
POWER_UW = (50_000, 1_000_000_000)
STATES = frozenset({"charging", "discharging", "full", "not charging", "unknown"})
INPUT_RAIL = re.compile(r"VDD_IN|POM_5V_IN|VDD_TOTAL|VIN|.*_IN", re.ASCII)
INA_IIO = "/sys/bus/i2c/drivers/ina3221x"


@dataclass(frozen=True)
class Battery:
    """One battery: which files it has, and what it can hold (µWh, or µAh where no battery tells µWh)."""

    name: str
    files: frozenset[str]
    full: float | None

    def path(self, file: str) -> str:
        """Where one of its files lies."""
        return f"{SUPPLIES}/{self.name}/{file}"


@dataclass(frozen=True)
class _Found:
    """What a scan has found. ``readable`` is whether the folder of the supplies was there at all."""

    readable: bool = False
    batteries: tuple[Battery, ...] = ()
    mains: tuple[str, ...] = ()


class Supplies:
    """Batteries and what charges them."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._found = _Found()

    def scan(self) -> None:
        """Looks for supplies anew; the batteries of mice and pens, and bays without a battery, are none."""
        batteries, mains = [], []
        try:
            names = self._probe.host.names(SUPPLIES)
        except OSError:
            self._found = _Found()
            return
        for name in sorted(names):
            kind = self._probe.word(f"{SUPPLIES}/{name}/type").lower()
            if self._probe.word(f"{SUPPLIES}/{name}/scope").lower() == "device":
                continue
            if kind in ("battery", "ups"):
                if self._probe.word(f"{SUPPLIES}/{name}/present") != "0":
                    batteries.append(self._battery(name))
            elif kind.startswith(("mains", "usb", "wireless")):
                mains.append(name)
        self._found = _Found(True, tuple(batteries[:BATTERIES_MAX]), tuple(mains[:BATTERIES_MAX]))

    def read(self, sheet: Sheet) -> None:
        """``battery_share``, ``on_mains`` and ``power_w``, as far as supplies tell them."""
        found = self._found
        if not found.readable:
            for field in ("battery_share", "on_mains", "power_w"):
                sheet.miss(field, f"{SUPPLIES} cannot be read")
            return
        states = {battery.name: self._state(battery) for battery in found.batteries}
        sheet.take("battery_share", lambda: self._share(found, sheet))
        sheet.take("on_mains", lambda: self._on_mains(found, states))
        mains = sheet.values.get("on_mains")
        sheet.take("power_w", lambda: self._power(found, states, bool(mains and mains.value)))

    def _battery(self, name: str) -> Battery:
        files = frozenset(self._probe.names(f"{SUPPLIES}/{name}"))
        energy, charge, volt = (
            self._probe.fact(f"{SUPPLIES}/{name}/{file}", 1, 10**10)
            for file in ("energy_full", "charge_full", "voltage_min_design")
        )
        return Battery(name, files, energy or (charge * volt / 1e6 if charge and volt else None))

    def _state(self, battery: Battery) -> str:
        """``charging``, ``discharging``, ``full``, ``not charging``, ``unknown``; a fault is the last."""
        try:
            state = self._probe.text(battery.path("status")).text.strip().lower()
        except Unusable:
            return "unknown"
        return state if state in STATES else "unknown"

    def _share(self, found: _Found, sheet: Sheet) -> Value:
        """The batteries that tell count; one that does not is missing under ``battery:NAME``."""
        if not found.batteries:
            raise Unusable("no battery")
        known: list[tuple[Battery, Value]] = []
        reason = ""
        for battery in found.batteries:
            try:
                known.append((battery, self._charge(battery)))
            except Unusable as fault:
                reason = str(fault)
                sheet.miss(f"battery:{battery.name}", reason)
        if not known:
            raise Unusable(reason)
        weights = [battery.full for battery, _ in known]
        sizes = [1.0 if full is None or None in weights else full for full in weights]
        share = sum(size * value.value for size, (_, value) in zip(sizes, known, strict=True)) / sum(sizes)
        return Value(share, max(value.age_s for _, value in known))

    def _charge(self, battery: Battery) -> Value:
        """What one battery holds, 0 to 1: from ``capacity`` in per cent, else from what it holds and can hold."""
        for kind in () if "capacity" in battery.files else ("energy", "charge"):
            if {f"{kind}_now", f"{kind}_full"} <= battery.files:
                now = self._probe.number(battery.path(f"{kind}_now"), 0, 10**10)
                full = self._probe.number(battery.path(f"{kind}_full"), 1, 10**10)
                if now.value > 1.2 * full.value:
                    raise Unusable(f"out of range: {now.value:.0f} of {full.value:.0f}")
                return Value(min(now.value / full.value, 1.0), max(now.age_s, full.age_s))
        return self._probe.number(battery.path("capacity"), 0, 100, per=100)

    def _on_mains(self, found: _Found, states: dict[str, str]) -> Value:
        """1 where any supply is online, or where there is no battery to run from; else by what the batteries do."""
        if not found.batteries and not found.mains:
            return Value(1.0)
        reason, online, age_s = "no mains supply, and the battery does not say", None, 0.0
        for name in found.mains:
            try:  # 2 is 'online, and programmable', which is online
                value = self._probe.number(f"{SUPPLIES}/{name}/online", 0, 2)
            except Unusable as fault:
                reason = str(fault)
                continue
            online, age_s = bool(online) or value.value > 0, max(age_s, value.age_s)
        if online:
            return Value(1.0, age_s)
        kinds = set(states.values())
        if kinds & {"charging", "full", "not charging"} and "discharging" not in kinds:
            return Value(1.0)
        if "discharging" in kinds or online is False:
            return Value(0.0, age_s)
        raise Unusable(reason)

    def _power(self, found: _Found, states: dict[str, str], on_mains: bool) -> Value:
        """Watts out of the batteries that discharge. A state of 'unknown' off the mains can be nothing else."""
        if not found.batteries:
            raise Unusable("no battery, and no power meter")
        drained = [
            battery
            for battery in found.batteries
            if states[battery.name] == "discharging" or (states[battery.name] == "unknown" and not on_mains)
        ]
        if not drained:
            raise Unusable("not on battery, and no power meter")
        watts = [self._watts(battery) for battery in drained]
        return Value(sum(watt.value for watt in watts), max(watt.age_s for watt in watts))

    def _watts(self, battery: Battery) -> Value:
        """From current and voltage; current counts down in some drivers and up in others."""
        if "power_now" in battery.files and "current_now" not in battery.files:
            return self._size(battery, "power_now", POWER_UW)
        current, volt = self._size(battery, "current_now", CURRENT_UA), self._size(battery, "voltage_now", VOLTAGE_UV)
        watts = current.value * volt.value
        if not POWER_UW[0] <= watts * 1e6 <= POWER_UW[1]:
            raise Unusable(f"out of range: {watts:.3g} W")
        return Value(watts, max(current.age_s, volt.age_s))

    def _size(self, battery: Battery, file: str, limits: tuple[int, int]) -> Value:
        """A number of millionths, whatever its sign, in whole units."""
        low, high = limits
        value = self._probe.number(battery.path(file), -high, high)
        if abs(value.value) < low:
            raise Unusable(f"{file} out of range: {value.value:.0f}")
        return Value(abs(value.value) / 1e6, value.age_s)


@dataclass(frozen=True)
class Rail:
    """One channel of a power monitor: files for mV and mA, or one for mW."""

    name: str
    milli: tuple[str, ...]


class Rails:
    """The INA3221 monitors of a Jetson: through hwmon, or through iio as older releases have it."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._rails: tuple[Rail, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The rails that are added up."""
        return tuple(rail.name for rail in self._rails)

    def scan(self) -> None:
        """The rail that feeds the board, where one is known by its name; else all of them, which add up to it."""
        rails = [*self._hwmon(), *self._iio()][:RAILS_MAX]
        inputs = [rail for rail in rails if INPUT_RAIL.fullmatch(rail.name)]
        self._rails = tuple(inputs[:1] or rails)

    def read(self, sheet: Sheet) -> None:
        """``power_w``, where there are rails."""
        if self._rails:
            sheet.take("power_w", self._watts)

    def _watts(self) -> Value:
        watts = [self._rail(rail) for rail in self._rails]
        return Value(sum(watt.value for watt in watts), max(watt.age_s for watt in watts))

    def _rail(self, rail: Rail) -> Value:
        watts, age_s = 1.0, 0.0
        for path in rail.milli:
            value = self._probe.number(path, 0, 200_000, per=1000)
            watts, age_s = watts * value.value, max(age_s, value.age_s)
        if not 0 <= watts <= 200:
            raise Unusable(f"out of range: {quote(rail.name)} {watts:.0f} W")
        return Value(watts, age_s)

    def _hwmon(self) -> list[Rail]:
        rails = []
        for entry in sorted(self._probe.names(HWMON)):
            base = f"{HWMON}/{entry}"
            if self._probe.word(f"{base}/name") != "ina3221":
                continue
            for n in (1, 2, 3):
                label = self._probe.word(f"{base}/in{n}_label")
                if label and label != "NC" and self._probe.word(f"{base}/in{n}_enable") != "0":
                    rails.append(Rail(label, (f"{base}/in{n}_input", f"{base}/curr{n}_input")))
        return rails

    def _iio(self) -> list[Rail]:
        rails = []
        for chip in sorted(self._probe.names(INA_IIO)):
            for entry in sorted(self._probe.names(f"{INA_IIO}/{chip}")):
                if not entry.startswith("iio:device"):
                    continue
                base = f"{INA_IIO}/{chip}/{entry}"
                for n in (0, 1, 2):
                    label = self._probe.word(f"{base}/rail_name_{n}")
                    if label and label != "NC":
                        rails.append(Rail(label, (f"{base}/in_power{n}_input",)))
        return rails
