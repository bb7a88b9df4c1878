"""Versions: promoted, on probation, confirmed or rolled back (DESIGN §5, life-cycle)."""

from typing import assert_never

import msgspec

from evergrove.core import effects as do
from evergrove.core import events as ev
from evergrove.core.config import Config
from evergrove.core.telemetry import Telemetry
from evergrove.rules import branching, probation
from evergrove.tiers.device.orders import enter
from evergrove.tiers.device.placing import measure
from evergrove.tiers.device.state import Effects, Result, State, Work, busy, change, idle, is_new, new_work


def activate(config: Config, state: State, event: ev.VersionActivated, now_s: float) -> Result:
    """The pointer has turned: a new version begins its probation, or the way back is done."""
    work = state.work
    if work is None or work.stage not in ("promote", "restore"):
        return state, []
    if work.stage == "restore":
        state = change(state, sequence=event.sequence)
        return state, [do.Emit(ev.VersionRolledBack(state.active, event.adapter, work.cause))]
    learnt = set(work.fresh)
    known = {*state.learnt, *(one for one in work.learnt if is_new(one, state.known))}
    state = change(state, following=msgspec.structs.replace(state.following, before=None))
    state, orders = begin_probation(config, state, work, event.adapter, event.sequence, now_s)
    return change(
        state, learnt=tuple(sorted(known)), fresh=tuple(r for r in state.fresh if r not in learnt), tried=0
    ), orders


def begin_probation(
    config: Config, state: State, work: Work, adapter: str | None, sequence: int, now_s: float
) -> Result:
    """``adapter`` serves from now on, and is measured once more; what served before is kept to go back to."""
    state = change(
        idle(state),
        previous=state.active,
        active=adapter,
        learnt_before=state.learnt,
        seen=work.seen,
        seen_before=state.seen,
        sequence=sequence,
        probation=True,
        probation_since_s=now_s,
        rechecked=None,
        frames_before=frames(state),
        errors=0,
    )
    state, recheck = request_recheck(config, state, "probation", now_s)
    return state, [do.StopWorker(work.job), *recheck]


def request_recheck(config: Config, state: State, purpose: str, now_s: float) -> Result:
    """What serves is measured again, without an update."""
    if state.work is not None:
        return state, busy(state)
    state, work = new_work(state, purpose, "measure", now_s)
    return measure(config, state, work, now_s)


def confirm(state: State, event: ev.ProbationPassed) -> Result:
    """The active version counts as good."""
    state = change(state, probation=False, errors=0)
    return state, [do.ConfirmVersion(event.adapter)]


def request_rollback(state: State, event: ev.RollbackRequested, now_s: float) -> Result:
    """Somebody wants the previous version back; what is under way gives way."""
    if not may_go_back(state):
        return state, [do.Emit(ev.LearningDeferred("the release alone is active; there is nothing to go back to"))]
    return give_way(state, f"asked for by {event.by}", now_s)


def mind_failure(config: Config, state: State, event: ev.GenerationFailed, now_s: float) -> Result:
    """An app could not serve the active version: too often, and the device goes back by itself."""
    if event.adapter != state.active or (event.adapter is None and not state.following.trial):
        return state, []
    state = change(state, errors=state.errors + 1)
    if state.errors <= config.probation.errors_max or (state.work and state.work.stage == "restore"):
        return state, []
    return give_way(state, f"it failed in use: {event.reason}", now_s)


def may_go_back(state: State) -> bool:
    """Whether something served before that can serve again."""
    return state.active is not None or state.following.before is not None


def give_way(state: State, cause: str, now_s: float) -> Result:
    """Stops what is under way and asks for the way back. Only forgetting gives way to nothing."""
    if state.work is not None and state.work.stage == "erase":
        return state, busy(state)
    stop: Effects = [do.StopWorker(state.work.job)] if state.work else []
    state, orders = restore(state, state.work, cause, now_s)
    return state, [*stop, *orders]


def restore(state: State, work: Work | None, cause: str, now_s: float) -> Result:
    """Asks for the way back; the state changes when it is durable."""
    if work is None:
        state, work = new_work(state, "rollback", "restore", now_s)
    return enter(state, Work(work.job, "rollback", "restore", cause=cause), "restore", now_s)


def fall_back(state: State, event: ev.VersionRolledBack) -> Result:
    """What the bad version had learnt is fresh again, so that a later attempt can do better; it counts as tried."""
    orders: Effects = [do.StopWorker(state.work.job)] if state.work else []
    state = idle(state)
    untried = state.fresh[state.tried :]
    tried = tuple(record for record in state.codes if record not in set(untried))
    return change(
        state,
        active=event.good,
        previous=None,
        learnt=state.learnt_before if event.good is not None else (),
        learnt_before=(),
        seen=state.seen_before if event.good is not None else None,
        seen_before=None,
        probation=False,
        errors=0,
        fresh=(*tried, *untried),
        tried=len(tried),
    ), orders


def mind_stage(config: Config, state: State, work: Work, now_s: float) -> Result:
    """A stage that takes longer than it may is cut off; a paused one does not age."""
    reason = probation.overdue(config.lifecycle, config.learn, work.stage, work.since_s, now_s)
    if reason is None or (work.stage in ("train", "measure") and state.share == 0):
        return state, []
    if work.stage in ("assist", "trusted"):
        return state, [do.Emit(ev.OffloadFailed(work.job, work.stage, reason))]
    return state, [do.Emit(ev.JobInterrupted(work.job, reason))]


def mind_probation(config: Config, state: State, now_s: float) -> Result:
    """Long enough without a fault, and re-checked: the version counts as good. A fault, and it goes back."""
    if not state.probation or (state.work and state.work.stage == "restore"):
        return state, []
    # What is drawn with a B of its own takes longer than what was drawn before: that alone is no fault.
    routed = branching.FRAME_RATIO if branching.stands_alone(config, len(state.sizes)) else 1.0
    verdict = probation.judge(probation.Policy.of(config.probation, config.lifecycle, routed), _health(state), now_s)
    match verdict.outcome:
        case "pass":
            return state, [do.Emit(ev.ProbationPassed(state.active))]
        case "roll back":
            return give_way(state, verdict.sentence, now_s)
        case "continue":
            if state.rechecked is None and state.work is None:
                return request_recheck(config, state, "probation", now_s)
            return state, []
        case _:
            assert_never(verdict.outcome)


def _health(state: State) -> probation.Health:
    """What is known of the active version since it began to serve."""
    before, served_before = state.frames_before
    ratio, served = frames(state)
    return probation.Health(
        state.probation_since_s,
        state.errors,
        ratio / before if before and ratio else None,
        max(0, int(served - served_before)),
        state.rechecked,
    )


def frames(state: State) -> tuple[float, float]:
    """p99 of recent frame times over their budget, and the count of frames, by the newest telemetry; 0 for unknown."""
    body = state.body or Telemetry()
    return (
        body.frame_p99_ratio.value if body.frame_p99_ratio else 0.0,
        body.frames_served.value if body.frames_served else 0.0,
    )
