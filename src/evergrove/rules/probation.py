"""A version's first days, and how long any stage of a job may take (DESIGN §5, life-cycle).

In come a version's health since its promotion and the clock; out goes what to do with it and one sentence why. Times
are the device's own clock, which may be set: a moment that lies in the future counts as now.
"""

from typing import Literal

import msgspec

from evergrove.core import config

Outcome = Literal["continue", "pass", "roll back"]


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a version must keep to.

    ``errors_max`` failed pictures are forgiven. p99 of its frame times may be ``frame_ratio_max`` times that of the
    version before, judged once it has drawn ``frames_min`` frames. It serves for ``seconds`` at least, and one that
    has not passed its golden re-check after ``seconds_max`` goes back.
    """

    errors_max: int
    seconds: float
    frame_ratio_max: float
    frames_min: int
    seconds_max: float

    @classmethod
    def of(cls, probation: config.Probation, lifecycle: config.Lifecycle, routed: float = 1.0) -> "Policy":
        """What a device's configuration asks for. ``routed``: how much longer a frame may take beside that."""
        return cls(
            errors_max=probation.errors_max,
            seconds=probation.seconds,
            frame_ratio_max=probation.frame_p99_ratio_max * routed,
            frames_min=probation.frames_min,
            seconds_max=max(lifecycle.probation_s, probation.seconds),
        )


class Health(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A version since its promotion at ``since_s``.

    ``errors`` counts pictures that failed with it. ``frame_p99_ratio`` is p99 of its frame times over that of the
    version before it, from ``n_frames`` frames; None where either is not known (nobody draws). ``rechecked`` says how
    the golden re-check ended, None before it has.
    """

    since_s: float
    errors: int = 0
    frame_p99_ratio: float | None = None
    n_frames: int = 0
    rechecked: bool | None = None


class Verdict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What becomes of a version on probation, and why, for people."""

    outcome: Outcome
    sentence: str


def judge(policy: Policy, health: Health, now_s: float) -> Verdict:
    """Continue, pass, or roll back. Never both good and late: whatever speaks against a version is looked at first."""
    served_s = elapsed(health.since_s, now_s)
    # 1. What speaks against it.
    if health.rechecked is False:
        return Verdict("roll back", "its golden re-check failed")
    if health.errors > policy.errors_max:
        pictures = "picture" if health.errors == 1 else "pictures"
        return Verdict("roll back", f"{health.errors} {pictures} failed with it, {policy.errors_max} are forgiven")
    ratio, judged = health.frame_p99_ratio, health.n_frames >= policy.frames_min
    # Not `ratio > max`: a ratio that is no number must not pass.
    if judged and ratio is not None and not ratio <= policy.frame_ratio_max:
        return Verdict(
            "roll back", f"its frames take {ratio:.2f} times as long at p99, {policy.frame_ratio_max:g} are allowed"
        )
    # 2. What it still has to show.
    if health.rechecked is None:
        if served_s > policy.seconds_max:
            return Verdict("roll back", f"no golden re-check after {policy.seconds_max:g} s")
        return Verdict("continue", "waits for its golden re-check")
    if served_s < policy.seconds:
        return Verdict("continue", f"has served for {served_s:.0f} of {policy.seconds:g} s")
    return Verdict("pass", f"re-checked, {health.errors} errors in {served_s:.0f} s")


def overdue(limits: config.Lifecycle, learn: config.Learn, stage: str, since_s: float, now_s: float) -> str | None:
    """Why a stage has taken too long, None while it has not.

    A job that waits for its turn has all the time in the world: the placement's deadline is the one for that. Raises
    ``KeyError`` for a stage that there is not.
    """
    limit_s = limits_of(limits, learn)[stage]
    if limit_s is None or elapsed(since_s, now_s) <= limit_s:
        return None
    return f"no end of '{stage}' after {limit_s:g} s"


def limits_of(limits: config.Lifecycle, learn: config.Learn) -> dict[str, float | None]:
    """Every stage of a job and the seconds that it may take; None for no limit."""
    return {
        "wait": None,
        "assist": limits.assist_s,
        "trusted": limits.trusted_s,
        "train": learn.timeout_s,
        "measure": limits.measure_s,
        "promote": limits.promote_s,
        "restore": limits.restore_s,
        "erase": None,
        "probation": limits.probation_s,
    }


def elapsed(since_s: float, now_s: float) -> float:
    """Seconds since a moment; 0 where the clock was set back behind it."""
    return max(now_s - since_s, 0.0)


def anchored(since_s: float, now_s: float) -> float:
    """A moment that something is counted from, once the clock says ``now_s``: one in the future is drawn back to now.

    A clock that was set back by a year would otherwise put off everything that waits for time by that year. A caller
    that keeps the result waits at most its period longer than with a clock that was never set.
    """
    return min(since_s, now_s)
