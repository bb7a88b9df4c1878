"""How a rollout stands, for people and dashboards: its stages with their counts and bounds, and what the rule says."""

from typing import Literal

import msgspec

from evergrove.core.rollout import FULL
from evergrove.rules import rollout_health as health
from evergrove.rules.rollout import State

Progress = Literal["passed", "under way", "to come"]


class StageView(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One stage. ``share`` of all devices are in it or an earlier one; ``error_rate``: its bounds below and above."""

    name: str
    progress: Progress
    share: float
    members: int
    good: int
    bad: int
    on_probation: int
    error_rate: tuple[float, float]


class RolloutView(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole. ``says`` is what the rule says now; ``left_s`` what the stage has left of its time, None at rest."""

    status: str
    rollout: str
    release: str
    version: int
    stages: tuple[StageView, ...]
    sentence: str
    says: str
    left_s: float | None
    good_release: str
    good_version: int


def of(state: State, now_s: float) -> RolloutView:
    """The view of a state at a time."""
    policy, good = state.policy, state.good
    done = state.status == "complete"
    stages = tuple(
        StageView(
            stage.name,
            "passed" if done or i < state.stage else "under way" if i == state.stage else "to come",
            stage.reach / FULL,
            max(stage.members, tally.settled),
            tally.good,
            tally.bad,
            tally.pending,
            health.bounds(tally.bad, tally.settled, policy.alpha),
        )
        for i, (stage, tally) in enumerate(zip(state.stages, state.tallies, strict=True))
    )
    left_s = None
    if state.status == "running":
        limit_s = health.limit_s(policy, state.stages[state.stage])
        left_s = max(limit_s - state.spent_s - max(now_s - state.since_s, 0.0), 0.0)
    return RolloutView(
        state.status,
        state.rollout,
        state.release,
        state.version,
        stages,
        state.sentence,
        health.judge(state, now_s).sentence,
        left_s,
        good.release if good else "",
        good.version if good else 0,
    )
