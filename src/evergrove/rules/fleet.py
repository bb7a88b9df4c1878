"""One step of the fleet: the released B, the noised sums of some cohorts, and out comes the next B.

The main path: every cohort's norm is checked by itself → the sound ones of a fog are added up → the mean over all
(or a robust rule over fogs) with the fixed public denominator → the server optimiser's step, which may spare what the
released model relies on → B + step. Everything is float64 and pure.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evergrove.core.cloud_settings import Consolidation
from evergrove.core.errors import InvalidInput
from evergrove.rules import aggregate, consolidate
from evergrove.rules.aggregate import FOGS_ROBUST, FogSum, Rule
from evergrove.rules.consolidate import ServerOptimiser, ServerState

Vector = NDArray[np.float64]


class Cohort(NamedTuple):
    """One cohort's sum under the name that it is counted by."""

    id: str
    sum: FogSum


class Stepped(NamedTuple):
    """The next B, what the optimiser remembers, the rule that was used, and the cohorts that were left out, and why."""

    values: Vector
    server: ServerState
    rule: Rule
    refused: tuple[tuple[str, str], ...]


def advance(
    released: Vector, cohorts: Sequence[Cohort], how: Consolidation, server: ServerState | None, fisher: Vector | None
) -> Stepped:
    """B ← B + step; ``server`` None: a fresh optimiser, ``fisher`` None: the step as it is.

    Raises ``InvalidInput`` where no cohort is sound, or the result is not finite.
    """
    # 1. Each cohort by itself: one that lies does not take its fog's others with it.
    faults = [(one, aggregate.fault(one.sum)) for one in cohorts]
    refused = tuple((one.id, fault) for one, fault in faults if fault)
    sound = [one for one, fault in faults if not fault]
    if not sound:
        raise InvalidInput("no cohort is sound: " + "; ".join(f"{id_}: {fault}" for id_, fault in refused))
    # 2. One mean update of them.
    fogs = by_fog(sound)
    rule: Rule = how.rule if len(fogs) >= FOGS_ROBUST else "mean"  # type: ignore[assignment]  # checked when read
    combined = aggregate.combine(fogs, rule, how.trim)
    refused += combined.refused
    # 3. The server's step.
    optimiser = optimiser_of(how)
    state, step = optimiser.apply(server or optimiser.init(released.size), combined.values)
    if fisher is not None:
        step = consolidate.fisher_merge(step, fisher, how.fisher_precision)
    after = released + step
    if not np.isfinite(after).all():
        raise InvalidInput("the consolidated B is not finite; lower consolidate.rate")
    return Stepped(after, state, rule, refused)


def by_fog(cohorts: Sequence[Cohort]) -> list[FogSum]:
    """The sums of each fog's cohorts, with their denominators added up; sorted by fog.

    What a device learnt since its last update adds to what it sent before, and all updates weigh the same. The noises
    of a stream cancel in part: the sum of their deviations bounds their sum's.
    """
    found: dict[str, list[FogSum]] = {}
    for one in cohorts:
        found.setdefault(one.sum.fog, []).append(one.sum)
    return [
        FogSum(
            fog, np.sum([one.values for one in sums], axis=0), sum(one.cohort for one in sums),
            max(one.clip for one in sums), sum(one.noise_std for one in sums),
        )
        for fog, sums in sorted(found.items())
    ]  # fmt: skip


def optimiser_of(how: Consolidation) -> ServerOptimiser:
    """The server optimiser that the settings name."""
    match how.optimiser:
        case "fedavg":
            return consolidate.fed_avg(how.rate)
        case "fedavgm":
            return consolidate.fed_avg_m(how.rate, how.momentum)
        case "fedadam":
            return consolidate.fed_adam(how.rate, how.momentum, how.second, how.adaptivity)
        case name:
            raise AssertionError(f"checked when the settings were read: {name}")
