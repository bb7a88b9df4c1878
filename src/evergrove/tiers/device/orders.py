"""From one stage of a job to the next, and the order that belongs to each: the same again after a crash."""

from typing import Any

import msgspec

from evergrove.core import effects as do
from evergrove.tiers.device.state import Effects, Result, State, Work, change


def order(work: Work, state: State) -> do.Effect | None:
    """What the driver is asked for in this stage; None for a job that waits."""
    match work.stage:
        case "wait":
            return None
        case "assist":
            return do.FetchAssist(work.job, state.release)
        case "trusted":
            return do.SendTrusted(work.job, work.parent, work.fresh, work.takes or work.steps)
        case "train":
            steps = work.takes or work.steps
            return do.StartTraining(work.job, work.parent, work.fresh, steps, work.attempt, work.assist)
        case "measure" if work.purpose in ("release", "shadow"):
            return do.StartChoosing(
                work.job, work.source or "", state.active, state.sharing.given, work.fresh, work.attempt, state.learnt
            )
        case "measure":
            return do.StartMeasuring(
                work.job, work.candidate, work.source, state.active, work.learnt, work.gamma, work.attempt
            )
        case "promote":
            release = (work.source or "") if work.purpose == "release" else ""
            return do.ActivateVersion(work.candidate, state.active, state.sequence + 1, probation=True, release=release)
        case "restore":
            before = state.following.before
            release = before.release if before is not None else ""
            return do.ActivateVersion(state.previous, None, state.sequence + 1, probation=False, release=release)
        case "erase":
            return work.erase
        case stage:
            raise AssertionError(f"no order for stage {stage!r}")


def enter(state: State, work: Work, stage: str, now_s: float, **changes: Any) -> Result:
    """``work`` goes on in ``stage``; a worker is told its share before it starts."""
    work = msgspec.structs.replace(work, stage=stage, since_s=now_s, **changes)
    return change(state, work=work), again(change(state, work=work))


def again(state: State) -> Effects:
    """The orders of the job under way, as they stand; nothing where the device is idle."""
    if state.work is None:
        return []
    asked = order(state.work, state)
    share: Effects = [do.SetShare(state.share)] if state.work.stage in ("train", "measure") else []
    return [*share, asked] if asked is not None else []
