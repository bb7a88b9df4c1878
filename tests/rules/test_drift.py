"""Drift: a baseline by hand, one alarm for a change that lasts, none for outliers, copies or a buffer that fills up."""

import math

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from evergrove.core.measures import Facts
from evergrove.rules.drift import Policy, State, Watch, notice, update

POLICY = Policy(warm_up=4)


def fed(distances: list[float], policy: Policy = POLICY) -> tuple[State, list[float]]:
    """These distances one after the other; the last state and all alarms."""
    state, alarms = State(), []
    for distance in distances:
        state, statistic = update(policy, state, distance)
        alarms += [statistic] if statistic is not None else []
    return state, alarms


def test_the_first_baseline_is_the_plain_mean_and_the_mean_square_of_differences() -> None:
    """log 1, log e², log 1, log e²: mean 1, and half the mean of three squares of 2 is 2."""
    state, alarms = fed([1.0, math.e**2, 1.0, math.e**2])
    assert (state.n, alarms) == (4, [])
    assert state.mean == pytest.approx(1.0)
    assert state.variance == pytest.approx(2.0)


def test_a_change_that_lasts_gives_one_alarm_and_a_new_start() -> None:
    """Ten quiet ones, then ten times as far: 2.75 each, over 6 with the third; then the new level is the baseline."""
    state, alarms = fed([1.0] * 10 + [10.0] * 3)
    assert len(alarms) == 1
    assert alarms[0] == pytest.approx(3 * 2.75)
    assert state == State()
    assert fed([1.0] * 10 + [10.0] * 30)[1] == alarms


def test_one_outlier_is_no_drift() -> None:
    """However far, it counts three deviations at most, and quiet ones take it back."""
    state, alarms = fed([1.0] * 10 + [1e9])
    assert alarms == []
    assert state.total == pytest.approx(2.75)
    state, alarms = fed([1.0] * 10 + [1e9] + [1.0] * 20)
    assert (alarms, state.total) == ([], 0.0)


def test_surprise_that_falls_is_none() -> None:
    """A buffer that fills up: each arrival is nearer to what is kept."""
    assert fed([100.0 / (i + 1) for i in range(200)])[1] == []


@pytest.mark.parametrize("distance", [None, math.nan, math.inf, -math.inf])
def test_what_is_no_number_changes_nothing(distance: float | None) -> None:
    """Neither the state nor an alarm."""
    state, _ = fed([1.0, 2.0])
    assert update(POLICY, state, distance) == (state, None)


def test_a_surprise_below_the_least_counts_as_the_least() -> None:
    """Nothing and next to nothing are not told apart, and a negative distance breaks nothing."""
    assert fed([0.0, -5.0, 0.01]) == fed([0.05, 0.05, 0.05])


def test_conditions_are_watched_apart_and_the_longest_unheard_goes() -> None:
    """Two at most: the third pushes out the first; hearing of one again keeps it."""
    watches: tuple[Watch, ...] = ()
    for condition in ((1, 0), (2, 0), (1, 0), (3, 0)):
        watches, statistic = notice(POLICY, watches, condition, Facts(False, 30, 1.0), near=False, n_max=2)
        assert statistic is None
    assert [(watch.condition, watch.state.n) for watch in watches] == [((1, 0), 2), ((3, 0), 1)]


@pytest.mark.parametrize(
    ("facts", "near"), [(Facts(True, 0, 9.0), False), (Facts(False, 1, 9.0), True), (Facts(False, None, None), False)]
)
def test_copies_and_firsts_tell_nothing(facts: Facts, near: bool) -> None:
    """An exact copy, a near one, and the first of its condition (nothing to compare with) leave the watches alone."""
    watches = (Watch((1, 0), State(n=3)),)
    assert notice(POLICY, watches, (1, 0), facts, near=near, n_max=8) == (watches, None)


def test_an_alarm_comes_through_the_watch_of_its_condition() -> None:
    """Only the condition whose stream changed is learnt anew."""
    watches: tuple[Watch, ...] = ()
    alarms = []
    for distance in [1.0] * 10 + [10.0] * 3:
        watches, _ = notice(POLICY, watches, (2, 0), Facts(False, 30, 1.0), near=False, n_max=8)
        watches, statistic = notice(POLICY, watches, (1, 0), Facts(False, 30, distance), near=False, n_max=8)
        alarms += [statistic] if statistic is not None else []
    assert len(alarms) == 1
    assert {watch.condition: watch.state.n for watch in watches} == {(1, 0): 0, (2, 0): 13}


@given(st.lists(st.floats(0, 1e6), max_size=60), st.floats(0.1, 100.0))
def test_the_unit_of_distance_does_not_matter(distances: list[float], unit: float) -> None:
    """In other units (with the least surprise in them too) the same alarms, but where rounding decides."""
    other = msgspec.structs.replace(POLICY, surprise_min=POLICY.surprise_min * unit)
    one, two = fed(distances)[1], fed([d * unit for d in distances], other)[1]
    assume(all(alarm > POLICY.threshold + 1e-6 for alarm in one + two))
    assert two == pytest.approx(one, rel=1e-6)


@given(st.lists(st.floats(-10, 1e9), max_size=80))
def test_the_state_stays_bounded(distances: list[float]) -> None:
    """The sum never passes the threshold and never falls below nothing; the variance is none below nothing."""
    state, alarms = fed(distances)
    assert 0.0 <= state.total <= POLICY.threshold
    assert state.variance >= 0.0
    assert all(POLICY.threshold < alarm <= POLICY.threshold + POLICY.one_max for alarm in alarms)
