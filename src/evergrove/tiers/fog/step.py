"""The fog's reducer: what a fog decides, as a pure function of its state and one event.

``step(state, event, now_s) -> (state, orders)``. The main path: a device is enrolled → a plan opens a generation → an
update is offered → measured → counted → the cohort closes, full or by time → it is summed, its updates are deleted →
its sum is handed over. After a crash ``FogStarted`` asks again for whatever was under way (DESIGN §3, §7).
"""

from collections import deque
from collections.abc import Sequence
from typing import assert_never

from evergrove.core import fog
from evergrove.core.fog import Cohort, Plan
from evergrove.tiers.fog import admitting
from evergrove.tiers.fog.admitting import Orders, Result
from evergrove.tiers.fog.state import Member, State, change

CASCADE_MAX = 8
"""Facts that may follow from one event."""
CONSTANT = ("base", "basis", "layout", "cohort", "rounds", "separation", "participations", "clip")
"""What the proof of privacy, and the fixed denominator, need to stay as it is within a generation."""
PASSING = (fog.UpdateOffered, fog.UpdateMeasured, fog.TimePassed)
"""Events that are not facts to keep: what follows from them is."""


def step(state: State, event: fog.FogEvent, now_s: float) -> Result:
    """The next state and what to do about it. Pure: the same arguments always give the same result."""
    match event:
        case fog.FogStarted():
            return state, [*_next_sum(state), *(fog.HandOver(cohort) for cohort in state.ready)]
        case fog.GenerationPlanned():
            return _plan(state, event.plan)
        case fog.DeviceEnrolled():
            if event.device in state.devices:
                return state, []
            return change(state, devices={**state.devices, event.device: Member()}), []
        case fog.DeviceRevoked():
            member = state.devices.get(event.device, Member())
            return change(state, devices={**state.devices, event.device: Member(True, member.record)}), []
        case fog.UpdateOffered():
            return admitting.offer(state, event)
        case fog.UpdateMeasured():
            return admitting.admit(state, event)
        case fog.UpdateCounted():
            return admitting.count(state, event, now_s)
        case fog.CohortClosed():
            first = not state.closed
            state = change(
                state, number=state.number + 1, n_updates=0, since_s=0.0, closed=(*state.closed, event.cohort)
            )
            return state, [fog.SumCohort(event.cohort)] if first else []
        case fog.CohortSummed():
            return _summed(state, event.cohort, (*state.ready, event.cohort), [fog.HandOver(event.cohort)])
        case fog.CohortWithheld():
            return _summed(state, event.cohort, state.ready, [])
        case fog.CohortHandedOver():
            return change(state, ready=tuple(c for c in state.ready if c != event.cohort)), []
        case fog.BudgetEnded():
            return _end_budget(state, event)
        case fog.TimePassed():
            return _mind_time(state, now_s)
        case fog.UpdateRepeated() | fog.UpdateRefused() | fog.PlanRefused() | fog.CohortDropped():
            return state, []
        case _:
            assert_never(event)


def settle(
    state: State, events: Sequence[fog.FogEvent], now_s: float
) -> tuple[State, list[list[fog.FogEvent]], Orders]:
    """Several events, each with all that follows from it: the state, the facts to keep per event, the orders left."""
    facts: list[list[fog.FogEvent]] = []
    orders: Orders = []
    for event in events:
        queue, kept, n_seen = deque([event]), list[fog.FogEvent](), 0
        while queue:
            event, n_seen = queue.popleft(), n_seen + 1
            assert n_seen <= CASCADE_MAX, f"{type(event).__name__} follows from itself"
            if not isinstance(event, PASSING):
                kept.append(event)
            state, effects = step(state, event, now_s)
            for effect in effects:
                if isinstance(effect, fog.FogEmit):
                    queue.append(effect.event)
                else:
                    orders.append(effect)
        facts.append(kept)
    return state, facts, orders


def _plan(state: State, plan: Plan) -> Result:
    """A new generation ends what was gathered for the old one; within one, only releases and sizes may change."""
    old = state.plan
    if old is not None and plan.generation < old.generation:
        return state, [fog.FogEmit(fog.PlanRefused(plan.generation, f"generation {old.generation} is open already"))]
    if old is not None and plan.generation == old.generation:
        moved = [name for name in CONSTANT if getattr(plan, name) != getattr(old, name)]
        if moved:
            reason = f"{', '.join(moved)} must stay as they are within a generation"
            return state, [fog.FogEmit(fog.PlanRefused(plan.generation, reason))]
        return change(state, plan=plan), []
    return change(state, plan=plan, number=0, n_updates=0, since_s=0.0, tokens={}, spent=False), _dropped(state)


def _end_budget(state: State, event: fog.BudgetEnded) -> Result:
    """The open cohort could never be handed over: its updates go, and no more are taken. A second word changes nothing.

    What is closed is withheld one by one, as its turn comes.
    """
    if state.plan is None or state.plan.generation != event.generation or state.spent:
        return state, []
    dropped = _dropped(state)
    number = state.number + 1 if dropped else state.number
    return change(state, number=number, n_updates=0, since_s=0.0, spent=True), dropped


def _dropped(state: State) -> Orders:
    """The open cohort's end, where it has updates."""
    if state.plan is None or not state.n_updates:
        return []
    return [fog.FogEmit(fog.CohortDropped(state.open, state.n_updates)), fog.DeleteBodies(state.open)]


def _summed(state: State, cohort: Cohort, ready: tuple[Cohort, ...], orders: Orders) -> Result:
    """The cohort leaves the queue, its updates are deleted, the next one is summed. A second word changes nothing."""
    if cohort not in state.closed:
        return state, []
    state = change(state, closed=tuple(c for c in state.closed if c != cohort), ready=ready)
    return state, [fog.DeleteBodies(cohort), *orders, *_next_sum(state)]


def _next_sum(state: State) -> Orders:
    """One at a time, in the order of the noise stream."""
    return [fog.SumCohort(state.closed[0])] if state.closed else []


def _mind_time(state: State, now_s: float) -> Result:
    """A cohort with enough updates closes when its time is over; the clock may have been set back meanwhile."""
    if state.plan is None or not state.n_updates:
        return state, []
    if now_s < state.since_s:
        return change(state, since_s=now_s), []
    if state.n_updates < state.plan.cohort_min or now_s - state.since_s < state.plan.wait_s:
        return state, []
    return state, [fog.FogEmit(fog.CohortClosed(state.open, state.n_updates, "time"))]
