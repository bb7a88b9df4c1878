"""One round at a fog, as one step: charge the ledger, advance the noise, add it to the sum. All of it, or an error.

The three come out of one function so that nobody can commit one without the others: a shell writes ``Closed`` in one
transaction and only then hands ``values`` up; after a crash it sends the same bytes again (DESIGN §7).
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evergrove.core.cloud_events import Norms
from evergrove.core.errors import CorruptState, UsageError
from evergrove.rules.aggregate import CohortSum, FogSum, quantum
from evergrove.rules.privacy import ledger as ledgers
from evergrove.rules.privacy.blt import Vector
from evergrove.rules.privacy.ledger import Ledger
from evergrove.rules.privacy.noise import NoiseState, advance
from evergrove.rules.privacy.plan import NoisePlan

NOISE_MOST = 2.0**62
"""In units of the grid: what fits into 64 bits together with a full cohort."""


class Closed(NamedTuple):
    """``values`` (float64, on the sum's grid) is the cohort's noised sum; state and ledger go with it, never apart.

    ``counts`` are those of the updates' norms, noised as the plan says; empty where it foresees none.
    """

    values: Vector
    counts: tuple[int, ...]
    state: NoiseState
    ledger: Ledger


def close(
    plan: NoisePlan, cohort: CohortSum, state: NoiseState, ledger: Ledger, fresh: NDArray[np.float64] | None
) -> Closed:
    """Release one cohort, the ``state.round``-th of its stream.

    ``fresh``: ``plan.width`` standard normal numbers, float64, never used before; None exactly where the plan has no
    noise. A cohort that is withheld is closed too, empty, and its values are thrown away.

    Raises ``BudgetSpent`` where the release would pass the budget, ``UsageError`` for a cohort, plan or noise that is
    not this stream's, ``CorruptState`` where noise and ledger do not stand at the same round. Nothing is changed then.
    """
    # 1. Everything is of this plan, and stands at the same round.
    _check(plan, cohort, state, ledger, fresh)
    # 2. Charge first: what is refused here was never made.
    charged = ledgers.charge_round(ledger, plan.generation, plan.fog, state.round)
    # 3. Noise on the grid, added as integers: no bit of the sum is left below the noise's rounding.
    numbers, counts = cohort.numbers, cohort.counts
    if fresh is None:
        after = NoiseState(state.plan, state.round + 1, state.buffers)
    else:
        after, noise = advance(plan, state, fresh)
        numbers = numbers + _whole(noise[: plan.size], plan.noise_std / quantum(plan.clip))
        whole = _whole(noise[plan.size :], plan.quantile_std)
        counts = tuple(int(count) for count in np.array(counts, np.int64) + whole) if plan.n_counts else ()
    return Closed(numbers.astype(np.float64) * quantum(plan.clip), counts, after, charged)


def norms_of(plan: NoisePlan, round_: int, counts: tuple[int, ...]) -> Norms:
    """The counts of round ``round_`` (from 0) with what is known of their noise, alone and summed with those before."""
    inverse = plan.blt.inverse_coefficients(round_ + 1)
    summed = np.cumsum(inverse)
    std = plan.quantile_std
    return Norms(counts, std * math.sqrt(float(inverse @ inverse)), std * math.sqrt(float(summed @ summed)))


def row_std(plan: NoisePlan, round_: int) -> float:
    """Standard deviation of the noise in each number of what round ``round_`` (from 0) hands up."""
    inverse = plan.blt.inverse_coefficients(round_ + 1)
    return plan.noise_std * math.sqrt(float(inverse @ inverse))


def handed_up(plan: NoisePlan, round_: int, values: Vector) -> FogSum:
    """What ``close`` gave for this round, as the cloud combines it: with the plan's denominator, whoever came."""
    return FogSum(plan.fog, values, plan.cohort, plan.clip, row_std(plan, round_))


def _whole(noise: Vector, std: float) -> NDArray[np.int64]:
    """Noise of this deviation in whole steps of the grid."""
    whole = np.rint(noise * std)
    if whole.size and float(np.abs(whole).max()) > NOISE_MOST:
        raise UsageError(f"noise of {std:.3g} steps of the grid: no plan that makes sense has so much")
    return whole.astype(np.int64)


def _check(
    plan: NoisePlan, cohort: CohortSum, state: NoiseState, ledger: Ledger, fresh: NDArray[np.float64] | None
) -> None:
    spent = ledger.find(plan.generation, plan.fog)
    if spent is None or spent.plan != plan:
        raise UsageError(f"the ledger has no stream under this plan for generation {plan.generation} at '{plan.fog}'")
    if state.plan != plan.digest or state.round != spent.rounds:
        raise CorruptState(
            f"the noise of generation {plan.generation} at '{plan.fog}' stands at round {state.round}, its ledger at "
            f"{spent.rounds}: they are written together, so one of them was restored alone; begin a new generation"
        )
    if cohort.clip != plan.clip or len(cohort.total) != 8 * plan.size:
        raise UsageError(
            f"a cohort of {len(cohort.total) // 8} numbers clipped to {cohort.clip:g}; the plan says {plan.size} and "
            f"{plan.clip:g}, for the whole generation"
        )
    if not 0 <= cohort.n_updates <= plan.cohort:
        raise UsageError(f"a cohort of {cohort.n_updates} updates; the plan's public denominator is {plan.cohort}")
    if (fresh is None) != (plan.multiplier is None):
        raise UsageError("fresh noise is given exactly where the plan has noise")
