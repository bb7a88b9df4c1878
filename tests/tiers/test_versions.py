"""Versions: what the reducer does with news that come late, twice, or for nobody, and when a version goes back."""

import msgspec
import pytest

from evergrove.core import effects as do
from evergrove.core import events as ev
from evergrove.core.config import Config, Placement, Probation
from evergrove.core.telemetry import Telemetry, Value
from evergrove.tiers.device import versions
from evergrove.tiers.device.state import State, Work

CONFIG = Config(placement=Placement(enabled=False), probation=Probation(seconds=100.0, errors_max=1))
SERVING = State(device="d", active="c1", previous="c0", sequence=3, probation=True, probation_since_s=0.0)
"""c1 serves since second 0, on probation, not re-checked yet, and nothing is under way."""
TRAINING = Work("job-00007", "learn", "train", fresh=("a",))


def with_(**changes: object) -> State:
    return msgspec.structs.replace(SERVING, **changes)


@pytest.mark.parametrize("work", [None, TRAINING])
def test_a_pointer_that_nobody_turned_changes_nothing(work: Work | None) -> None:
    """A late word of an activation, while idle or while something else is under way."""
    state = with_(work=work)
    assert versions.activate(CONFIG, state, ev.VersionActivated("c9", 9), 1.0) == (state, [])


def test_a_re_check_waits_for_what_is_under_way() -> None:
    """One job at a time, and who asks is told which."""
    state = with_(work=TRAINING)
    after, effects = versions.request_recheck(CONFIG, state, "recheck", 1.0)
    assert after == state
    assert effects == [do.Emit(ev.LearningDeferred("job-00007 (learn) is under way"))]


def test_a_version_that_passed_is_confirmed_and_so_is_a_release_alone() -> None:
    """One of the fleet's releases may have been on probation with nothing of the device's own in it."""
    state, orders = versions.confirm(with_(errors=1), ev.ProbationPassed("c1"))
    assert (state.probation, state.errors, orders) == (False, 0, [do.ConfirmVersion("c1")])
    assert versions.confirm(with_(active=None), ev.ProbationPassed(None))[1] == [do.ConfirmVersion(None)]


def test_only_failures_of_what_serves_count() -> None:
    """A picture that failed with the release, or with a version of yesterday, is not c1's fault."""
    for adapter in (None, "c0"):
        event = ev.GenerationFailed(adapter, "not finite")
        assert versions.mind_failure(CONFIG, SERVING, event, 1.0) == (SERVING, [])


def test_one_failure_is_forgiven_and_the_second_sends_it_back_once() -> None:
    """Back to c0; a third failure on the way back changes nothing more."""
    event = ev.GenerationFailed("c1", "not finite")
    state, orders = versions.mind_failure(CONFIG, SERVING, event, 1.0)
    assert (state.errors, orders) == (1, [])
    state, orders = versions.mind_failure(CONFIG, state, event, 2.0)
    assert orders == [do.ActivateVersion("c0", None, 4, probation=False)]
    assert state.work is not None
    assert (state.work.purpose, state.work.cause) == ("rollback", "it failed in use: not finite")
    assert versions.mind_failure(CONFIG, state, event, 3.0)[1] == []


def test_falling_back_to_the_release_forgets_what_was_learnt() -> None:
    """With a good version before it, what that one had learnt stays; all records are fresh, and tried."""
    state = with_(codes={"a": (3, 1), "b": (3, 1)}, learnt=((3, 0), (4, 0)), learnt_before=((3, 0),))
    after, orders = versions.fall_back(state, ev.VersionRolledBack("c1", "c0", "slow"))
    assert (after.active, after.previous, after.learnt, after.probation) == ("c0", None, ((3, 0),), False)
    assert (set(after.fresh), after.tried, orders) == ({"a", "b"}, 2, [])
    after, orders = versions.fall_back(
        msgspec.structs.replace(state, work=TRAINING), ev.VersionRolledBack("c1", None, "x")
    )
    assert (after.active, after.learnt, orders) == (None, (), [do.StopWorker("job-00007")])


@pytest.mark.parametrize(
    ("stage", "limit"), [("assist", "assist_s"), ("trusted", "trusted_s"), ("promote", "promote_s")]
)
def test_a_stage_past_its_time_is_cut_off(stage: str, limit: str) -> None:
    """A fog that gave nothing has failed; anything else was interrupted. A second earlier there is still time."""
    state = with_(work=msgspec.structs.replace(TRAINING, stage=stage), share=1.0)
    limit_s = getattr(CONFIG.lifecycle, limit)
    assert versions.mind_stage(CONFIG, state, state.work, limit_s) == (state, [])  # type: ignore[arg-type]
    _, effects = versions.mind_stage(CONFIG, state, state.work, limit_s + 1.0)  # type: ignore[arg-type]
    reason = f"no end of '{stage}' after {limit_s:g} s"
    fact = ev.JobInterrupted("job-00007", reason)
    assert effects == [do.Emit(ev.OffloadFailed("job-00007", stage, reason) if stage != "promote" else fact)]


def test_a_paused_stage_does_not_age() -> None:
    """At share 0 a training may stand for a year; at a quarter of a core it may not."""
    paused = with_(work=TRAINING, share=0.0)
    assert versions.mind_stage(CONFIG, paused, TRAINING, 3e7)[1] == []
    assert versions.mind_stage(CONFIG, with_(work=TRAINING, share=0.25), TRAINING, 3e7)[1]


def test_probation_is_minded_only_while_there_is_one() -> None:
    """Not for a version that passed, and not once it is on its way back."""
    going = with_(work=Work("job-00008", "rollback", "restore"))
    for state in (with_(probation=False), going):
        assert versions.mind_probation(CONFIG, state, 1e6) == (state, [])


def test_a_version_that_still_waits_for_its_re_check_asks_for_it_once() -> None:
    """An idle device begins it; a busy one does not; one that is re-checked only waits."""
    state, orders = versions.mind_probation(CONFIG, SERVING, 10.0)
    assert isinstance(orders[-1], do.StartMeasuring)
    assert state.work is not None
    assert state.work.purpose == "probation"
    busy = with_(work=TRAINING)
    assert versions.mind_probation(CONFIG, busy, 10.0) == (busy, [])
    checked = with_(rechecked=True)
    assert versions.mind_probation(CONFIG, checked, 10.0) == (checked, [])


def test_a_version_passes_or_goes_back_by_its_health() -> None:
    """100 s served and re-checked: passed. The re-check failed: back, and what is under way is stopped."""
    passed = do.Emit(ev.ProbationPassed("c1"))
    assert versions.mind_probation(CONFIG, with_(rechecked=True), 100.0)[1] == [passed]
    _, orders = versions.mind_probation(CONFIG, with_(rechecked=False, work=TRAINING), 100.0)
    assert orders == [do.StopWorker("job-00007"), do.ActivateVersion("c0", None, 4, probation=False)]


def test_frames_are_compared_with_those_of_the_version_before() -> None:
    """0.75 of the budget against 0.5, over 400 frames: half as long again, and back it goes."""
    slow = Telemetry(frame_p99_ratio=Value(0.75), frames_served=Value(1400.0))
    state = with_(rechecked=True, body=slow, frames_before=(0.5, 1000.0))
    _, orders = versions.mind_probation(CONFIG, state, 10.0)
    assert orders == [do.ActivateVersion("c0", None, 4, probation=False)]
    assert versions.frames(state) == (0.75, 1400.0)
    assert versions.frames(SERVING) == (0.0, 0.0)
    unknown = with_(rechecked=True, body=slow, frames_before=(0.0, 0.0))
    assert versions.mind_probation(CONFIG, unknown, 10.0)[1] == []


def test_the_release_alone_has_nothing_to_go_back_to() -> None:
    """Who asks is told; with a version it is asked for in his name."""
    _, effects = versions.request_rollback(with_(active=None), ev.RollbackRequested("app"), 1.0)
    assert effects == [do.Emit(ev.LearningDeferred("the release alone is active; there is nothing to go back to"))]
    state, _ = versions.request_rollback(SERVING, ev.RollbackRequested("app"), 1.0)
    assert state.work is not None
    assert state.work.cause == "asked for by app"
