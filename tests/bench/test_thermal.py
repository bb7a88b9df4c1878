"""``bench thermal``: runs that are read or refused, forecasts of a run that follows the model, rivals by hand."""

import os
from pathlib import Path

import msgspec
import numpy as np
import pytest

from evergrove.bench import thermal
from evergrove.bench.thermal_loop import bursts, guess, live, sessions
from evergrove.bench.thermal_rivals import Board, Reading, always, hysteresis, never, pid, shield
from evergrove.bench.thermal_runs import Run, find_folder, read_run, read_runs
from evergrove.core.errors import InvalidInput, MissingDependency
from evergrove.core.rng import stream
from evergrove.rules.thermal_filter import low_pass
from evergrove.sim.plants_thermal import Plant, read_table

BOARD = Board(80.0, 4, (7.0, 11.0, 20.0))
COOL = Plant("cool", (5.0, 60.0), (5.0, 10.0), room_c=30.0, drift_c=0.1, noise_c=0.2)
HOT = msgspec.structs.replace(COOL, name="hot", room_c=72.0)


def recorded() -> Path:
    """The recorded runs, or a skip that says how to name them."""
    named = os.environ.get("EVERGROVE_THERMAL_DATA")
    root = Path(__file__).parents[2]
    places = [Path(named)] if named else [root / "shared/data/thermal-pi", root.parent / "shared/data/thermal-pi"]
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        pytest.skip("no recorded runs: set EVERGROVE_THERMAL_DATA to the folder thermal-pi")
    return found


def made_up(name: str = "made-up", n: int = 1500) -> Run:
    """A run that follows the model without noise: levels held for 9 s."""
    load = np.repeat(stream(0, name).integers(0, 5, n // 9 + 1) / 4.0, 9)[:n]
    filtered, temps_c = (0.0, 0.0, 0.0), []
    for value in load.tolist():
        filtered = low_pass(filtered, value, 1.0)
        temps_c.append(35.0 + 7.0 * filtered[0] + 11.0 * filtered[1] + 15.0 * filtered[2])
    return Run(name, np.arange(n) + 1.0, load, np.array(temps_c))


def test_a_run_is_read_without_its_markers(tmp_path: Path) -> None:
    """Percent become shares, times start at 0, and rows without usage are passed over."""
    path = tmp_path / "minmax.csv"
    path.write_text(
        "datetime,obs_type,usage,temp\n2020-08-06 18:51:31.5,warmup,50.0,46.0\n2020-08-06 18:51:32,max,,47\n"
        "2020-08-06 18:51:32.5,warmup,100.0,47.5\n"
    )
    (run,) = read_runs(tmp_path)
    assert (run.name, run.times_s.tolist(), run.load.tolist()) == ("minmax", [0.0, 1.0], [0.5, 1.0])
    assert run.temp_c.tolist() == [46.0, 47.5]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("datetime,usage,temp\n2020-08-06 18:51:31,x,46\n", "line 2"),
        ("a,b\n1,2\n", "line 2"),
        ("datetime,usage,temp\n2020-08-06 18:51:31,5,46\n", "fewer than two"),
        ("datetime,usage,temp\n2020-08-06 18:51:31,5,46\n2020-08-06 18:51:31,5,46\n", "times must rise"),
        ("datetime,usage,temp\n2020-08-06 18:51:31,5,46\n2020-08-06 18:51:32,5,nan\n", "numbers"),
    ],
)
def test_a_broken_run_is_refused_with_the_place(tmp_path: Path, text: str, says: str) -> None:
    """The error names the file and, where it is one line, the line."""
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=says):
        read_run(path)


def test_no_recordings_is_a_missing_dependency(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty or absent folder, named or not, says which option names the right one."""
    monkeypatch.chdir(tmp_path)
    for look in (lambda: read_runs(tmp_path / "none"), lambda: read_runs(tmp_path), lambda: find_folder(None)):
        with pytest.raises(MissingDependency, match="--data"):
            look()
    (tmp_path / "shared/data/thermal-pi").mkdir(parents=True)
    assert find_folder(None) == Path("shared/data/thermal-pi")
    assert find_folder(tmp_path / "shared/data") == tmp_path / "shared/data/thermal-pi"


def test_a_run_that_follows_the_model_is_foreseen() -> None:
    """Without noise and from the right R the error is far below the bar, and below what persistence makes."""
    found = thermal.foresee(made_up(), 1, [(7.0, 11.0, 15.0)])
    assert found.given_c < 0.3
    assert found.given_c < found.persistence_c / 4
    assert found.violated <= 0.015
    wrong = thermal.foresee(made_up(), 1, [(0.0, 0.0, 0.0)])
    assert wrong.given_from_start_c > found.given_from_start_c


def test_telemetry_of_ten_seconds_sees_means_and_the_last_temperature() -> None:
    """The first ten rows of a run become one reading."""
    run = made_up(n=40)
    times_s, loads, temps_c = thermal.every(run, 10)
    assert (len(times_s), times_s[0], temps_c[0]) == (4, run.times_s[9], run.temp_c[9])
    assert loads[0] == pytest.approx(run.load[:10].mean())


def test_rivals_by_hand() -> None:
    """Hysteresis goes off at 70 °C, on again at 65 °C; PID asks for less where it is hotter; the ends never change."""
    rival = hysteresis("h", 10.0, 15.0)
    on, shares = rival.start(BOARD), []
    for temp_c in (60.0, 69.0, 71.0, 67.0, 64.0):
        on, share = rival.decide(BOARD, on, Reading(0.0, temp_c, 0.5, 1.0, False))
        shares.append(share)
    assert shares == [1.0, 1.0, 0.0, 0.0, 1.0]
    held = pid(5.0)
    cool, hot = (held.decide(BOARD, held.start(BOARD), Reading(10.0, t, 0.5, 1.0, False))[1] for t in (50.0, 80.0))
    assert (cool, hot) == (1.0, 0.0)
    assert always().decide(BOARD, None, Reading(0.0, 99.0, 1.0, 1.0, True)) == (None, 1.0)
    assert never().decide(BOARD, None, Reading(0.0, 20.0, 0.0, 0.0, False)) == (None, 0.0)


def test_pid_settles_at_its_set_point_without_winding_up() -> None:
    """Long cold, then hot: the integral has not wound up, so the share falls within two readings."""
    held = pid(5.0)
    state = held.start(BOARD)
    for i in range(1, 100):
        state, _ = held.decide(BOARD, state, Reading(10.0 * i, 40.0, 0.5, 1.0, False))
    for i in range(100, 102):
        state, share = held.decide(BOARD, state, Reading(10.0 * i, 79.0, 0.5, 1.0, False))
    assert share == 0.0


def test_the_loop_counts_work_and_throttling() -> None:
    """A cool board trains all the time; a hot one throttles under no control, less under the shield, and not alone."""
    quiet = lambda rng, n: np.full(n, 0.2)  # noqa: E731
    lives = live([always(), shield("ours"), never()], [COOL, HOT], quiet, seed=5, hours=0.3)
    free, ours, none = lives
    assert [life.name for life in lives] == ["no control", "ours", "no training"]
    assert none.work == 0.0
    assert (none.worse, none.worse_s) == (0, 0.0)
    assert 0.0 < ours.work <= free.work <= 1.0
    assert ours.throttled_s <= free.throttled_s
    again = live([always(), shield("ours"), never()], [COOL, HOT], quiet, seed=5, hours=0.3)
    assert again == lives


def test_apps_stay_within_their_cores() -> None:
    """Both kinds of load lie between 0 and 1; bursts take whole quarters, sessions stay longer than a burst."""
    short, long = bursts(stream(1, "b"), 3600), sessions(stream(1, "s"), 3600)
    for load in (short, long):
        assert load.shape == (3600,)
        assert 0.0 <= load.min() <= load.max() <= 1.0
    assert set((short * 4).tolist()) <= {0.0, 1.0, 2.0, 3.0, 4.0}


def test_a_guess_sums_up_the_plant_s_poles() -> None:
    """Poles of 5 and 60 s go to those of 4 and 40 s; a factor of 1.4 makes all of it 40 % too much."""
    assert guess(COOL, 1.4) == pytest.approx((7.0, 14.0, 0.0))


def test_a_little_of_everything(tmp_path: Path) -> None:
    """The whole bench on two made-up runs: every bar has a value, and the progress reaches its end."""
    for name in ("a", "b"):
        run = made_up(name, 900)
        rows = "".join(
            f"2020-01-01 00:{int(t) // 60:02d}:{int(t) % 60:02d},{u * 100},{c}\n"
            for t, u, c in zip(run.times_s, run.load, run.temp_c, strict=True)
        )
        (tmp_path / f"{name}.csv").write_text("datetime,usage,temp\n" + rows)
    said: list[tuple[str, int, int]] = []
    sizes = msgspec.structs.replace(thermal.QUICK, hours=0.05)
    report = thermal.run(tmp_path, sizes, lambda *what: said.append(what))
    assert [bar.name for bar in report.bars][1] == "60 s ahead given the load, mean error"
    assert all(np.isfinite(bar.value) for bar in report.bars)
    assert report.n_boards == len(read_table().plants)
    assert [one.period_s for one in report.ahead] == [1, 10, 1, 10]
    assert said[-1][2] == 4


def test_a_recorded_run_is_foreseen_within_the_bars() -> None:
    """One real run, from R that the production model learned on two others."""
    runs = {run.name: run for run in read_runs(recorded())}
    others = [thermal.learn(runs[name]) for name in ("minmax_1111000111_w30", "pistress_1100000111")]
    found = thermal.foresee(runs["pistress_1100001011"], 1, others)
    assert found.given_c <= thermal.MAE_C_MAX
    assert found.given_c <= thermal.PERSISTENCE_SHARE_MAX * found.persistence_c
    assert found.violated <= thermal.VIOLATED_MAX
