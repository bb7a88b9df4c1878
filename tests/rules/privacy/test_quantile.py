"""The next clip: a private quantile of norms, with the noise and the cost that it claims."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from noise_plans import PLAN, plan

from evergrove.core.errors import UsageError
from evergrove.rules.privacy.quantile import N_COUNTS, STEPS, bucket, edges, next_clip, noised


def counts_of(norms: list[float], clip: float) -> np.ndarray:
    """The histogram of some norms."""
    counts = np.zeros(N_COUNTS, np.int64)
    for norm in norms:
        counts[bucket(norm, clip)] += 1
    return counts


def test_by_hand() -> None:
    """Clip 1: a norm of 1 is below the ninth edge; three quarters of .3s and 2s lie below the middle of 2's step."""
    assert edges(1.0)[[0, STEPS, -1]] == pytest.approx([1 / 16, 1.0, 16.0])
    assert bucket(1.0, 1.0) == STEPS
    assert bucket(0.0, 1.0) == 0
    assert bucket(1e9, 1.0) == N_COUNTS - 1
    released = counts_of([0.3] * 50 + [2.0] * 50, 1.0).astype(float)
    assert next_clip(1.0, released, 0.0, target=0.75) == pytest.approx(2.0 ** (0.5 + 0.25))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.1, 10), min_size=20, max_size=200), st.floats(0.1, 0.9))
def test_without_noise_it_is_the_quantile_to_one_step(norms: list[float], target: float) -> None:
    """The exact quantile lies within a step of √2 of it."""
    found = next_clip(1.0, counts_of(norms, 1.0).astype(float), 0.0, target)
    exact = float(np.quantile(norms, target, method="inverted_cdf"))
    assert exact / math.sqrt(2) * (1 - 1e-9) <= found <= exact * math.sqrt(2) * (1 + 1e-9)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0.2, 5), min_size=30, max_size=100), st.floats(0.2, 0.8))
def test_it_is_where_the_update_of_andrew_et_al_comes_to_rest(norms: list[float], target: float) -> None:
    """C ← C·exp(−η(b̃ − γ)) on the same counts, from the present clip, ends where it says."""
    released = counts_of(norms, 1.0).astype(float)
    below, grid = np.cumsum(released)[:-1] / released.sum(), np.log2(edges(1.0))
    found, clip = next_clip(1.0, released, 0.0, target), 1.0
    for i in range(4000):
        clip *= math.exp(-0.3 / (1 + i / 200) * (float(np.interp(math.log2(clip), grid, below)) - target))
    if np.diff(below)[np.searchsorted(below, target) - 1] > 0.02 and np.abs(below - target).min() > 0.02:
        assert clip == pytest.approx(found, rel=0.02)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=N_COUNTS, max_size=N_COUNTS), st.floats(0, 1e4), st.floats(0.01, 0.99))
def test_whatever_the_noise_did_the_clip_stays_on_the_grid(released: list[float], std: float, target: float) -> None:
    """Negative counts, counts that fall: a clip between C/16 and 16·C, always."""
    assert 0.75 / 16 * (1 - 1e-9) <= next_clip(0.75, np.array(released), std, target) <= 0.75 * 16 * (1 + 1e-9)


def test_noise_that_drowns_the_counts_leaves_the_clip() -> None:
    """Ten updates under noise of a thousand say nothing."""
    assert next_clip(1.0, counts_of([5.0] * 10, 1.0) + 0.0, noise_std=1000.0) == 1.0
    assert next_clip(1.0, np.zeros(N_COUNTS), noise_std=0.0) == 1.0


def test_a_fleet_with_enough_devices_finds_its_median() -> None:
    """8000 updates, k = 2, z = 90: noise of 180 in a count, and the median to 20 %."""
    rng = np.random.default_rng(4)
    norms = rng.lognormal(math.log(3.0), 0.4, 8000).tolist()
    released = noised(PLAN, counts_of(norms, 0.75), rng.standard_normal(N_COUNTS))
    assert PLAN.quantile_std == 180.0
    assert next_clip(0.75, released, PLAN.quantile_std) == pytest.approx(3.0, rel=0.2)


def test_one_device_moves_the_counts_by_k_and_the_noise_is_z_times_that() -> None:
    """The claim of the ledger: ‖Δcounts‖₂ ≤ k in any generation, noise of z·k, so μ = 1/z."""
    one = plan(rounds=12, separation=4, participations=9)  # three rounds fit, whatever k says
    assert one.most == 3
    moved = counts_of([1.0] * one.most, one.clip)
    assert np.linalg.norm(moved) == one.most
    assert one.quantile_std == 90.0 * one.most
    assert one.mu_squared(0, quantile=True) == pytest.approx((np.linalg.norm(moved) / one.quantile_std) ** 2)
    spread = np.array(
        [noised(one, moved, np.random.default_rng(i).standard_normal(N_COUNTS)) - moved for i in range(400)]
    ).std()
    assert spread == pytest.approx(one.quantile_std, rel=0.05)


def test_nonsense_is_refused() -> None:
    """Norms that are none, counts of another shape, a plan without a count."""
    ok, fresh = np.zeros(N_COUNTS, np.int64), np.zeros(N_COUNTS)
    with pytest.raises(UsageError, match="not counted"):
        bucket(math.nan, 1.0)
    with pytest.raises(UsageError, match="foresees no count"):
        noised(plan(quantile_multiplier=None), ok, fresh)
    for counts, z in ((ok[1:], fresh), (ok - 1, fresh), (ok, fresh[1:]), (ok, fresh + np.nan)):
        with pytest.raises(UsageError, match="are needed"):
            noised(PLAN, counts, z)
    with pytest.raises(UsageError, match="target 1"):
        next_clip(1.0, fresh, 0.0, target=1.0)
