"""Synthetic devices for ``bench placement``: three days in five-minute slots of power, network, use, heat and jobs.

All of it is seeded and fixed beforehand: training is small beside what a device draws anyway (a job of 500 J is about
1 % of a phone's battery), so no policy changes the world that the others meet, and the optimum can know the future.
What the shield allows in each slot comes from the production shield, fed with synthetic telemetry.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from evergrove.core.rng import stream
from evergrove.core.telemetry import Telemetry, Value, Zone
from evergrove.rules import shield, thermal
from evergrove.rules.placement import Fog

SLOT_S = 300.0
SLOTS_PER_DAY = 288
N_CORES = 4
TRIP_C = 70.0
FULL_LOAD_C = 42.0
"""How much a zone warms up when all cores work on and on."""

PHONE_DAY = (2, 1, 0, 0, 0, 1, 4, 8, 9, 6, 5, 6, 8, 7, 5, 5, 6, 8, 9, 10, 10, 9, 7, 4)
WORK_DAY = (0, 0, 0, 0, 0, 1, 3, 7, 9, 10, 10, 9, 8, 9, 10, 10, 9, 7, 4, 2, 1, 0, 0, 0)
"""Use by hour of day, relative."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Job(msgspec.Struct, frozen=True):
    """A learning job: when it is asked for (slot), and the energy that it takes on the device alone."""

    slot: int
    energy_j: float


class Device(msgspec.Struct, frozen=True):
    """One device's fixed fate, slot by slot. ``fog`` is what its fog offers while it can be reached (None: no fog)."""

    train_w: float
    on_mains: Bools
    battery_share: Floats
    network_up: Bools
    metered: Bools
    fog_up: Bools
    limits: Sequence[shield.Limit]
    fog: Fog | None
    jobs: Sequence[Job]

    @property
    def n_slots(self) -> int:
        """Slots of arrivals and of the time after them, in which the last jobs may end."""
        return len(self.limits)

    @property
    def fog_usable(self) -> Bools:
        """Where an offload is possible at all."""
        return self.network_up & ~self.metered & self.fog_up & (self.fog is not None)


def fleet(seed: int, n_devices: int, days: int, rest_days: int) -> list[Device]:
    """``n_devices`` devices over ``days`` with jobs and ``rest_days`` without new ones: of six, four are phones, one
    stands at the mains all day, one is a headset that is charged between shifts."""
    kinds = ("phone", "phone", "phone", "display", "phone", "headset")
    return [device(seed, i, kinds[i % len(kinds)], days, rest_days) for i in range(n_devices)]


def device(seed: int, index: int, kind: str, days: int, rest_days: int) -> Device:
    """One device of a kind (phone, display, headset), from its own random stream."""
    rng = stream(seed, "bench", "placement", index)
    n = (days + rest_days) * SLOTS_PER_DAY
    day = np.asarray(PHONE_DAY if kind == "phone" else WORK_DAY, dtype=np.float64)
    hours = np.arange(n) * SLOT_S / 3600
    relative = day[hours.astype(int) % 24] / day.max()
    load = _usage(rng, relative)
    on_mains = np.ones(n, bool) if kind == "display" else _charging(rng, hours, kind)
    battery, on_mains = _battery(rng, load, on_mains)
    at_home = _at_home(rng, hours, kind)
    metered = ~at_home & (rng.random() < 0.6)  # the others find a free network at work
    return Device(
        train_w=float(rng.uniform(1.5, 3.5)),
        on_mains=on_mains,
        battery_share=battery,
        network_up=_mostly(rng, n, 0.97, 6),
        metered=metered,
        fog_up=_mostly(rng, n, 0.95, 12),
        limits=_limits(rng, load, on_mains, battery, kind),
        fog=_fog(rng),
        jobs=_jobs(rng, relative, days, float(rng.uniform(1.5, 4.0))),
    )


def _usage(rng: np.random.Generator, relative: Floats) -> Floats:
    """The apps' part of all cores: sessions of about three slots that come by the hour of the day."""
    load = np.full(len(relative), 0.03)
    slot = 0
    while slot < len(load):
        if rng.random() < 0.25 * relative[slot]:
            length = 1 + int(rng.exponential(3.0))
            load[slot : slot + length] = rng.choice([0.15, 0.35, 0.8], p=[0.5, 0.35, 0.15]) * rng.uniform(0.8, 1.2)
            slot += length
        slot += 1
    return load


def _charging(rng: np.random.Generator, hours: Floats, kind: str) -> Bools:
    """On the charger: most nights from about 23 to 7 (headsets 18 to 6), and for an hour or two on some days."""
    plug, unplug, often = (23.0, 7.0, 0.85) if kind == "phone" else (18.0, 6.0, 0.95)
    plug, unplug = plug + rng.normal(0, 1.0), unplug + rng.normal(0, 0.7)
    mains = np.zeros(len(hours), bool)
    for first in range(-24, int(hours[-1]) + 1, 24):
        if rng.random() < often:
            begin, end = first + plug + rng.normal(0, 0.7), first + 24 + unplug + rng.normal(0, 0.5)
            mains |= (hours >= begin) & (hours < end)
        if rng.random() < 0.4:
            begin = first + rng.uniform(9, 20)
            mains |= (hours >= begin) & (hours < begin + rng.uniform(0.5, 2.0))
    return mains


def _battery(rng: np.random.Generator, load: Floats, habit: Bools) -> tuple[Floats, Bools]:
    """The charge at the beginning of each slot, moved by use and charger alone, and where the charger is.

    Nobody lets a device die: besides the habit, it is plugged in at some low charge and stays until it is well filled.
    """
    charge, shares, mains = float(rng.uniform(0.6, 1.0)), np.empty(len(load)), habit.copy()
    drain, fill = rng.uniform(0.10, 0.20), rng.uniform(0.4, 0.7)
    alarm, rescued = float(rng.uniform(0.08, 0.2)), False
    for i, used in enumerate(load):
        rescued = charge < alarm or (rescued and charge < 0.8)
        mains[i] |= rescued
        shares[i] = charge
        charge += (fill if mains[i] else -(0.012 + drain * used)) * SLOT_S / 3600
        charge = min(max(charge, 0.02), 1.0)
    return shares, mains


def _at_home(rng: np.random.Generator, hours: Floats, kind: str) -> Bools:
    """Where the network is free: a phone is out for most of a working day, the others stay."""
    if kind != "phone":
        return np.ones(len(hours), bool)
    home = np.ones(len(hours), bool)
    for first in range(0, int(hours[-1]) + 1, 24):
        if rng.random() < 0.8:
            begin = first + 8 + rng.normal(0, 0.7)
            home &= ~((hours >= begin) & (hours < begin + rng.uniform(6, 11)))
    return home


def _mostly(rng: np.random.Generator, n: int, share: float, slots: float) -> Bools:
    """Up for ``share`` of the time, in outages of about ``slots`` slots."""
    up, slot = np.ones(n, bool), 0
    while slot < n:
        slot += 1 + int(rng.exponential(slots * share / (1 - share)))
        length = 1 + int(rng.exponential(slots))
        up[slot : slot + length] = False
        slot += length
    return up


def _limits(
    rng: np.random.Generator, load: Floats, on_mains: Bools, battery: Floats, kind: str
) -> tuple[shield.Limit, ...]:
    """What the production shield says in each slot. Now and then a sensor falls silent for a while."""
    policy, state = shield.Policy(), shield.State()
    room_c, warm = float(rng.uniform(20, 32)), 0.0
    reads = _mostly(rng, len(load), 0.99, 4)
    limits = []
    for i, used in enumerate(load):
        warm += (used - warm) * (1 - np.exp(-SLOT_S / 400))
        temp_c = room_c + FULL_LOAD_C * warm
        reading = Telemetry(
            n_cores=N_CORES,
            battery_share=None if kind == "display" else Value(float(battery[i])),
            on_mains=Value(float(on_mains[i])),
            zones=(Zone("cpu", temp_c, TRIP_C),) if reads[i] else (),
            load_share=Value(float(used)),
            frame_p99_ratio=Value(0.55 + 0.6 * float(used)) if used > 0.05 else None,
        )
        state = shield.update(policy, state, reading, i * SLOT_S)
        limits.append(shield.limit(policy, state, reading, _headroom, i * SLOT_S))
    return tuple(limits)


def _headroom(zone: Zone, foreground: thermal.Foreground) -> float:
    """Heat without a model: what a share would add in the long run must fit under the trip point.

    ``bench thermal`` measures the model; here heat only has to be one more reason why a slot is shut.
    """
    hot_c = max(zone.temp_c, 0.0) + 4.0
    return max((d for d in thermal.SHARES if hot_c + FULL_LOAD_C * d / N_CORES <= TRIP_C), default=0.0)


def _fog(rng: np.random.Generator) -> Fog | None:
    """A quarter of the devices have no fog, a third of the rest own a trusted one."""
    if rng.random() < 0.25:
        return None
    return Fog(
        assist_bytes=int(rng.uniform(3e6, 8e6)),
        assist_wait_s=float(rng.uniform(10, 90)),
        assist_saving=float(rng.uniform(0.3, 0.6)),
        trusted=bool(rng.random() < 1 / 3),
        trusted_bytes=int(rng.uniform(1e6, 5e6)),
        trusted_wait_s=float(rng.uniform(60, 240)),
    )


def _jobs(rng: np.random.Generator, relative: Floats, days: int, per_day: float) -> tuple[Job, ...]:
    """Jobs come with use, since it is use that shows a device something new."""
    n = days * SLOTS_PER_DAY
    chance = relative[:n] / relative[:n].sum() * per_day * days
    slots = np.flatnonzero(rng.random(n) < chance)
    return tuple(Job(int(slot), float(rng.lognormal(np.log(450), 0.4))) for slot in slots)
