"""Each metric against a case worked out by hand, and what a row of lessons comes to."""

import math

import numpy as np
import pytest

from evergrove.bench.forgetting import metrics, summary

NAN = math.nan


def test_fid_by_hand() -> None:
    """Means 3 apart; variances 2 and 8 in one dimension: 9 + 2 + 8 − 2·√16 = 11; nothing between equal sets."""
    real = np.array([[-1.0], [1.0]])
    made = np.array([[1.0], [5.0]])
    assert metrics.fid(real, made) == pytest.approx(9 + 2 + 8 - 2 * 4)
    assert metrics.fid(real, real) == pytest.approx(0, abs=1e-12)
    # Two dimensions that do not commute: Σ₁ = diag(4, 0)·…: rank-deficient covariances are no trouble.
    flat = np.array([[-1.0, 0.0], [1.0, 0.0]])
    tall = np.array([[0.0, -1.0], [0.0, 1.0]])
    assert metrics.fid(flat, tall) == pytest.approx(2 + 2)


def test_kid_by_hand() -> None:
    """One dimension, kernel (xy + 1)³. Real {0, 1}, made {1, 2}: 1 + 27 − 2·(1 + 1 + 8 + 27)/4 = 9.5."""
    real, made = np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]])
    assert metrics.kid(real, made) == pytest.approx(9.5)


def test_kid_is_unbiased() -> None:
    """Over many draws from one distribution its mean is 0 within the error, and some of its values are below 0."""
    rng = np.random.default_rng(0)
    values = [metrics.kid(rng.normal(size=(20, 4)), rng.normal(size=(30, 4))) for _ in range(400)]
    assert abs(np.mean(values)) < 3 * np.std(values) / 20
    assert min(values) < 0


def test_density_and_coverage_by_hand() -> None:
    """k = 1, real 0, 1, 10: radii 1, 1, 9. A made 0.5 lies in two neighbourhoods, a made 30 in none."""
    real, made = np.array([[0.0], [1.0], [10.0]]), np.array([[0.5], [30.0]])
    # 0.5 is within 1 of 0 and of 1, and 9.5 > 9 from 10; 30 is in none: 2 hits of k·M = 2, 2 of 3 covered.
    assert metrics.density_coverage(real, made, k=1) == pytest.approx((1.0, 2 / 3))
    assert metrics.density_coverage(real, real, k=1) == pytest.approx((2.0, 1.0))


def test_frequencies_by_hand() -> None:
    """Asked half and half, read 3 and 1 of 4: q = 3.5/5 and 1.5/5; what is read as another class is lost."""
    asked = np.array([1, 1, 2, 2], np.int16)
    read = np.array([1, 1, 1, 2], np.int16)
    assert metrics.frequency_kl(asked, read) == pytest.approx(0.5 * math.log(0.5 / 0.7) + 0.5 * math.log(0.5 / 0.3))
    assert metrics.frequency_kl(asked, asked) == pytest.approx(0)
    assert metrics.frequency_kl(asked, np.array([7, 7, 7, 7], np.int16)) == pytest.approx(math.log(5))


R = np.array([[9.0, 8.0, 7.0], [1.0, 6.0, NAN], [2.0, 3.0, 5.0], [4.0, 3.5, 2.0]])
"""Row 0 before anything, then after each of three lessons; distances."""


def test_a_matrix_by_hand() -> None:
    """End: (4 + 3.5 + 2)/3. Lost: 4 − 1 and 3.5 − 3. Just before each: 6 − 8 and 5 − 7."""
    assert summary.average(R) == pytest.approx(9.5 / 3)
    assert summary.forgetting(R, less_is_better=True) == pytest.approx((3 + 0.5) / 2)
    assert summary.backward_transfer(R) == pytest.approx((3 + 0.5) / 2)
    assert summary.forward_transfer(R) == pytest.approx(-2)
    # As shares, the best of lesson 1 was 2 after the second lesson, and of lesson 2 it was 3: nothing but gains.
    assert summary.forgetting(R, less_is_better=False) == pytest.approx((2 - 4 + 3 - 3.5) / 2)
    one = R[:2, :1]
    assert summary.forgetting(one, True) == summary.backward_transfer(one) == summary.forward_transfer(one) == 0


def test_intervals_by_hand() -> None:
    """1, 2, 3: mean 2, deviation 1, t(.975, 2) = 4.3027: ± 2.484. Paired differences of 1, 1, 1 exclude 0."""
    found = summary.interval([1.0, 2.0, 3.0])
    assert (found.mean, found.n) == (2.0, 3)
    assert found.high - 2 == pytest.approx(4.302653 / math.sqrt(3), rel=1e-5)
    assert not summary.paired([1.0, 2.0, 3.0], [2.0, 2.0, 2.0]).excludes_zero
    assert summary.paired([2.0, 3.0, 4.0], [1.0, 2.0, 3.0]).excludes_zero
    assert math.isnan(summary.interval([1.0]).low)
    assert not summary.interval([1.0]).excludes_zero
