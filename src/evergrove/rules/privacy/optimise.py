"""The best θ and ω for a number of rounds, a separation b and k participations: what makes the noise smallest.

Minimises log loss over unconstrained numbers (θ = 1/(1+eᵃ), ω a softmax with slack, so that every candidate satisfies
``Blt``) by L-BFGS-B with an exact gradient, from a few starts; no chance. The paper optimises (θ, θ̂) pairs with JAX;
here c's own gradient through C⁻¹ is two convolutions. The starts are the quadrature of 1/√(1−x), the optimum for one
participation as n grows. Imports scipy; a cloud does this once a generation.
"""

import math
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from evergrove.core.errors import UsageError
from evergrove.rules.privacy import blt as matrices
from evergrove.rules.privacy.blt import BUFFERS_MAX, Blt, Vector

Loss = Literal["max", "rms"]

STEPS_MAX = 2000


def loss_of(blt: Blt, n: int, separation: int, participations: int, loss: Loss = "max") -> float:
    """``max_loss`` or ``rms_loss``."""
    measure = matrices.max_loss if loss == "max" else matrices.rms_loss
    return measure(blt, n, separation, participations)


@lru_cache(64)
def optimise(n: int, separation: int, participations: int, n_buffers: int = 2, loss: Loss = "max") -> Blt:
    """The best BLT found with at most ``n_buffers`` buffers; more buffers never give a larger loss.

    Grows from independent noise, a buffer at a time. Seconds for n in the thousands, for who asks first. Raises
    ``UsageError`` for limits that make no sense.
    """
    if not 0 <= n_buffers <= BUFFERS_MAX:
        raise UsageError(f"{n_buffers} buffers; say between 0 and {BUFFERS_MAX}")
    best = Blt()
    best_loss = loss_of(best, n, separation, participations, loss)
    for d in range(1, n_buffers + 1):
        for start in _starts(best, d, n, separation):
            found = _descend(start, n, separation, participations, loss)
            its_loss = loss_of(found, n, separation, participations, loss)
            if its_loss < best_loss * (1 - 1e-9):
                best, best_loss = found, its_loss
    return best


def _descend(start: Vector, n: int, separation: int, participations: int, loss: Loss) -> Blt:
    from scipy import optimize

    goal = partial(_goal, n=n, separation=separation, participations=participations, loss=loss)
    result: Any = optimize.minimize(
        goal, start, jac=True, method="L-BFGS-B", options={"maxiter": STEPS_MAX, "ftol": 1e-14, "gtol": 1e-10}
    )
    theta, omega = _decode(result.x)
    order = np.argsort(-theta)
    return Blt(tuple(theta[order].tolist()), tuple(omega[order].tolist()))


def _goal(x: Vector, n: int, separation: int, participations: int, loss: Loss) -> tuple[float, Vector]:
    """log loss and its gradient."""
    theta, omega = _decode(x)
    powers = np.power(theta, np.arange(max(n - 1, 0))[:, None])
    c = np.ones(n)
    c[1:] = powers @ omega

    # log sens² over c: each c_m stands in ``moved`` once for every shift.
    most = matrices.participations_most(n, separation, participations)
    moved = np.zeros(n)
    for j in range(most):
        moved[j * separation :] += c[: n - j * separation]
    sens2 = float(moved @ moved)
    d_sens = np.zeros(n)
    for j in range(most):
        d_sens[: n - j * separation] += moved[j * separation :]

    # log error² over c: error² = Σ weight·p², p the running sums of C⁻¹'s coefficients q, and dq = −q∗q∗dc.
    q = Blt(tuple(theta), tuple(omega)).inverse_coefficients(n)
    p = np.cumsum(q)
    weight = np.ones(n) if loss == "max" else np.arange(n, 0, -1) / n
    error2 = float(weight @ p**2)
    d_q = np.cumsum((weight * p)[::-1])[::-1]
    d_error = -_correlate(_convolve(q, q), d_q)

    d_c = d_sens / sens2 + d_error / error2
    d_omega = powers.T @ d_c[1:]
    slopes = np.zeros_like(powers)
    slopes[1:] = np.arange(1, max(n - 1, 1))[:, None] * powers[:-1]
    d_theta = omega * (slopes.T @ d_c[1:])
    gradient = np.concatenate([-theta * (1 - theta) * d_theta, omega * (d_omega - omega @ d_omega)])
    return 0.5 * (math.log(sens2) + math.log(error2)), gradient


def _starts(best: Blt, d: int, n: int, separation: int) -> list[Vector]:
    """Quadratures of 1/√(1−x) on three horizons, and the best so far with one more, small buffer."""
    starts = []
    for horizon in sorted({1 / n, 1 / separation, 0.1}):
        nearest = min(max(horizon, 1e-6), 0.5)
        gap = np.geomspace(nearest, 0.7, d) if d > 1 else np.array([math.sqrt(nearest)])
        scale = np.sqrt(gap) / math.pi * math.log(1 / nearest) / d
        starts.append(_encode(1 - gap, scale))
    if best.n_buffers == d - 1 and d > 1:
        for extra in (1 - 0.1 / n, 0.5):
            starts.append(_encode(np.array([*best.theta, extra]), np.array([*best.omega, 1e-3])))
    return starts


def _encode(theta: Vector, omega: Vector) -> Vector:
    gap = np.clip(1 - theta, 1e-12, 1 - 1e-9)
    omega = np.maximum(omega, 1e-9) * min(1.0, 0.95 / float(omega.sum()))
    return np.concatenate([np.log(gap / (1 - gap)), np.log(omega / (1 - omega.sum()))])


def _decode(x: Vector) -> tuple[Vector, Vector]:
    a, v = np.clip(x[: len(x) // 2], -40, 40), x[len(x) // 2 :]
    peak = max(0.0, float(v.max()))
    weights = np.exp(v - peak)
    whole = (math.exp(-peak) + float(weights.sum())) * (1 + 1e-14)  # rounding must not bring Σω above 1
    return 1 / (1 + np.exp(a)), weights / whole


def _convolve(a: Vector, b: Vector) -> Vector:
    """The first len(a) numbers of a ∗ b."""
    n = len(a)
    size = 1 << (2 * n - 1).bit_length()
    return np.fft.irfft(np.fft.rfft(a, size) * np.fft.rfft(b, size), size)[:n]


def _correlate(h: Vector, g: NDArray[np.float64]) -> Vector:
    """Σ_i h_(i−m) g_i for each m: the transpose of the convolution with ``h``."""
    return _convolve(h, g[::-1])[::-1]
