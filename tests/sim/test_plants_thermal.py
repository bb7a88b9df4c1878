"""Thermal plants: physics that can be checked by hand, the governor, and the packaged table."""

from itertools import pairwise

import numpy as np
import pytest

from evergrove.core.errors import InvalidInput
from evergrove.core.rng import stream
from evergrove.sim.plants_thermal import Board, Boards, Plant, by_name, read_table

STILL = Plant("still", (10.0,), (20.0,), room_c=30.0, drift_c=0.0, noise_c=0.0, step_c=0.5)


def test_one_pole_warms_by_one_minus_one_over_e() -> None:
    """30 °C and 20 K at full load: 42.64 °C after one time constant, 50 °C in the end, back at 30 °C without load."""
    boards = Boards([STILL], stream(0, "t"))
    boards.step(1.0, 10.0)
    assert boards.temp_c[0, 0] == pytest.approx(30.0 + 20.0 * (1 - np.exp(-1.0)))
    boards.step(1.0, 1e4)
    assert boards.temp_c[0, 0] == pytest.approx(50.0)
    boards.step(0.0, 1e4)
    assert boards.temp_c[0, 0] == pytest.approx(30.0)


def test_the_sensor_rounds_to_its_step() -> None:
    """42.64 °C reads 42.5 °C with a sensor that steps by half a degree."""
    assert Board(STILL, stream(0, "t")).step(1.0, 10.0) == 42.5


def test_settled_boards_start_where_their_load_leads() -> None:
    """Half load for ever is 40 °C, in every life."""
    boards = Boards([STILL, STILL], stream(0, "t"), n_lives=3)
    boards.settle(np.array([0.5, 0.0]))
    assert boards.temp_c == pytest.approx(np.tile([40.0, 30.0], (3, 1)))


def test_work_counts_at_the_clock_and_the_trainer_takes_what_apps_leave() -> None:
    """Apps on 3.5 of 4 cores leave half a core; a second of that is half a core-second at full clock."""
    boards = Boards([STILL], stream(0, "t"))
    done = boards.run(np.array([0.875]), np.array([[1.0]]), 1.0)
    assert done.train[0, 0] == pytest.approx(0.5)
    assert done.trained[0, 0] == pytest.approx(0.5)
    assert done.load[0, 0] == pytest.approx(1.0)
    assert done.apps_lost[0, 0] == pytest.approx(0.0)


def test_the_governor_bites_at_the_trip_point_and_lets_go_two_degrees_below() -> None:
    """At 80 °C the clock falls to 0.6, work to 0.6 and heat to 0.36 of full; at 78 °C it comes back."""
    hot = Plant("hot", (10.0,), (40.0,), room_c=45.0, drift_c=0.0, noise_c=0.0)
    boards = Boards([hot], stream(0, "t"))
    boards.settle(np.array([1.0]))
    assert boards.temp_c[0, 0] == pytest.approx(85.0)
    done = boards.run(np.array([0.2]), np.array([[1.0]]), 1.0)
    assert done.clock[0, 0] == 0.6
    assert done.trained[0, 0] == pytest.approx(0.6)
    assert done.apps_lost[0, 0] == pytest.approx(0.0)
    clocks = [boards.run(np.array([1.0]), np.array([[1.0]]), 0.5) for _ in range(400)]
    slow = [done.clock[0, 0] for done in clocks]
    assert set(slow) == {0.6, 1.0}
    assert clocks[0].apps_lost[0, 0] == pytest.approx(0.4 * 4 * 0.5)
    flips = sum(a != b for a, b in pairwise(slow))
    assert 4 < flips < 200
    assert 77.0 < boards.temp_c[0, 0] < 81.5


def test_equal_streams_give_equal_lives_and_lives_share_their_noise() -> None:
    """Two runs from one seed are alike to the bit, and so are two lives under equal loads; other seeds are not."""
    plants = read_table().plants
    first, again, other = (Boards(plants, stream(seed, "x"), n_lives=2) for seed in (1, 1, 2))
    for boards in (first, again, other):
        for _ in range(50):
            boards.step(0.4, 1.0)
    assert np.array_equal(first.read(), again.read())
    assert np.array_equal(first.temp_c[0], first.temp_c[1])
    assert not np.array_equal(first.temp_c, other.temp_c)


def test_drift_deviates_as_declared() -> None:
    """A drift of 0.5 °C that turns over in 5 minutes deviates by 0.5 °C over a day, give or take a fifth."""
    boards = Boards([Plant("d", (10.0,), (0.0,), 30.0, drift_c=0.5, noise_c=0.0)] * 20, stream(3, "d"))
    temps_c = []
    for _ in range(1440):
        boards.step(0.0, 60.0)
        temps_c.append(boards.temp_c[0].copy())
    assert np.std(temps_c) == pytest.approx(0.5, rel=0.2)


def test_the_packaged_table_holds_sixteen_boards_that_make_sense() -> None:
    """Every plant warms by 15 to 50 K at full load, from 30 to 70 °C at idle, and the table has a source."""
    table = read_table()
    assert len({plant.name for plant in table.plants}) == 16
    assert "BSD 3-Clause" in table.licence
    assert "pitemp" in table.source
    for plant in table.plants:
        assert 15.0 < sum(plant.gains_c) < 50.0, plant.name
        assert min(plant.gains_c) > 0.0
        assert 30.0 < plant.room_c < 70.0
        assert len(plant.taus_s) == len(plant.gains_c)
    assert by_name(table.plants[3].name) == table.plants[3]


@pytest.mark.parametrize("raw", [b"{", b'{"source":"", "licence":"", "command":"", "plants":[], "more":1}', b"[]"])
def test_a_broken_table_is_refused(raw: bytes) -> None:
    """What is no table raises one error that says how to make one."""
    with pytest.raises(InvalidInput, match="fit_plants"):
        read_table(raw)


def test_an_unknown_plant_is_refused_with_the_names() -> None:
    """The error lists what there is."""
    with pytest.raises(InvalidInput, match="pistress_1111100011"):
        by_name("toaster")
