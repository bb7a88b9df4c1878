"""BLT, the buffered linear Toeplitz matrix C whose inverse correlates the noise of DP-FTRL from round to round.

C is lower triangular with coefficients c_0 = 1 and c_i = Σ_j ω_j θ_j^(i−1). A fog releases x_t + σ·(C⁻¹z)_t, so that
the noise of later rounds takes back a part of earlier ones and the *running sum* of what was released stays close to
the truth. The privacy is that of one Gaussian query with sensitivity ‖C·Δx‖ (McMahan, Xu & Zhang 2024, arXiv
2408.08868). The inverse is a BLT too (McMahan & Pillutla 2025, arXiv 2504.21413), here by a symmetric eigenproblem.
"""

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from evergrove.core.errors import UsageError

Vector = NDArray[np.float64]

BUFFERS_MAX = 16
ROUNDS_MAX = 1_000_000


class Blt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Decays θ and scales ω, one pair a buffer. None of either is C = 1: noise that is independent from round to round.

    ``0 ≤ θ ≤ 1``, ``ω ≥ 0`` and ``Σ ω ≤ 1`` are asked for: with them every coefficient is non-negative and none exceeds
    the one before it, for any number of rounds, which the sensitivity below rests on (and C⁻¹ does not grow).
    Raises ``UsageError``.
    """

    theta: tuple[float, ...] = ()
    omega: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        # Floats whoever wrote them: 1 and 1.0 must not give two digests of one plan.
        msgspec.structs.force_setattr(self, "theta", tuple(map(float, self.theta)))
        msgspec.structs.force_setattr(self, "omega", tuple(map(float, self.omega)))
        if len(self.theta) != len(self.omega) or len(self.theta) > BUFFERS_MAX:
            raise UsageError(
                f"{len(self.theta)} decays and {len(self.omega)} scales; say as many, at most {BUFFERS_MAX}"
            )
        if not all(0.0 <= decay <= 1.0 for decay in self.theta):
            raise UsageError(f"θ = {self.theta}; each must lie between 0 and 1, or the coefficients of C would grow")
        if not (all(0.0 <= scale <= 1.0 for scale in self.omega) and math.fsum(self.omega) <= 1.0):
            raise UsageError(
                f"ω = {self.omega}; none may be negative and their sum at most 1, or the coefficients of C would grow"
            )

    @property
    def n_buffers(self) -> int:
        """How many vectors of an update's size the noise needs to remember."""
        return len(self.theta)

    def coefficients(self, n: int) -> Vector:
        """c_0 … c_(n−1), float64."""
        _check_rounds(n)
        return _series(np.array(self.theta), np.array(self.omega), n)

    def inverse_coefficients(self, n: int) -> Vector:
        """The first ``n`` coefficients of C⁻¹ (Toeplitz as well), float64."""
        _check_rounds(n)
        return _series(*_inverse(np.array(self.theta), np.array(self.omega)), n)


def participations_most(n: int, separation: int, participations: int) -> int:
    """How often a device can really take part in ``n`` rounds that it must keep ``separation`` apart.

    Raises ``UsageError`` where a limit is below 1.
    """
    _check_rounds(n)
    if separation < 1 or participations < 1:
        raise UsageError(f"separation {separation}, participations {participations}; both must be at least 1")
    return min(participations, -(-n // separation))


def sensitivity(blt: Blt, n: int, separation: int, participations: int) -> float:
    """The most that one device can move the n rounds of C·x, per unit of the clip.

    sens² = ‖Σ_j shift(c, j·b)‖²: the worst pattern under b and k is the earliest and densest, since no coefficient is
    negative or exceeds the one before it (the paper's §4; tested against every pattern). That is asserted on the
    coefficients themselves.
    """
    return _sensitivity(blt.coefficients(n), separation, participations)


def max_loss(blt: Blt, n: int, separation: int, participations: int) -> float:
    """The largest standard deviation of the noise in any running sum, at noise multiplier 1 and clip 1.

    That is the longest row of A·C⁻¹ (A sums up), times the sensitivity.
    """
    sums = np.cumsum(blt.inverse_coefficients(n))
    return math.sqrt(float(sums @ sums)) * sensitivity(blt, n, separation, participations)


def rms_loss(blt: Blt, n: int, separation: int, participations: int) -> float:
    """As ``max_loss``, but the root of the mean over the ``n`` running sums of their noise's variance."""
    sums = np.cumsum(blt.inverse_coefficients(n))
    mean = float(np.arange(n, 0, -1) @ sums**2) / n
    return math.sqrt(mean) * sensitivity(blt, n, separation, participations)


def _sensitivity(c: Vector, separation: int, participations: int) -> float:
    n = len(c)
    most = participations_most(n, separation, participations)
    assert c.min() >= 0.0, "a negative coefficient: the worst pattern of taking part is not the one below"
    assert n == 1 or np.diff(c).max() <= 1e-12, "a growing coefficient: the worst pattern is not the one below"
    moved = np.zeros(n)
    for j in range(most):
        moved[j * separation :] += c[: n - j * separation]
    return math.sqrt(float(moved @ moved))


def _series(theta: Vector, omega: Vector, n: int) -> Vector:
    """1, Σω, Σωθ, Σωθ², …"""
    c = np.ones(n)
    c[1:] = np.power(theta, np.arange(n - 1)[:, None]) @ omega
    return c


def _inverse(theta: Vector, omega: Vector) -> tuple[Vector, Vector]:
    """θ̂, ω̂ of C⁻¹: the state of its recursion decays by diag θ − 1ωᵀ, which is diag θ − √ω√ωᵀ in other coordinates.

    Symmetric, so the eigenvalues are real, well conditioned and interlace θ; all ω̂ ≤ 0.
    """
    root = np.sqrt(omega)
    decays, vectors = np.linalg.eigh(np.diag(theta) - np.outer(root, root))
    return decays, -((vectors.T @ root) ** 2)


def _check_rounds(n: int) -> None:
    if not 1 <= n <= ROUNDS_MAX:
        raise UsageError(f"{n} rounds; say between 1 and {ROUNDS_MAX}")
