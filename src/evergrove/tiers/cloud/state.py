"""What the cloud remembers between two events, besides the bytes of sums, candidates and releases.

``Work`` is the one job under way, from its cohorts to the start of its rollout. A cohort is in exactly one place:
waiting, in the work, or spent.
"""

from typing import Any, Literal

import msgspec

from evergrove.core import cloud_effects as do
from evergrove.core import cloud_events as ev
from evergrove.core.cloud_events import CohortSum
from evergrove.core.conditions import Code
from evergrove.core.errors import UsageError
from evergrove.rules import gate
from evergrove.rules.privacy.ledger import Ledger
from evergrove.rules.privacy.quantile import Tally
from evergrove.rules.rollout import State as RolloutState

Effects = list[do.Effect]
Result = tuple["State", Effects]
Stage = Literal["compute", "measure", "sign", "start"]


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When the cloud consolidates, and how long anything may take.

    ``cohorts`` are enough for a consolidation; ``cohorts_min`` are, once ``wait_s`` have passed since the first of
    them came. ``waiting_max`` may wait, more are put off. A job is tried ``attempts_max`` times; computing and
    measuring are cut off after ``compute_s`` and ``measure_s``. Signing is a person's, and has no limit. With
    ``needs_gain`` a consolidation must be better on what the fleet learns, else only not worse.
    """

    gate: gate.Policy
    cohorts: int = 8
    cohorts_min: int = 1
    wait_s: float = 86_400.0
    waiting_max: int = 1024
    attempts_max: int = 3
    compute_s: float = 3600.0
    measure_s: float = 3600.0
    needs_gain: bool = True

    def check(self) -> None:
        """Raises ``UsageError`` where the numbers make no sense together."""
        if not 1 <= self.cohorts_min <= self.cohorts <= self.waiting_max:
            raise UsageError(
                f"cohorts_min {self.cohorts_min}, cohorts {self.cohorts}, waiting_max {self.waiting_max}: they must "
                "grow in this order, from 1"
            )
        if self.attempts_max < 1 or not min(self.wait_s, self.compute_s, self.measure_s) > 0:
            raise UsageError("attempts_max is at least 1, and every time in seconds greater than 0")


class Work(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One job. ``stage`` is what the driver was last asked for, ``since_s`` when; ``clip`` is that of a merge."""

    job: str
    purpose: Literal["consolidate", "merge"]
    stage: Stage
    since_s: float
    cohorts: tuple[CohortSum, ...] = ()
    attempt: int = 1
    candidate: str | None = None
    server: str | None = None
    gamma: float = 1.0
    release: str = ""
    version: int = 0
    clip: float | None = None


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a release goes on from: its generation, and the server optimiser's state that it was made with."""

    generation: int
    server: str | None = None


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that the cloud remembers.

    ``waiting`` are counted sums that no job has, ``since_s`` when the first of them came. ``counted`` maps the id of
    each sum of this generation and the one before to its digest. ``spent`` is the ε of each fog whose sums went into a
    candidate of this generation (None: no bound). ``books`` is the ε ledger of each fog over all generations, charged
    with every sum that was counted with noise (``rules/privacy/books``). ``norms`` are each fog's counts of norms in
    this generation. ``merge``: the next generation was asked for, with ``merge_clip``. ``lines`` are the releases that
    may be gone on from. ``n_spent`` counts the cohorts that went into a job which has ended, ``n_dropped`` those that
    their generation ended before.
    """

    generation: int = 0
    release: str = ""
    conditions: tuple[Code, ...] = ()
    learning: tuple[Code, ...] = ()
    teacher: bool = False
    waiting: tuple[CohortSum, ...] = ()
    since_s: float = 0.0
    counted: dict[str, str] = {}
    spent: dict[str, float | None] = {}
    books: dict[str, Ledger] = {}
    work: Work | None = None
    norms: dict[str, Tally] = {}
    merge: bool = False
    merge_clip: float | None = None
    looking: gate.State = gate.State()
    rollout: RolloutState = RolloutState()
    lines: dict[str, Line] = {}
    n_jobs: int = 0
    n_counted: int = 0
    n_spent: int = 0
    n_dropped: int = 0

    @property
    def epsilon(self) -> float | None:
        """What a user has spent in this generation: a device has one home fog, so the most of any; None: no bound."""
        values = list(self.spent.values())
        return None if None in values else max((v for v in values if v is not None), default=0.0)


def at_rest(state: State) -> bool:
    """Whether no release is on its way: the next one is made from one that is proven, or given up."""
    return state.rollout.status in ("none", "complete", "aborted")


def idle(state: State) -> State:
    """The job has ended, and its cohorts are spent."""
    assert state.work is not None, "only a job can end"
    return change(state, work=None, n_spent=state.n_spent + len(state.work.cohorts))


def order(state: State, work: Work) -> do.Effect:
    """What the driver is asked for in this stage: the same again after a crash."""
    match work.stage, work.purpose:
        case "compute", "merge":
            return do.MergeGeneration(work.job, state.release, work.attempt)
        case "compute", "consolidate":
            server = state.lines[state.release].server
            return do.Consolidate(work.job, state.release, work.cohorts, server, work.attempt)
        case "measure", _:
            assert work.candidate is not None, "measured only once it is made"
            return do.MeasureFleet(work.job, work.candidate, state.release, work.gamma, work.attempt)
        case "sign", _:
            assert work.candidate is not None, "signed only once it is made"
            return do.SignRelease(work.job, work.candidate, work.gamma, state.release, state.epsilon, len(work.cohorts))
        case "start", _:
            return do.StartRollout(work.job, work.release, work.version)
        case stage:
            raise AssertionError(f"no order for {stage!r}")


def enter(state: State, work: Work, now_s: float, **changes: Any) -> Result:
    """The job goes on as changed, and the driver is asked."""
    work = msgspec.structs.replace(work, since_s=now_s, **changes)
    return change(state, work=work), [order(state, work)]


def of_work(state: State, job: str, *stages: Stage) -> Work | None:
    """The work, if it is this job in one of these stages: a late word of another changes nothing."""
    work = state.work
    return work if work is not None and work.job == job and work.stage in stages else None


def change(state: State, **changes: Any) -> State:
    return msgspec.structs.replace(state, **changes)


def emit(event: ev.CloudEvent) -> do.Effect:
    return do.Emit(event)
