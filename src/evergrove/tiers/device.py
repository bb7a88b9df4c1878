"""The device's reducer: what a device decides, as a pure function of its state and one event.

``step(policy, state, event, now_s) -> (state, effects)``. In come the facts of ``core.events``, out go the orders of
``core.effects``. Folding the log through ``step`` gives the state back, so a crash loses nothing: at every start the
reducer asks again for whatever was under way (DESIGN §3). The main path, in the order of the code:

observation measured → kept or dropped → learning requested → training finished → candidate measured → gate judged →
version activated → re-checked on probation → counted as good.
"""

from collections.abc import Callable, Collection
from typing import Any, assert_never

import msgspec

from evergrove.core import effects as do
from evergrove.core import events as ev
from evergrove.core.conditions import Code, group
from evergrove.core.config import Config
from evergrove.core.rng import stream
from evergrove.rules import gate, novelty

Effects = list[do.Effect]
Result = tuple["State", Effects]


class Work(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The one job that a device has under way.

    ``purpose``: learn, offer (an adapter from elsewhere), probation or recheck. ``stage``: train, measure, promote or
    restore: what the driver was last asked for. ``learnt`` are the groups that the candidate must gain on.
    """

    job: str
    purpose: str
    stage: str
    attempt: int = 1
    parent: str | None = None
    fresh: tuple[str, ...] = ()
    learnt: tuple[Code, ...] = ()
    steps: int = 0
    candidate: str | None = None
    source: str | None = None
    gamma: float = 1.0
    cause: str = ""


class Pending(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An observation that was chosen and is being written; ``evict`` leaves once it is durable."""

    code: Code
    split: str
    evict: tuple[str, ...]


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that a device remembers, besides the media and the names, which the vault holds.

    ``known`` and ``sizes`` are the numbers of values per factor of the release and of today. ``keeping`` is
    novelty's own state, ``looking`` the gate's. ``fresh`` are training records that no accepted version has learnt
    yet, ``tried`` how many of them the last attempt had already seen. ``learnt`` and ``learnt_before`` are the new
    conditions that the active and the previous version have learnt.
    """

    device: str = ""
    release: str = ""
    seed: int = 0
    known: Code = ()
    sizes: Code = ()
    keeping: novelty.State = novelty.State()
    pending: dict[str, Pending] = {}
    fresh: tuple[str, ...] = ()
    tried: int = 0
    codes: dict[str, Code] = {}
    teacher: bool = False
    looking: gate.State = gate.State()
    active: str | None = None
    previous: str | None = None
    learnt: tuple[Code, ...] = ()
    learnt_before: tuple[Code, ...] = ()
    probation: bool = False
    probation_since_s: float = 0.0
    errors: int = 0
    sequence: int = 0
    work: Work | None = None
    n_jobs: int = 0
    checked_at_s: float = 0.0
    n_observed: int = 0
    n_kept: int = 0
    n_refused: int = 0
    dropped: dict[str, int] = {}


def step(config: Config, state: State, event: ev.Event, now_s: float) -> Result:
    """The next state and what to do about it. Pure: the same arguments always give the same result."""
    match event:
        case ev.DeviceInitialised():
            return _change(
                state,
                device=event.device,
                release=event.release,
                seed=event.seed,
                teacher=event.teacher,
                known=event.vocabulary,
                sizes=event.vocabulary,
                checked_at_s=now_s,
            ), []
        case ev.AgentStarted():
            return _start(state)
        case ev.ConditionAdded():
            sizes = tuple(max(n, event.value) if i == event.factor else n for i, n in enumerate(state.sizes))
            return _change(state, sizes=sizes), []
        case ev.ObservationMeasured():
            return _choose(config, state, event)
        case ev.ObservationKept():
            return _keep(config, state, event)
        case ev.ObservationDropped():
            dropped = {**state.dropped, event.reason: state.dropped.get(event.reason, 0) + 1}
            return _change(state, dropped=dropped), []
        case ev.ObservationRefused():
            return _change(state, n_observed=state.n_observed + 1, n_refused=state.n_refused + 1), []
        case ev.ObservationLost():
            return _lose(state, event.observation), []
        case ev.LearningRequested():
            return _request_learning(config, state, event)
        case ev.TrainingStarted():
            return _of_work(state, event.job, lambda work: (state, []))
        case ev.TrainingFinished():
            return _of_work(state, event.job, lambda work: _measure(state, work, candidate=event.candidate))
        case ev.JobInterrupted() | ev.JobFailed():
            return _of_work(state, event.job, lambda work: _stumble(config, state, work, event))
        case ev.AdapterOffered():
            return _take_offer(state, event)
        case ev.CandidateMeasured():
            return _of_work(state, event.job, lambda work: _judge(config, state, work, event, now_s))
        case ev.CandidateRefused():
            return _of_work(state, event.job, lambda work: (_idle(state), [do.StopWorker(work.job)]))
        case ev.VersionActivated():
            return _activate(state, event, now_s)
        case ev.ProbationPassed():
            return _change(state, probation=False, errors=0), [
                do.ConfirmVersion(event.adapter)
            ] if event.adapter else []
        case ev.VersionRolledBack():
            return _fall_back(state, event)
        case ev.RollbackRequested():
            return _request_rollback(state, event)
        case ev.GenerationFailed():
            return _mind_failure(config, state, event)
        case ev.RecheckRequested():
            return _request_recheck(state, "recheck")
        case ev.TimePassed():
            return _mind_time(config, state, now_s)
        case ev.LearningDeferred() | ev.GateJudged():
            return state, []
        case _:
            assert_never(event)


def next_due(config: Config, state: State, now_s: float) -> bool:
    """Whether ``TimePassed`` would lead to anything now: an idle device writes nothing to its log."""
    return bool(_mind_time(config, state, now_s)[1])


def under_way(state: State) -> do.Effect | None:
    """The order that the device waits for, to be given again where carrying it out failed; None when it is idle."""
    return None if state.work is None else _order(state.work, state)


# 1. Observations


def _choose(config: Config, state: State, event: ev.ObservationMeasured) -> Result:
    """Novelty: keep or drop. The measured facts come with the event, the chance from a named stream."""
    condition = group(event.code, state.known)
    kept, decision = novelty.decide(
        state.keeping,
        novelty.Policy.of(config.novelty, config.replay),
        event.observation,
        condition,
        event.n_bytes,
        event.facts,
        novelty.draw(stream(state.seed, "novelty", state.keeping.n_decided)),
        new=_is_new(condition, state.known),
    )
    state = _change(state, keeping=kept, n_observed=state.n_observed + 1)
    reason = str(decision.reason)
    if not decision.keep or decision.split is None:
        fact = ev.ObservationDropped(event.observation, event.code, reason)
        state = _without_records(state, decision.evict)
        gone: Effects = [do.EvictRecords(decision.evict)] if decision.evict else []
        return state, [do.Emit(fact), do.DropObservation(event.observation), *gone]
    pending = Pending(event.code, decision.split, decision.evict)
    state = _change(state, pending={**state.pending, event.observation: pending})
    return state, [do.StoreObservation(event.observation, decision.split, reason)]


def _keep(config: Config, state: State, event: ev.ObservationKept) -> Result:
    """It is durable: count it, let go of what it replaced, and learn when enough is waiting."""
    pending = state.pending.get(event.observation)
    if pending is None:
        return state, []
    state = _without_records(state, pending.evict)
    state = _change(state, pending=_without(state.pending, event.observation), n_kept=state.n_kept + 1)
    if event.split == "train":
        codes = {**state.codes, event.observation: event.code}
        state = _change(state, codes=codes, fresh=(*state.fresh, event.observation))
    orders: Effects = [do.EvictRecords(pending.evict)] if pending.evict else []
    if _wants_to_learn(config, state):
        orders.append(do.Emit(ev.LearningRequested("schedule", 0)))
    return state, orders


def _lose(state: State, record: str) -> State:
    """A record is gone for good: nothing may count on it any more."""
    state = _change(state, keeping=novelty.forget(state.keeping, [record]), pending=_without(state.pending, record))
    return _without_records(state, [record])


# 2. Learning


def _wants_to_learn(config: Config, state: State) -> bool:
    return config.learn.auto and state.work is None and len(state.fresh) - state.tried >= config.learn.min_new


def _request_learning(config: Config, state: State, event: ev.LearningRequested) -> Result:
    """One job at a time; nothing new, nothing to learn."""
    if state.work is not None:
        return state, [do.Emit(ev.LearningDeferred(f"{state.work.job} ({state.work.purpose}) is under way"))]
    if not state.fresh:
        return state, [do.Emit(ev.LearningDeferred("nothing new has been kept since the last accepted version"))]
    learnt = tuple(sorted({group(state.codes[r], state.known) for r in state.fresh}))
    work = Work(
        _job(state),
        "learn",
        "train",
        parent=state.active,
        fresh=state.fresh,
        learnt=learnt,
        steps=event.steps or config.learn.steps,
    )
    return _change(state, work=work, n_jobs=state.n_jobs + 1), [_order(work, state)]


def _take_offer(state: State, event: ev.AdapterOffered) -> Result:
    """An adapter from elsewhere goes to the golden gate like one of our own."""
    if state.work is not None:
        return state, [do.Emit(ev.LearningDeferred(f"{state.work.job} ({state.work.purpose}) is under way"))]
    work = Work(_job(state), "offer", "measure", parent=state.active, learnt=_golden_groups(state), source=event.source)
    return _change(state, work=work, n_jobs=state.n_jobs + 1), [_order(work, state)]


def _measure(state: State, work: Work, **changes: Any) -> Result:
    """On to the golden set."""
    work = msgspec.structs.replace(work, stage="measure", attempt=1, **changes)
    return _change(state, work=work), [_order(work, state)]


def _stumble(config: Config, state: State, work: Work, event: ev.JobInterrupted | ev.JobFailed) -> Result:
    """A killed worker is started again from its checkpoint; one that fails by itself is not."""
    if isinstance(event, ev.JobInterrupted) and work.attempt < config.learn.attempts_max:
        work = msgspec.structs.replace(work, attempt=work.attempt + 1)
        return _change(state, work=work), [_order(work, state)]
    if work.purpose == "probation" and state.active is not None:
        return _restore(state, work, f"its golden re-check could not be finished: {event.reason}")
    return _idle(state), [do.StopWorker(work.job)]


# 3. The golden gate


def _judge(config: Config, state: State, work: Work, event: ev.CandidateMeasured, now_s: float) -> Result:
    """Accept, rescale or reject an update; let a version pass its probation, or sound the alarm."""
    policy = gate.Policy.of(config.gate)
    if work.purpose in ("recheck", "probation"):
        return _judge_again(config, state, work, event, policy, now_s)
    expected = gate.questions(_known_groups(state), state.learnt, work.learnt, teacher=state.teacher)
    gate_state, verdict = gate.judge(state.looking, policy, event.comparisons, expected, work.gamma)
    state = _change(state, looking=gate_state)
    fact = do.Emit(_judgement(work, verdict, verdict.outcome))
    if verdict.outcome == "accept":
        work = msgspec.structs.replace(work, stage="promote", candidate=event.candidate)
        return _change(state, work=work), [fact, _order(work, state)]
    if verdict.outcome == "rescale":
        state, orders = _measure(state, work, gamma=verdict.gamma)
        return state, [fact, *orders]
    return _idle(state), [fact, do.StopWorker(work.job)]


def _judge_again(
    config: Config, state: State, work: Work, event: ev.CandidateMeasured, policy: gate.Policy, now_s: float
) -> Result:
    """A re-check asks only whether the active version still keeps what the release knows."""
    expected = tuple(
        q for q in gate.questions(_known_groups(state), (), (), teacher=state.teacher) if q.kind != "incumbent"
    )
    verdict = gate.recheck(policy, event.comparisons, expected)
    fact = do.Emit(_judgement(work, verdict, "passed" if verdict.outcome == "accept" else "alarm"))
    state = _change(state, checked_at_s=now_s)
    if verdict.outcome == "accept":
        orders: Effects = [fact, do.StopWorker(work.job)]
        if state.probation and now_s - state.probation_since_s >= config.probation.seconds:
            orders.insert(1, do.Emit(ev.ProbationPassed(state.active)))
        return _idle(state), orders
    if state.active is None:
        return _idle(state), [fact, do.StopWorker(work.job)]
    state, orders = _restore(state, work, verdict.sentence)
    return state, [fact, *orders]


def _judgement(work: Work, verdict: gate.Verdict, outcome: str) -> ev.GateJudged:
    failed = tuple((str(f.kind), f.condition) for f in verdict.failed)
    return ev.GateJudged(work.job, outcome, work.gamma, failed, verdict.sentence)


# 4. Versions


def _activate(state: State, event: ev.VersionActivated, now_s: float) -> Result:
    """The pointer has turned: a new version begins its probation, or the way back is done."""
    work = state.work
    if work is None or work.stage not in ("promote", "restore"):
        return state, []
    if work.stage == "restore":
        state = _change(state, sequence=event.sequence)
        return state, [do.Emit(ev.VersionRolledBack(state.active, event.adapter, work.cause))]
    learnt = set(work.fresh)
    state = _change(
        _idle(state),
        previous=state.active,
        active=event.adapter,
        learnt=tuple(sorted({*state.learnt, *work.learnt})),
        learnt_before=state.learnt,
        sequence=event.sequence,
        probation=True,
        probation_since_s=now_s,
        errors=0,
        fresh=tuple(r for r in state.fresh if r not in learnt),
        tried=0,
    )
    state, recheck = _request_recheck(state, "probation")
    return state, [do.StopWorker(work.job), *recheck]


def _request_recheck(state: State, purpose: str) -> Result:
    if state.work is not None:
        return state, [do.Emit(ev.LearningDeferred(f"{state.work.job} ({state.work.purpose}) is under way"))]
    work = Work(_job(state), purpose, "measure", parent=state.active)
    return _change(state, work=work, n_jobs=state.n_jobs + 1), [_order(work, state)]


def _request_rollback(state: State, event: ev.RollbackRequested) -> Result:
    if state.active is None:
        return state, [do.Emit(ev.LearningDeferred("the release alone is active; there is nothing to go back to"))]
    stop: Effects = [do.StopWorker(state.work.job)] if state.work else []
    state, orders = _restore(state, state.work, f"asked for by {event.by}")
    return state, [*stop, *orders]


def _mind_failure(config: Config, state: State, event: ev.GenerationFailed) -> Result:
    """An app could not serve the active version: too often, and the device goes back by itself."""
    if event.adapter is None or event.adapter != state.active:
        return state, []
    state = _change(state, errors=state.errors + 1)
    if state.errors <= config.probation.errors_max or (state.work and state.work.stage == "restore"):
        return state, []
    stop: Effects = [do.StopWorker(state.work.job)] if state.work else []
    state, orders = _restore(state, state.work, f"it failed in use: {event.reason}")
    return state, [*stop, *orders]


def _restore(state: State, work: Work | None, cause: str) -> Result:
    """Ask for the way back; the state changes when it is durable."""
    job = work.job if work else _job(state)
    restoring = Work(job, "rollback", "restore", cause=cause)
    state = _change(state, work=restoring, n_jobs=state.n_jobs + (work is None))
    return state, [_order(restoring, state)]


def _fall_back(state: State, event: ev.VersionRolledBack) -> Result:
    """What the bad version had learnt is fresh again, so that a later attempt can do better."""
    orders: Effects = [do.StopWorker(state.work.job)] if state.work else []
    return _change(
        _idle(state),
        active=event.good,
        previous=None,
        learnt=state.learnt_before if event.good is not None else (),
        learnt_before=(),
        probation=False,
        errors=0,
        fresh=tuple(state.codes),
        tried=len(state.codes),
    ), orders


# 5. Time, starts, and what is under way


def _mind_time(config: Config, state: State, now_s: float) -> Result:
    """What only waits for the clock: the end of a probation, the next golden re-check, a learning job."""
    if state.work is not None or not state.device:
        return state, []
    if state.probation:
        checked = state.checked_at_s >= state.probation_since_s
        if checked and now_s - state.probation_since_s >= config.probation.seconds:
            return state, [do.Emit(ev.ProbationPassed(state.active))]
        return (state, []) if checked else _request_recheck(state, "probation")
    if state.active is not None and now_s - state.checked_at_s >= config.gate.recheck_every_s:
        return state, [do.Emit(ev.RecheckRequested("schedule"))]
    if _wants_to_learn(config, state):
        return state, [do.Emit(ev.LearningRequested("schedule", 0))]
    return state, []


def _start(state: State) -> Result:
    """Everything that was under way is asked for again; every effect may be carried out twice."""
    orders: Effects = [do.ReconcileRecords((*state.keeping.buffer.records(), *state.pending))]
    if state.work is not None:
        orders.append(_order(state.work, state))
    return state, orders


def _order(work: Work, state: State) -> do.Effect:
    """The order that belongs to the stage of the work; the same again after a crash."""
    match work.stage:
        case "train":
            return do.StartTraining(work.job, work.parent, work.fresh, work.steps, work.attempt)
        case "measure":
            return do.StartMeasuring(
                work.job, work.candidate, work.source, state.active, work.learnt, work.gamma, work.attempt
            )
        case "promote":
            return do.ActivateVersion(work.candidate, state.active, state.sequence + 1, probation=True)
        case "restore":
            return do.ActivateVersion(state.previous, None, state.sequence + 1, probation=False)
        case stage:
            raise AssertionError(f"no order for stage {stage!r}")


def _of_work(state: State, job: str, then: Callable[[Work], Result]) -> Result:
    """Only news of the job under way counts; a late word of an ended one changes nothing."""
    if state.work is None or state.work.job != job:
        return state, []
    return then(state.work)


def _idle(state: State) -> State:
    return _change(state, work=None, tried=len(state.fresh))


def _job(state: State) -> str:
    return f"job-{state.n_jobs + 1:05d}"


def _known_groups(state: State) -> tuple[Code, ...]:
    """The release's conditions that the gate guards: every value of the first factor."""
    rest = (0,) * (len(state.known) - 1)
    return tuple((n + 1, *rest) for n in range(state.known[0])) if state.known else ()


def _golden_groups(state: State) -> tuple[Code, ...]:
    """The new conditions that the device holds golden items of: what an adapter from elsewhere must gain on."""
    return tuple(sorted(code for code in state.keeping.buffer.counts("golden") if _is_new(code, state.known)))


def _is_new(condition: Code, known: Code) -> bool:
    return any(n > size for n, size in zip(condition, known, strict=True))


def _without(mapping: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in mapping.items() if k != key}


def _without_records(state: State, gone: Collection[str]) -> State:
    """Training records leave: they can neither be learnt from nor counted as waiting. ``tried`` counts what is left."""
    if not gone:
        return state
    tried = sum(record not in gone for record in state.fresh[: state.tried])
    return _change(
        state,
        codes={record: code for record, code in state.codes.items() if record not in gone},
        fresh=tuple(record for record in state.fresh if record not in gone),
        tried=tried,
    )


def _change(state: State, **changes: Any) -> State:
    return msgspec.structs.replace(state, **changes)
