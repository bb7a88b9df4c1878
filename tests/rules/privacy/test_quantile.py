"""The next clip: a private quantile of norms, with the noise and the cost that it claims."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from noise_plans import PLAN, plan
from numpy.typing import NDArray

from evergrove.core.cloud_events import Norms
from evergrove.core.errors import UsageError
from evergrove.rules.aggregate import total
from evergrove.rules.privacy import ledger, noise
from evergrove.rules.privacy.accounting import split
from evergrove.rules.privacy.clipping import clip_factor, norm_of
from evergrove.rules.privacy.ledger import Budget, Ledger
from evergrove.rules.privacy.optimise import optimise
from evergrove.rules.privacy.plan import NoisePlan
from evergrove.rules.privacy.quantile import (
    N_COUNTS,
    REACHED,
    SIGNAL_MIN,
    STEPS,
    Proposal,
    Tally,
    added,
    bucket,
    check_counts,
    edges,
    next_clip,
    proposal,
)
from evergrove.rules.privacy.rounds import close, norms_of

Vector = NDArray[np.float64]


def counts_of(norms: list[float], clip: float) -> Vector:
    """The histogram of some norms, as a fog sees them: clipped by their devices."""
    counts = np.zeros(N_COUNTS)
    for norm in norms:
        where = bucket(min(norm, clip), clip)
        assert where is not None
        counts[where] += 1
    return counts


def test_by_hand() -> None:
    """Clip 1: half at 1/20, half at .6, between the edges ½ and √½: three quarters lie below the middle of that step.

    With three of ten below the clip where half should be, C·exp(η(γ − b̃)) is 2^(.2/.5).
    """
    assert edges(1.0)[[0, STEPS - 2, -1]] == pytest.approx([1 / 16, 0.5, REACHED])
    assert (bucket(1.0, 1.0), bucket(0.5, 1.0), bucket(1e-9, 1.0)) == (N_COUNTS - 1, STEPS - 2, 0)
    released = counts_of([0.05] * 50 + [0.6] * 50, 1.0)
    assert next_clip(1.0, released, 0.0, target=0.75) == pytest.approx(2.0**-0.75)
    assert next_clip(4.0, counts_of([1.9] * 3 + [9.0] * 7, 4.0), 0.0) == pytest.approx(4 * 2**0.4)
    assert next_clip(4.0, counts_of([9.0] * 7, 4.0), 0.0) == pytest.approx(8.0)
    assert next_clip(4.0, counts_of([0.001] * 7, 4.0), 0.0) == pytest.approx(0.25)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.1, 0.9), min_size=20, max_size=200), st.floats(0.1, 0.9))
def test_without_noise_it_is_the_quantile_to_one_step(norms: list[float], target: float) -> None:
    """Below the clip the exact quantile lies within a step of √2 of it."""
    found = next_clip(1.0, counts_of(norms, 1.0), 0.0, target)
    exact = float(np.quantile(norms, target, method="inverted_cdf"))
    assert exact / math.sqrt(2) * (1 - 1e-9) <= found <= exact * math.sqrt(2) * (1 + 1e-9)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0.1, 0.95), min_size=30, max_size=100), st.floats(0.2, 0.8))
def test_it_is_where_the_update_of_andrew_et_al_comes_to_rest(norms: list[float], target: float) -> None:
    """C ← C·exp(−η(b̃ − γ)) on the same counts, from the present clip, ends where it says."""
    released = counts_of(norms, 1.0)
    below, grid = np.cumsum(released)[:-1] / released.sum(), np.log2(edges(1.0))
    found, clip = next_clip(1.0, released, 0.0, target), 1.0
    for i in range(4000):
        clip *= math.exp(-0.3 / (1 + i / 200) * (float(np.interp(math.log2(clip), grid, below)) - target))
    if np.diff(below)[np.searchsorted(below, target) - 1] > 0.02 and np.abs(below - target).min() > 0.02:
        assert clip == pytest.approx(found, rel=0.02)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3000), st.floats(-2, 3), st.floats(0, 0.5))
def test_what_a_device_clipped_is_counted_as_clipped(seed: int, n: int, magnitude: float, longer: float) -> None:
    """Clipped to C and rounded to float16 on its way: the last count, whatever C is; a tenth shorter: not."""
    clip, rng = 10.0**magnitude, np.random.default_rng(seed)
    learnt = rng.standard_normal(n)
    learnt *= clip * (1 + longer) / np.linalg.norm(learnt)
    sent = (learnt * clip_factor(norm_of(learnt), clip)).astype(np.float16).astype(np.float32)
    assert bucket(norm_of(sent), clip) == N_COUNTS - 1
    assert bucket(norm_of(0.9 * sent), clip) == N_COUNTS - 2


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=N_COUNTS, max_size=N_COUNTS), st.floats(0, 1e4), st.floats(0.01, 0.99))
def test_whatever_the_noise_did_the_clip_stays_in_its_bounds(released: list[float], std: float, target: float) -> None:
    """Negative counts, counts that fall: a clip between C/16 and 2·C, always."""
    assert 0.75 / 16 * (1 - 1e-9) <= next_clip(0.75, np.array(released), std, target) <= 0.75 * 2 * (1 + 1e-9)


def test_noise_that_drowns_the_counts_leaves_the_clip() -> None:
    """Ten updates under noise of a thousand say nothing."""
    assert next_clip(1.0, counts_of([5.0] * 10, 1.0), noise_std=1000.0) == 1.0
    assert next_clip(1.0, np.zeros(N_COUNTS), noise_std=0.0) == 1.0


# ---- through the noise stream ----------------------------------------------------------------------------------------


def generation(one: NoisePlan, norms: Vector, seed: int) -> Tally:
    """All rounds of a stream: as many devices' updates of these norms in each, one number long; and what a cloud adds
    up of them.
    """
    rng, state = np.random.default_rng(seed), noise.start(one)
    book, tally = ledger.open_stream(Ledger(Budget(generation=None, lifetime=None)), one), Tally()
    for number, some in enumerate(np.array_split(norms, one.rounds)):
        came = total((np.array([min(norm, one.clip)], np.float32) for norm in some), 1, one.clip)
        closed = close(one, came, state, book, rng.standard_normal(one.width))
        state, book = closed.state, closed.ledger
        tally = added(tally, norms_of(one, number, closed.counts), number)
    return tally


def fleet(**changes: object) -> NoisePlan:
    """50 rounds of 400 updates, each device in two of them, ε = 1."""
    z, counts = split(1.0, 1e-6)
    values = {"rounds": 50, "separation": 25, "participations": 2, "cohort": 400, "size": 1, "clip": 1.0}
    made = {"multiplier": z, "quantile_multiplier": counts, "blt": optimise(50, 25, 2)}
    return plan(**{**values, **made, **changes})


def test_a_fleet_of_ten_thousand_finds_its_median_in_some_generations_and_keeps_it() -> None:
    """20 000 updates a generation, norms around 3, ε = 1 in all: from a clip of ½ (doubling while all reach it), and
    from 8 (at once), to the median within 25 %, and it stays there.
    """
    norms = np.random.default_rng(4).lognormal(math.log(3.0), 0.4, 20_000)
    for start, after in ((0.5, 4), (8.0, 2)):
        clip, found = start, []
        for n in range(after + 2):
            one = fleet(clip=clip)
            clip = proposal(clip, [generation(one, norms, 10 * n)], 0.5).clip
            found.append(clip)
        assert found[after - 1 :] == pytest.approx([3.0] * 3, rel=0.25), found


@pytest.mark.parametrize(("times", "most"), [(1.0, 0.2), (4.0, 0.06)])
def test_how_far_the_quantile_errs(times: float, most: float) -> None:
    """400 noises of one deviation over norms around .5 of C: the part of norms below the clip that is found is off by
    at most .2 (root mean square) where the counts are just enough to be believed, and by a fourth of it at four times
    as many.
    """
    rng, std = np.random.default_rng(2), 100.0
    norms = rng.lognormal(math.log(0.5), 0.4, math.ceil(times * SIGNAL_MIN * std * math.sqrt(N_COUNTS)) + 2000)
    exact, errors = counts_of(norms.tolist(), 1.0), []
    for _ in range(400):
        clip = next_clip(1.0, exact + np.rint(std * rng.standard_normal(N_COUNTS)), std)
        errors.append(float((norms <= clip).mean()) - 0.5)
    assert math.sqrt(np.mean(np.square(errors))) < most


def test_one_device_moves_the_counts_by_k_and_the_noise_is_made_for_it() -> None:
    """Adjacency as the plan says it: all updates of one device replaced by zeros. Each moves one count by one, not two,
    since an update of nothing is not counted. The noise in C·counts is z_q times the most that makes.
    """
    one = plan(rounds=12, separation=4, participations=9)  # three rounds fit, whatever k says
    rest = np.random.default_rng(1).standard_normal((4, one.size))
    moved = np.zeros((one.rounds, N_COUNTS))
    for number in range(0, one.rounds, one.separation):
        mine = np.full(one.size, 0.1 + number)
        there, gone = (np.array(total([*rest, x], one.size, one.clip).counts) for x in (mine, 0 * mine))
        assert np.abs(there - gone).sum() == 1
        moved[number] = there - gone
    c = one.blt.coefficients(one.rounds)
    dense = np.array([[c[i - j] if i >= j else 0.0 for j in range(one.rounds)] for i in range(one.rounds)])
    worst = float(np.linalg.norm(dense @ np.abs(moved).sum(axis=1)))  # always into the same count
    assert one.quantile_std == pytest.approx(90.0 * worst)
    assert np.linalg.norm(dense @ moved) <= worst * (1 + 1e-9)
    assert one.mu_squared(one.rounds) == pytest.approx(20.0**-2 + 90.0**-2)


def test_a_round_that_never_came_leaves_its_noise() -> None:
    """The deviation that a tally tells is that of the noise in it where all came, and never less where some did not."""
    one, rng = plan(rounds=12, blt=optimise(12, 4, 2)), np.random.default_rng(3)
    lower = np.linalg.inv(
        np.array([[one.blt.coefficients(12)[i - j] if i >= j else 0.0 for j in range(12)] for i in range(12)])
    )
    for missing in ((), (3,), (0, 5, 6), (11,)):
        came = [n for n in range(12) if n not in missing]
        tally = Tally()
        for n in rng.permutation(came):
            tally = added(tally, norms_of(one, int(n), (1,) * N_COUNTS), int(n))
        assert tally.counts == (len(came),) * N_COUNTS
        true = one.quantile_std * float(np.linalg.norm(lower[came].sum(axis=0)))
        assert tally.noise_std >= true * (1 - 1e-9)
        if missing in ((), (11,)):
            assert tally.noise_std == pytest.approx(true)


# ---- what is said ----------------------------------------------------------------------------------------------------


def test_fogs_are_added_up_and_the_proposal_says_why() -> None:
    """Two fogs without noise: 6 of 20 updates below a clip of 2, half are asked for: 2·2^(.2/.5), to three digits."""
    tallies = [added(Tally(), Norms((0,) * 8 + (3, 7)), 0) for _ in range(2)]
    found = proposal(2.0, tallies, 0.5)
    assert (found.clip, found.counted, found.below) == (2.64, 20, 0.3)
    assert found.says == "30% of about 20 updates lay below 2, 50% are asked for"
    assert proposal(2.0, [], 0.5) == Proposal(2.0, 2.0, 0.5, 0, 0.0, None, "no norms were counted yet")
    drowned = proposal(2.0, [added(tallies[0], Norms((0,) * 8 + (3, 7), 100.0, 100.0), 1)], 0.5)
    assert (drowned.clip, drowned.below) == (2.0, None)
    assert "too few updates" in drowned.says
    assert msgspec.json.decode(msgspec.json.encode(found), type=Proposal) == found


@pytest.mark.parametrize(
    ("counts", "n", "std", "reason"),
    [
        ((0,) * 9 + (4,), 4, 0.0, ""),
        ((-70,) * 5 + (75,) * 5, 4, 10.0, ""),
        ((0,) * 9, 4, 0.0, "9 counts"),
        ((0,) * 9 + (9,), 4, 0.0, "cannot give"),
        ((-2,) + (1,) * 9, 4, 0.0, "cannot give"),
        ((4,) * 10, 4, 0.0, "40 norms in a cohort of 4"),
        ((0,) * 9 + (10**6,), 4, 10.0, "cannot give"),
        ((70,) * 10, 4, 10.0, "700 norms in a cohort of 4"),
    ],
)
def test_counts_that_no_honest_fog_has(counts: tuple[int, ...], n: int, std: float, reason: str) -> None:
    """More than came, or further from it than their noise goes: such a fog does not choose the next clip."""
    assert reason in check_counts(counts, n, std)
    assert (check_counts(counts, n, std) == "") == (reason == "")


def test_nonsense_is_refused() -> None:
    """Norms that are none, counts of another shape, noise for counts alone."""
    with pytest.raises(UsageError, match="not counted"):
        bucket(math.nan, 1.0)
    for released, target in ((np.zeros(3), 0.5), (np.full(N_COUNTS, np.nan), 0.5), (np.zeros(N_COUNTS), 1.0)):
        with pytest.raises(UsageError, match="say a part of 1"):
            next_clip(1.0, released, 0.0, target)
    assert bucket(0.0, 1.0) is None
    with pytest.raises(UsageError, match="none to its sums"):
        plan(multiplier=None)
    assert (plan(quantile_multiplier=None).width, PLAN.width) == (6, 6 + N_COUNTS)
