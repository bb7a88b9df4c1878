"""The shield: one gate after the other with numbers that a reader can check, and the laws that hold over all."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergrove.core import config
from evergrove.core.telemetry import Missing, Telemetry, Value, Zone
from evergrove.rules import shield, thermal
from evergrove.rules.shield import Limit, Policy, State

POLICY = Policy()
MIB = float(1 << 20)
ROOMY = Telemetry(
    n_cores=4,
    battery_share=Value(0.9),
    on_mains=Value(0.0),
    zones=(Zone("cpu", 50.0, 80.0),),
    throttle_count=Value(3.0),
    load_share=Value(0.2),
    psi_memory_share=Value(0.0),
    psi_io_share=Value(0.0),
    psi_cpu_share=Value(0.0),
    memory_free_bytes=Value(2048 * MIB),
    disk_free_bytes=Value(4096 * MIB),
    frame_p99_ratio=Value(0.5),
)
"""A device that shows every sensor, and none of them near its limit."""


def with_(**changes: object) -> Telemetry:
    return msgspec.structs.replace(ROOMY, **changes)


def cool(zone: Zone, foreground: thermal.Foreground) -> float:
    """Heat that limits nothing."""
    return 1.0


def read(state: State, reading: Telemetry, now_s: float, policy: Policy = POLICY) -> tuple[State, Limit]:
    """One reading, and the shield's word on it at once."""
    state = shield.update(policy, state, reading, now_s)
    return state, shield.limit(policy, state, reading, cool, now_s)


def after(*readings: Telemetry, policy: Policy = POLICY) -> Limit:
    """The word on the last of these readings, taken every ten seconds."""
    state, found = State(), Limit(0.0, "")
    for i, reading in enumerate(readings):
        state, found = read(state, reading, 10.0 * i, policy)
    return found


def test_a_roomy_device_may_train_with_a_whole_core() -> None:
    """Every gate is open, and the reason says so."""
    assert after(ROOMY) == Limit(1.0, "no limit is near")


def test_nothing_is_trained_before_the_first_reading() -> None:
    """A shield that has seen nothing allows nothing."""
    assert shield.limit(POLICY, State(), ROOMY, cool, 0.0) == Limit(0.0, "no telemetry yet")


@pytest.mark.parametrize(
    ("reading", "lacks"),
    [
        (Telemetry(), "temperature or battery"),
        (Telemetry(on_mains=Value(1.0)), "temperature"),
        (Telemetry(zones=(Zone("cpu", 40.0),)), "battery"),
    ],
)
def test_a_plain_server_may_train_and_the_reason_says_what_it_lacks(reading: Telemetry, lacks: str) -> None:
    """A sensor that was never there is not required."""
    assert after(reading) == Limit(1.0, f"no limit is near (no sensor of {lacks})")


@pytest.mark.parametrize("name", shield.SAFETY)
def test_a_sensor_that_was_seen_once_is_required_from_then_on(name: str) -> None:
    """Gone, or sixty-one seconds old: nothing, with the reason. Ignored by its name: a whole core."""
    gone = with_(**{name: None})
    assert after(gone).share == 1.0
    assert after(ROOMY, gone) == Limit(0.0, f"no reading of {shield.WORDS[name]}")
    told = msgspec.structs.replace(gone, missing=(Missing("other", "x"), Missing(name, "no such file")))
    assert after(ROOMY, told).reason == f"no reading of {shield.WORDS[name]}: no such file"
    old = with_(**{name: msgspec.structs.replace(getattr(ROOMY, name), age_s=61.0)})
    assert after(ROOMY, old) == Limit(0.0, f"{shield.WORDS[name]} is 61 s old (limit 60 s)")
    ignoring = Policy(ignored=frozenset({name}))
    assert after(ROOMY, gone, policy=ignoring).share == after(ROOMY, old, policy=ignoring).share == 1.0


def test_a_thermal_zone_that_was_seen_once_is_required_too() -> None:
    """By its name: another zone does not stand in for it."""
    assert after(ROOMY, with_(zones=(Zone("gpu", 40.0, 80.0),))) == Limit(0.0, "no reading of the temperature of cpu")
    old = with_(zones=(Zone("cpu", 50.0, 80.0, age_s=70.0),))
    assert after(ROOMY, old).reason == "the temperature of cpu is 70 s old (limit 60 s)"
    assert after(old, with_(zones=())).share == 1.0  # a zone that only ever was stale was never seen


def test_a_reading_itself_grows_old() -> None:
    """A minute after the last reading nothing is known any more; an age adds to the wait."""
    state = shield.update(POLICY, State(), ROOMY, 0.0)
    assert shield.limit(POLICY, state, ROOMY, cool, 60.0).share == 1.0
    assert shield.limit(POLICY, state, ROOMY, cool, 61.0).reason == "the last telemetry is 61 s old (limit 60 s)"
    aged = with_(load_share=Value(0.2, age_s=40.0))
    state = shield.update(POLICY, State(), aged, 0.0)
    assert shield.limit(POLICY, state, aged, cool, 30.0).reason == "load is 70 s old (limit 60 s)"
    assert shield.limit(POLICY, state, ROOMY, cool, -5.0).share == 1.0  # a clock that went back


def test_a_number_that_is_none_is_no_sighting() -> None:
    """NaN neither counts as a sensor nor closes a gate."""
    assert after(Telemetry(battery_share=Value(math.nan)), Telemetry()).share == 1.0


def test_at_most_64_sensors_are_remembered() -> None:
    """A device that invents zones without end does not grow the state without end."""
    zones = tuple(Zone(f"z{i:03d}", 40.0, 80.0) for i in range(100))
    state = shield.update(POLICY, State(), with_(zones=zones), 0.0)
    again = shield.update(POLICY, state, with_(zones=(Zone("new", 40.0),)), 1.0)
    assert len(state.seen) == 64
    assert again.seen == state.seen


def test_frames_that_were_measured_and_cannot_be_now_stop_training() -> None:
    """No app, no frames, no need; but frames that were looked for in vain are a reason to stop."""
    assert after(ROOMY, with_(frame_p99_ratio=None)).share == 1.0
    lost = with_(frame_p99_ratio=None, missing=(Missing("frame_p99_ratio", "gate is torn"),))
    assert after(lost) == Limit(0.0, "no reading of frame times: gate is torn")
    assert after(lost, policy=Policy(ignored=frozenset({"frame_p99_ratio"}))).share == 1.0


def test_the_battery_has_a_floor_and_comes_back_five_points_above_it() -> None:
    """30 % closes the gate, 34 % does not open it again, 35 % does, and mains do at once."""
    low, under, back = (
        with_(battery_share=Value(0.29)),
        with_(battery_share=Value(0.34)),
        with_(battery_share=Value(0.35)),
    )
    assert after(low) == Limit(0.0, "battery 29% is under its floor of 30%")
    assert after(under).share == 1.0
    assert after(low, under) == Limit(0.0, "battery 34% was under its floor and has not reached 35% yet")
    assert after(low, back).share == 1.0
    assert after(low, with_(battery_share=Value(0.1), on_mains=Value(1.0))).share == 1.0


def test_a_start_takes_more_memory_than_going_on() -> None:
    """400 MiB: too little to begin (512), enough to go on (128)."""
    tight = with_(memory_free_bytes=Value(400 * MIB))
    state, found = read(State(), tight, 0.0)
    assert found == Limit(0.0, "400 MiB of memory are free, 512 needed")
    assert shield.limit(POLICY, state, tight, cool, 0.0, running=True).share == 1.0
    full = with_(memory_free_bytes=Value(100 * MIB))
    state, _ = read(State(), full, 0.0)
    assert shield.limit(POLICY, state, full, cool, 0.0, running=True).reason == (
        "100 MiB of memory are free, 128 needed"
    )


def test_a_full_disk_stops_training() -> None:
    """255 MiB are one too few."""
    assert after(with_(disk_free_bytes=Value(255 * MIB))) == Limit(0.0, "255 MiB of disk are free, 256 needed")


@pytest.mark.parametrize(
    ("name", "what", "most"),
    [("memory", "memory is", 0.1), ("io", "the disk is", 0.4), ("cpu", "the cores are", 0.6)],
)
def test_pressure_closes_a_gate_that_opens_at_half_its_limit(name: str, what: str, most: float) -> None:
    """Over the limit shut, at 60 % of it still shut, at half of it open."""
    field = f"psi_{name}_share"
    over, between, half = (with_(**{field: Value(most * part)}) for part in (1.01, 0.6, 0.5))
    shut = Limit(0.0, f"{what} under pressure: tasks wait for more than {most:.0%} of the time")
    assert after(between).share == 1.0
    assert after(over) == shut
    assert after(over, between) == shut
    assert after(over, half).share == 1.0


def test_pressure_on_the_cores_is_looked_at_only_while_the_trainer_rests() -> None:
    """A trainer of the idle class waits itself whenever an app works: that is not a reason to stop it."""
    crowded = with_(psi_cpu_share=Value(0.9))
    assert after(crowded).share == 0.0
    assert after(msgspec.structs.replace(crowded, train_share=Value(0.5))).share == 1.0
    assert after(crowded, msgspec.structs.replace(crowded, train_share=Value(0.5))).share == 1.0


def test_memory_pressure_that_cannot_be_read_any_more_stays_shut() -> None:
    """Its sensor is ignored, so it is not required; but a gate that was shut waits for a clear sign."""
    ignoring = Policy(ignored=frozenset({"psi_memory_share"}))
    shut, gone = with_(psi_memory_share=Value(0.5)), with_(psi_memory_share=None)
    assert "memory is under pressure" in after(shut, gone, policy=ignoring).reason


def test_after_throttling_the_device_rests_for_five_minutes() -> None:
    """The counter rose from 3 to 4 at 10 s: shut at 309 s, open at 310 s. A counter that fell is no throttling."""
    state, _ = read(State(), ROOMY, 0.0)
    risen = with_(throttle_count=Value(4.0))
    state, found = read(state, risen, 10.0)
    assert found == Limit(0.0, "the device throttled 0 s ago (rest 300 s)")
    state, found = read(state, risen, 309.0)
    assert found.reason == "the device throttled 299 s ago (rest 300 s)"
    state, found = read(state, risen, 310.0)
    assert found.share == 1.0
    assert read(state, with_(throttle_count=Value(0.0)), 320.0)[1].share == 1.0


def test_late_frames_stop_training_and_it_comes_back_by_quarters() -> None:
    """At the budget nothing; then a quarter more for every thirty clear seconds."""
    state, found = read(State(), with_(frame_p99_ratio=Value(1.0)), 0.0)
    assert found == Limit(0.0, "frames take 100% of their budget")
    shares = []
    for now_s in (10.0, 29.0, 30.0, 59.0, 60.0, 90.0, 120.0, 150.0):
        state, found = read(state, ROOMY, now_s)
        shares.append(found.share)
    assert shares == [0.0, 0.0, 0.25, 0.25, 0.5, 0.75, 1.0, 1.0]


def test_frames_near_their_budget_take_a_quarter_and_not_clear_ones_hold_it() -> None:
    """92 %: a quarter less each time, never below nothing; 85 %: neither more nor less, and the wait starts again."""
    near, between = with_(frame_p99_ratio=Value(0.92)), with_(frame_p99_ratio=Value(0.85))
    assert [after(*[near] * n).share for n in (1, 2, 3, 4, 5)] == [0.75, 0.5, 0.25, 0.0, 0.0]
    assert after(near) == Limit(0.75, "frames take 92% of their budget")
    assert after(near, *[between] * 9).share == 0.75
    assert after(near, with_(frame_p99_ratio=None)) == Limit(0.75, "frames were late a moment ago")


def test_the_hottest_zone_limits_and_its_share_is_rounded_down() -> None:
    """cpu allows 0.6 of a core, which is a half; gpu allows it all."""
    two = with_(zones=(Zone("cpu", 70.0, 80.0), Zone("gpu", 40.0, 90.0)))
    state = shield.update(POLICY, State(), two, 0.0)

    def heat(zone: Zone, foreground: thermal.Foreground) -> float:
        return 0.6 if zone.name == "cpu" else 7.0

    assert shield.limit(POLICY, state, two, heat, 0.0) == Limit(0.5, "cpu is at 70 °C of 80 °C")
    assert shield.limit(POLICY, state, two, lambda zone, foreground: -1.0, 0.0).share == 0.0
    ignoring = Policy(ignored=frozenset({"zone:cpu"}))
    assert shield.limit(ignoring, state, two, heat, 0.0).share == 1.0


@pytest.mark.parametrize(("name", "trip_c"), [("cpu-thermal", 80.0), ("battery", 43.0), ("Skin-virt", 43.0)])
def test_a_zone_without_a_trip_point_gets_one_by_its_name(name: str, trip_c: float) -> None:
    """What lies on skin or in a battery may be 43 °C, the rest 80 °C."""
    asked: list[float | None] = []

    def heat(zone: Zone, foreground: thermal.Foreground) -> float:
        asked.append(zone.trip_c)
        return 0.25

    reading = with_(zones=(Zone(name, 40.0),))
    found = shield.limit(POLICY, shield.update(POLICY, State(), reading, 0.0), reading, heat, 0.0)
    assert asked == [trip_c]
    assert found.reason == f"{name} is at 40 °C of {trip_c:.0f} °C"


def test_heat_by_models_allows_nothing_without_a_model_or_a_trip_point() -> None:
    """A zone at 40 °C of 80 °C with a model allows a core; an unknown one, or one without a trip point, none."""
    thermals = thermal.Policy()
    model = thermal.update(thermals, thermal.State(), 40.0, 0.0, 0.0)
    heat = shield.of_models(thermals, {"cpu": model}, 4)
    idle = thermal.Foreground()
    assert heat(Zone("cpu", 40.0, 80.0), idle) == thermal.safe_share(thermals, model, idle, 80.0, 4) == 1.0
    assert heat(Zone("gpu", 40.0, 80.0), idle) == 0.0
    assert heat(Zone("cpu", 40.0), idle) == 0.0


def test_the_foreground_is_the_load_without_the_trainer() -> None:
    """Half of four cores busy, one of them by the trainer: the apps have a quarter. Without a load it stays."""
    state = shield.update(POLICY, State(), with_(load_share=Value(0.5), train_share=Value(1.0)), 0.0)
    assert state.foreground.filtered == (0.25, 0.25, 0.25)
    assert shield.update(POLICY, state, with_(load_share=None), 10.0).foreground == state.foreground


def test_the_policy_is_that_of_the_configuration() -> None:
    """Names are parted by commas, and blanks around them do not count."""
    asked = config.Shield(ignore_sensors=" on_mains, zone:cpu ,", battery_floor_share=0.4)
    policy = Policy.of(asked)
    assert policy.ignored == {"on_mains", "zone:cpu"}
    assert policy.battery_floor_share == 0.4
    assert Policy.of(config.Shield()) == POLICY
    assert shield.words("power_w") == "power_w"


# Laws

numbers = st.floats(0.0, 2.0) | st.just(math.nan)
values = st.none() | st.builds(Value, numbers, st.floats(0.0, 120.0))
big = st.none() | st.builds(Value, st.floats(0.0, 4e9), st.floats(0.0, 120.0))
zones = st.lists(
    st.builds(Zone, st.sampled_from(["cpu", "gpu", "skin"]), st.floats(0.0, 120.0), st.none(), st.floats(0.0, 120.0)),
    max_size=3,
    unique_by=lambda zone: zone.name,
)
readings = st.builds(
    Telemetry,
    n_cores=st.integers(1, 8),
    battery_share=values,
    on_mains=values,
    zones=zones.map(tuple),
    throttle_count=values,
    load_share=values,
    train_share=values,
    psi_cpu_share=values,
    psi_memory_share=values,
    psi_io_share=values,
    memory_free_bytes=big,
    disk_free_bytes=big,
    frame_p99_ratio=values,
)
histories = st.lists(readings, min_size=1, max_size=6)


def shown(reading: Telemetry) -> set[str]:
    """The safety readings that can be relied on, told apart from the shield's own words."""
    good = {
        name
        for name in shield.SAFETY
        if (value := getattr(reading, name)) is not None and value.age_s <= 60.0 and math.isfinite(value.value)
    }
    return good | {f"zone:{zone.name}" for zone in reading.zones if zone.age_s <= 60.0}


@given(histories, st.floats(0.0, 100.0))
def test_no_share_is_given_while_a_needed_reading_is_missing_or_stale(history: list[Telemetry], wait_s: float) -> None:
    """Whatever was ever shown has to be there, and be fresh at the moment of the decision, before anything trains."""
    state, ever = State(), set[str]()
    for i, reading in enumerate(history):
        state = shield.update(POLICY, state, reading, 10.0 * i)
        ever |= shown(reading)
    now = history[-1]
    aged = {name: getattr(now, name).age_s for name in shield.SAFETY if getattr(now, name) is not None}
    aged |= {f"zone:{zone.name}": zone.age_s for zone in now.zones}
    found = shield.limit(POLICY, state, now, cool, 10.0 * (len(history) - 1) + wait_s)
    if wait_s > 60.0 or any(name not in aged or aged[name] + wait_s > 60.0 for name in ever):
        assert found.share == 0.0
    assert set(state.seen) == ever
    assert found.share in thermal.SHARES
    assert found.reason


@given(histories, st.floats(0.0, 1.0))
def test_more_heat_never_gives_more_share(history: list[Telemetry], allowed: float) -> None:
    """What heat allows is an upper bound, whatever the other gates say, and state is the same for the same readings."""
    state = State()
    for i, reading in enumerate(history):
        before, state = state, shield.update(POLICY, state, reading, 10.0 * i)
        assert shield.update(POLICY, before, reading, 10.0 * i) == state
    now, now_s = history[-1], 10.0 * (len(history) - 1)
    warm = shield.limit(POLICY, state, now, lambda zone, foreground: allowed, now_s)
    assert warm.share <= shield.limit(POLICY, state, now, cool, now_s).share
    if now.zones:
        assert warm.share <= allowed
