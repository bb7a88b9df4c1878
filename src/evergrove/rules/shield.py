"""The hard limit: which share of one core may a trainer have right now? (DESIGN §6, 'Shield'.)

In come one telemetry reading, what earlier readings have shown, and the largest share that heat allows in each thermal
zone; out go the greatest share that *every* gate allows and one plain reason. A price never buys its way past it.

What a device has never shown is not required: a plain server may train, and the reason says what it lacks. What it has
shown once is a safety reading from then on: gone or stale, nothing is trained, until it is back or the configuration
names it in ``shield.ignore_sensors``.
"""

import math
from collections.abc import Callable, Mapping
from functools import lru_cache

import msgspec

from evergrove.core import config
from evergrove.core.telemetry import Telemetry, Value, Zone
from evergrove.rules import thermal

Heat = Callable[[Zone, thermal.Foreground], float]
"""The largest share that heat allows in this zone (its trip point set) beside this load of the apps."""

SAFETY = (
    "battery_share",
    "on_mains",
    "throttle_count",
    "memory_free_bytes",
    "disk_free_bytes",
    "psi_memory_share",
    "psi_io_share",
    "load_share",
)
"""Values without which a device that has them does not train; its thermal zones come on top.

Not among them: CPU pressure, which only delays a start, and frames, which a device without an app does not have.
"""
WORDS = {
    "battery_share": "battery charge",
    "on_mains": "power source",
    "throttle_count": "throttle counter",
    "memory_free_bytes": "free memory",
    "disk_free_bytes": "free disk",
    "psi_memory_share": "memory pressure",
    "psi_io_share": "disk pressure",
    "load_share": "load",
    "frame_p99_ratio": "frame times",
}
BODY = ("batt", "skin")
QUIET_SHARE = 0.02
"""Below this training share the trainer is at rest, and what waits for a core waits for someone else."""
SENSORS_MAX = 64
STEP = 0.25
DEFAULTS = thermal.Policy()


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, cache_hash=True):
    """The limits, with the meaning and units of ``config.Shield``; ``ignored`` are names of sensors."""

    stale_s: float = 60.0
    ignored: frozenset[str] = frozenset()
    battery_floor_share: float = 0.3
    battery_rearm_share: float = 0.05
    trip_c_default: float = 80.0
    trip_c_body: float = 43.0
    throttle_hold_s: float = 300.0
    frame_p99_ratio_max: float = 1.0
    frame_p99_ratio_high: float = 0.9
    frame_p99_ratio_clear: float = 0.8
    frame_hold_s: float = 30.0
    psi_cpu_share_max: float = 0.6
    psi_memory_share_max: float = 0.1
    psi_io_share_max: float = 0.4
    memory_free_bytes_min: int = 128 << 20
    memory_start_bytes: int = 512 << 20
    disk_free_bytes_min: int = 256 << 20

    @classmethod
    @lru_cache(maxsize=64)
    def of(cls, shield: config.Shield) -> "Policy":
        """The policy that a device's configuration asks for."""
        fields = {name: value for name, value in msgspec.structs.asdict(shield).items() if name != "ignore_sensors"}
        return cls(ignored=frozenset(filter(None, map(str.strip, shield.ignore_sensors.split(",")))), **fields)


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What earlier readings have shown.

    ``seen`` names the safety readings that the device has ever given. ``foreground`` is the load of all but the
    trainer. ``closed`` are the gates that shut and wait for a clear sign to open. ``frame_share`` is what the frame
    gate allows, ``frame_since_s`` when frames last were not clear or the share last changed.
    """

    read_at_s: float | None = None
    seen: tuple[str, ...] = ()
    foreground: thermal.Foreground = thermal.Foreground()
    closed: tuple[str, ...] = ()
    throttle_count: float | None = None
    throttled_at_s: float | None = None
    frame_share: float = 1.0
    frame_since_s: float = 0.0


class Limit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The greatest share of one core that training may have now, and why it is not more (or why nothing limits it)."""

    share: float
    reason: str


def of_models(policy: thermal.Policy, models: Mapping[str, thermal.State], n_cores: int) -> Heat:
    """What heat allows, by the thermal model of each zone; a zone without one allows nothing yet."""

    def share(zone: Zone, foreground: thermal.Foreground) -> float:
        model = models.get(zone.name)
        if model is None or zone.trip_c is None:
            return 0.0
        return thermal.safe_share(policy, model, foreground, zone.trip_c, n_cores)

    return share


def update(
    policy: Policy, state: State, reading: Telemetry, now_s: float, thermals: thermal.Policy | None = None
) -> State:
    """Remember what a reading, taken at ``now_s``, says about sensors, load, throttling, pressure and frames.

    ``thermals`` says how the foreground's load is tracked (None: by the defaults).
    """
    frame_share, frame_since_s = _frames(policy, state, reading, now_s)
    count = _fresh(policy, reading.throttle_count)
    rose = count is not None and state.throttle_count is not None and count > state.throttle_count
    return State(
        read_at_s=now_s,
        seen=_seen(policy, state, reading),
        foreground=_foreground(policy, state, reading, now_s, thermals or DEFAULTS),
        closed=_closed(policy, state, reading),
        throttle_count=state.throttle_count if count is None else count,
        throttled_at_s=now_s if rose else state.throttled_at_s,
        frame_share=frame_share,
        frame_since_s=frame_since_s,
    )


def limit(
    policy: Policy, state: State, reading: Telemetry, heat: Heat, now_s: float, *, running: bool = False
) -> Limit:
    """The greatest share that every gate allows at ``now_s``; ``state`` has been updated by ``reading``.

    ``running`` says that a trainer already holds its memory. The reason is that of the tightest gate.
    """
    if state.read_at_s is None:
        return Limit(0.0, "no telemetry yet")
    late_s = max(now_s - state.read_at_s, 0.0)
    reason = (
        _blind(policy, state, reading, late_s)
        or _power(policy, state, reading)
        or _room(policy, state, reading, running)
        or _throttled(policy, state, now_s)
    )
    if reason:
        return Limit(0.0, reason)
    # Of two alike the first is told: heat, which has the words for a device that nothing limits.
    return min((_by_heat(policy, state, reading, heat), _by_frames(policy, state, reading)), key=lambda x: x.share)


def _blind(policy: Policy, state: State, reading: Telemetry, late_s: float) -> str:
    """Why a safety reading cannot be relied on, or nothing."""
    if late_s > policy.stale_s:
        return f"the last telemetry is {late_s:.0f} s old (limit {policy.stale_s:.0f} s)"
    zones = {sensor(zone): zone.age_s for zone in reading.zones}
    for name in state.seen:
        if name in policy.ignored:
            continue
        value = getattr(reading, name, None)
        age_s = zones.get(name) if name.startswith("zone:") else value.age_s if value is not None else None
        if age_s is None:
            why = next((f": {gone.reason}" for gone in reading.missing if gone.field == name), "")
            return f"no reading of {words(name)}{why}"
        if age_s + late_s > policy.stale_s:
            return f"{words(name)} is {age_s + late_s:.0f} s old (limit {policy.stale_s:.0f} s)"
    gone = next((gone for gone in reading.missing if gone.field == "frame_p99_ratio"), None)
    if gone is not None and gone.field not in policy.ignored:
        return f"no reading of frame times: {gone.reason}"
    return ""


def _power(policy: Policy, state: State, reading: Telemetry) -> str:
    """Why the battery forbids training, or nothing."""
    charge = _fresh(policy, reading.battery_share)
    if "battery" in state.closed and charge is not None:
        if charge < policy.battery_floor_share:
            return f"battery {charge:.0%} is under its floor of {policy.battery_floor_share:.0%}"
        back = policy.battery_floor_share + policy.battery_rearm_share
        return f"battery {charge:.0%} was under its floor and has not reached {back:.0%} yet"
    return ""


def _room(policy: Policy, state: State, reading: Telemetry, running: bool) -> str:
    """Why memory, disk or pressure forbids training, or nothing."""
    memory, disk = _fresh(policy, reading.memory_free_bytes), _fresh(policy, reading.disk_free_bytes)
    needed = policy.memory_free_bytes_min if running else policy.memory_start_bytes
    if memory is not None and memory < needed:
        return f"{memory / 2**20:.0f} MiB of memory are free, {needed / 2**20:.0f} needed"
    if disk is not None and disk < policy.disk_free_bytes_min:
        return f"{disk / 2**20:.0f} MiB of disk are free, {policy.disk_free_bytes_min / 2**20:.0f} needed"
    for name, what in (("memory", "memory is"), ("io", "the disk is"), ("cpu", "the cores are")):
        if name in state.closed:
            return f"{what} under pressure: tasks wait for more than {_pressure_max(policy, name):.0%} of the time"
    return ""


def _throttled(policy: Policy, state: State, now_s: float) -> str:
    """Why recent throttling forbids training, or nothing."""
    if state.throttled_at_s is not None and (since_s := now_s - state.throttled_at_s) < policy.throttle_hold_s:
        return f"the device throttled {since_s:.0f} s ago (rest {policy.throttle_hold_s:.0f} s)"
    return ""


def _by_frames(policy: Policy, state: State, reading: Telemetry) -> Limit:
    ratio = _fresh(policy, reading.frame_p99_ratio)
    took = f"frames take {ratio:.0%} of their budget" if ratio is not None else "frames were late a moment ago"
    return Limit(state.frame_share, took)


def _by_heat(policy: Policy, state: State, reading: Telemetry, heat: Heat) -> Limit:
    """The share that the hottest zone allows."""
    found = Limit(1.0, _nothing_limits(reading))
    for zone in reading.zones:
        if sensor(zone) in policy.ignored:
            continue
        trip_c = _trip_c(policy, zone)
        share = heat(msgspec.structs.replace(zone, trip_c=trip_c), state.foreground)
        share = max(allowed for allowed in thermal.SHARES if allowed <= max(share, 0.0))
        if share < found.share:
            found = Limit(share, f"{zone.name} is at {zone.temp_c:.0f} °C of {trip_c:.0f} °C")
    return found


def _nothing_limits(reading: Telemetry) -> str:
    """What to say where every gate is open: which of them there is no sensor for."""
    lacks = [] if reading.zones else ["temperature"]
    lacks += [] if reading.battery_share or reading.on_mains else ["battery"]
    return "no limit is near" + (f" (no sensor of {' or '.join(lacks)})" if lacks else "")


def _seen(policy: Policy, state: State, reading: Telemetry) -> tuple[str, ...]:
    """The sensors ever shown, sorted; the first ``SENSORS_MAX`` of them."""
    seen = state.seen
    now = {name for name in SAFETY if name not in seen and _fresh(policy, getattr(reading, name)) is not None}
    now |= {sensor(zone) for zone in reading.zones if zone.age_s <= policy.stale_s}
    new = sorted(now.difference(seen))
    return tuple(sorted((*state.seen, *new[: SENSORS_MAX - len(state.seen)]))) if new else state.seen


def _foreground(
    policy: Policy, state: State, reading: Telemetry, now_s: float, thermals: thermal.Policy
) -> thermal.Foreground:
    """The apps' load: all that was busy less what the trainer used of it."""
    load = _fresh(policy, reading.load_share)
    if load is None:
        return state.foreground
    trained = (_fresh(policy, reading.train_share) or 0.0) / max(reading.n_cores, 1)
    return thermal.notice(thermals, state.foreground, max(load - trained, 0.0), now_s)


def _closed(policy: Policy, state: State, reading: Telemetry) -> tuple[str, ...]:
    """Gates with two edges: one that shut opens again only well inside its limit, so that none of them flaps."""
    closed = []
    charge, mains = _fresh(policy, reading.battery_share), _fresh(policy, reading.on_mains)
    if charge is not None and not mains:
        rearm = policy.battery_rearm_share if "battery" in state.closed else 0.0
        if charge < policy.battery_floor_share + rearm:
            closed.append("battery")
    resting = (_fresh(policy, reading.train_share) or 0.0) < QUIET_SHARE
    for name, pressure in (
        ("memory", reading.psi_memory_share),
        ("io", reading.psi_io_share),
        # A trainer in the idle class waits whenever an app works, and counts as waiting itself: look while it rests.
        ("cpu", reading.psi_cpu_share if resting else None),
    ):
        share, was = _fresh(policy, pressure), name in state.closed
        if not share and not was:
            continue
        most = _pressure_max(policy, name) * (0.5 if was else 1.0)
        if (share is None and was and name != "cpu") or (share is not None and share > most):
            closed.append(name)
    return tuple(closed)


def _frames(policy: Policy, state: State, reading: Telemetry, now_s: float) -> tuple[float, float]:
    """What the frame gate allows, and since when: at the limit nothing, near it a quarter less, back by quarters."""
    ratio = _fresh(policy, reading.frame_p99_ratio)
    if ratio is not None and ratio >= policy.frame_p99_ratio_max:
        return 0.0, now_s
    if ratio is not None and ratio >= policy.frame_p99_ratio_high:
        return max(state.frame_share - STEP, 0.0), now_s
    if ratio is not None and ratio >= policy.frame_p99_ratio_clear:
        return state.frame_share, now_s
    if state.frame_share < 1 and now_s - state.frame_since_s >= policy.frame_hold_s:
        return state.frame_share + STEP, now_s
    return state.frame_share, state.frame_since_s


def sensor(zone: Zone) -> str:
    """How a thermal zone is named among the sensors: ``zone:cpu-thermal``."""
    return f"zone:{zone.name}"


def words(name: str) -> str:
    """A sensor in words: ``zone:cpu-thermal`` → ``the temperature of cpu-thermal``."""
    return f"the temperature of {name[5:]}" if name.startswith("zone:") else WORDS.get(name, name)


def _trip_c(policy: Policy, zone: Zone) -> float:
    if zone.trip_c is not None:
        return zone.trip_c
    return policy.trip_c_body if any(part in zone.name.lower() for part in BODY) else policy.trip_c_default


def _pressure_max(policy: Policy, name: str) -> float:
    limits = {"memory": policy.psi_memory_share_max, "io": policy.psi_io_share_max, "cpu": policy.psi_cpu_share_max}
    return limits[name]


def _fresh(policy: Policy, value: Value | None) -> float | None:
    """The number, unless there is none, it is too old, or it is not finite."""
    if value is None or value.age_s > policy.stale_s or not math.isfinite(value.value):
        return None
    return value.value
