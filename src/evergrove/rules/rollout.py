"""The staged rollout: shadow → 5 → 25 → 100 % (DESIGN §8), as a pure state machine.

``apply`` folds facts into a ``State`` and refuses what makes no sense; the rule that says when a stage is passed, or
the whole stopped, stands in ``rules/rollout_health``. A device counts as good only once the release has *run* on it and
passed probation (in the shadow, where it does not run, once the gate has let it in): a download is no success.
"""

import math
from collections.abc import Iterable
from typing import Literal, assert_never

import msgspec

from evergrove.core import cloud_events as ev
from evergrove.core.errors import UsageError
from evergrove.core.rollout import FULL, Directive, Mark, Policy, Stage, held_as, place

Status = Literal["none", "running", "paused", "stopped", "aborted", "complete"]
LINEAGE_MAX = 32
RANK: dict[Mark, int] = {"accepted": 0, "confirmed": 1, "rejected": 2, "rolled_back": 3, "failed": 4}
"""The worst that a device has said counts, so that reports may come twice and in any order."""


class Tally(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the devices of one stage have said: the mark of each, and how many are good, bad, or still on probation."""

    marks: dict[str, Mark] = {}
    good: int = 0
    bad: int = 0
    pending: int = 0

    @property
    def settled(self) -> int:
        """Devices with an outcome."""
        return self.good + self.bad


class Completed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A release that went to everybody, and the version that it was published under."""

    release: str
    version: int


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The latest rollout, and what came before it.

    ``stage`` is the index of the stage under way, ``since_s`` since when it runs without a pause, ``spent_s`` what it
    had used before. ``highest`` is the highest version ever given to a release, ``lineage`` the releases that
    completed, oldest first. ``sentence`` is the last word on the rollout, for people. ``held``: devices, by
    ``core.rollout.held_as``, that take no version above the one given.
    """

    rollout: str = ""
    release: str = ""
    version: int = 0
    policy: Policy = Policy()
    stages: tuple[Stage, ...] = ()
    tallies: tuple[Tally, ...] = ()
    status: Status = "none"
    stage: int = 0
    since_s: float = 0.0
    spent_s: float = 0.0
    highest: int = 0
    lineage: tuple[Completed, ...] = ()
    sentence: str = ""
    held: dict[str, int] = {}

    @property
    def good(self) -> Completed | None:
        """The newest release that went to everybody."""
        return self.lineage[-1] if self.lineage else None


# ---- a new rollout ---------------------------------------------------------------------------------------------------


def check(policy: Policy) -> None:
    """Raises ``UsageError`` for a rule that cannot be followed."""
    percents = policy.percents
    if not percents or list(percents) != sorted(set(percents)) or percents[0] <= 0 or percents[-1] != 100:
        raise UsageError(f"stages of {percents} per cent: they must grow from above 0 and end with 100")
    if not 0 <= policy.shadow <= 100:
        raise UsageError(f"a shadow of {policy.shadow:g} per cent; it must lie between 0 and 100")
    if not (0 < policy.errors_share < 1 and 0 < policy.alpha < 1 and 0 <= policy.flip < 0.5):
        raise UsageError(
            "errors_share and alpha must lie between 0 and 1, flip between 0 and .5 (not included); got "
            f"{policy.errors_share:g}, {policy.alpha:g} and {policy.flip:g}"
        )
    times = (policy.stage_s, policy.stage_s if policy.shadow_s is None else policy.shadow_s)
    if policy.reports_min < 1 or not all(0 < t < math.inf for t in times):
        raise UsageError("a stage needs at least one report, and a finite time above 0 in seconds")


def plan(policy: Policy, rollout: str, devices: Iterable[str]) -> tuple[Stage, ...]:
    """The stages for the devices that are known: those that were heard of lately, each name once.

    Each percentage is rounded up to whole devices, so that the first stage of a small fleet is not empty; a stage that
    would add nobody is left out. Who enrols later falls into a stage by its place. Raises ``UsageError``.
    """
    check(policy)
    places = sorted(place(rollout, device) for device in set(devices))
    if not places:
        raise UsageError("no devices are known, so no stage could ever be passed; enrol some first")
    stages: list[Stage] = []
    if policy.shadow > 0:
        reach = _reach(places, policy.shadow)
        stages.append(Stage("shadow", reach, False, _below(places, reach)))
    before = 0
    for percent in policy.percents:
        reach = _reach(places, percent)
        members = _below(places, reach) - _below(places, before)
        if members:
            stages.append(Stage(f"{percent:g} %", reach, True, members))
            before = reach
    last = stages[-1]
    return (*stages[:-1], Stage(last.name, FULL, True, last.members))


def back(state: State, rollout: str, version: int = 0) -> ev.RolloutStarted:
    """The fact that gives the present release up for the one before it, under a new and higher ``version``.

    To everybody at once: it has been everywhere before. ``version`` 0 is the next one. Raises ``UsageError`` where
    there is none to go back to.
    """
    if state.status == "none":
        raise UsageError("no release has been rolled out yet, so there is none to go back from")
    known = [done for done in state.lineage if done.release != state.release]
    if not known:
        raise UsageError("no other release has gone to everybody, so there is none to go back to")
    return ev.RolloutStarted(rollout, known[-1].release, version or state.highest + 1, (), state.policy, state.version)


def _reach(places: list[int], percent: float) -> int:
    if percent == 100:
        return FULL
    return places[max(1, math.ceil(len(places) * percent / 100 - 1e-9)) - 1] + 1


def _below(places: list[int], reach: int) -> int:
    return sum(p < reach for p in places)


# ---- facts -----------------------------------------------------------------------------------------------------------


def refusal(state: State, event: ev.RolloutEvent) -> str | None:
    """Why a fact makes no sense in this state; None where it does."""
    if isinstance(event, ev.RolloutStarted):
        return _start_refusal(state, event)
    if state.status == "none":
        return "no rollout has been started"
    if event.rollout != state.rollout:
        return f"it is about the rollout '{event.rollout}', but '{state.rollout}' is the latest"
    match event:
        case ev.ReleaseReported():
            return _report_refusal(state, event)
        case ev.RolloutPaused() | ev.StageEntered() | ev.RolloutCompleted():
            allowed: tuple[Status, ...] = ("running",)
        case ev.RolloutStopped():
            allowed = ("running", "paused")
        case ev.RolloutResumed():
            allowed = ("paused",)
        case ev.RolloutAborted():
            allowed = ("running", "paused", "stopped")
        case _:
            assert_never(event)
    if state.status not in allowed:
        return f"the rollout '{state.rollout}' is {state.status}, and this needs one that is {' or '.join(allowed)}"
    if isinstance(event, ev.StageEntered) and (event.stage != state.stage + 1 or event.stage >= len(state.stages)):
        return f"stage {event.stage} does not follow stage {state.stage} of {len(state.stages)}"
    if isinstance(event, ev.RolloutCompleted) and state.stage < len(state.stages) - 1:
        return f"stage {state.stage} of {len(state.stages)} is not the last one"
    if isinstance(event, ev.RolloutResumed) and event.without_silent and not state.tallies[state.stage].settled:
        return f"nobody has reported in the stage '{state.stages[state.stage].name}': nothing speaks for going on"
    return None


def apply(state: State, event: ev.RolloutEvent, now_s: float) -> State:
    """The state after a fact. Raises ``UsageError`` that says what was wrong, see ``refusal``."""
    why = refusal(state, event)
    if why is not None:
        raise UsageError(f"{why}; `evergrove rollout status` shows where it stands")
    match event:
        case ev.RolloutStarted():
            return _started(state, event, now_s)
        case ev.StageEntered():
            return _change(state, stage=event.stage, since_s=now_s, spent_s=0.0, sentence=event.sentence)
        case ev.RolloutCompleted():
            return _completed(state, event.sentence)
        case ev.RolloutStopped():
            return _change(state, status="stopped", sentence=event.sentence)
        case ev.RolloutPaused():
            spent_s = state.spent_s + max(now_s - state.since_s, 0.0)
            return _change(state, status="paused", spent_s=spent_s, sentence=event.sentence or f"paused by {event.by}")
        case ev.RolloutResumed():
            return _resumed(state, event, now_s)
        case ev.RolloutAborted():
            return _change(state, status="aborted", sentence=event.sentence or f"aborted by {event.by}")
        case ev.ReleaseReported():
            return _reported(state, event)
        case _:
            assert_never(event)


def _start_refusal(state: State, event: ev.RolloutStarted) -> str | None:
    going_back = event.back_from > 0
    if going_back and event.back_from != state.version:
        return f"version {event.back_from} is not the latest, {state.version} is"
    if not going_back and state.status in ("running", "paused", "stopped"):
        return f"the rollout '{state.rollout}' is {state.status}: abort it, or go back, before the next one"
    if event.version <= state.highest:
        return f"version {event.version} is not above {state.highest}: a version only ever grows"
    if event.rollout == state.rollout:
        return f"a rollout called '{event.rollout}' has been started before"
    return None


def _report_refusal(state: State, event: ev.ReleaseReported) -> str | None:
    if not state.stages:
        return f"the rollout '{state.rollout}' went to everybody at once and counts no reports"
    index = _stage_of(state, event.device, event.shadow)
    if index is None or index > state.stage:
        where = "the shadow" if event.shadow else "a stage that has begun"
        return f"the device '{event.device}' is not in {where} of the rollout '{state.rollout}'"
    if event.shadow and event.mark in ("confirmed", "rolled_back"):
        return f"a device of the shadow does not serve the release, so it cannot have {event.mark.replace('_', ' ')} it"
    return None


def _started(state: State, event: ev.RolloutStarted, now_s: float) -> State:
    if event.stages:
        check(event.policy)
    lineage = tuple(done for done in state.lineage if done.version != event.back_from)
    started = State(
        event.rollout,
        event.release,
        event.version,
        event.policy,
        event.stages,
        (Tally(),) * len(event.stages),
        "running",
        since_s=now_s,
        highest=event.version,
        lineage=lineage,
        sentence=f"started with version {event.version}",
        held=state.held,
    )
    if event.stages:
        return started
    why = f"back from version {event.back_from}" if event.back_from else "to everybody"
    return _completed(started, f"{why}, at once")


def _completed(state: State, sentence: str) -> State:
    lineage = (*state.lineage, Completed(state.release, state.version))[-LINEAGE_MAX:]
    return _change(state, status="complete", lineage=lineage, sentence=sentence)


def _resumed(state: State, event: ev.RolloutResumed, now_s: float) -> State:
    stages = state.stages
    if event.without_silent:
        here = msgspec.structs.replace(stages[state.stage], members=state.tallies[state.stage].settled)
        stages = (*stages[: state.stage], here, *stages[state.stage + 1 :])
    return _change(
        state, status="running", stages=stages, since_s=now_s, spent_s=0.0, sentence=f"resumed by {event.by}"
    )


def _reported(state: State, event: ev.ReleaseReported) -> State:
    index = _stage_of(state, event.device, event.shadow)
    assert index is not None, "refused before"
    tally = state.tallies[index]
    before = tally.marks.get(event.device)
    if before is not None and RANK[event.mark] <= RANK[before]:
        return state
    counts = {"good": tally.good, "bad": tally.bad, "pending": tally.pending}
    if before is not None:
        counts[_kind(before, event.shadow)] -= 1
    counts[_kind(event.mark, event.shadow)] += 1
    tally = Tally({**tally.marks, event.device: event.mark}, **counts)
    return _change(state, tallies=(*state.tallies[:index], tally, *state.tallies[index + 1 :]))


def _kind(mark: Mark, shadow: bool) -> str:
    """Whether a mark is good, bad, or pending: accepted is the end of it only in the shadow."""
    if mark == "accepted":
        return "good" if shadow else "pending"
    return "good" if mark == "confirmed" else "bad"


def _stage_of(state: State, device: str, shadow: bool) -> int | None:
    """The first stage that a device takes part in, in the shadow or for real."""
    at = place(state.rollout, device)
    found = (i for i, stage in enumerate(state.stages) if stage.serves != shadow and at < stage.reach)
    return next(found, None)


# ---- what devices are told -------------------------------------------------------------------------------------------


def directive(state: State) -> Directive | None:
    """What devices are told now: whose turn it is, and what everybody else runs. None before the first rollout.

    While a rollout is paused, stopped or aborted nobody new gets its release; who has it keeps it until there is a
    higher version.
    """
    if state.status == "none":
        return None
    done = state.status == "complete"
    stage = None if done or state.status != "running" else state.stages[state.stage]
    before = state.good
    return Directive(
        state.rollout,
        state.release,
        state.version,
        FULL if done else stage.reach if stage else 0,
        stage.serves if stage else True,
        before.release if before else "",
        before.version if before else 0,
        held=state.held,
    )


def hold(state: State, device: str, version: int | None) -> State:
    """The state with a device held at a version, or let go (None)."""
    others = {name: most for name, most in state.held.items() if name != held_as(device)}
    return _change(
        state, held=dict(sorted({**others, **({} if version is None else {held_as(device): version})}.items()))
    )


def free(state: State, devices: Iterable[str], version: int) -> list[str]:
    """The devices that would take this version: those that no hold keeps from it. Stages are planned for them."""
    return [device for device in devices if state.held.get(held_as(device), version) >= version]


def _change(state: State, **changes: object) -> State:
    return msgspec.structs.replace(state, **changes)
