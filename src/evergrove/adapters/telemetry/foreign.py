"""What other programs and libraries know: Termux on a phone, NVML for NVIDIA cards, psutil where there is no sysfs.

All of them are asked in the background. Termux and psutil only fill what nothing else could say.
"""

import math
from collections.abc import Callable
from typing import Any

import msgspec

from evergrove.adapters.telemetry.heat import TRIP_C_MAX, TRIP_C_MIN
from evergrove.adapters.telemetry.host import Unusable
from evergrove.adapters.telemetry.parse import reason_of
from evergrove.adapters.telemetry.probe import Probe, Sheet
from evergrove.adapters.telemetry.processor import Count
from evergrove.adapters.telemetry.slow import Slow
from evergrove.core.telemetry import Value, Zone

TERMUX = "termux-battery-status"
TERMUX_EVERY_S = 30.0
"""It starts an app, which costs energy; half of what a safety reading may be old."""
NVML_EVERY_S = 5.0
CARDS_MAX = 8
PSUTIL_EVERY_S = 5.0
TEMP_C = (-40.0, 125.0)


class Answer(msgspec.Struct, frozen=True):
    """What one source said: values by field, zones, and why others are missing."""

    values: dict[str, float] = {}
    zones: tuple[Zone, ...] = ()
    missing: dict[str, str] = {}


class Foreign:
    """The sources that this machine has, found at the first scan."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._cards: Cards | None = None
        self._nvml: Slow[Answer] | None = None
        self._fallbacks: dict[str, Slow[Answer]] = {}
        self._asked = False

    @property
    def names(self) -> tuple[str, ...]:
        """Which there are."""
        return (*(("nvml",) if self._nvml else ()), *self._fallbacks)

    def scan(self) -> None:
        """Looks once: programs and libraries are not plugged in and out as sensors are."""
        if self._asked:
            return
        self._asked = True
        host, later = self._probe.host, self._probe.later
        nvml, psutil = host.nvml(), host.psutil()
        if nvml is not None:
            self._cards = Cards(nvml)
            self._nvml = later(self._cards.look, NVML_EVERY_S)
            self._nvml.begin()
        if host.has(TERMUX):
            self._fallbacks["termux"] = later(lambda: termux(host.run(TERMUX)[:65_536]), TERMUX_EVERY_S)
        if psutil is not None:
            self._fallbacks["psutil"] = later(lambda: portable(psutil), PSUTIL_EVERY_S)
        for slow in self._fallbacks.values():
            slow.begin()

    def counts(self) -> tuple[Count, ...]:
        """The part of ``throttle_count`` that NVIDIA cards add, where NVML works at all."""
        cards, slow = self._cards, self._nvml
        if cards is None or slow is None or not cards.n_cards:
            return ()
        return (Count("nvml", lambda: Value(float(cards.n_throttled), slow.latest()[1])),)

    def read(self, sheet: Sheet) -> None:
        """Zones of cards always; the rest only where it is still missing."""
        if self._nvml is not None:
            self._take(sheet, "nvml", self._nvml, zones=True)
        for name, slow in self._fallbacks.items():
            self._take(sheet, name, slow, zones=not sheet.zones)

    @staticmethod
    def _take(sheet: Sheet, name: str, slow: Slow[Answer], zones: bool) -> None:
        try:
            answer, age_s = slow.latest()
        except Unusable as fault:
            sheet.miss(name, str(fault))
            return
        for field, value in answer.values.items():
            if sheet.lacks(field):
                sheet.values[field] = Value(value, age_s)
        for field, reason in answer.missing.items():
            sheet.miss(field, f"{name}: {reason}")
        if zones:
            sheet.zones.extend(msgspec.structs.replace(zone, age_s=age_s) for zone in answer.zones)


# Termux


def termux(data: bytes) -> Answer:
    """What ``termux-battery-status`` printed: charge, mains, temperature (°C), and watts from µA and mV or µV.

    Raises ``Unusable`` for what is no JSON object. A field that makes no sense is missing by itself.
    """
    try:
        status = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
        raise Unusable("its answer is not JSON") from fault
    if not isinstance(status, dict):
        raise Unusable("its answer is not a JSON object")
    values: dict[str, float] = {}
    missing: dict[str, str] = {}
    zones: tuple[Zone, ...] = ()

    def take(field: str, key: str, low: float, high: float, per: float = 1.0) -> float | None:
        number = _number(status.get(key))
        if number is None or not low <= number <= high:
            missing[field] = f"{key} is {str(status.get(key))[:20]!a}"
            return None
        return number / per

    if (share := take("battery_share", "percentage", 0, 100, 100)) is not None:
        values["battery_share"] = share
    plugged = str(status.get("plugged", ""))
    if plugged == "UNPLUGGED" or plugged.startswith("PLUGGED_"):
        values["on_mains"] = float(plugged != "UNPLUGGED")
    else:
        missing["on_mains"] = f"plugged is {plugged[:20]!a}"
    if (temp_c := take("zone:battery", "temperature", *TEMP_C)) is not None and temp_c != 0:
        zones = (Zone("battery", temp_c),)
    if values.get("on_mains") == 0.0 and status.get("voltage") is not None:
        current_ua, volt = take("power_w", "current", -2e7, 2e7), take("power_w", "voltage", 2500, 1e8)
        if current_ua is not None and volt is not None and abs(current_ua) >= 10_000:
            volt = volt / 1e6 if volt > 1e5 else volt / 1e3
            values["power_w"] = abs(current_ua) / 1e6 * volt
    return Answer(values, zones, missing)


def _number(value: object) -> float | None:
    """A finite number, also one that stands in quotes."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value) if isinstance(value, int | float | str) else math.nan
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


# NVML


class Cards:
    """NVIDIA cards: a zone for each, with the temperature at which it slows down, and how often it was found slowed."""

    def __init__(self, load: Callable[[], Any]) -> None:
        """``load`` gives the library; it is called at the first look."""
        self._load = load
        self._nvml: Any = None
        self._cards: list[tuple[str, Any, float | None]] | None = None
        self._absent = ""
        self.n_throttled = 0

    @property
    def n_cards(self) -> int:
        """0 until the first look."""
        return len(self._cards or ())

    def look(self) -> Answer:
        """One look at each. Raises ``Unusable`` where there is no driver, which is found out once."""
        if self._absent:
            raise Unusable(self._absent)
        if self._nvml is None:
            self._nvml = self._load()
        nvml = self._nvml
        if self._cards is None:
            try:
                nvml.nvmlInit()
                handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(min(nvml.nvmlDeviceGetCount(), CARDS_MAX))]
            except nvml.NVMLError as fault:
                self._absent = str(fault)[:80]
                raise Unusable(self._absent) from fault
            self._cards = [(f"nvidia{i}", handle, self._trip_c(handle)) for i, handle in enumerate(handles)]
        zones: list[Zone] = []
        missing: dict[str, str] = {}
        slowed = False
        for name, handle, trip_c in self._cards:
            try:
                temp_c = float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
            except nvml.NVMLError as fault:
                missing[f"zone:{name}"] = reason_of(fault)
                continue
            if TEMP_C[0] <= temp_c <= TEMP_C[1] and temp_c != 0:
                zones.append(Zone(name, temp_c, trip_c))
            else:
                missing[f"zone:{name}"] = f"out of range: {temp_c:g}"
            slowed = slowed or self._slowed(handle)
        self.n_throttled += slowed
        return Answer(zones=tuple(zones), missing=missing)

    def _trip_c(self, handle: Any) -> float | None:
        nvml = self._nvml
        found = []
        for kind in ("NVML_TEMPERATURE_THRESHOLD_SLOWDOWN", "NVML_TEMPERATURE_THRESHOLD_GPU_MAX"):
            try:
                found.append(float(nvml.nvmlDeviceGetTemperatureThreshold(handle, getattr(nvml, kind))))
            except (nvml.NVMLError, AttributeError):
                continue
        return min((trip_c for trip_c in found if TRIP_C_MIN <= trip_c <= TRIP_C_MAX), default=None)

    def _slowed(self, handle: Any) -> bool:
        """Slowed for heat or for want of power; not merely idle, capped by its owner, or kept in step with others."""
        nvml = self._nvml
        ask: Callable[[Any], int] | None = getattr(
            nvml,
            "nvmlDeviceGetCurrentClocksEventReasons",
            getattr(nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", None),
        )
        if ask is None:
            return False
        try:
            reasons = int(ask(handle))
        except nvml.NVMLError:
            return False
        return bool(reasons & (0x8 | 0x20 | 0x40 | 0x80))  # HW slowdown, SW thermal, HW thermal, HW power brake


# psutil


def portable(psutil: Any) -> Answer:
    """What psutil says: battery, load since the last look, memory, links, and temperatures where the system has any."""
    values: dict[str, float] = {}
    battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    if battery is None:
        values["on_mains"] = 1.0
    else:
        if 0 <= battery.percent <= 100:
            values["battery_share"] = battery.percent / 100
        if battery.power_plugged is not None:
            values["on_mains"] = float(battery.power_plugged)
    load = psutil.cpu_percent(interval=None)
    if 0 < load <= 100:  # its first answer is 0 and means nothing
        values["load_share"] = load / 100
    values["memory_free_bytes"] = float(psutil.virtual_memory().available)
    links = psutil.net_if_stats()
    outward = [link.isup for name, link in links.items() if not name.startswith(("lo", "Loopback"))]
    if outward:
        values["network_up"] = float(any(outward))
    zones = []
    if hasattr(psutil, "sensors_temperatures"):
        for chip, entries in psutil.sensors_temperatures().items():
            for i, entry in enumerate(entries):
                if TEMP_C[0] <= entry.current <= TEMP_C[1] and entry.current != 0:
                    trips = [t for t in (entry.high, entry.critical) if t is not None and TRIP_C_MIN <= t <= TRIP_C_MAX]
                    zones.append(Zone(f"{chip}/{entry.label or i}", float(entry.current), min(trips, default=None)))
    return Answer(values, tuple(zones))
