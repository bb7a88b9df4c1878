"""Clipping: finite first, then never longer than the clip, to the last bit that privacy rests on."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from evergrove.core.errors import InvalidInput, UsageError
from evergrove.rules.privacy.clipping import clip_factor, clip_update, norm_of

CLIPS = st.floats(1e-6, 1e6)
FLOAT32 = hnp.arrays(np.float32, st.integers(0, 40), elements=st.floats(-(2.0**100), 2.0**100, width=32))
FLOAT64 = hnp.arrays(np.float64, st.integers(0, 40), elements=st.floats(-1e300, 1e300))


@settings(max_examples=120, deadline=None)
@given(st.one_of(FLOAT32, FLOAT64), CLIPS)
def test_a_clipped_update_is_no_longer_than_the_clip(update: np.ndarray, clip: float) -> None:
    """In float64, whatever was rounded on the way; same dtype, same direction; clipping twice is clipping once."""
    clipped = clip_update(update, clip)
    assert clipped.dtype == update.dtype
    assert norm_of(clipped) <= clip
    assert np.array_equal(clip_update(clipped, clip), clipped)
    if norm_of(update) <= clip:
        assert clipped is update
    else:
        assert norm_of(clipped) > clip * (1 - 1e-6)
        assert np.all(clipped * np.sign(update) >= 0)


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-1, 1, width=32)),
    st.sampled_from([np.nan, np.inf, -np.inf]),
    st.data(),
)
def test_what_is_not_finite_is_refused_not_clipped(update: np.ndarray, bad: float, data: st.DataObject) -> None:
    """One NaN or Inf anywhere: C/NaN would let all of it through, C/Inf would make NaN of it."""
    update[data.draw(st.integers(0, update.size - 1))] = bad
    with pytest.raises(InvalidInput, match="not finite"):
        clip_update(update, 1.0)


def test_a_zero_update_is_an_update() -> None:
    """Known libraries divide by its norm."""
    zero = np.zeros(5, np.float32)
    assert clip_update(zero, 1.0) is zero
    assert clip_factor(0.0, 1.0) == 1.0


def test_three_four_five() -> None:
    """A norm of 5, clipped to 1: .6 and .8."""
    assert norm_of(np.array([3.0, 4.0])) == 5.0
    assert clip_update(np.array([3.0, 4.0]), 1.0) == pytest.approx([0.6, 0.8])


def test_squares_that_would_overflow_or_vanish() -> None:
    """Norms far from 1 are right, too."""
    assert norm_of(np.array([3e200, 4e200])) == pytest.approx(5e200)
    assert norm_of(np.array([3e-200, 4e-200])) == pytest.approx(5e-200)
    assert norm_of(np.full(4, 5e-324)) == pytest.approx(1e-323)


@pytest.mark.parametrize("update", [np.zeros((2, 2)), np.zeros(3, np.float16), np.zeros(3, np.int64), np.array(1.0)])
def test_another_form_is_refused(update: np.ndarray) -> None:
    """One flat vector of float32 or float64: a matrix clipped by rows would be another sensitivity."""
    with pytest.raises(InvalidInput, match="one flat vector"):
        norm_of(update)


@pytest.mark.parametrize(
    ("norm", "clip"), [(math.nan, 1), (math.inf, 1), (-1, 1), (1, 0), (1, -1), (1, math.nan), (1, 1e21)]
)
def test_factors_that_make_no_sense(norm: float, clip: float) -> None:
    """A norm that is no norm, a clip that is none."""
    with pytest.raises(UsageError):
        clip_factor(norm, clip)
