"""Streaming noise: the dense C⁻¹, a state that travels, and refusals."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from noise_plans import PLAN as COUNTING
from noise_plans import plan
from scipy import stats
from scipy.linalg import toeplitz

from evergrove.core.errors import CorruptState, UsageError
from evergrove.rules.privacy.blt import Blt
from evergrove.rules.privacy.noise import NoiseState, advance, normals, start

PLAN = plan(quantile_multiplier=None)
"""Six numbers a round, and no counts of norms beside them."""


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.24)), max_size=4), st.integers(1, 30), st.integers(0, 99))
def test_streaming_is_the_dense_inverse(pairs: list[tuple[float, float]], n: int, seed: int) -> None:
    """n rounds of it, serialised in between, are the n rows of C⁻¹ Z."""
    one = plan(
        blt=Blt(tuple(t for t, _ in pairs), tuple(w for _, w in pairs)), size=3, rounds=n, quantile_multiplier=None
    )
    fresh = np.random.default_rng(seed).standard_normal((n, 3))
    C = toeplitz(one.blt.coefficients(n), np.zeros(n))
    state, rows = start(one), []
    for z in fresh:
        state, noise = advance(one, state, z)
        state = msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=NoiseState)
        rows.append(noise)
    assert state.round == n
    np.testing.assert_allclose(np.array(rows), np.linalg.solve(C, fresh), atol=1e-9)


def test_the_running_sum_of_the_noise_grows_as_the_loss_says() -> None:
    """4000 streams: the last running sum spreads as the longest row of A·C⁻¹, and half as far as independent noise."""
    n, one = 50, plan(blt=Blt((0.97, 0.6), (0.2, 0.3)), size=4000, rounds=50, quantile_multiplier=None)
    rng, state, total = np.random.default_rng(1), start(one), np.zeros(4000)
    for _ in range(n):
        state, noise = advance(one, state, rng.standard_normal(4000))
        total += noise
    row = np.cumsum(one.blt.inverse_coefficients(n))
    assert total.std() == pytest.approx(np.sqrt(row @ row), rel=0.05)
    assert total.std() < 0.5 * np.sqrt(n)


def test_memory_is_the_buffers_whatever_the_round() -> None:
    """Two buffers of six float64 each, from the first round to the last."""
    state = start(PLAN)
    for _ in range(10):
        assert len(state.buffers) == 2 * 6 * 8
        state, _ = advance(PLAN, state, np.ones(6))
    assert len(start(COUNTING).buffers) == 2 * 16 * 8, "ten counts of norms have noise of the same stream"


def test_the_secret_is_not_printed() -> None:
    """A state in a traceback says how far it is, not what is in it."""
    state, _ = advance(PLAN, start(PLAN), np.linspace(1, 2, 6))
    assert repr(state.buffers)[2:12] not in repr(state)
    assert "96 secret bytes" in repr(state)


def test_another_plan_or_a_damaged_state_is_refused() -> None:
    """C is constant in a generation: the state goes on under its own plan only."""
    state = start(PLAN)
    with pytest.raises(CorruptState, match="goes on only under the plan"):
        advance(plan(blt=Blt((0.9, 0.3), (0.3, 0.2)), quantile_multiplier=None), state, np.zeros(6))
    with pytest.raises(CorruptState, match="88 bytes"):
        advance(PLAN, msgspec.structs.replace(state, buffers=state.buffers[8:]), np.zeros(6))
    with pytest.raises(CorruptState, match="not finite"):
        advance(PLAN, msgspec.structs.replace(state, buffers=np.full(12, np.nan).tobytes()), np.zeros(6))


@pytest.mark.parametrize("fresh", [np.zeros(5), np.zeros((6, 1)), np.zeros(6, np.float32), np.full(6, np.inf)])
def test_fresh_noise_of_another_form_is_refused(fresh: np.ndarray) -> None:
    """A vector that numpy would stretch over all numbers would be one noise for all of them."""
    with pytest.raises(UsageError, match="6 finite float64"):
        advance(PLAN, start(PLAN), fresh)


def test_bytes_of_chance_become_normal_numbers() -> None:
    """100 000 of them: Kolmogorov-Smirnov, no correlation within pairs, the same bytes the same numbers."""
    data = np.random.default_rng(7).bytes(800_000)
    z = normals(data)
    assert z.shape == (100_000,)
    assert stats.kstest(z, "norm").pvalue > 0.01
    first, second = z[:50_000], z[50_000:]
    for one, other in ((first, second), (first**2, second**2), (np.abs(first), second)):
        assert abs(np.corrcoef(one, other)[0, 1]) < 4 / np.sqrt(50_000)
    assert np.array_equal(normals(data), z)


def test_the_ends_of_chance_are_finite() -> None:
    """All bits 0 and all bits 1: 9.4 standard deviations, and 0."""
    assert np.abs(normals(bytes(16))).max() == pytest.approx(np.sqrt(2 * 64 * np.log(2)))
    assert np.abs(normals(b"\xff" * 16)).max() == 0
    assert normals(b"").shape == (0,)
    with pytest.raises(UsageError, match="in pairs"):
        normals(bytes(8))
