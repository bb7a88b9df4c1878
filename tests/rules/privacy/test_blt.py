"""BLT matrices: DESIGN's test vector, the dense matrix, and the worst pattern of taking part by trying every one."""

import math
from itertools import combinations, pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from noise_plans import VECTOR
from numpy.typing import NDArray
from scipy.linalg import toeplitz

from evergrove.core.errors import UsageError
from evergrove.rules.privacy.blt import Blt, max_loss, participations_most, rms_loss, sensitivity


@st.composite
def blts(draw: st.DrawFn, d_max: int = 4) -> Blt:
    """Any BLT that is allowed, its edges included: θ of 0 and 1, equal θ, ω of 0, Σω = 1."""
    d = draw(st.integers(0, d_max))
    theta = draw(st.lists(st.one_of(st.sampled_from([0.0, 1.0, 0.5]), st.floats(0, 1)), min_size=d, max_size=d))
    weight = draw(st.lists(st.floats(0, 1), min_size=d, max_size=d))
    whole = draw(st.floats(0, 1)) / max(sum(weight), 1e-3)
    omega = [w * min(whole, 1 / max(sum(weight), 1e-3)) * (1 - 1e-12) for w in weight]
    return Blt(tuple(theta), tuple(omega))


def dense(blt: Blt, n: int) -> NDArray[np.float64]:
    """C, by the definition of its coefficients."""
    c = [1.0] + [sum(w * t**i for t, w in zip(blt.theta, blt.omega, strict=True)) for i in range(n - 1)]
    return np.asarray(toeplitz(c, np.zeros(n)), np.float64)


def test_the_vector_of_the_design() -> None:
    """n = 1000, b = 100, k = 10: sensitivity 6.842120, max loss 14.9530."""
    assert sensitivity(VECTOR, 1000, 100, 10) == pytest.approx(6.842120, abs=1e-6)
    assert max_loss(VECTOR, 1000, 100, 10) == pytest.approx(14.9530, abs=5e-5)


def test_two_rounds_by_hand() -> None:
    """C = [[1, 0], [½, 1]]: C⁻¹ = [[1, 0], [−½, 1]], its sums [[1, 0], [½, 1]], so the loss is √1.25 · √1.25."""
    half = Blt((0.3,), (0.5,))
    assert half.coefficients(2).tolist() == [1.0, 0.5]
    assert half.inverse_coefficients(2) == pytest.approx([1.0, -0.5])
    assert max_loss(half, 2, 1, 1) == pytest.approx(1.25)
    assert rms_loss(half, 2, 1, 1) == pytest.approx(math.sqrt((1 + 1.25) / 2 * 1.25))


def test_independent_noise_by_hand() -> None:
    """No buffers: C is 1; k participations move √k, and the last of n sums has n noises in it."""
    assert sensitivity(Blt(), 100, 10, 4) == pytest.approx(2.0)
    assert max_loss(Blt(), 100, 10, 4) == pytest.approx(20.0)
    assert participations_most(100, 30, 9) == 4  # 0, 30, 60, 90
    assert participations_most(100, 200, 9) == 1


@settings(max_examples=60, deadline=None)
@given(blts(), st.integers(1, 40))
def test_coefficients_and_inverse_are_the_dense_ones(blt: Blt, n: int) -> None:
    """c and the coefficients of C⁻¹ against the definition and a matrix inverse."""
    C = dense(blt, n)
    np.testing.assert_allclose(blt.coefficients(n), C[:, 0], atol=1e-12)
    inverse = np.asarray(toeplitz(blt.inverse_coefficients(n), np.zeros(n)))
    np.testing.assert_allclose(inverse @ C, np.eye(n), atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(blts(), st.integers(1, 9), st.integers(1, 5), st.integers(1, 5))
def test_no_pattern_of_taking_part_is_worse(blt: Blt, n: int, b: int, k: int) -> None:
    """Every choice of rounds at least b apart, at most k of them: none moves C·x more, and one moves it as much."""
    C, formula = dense(blt, n), sensitivity(blt, n, b, k)
    worst = 0.0
    for size in range(1, min(k, n) + 1):
        for rounds in combinations(range(n), size):
            if all(later - earlier >= b for earlier, later in pairwise(rounds)):
                worst = max(worst, float(np.linalg.norm(C[:, list(rounds)].sum(axis=1))))
    assert formula == pytest.approx(worst, rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(blts(), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_updates_that_turn_move_less_than_those_that_repeat(blt: Blt, n: int, seed: int) -> None:
    """Vectors of norm 1 in any directions, in the densest pattern, move C·x no further than the formula says."""
    x = np.random.default_rng(seed).standard_normal((n, 3))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    x[np.arange(n) % 3 != 0] = 0
    assert np.linalg.norm(dense(blt, n) @ x) <= sensitivity(blt, n, 3, n) * (1 + 1e-12)


@settings(max_examples=40, deadline=None)
@given(blts(), st.integers(1, 40), st.integers(1, 9), st.integers(1, 9))
def test_losses_are_those_of_the_dense_matrices(blt: Blt, n: int, b: int, k: int) -> None:
    """The longest row, and the mean, of A·C⁻¹ with A the matrix that sums up."""
    rows = np.linalg.norm(np.tri(n) @ np.linalg.inv(dense(blt, n)), axis=1)
    sens = sensitivity(blt, n, b, k)
    assert max_loss(blt, n, b, k) == pytest.approx(rows.max() * sens, rel=1e-8)
    assert rms_loss(blt, n, b, k) == pytest.approx(math.sqrt(np.mean(rows**2)) * sens, rel=1e-8)


@settings(max_examples=60, deadline=None)
@given(blts(), st.integers(1, 60), st.integers(1, 9), st.integers(1, 9))
def test_a_longer_stream_or_a_laxer_limit_never_moves_less(blt: Blt, n: int, b: int, k: int) -> None:
    """What a ledger rests on: sensitivity grows with rounds and participations, and falls with separation."""
    here = sensitivity(blt, n, b, k) * (1 + 1e-12)
    assert sensitivity(blt, n + 1, b, k) * (1 + 1e-12) >= sensitivity(blt, n, b, k)
    assert sensitivity(blt, n, b, k + 1) * (1 + 1e-12) >= sensitivity(blt, n, b, k)
    assert sensitivity(blt, n, b + 1, k) <= here


@pytest.mark.parametrize(
    ("theta", "omega", "why"),
    [
        ((0.5,), (), "as many"),
        ((0.5,) * 17, (0.01,) * 17, "at most 16"),
        ((1.01,), (0.1,), "between 0 and 1"),
        ((-0.1,), (0.1,), "between 0 and 1"),
        ((math.nan,), (0.1,), "between 0 and 1"),
        ((0.5,), (-0.1,), "none may be negative"),
        ((0.5, 0.4), (0.6, 0.5), "their sum at most 1"),
        ((0.5,), (math.nan,), "none may be negative"),
    ],
)
def test_coefficients_that_could_grow_or_turn_negative_are_refused(
    theta: tuple[float, ...], omega: tuple[float, ...], why: str
) -> None:
    """The sensitivity holds for non-negative and non-increasing coefficients only: others cannot be written down."""
    with pytest.raises(UsageError, match=why):
        Blt(theta, omega)


@settings(max_examples=80, deadline=None)
@given(blts(), st.integers(2, 200))
def test_what_is_allowed_never_grows_nor_turns_negative(blt: Blt, n: int) -> None:
    """The condition itself, on the coefficients of any BLT that can be written down."""
    c = blt.coefficients(n)
    assert c[0] == 1
    assert c.min() >= 0
    assert np.diff(c).max() <= 1e-12


def test_it_travels_as_json_and_limits_must_make_sense() -> None:
    """A BLT read back is equal; no rounds, or a limit of 0, is refused."""
    assert msgspec.json.decode(msgspec.json.encode(VECTOR), type=Blt) == VECTOR
    with pytest.raises(UsageError, match="0 rounds"):
        sensitivity(VECTOR, 0, 1, 1)
    with pytest.raises(UsageError, match="at least 1"):
        sensitivity(VECTOR, 10, 0, 1)
