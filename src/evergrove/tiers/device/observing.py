"""Observations: what is kept, what is let go, what follows from it, and whether the world has changed."""

from evergrove.core import effects as do
from evergrove.core import events as ev
from evergrove.core.conditions import group
from evergrove.core.config import Config
from evergrove.core.rng import stream
from evergrove.rules import drift, novelty
from evergrove.tiers.device.learning import wants_to_learn
from evergrove.tiers.device.state import Effects, Pending, Result, State, change, without, without_records

DRIFT = drift.Policy()
WATCHED_MAX = 256
"""Conditions whose stream is watched at once."""


def choose(config: Config, state: State, event: ev.ObservationMeasured) -> Result:
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
        golden=True,
    )
    reason = str(decision.reason)
    watched, statistic = drift.notice(
        DRIFT, state.drifting, condition, event.facts, near=decision.reason == "near duplicate", n_max=WATCHED_MAX
    )
    noticed: Effects = []
    if statistic is not None:
        noticed.append(do.Emit(ev.DriftNoticed(condition, statistic, DRIFT.threshold)))
    state = change(state, keeping=kept, drifting=watched, n_observed=state.n_observed + 1)
    if not decision.keep or decision.split is None:
        fact = ev.ObservationDropped(event.observation, event.code, reason)
        state = without_records(state, decision.evict)
        gone: Effects = [do.EvictRecords(decision.evict)] if decision.evict else []
        return state, [*noticed, do.Emit(fact), do.DropObservation(event.observation), *gone]
    pending = Pending(event.code, decision.split, decision.evict)
    state = change(state, pending={**state.pending, event.observation: pending})
    return state, [*noticed, do.StoreObservation(event.observation, decision.split, reason)]


def keep(config: Config, state: State, event: ev.ObservationKept) -> Result:
    """It is durable: count it, let go of what it replaced, and learn when enough is waiting."""
    pending = state.pending.get(event.observation)
    if pending is None:
        return state, []
    state = without_records(state, pending.evict)
    state = change(state, pending=without(state.pending, event.observation), n_kept=state.n_kept + 1)
    if event.split == "train":
        codes = {**state.codes, event.observation: event.code}
        state = change(state, codes=codes, fresh=(*state.fresh, event.observation))
    orders: Effects = [do.EvictRecords(pending.evict)] if pending.evict else []
    if wants_to_learn(config, state):
        orders.append(do.Emit(ev.LearningRequested("schedule", 0)))
    return state, orders


def lose(state: State, record: str) -> State:
    """A record is gone for good: nothing may count on it any more."""
    state = change(state, keeping=novelty.forget(state.keeping, [record]), pending=without(state.pending, record))
    return without_records(state, [record])
