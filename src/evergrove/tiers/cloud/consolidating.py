"""From cohorts to a signed release: counted once, consolidated, judged by the fleet's gate, signed by a person."""

import msgspec

from evergrove.core import cloud_effects as do
from evergrove.core import cloud_events as ev
from evergrove.core.conditions import everything
from evergrove.rules import gate
from evergrove.rules.privacy import books, quantile
from evergrove.rules.probation import elapsed
from evergrove.tiers.cloud.state import (
    Effects,
    Line,
    Policy,
    Result,
    State,
    Work,
    at_rest,
    change,
    emit,
    enter,
    idle,
    of_work,
)


def receive(policy: Policy, state: State, event: ev.CohortReceived, now_s: float) -> Result:
    """A sum counts and is charged once, whoever hands it up how often; the fog hears the same answer each time."""
    cohort = event.cohort
    before = state.counted.get(cohort.id)
    if before == cohort.digest:
        return state, [do.AnswerFog(cohort, "counted")]
    if before is not None:
        return state, [emit(ev.CohortRefused(cohort, "another sum was counted under its number"))]
    if cohort.generation != state.generation:
        reason = f"it is of generation {cohort.generation}; generation {state.generation} is gathered"
        return state, [emit(ev.CohortRefused(cohort, reason))]
    if len(state.waiting) >= policy.waiting_max:
        return state, [do.AnswerFog(cohort, "later", f"{len(state.waiting)} sums wait to be consolidated")]
    state = change(
        state,
        counted={**state.counted, cohort.id: cohort.digest},
        waiting=(*state.waiting, cohort),
        since_s=state.since_s if state.waiting else now_s,
        n_counted=state.n_counted + 1,
    )
    if cohort.norms is not None:
        tally = quantile.added(state.norms.get(cohort.fog, quantile.Tally()), cohort.norms, cohort.number)
        state = change(state, norms={**state.norms, cohort.fog: tally})
    if event.noise is not None:
        charged = books.booked(state.books, cohort.fog, event.noise, cohort.generation, cohort.number)
        state = change(state, books=charged)
    return state, [do.AnswerFog(cohort, "counted"), *begin(policy, state, now_s)]


def begin(policy: Policy, state: State, now_s: float) -> Effects:
    """Whether a job begins now: one at a time, only from a release that is proven, and while the golden set lasts."""
    used_up = state.looking.n_updates >= policy.gate.updates_max
    if state.work is not None or not state.release or not at_rest(state) or used_up:
        return []
    job = f"cloud-{state.n_jobs + 1:05d}"
    if state.merge:
        return [emit(ev.MergeBegan(job))]
    n = len(state.waiting)
    late = n >= policy.cohorts_min and elapsed(state.since_s, now_s) >= policy.wait_s
    if n and (n >= policy.cohorts or late):
        return [emit(ev.ConsolidationBegan(job, tuple(cohort.id for cohort in state.waiting)))]
    return []


def take(state: State, event: ev.ConsolidationBegan, now_s: float) -> Result:
    """The cohorts leave the waiting for good, and what they cost is booked before anything is made of them."""
    assert state.work is None, "begun only where nothing is under way"
    mine = set(event.cohorts)
    taken = tuple(cohort for cohort in state.waiting if cohort.id in mine)
    rest = tuple(cohort for cohort in state.waiting if cohort.id not in mine)
    spent = dict(state.spent)
    for cohort in taken:
        known, new = spent.get(cohort.fog, 0.0), cohort.epsilon
        # Not `new < 0`: what is no number bounds nothing either.
        spent[cohort.fog] = None if known is None or new is None or not new >= 0 else max(known, new)
    state = change(state, waiting=rest, since_s=now_s if rest else 0.0, spent=spent, n_jobs=state.n_jobs + 1)
    return enter(state, Work(event.job, "consolidate", "compute", now_s, taken), now_s)


def merge(state: State, event: ev.MergeBegan, now_s: float) -> Result:
    """The next generation is made; cohorts of this one may still come, and wait in vain."""
    assert state.work is None, "begun only where nothing is under way"
    work = Work(event.job, "merge", "compute", now_s, clip=state.merge_clip)
    return enter(change(state, merge=False, merge_clip=None, n_jobs=state.n_jobs + 1), work, now_s)


def made(state: State, event: ev.CandidateMade, now_s: float) -> Result:
    """To the golden set with it."""
    work = of_work(state, event.job, "compute")
    if work is None:
        return state, []
    return enter(state, work, now_s, stage="measure", attempt=1, candidate=event.candidate, server=event.server)


def judge(policy: Policy, state: State, event: ev.FleetMeasured, now_s: float) -> Result:
    """Every condition must be kept, what is learnt must gain on the whole, and no trigger may work."""
    work = of_work(state, event.job, "measure")
    if work is None or event.candidate != work.candidate or event.gamma != work.gamma:
        return state, []
    # The gain is asked of all that is learnt together: what is learnt to the full cannot gain in every release.
    learns = work.purpose == "consolidate" and policy.needs_gain
    gains = (everything(state.learning),) if learns and state.learning else ()
    expected = gate.questions(state.conditions, state.learning, gains, teacher=state.teacher)
    looking, verdict = gate.judge(
        state.looking, policy.gate, event.comparisons, expected, work.gamma, needs_gain=learns
    )
    state = change(state, looking=looking)
    outcome, sentence = str(verdict.outcome), verdict.sentence
    if event.probes and outcome != "reject":  # no smaller scale makes a trigger harmless
        outcome, sentence = "reject", f"rejected: {len(event.probes)} trigger probes worked"
    failed = (*((str(f.kind), f.condition) for f in verdict.failed), *(("probe", ()) for _ in event.probes))
    return state, [emit(ev.FleetJudged(work.job, outcome, verdict.gamma, failed, sentence))]


def mind_verdict(policy: Policy, state: State, event: ev.FleetJudged, now_s: float) -> Result:
    """Accepted: to be signed. Rescaled: measured again. Anything else ends the job."""
    work = of_work(state, event.job, "measure")
    if work is None:
        return state, []
    if event.verdict == "accept":
        return enter(state, work, now_s, stage="sign", attempt=1)
    if event.verdict == "rescale":
        return enter(state, work, now_s, gamma=event.gamma, attempt=1)
    return end(policy, state, now_s)


def signed(state: State, event: ev.ReleaseSigned, now_s: float) -> Result:
    """A release: it goes on its way."""
    work = of_work(state, event.job, "sign")
    if work is None:
        return state, []
    lines = {**state.lines, event.release: Line(event.generation, work.server)}
    return enter(change(state, lines=lines), work, now_s, stage="start", release=event.release, version=event.version)


def stumble(policy: Policy, state: State, event: ev.WorkInterrupted | ev.WorkFailed, now_s: float) -> Result:
    """What was interrupted is asked for again, a few times; what failed by itself is not."""
    work = of_work(state, event.job, "compute", "measure")
    if work is None:
        return state, []
    if isinstance(event, ev.WorkInterrupted) and work.attempt < policy.attempts_max:
        return enter(state, work, now_s, attempt=work.attempt + 1)
    return end(policy, state, now_s)


def end(policy: Policy, state: State, now_s: float) -> Result:
    """The job is over without a release; the next may begin."""
    assert state.work is not None, "only a job can end"
    stop, state = do.StopWork(state.work.job), idle(state)
    return state, [stop, *begin(policy, state, now_s)]


def overdue(policy: Policy, work: Work, now_s: float) -> str | None:
    """Why a stage took too long; None while it has not."""
    limit_s = {"compute": policy.compute_s, "measure": policy.measure_s}.get(work.stage)
    if limit_s is None or elapsed(work.since_s, now_s) <= limit_s:
        return None
    return f"no end of '{work.stage}' after {limit_s:g} s"


def of_generation(state: State, generation: int) -> State:
    """Another generation is gathered: sums of the old one that no job has fit nothing any more."""
    kept = tuple(cohort for cohort in state.waiting if cohort.generation == generation)
    counted = {id_: digest for id_, digest in state.counted.items() if int(id_.rsplit("/", 2)[1]) >= generation - 1}
    return msgspec.structs.replace(
        state,
        generation=generation,
        waiting=kept,
        n_dropped=state.n_dropped + len(state.waiting) - len(kept),
        counted=counted,
        spent={},
        norms={},
        looking=gate.State(),
    )
