"""ε of each release, by the cohorts that went into it, against what was signed."""

import math

from evergrove.core import cloud_events as ev
from evergrove.core.release import Publication
from evergrove.views.spending import releases


def received(fog: str, number: int, epsilon: float | None, generation: int = 1) -> ev.CohortReceived:
    return ev.CohortReceived(ev.CohortSum(fog, generation, number, "ab" * 32, 1000, 5, epsilon))


def published(version: int, epsilon: float) -> Publication:
    return Publication(version, "11" * 32, "one", 1, 8, "22" * 32, "33" * 32, "44" * 32, epsilon, 1e-6)


def test_a_release_costs_what_its_most_expensive_fog_has_cost() -> None:
    """A device has one home fog: .5 and .7 are .7. A cohort that came later is the next release's."""
    log = [
        received("north", 0, 0.3), received("north", 1, 0.5), received("south", 0, 0.7),
        ev.ConsolidationBegan("job-1", ("north/1/0", "north/1/1", "south/1/0")),
        received("south", 1, 0.9),
        ev.ReleaseSigned("job-1", "11" * 32, 2, 1),
        ev.ConsolidationBegan("job-2", ("south/1/1",)),
        ev.ReleaseSigned("job-2", "11" * 32, 3, 1),
    ]  # fmt: skip
    first, second, third = releases(log, [published(1, 0.0), published(2, 0.7), published(3, 0.8)])
    assert (first.spent, first.cohorts, first.exceeded) == (0.0, 0, False)
    assert (second.spent, second.cohorts, second.exceeded) == (0.7, 3, False)
    assert (third.spent, third.cohorts, third.exceeded) == (0.9, 4, True)


def test_a_cohort_without_noise_has_no_bound() -> None:
    """Then no finite claim holds; an infinite one does."""
    log = [
        received("north", 0, None), ev.ConsolidationBegan("job-1", ("north/1/0",)),
        ev.ReleaseSigned("job-1", "11" * 32, 1, 1),
    ]  # fmt: skip
    assert [one.exceeded for one in releases(log, [published(1, 8.0)])] == [True]
    (honest,) = releases(log, [published(1, math.inf)])
    assert (honest.claimed, honest.spent, honest.exceeded) == (None, None, False)
