"""The optimiser against published optima, closed forms and its own gradient."""

import math

import numpy as np
import pytest
from noise_plans import VECTOR
from scipy.optimize import approx_fprime

from evergrove.core.errors import UsageError
from evergrove.rules.privacy import optimise as module
from evergrove.rules.privacy.blt import Blt, max_loss, rms_loss
from evergrove.rules.privacy.optimise import Loss, loss_of, optimise


def test_it_finds_the_vector_of_the_design() -> None:
    """θ, ω of DESIGN §7 are the optimum at two buffers; ours is no worse, and the same to six digits of loss."""
    found = optimise(1000, 100, 10, n_buffers=2)
    ours, theirs = max_loss(found, 1000, 100, 10), max_loss(VECTOR, 1000, 100, 10)
    assert ours <= theirs * (1 + 1e-9)
    assert ours == pytest.approx(theirs, rel=1e-6)
    assert found.theta == pytest.approx(VECTOR.theta, abs=1e-4)


def test_a_published_optimum_is_one_of_ours() -> None:
    """n = 100 000, k = 1, two buffers (the reference value in jax-privacy's tests): our gradient vanishes there."""
    n, theta, omega = 100_000, np.array([0.9999528892, 0.9857068667]), np.array([0.0122853238, 0.1878393665])
    value, gradient = module._goal(module._encode(theta, omega), n, 1, 1, "max")
    assert np.abs(gradient).max() < 1e-5  # it is printed to nine digits
    assert math.exp(value) < 1.16 * (1 + math.log(n) / math.pi)  # Mathias 1993: what any Toeplitz matrix comes near
    away = module._goal(module._encode(theta**2, omega), n, 1, 1, "max")
    assert away[0] > value
    assert np.abs(away[1]).max() > 1e-3


def test_three_buffers_come_near_the_best_of_all_toeplitz_matrices() -> None:
    """k = 1: the optimum over every Toeplitz C is Σ f², f_i = C(2i, i)/4^i (Fichtenberger et al. 2023)."""
    n, f = 500, [1.0]
    for i in range(1, n):
        f.append(f[-1] * (1 - 0.5 / i))
    best = math.fsum(x * x for x in f)
    ours = max_loss(optimise(n, 1, 1, n_buffers=3), n, 1, 1)
    assert best < ours < 1.002 * best


def test_where_a_device_is_in_every_round_independent_noise_is_best() -> None:
    """n = k, b = 1: no buffer helps, so none is used."""
    assert optimise(30, 1, 30, n_buffers=2) == Blt()


@pytest.mark.parametrize("loss", ["max", "rms"])
def test_more_buffers_never_cost_and_the_loss_asked_for_is_the_one_made_small(loss: Loss) -> None:
    """Loss falls with buffers; the optimum for one loss is no better than the other's own optimum."""
    found = [optimise(120, 20, 4, d, loss) for d in range(4)]
    losses = [loss_of(blt, 120, 20, 4, loss) for blt in found]
    assert losses == sorted(losses, reverse=True)
    assert losses[2] < losses[0] * 0.9
    other: Loss = "rms" if loss == "max" else "max"
    assert losses[2] <= loss_of(optimise(120, 20, 4, 2, other), 120, 20, 4, loss)


@pytest.mark.parametrize("loss", ["max", "rms"])
def test_the_gradient_is_that_of_the_loss(loss: Loss) -> None:
    """The goal is log loss; its gradient is what differences of it give."""
    x = np.array([-3.0, 0.3, -1.0, -0.5])
    theta, omega = module._decode(x)
    blt = Blt(tuple(theta), tuple(omega))
    value, gradient = module._goal(x, 50, 7, 4, loss)
    measure = max_loss if loss == "max" else rms_loss
    assert value == pytest.approx(math.log(measure(blt, 50, 7, 4)), abs=1e-12)
    assert gradient == pytest.approx(approx_fprime(x, lambda y: module._goal(y, 50, 7, 4, loss)[0], 1e-7), abs=1e-6)


def test_the_smallest_streams_and_nonsense() -> None:
    """One round needs no correlation; two are the case done by hand (test_blt); limits must make sense."""
    assert optimise(1, 1, 1) == Blt()
    assert max_loss(optimise(2, 1, 1), 2, 1, 1) == pytest.approx(1.25)
    with pytest.raises(UsageError, match="17 buffers"):
        optimise(10, 1, 1, n_buffers=17)
    with pytest.raises(UsageError, match="0 rounds"):
        optimise(0, 1, 1)
