"""A fog's sum as the cloud takes it: is it of this generation and of the plan that the cloud knows, and what is in it?

Nothing that a fog says of itself is believed: the size is the layout's, K and C are the cloud's own, and where there is
noise, its plan is rebuilt from the sum's words and must be the one that the fog's ε asks for.
"""

import math

from evergrove.core.cloud_events import CohortSum, Norms
from evergrove.core.cloud_settings import Gather
from evergrove.core.errors import InvalidInput
from evergrove.core.sums import NoisedSum
from evergrove.rules.aggregate import FogSum
from evergrove.rules.params import Layout
from evergrove.rules.privacy import quantile, rounds, words
from evergrove.rules.privacy.accounting import calibrate, epsilon_of, split
from evergrove.rules.privacy.ledger import Budget
from evergrove.rules.privacy.plan import NoisePlan

ROUNDING = 1e-6
"""A sum is handed up as float32: its norm may be larger by that much than that of its exact numbers."""
SLACK = 1.01
"""Two optimisers' answers to one ε differ by less."""


def cohort_of(fog: str, one: NoisedSum) -> CohortSum:
    """How the cloud counts a sum; ε by the cloud's own accounting of the sum's plan, None where nothing bounds it."""
    try:
        planned = words.plan_of(one)
    except InvalidInput:  # refused for that, by ``refusal``
        planned = None
    epsilon = None
    norms = Norms(one.counts) if one.counts else None
    if planned is not None:
        plan, budget = planned
        spent = epsilon_of(plan.mu_squared(min(one.number + 1, plan.rounds)), budget.delta)
        epsilon = spent if math.isfinite(spent) else None
        if norms is not None and one.number < plan.rounds:
            norms = rounds.norms_of(plan, one.number, one.counts)
    return CohortSum(fog, one.generation, one.number, one.id, len(one.vector), one.n_updates, epsilon, norms)


def refusal(one: NoisedSum, layout: Layout, gather: Gather) -> str:
    """Why a sum of the present generation is not taken, for good; empty where it is."""
    if (one.base, one.basis) != (layout.base, layout.basis):
        return "it is of another base or another A than the release that is gone on from"
    if len(one.vector) != 4 * layout.n_numbers:
        return f"it has {len(one.vector) // 4} numbers, an update of this release {layout.n_numbers}"
    if one.denominator != gather.cohort or one.n_updates > one.denominator:
        return (
            f"{one.n_updates} updates over {one.denominator}; this cloud's fogs gather cohorts of {gather.cohort} "
            "(gather.cohort in cloud.toml)"
        )
    try:
        planned = words.plan_of(one)
    except InvalidInput as fault:
        return str(fault)
    if planned is None:
        if gather.epsilon:
            return f"it has no noise; this cloud asks for ε = {gather.epsilon:g}"
        return quantile.check_counts(one.counts, one.n_updates, 0.0) if one.counts else ""
    plan, budget = planned
    assert budget.generation is not None, "a plan with noise has a budget"
    if plan.clip != gather.clip:
        return f"its updates were clipped to {plan.clip:g}; this cloud says {gather.clip:g} (gather.clip in cloud.toml)"
    if gather.epsilon and not math.isclose(budget.generation, gather.epsilon, rel_tol=1e-9):
        return f"its noise is for ε = {budget.generation:g}; this cloud asks for {gather.epsilon:g}"
    if gather.epsilon and budget.delta > gather.delta:
        return f"its δ is {budget.delta:g}; this cloud asks for {gather.delta:g} at most"
    if one.number >= plan.rounds:
        return f"it is round {one.number} of a plan for {plan.rounds}"
    return _of_strength(plan, budget) or _counted(one, plan)


def _of_strength(plan: NoisePlan, budget: Budget) -> str:
    """Why this noise is not what its ε asks for; empty where it is."""
    assert budget.generation is not None, "a plan with noise has a budget"
    asked: tuple[tuple[float | None, float], ...]
    if plan.quantile_multiplier is None:
        asked = ((plan.multiplier, calibrate(budget.generation, budget.delta)),)
    else:
        updates, counts = split(budget.generation, budget.delta)
        asked = (plan.multiplier, updates), (plan.quantile_multiplier, counts)
    for strength, right in asked:
        if strength is None or not right / SLACK <= strength <= right * SLACK:
            return f"its noise has the strength {strength}, ε = {budget.generation:g} asks for {right:.4g}"
    return ""


def _counted(one: NoisedSum, plan: NoisePlan) -> str:
    """Why its counts of norms are not those of its plan; empty where they are."""
    if plan.quantile_multiplier is None:
        return "it has counts of norms that its noise plan does not foresee" if one.counts else ""
    return quantile.check_counts(one.counts, one.n_updates, rounds.norms_of(plan, one.number, ()).noise_std)


def fog_sum(fog: str, one: NoisedSum, gather: Gather) -> FogSum:
    """A sum that was taken, with the largest norm that its plan allows."""
    planned = words.plan_of(one)
    std = 0.0 if planned is None else rounds.row_std(planned[0], one.number)
    return FogSum(fog, one.values.astype("float64"), gather.cohort, gather.clip * (1 + ROUNDING), std)
