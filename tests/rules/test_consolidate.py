"""Server optimisers by hand and as one contract; the merge; and personal B's in a new A against least squares."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evergrove.core.errors import CorruptState, InvalidInput, UsageError
from evergrove.rules.consolidate import (
    ServerOptimiser,
    ServerState,
    carry_over,
    fed_adam,
    fed_avg,
    fed_avg_m,
    fisher_merge,
)

ALL = [fed_avg(0.7), fed_avg_m(0.5, 0.8), fed_adam(0.1)]


def run(one: ServerOptimiser, deltas: np.ndarray) -> np.ndarray:
    """The steps of a few rounds, the state serialised in between."""
    state, steps = one.init(deltas.shape[1]), []
    for delta in deltas:
        state, step = one.apply(state, delta)
        state = msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=ServerState)
        steps.append(step)
    assert state.steps == len(deltas)
    return np.array(steps)


def test_two_steps_by_hand() -> None:
    """FedAvg: the mean. FedAvgM: m = 1, then .9 + 2. FedAdam: m = .1, v = .99·1e-6 + .01 and so on (Algorithm 2)."""
    deltas = np.array([[1.0], [2.0]])
    assert run(fed_avg(), deltas).tolist() == [[1.0], [2.0]]
    assert run(fed_avg_m(1.0, 0.9), deltas).ravel() == pytest.approx([1.0, 2.9])
    v1 = 0.99e-6 + 0.01
    v2 = 0.99 * v1 + 0.04
    expected = [0.01 * 0.1 / (v1**0.5 + 1e-3), 0.01 * 0.29 / (v2**0.5 + 1e-3)]
    assert run(fed_adam(), deltas).ravel() == pytest.approx(expected)


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_every_optimiser_keeps_the_contract(one: ServerOptimiser) -> None:
    """Nothing in, nothing out; towards the update; refuses what is not finite and a state of another size; pure."""
    state = one.init(3)
    before = msgspec.msgpack.encode(state)
    assert np.all(one.apply(state, np.zeros(3))[1] == 0)
    assert np.all(one.apply(state, np.array([1.0, -2.0, 0.5]))[1] * [1, -2, 0.5] > 0)
    assert msgspec.msgpack.encode(state) == before
    for bad in (np.array([1.0, np.nan, 0]), np.zeros((3, 1))):
        with pytest.raises(InvalidInput, match="consolidate nothing"):
            one.apply(state, bad)
    if state.m:
        with pytest.raises(CorruptState, match="start anew"):
            one.apply(state, np.zeros(4))


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999))
def test_linear_means_linear(one: ServerOptimiser, seed: int) -> None:
    """``linear`` says whether steps of a sum are the sum of steps: then noise that cancels goes on cancelling."""
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((2, 5, 4))
    gap = np.abs(run(one, a + b) - run(one, a) - run(one, b)).max()
    assert (gap < 1e-12) == one.linear


def test_momentum_adds_up_to_one_over_one_less_momentum() -> None:
    """A constant update: the step comes to Δ/(1 − .9), ten times it. Adam's comes to its rate, whatever Δ is."""
    assert run(fed_avg_m(1.0, 0.9), np.ones((300, 1)))[-1, 0] == pytest.approx(10.0)
    assert run(fed_adam(0.01), np.full((3000, 1), 5.0))[-1, 0] == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(
    "make", [lambda: fed_avg(0), lambda: fed_avg_m(1.0, 1.0), lambda: fed_adam(adaptivity=0), lambda: fed_adam(rate=-1)]
)
def test_rates_that_make_no_sense(make: object) -> None:
    """Refused when the optimiser is made, not at its first step."""
    assert callable(make)
    with pytest.raises(UsageError):
        make()


def test_a_merge_spares_what_the_release_relies_on() -> None:
    """F = 0, 1, 2 of mean 1, π = 1: the whole step, half of it, a third of it."""
    step = np.full(3, 6.0)
    assert fisher_merge(step, np.array([0.0, 1.0, 2.0])).tolist() == [6.0, 3.0, 2.0]
    assert fisher_merge(step, np.array([0.0, 1.0, 2.0]), precision=1e12) == pytest.approx(step)
    assert fisher_merge(step, np.zeros(3)).tolist() == step.tolist()
    for bad in (np.array([0.0, -1, 2]), np.array([0.0, np.nan, 2]), np.zeros(2)):
        with pytest.raises(InvalidInput, match="none negative"):
            fisher_merge(step, bad)
    with pytest.raises(UsageError, match="precision"):
        fisher_merge(step, np.ones(3), precision=0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 100))
def test_a_merge_minimises_what_it_says(seed: int, precision: float) -> None:
    """It is the least of F/F̄·(b − b*)² + π·(b − b* − step)², per coordinate."""
    rng = np.random.default_rng(seed)
    step, fisher = rng.standard_normal(5), rng.exponential(size=5)
    found = fisher_merge(step, fisher, precision)

    def cost(b: np.ndarray) -> np.ndarray:
        return fisher / fisher.mean() * b**2 + precision * (b - step) ** 2

    for other in (found + 1e-3, found - 1e-3, step, np.zeros(5)):
        assert np.all(cost(found) <= cost(other) + 1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 5), st.booleans())
def test_carrying_over_is_least_squares(seed: int, rank: int, new_rank: int, deficient: bool) -> None:
    """Against the dense problem, out × in; also where the new A lost a rank."""
    rng = np.random.default_rng(seed)
    B, A, new = rng.standard_normal((4, rank)), rng.standard_normal((rank, 9)), rng.standard_normal((new_rank, 9))
    if deficient:
        new[-1] = new[0]
    found = carry_over(B, A, new)
    dense = np.linalg.lstsq(new.T, (B @ A).T, rcond=None)[0].T
    np.testing.assert_allclose(found.B, dense, atol=1e-8)
    assert found.lost == pytest.approx(np.linalg.norm(dense @ new - B @ A) / np.linalg.norm(B @ A), abs=1e-8)


def test_what_a_new_A_can_say_is_carried_over_whole() -> None:
    """Turned or extended rows lose nothing; orthogonal ones lose everything; a zero B stays zero; it is B·A·A'ᵀ."""
    rng = np.random.default_rng(0)
    q = np.linalg.qr(rng.standard_normal((12, 12)))[0]
    A, B = q[:3], rng.standard_normal((5, 3))
    turned = np.linalg.qr(rng.standard_normal((3, 3)))[0] @ A
    assert carry_over(B, A, turned).lost < 1e-12
    extended = carry_over(B, A, q[:5])
    assert extended.lost < 1e-12
    assert pytest.approx(B @ A @ q[:5].T) == extended.B
    assert carry_over(B, A, q[6:9]).lost == pytest.approx(1.0)
    assert carry_over(np.zeros((5, 3)), A, q[6:9]).lost == 0.0


def test_shapes_that_do_not_fit() -> None:
    """Named with all three shapes; not finite is refused."""
    B, A = np.ones((4, 2)), np.ones((2, 9))
    for bad in ((B, A, np.ones((2, 8))), (B, np.ones((3, 9)), A), (np.ones(4), A, A)):
        with pytest.raises(InvalidInput, match="are needed"):
            carry_over(*bad)
    with pytest.raises(InvalidInput, match="not finite"):
        carry_over(B * np.nan, A, A)
