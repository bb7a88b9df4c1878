"""The filter behind ``rules/thermal``: R and the level of one zone, learned together from each reading.

Recursive least squares as a Kalman filter: R and the level walk at random, the level moves with ``Σ R_i·Δf_i``, and a
reading is the level plus noise. R stays ≥ 0 by projection, its variances under a cap. Plain floats: numpy takes three
times as long for matrices of four by four.
"""

import math
from typing import NamedTuple

TAU_S = (4.0, 40.0, 400.0)
"""The poles: die, board and heat sink, case."""

Poles = tuple[float, float, float]
Covariance = tuple[float, float, float, float, float, float, float, float, float, float]
"""Upper triangle of the covariance of (R_4, R_40, R_400, level), row by row, in K²."""


class Noise(NamedTuple):
    """Standard deviations: of a reading in °C, and after one second of the walks of R (one by one) and level in °C.

    ``caps`` are the greatest variances of R, in K².
    """

    reading_c: float
    gain_c: Poles
    level_c: float
    caps: Poles


def low_pass(filtered: Poles, load: float, dt_s: float) -> Poles:
    """The filtered loads after ``dt_s`` seconds of a constant load (0 to 1)."""
    a, b, c = filtered
    one, two, three = TAU_S
    return (
        load + (a - load) * math.exp(-dt_s / one),
        load + (b - load) * math.exp(-dt_s / two),
        load + (c - load) * math.exp(-dt_s / three),
    )


def learn(
    noise: Noise,
    gain_c: Poles,
    level_c: float,
    covariance: Covariance,
    change: Poles,
    temp_c: float,
    dt_s: float,
    learns: bool,
) -> tuple[Poles, float, Covariance]:
    """One step of the filter on (R, level); where R does not learn, its doubt still counts (Schmidt's filter).

    ``change`` is how far the filtered loads moved since the last reading.
    """
    f, g, h = change
    aa, ab, ac, ad, bb, bc, bd, cc, cd, dd = covariance
    # 1. The level moves with the load; what is not known of R makes it less sure.
    level_c += dot(gain_c, change)
    pa, pb, pc = aa * f + ab * g + ac * h, ab * f + bb * g + bc * h, ac * f + bc * g + cc * h
    dd += 2.0 * (ad * f + bd * g + cd * h) + pa * f + pb * g + pc * h + noise.level_c**2 * dt_s
    ad, bd, cd = ad + pa, bd + pb, cd + pc
    # 2. The reading against what was expected.
    total = dd + noise.reading_c**2
    error_c = temp_c - level_c
    kd = dd / total
    level_c += kd * error_c
    rest = 1.0 - kd
    if not learns:
        return gain_c, level_c, (aa, ab, ac, ad * rest, bb, bc, bd * rest, cc, cd * rest, dd * rest)
    # 3. The step of R, projected onto R ≥ 0.
    ka, kb, kc = ad / total, bd / total, cd / total
    r, s, t = gain_c
    gain_c = (max(r + ka * error_c, 0.0), max(s + kb * error_c, 0.0), max(t + kc * error_c, 0.0))
    # 4. The covariance shrinks by what was learned, grows by what may have changed, and never passes its cap.
    u, v, w = noise.gain_c
    aa, ab, ac = aa - ka * ad + u * u * dt_s, ab - ka * bd, ac - ka * cd
    bb, bc, cc = bb - kb * bd + v * v * dt_s, bc - kb * cd, cc - kc * cd + w * w * dt_s
    return gain_c, level_c, _capped(noise.caps, (aa, ab, ac, ad * rest, bb, bc, bd * rest, cc, cd * rest, dd * rest))


def _capped(caps: Poles, covariance: Covariance) -> Covariance:
    """Scale rows and columns so that no variance of R passes its cap: the matrix stays positive semidefinite."""
    aa, ab, ac, ad, bb, bc, bd, cc, cd, dd = covariance
    u, v, w = caps
    if aa <= u and bb <= v and cc <= w:
        return covariance
    i, j, k = (math.sqrt(cap / max(have, cap)) for have, cap in ((aa, u), (bb, v), (cc, w)))
    return aa * i * i, ab * i * j, ac * i * k, ad * i, bb * j * j, bc * j * k, bd * j, cc * k * k, cd * k, dd


def dot(a: Poles, b: Poles) -> float:
    """Σ a_i·b_i."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def minus(a: Poles, b: Poles) -> Poles:
    """Pole by pole."""
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


def spread(covariance: Covariance, x: Poles) -> float:
    """Variance in K² of Σ R_i·x_i."""
    aa, ab, ac, _, bb, bc, _, cc, _, _ = covariance
    f, g, h = x
    return aa * f * f + bb * g * g + cc * h * h + 2.0 * (ab * f * g + ac * f * h + bc * g * h)
