"""How far generated pictures are from real ones, without Inception weights: numbers from feature vectors (N, D).

- FID: Fréchet distance of two normal distributions (Heusel et al. 2017, arXiv 1706.08500), with ½(Σ + Σᵀ) kept
  symmetric and the trace of the root taken from eigenvalues;
- KID: unbiased squared maximum mean discrepancy with the kernel (xᵀy/D + 1)³ (Bińkowski et al. 2018, arXiv 1801.01401);
- density and coverage (Naeem et al. 2020, arXiv 2002.09797), k nearest real neighbours;
- class-frequency KL: from what was asked for to what an oracle reads, in nats.

FID depends on N; KID does not on average. Every number here is only comparable at equal N and with the same features.
"""

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float64]
"""(N, D): one vector a picture."""

NEIGHBOURS = 5


def fid(real: Features, made: Features) -> float:
    """‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2·(Σ₁Σ₂)^½), covariances with divisor N − 1; 0 for equal sets."""
    gap = real.mean(0) - made.mean(0)
    one, two = _covariance(real), _covariance(made)
    # tr((Σ₁Σ₂)^½) = tr((Σ₁^½·Σ₂·Σ₁^½)^½), whose argument is symmetric: real eigenvalues, none below 0 but by rounding.
    values, vectors = np.linalg.eigh(one)
    root = (vectors * np.sqrt(values.clip(0.0))) @ vectors.T
    middle = root @ two @ root
    shared = np.sqrt(np.linalg.eigvalsh((middle + middle.T) / 2).clip(0.0)).sum()
    return float(gap @ gap + np.trace(one) + np.trace(two) - 2.0 * shared)


def kid(real: Features, made: Features) -> float:
    """The unbiased estimate; it may be below 0 for sets of one distribution. At least two vectors in each."""
    d = real.shape[1]
    within_real, within_made, across = ((a @ b.T / d + 1.0) ** 3 for a, b in ((real, real), (made, made), (real, made)))
    n, m = len(real), len(made)
    first = (within_real.sum() - np.trace(within_real)) / (n * (n - 1))
    second = (within_made.sum() - np.trace(within_made)) / (m * (m - 1))
    return float(first + second - 2.0 * across.mean())


def density_coverage(real: Features, made: Features, k: int = NEIGHBOURS) -> tuple[float, float]:
    """Density: in how many real neighbourhoods a made vector lies, over k, on average; about 1 for equal distributions.
    Coverage: the share of real neighbourhoods in which any made one lies. A neighbourhood includes its border."""
    k = min(k, len(real) - 1)
    radius = np.sort(_distances(real, real), axis=1)[:, k]  # column 0 is the vector itself
    inside = _distances(real, made) <= radius[:, None]
    return float(inside.sum() / (k * len(made))), float(inside.any(axis=1).mean())


def frequency_kl(asked: NDArray[np.int16], read: NDArray[np.int16]) -> float:
    """KL(asked ‖ read) of the classes' frequencies, each read class with half a count more, so that none is 0."""
    classes = np.unique(asked)
    p = np.array([(asked == c).mean() for c in classes])
    counts = np.array([(read == c).sum() for c in classes]) + 0.5
    # What was read as a class that nobody asked for is lost: it stays in the divisor.
    q = counts / (len(read) + 0.5 * len(classes))
    return float((p * np.log(p / q)).sum())


def _covariance(x: Features) -> Features:
    return np.atleast_2d(np.cov(x, rowvar=False))


def _distances(a: Features, b: Features) -> Features:
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2.0 * a @ b.T
    return np.asarray(np.sqrt(squares.clip(0.0)))
