"""Probation: what sends a version back, what it waits for, when it passes; and how long any stage may take."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergrove.core import config
from evergrove.rules import probation
from evergrove.rules.probation import Health, Policy, judge

POLICY = Policy(errors_max=2, seconds=100.0, frame_ratio_max=1.2, frames_min=300, seconds_max=1000.0)
GOOD = Health(since_s=0.0, rechecked=True)


def said(health: Health, now_s: float = 100.0) -> tuple[str, str]:
    verdict = judge(POLICY, health, now_s)
    return verdict.outcome, verdict.sentence


def test_a_version_passes_once_it_is_re_checked_and_has_served_its_time() -> None:
    """99 s are one too few."""
    assert said(GOOD, 99.0) == ("continue", "has served for 99 of 100 s")
    assert said(GOOD, 100.0) == ("pass", "re-checked, 0 errors in 100 s")


def test_it_waits_for_its_re_check_but_not_for_ever() -> None:
    """A version that nobody could re-check in a thousand seconds goes back."""
    assert said(Health(0.0), 1000.0) == ("continue", "waits for its golden re-check")
    assert said(Health(0.0), 1001.0) == ("roll back", "no golden re-check after 1000 s")


def test_a_failed_re_check_sends_it_back_at_once() -> None:
    """No time served makes up for it."""
    assert said(Health(0.0, rechecked=False)) == ("roll back", "its golden re-check failed")


def test_two_failed_pictures_are_forgiven_and_three_are_not() -> None:
    """``errors_max`` is two; where it is nothing, one picture is told in the singular."""
    assert said(Health(0.0, errors=2, rechecked=True)) == ("pass", "re-checked, 2 errors in 100 s")
    assert said(Health(0.0, errors=3, rechecked=True)) == ("roll back", "3 pictures failed with it, 2 are forgiven")
    strict = Policy(errors_max=0, seconds=1.0, frame_ratio_max=1.2, frames_min=300, seconds_max=9.0)
    assert judge(strict, Health(0.0, errors=1), 0.0).sentence == "1 picture failed with it, 0 are forgiven"


def test_slow_frames_send_it_back_once_there_are_enough_of_them() -> None:
    """1.3 times as long over 300 frames, not over 299; no number is as bad; no frames are no reason."""
    slow = "its frames take 1.30 times as long at p99, 1.2 are allowed"
    assert said(Health(0.0, 0, 1.3, 300, True)) == ("roll back", slow)
    assert said(Health(0.0, 0, 1.3, 299, True))[0] == "pass"
    assert said(Health(0.0, 0, 1.2, 300, True))[0] == "pass"
    assert said(Health(0.0, 0, math.nan, 300, True))[0] == "roll back"
    assert said(Health(0.0, 0, None, 300, True))[0] == "pass"


def test_what_speaks_against_a_version_is_looked_at_first() -> None:
    """Re-checked, long served, and failing: back."""
    assert said(Health(0.0, errors=9, rechecked=True), 1e6)[0] == "roll back"


def test_a_clock_that_was_set_back_puts_nothing_off() -> None:
    """A moment in the future counts as now."""
    assert said(Health(5000.0, rechecked=True), 100.0) == ("continue", "has served for 0 of 100 s")
    assert probation.elapsed(10.0, 4.0) == 0.0
    assert (probation.anchored(10.0, 4.0), probation.anchored(3.0, 4.0)) == (4.0, 3.0)


def test_the_policy_is_that_of_the_configuration() -> None:
    """The time for the re-check is never shorter than the probation itself."""
    asked, limits = config.Probation(seconds=50.0, errors_max=7), config.Lifecycle(probation_s=20.0)
    assert Policy.of(asked, limits) == Policy(7, 50.0, asked.frame_p99_ratio_max, asked.frames_min, 50.0)
    assert Policy.of(asked, config.Lifecycle(probation_s=80.0)).seconds_max == 80.0


@pytest.mark.parametrize("stage", ["assist", "trusted", "train", "measure", "promote", "restore", "probation"])
def test_every_stage_has_its_limit(stage: str) -> None:
    """At the limit there is still time; a second later there is none, and the sentence names stage and limit."""
    limits, learn = config.Lifecycle(), config.Learn()
    limit_s = probation.limits_of(limits, learn)[stage]
    assert limit_s is not None
    assert limit_s > 0
    assert probation.overdue(limits, learn, stage, 10.0, 10.0 + limit_s) is None
    assert probation.overdue(limits, learn, stage, 10.0, 11.0 + limit_s) == f"no end of '{stage}' after {limit_s:g} s"
    assert probation.overdue(limits, learn, stage, 10.0, 0.0) is None


def test_a_waiting_job_has_all_the_time_in_the_world_and_an_unknown_stage_is_refused() -> None:
    """How long a job may wait is the placement's business."""
    limits, learn = config.Lifecycle(), config.Learn()
    assert probation.overdue(limits, learn, "wait", 0.0, 1e12) is None
    with pytest.raises(KeyError, match="dream"):
        probation.overdue(limits, learn, "dream", 0.0, 1.0)


healths = st.builds(
    Health,
    since_s=st.floats(0, 1e4),
    errors=st.integers(0, 5),
    frame_p99_ratio=st.none() | st.floats(0, 3) | st.just(math.nan),
    n_frames=st.integers(0, 600),
    rechecked=st.sampled_from([None, True, False]),
)


@given(healths, st.floats(0, 2e4))
def test_only_a_healthy_re_checked_version_passes(health: Health, now_s: float) -> None:
    """Every condition of a pass, told apart from the order in which they are looked at."""
    verdict = judge(POLICY, health, now_s)
    slow = health.n_frames >= 300 and health.frame_p99_ratio is not None and not health.frame_p99_ratio <= 1.2
    good = health.rechecked is True and health.errors <= 2 and not slow
    assert (verdict.outcome == "pass") == (good and now_s - health.since_s >= 100.0)
    assert verdict.sentence


@given(healths, st.floats(0, 2e4), st.floats(0, 2e4))
def test_a_version_that_goes_back_never_comes_to_pass_by_waiting(health: Health, now_s: float, more_s: float) -> None:
    """With the same health, time turns 'continue' into something else, and nothing else into anything."""
    before, after = judge(POLICY, health, now_s).outcome, judge(POLICY, health, now_s + more_s).outcome
    assert before in ("continue", after)
