"""A step of the fleet by hand, and what a fog's sum must be to be taken: with noise, by the plan that ε asks for."""

import math
from typing import Any

import msgspec
import numpy as np
import pytest

from evergrove.core.cloud_settings import Consolidation, Gather, load
from evergrove.core.conditions import Factor, Vocabulary
from evergrove.core.errors import ConfigError, InvalidInput
from evergrove.core.sums import NoisedSum, noised_sum
from evergrove.rules import fleet, fleet_sums
from evergrove.rules.aggregate import FogSum
from evergrove.rules.params import Layout, Slot
from evergrove.rules.privacy import rounds, words
from evergrove.rules.privacy.accounting import calibrate, epsilon_of, split
from evergrove.rules.privacy.ledger import Budget
from evergrove.rules.privacy.optimise import optimise
from evergrove.rules.privacy.plan import NoisePlan

LAYOUT = Layout("b" * 64, "a" * 64, 3, Vocabulary((Factor("f", ("x",)),)), (Slot("l.B", (2, 2)),))
START = np.array([1.0, 1.0, 1.0, 1.0])
MEAN = Consolidation()


def one(id_: str, fog: str, *values: float, cohort: int = 2, std: float = 0.0) -> fleet.Cohort:
    """A cohort of K = 2 whose clip is 1."""
    return fleet.Cohort(id_, FogSum(fog, np.array([*values, 0.0, 0.0]), cohort, 1.0, std))


def test_all_updates_weigh_the_same_whichever_cohort_and_fog_they_came_by() -> None:
    """Sums (1, 0) and (0, 1) of one fog, (1, 1) of another: the mean over six is (1/3, 1/3); B goes on by it."""
    cohorts = [one("n/1", "north", 1.0, 0.0), one("n/2", "north", 0.0, 1.0), one("s/1", "south", 1.0, 1.0)]
    step = fleet.advance(START, cohorts, MEAN, None, None)
    assert step.values == pytest.approx([4 / 3, 4 / 3, 1.0, 1.0])
    assert (step.rule, step.refused, step.server.steps) == ("mean", (), 1)
    merged = fleet.by_fog(cohorts)
    assert [(s.fog, s.cohort, s.values[:2].tolist()) for s in merged] == [
        ("north", 4, [1.0, 1.0]), ("south", 2, [1.0, 1.0]),
    ]  # fmt: skip


def test_a_cohort_that_lies_does_not_take_its_fogs_others_with_it() -> None:
    """K clips are 2 at most; 5 is too long. What is left is what counts; nothing sound is an error."""
    step = fleet.advance(START, [one("n/1", "north", 1.0, 0.0), one("n/2", "north", 0.0, 5.0)], MEAN, None, None)
    assert step.values[:2] == pytest.approx([1.5, 1.0])
    assert [id_ for id_, _ in step.refused] == ["n/2"]
    with pytest.raises(InvalidInput, match="no cohort is sound"):
        fleet.advance(START, [one("n/2", "north", 0.0, 5.0)], MEAN, None, None)


def test_a_robust_rule_needs_five_fogs_and_is_a_mean_before() -> None:
    """Four honest fogs and one turned round: the median is theirs; with four fogs in all it is the mean."""
    how = msgspec.structs.replace(MEAN, rule="median")
    honest = [one(f"{n}/1", f"fog-{n}", 1.0, 0.0) for n in range(4)]
    step = fleet.advance(START, [*honest, one("e/1", "enemy", -2.0, 0.0)], how, None, None)
    assert (step.rule, step.values[0]) == ("median", 1.5)
    step = fleet.advance(START, [*honest[:3], one("e/1", "enemy", -2.0, 0.0)], how, None, None)
    assert (step.rule, step.values[0]) == ("mean", 1.0 + 1.0 / 8)


@pytest.mark.parametrize("name", ["fedavg", "fedavgm", "fedadam"])
def test_an_optimiser_goes_on_from_its_state(name: str) -> None:
    """Two steps of it: the second knows the first, but for FedAvg."""
    how = msgspec.structs.replace(MEAN, optimiser=name)
    first = fleet.advance(START, [one("n/1", "n", 1.0, 0.0)], how, None, None)
    again = fleet.advance(START, [one("n/2", "n", 1.0, 0.0)], how, first.server, None)
    fresh = fleet.advance(START, [one("n/2", "n", 1.0, 0.0)], how, None, None)
    assert again.server.steps == 2
    assert (again.values[0] == fresh.values[0]) == (name == "fedavg")


def test_the_fisher_spares_what_the_release_relies_on() -> None:
    """F = (2, 0, 0, 0), mean ½: with π = 1 the first step is a fifth of itself, the second whole."""
    how = msgspec.structs.replace(MEAN, fisher_precision=1.0)
    step = fleet.advance(START, [one("n/1", "n", 1.0, 1.0)], how, None, np.array([2.0, 0.0, 0.0, 0.0]))
    assert step.values[:2] == pytest.approx([1.0 + 0.5 / 5, 1.5])


# ---- sums ------------------------------------------------------------------------------------------------------------

GATHER = Gather(cohort=4, clip=0.5, epsilon=1.0)
BUDGET = Budget(1e-6, 1.0, 8.0)
COUNTING = split(1.0, 1e-6)
SILENT = {"multiplier": calibrate(1.0, 1e-6), "quantile_multiplier": None}
"""A stream that counts no norms."""
COUNTS = (-9, 4, 0, 0, 0, 0, 0, 0, 0, 8)


def plan(**changes: Any) -> NoisePlan:
    """The plan of a fog for ε = 1."""
    values: dict[str, Any] = {
        "generation": 3, "fog": "north", "rounds": 8, "separation": 2, "participations": 2, "cohort": 4, "size": 4,
        "clip": 0.5, "multiplier": COUNTING[0], "blt": optimise(8, 2, 2), "quantile_multiplier": COUNTING[1],
    }  # fmt: skip
    return NoisePlan(**{**values, **changes})


def noised(made: NoisePlan | None, budget: Budget = BUDGET, **changes: Any) -> NoisedSum:
    """A sum as that fog hands it up."""
    values: dict[str, Any] = {
        "generation": 3, "base": LAYOUT.base, "basis": LAYOUT.basis, "n_updates": 4, "denominator": 4, "number": 2,
        "noise": None if made is None else words.words_of(made, budget),
        "counts": COUNTS if made is not None and made.quantile_multiplier else (),
    }  # fmt: skip
    return noised_sum(np.ones(4, np.float32), **{**values, **changes})


def test_a_sum_with_the_noise_that_its_epsilon_asks_for_is_taken() -> None:
    """ε by the cloud's own accounting of three rounds, and the noise's size of the third row."""
    one_sum, made = noised(plan()), plan()
    assert fleet_sums.refusal(one_sum, LAYOUT, GATHER) == ""
    cohort = fleet_sums.cohort_of("7", one_sum)
    assert cohort.epsilon == pytest.approx(epsilon_of(made.mu_squared(3), 1e-6))
    assert cohort.epsilon is not None
    assert 0 < cohort.epsilon < 1
    assert cohort.norms == rounds.norms_of(made, 2, COUNTS)
    taken = fleet_sums.fog_sum("7", one_sum, GATHER)
    assert (taken.cohort, taken.noise_std) == (4, rounds.row_std(made, 2))
    assert math.isclose(taken.clip, 0.5, rel_tol=1e-5)


@pytest.mark.parametrize(
    ("made", "budget", "changes", "reason"),
    [
        (None, BUDGET, {}, "it has no noise; this cloud asks for ε = 1"),
        (plan(multiplier=1e5), BUDGET, {}, "ε = 1 asks for 4.2"),
        (plan(multiplier=1.0), BUDGET, {}, "ε = 1 asks for 4.2"),
        (plan(multiplier=calibrate(2.0, 1e-6)), Budget(1e-6, 2.0, 8.0), {}, "its noise is for ε = 2"),
        (plan(multiplier=calibrate(1.0, 1e-3)), Budget(1e-3, 1.0, 8.0), {}, "its δ is 0.001"),
        (plan(quantile_multiplier=1.0), BUDGET, {}, "ε = 1 asks for 29.87"),
        (plan(), BUDGET, {"counts": ()}, "0 counts of norms; 10 belong"),
        (plan(), BUDGET, {"counts": (10**9,) * 10}, "a count of norms that 4 updates and their noise cannot give"),
        (plan(**SILENT), BUDGET, {"counts": COUNTS}, "its noise plan does not foresee"),
        (plan(clip=0.6), BUDGET, {}, "clipped to 0.6; this cloud says 0.5"),
        (plan(), BUDGET, {"number": 8}, "round 8 of a plan for 8"),
        (plan(cohort=5), BUDGET, {}, "not of the noise plan that it names"),
        (plan(size=5), BUDGET, {}, "not of the noise plan that it names"),
        (plan(), BUDGET, {"noise": {"kind": "blt"}}, "its noise has no"),
    ],
)
def test_a_sum_of_another_plan_is_refused(
    made: NoisePlan | None, budget: Budget, changes: dict[str, Any], reason: str
) -> None:
    """Noise that is only claimed would hide a sum of any norm; too little protects less than the cloud says."""
    one_sum = noised(made, budget, **changes)
    assert reason in fleet_sums.refusal(one_sum, LAYOUT, GATHER)
    fleet_sums.cohort_of("7", one_sum)  # it is counted as refused, whatever its words are


def test_without_an_epsilon_of_its_own_a_cloud_takes_both_but_not_a_claim() -> None:
    """ε = ∞ is None; a strength that no ε asks for is refused all the same."""
    gather = msgspec.structs.replace(GATHER, epsilon=0.0)
    assert fleet_sums.refusal(noised(None), LAYOUT, gather) == ""
    assert fleet_sums.cohort_of("7", noised(None)).epsilon is None
    assert fleet_sums.refusal(noised(plan()), LAYOUT, gather) == ""
    assert fleet_sums.refusal(noised(plan(**SILENT)), LAYOUT, gather) == ""
    assert fleet_sums.refusal(noised(None, counts=(0,) * 9 + (4,)), LAYOUT, gather) == ""
    assert "cannot give" in fleet_sums.refusal(noised(None, counts=(0,) * 9 + (9,)), LAYOUT, gather)
    assert "strength" in fleet_sums.refusal(noised(plan(multiplier=1e5)), LAYOUT, gather)


def test_settings_have_ranges() -> None:
    """What makes no sense is found before anything runs; nothing written is the defaults."""
    assert load().gather == Gather()
    for text in (
        "[gather]\ncohort = 0",
        "[gather]\nquantile = 1.0",
        "[gate]\nalpha = 2.0",
        "[consolidate]\nrule = 'max'",
        "[work]\ntick_s = nan",
    ):
        with pytest.raises(ConfigError):
            load(text)
