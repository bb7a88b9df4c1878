"""Learning jobs: when one is asked for, and what becomes of one that stumbles."""

import msgspec

from evergrove.core import effects as do
from evergrove.core import events as ev
from evergrove.core.config import Config
from evergrove.rules import gate
from evergrove.tiers.device import following
from evergrove.tiers.device.orders import again
from evergrove.tiers.device.placing import measure, settle
from evergrove.tiers.device.state import (
    Result,
    State,
    Work,
    busy,
    change,
    golden_groups,
    idle,
    learnable,
    new_work,
    seen_by_now,
    to_gain_on,
)
from evergrove.tiers.device.versions import may_go_back, restore

UNRIPE = (
    "no condition that waits has the {} golden pictures that the gate judges by; one in a few of those that are "
    "observed becomes one, so show the device more of them"
)


def _untried(config: Config, state: State) -> int:
    """Records that could be learnt and that no attempt has seen yet; none once the golden set is spent."""
    if gate.is_spent(state.looking, gate.Policy.of(config.gate)):
        return 0
    tried = set(state.fresh[: state.tried])
    return sum(record not in tried for record in learnable(state, config.gate.items_min))


def wants_to_learn(config: Config, state: State) -> bool:
    """Whether enough has come together since the last attempt."""
    free = state.work is None and state.waiting is None
    enough = len(state.fresh) - state.tried >= config.learn.min_new  # nearly always not: the rest takes longer
    return config.learn.auto and free and enough and _untried(config, state) >= config.learn.min_new


def request_learning(config: Config, state: State, event: ev.LearningRequested, now_s: float) -> Result:
    """One job at a time; nothing new, nothing to learn. When and where it begins is for the placement to say."""
    if state.work is not None:
        return state, busy(state)
    if not state.fresh:
        return state, [do.Emit(ev.LearningDeferred("nothing new has been kept since the last accepted version"))]
    policy = gate.Policy.of(config.gate)
    if gate.is_spent(state.looking, policy):
        return state, [do.Emit(ev.LearningDeferred(gate.refresh_sentence(policy)))]
    if not learnable(state, config.gate.items_min):
        return state, [do.Emit(ev.LearningDeferred(UNRIPE.format(config.gate.items_min)))]
    work = state.waiting
    if work is None:
        state, work = new_work(state, "learn", "wait", now_s)
    work = msgspec.structs.replace(
        work, urgent=work.urgent or event.by == "app", steps=event.steps or work.steps or config.learn.steps
    )
    return settle(config, change(state, waiting=work), now_s)


def take_offer(config: Config, state: State, event: ev.AdapterOffered, now_s: float) -> Result:
    """An adapter from elsewhere goes to the golden gate like one of our own."""
    if state.work is not None:
        return state, busy(state)
    groups = golden_groups(state, config.gate.items_min)
    state, work = new_work(state, "offer", "measure", now_s)
    # Nobody can tell what it was made of: it may be this device's own, taken out and brought back.
    learnt, seen = to_gain_on(state, groups), seen_by_now(state)
    return measure(config, state, work, now_s, learnt=learnt, source=event.source, seen=seen)


def take_candidate(config: Config, state: State, work: Work, event: ev.TrainingFinished, now_s: float) -> Result:
    """A candidate is there: to the golden set with it. What a step took here is what the next one is priced by."""
    if work.stage == "train" and event.steps > 0:
        state = change(state, step_s=max(event.seconds / event.steps, 1e-3))
    return measure(config, state, work, now_s, candidate=event.candidate, seen=seen_by_now(state))


def stumble(config: Config, state: State, work: Work, event: ev.JobInterrupted | ev.JobFailed, now_s: float) -> Result:
    """A killed worker is started again from its checkpoint; one that fails by itself is not."""
    if isinstance(event, ev.JobInterrupted) and work.attempt < config.learn.attempts_max:
        state = change(state, work=msgspec.structs.replace(work, attempt=work.attempt + 1, since_s=now_s))
        return state, again(state)
    return give_up(state, work, event.reason, now_s)


def give_up(state: State, work: Work, reason: str, now_s: float) -> Result:
    """A job ends without a word of the gate.

    A version on probation that could not be re-checked goes back; one that counts as good is measured again when the
    next re-check is due, not at once and for ever.
    """
    if work.purpose == "probation" and may_go_back(state):
        return restore(state, work, f"its golden re-check could not be finished: {reason}", now_s)
    if work.purpose in ("release", "shadow"):
        return following.fail(state, work)
    if work.purpose == "recheck":
        state = change(state, checked_at_s=now_s)
    return idle(state), [do.StopWorker(work.job)]


def mind_drift(config: Config, state: State) -> Result:
    """The world has changed: what has come together is learnt now, however little it is."""
    if config.learn.auto and state.work is None and state.waiting is None and _untried(config, state) > 0:
        return state, [do.Emit(ev.LearningRequested("drift", 0))]
    return state, []
