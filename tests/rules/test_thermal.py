"""The thermal model: filters that can be checked by hand, R that is found and stays ≥ 0, margins, and safe shares."""

import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evergrove.core import config
from evergrove.rules import thermal
from evergrove.rules.thermal import HORIZONS_S, SHARES, Foreground, Policy, State
from evergrove.rules.thermal_filter import TAU_S, Noise, learn, low_pass, spread

POLICY = Policy(gain_c=(8.0, 12.0, 20.0))
TRUE = (6.0, 10.0, 16.0)
numbers = st.floats(allow_nan=True, allow_infinity=True)


def board(n: int, period_s: float = 10.0, room_c: float = 30.0, gain_c=TRUE, loads=None):  # type: ignore[no-untyped-def]
    """A board without noise under loads that alternate: (temperature, load, time) for each reading."""
    filtered = (0.0, 0.0, 0.0)
    for i in range(n):
        load = loads(i) if loads else (1.0 if (i // 7) % 2 else 0.1) * (0.5 if (i // 60) % 2 else 1.0)
        filtered = low_pass(filtered, load, period_s)
        yield room_c + sum(r * f for r, f in zip(gain_c, filtered, strict=True)), load, (i + 1) * period_s


def taught(n: int = 720, policy: Policy = POLICY, **changes) -> State:  # type: ignore[no-untyped-def]
    """The state after ``n`` readings of that board."""
    state = State()
    for temp_c, load, now_s in board(n, **changes):
        state = thermal.update(policy, state, temp_c, load, now_s)
    return state


def test_a_filter_reaches_its_load_by_one_minus_one_over_e_in_one_time_constant() -> None:
    """1 − 1/e = 0.632 after 40 s of full load at the pole of 40 s, and all of it in the end."""
    assert low_pass((0.0, 0.0, 0.0), 1.0, 40.0)[1] == pytest.approx(1 - 1 / math.e)
    assert low_pass((0.0, 0.3, 1.0), 0.5, 1e6) == pytest.approx((0.5, 0.5, 0.5))


@given(st.lists(st.floats(0.1, 50.0), min_size=1, max_size=8), st.floats(0.0, 1.0))
def test_uneven_spacing_is_exact(steps_s: list[float], load: float) -> None:
    """Many uneven steps under one load give what one step of their sum gives."""
    filtered = (0.9, 0.2, 0.5)
    for step_s in steps_s:
        filtered = low_pass(filtered, load, step_s)
    assert filtered == pytest.approx(low_pass((0.9, 0.2, 0.5), load, sum(steps_s)))


def test_r_is_found_and_forecasts_hit() -> None:
    """On a noiseless board R comes near the truth from a guess a third too high; 60 s ahead is right to 0.5 °C."""
    state = taught()
    assert state.gain_c == pytest.approx(TRUE, rel=0.25)
    loads = [0.6] * 6
    temp_c, _ = thermal.forecast(POLICY, state, 0.6, 60.0)
    filtered = state.filtered
    for load in loads:
        filtered = low_pass(filtered, load, 10.0)
    change = sum(r * (b - a) for r, a, b in zip(TRUE, state.filtered, filtered, strict=True))
    assert temp_c == pytest.approx(state.temp_c + change, abs=0.5)


@pytest.mark.parametrize("factor", [0.6, 1.4])
def test_a_guess_that_is_40_percent_wrong_is_mended(factor: float) -> None:
    """After two hours R is nearer the truth than the guess was, and what full load adds is right to 15 %."""
    guess = tuple(factor * r for r in TRUE)
    state = taught(policy=Policy(gain_c=guess))  # type: ignore[arg-type]
    assert state.gain_c is not None
    assert abs(sum(state.gain_c) - sum(TRUE)) < abs(sum(guess) - sum(TRUE))
    assert sum(state.gain_c) == pytest.approx(sum(TRUE), rel=0.15)


def test_r_never_falls_below_zero() -> None:
    """A zone that cools down under load drives R to 0, not further."""
    state = State()
    for temp_c, load, now_s in board(400):
        state = thermal.update(POLICY, state, 90.0 - temp_c, load, now_s)
    assert state.gain_c is not None
    assert min(state.gain_c) >= 0.0
    assert min(state.gain_c) == 0.0


def test_r_rests_without_excitation_while_throttled_and_at_the_start() -> None:
    """Steady load, a slowed clock, and the first two minutes teach nothing about R; the level follows all the same."""
    steady = taught(200, loads=lambda i: 0.4)
    assert steady.gain_c == POLICY.gain_c
    assert steady.level_c == pytest.approx(steady.temp_c, abs=0.5)
    state = State()
    for temp_c, load, now_s in board(200):
        state = thermal.update(POLICY, state, temp_c, load, now_s, slowed=True)
    assert state.gain_c == POLICY.gain_c
    early = taught(int(POLICY.settle_s / 10.0))
    assert early.gain_c == POLICY.gain_c
    assert taught(40).gain_c != POLICY.gain_c


def test_one_step_of_the_filter_by_hand() -> None:
    """Variance 4 of R_4, a change of 1, noise 1, level known: the level takes 4/5 of the error, and so does R."""
    noise = Noise(1.0, (0.0, 0.0, 0.0), 0.0, (100.0, 100.0, 100.0))
    known = (4.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    gain_c, level_c, covariance = learn(noise, (2.0, 0.0, 0.0), 50.0, known, (1.0, 0.0, 0.0), 57.0, 1.0, True)
    assert level_c == pytest.approx(50.0 + 2.0 + 0.8 * 5.0)
    assert gain_c == pytest.approx((2.0 + 0.8 * 5.0, 0.0, 0.0))
    assert covariance[0] == pytest.approx(4.0 - 0.8 * 4.0)
    assert spread(covariance, (2.0, 0.0, 0.0)) == pytest.approx(4.0 * 0.8)
    rested, level_c, kept = learn(noise, (2.0, 0.0, 0.0), 50.0, known, (1.0, 0.0, 0.0), 57.0, 1.0, False)
    assert rested == (2.0, 0.0, 0.0)
    assert (level_c, kept[0]) == (pytest.approx(56.0), 4.0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(20.0, 90.0), st.floats(0.0, 1.0), st.floats(0.5, 900.0)), min_size=5, max_size=120))
def test_no_series_makes_it_diverge(rows: list[tuple[float, float, float]]) -> None:
    """Whatever is read, R stays finite and ≥ 0 and no variance passes its cap or falls below zero."""
    state, now_s = State(), 0.0
    for temp_c, load, step_s in rows:
        now_s += step_s
        state = thermal.update(POLICY, state, temp_c, load, now_s)
    assert state.gain_c is not None
    assert all(math.isfinite(r) and r >= 0.0 for r in state.gain_c)
    for at, r in ((0, 8.0), (4, 12.0), (7, 20.0)):
        assert -1e-9 <= state.covariance[at] <= (0.4 * r) ** 2 + 1e-9
    assert len(state.anchors) <= 600.0 / POLICY.anchor_s + 2


def test_the_cap_holds_where_nothing_is_learned() -> None:
    """Years of walking leave R no less known than before the first reading."""
    policy = Policy(gain_c=(0.0, 12.0, 20.0), gain_walk=0.1)
    state = taught(400, policy)
    assert state.covariance[0] <= 1.0 + 1e-9
    assert state.covariance[4] <= (0.4 * 12.0) ** 2 + 1e-9


@given(numbers, numbers, numbers)
def test_nonsense_changes_nothing(temp_c: float, load: float, now_s: float) -> None:
    """What is no number or out of range leaves the state as it is."""
    state = taught(20)
    after = thermal.update(POLICY, state, temp_c, load, now_s)
    sound = math.isfinite(temp_c) and math.isfinite(load) and math.isfinite(now_s) and -60.0 <= temp_c <= 250.0
    if not sound:
        assert after == state
    assert all(math.isfinite(f) for f in after.filtered)
    assert thermal.notice(POLICY, Foreground(), math.nan, 0.0) == Foreground()


def test_time_that_stands_still_or_runs_back() -> None:
    """The same time again changes nothing; an earlier one keeps R and the margins, and the level starts afresh."""
    state = taught(300)
    assert thermal.update(POLICY, state, 99.0, 1.0, 3000.0) == state
    back = thermal.update(POLICY, state, 41.0, 0.5, 7.0)
    assert (back.at_s, back.since_s, back.level_c, back.anchors) == (7.0, 7.0, 41.0, ())
    assert (back.gain_c, back.residuals) == (state.gain_c, state.residuals)
    assert back.filtered == pytest.approx(state.filtered)


def test_after_a_sleep_the_load_before_it_counts_as_a_guess() -> None:
    """A gap of an hour under load 0.5: the forecast's margin allows for a zone that slept cold."""
    state = taught(300)
    woken = thermal.update(POLICY, state, 40.0, 0.5, 3000.0 + 3600.0)
    assert woken.unseen == woken.filtered
    _, before_c = thermal.forecast(POLICY, state, 0.5, 600.0)
    _, after_c = thermal.forecast(POLICY, woken, 0.5, 600.0)
    assert woken.gain_c is not None
    cold_c = sum(
        r * f * (1 - math.exp(-600.0 / tau)) for r, f, tau in zip(woken.gain_c, woken.unseen, TAU_S, strict=True)
    )
    assert after_c >= cold_c
    assert after_c > before_c


def test_the_margin_is_3_degrees_while_cold_and_then_the_greatest_of_a_hundred_residuals() -> None:
    """Before a hundred forecasts were judged at least 3 °C; afterwards a noiseless board needs far less."""
    cold, warm = taught(30), taught(720)
    assert all(thermal.margin(POLICY, cold, h) >= 3.0 for h in HORIZONS_S)
    assert thermal.margin(POLICY, warm, 10.0) < 1.5
    assert thermal.margin(POLICY, warm, 45.0) == thermal.margin(POLICY, warm, 60.0)
    assert thermal.margin(POLICY, warm, 9999.0) == thermal.margin(POLICY, warm, 600.0)
    assert sum(r.n for r in warm.residuals) <= len(HORIZONS_S) * POLICY.block_n
    assert all(len(r.greatest_c) == 6 for r in warm.residuals)


def test_a_zone_that_was_never_read_allows_nothing() -> None:
    """No reading, no forecast and no training; nor with a trip point that is no number."""
    with pytest.raises(ValueError, match="before the first reading"):
        thermal.forecast(POLICY, State(), 0.5, 60.0)
    assert thermal.safe_share(POLICY, State(), 0.0, 80.0, 4) == 0.0
    assert thermal.safe_share(POLICY, taught(50), 0.0, math.nan, 4) == 0.0


def test_a_zone_near_its_limit_allows_nothing_whatever_the_model_says() -> None:
    """A reading one degree below the trip point ends training, though the level has not followed yet."""
    state = thermal.update(POLICY, taught(300, room_c=20.0), 79.0, 0.1, 3010.0)
    assert state.level_c < 75.0
    assert thermal.safe_share(POLICY, state, 0.0, 80.0, 4) == 0.0


@settings(max_examples=50, deadline=None)
@given(st.floats(40.0, 100.0), st.floats(0.0, 1.0), st.sampled_from([1, 2, 4, 8]))
def test_a_cooler_limit_a_busier_foreground_or_fewer_cores_never_allow_more(trip_c: float, apps: float, n: int) -> None:
    """The share falls with the foreground and rises with the trip point and the number of cores."""
    state = WARM
    share = thermal.safe_share(POLICY, state, apps, trip_c, n)
    assert share in SHARES
    assert thermal.safe_share(POLICY, state, min(apps + 0.2, 1.0), trip_c, n) <= share
    assert thermal.safe_share(POLICY, state, apps, trip_c + 5.0, n) >= share
    assert thermal.safe_share(POLICY, state, apps, trip_c, 2 * n) >= share


WARM = taught(720)


def test_the_safe_share_is_safe_by_its_own_forecast() -> None:
    """At every limit the share that is given stays below at each horizon, and the next greater one would not."""
    for trip_c in range(40, 80):
        share = thermal.safe_share(POLICY, WARM, 0.3, float(trip_c), 1)
        for d in SHARES[:-1]:
            filtered = low_pass(low_pass(WARM.filtered, 0.3 + d, 10.0), 0.3 + d, 10.0)
            after = low_pass(filtered, 0.3, 580.0)
            peak_c = sum(thermal.given(POLICY, WARM, after, 600.0))
            if d <= share and WARM.temp_c < trip_c - 1.0:
                assert peak_c <= trip_c - 1.0 + 1e-9
    shares = [thermal.safe_share(POLICY, WARM, 0.3, float(t), 1) for t in range(40, 90)]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)


def test_a_longer_spacing_of_readings_holds_a_share_longer() -> None:
    """With a reading every 100 s a share counts as held for 150 s, so less is safe than with one every 10 s."""
    slow = msgspec.structs.replace(WARM, period_s=100.0)
    quick_sum = sum(thermal.safe_share(POLICY, WARM, 0.3, float(t), 1) for t in range(40, 90))
    assert sum(thermal.safe_share(POLICY, slow, 0.3, float(t), 1) for t in range(40, 90)) < quick_sum


def test_the_foreground_s_hottest_moment_counts_for_half_an_hour() -> None:
    """Three blocks of ten minutes are kept; a burst at the start is worst until they have passed, then forgotten."""
    seen, now_s = Foreground(), 0.0
    for i in range(3 * 60):
        now_s += 10.0
        seen = thermal.notice(POLICY, seen, 0.9 if i < 12 else 0.1, now_s)
    assert len(seen.hottest) == 3
    assert thermal.worst(seen, TRUE)[1] > 0.7
    for _ in range(61):
        now_s += 10.0
        seen = thermal.notice(POLICY, seen, 0.1, now_s)
    assert len(seen.hottest) == 3
    assert thermal.worst(seen, TRUE)[1] < 0.2


def test_the_foreground_counts_what_runs_now_and_survives_a_clock_that_goes_back() -> None:
    """A load above all that was seen is the worst at once; the same time changes nothing, an earlier one the clock."""
    quiet = thermal.notice(POLICY, Foreground(), 0.0, 0.0)
    busy = thermal.notice(POLICY, quiet, 1.0, 60.0)
    assert thermal.worst(busy, TRUE) == busy.filtered
    assert thermal.notice(POLICY, busy, 0.2, 60.0) == busy
    back = thermal.notice(POLICY, busy, 0.2, 5.0)
    assert (back.at_s, back.filtered, back.hottest) == (5.0, busy.filtered, busy.hottest)
    calm = thermal.notice(POLICY, thermal.notice(POLICY, quiet, 0.0, 10.0), 2.0, 10.5)
    assert max(calm.filtered) <= 1.0
    assert thermal.safe_share(POLICY, WARM, busy, 75.0, 2) <= thermal.safe_share(POLICY, WARM, quiet, 75.0, 2)


def test_a_state_is_small_and_goes_through_json() -> None:
    """A few kilobytes after two hours, and equal after a round trip."""
    raw = msgspec.json.encode(WARM)
    assert len(raw) < 6000
    assert msgspec.json.decode(raw, type=State) == WARM
    seen = thermal.notice(POLICY, Foreground(), 0.4, 1.0)
    assert msgspec.json.decode(msgspec.json.encode(seen), type=Foreground) == seen


def test_the_policy_comes_from_the_configuration() -> None:
    """The defaults of both agree, and each setting arrives."""
    assert Policy.of(config.Thermal()) == Policy()
    changed = Policy.of(
        config.Thermal(gain_40s_c=5.0, guard_c=2.0, hold_s=30.0, foreground_s=3600.0, cold_margin_c=4.0)
    )
    assert (changed.gain_c[1], changed.guard_c, changed.hold_s) == (5.0, 2.0, 30.0)
    assert (changed.foreground_blocks, changed.cold_margin_c) == (6, 4.0)
