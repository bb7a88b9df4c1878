"""The device's reducer: what a device decides, as a pure function of its state and one event.

``step(policy, state, event, now_s) -> (state, effects)``. In come the facts of ``core.events``, out go the orders of
``core.effects``. Folding the log through ``step`` gives the state back, so a crash loses nothing: at every start the
reducer asks again for whatever was under way (DESIGN §3). The main path, in the order of the code:

observation measured → kept or dropped → learning requested → training finished → candidate measured → gate judged →
version activated → re-checked on probation → counted as good.
"""

from typing import assert_never

from evergrove.core import effects as do
from evergrove.core import events as ev
from evergrove.core.config import Config
from evergrove.rules.probation import elapsed
from evergrove.tiers.device import following, forgetting, judging, learning, observing, placing, sharing, versions
from evergrove.tiers.device.orders import again, order
from evergrove.tiers.device.state import Result, State, anchor, change, count_sent, of_work


def step(config: Config, state: State, event: ev.Event, now_s: float) -> Result:
    """The next state and what to do about it. Pure: the same arguments always give the same result."""
    match event:
        case ev.DeviceInitialised():
            return change(
                state,
                device=event.device,
                release=event.release,
                seed=event.seed,
                teacher=event.teacher,
                known=event.known or event.vocabulary,
                sizes=event.vocabulary,
                checked_at_s=now_s,
            ), []
        case ev.AgentStarted():
            return _start(config, state)
        case ev.ConditionAdded():
            sizes = tuple(max(n, event.value) if i == event.factor else n for i, n in enumerate(state.sizes))
            return change(state, sizes=sizes), []
        case ev.ObservationMeasured():
            return observing.choose(config, state, event)
        case ev.ObservationKept():
            return observing.keep(config, state, event)
        case ev.ObservationDropped():
            dropped = {**state.dropped, event.reason: state.dropped.get(event.reason, 0) + 1}
            return change(state, dropped=dropped), []
        case ev.ObservationRefused():
            return change(state, n_observed=state.n_observed + 1, n_refused=state.n_refused + 1), []
        case ev.ObservationLost():
            return observing.lose(state, event.observation), []
        case ev.LearningRequested():
            return learning.request_learning(config, state, event, now_s)
        case ev.TrainingStarted():
            return of_work(state, event.job, lambda work: (state, []))
        case ev.TrainingFinished():
            return of_work(state, event.job, lambda work: learning.take_candidate(config, state, work, event, now_s))
        case ev.JobInterrupted() | ev.JobFailed():
            return of_work(state, event.job, lambda work: learning.stumble(config, state, work, event, now_s))
        case ev.AdapterOffered():
            return learning.take_offer(config, state, event, now_s)
        case ev.CandidateMeasured():
            return of_work(state, event.job, lambda work: judging.judge(config, state, work, event, now_s))
        case ev.CandidateRefused():
            return of_work(state, event.job, lambda work: learning.give_up(state, work, event.reason, now_s))
        case ev.VersionActivated():
            return versions.activate(config, state, event, now_s)
        case ev.ProbationPassed():
            state, orders = versions.confirm(following.confirm(state), event)
            state, more = sharing.ripen(config, state, event.adapter, now_s)
            return state, [*orders, *more]
        case ev.VersionRolledBack():
            return versions.fall_back(following.give_back(sharing.withdraw(state, event.bad)), event)
        case ev.RollbackRequested():
            return versions.request_rollback(state, event, now_s)
        case ev.GenerationFailed():
            return versions.mind_failure(config, state, event, now_s)
        case ev.TermsRead():
            return sharing.note_terms(state, event), []
        case ev.UpdateCounted() | ev.UpdateRefused() | ev.UpdateDelayed():
            return sharing.take_answer(config, state, event, now_s), []
        case ev.DirectiveRead():
            return following.follow(config, state, event, now_s)
        case ev.ReleaseFetched():
            return following.take_files(config, state, event, now_s)
        case ev.FetchFailed():
            return following.do_without(config, state, event, now_s)
        case ev.ReleaseMeasured():
            return of_work(state, event.job, lambda work: following.judge(config, state, work, event, now_s))
        case ev.ReleaseActivated():
            return following.activate(config, state, event, now_s)
        case ev.ReportSent():
            return following.heard(state, event), []
        case ev.ReportDelayed():
            return following.unheard(config, state, now_s), []
        case ev.RecheckRequested():
            return versions.request_recheck(config, state, "recheck", now_s)
        case ev.TimePassed():
            return _mind_time(config, state, now_s)
        case ev.TelemetryRead():
            state, orders = placing.look(config, anchor(state, now_s), event.reading, now_s)
            if state.probation and state.rechecked:
                state, more = versions.mind_probation(config, state, now_s)
                orders = [*orders, *more]
            return state, orders
        case ev.AssistReceived():
            return of_work(state, event.job, lambda work: placing.take_assist(config, state, work, event, now_s))
        case ev.OffloadFailed():
            return of_work(state, event.job, lambda work: placing.do_without(config, state, work, event, now_s))
        case ev.DriftNoticed():
            return learning.mind_drift(config, state)
        case ev.ForgettingAsked():
            return forgetting.begin(state, event, now_s)
        case ev.Forgotten():
            return of_work(state, event.job, lambda work: forgetting.end(state, work, event))
        case ev.BytesSent():
            return count_sent(state, event.category, event.peer, event.n_bytes), []
        case ev.LearningDeferred() | ev.GateJudged() | ev.PlacementDecided():
            return state, []
        case _:
            assert_never(event)


def next_due(config: Config, state: State, now_s: float) -> bool:
    """Whether ``TimePassed`` would lead to anything now: an idle device writes nothing to its log."""
    return bool(_mind_time(config, state, now_s)[1])


def under_way(state: State) -> do.Effect | None:
    """The order that the device waits for, to be given again where carrying it out failed; None when it is idle."""
    return None if state.work is None else order(state.work, state)


def _mind_time(config: Config, state: State, now_s: float) -> Result:
    """What only waits for the clock: a stage past its time, the end of a probation, the next re-check, a learning."""
    if not state.device:
        return state, []
    state, errands = sharing.mind(config, state, now_s)
    if errands:
        return state, errands
    state, errands = following.mind(config, state, now_s)
    if errands:
        return state, errands
    if state.work is not None:
        return versions.mind_stage(config, state, state.work, now_s)
    if state.probation:
        return versions.mind_probation(config, state, now_s)
    if state.active is not None and elapsed(state.checked_at_s, now_s) >= config.gate.recheck_every_s:
        return state, [do.Emit(ev.RecheckRequested("schedule"))]
    if learning.wants_to_learn(config, state):
        return state, [do.Emit(ev.LearningRequested("schedule", 0))]
    return state, []


def _start(config: Config, state: State) -> Result:
    """Everything that was under way is asked for again; every effect may be carried out twice."""
    records = (*state.keeping.buffer.records(), *state.pending)
    return state, [
        do.ReconcileRecords(records),
        *again(state),
        *sharing.again(config, state),
        *following.again(config, state),
    ]
