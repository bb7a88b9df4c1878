"""ε by PLD and RDP: DESIGN's test vectors, the exact Gaussian, calibration, and what the import costs a device."""

import math
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evergrove.core.errors import MissingDependency, UsageError
from evergrove.rules.privacy import accounting
from evergrove.rules.privacy.accounting import (
    calibrate,
    epsilon,
    epsilon_of,
    epsilon_rdp,
    gaussian_delta,
    gaussian_epsilon,
    mu_squared_within,
    sampled,
    split,
)

DELTA = 1e-6


def test_sampled_vector() -> None:
    """q = .01, z = 1, T = 1000: RDP 2.4366938, PLD 2.1245225."""
    both = sampled(0.01, 1.0, 1000, DELTA)
    assert both.rdp == pytest.approx(2.4366938, abs=1e-7)
    assert both.pld == pytest.approx(2.1245225, abs=1e-7)


def test_unsampled_vectors() -> None:
    """z = 1: one query 4.886554, ten of them (Σ μ² = 10) 19.423656. Sampling would have claimed a tenth of it."""
    assert epsilon(1.0, DELTA) == pytest.approx(4.886554, abs=1e-6)
    assert epsilon_of(10.0, DELTA) == pytest.approx(19.423656, abs=2e-6)


@pytest.mark.parametrize(("target", "z"), [(1, 4.2247), (2, 2.2305), (4, 1.1935), (8, 0.6529)])
def test_calibration_vectors(target: float, z: float) -> None:
    """δ = 1e-6: the multiplier to four digits; its ε is within the target, and a little less noise is not."""
    found = calibrate(target, DELTA)
    assert found == pytest.approx(z, abs=5e-5)
    assert target * (1 - 1e-5) < epsilon(found, DELTA) <= target
    assert epsilon(found * (1 - 1e-5), DELTA) > target


@settings(max_examples=20, deadline=None)
@given(st.floats(0.5, 200), st.sampled_from([1e-10, 1e-6, 1e-3]))
def test_the_pld_is_never_too_small_and_rdp_is_larger(z: float, delta: float) -> None:
    """Exact ≤ PLD ≤ exact and a little; RDP above both."""
    exact, pld = gaussian_epsilon(z, delta), epsilon(z, delta)
    assert exact * (1 - 1e-10) <= pld <= exact * (1 + 1e-6)
    assert epsilon_rdp(z, delta) >= exact


@pytest.mark.parametrize("z", [0.02, 0.1, 0.3])
def test_little_noise_is_not_too_small_either(z: float) -> None:
    """Where ε is in the hundreds the grid rounds up as well."""
    exact = gaussian_epsilon(z, DELTA)
    assert exact <= epsilon(z, DELTA) <= exact * 1.001  # .0006 at .02, where ε is 1488


def test_delta_by_hand() -> None:
    """At ε = 0 the δ of a Gaussian is 2Φ(μ/2) − 1: .3829 for μ = 1."""
    assert gaussian_delta(1.0, 0.0) == pytest.approx(math.erf(0.5 / math.sqrt(2)))
    assert gaussian_epsilon(100.0, 0.4) == 0.0


def test_the_ends() -> None:
    """Nothing released spends nothing; no noise, or hardly any, spends everything."""
    assert epsilon_of(0.0, DELTA) == 0.0
    assert epsilon(math.inf, DELTA) == 0.0
    assert epsilon(0.0, DELTA) == epsilon_of(math.inf, DELTA) == epsilon(1e-4, DELTA) == math.inf


@pytest.mark.parametrize("target", [0.5, 1.0, 8.0])
def test_a_budget_of_mu_squared_is_a_budget_of_epsilon(target: float) -> None:
    """What fits has a PLD ε within it; what a calibrated stream and its count spend together fits."""
    whole = mu_squared_within(target, DELTA)
    assert epsilon_of(whole, DELTA) <= target
    assert calibrate(target, DELTA) ** -2 <= whole
    updates, counts = split(target, DELTA, share=0.1)
    assert whole * (1 - 1e-6) < updates**-2 + counts**-2 <= whole
    assert counts**-2 == pytest.approx(0.1 * whole)


@pytest.mark.parametrize(
    "call",
    [
        lambda: epsilon(1.0, 0.0),
        lambda: epsilon(1.0, math.nan),
        lambda: epsilon_of(-1.0, DELTA),
        lambda: epsilon_of(math.nan, DELTA),
        lambda: calibrate(0.0, DELTA),
        lambda: calibrate(math.inf, DELTA),
        lambda: sampled(0.0, 1.0, 1, DELTA),
        lambda: split(1.0, DELTA, share=1.0),
    ],
)
def test_nonsense_is_refused(call: object) -> None:
    """No δ, no budget, no rate: an error, not a number."""
    assert callable(call)
    with pytest.raises(UsageError):
        call()


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that asks for an ε is told what to install."""
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(MissingDependency, match="pip install"):
        accounting._library()


def test_a_device_pays_for_none_of_it() -> None:
    """What devices import brings neither dp_accounting nor scipy; the ledger brings them only when it is asked."""
    code = (
        "import sys; from evergrove.rules import aggregate, consolidate; "
        "from evergrove.rules.privacy import clipping, participation, ledger, rounds, quantile, optimise; "
        "print([m for m in ('dp_accounting', 'scipy', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
