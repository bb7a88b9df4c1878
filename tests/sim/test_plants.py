"""Bodies keep the books: energy, heat and time add up, and habits are habits."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evergrove.core.telemetry import Missing
from evergrove.sim import plants
from evergrove.sim.scenario import Fleet, Heat, Network, Power, Stream, Usage

MONDAY_S = 1_767_571_200.0
STILL = Heat(r_c=(8.0, 14.0, 22.0), ambient_c=20.0, ambient_swing_c=0.0, spread=0.0, noise_c=0.0)


def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def track(*pieces: tuple[float, float]) -> plants.Track:
    return plants.Track(iter([*pieces, (math.inf, 0.0)]), 0.0)


def test_a_track_is_asked_forward_and_gives_each_piece_once() -> None:
    """0.5 until 10 s, 1.0 until 30 s, then nothing."""
    usage = track((10.0, 0.5), (30.0, 1.0))
    assert usage.at(4.0) == 0.5
    assert usage.since(25.0) == [(6.0, 0.5), (15.0, 1.0)]
    assert usage.since(25.0) == []
    assert usage.at(30.0) == 0.0


@settings(max_examples=25)
@given(st.lists(st.floats(0.01, 5000.0), min_size=1, max_size=30))
def test_the_pieces_of_a_track_add_up_to_the_time_that_passed(steps: list[float]) -> None:
    """Conservation of time, however it is cut."""
    usage = plants.Track(plants.usage_pieces(Usage(), rng(), MONDAY_S), MONDAY_S)
    now_s = MONDAY_S
    for step_s in steps:
        now_s += step_s
        pieces = usage.since(now_s)
        assert math.fsum(p for p, _ in pieces) == pytest.approx(step_s, abs=1e-5)
        assert all(0 <= load <= 1 for _, load in pieces)


def test_three_poles_settle_where_the_resistances_say() -> None:
    """At half load for hours: 20 + 0.5 · (8 + 14 + 22) = 42 °C; and one long step equals many short ones."""
    once, often = plants.ThreePoles(STILL, rng(), 0.0), plants.ThreePoles(STILL, rng(), 0.0)
    assert once.step(0.5, 20_000.0) == pytest.approx(42.0, abs=0.01)
    for _ in range(30):
        often.step(0.5, 10.0)
    other = plants.ThreePoles(STILL, rng(), 0.0)
    assert often.step(0.5, 0.0) == pytest.approx(other.step(0.5, 300.0))


def test_a_pole_follows_its_time_constant() -> None:
    """After 400 s at full load the slow pole has done 1 - 1/e of its way, the others nearly all."""
    plant = plants.ThreePoles(STILL, rng(), 0.0)
    expected = 20 + 8 + 14 * (1 - math.exp(-10)) + 22 * (1 - math.exp(-1))
    assert plant.step(1.0, 400.0) == pytest.approx(expected, abs=1e-3)


def test_a_room_is_warmest_in_the_afternoon() -> None:
    """With a swing of 3 °C: 23 at 16:00, 17 at 4:00."""
    heat = Heat(ambient_c=20.0, ambient_swing_c=3.0, spread=0.0, noise_c=0.0)
    assert plants.ThreePoles(heat, rng(), MONDAY_S + 16 * 3600).step(0.0, 0.0) == pytest.approx(23.0)
    assert plants.ThreePoles(heat, rng(), MONDAY_S + 4 * 3600).step(0.0, 0.0) == pytest.approx(17.0)


def test_a_battery_counts_joules_and_has_two_ends() -> None:
    """1 Wh: 3,600 J; 1 W for half an hour takes half; charging and draining stop at the ends."""
    charge = plants.Charge(Power(capacity_wh=1.0, charge_w=2.0, start_share=1.0))
    charge.step(1.0, False, 1800.0)
    assert charge.share == pytest.approx(0.5)
    charge.step(1.0, True, 450.0)
    assert charge.share == pytest.approx(0.75)
    charge.step(1.0, True, 1e6)
    assert charge.share == 1.0
    charge.step(1.0, False, 1e6)
    assert charge.share == 0.0


def test_most_nights_are_spent_at_the_charger_and_a_board_always_is() -> None:
    """At 3:00 a phone is plugged in on nine of ten nights, at 14:00 rarely."""
    mains = plants.Track(plants.mains_pieces(Power(), rng(), MONDAY_S), MONDAY_S)
    night, noon = [], []
    for day in range(60):
        night.append(mains.at(MONDAY_S + day * 86_400 + 3 * 3600))
        noon.append(mains.at(MONDAY_S + day * 86_400 + 14 * 3600))
    assert 0.75 <= np.mean(night) <= 1.0
    assert np.mean(noon) <= 0.3
    board = plants.Track(plants.mains_pieces(Power(capacity_wh=0.0), rng(), 0.0), 0.0)
    assert board.at(1e9) == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_pieces_follow_each_other(seed: int) -> None:
    """Every habit's pieces end later than the one before."""
    chance = np.random.default_rng(seed)
    for pieces in (
        plants.mains_pieces(Power(day_share=1.0, spread_h=3.0), chance, MONDAY_S),
        plants.network_pieces(Network(), chance, MONDAY_S),
        plants.usage_pieces(Usage(), chance, MONDAY_S),
    ):
        ends = [next(pieces)[0] for _ in range(200)]
        assert all(a < b for a, b in pairwise(ends))


def test_a_phone_rests_at_night_and_an_unused_device_always_does() -> None:
    """Busy seconds between 1:00 and 5:00 are few against the evening's."""
    usage = plants.Track(plants.usage_pieces(Usage(load_idle=0.0), rng(), MONDAY_S), MONDAY_S)
    by_hour = np.zeros(24)
    for hour in range(24 * 14):
        by_hour[hour % 24] += math.fsum(p * v for p, v in usage.since(MONDAY_S + (hour + 1) * 3600.0))
    assert by_hour[1:5].sum() < 0.1 * by_hour[18:22].sum()
    still = plants.Track(plants.usage_pieces(Usage(sessions_per_day=0.0, load_idle=0.1), rng(), 0.0), 0.0)
    assert still.at(1e9) == 0.1


def test_a_network_is_metered_as_often_as_asked_and_fails_now_and_then() -> None:
    """Of a month's quarter hours; without outages and always free there is one piece for ever."""
    network = plants.Track(plants.network_pieces(Network(), rng(), 0.0), 0.0)
    seen = [network.at(i * 900.0) for i in range(30 * 96)]
    assert 0.2 <= seen.count(1.0) / len(seen) <= 0.5
    assert 0.01 <= seen.count(0.0) / len(seen) <= 0.15
    steady = plants.network_pieces(Network(metered_share=0.0, outages_per_day=0.0), rng(), 0.0)
    assert next(steady) == (math.inf, 2.0)


def test_new_conditions_come_one_by_one_and_known_ones_when_asked() -> None:
    """Eight are known, a new one every six hours: 9 from the start, at most 12 in the end."""
    stream = Stream(known=(8, 2), per_day=200, n_new=4, new_every_h=6.0)
    shown = plants.pictures(stream, "steady", rng(), MONDAY_S)
    seen = [next(shown) for _ in range(400)]
    first = {p.code[0] for at_s, p in seen if at_s < MONDAY_S + 6 * 3600}
    assert first == {9}
    assert {p.code[0] for _, p in seen} == {9, 10, 11, 12}
    assert {p.code[1] for _, p in seen} == {1, 2}
    copies = sum(p.facts.exact_duplicate for _, p in seen)
    assert 35 <= copies <= 90
    known = plants.pictures(Stream(known_share=1.0), "steady", rng(), MONDAY_S)
    assert all(next(known)[1].code[0] <= 8 for _ in range(50))
    assert list(plants.pictures(Stream(per_day=0.0), "phone", rng(), 0.0)) == []


def body(fleet: Fleet, load: float = 0.25, trip_c: float = 80.0) -> plants.Body:
    """A device under one load, plugged in, without a network."""
    steady, ever = plants.Track(iter([(math.inf, load)]), 0.0), math.inf
    mains, network = plants.Track(iter([(ever, 0.0)]), 0.0), plants.Track(iter([(ever, 1.0)]), 0.0)
    return plants.Body(steady, mains, network, plants.ThreePoles(STILL, rng(), 0.0), fleet, trip_c, 0.0)


def test_a_reading_covers_the_time_since_the_last_one() -> None:
    """Half a core of four for 10 of 40 s: 0.25 + 0.125 · 0.25 of all cores; the trainer's part is an eighth of one."""
    one = body(Fleet("f", n_cores=4, power=Power(capacity_wh=10.0, start_share=0.5, idle_w=1.0, busy_w=4.0)))
    one.settle(10.0, 0.5, 0.75)
    one.settle(40.0, 0.0, 0.0)
    reading = one.read(40.0)
    assert reading.train_share is not None
    assert reading.train_share.value == pytest.approx(0.125)
    assert reading.load_share is not None
    assert reading.load_share.value == pytest.approx(0.25 + 0.125 / 4, abs=1e-4)
    assert reading.power_w is not None
    assert reading.power_w.value == pytest.approx(1.0 + 1.0 + 0.75 / 4, abs=1e-3)
    assert one.trained_j == pytest.approx(7.5)
    assert one.charge.share == pytest.approx(0.5 - (2.0 * 40 + 7.5) / 36_000)
    again = one.read(40.0)
    assert again.load_share == reading.load_share
    assert again.network_metered is not None
    assert again.network_metered.value == 1.0


def test_a_body_throttles_at_its_trip_point_and_lets_go_below_it() -> None:
    """At a quarter of all load it settles at 31 °C: a trip point of 30 °C bites, one of 32 °C does not."""
    hot, cool = body(Fleet("f"), trip_c=30.0), body(Fleet("f"), trip_c=32.0)
    for now_s in range(100, 5000, 100):
        hot.settle(now_s, 0.0, 0.0)
        cool.settle(now_s, 0.0, 0.0)
        reading = hot.read(now_s)
        assert reading.cpu_freq_share is not None
        assert reading.cpu_freq_share.value == (plants.THROTTLED_SHARE if hot.throttled else 1.0)
    assert hot.n_throttled > 1  # a slower clock makes less heat, so it comes and goes
    assert 0 < hot.throttled_s < 4900
    assert hot.temp_c < 31.0
    assert cool.n_throttled == 0


def test_a_broken_sensor_is_missing_with_a_reason() -> None:
    """Zones vanish; the other fields stay."""
    one = body(Fleet("f"))
    one.broken = ("zones", "battery_share")
    reading = one.read(0.0)
    assert reading.zones == ()
    assert reading.battery_share is None
    assert reading.missing == (Missing("zones", "vanished"), Missing("battery_share", "vanished"))
    assert reading.load_share is not None
