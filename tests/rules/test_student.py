"""Student's t without scipy: checked against scipy and against values from a printed table."""

import pytest
from scipy import stats

from evergrove.rules.student import quantile, tail


@pytest.mark.parametrize("df", [1, 2, 3, 4, 5, 11, 30, 149, 500])
@pytest.mark.parametrize("alpha", [0.5, 0.05, 1e-3, 0.05 / 600, 1e-7])
def test_quantile_is_scipys(df: int, alpha: float) -> None:
    """The gate's critical values agree with scipy's to seven digits."""
    assert quantile(alpha, df) == pytest.approx(stats.t.isf(alpha, df), rel=1e-7, abs=1e-12)


@pytest.mark.parametrize("df", [1, 2, 3, 8, 49])
@pytest.mark.parametrize("t", [-3.0, -0.2, 0.0, 0.7, 5.0, 40.0])
def test_tail_is_scipys(df: int, t: float) -> None:
    """P(T > t) on both sides of zero."""
    assert tail(t, df) == pytest.approx(stats.t.sf(t, df), abs=1e-13)


def test_known_values() -> None:
    """Two entries of every printed table: t(.95; 10) = 1.812 and t(.975; 1) = 12.706."""
    assert round(quantile(0.05, 10), 3) == 1.812
    assert round(quantile(0.025, 1), 3) == 12.706


def test_nonsense_is_refused() -> None:
    """No degrees of freedom, or a level that the bisection is not made for."""
    with pytest.raises(ValueError, match="0 degrees of freedom"):
        tail(1.0, 0)
    with pytest.raises(ValueError, match=r"alpha = 0\.7"):
        quantile(0.7, 5)
