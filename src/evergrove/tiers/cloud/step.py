"""The cloud's reducer: what the cloud decides, as a pure function of its state and one event.

``step(policy, state, event, now_s) -> (state, effects)``. The main path: cohorts' sums arrive, each counted once →
enough of them, or their time is over → consolidation → the fleet's gate → signed by a person → the rollout advances by
what devices report → the release is the one to go on from. Folding the log gives the state back; ``CloudStarted`` asks
again for whatever was under way (DESIGN §3, §7, §8).
"""

from collections import deque
from typing import assert_never

from evergrove.core import cloud_effects as do
from evergrove.core import cloud_events as ev
from evergrove.rules import rollout, rollout_health
from evergrove.tiers.cloud import consolidating as work
from evergrove.tiers.cloud.state import Effects, Line, Policy, Result, State, change, emit, idle, of_work, order

CASCADE_MAX = 64
"""Facts that may follow from one event: a rollout may pass several stages at once."""

PASSING = (ev.TimePassed, ev.CohortReceived)
"""Events that are facts to keep only where they changed something."""


def step(policy: Policy, state: State, event: ev.CloudEvent, now_s: float) -> Result:
    """The next state and what to do about it. Pure: the same arguments always give the same result."""
    match event:
        case ev.CloudStarted():
            return state, _again(state)
        case ev.GenerationOpened():
            return _open(policy, state, event, now_s)
        case ev.CohortReceived():
            return work.receive(policy, state, event, now_s)
        case ev.CohortRefused():
            return state, [do.AnswerFog(event.cohort, "never", event.reason)]
        case ev.ConsolidationBegan():
            return work.take(state, event, now_s)
        case ev.MergeRequested():
            state = change(state, merge=True, merge_clip=event.clip)
            return state, work.begin(policy, state, now_s)
        case ev.MergeBegan():
            return work.merge(state, event, now_s)
        case ev.CandidateMade():
            return work.made(state, event, now_s)
        case ev.WorkInterrupted() | ev.WorkFailed():
            return work.stumble(policy, state, event, now_s)
        case ev.FleetMeasured():
            return work.judge(policy, state, event, now_s)
        case ev.FleetJudged():
            return work.mind_verdict(policy, state, event, now_s)
        case ev.ReleaseSigned():
            return work.signed(state, event, now_s)
        case ev.SigningRefused():
            return work.end(policy, state, now_s) if of_work(state, event.job, "sign") else (state, [])
        case ev.TimePassed():
            return state, _mind_time(policy, state, now_s)
        case ev.RolloutRefused():
            return state, []
        case ev.DeviceHeld():
            return _hold(state, event)
        case (
            ev.RolloutStarted()
            | ev.StageEntered()
            | ev.RolloutCompleted()
            | ev.RolloutStopped()
            | ev.RolloutPaused()
            | ev.RolloutResumed()
            | ev.RolloutAborted()
            | ev.ReleaseReported()
        ):
            return _roll(policy, state, event, now_s)
        case _:
            assert_never(event)


def settle(
    policy: Policy, state: State, event: ev.CloudEvent, now_s: float
) -> tuple[State, list[ev.CloudEvent], Effects]:
    """One event with all that follows from it: the state, the facts to log, and the effects that are left.

    What is refused about a rollout is logged as that and not as the order that it was; the passing of time, and a sum
    that came once more or was put off, are not logged at all. Log, in one transaction, before any effect is carried
    out.
    """
    queue, facts, effects = deque([event]), list[ev.CloudEvent](), Effects()
    while queue:
        event = queue.popleft()
        assert len(facts) <= CASCADE_MAX, f"{type(event).__name__} follows from itself"
        if isinstance(event, ev.RolloutEvent):
            why = rollout.refusal(state.rollout, event)
            if why is not None:
                event = ev.RolloutRefused(event.rollout, type(event).__name__, why)
        before = state
        state, follow = step(policy, state, event, now_s)
        if not isinstance(event, PASSING) or state is not before:
            facts.append(event)
        for effect in follow:
            if isinstance(effect, do.Emit):
                queue.append(effect.event)
            else:
                effects.append(effect)
    return state, facts, effects


def next_due(policy: Policy, state: State, now_s: float) -> bool:
    """Whether ``TimePassed`` would lead to anything now: an idle cloud writes nothing to its log."""
    return bool(_mind_time(policy, state, now_s))


def under_way(state: State) -> do.Effect | None:
    """The order that the cloud waits for, to be given again where carrying it out failed; None when it is idle."""
    return None if state.work is None else order(state, state.work)


def _again(state: State) -> Effects:
    asked = under_way(state)
    told = rollout.directive(state.rollout)
    return [*([asked] if asked else []), *([do.PublishDirective(told)] if told else [])]


def _open(policy: Policy, state: State, event: ev.GenerationOpened, now_s: float) -> Result:
    """Where the fleet stands to begin with; told again, what the gate asks changes, and another release is noted."""
    state = change(state, conditions=event.conditions, learning=event.learning, teacher=event.teacher)
    lines = {**state.lines, event.release: state.lines.get(event.release, Line(event.generation))}
    if state.release:
        state = change(state, lines=lines)
        return state, work.begin(policy, state, now_s)
    return change(work.of_generation(state, event.generation), release=event.release, lines=lines), []


def _mind_time(policy: Policy, state: State, now_s: float) -> Effects:
    """What only waits for the clock: a stage of the rollout, a stage of the job, the time of the first cohort."""
    due = rollout_health.due(state.rollout, now_s)
    if due is not None:
        return [emit(due)]
    if state.work is not None:
        reason = work.overdue(policy, state.work, now_s)
        return [emit(ev.WorkInterrupted(state.work.job, reason))] if reason else []
    return work.begin(policy, state, now_s)


def _roll(policy: Policy, state: State, event: ev.RolloutEvent, now_s: float) -> Result:
    """A fact of the rollout: devices are told what changed, and what the rule asks for follows."""
    if rollout.refusal(state.rollout, event) is not None:
        return state, []
    before, after = state.rollout, rollout.apply(state.rollout, event, now_s)
    state = change(state, rollout=after)
    effects = Effects()
    told = rollout.directive(after)
    if told is not None and told != rollout.directive(before):
        effects.append(do.PublishDirective(told))
    if isinstance(event, ev.RolloutStarted) and state.work is not None and state.work.version == event.version:
        effects.append(do.StopWork(state.work.job))
        state = idle(state)
    made_from, state = state.release, _adopt(state)
    if state.work is not None and state.release != made_from:  # gone back meanwhile: it was made of what is given up
        effects.append(do.StopWork(state.work.job))
        state = idle(state)
    due = rollout_health.due(after, now_s)
    if due is not None:
        return state, [*effects, emit(due)]
    return state, [*effects, *work.begin(policy, state, now_s)]


def _hold(state: State, event: ev.DeviceHeld) -> Result:
    """A device stays where it is, or goes on; devices are told where there is anything to tell."""
    state = change(state, rollout=rollout.hold(state.rollout, event.device, event.version))
    told = rollout.directive(state.rollout)
    return state, [do.PublishDirective(told)] if told else []


def _adopt(state: State) -> State:
    """A release that went to everybody is the one to go on from."""
    good = state.rollout.good
    if good is None or state.rollout.status != "complete" or good.release == state.release:
        return state
    line = state.lines.get(good.release, Line(state.generation))
    state = change(state, release=good.release)
    known = {done.release for done in state.rollout.lineage} | ({state.work.release} if state.work else set())
    state = change(state, lines={**{k: v for k, v in state.lines.items() if k in known}, good.release: line})
    return work.of_generation(state, line.generation) if line.generation != state.generation else state
