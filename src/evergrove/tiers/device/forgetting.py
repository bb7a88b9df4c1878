"""Forgetting (DESIGN §8): an observation, a condition or all of it leaves, and every version that learnt from it.

The rule is the simplest that is right. A version whose training had seen a forgotten record goes; what serves then is
the last version that had not, or the release alone. What is left is fresh again, so that it will be learnt anew.
Nothing that was under way goes on, since it may hold what is to be forgotten.
"""

from collections.abc import Iterator

import msgspec

from evergrove.core import effects as do
from evergrove.core import events as ev
from evergrove.core.conditions import Code, group, within
from evergrove.rules import novelty
from evergrove.tiers.device import sharing
from evergrove.tiers.device.orders import enter
from evergrove.tiers.device.state import Effects, Result, Seen, State, Work, busy, change, new_work, without_records


def begin(state: State, event: ev.ForgettingAsked, now_s: float) -> Result:
    """What is meant leaves the state at once, and the order to destroy it goes out; it is repeated until it is done."""
    if state.work is not None and state.work.stage == "erase":
        return state, busy(state)
    if event.what == "all":
        records = (*state.keeping.buffer.records(), *state.pending)
        event = msgspec.structs.replace(event, records=records, code=(0,) * len(state.known))
    # 1. Nothing that is under way, or parked, goes on.
    stop: Effects = [do.StopWorker(work.job) for work in (state.work, state.waiting) if work is not None]
    # 2. Which versions have seen it, and what is left to serve.
    slots = ((state.active, state.seen), (state.previous, state.seen_before))
    gone = tuple(one for one, seen in slots if one is not None and _saw(state, seen, event))
    current, previous = (None if one in gone else one for one, _ in slots)
    if state.active in gone and state.following.before is None:  # both are of one release
        current, previous = previous, None
    # 3. The same of what is shared with the fleet: given, or to be given.
    shared = sharing.versions(state)
    withdraw = bool(shared) and _saw(state, state.seen_shared, event)
    # 4. No trace of it in what the device remembers.
    state = _without(change(state, work=None, waiting=None), event)
    if withdraw:
        state = sharing.withdraw_all(state)
    state, work = new_work(state, "forget", "erase", now_s)
    probation = state.probation and (current == state.active or state.following.before is not None)
    what = work.job, event.what, event.records, event.code
    erase = do.Erase(*what, gone, current, previous, probation, () if withdraw else shared, withdraw, now_s)
    state, orders = enter(state, work, "erase", now_s, erase=erase)
    return state, [*stop, *orders]


def end(state: State, work: Work, event: ev.Forgotten) -> Result:
    """It is gone. What serves now is known; what that has not learnt is fresh, and was never tried."""
    stays, slid = event.current == state.active, event.current is not None and event.current != state.active
    learnt, seen = (state.learnt_before, state.seen_before) if slid else ((), None)
    changes: dict[str, object] = {"work": None, "sequence": event.sequence, "previous": event.previous}
    if slid or event.previous != state.previous:
        changes |= {"learnt_before": (), "seen_before": None}
    if not stays:
        changes |= {
            "active": event.current,
            "learnt": learnt,
            "seen": seen,
            "probation": work.erase is not None and work.erase.probation,
            "rechecked": None,
            "errors": 0,
            "fresh": tuple(state.codes)[seen.records if seen else 0 :],
            "tried": 0,
        }
    return change(state, **changes), []


def _saw(state: State, seen: Seen | None, event: ev.ForgettingAsked) -> bool:
    """Whether a training may have seen any of it."""
    if seen is None or event.what == "all":
        return True
    first = set(tuple(state.codes)[: seen.records])
    if not first.isdisjoint(event.records):
        return True
    if event.code is None:
        return False
    values = set(seen.values)
    return all((factor, n) in values for factor, n in enumerate(event.code) if n)


def _without(state: State, event: ev.ForgettingAsked) -> State:
    """Records, what they left in the novelty filter and in the watch for drift, what was learnt of the condition."""
    records = set(event.records)
    conditions = set(_conditions(state, event))
    state = without_records(state, records)

    def kept(learnt: tuple[Code, ...]) -> tuple[Code, ...]:
        if event.what == "observation" or event.code is None:
            return learnt
        return tuple(one for one in learnt if not within(one, event.code))

    return change(
        state,
        keeping=novelty.erase(state.keeping, records, conditions),
        drifting=tuple(watch for watch in state.drifting if watch.condition not in conditions),
        pending={name: one for name, one in state.pending.items() if name not in records},
        learnt=kept(state.learnt),
        learnt_before=kept(state.learnt_before),
    )


def _conditions(state: State, event: ev.ForgettingAsked) -> Iterator[Code]:
    """Every condition that one of the records is of, or that the code means."""
    records = set(event.records)
    for part in state.keeping.buffer.parts:
        held = (*part.uniform, *part.surprising, *part.golden)
        if any(one.record in records for one in held) or event.what == "all":
            yield part.condition
    if event.code is not None:
        yield group(event.code, state.known)
    if event.what == "all":
        yield from (watch.condition for watch in state.drifting)
