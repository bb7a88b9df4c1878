"""What noise is worth in ε: Google's ``dp-accounting``, by privacy loss distributions (PLD), with RDP beside.

All that a grove releases is Gaussian, so that a whole history is one Gaussian query with noise multiplier
1/√(Σ μ²). No amplification by sampling is claimed, ever: devices come and go as they please. ``sampled`` is for
simulation studies alone. The only module that imports ``dp_accounting`` (1.9 CPU-seconds), when it is first asked:
a fog and a cloud have it, a device does not.
"""

import importlib
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from evergrove.core.errors import MissingDependency, UsageError

EPSILON_MAX = 1e4
"""Past this an ε says nothing; infinity is reported."""
EPSILON_BUDGET = (0.001, 100.0)
"""What a budget can be."""
STEP = 5e-4
"""Discretisation of the privacy loss in units of its spread, 1/multiplier; rounded up, so that ε is never too small.

Measured: 5e-8 too large for multipliers from .05 to 1000, in .1 CPU-seconds.
"""
STEP_SAMPLED = 1e-4
"""The same for sampled rounds, in nats."""


class Sampled(NamedTuple):
    """ε of a simulated run by both accountants."""

    pld: float
    rdp: float


@lru_cache(maxsize=4096)
def epsilon(multiplier: float, delta: float) -> float:
    """ε of one Gaussian query whose noise is ``multiplier`` sensitivities, at ``delta``; by PLD, never too small.

    0 for infinite noise, infinite for none. Raises ``UsageError`` for a δ that is no small probability.
    """
    _check_delta(delta)
    if math.isinf(multiplier):
        return 0.0
    if not multiplier > 0 or gaussian_epsilon(multiplier, delta) > EPSILON_MAX:
        return math.inf
    accountant = _library("pld").PLDAccountant(value_discretization_interval=STEP / multiplier)
    return float(accountant.compose(_library().GaussianDpEvent(multiplier)).get_epsilon(delta))


@lru_cache(maxsize=4096)
def epsilon_rdp(multiplier: float, delta: float) -> float:
    """As ``epsilon``, by Rényi divergences: larger, and what older reports give."""
    _check_delta(delta)
    accountant = _library("rdp").RdpAccountant()
    return float(accountant.compose(_library().GaussianDpEvent(multiplier)).get_epsilon(delta))


def epsilon_of(mu_squared: float, delta: float) -> float:
    """ε of a history with this Σ μ² (``NoisePlan.mu_squared``): 0 for nothing released, infinite without noise."""
    if mu_squared < 0 or math.isnan(mu_squared):
        raise UsageError(f"Σ μ² = {mu_squared}; it is never negative")
    if mu_squared == 0:
        return 0.0
    return epsilon(1 / math.sqrt(mu_squared), delta)


def calibrate(target: float, delta: float) -> float:
    """The smallest noise multiplier whose PLD ε is at most ``target``, rounded up in the seventh digit.

    Raises ``UsageError`` where ε is so small or so large that no stream is made for it.
    """
    return _floor(target, delta) * (1 + 1e-9)  # so that adding up μ² in another order stays within the budget


def mu_squared_within(target: float, delta: float) -> float:
    """The Σ μ² whose ε is ``target``: a budget that is quick to check, since Gaussian queries compose by adding μ².

    ``calibrate``'s noise fits into it, and whatever fits has a PLD ε of at most ``target``. Raises as ``calibrate``.
    """
    return _floor(target, delta) ** -2


def split(target: float, delta: float, share: float = 0.02) -> tuple[float, float]:
    """Multipliers (of the noise of the updates, of the counts of their norms) that spend ``target`` together.

    ``share`` is the counts' part of μ²: at 2 % the updates have 1 % more noise. Raises as ``calibrate``.
    """
    if not 0 < share < 1:
        raise UsageError(f"a share of {share}; it must lie between 0 and 1")
    both = calibrate(target, delta)
    return both / math.sqrt(1 - share), both / math.sqrt(share)


def sampled(rate: float, multiplier: float, rounds: int, delta: float) -> Sampled:
    """ε of ``rounds`` rounds of Poisson-sampled DP-FedAvg. For simulations alone: no real grove samples its devices."""
    _check_delta(delta)
    if not (0 < rate <= 1 and multiplier > 0 and rounds >= 1):
        raise UsageError(f"rate {rate}, multiplier {multiplier}, rounds {rounds}; none of them makes sense at 0")
    library = _library()
    one = library.PoissonSampledDpEvent(rate, library.GaussianDpEvent(multiplier))
    event = library.SelfComposedDpEvent(one, rounds)
    pld = _library("pld").PLDAccountant(value_discretization_interval=STEP_SAMPLED).compose(event)
    rdp = _library("rdp").RdpAccountant().compose(event)
    return Sampled(float(pld.get_epsilon(delta)), float(rdp.get_epsilon(delta)))


def gaussian_epsilon(multiplier: float, delta: float) -> float:
    """The exact ε of one Gaussian query, by bisection: what the PLD is checked by, and a first guess."""
    if gaussian_delta(multiplier, 0.0) <= delta:
        return 0.0
    return _bisect(lambda guess: gaussian_delta(multiplier, guess) <= delta)


def gaussian_delta(multiplier: float, guess: float) -> float:
    """The exact δ of one Gaussian query at ε = ``guess`` (Balle & Wang 2018, Theorem 8), with μ = 1/multiplier:

    δ(ε) = Φ(μ/2 − ε/μ) − e^ε Φ(−μ/2 − ε/μ).
    """
    from scipy.special import log_ndtr

    mu = 1 / multiplier
    first, second = float(log_ndtr(mu / 2 - guess / mu)), guess + float(log_ndtr(-mu / 2 - guess / mu))
    return math.exp(first) * -math.expm1(min(second - first, 0.0))


@lru_cache(maxsize=256)
def _floor(target: float, delta: float) -> float:
    """A multiplier whose PLD ε is at most ``target``, and hardly less: the exact one and what the PLD rounds up by."""
    _check_delta(delta)
    if not EPSILON_BUDGET[0] <= target <= EPSILON_BUDGET[1]:
        raise UsageError(
            f"ε = {target}; say one from {EPSILON_BUDGET[0]:g} to {EPSILON_BUDGET[1]:g}, or no noise at all"
        )
    exact, margin = _bisect(lambda z: gaussian_delta(z, target) <= delta), 1e-7
    while epsilon(exact * (1 + margin), delta) > target:
        margin *= 4
    return exact * (1 + margin)


def _bisect(enough: Callable[[float], bool]) -> float:
    """The least positive number that is enough, to twelve digits, from above."""
    low, high = 0.0, 1.0
    while not enough(high):
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _check_delta(delta: float) -> None:
    if not 1e-15 <= delta < 0.5:
        raise UsageError(f"δ = {delta}; say a small probability, such as 1e-6")


def _library(part: str = "") -> Any:
    try:
        return importlib.import_module("dp_accounting" + (f".{part}" if part else ""))
    except ImportError as fault:
        raise MissingDependency("privacy accounting needs dp-accounting: pip install 'evergrove[grove]'") from fault
