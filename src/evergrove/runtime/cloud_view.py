"""How a cloud stands, for people: what it goes on from, what it counted and works on, what waits for a signature."""

from collections.abc import Sequence

import msgspec

from evergrove.core.release import Publication
from evergrove.rules import gate
from evergrove.rules.privacy.quantile import Proposal
from evergrove.tiers.cloud import Policy, State
from evergrove.views import rollout
from evergrove.views.rollout import RolloutView

STAGES = {
    "compute": "is being computed",
    "measure": "is being measured on the golden set",
    "sign": "waits for the offline keys",
    "start": "is signed; its rollout starts",
}


class Signed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One published version; ``epsilon`` None: no bound. ``serves``: it is the one that went to everybody last."""

    version: int
    release: str
    generation: int
    parent: str | None
    epsilon: float | None
    delta: float
    back_from: int
    serves: bool


class Candidate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The job under way. ``epsilon`` is what users have spent with it (None: no bound)."""

    job: str
    purpose: str
    stage: str
    says: str
    cohorts: int
    attempt: int
    gamma: float
    epsilon: float | None


class CloudView(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole. ``counted`` sums are ``waiting``, in the candidate, ``spent`` or ``dropped`` with their generation.

    ``clip`` is this generation's, and what its private quantile proposes for the next one.
    """

    generation: int
    release: str
    lineage: tuple[Signed, ...]
    counted: int
    waiting: int
    waiting_since_s: float | None
    spent: int
    dropped: int
    epsilon: float | None
    candidate: Candidate | None
    waits_for_signature: str | None
    gate_left: int
    devices: int
    rollout: RolloutView
    clip: Proposal


def of(
    policy: Policy, state: State, published: Sequence[Publication], devices: int, clip: Proposal, now_s: float
) -> CloudView:
    """The view of a state; ``published`` are the versions that were signed, ``devices`` how many are known."""
    good, work = state.rollout.good, state.work
    lineage = tuple(
        Signed(
            one.version, one.release, one.generation, one.parent,
            one.epsilon if one.epsilon < float("inf") else None, one.delta, one.back_from,
            good is not None and good.version == one.version,
        )
        for one in published
    )  # fmt: skip
    candidate = None
    if work is not None:
        says = f"{work.job} {STAGES[work.stage]}"
        candidate = Candidate(
            work.job, work.purpose, work.stage, says, len(work.cohorts), work.attempt, work.gamma, state.epsilon
        )
    return CloudView(
        state.generation, state.release, lineage, state.n_counted, len(state.waiting),
        max(now_s - state.since_s, 0.0) if state.waiting else None, state.n_spent, state.n_dropped, state.epsilon,
        candidate, work.job if work is not None and work.stage == "sign" else None,
        0 if gate.is_spent(state.looking, policy.gate) else policy.gate.updates_max - state.looking.n_updates,
        devices, rollout.of(state.rollout, now_s), clip,
    )  # fmt: skip
