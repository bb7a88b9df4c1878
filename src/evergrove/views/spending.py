"""What every release of a cloud has spent of its users' ε, as a fold over its log, held against what was signed of it.

A device has one home fog in a generation, so a generation costs what its most expensive fog has cost. That is all that
is signed of a release; generations add up in the ledgers that the cloud keeps of its fogs (``rules/privacy/books``).
"""

import math
from collections.abc import Iterable

import msgspec

from evergrove.core import cloud_events as ev
from evergrove.core.release import Publication


class Release(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One published version. ``claimed``: what was signed of it; ``spent``: what its cohorts cost; None: no bound.

    ``cohorts`` of its generation went into it and those before.
    """

    version: int
    release: str
    generation: int
    cohorts: int
    claimed: float | None
    delta: float
    spent: float | None

    @property
    def exceeded(self) -> bool:
        """Whether it cost more than it says."""
        claimed = math.inf if self.claimed is None else self.claimed
        spent = math.inf if self.spent is None else self.spent
        return spent > claimed * (1 + 1e-9)


def releases(events: Iterable[ev.CloudEvent], published: Iterable[Publication]) -> tuple[Release, ...]:
    """Every publication, oldest first, with what the log's cohorts had cost when it was signed."""
    known: dict[str, ev.CohortSum] = {}
    used: dict[int, list[ev.CohortSum]] = {}
    signed: dict[int, tuple[int, float]] = {}
    for event in events:
        match event:
            case ev.CohortReceived():
                known[event.cohort.id] = event.cohort
            case ev.ConsolidationBegan():
                for cohort in (known[one] for one in event.cohorts if one in known):
                    used.setdefault(cohort.generation, []).append(cohort)
            case ev.ReleaseSigned():
                cohorts = used.get(event.generation, [])
                signed[event.version] = len(cohorts), _spent(cohorts)
            case _:
                pass
    return tuple(
        Release(
            one.version, one.release, one.generation, signed.get(one.version, (0, 0.0))[0], _finite(one.epsilon),
            one.delta, _finite(signed.get(one.version, (0, 0.0))[1]),
        )
        for one in published
    )  # fmt: skip


def cohorts(events: Iterable[ev.CloudEvent]) -> tuple[ev.CohortSum, ...]:
    """The sums that were counted, in the order of their arrival."""
    return tuple(event.cohort for event in events if isinstance(event, ev.CohortReceived))


def _spent(cohorts: Iterable[ev.CohortSum]) -> float:
    """The most of any; a cohort without noise has no bound."""
    return max((math.inf if one.epsilon is None else one.epsilon for one in cohorts), default=0.0)


def _finite(epsilon: float) -> float | None:
    return epsilon if math.isfinite(epsilon) else None
