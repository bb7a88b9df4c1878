"""What a virtual device lives in, besides its heat: how it is used, where it has power and a network, its battery.

Each is a *track*: a quantity that is constant over pieces of time, made piece by piece from a named random stream, so
that a week costs no memory. ``Body`` puts them together with a thermal plant and reads as ``core.telemetry`` does.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec
import numpy as np

from evergrove.core.measures import Facts
from evergrove.core.telemetry import Missing, Telemetry, Value, Zone
from evergrove.sim.disk import Picture
from evergrove.sim.scenario import Fleet, Heat, Network, Power, Stream, Usage

DAY_S = 86_400.0
HOUR_S = 3600.0

Piece = tuple[float, float]
"""Until when (seconds), and the value until then."""

DAYS: dict[str, tuple[float, ...]] = {
    # Relative use by hour of day: quiet nights, a peak at breakfast, one at noon, a long evening.
    "phone": (2, 1, 0, 0, 0, 1, 4, 8, 9, 6, 5, 6, 8, 7, 5, 5, 6, 8, 9, 10, 10, 9, 7, 4),
    "display": (0, 0, 0, 0, 0, 0, 0, 1, 6, 9, 10, 10, 9, 9, 10, 10, 10, 9, 7, 3, 0, 0, 0, 0),
    "steady": (10,) * 24,
}
"""Usage over a day, by hour; the mean is scaled to the scenario's sessions per day."""


ZERO, ONE = Value(0.0), Value(1.0)
THROTTLED_SHARE = 0.6
"""What is left of the frequency of a device that throttles."""
THROTTLED = Value(THROTTLED_SHARE)
RECORDED_ROOM_C = 25.0
"""The room that the recorded boards were in, as good as it is known; a scenario's ``ambient_c`` moves theirs."""
RELEASE_C = 2.0
"""A governor lets go this far below where it bit."""
CROWDED_SHARE = 0.7
"""Load from which on something waits for a core, and frames take longer."""
MEMORY, DISK = Value(1.5e9), Value(8e9)


class ThermalPlant(Protocol):
    """A body that heats up. ``load`` is the part of all cores that is busy, 0-1."""

    def step(self, load: float, dt_s: float) -> float:
        """Lets time pass under a load; gives the sensor's temperature in °C."""


class ThreePoles:
    """A plant of three first-order poles and a room that is warmest in the afternoon; exact for any length of step.

    ``r_c``: °C at full load through each pole, ``noise_c`` the deviation of a reading.
    """

    def __init__(self, heat: Heat, rng: np.random.Generator, start_s: float) -> None:
        scale = np.exp(rng.normal(0.0, heat.spread, 4)).tolist()
        self._r_c = heat.r_c[0] * scale[0], heat.r_c[1] * scale[1], heat.r_c[2] * scale[2]
        self._ambient_c = heat.ambient_c * scale[3] ** 0.5
        self._swing_c = heat.ambient_swing_c
        self._noise_c, self._rng = heat.noise_c, rng
        self._filtered = (0.0, 0.0, 0.0)
        self._noise: list[float] = []
        self._now_s = start_s
        self._steps: dict[float, tuple[float, float, float]] = {}

    def step(self, load: float, dt_s: float) -> float:
        """Lets time pass under a load; gives what the sensor says, in °C."""
        self._now_s += dt_s
        keep = self._steps.get(dt_s)
        if keep is None:
            keep = math.exp(-dt_s / 4.0), math.exp(-dt_s / 40.0), math.exp(-dt_s / 400.0)
            if len(self._steps) < 8:
                self._steps[dt_s] = keep
        temp_c = self._ambient_c + self._swing_c * math.cos((self._now_s / HOUR_S - 16) * math.pi / 12)
        (a, b, c), (x, y, z), (u, v, w) = self._filtered, keep, self._r_c
        a, b, c = load + (a - load) * x, load + (b - load) * y, load + (c - load) * z
        self._filtered = a, b, c
        temp_c += u * a + v * b + w * c
        if not self._noise:
            self._noise = self._rng.normal(0.0, self._noise_c, 64).tolist()
        return float(temp_c + self._noise.pop())


class Track:
    """A piecewise constant quantity, asked at times that never go back."""

    def __init__(self, pieces: Iterator[Piece], start_s: float) -> None:
        self._pieces = pieces
        self._at_s = start_s
        self._until_s, self._value = next(pieces)

    def at(self, now_s: float) -> float:
        """The value at this moment; what lies before is forgotten."""
        while now_s >= self._until_s:
            self._until_s, self._value = next(self._pieces)
        self._at_s = now_s
        return self._value

    def since(self, now_s: float) -> list[tuple[float, float]]:
        """The pieces since the last call of either kind: (how long in seconds, value)."""
        passed = []
        while now_s >= self._until_s:
            passed.append((self._until_s - self._at_s, self._value))
            self._at_s = self._until_s
            self._until_s, self._value = next(self._pieces)
        if now_s > self._at_s:
            passed.append((now_s - self._at_s, self._value))
            self._at_s = now_s
        return passed


def usage_pieces(usage: Usage, rng: np.random.Generator, start_s: float) -> Iterator[Piece]:
    """The foreground's load: sessions that come by the hour of day (a thinned Poisson process) between idle times.

    Use, power and network of one device draw from three streams, in an order of their own.
    """
    profile = DAYS[usage.day]
    mean, peak = sum(profile) / len(profile), max(profile)
    rate = usage.sessions_per_day / DAY_S * peak / mean
    now_s = start_s
    while True:
        while rate > 0:
            now_s += float(rng.exponential(1 / rate))
            if rng.random() * peak < profile[int(now_s % DAY_S // HOUR_S)]:
                break
        if rate <= 0:
            yield math.inf, usage.load_idle
            return
        yield now_s, usage.load_idle
        length_s = min(float(rng.exponential(usage.session_s)), 4 * usage.session_s)
        heavy = rng.random() < usage.heavy_share
        load = usage.load_heavy if heavy else usage.load_session
        now_s += length_s
        yield now_s, min(1.0, max(0.0, load * float(rng.normal(1.0, 0.15))))


def mains_pieces(power: Power, rng: np.random.Generator, start_s: float) -> Iterator[Piece]:
    """Whether the device is plugged in: overnight on most days, and now and then an hour by day. 1 or 0."""
    if power.capacity_wh <= 0:
        yield math.inf, 1.0
        return
    spells: list[tuple[float, float]] = []
    day_s = math.floor(start_s / DAY_S) * DAY_S - DAY_S
    now_s = start_s
    while True:
        # 1. One more day of habits: (from, to) of its spells at the charger.
        if rng.random() < power.night_share:
            evening = day_s + (power.plug_hour + float(rng.normal(0, power.spread_h))) * HOUR_S
            morning = day_s + DAY_S + (power.unplug_hour + float(rng.normal(0, power.spread_h))) * HOUR_S
            spells.append((evening, max(morning, evening + HOUR_S)))
        if rng.random() < power.day_share:
            noon = day_s + float(rng.uniform(9, 18)) * HOUR_S
            spells.append((noon, noon + float(rng.uniform(0.5, 1.5)) * HOUR_S))
        day_s += DAY_S
        # 2. What is over before the next day's spells can begin.
        spells.sort()
        while spells and spells[0][1] < day_s + 6 * HOUR_S:
            begin_s, end_s = spells.pop(0)
            if begin_s > now_s:
                yield begin_s, 0.0
                now_s = begin_s
            if end_s > now_s:
                yield end_s, 1.0
                now_s = end_s


def network_pieces(network: Network, rng: np.random.Generator, start_s: float) -> Iterator[Piece]:
    """What the device is connected to: 0 nothing, 1 a metered network, 2 one that is not.

    It goes from one to the next at random, staying an exponential time: ``outage_s`` without, ``stay_s`` with one.
    """
    now_s = start_s
    if not network.outages_per_day and network.metered_share in (0.0, 1.0):
        yield math.inf, 2.0 - network.metered_share
        return
    while True:
        value = 1.0 if rng.random() < network.metered_share else 2.0
        now_s += float(rng.exponential(network.stay_s))
        yield now_s, value
        if rng.random() < min(1.0, network.outages_per_day * network.stay_s / DAY_S):
            now_s += float(rng.exponential(network.outage_s))
            yield now_s, 0.0


def pictures(stream: Stream, day: str, rng: np.random.Generator, start_s: float) -> Iterator[tuple[float, Picture]]:
    """What a device is shown and when, by the hour of day; conditions new to the release come one by one."""
    profile = DAYS[day]
    peak, mean = max(profile), sum(profile) / len(profile)
    rate = stream.per_day / DAY_S * peak / mean
    now_s = start_s
    while rate > 0:
        now_s += float(rng.exponential(1 / rate))
        if rng.random() * peak >= profile[int(now_s % DAY_S // HOUR_S)]:
            continue
        # All chance of one picture is drawn whatever comes of it.
        known, copy, which = rng.random(3).tolist()
        rest = [int(rng.integers(n)) + 1 for n in stream.known]
        distance = 1.2 + float(rng.gamma(2.0, 1.0))
        n_bytes = max(200, int(stream.n_bytes * float(rng.lognormal(0.0, 0.3))))
        n_new = min(
            stream.n_new, 1 + int((now_s - start_s) / (stream.new_every_h * HOUR_S)) if stream.new_every_h else 99
        )
        if n_new and known >= stream.known_share:
            rest[0] = stream.known[0] + 1 + int(which * n_new)
        facts = Facts(False, 30, distance)
        if copy < stream.duplicate_share:
            facts = Facts(True, 0, 0.0)
        elif copy < stream.duplicate_share + stream.near_share:
            facts = Facts(False, 4, 0.5)
        yield now_s, Picture(tuple(rest), n_bytes, facts)


class Charge:
    """A battery: joules in and out."""

    def __init__(self, power: Power) -> None:
        self._capacity_j = power.capacity_wh * 3600
        self._charge_w = power.charge_w
        self._charge_j = self._capacity_j * power.start_share

    @property
    def share(self) -> float:
        """What is left, 0-1; 1 for a device without a power."""
        return self._charge_j / self._capacity_j if self._capacity_j else 1.0

    def step(self, draw_w: float, plugged: bool, dt_s: float) -> None:
        """Lets time pass under a draw; at the charger the mains carry the draw and fill the power."""
        power_w = self._charge_w if plugged else -draw_w
        self._charge_j = min(self._capacity_j, max(0.0, self._charge_j + power_w * dt_s))


class Body:
    """All plants of one device. ``settle`` lets time pass under the trainer's share, ``read`` is a reading then."""

    def __init__(
        self,
        usage: Track,
        mains: Track,
        network: Track,
        heat: ThermalPlant,
        fleet: Fleet,
        trip_c: float,
        start_s: float,
    ) -> None:
        power = fleet.power
        self.temp_c = heat.step(0.0, 0.0)
        self.charge = Charge(power)
        self.throttled = False
        self.throttled_s = 0.0
        self.n_throttled = 0
        self.trained_j = 0.0
        self.broken: Sequence[str] = ()
        self._usage, self._mains, self._network, self._heat = usage, mains, network, heat
        self._power, self._trip_c, self._n_cores = power, trip_c, fleet.n_cores
        self._has_battery = power.capacity_wh > 0
        self._now_s = start_s
        self._plugged = mains.at(start_s) > 0
        # Sums since the last reading: seconds, core-parts of the apps and of the trainer, joules.
        self._span_s = self._used_s = self._trained_s = self._drawn_j = 0.0
        self._load_share = self._train_share = self._drawn_w = 0.0

    def settle(self, now_s: float, share: float, train_w: float) -> None:
        """Lets time pass up to now, the trainer having used ``share`` of a core and drawn ``train_w`` all the while."""
        dt_s = now_s - self._now_s
        if dt_s <= 0:
            return
        used_s, extra, heat = 0.0, share / self._n_cores, self._heat
        slowed = THROTTLED_SHARE if self.throttled else 1.0  # a slower clock makes that much less heat
        for piece_s, load in self._usage.since(now_s):
            used_s += piece_s * load
            self.temp_c = heat.step(slowed * min(1.0, load + extra), piece_s)
        drawn_w = self._power.idle_w + self._power.busy_w * used_s / dt_s + train_w
        self._plugged = self._mains.at(now_s) > 0
        if self._has_battery:
            self.charge.step(drawn_w, self._plugged, dt_s)
        if self.temp_c >= self._trip_c:
            self.n_throttled += not self.throttled
            self.throttled = True
        elif self.temp_c < self._trip_c - RELEASE_C:
            self.throttled = False
        if self.throttled:
            self.throttled_s += dt_s
        self._span_s += dt_s
        self._used_s += used_s
        self._trained_s += share * dt_s
        self._drawn_j += drawn_w * dt_s
        self.trained_j += train_w * dt_s
        self._now_s = now_s

    def network(self, now_s: float) -> float:
        """0 nothing, 1 metered, 2 not metered."""
        return self._network.at(now_s)

    def read(self, now_s: float) -> Telemetry:
        """What the sensors say of the time since the last reading; those in ``broken`` say nothing."""
        if self._span_s > 0:
            self._train_share = round(self._trained_s / self._span_s, 4)
            load = self._used_s / self._span_s + self._train_share / self._n_cores
            self._load_share, self._drawn_w = round(min(1.0, load), 4), round(self._drawn_j / self._span_s, 3)
            self._span_s = self._used_s = self._trained_s = self._drawn_j = 0.0
        linked = self._network.at(now_s)
        over = round(max(0.0, self._load_share - CROWDED_SHARE), 4)
        reading = Telemetry(
            n_cores=self._n_cores,
            battery_share=Value(round(self.charge.share, 2)) if self._has_battery else None,
            on_mains=ONE if self._plugged else ZERO,
            power_w=Value(self._drawn_w),
            zones=(Zone("cpu", round(self.temp_c, 1), self._trip_c),),
            cpu_freq_share=THROTTLED if self.throttled else ONE,
            throttle_count=Value(float(self.n_throttled)),
            load_share=Value(self._load_share),
            train_share=Value(self._train_share),
            psi_cpu_share=Value(over),
            psi_memory_share=ZERO,
            psi_io_share=ZERO,
            memory_free_bytes=MEMORY,
            disk_free_bytes=DISK,
            network_up=ONE if linked else ZERO,
            network_metered=ONE if linked == 1 else ZERO,
            frame_p99_ratio=Value(0.6 + over),
        )
        return _without(reading, self.broken) if self.broken else reading


def _without(reading: Telemetry, broken: Sequence[str]) -> Telemetry:
    """The reading with some sensors gone: their fields are missing, with the reason."""
    changes: dict[str, object] = {name: () if name == "zones" else None for name in broken}
    missing = tuple(Missing(name, "vanished") for name in broken)
    return msgspec.structs.replace(reading, missing=missing, **changes)
