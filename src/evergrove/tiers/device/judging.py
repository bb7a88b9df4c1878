"""The golden gate's word on a candidate, and on what serves already."""

from evergrove.core import effects as do
from evergrove.core import events as ev
from evergrove.core.config import Config
from evergrove.rules import gate
from evergrove.tiers.device.orders import enter
from evergrove.tiers.device.placing import measure
from evergrove.tiers.device.state import Result, State, Work, change, idle, known_groups
from evergrove.tiers.device.versions import may_go_back, mind_probation, restore


def judge(config: Config, state: State, work: Work, event: ev.CandidateMeasured, now_s: float) -> Result:
    """Accept, rescale or reject an update; let a version pass its probation, or sound the alarm."""
    policy = gate.Policy.of(config.gate)
    if work.purpose in ("recheck", "probation"):
        return _judge_again(config, state, work, event, policy, now_s)
    expected = gate.questions(known_groups(state), state.learnt, work.learnt, teacher=state.teacher)
    looking, verdict = gate.judge(state.looking, policy, event.comparisons, expected, work.gamma)
    state = change(state, looking=looking)
    fact = do.Emit(_judgement(work, verdict, verdict.outcome))
    if verdict.outcome == "accept":
        state, orders = enter(state, work, "promote", now_s, candidate=event.candidate)
        return state, [fact, *orders]
    if verdict.outcome == "rescale":
        state, orders = measure(config, state, work, now_s, gamma=verdict.gamma)
        return state, [fact, *orders]
    return idle(state), [fact, do.StopWorker(work.job)]


def _judge_again(
    config: Config, state: State, work: Work, event: ev.CandidateMeasured, policy: gate.Policy, now_s: float
) -> Result:
    """A re-check asks only whether the active version still keeps what the release knows."""
    expected = tuple(
        q for q in gate.questions(known_groups(state), (), (), teacher=state.teacher) if q.kind != "incumbent"
    )
    verdict = gate.recheck(policy, event.comparisons, expected)
    fact = do.Emit(_judgement(work, verdict, "passed" if verdict.outcome == "accept" else "alarm"))
    state = change(state, checked_at_s=now_s)
    if verdict.outcome == "accept":
        state, orders = mind_probation(config, change(idle(state), rechecked=True), now_s)
        return state, [fact, do.StopWorker(work.job), *orders]
    if not may_go_back(state):
        return idle(state), [fact, do.StopWorker(work.job)]
    state, orders = restore(state, work, verdict.sentence, now_s)
    return state, [fact, *orders]


def _judgement(work: Work, verdict: gate.Verdict, outcome: str) -> ev.GateJudged:
    failed = tuple((str(f.kind), f.condition) for f in verdict.failed)
    return ev.GateJudged(work.job, outcome, work.gamma, failed, verdict.sentence)
