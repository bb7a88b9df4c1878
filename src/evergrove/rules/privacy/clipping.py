"""Clipping: an update is the whole of what a device learnt, one flat vector, and its Euclidean norm is at most C.

Checked before it is clipped: one that is not finite is refused, since C/NaN lets everything through and C/Inf makes
NaN of it. A zero update is an update. The device clips before it sends, and the fog before it sums.
"""

import math
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from evergrove.core.errors import InvalidInput, UsageError

Float = TypeVar("Float", np.float32, np.float64)

SHRINK = 1.0 - 2.0**-40
"""What the factor gives away so that rounding in float64 never leaves a norm above the clip."""
CLIP_MIN, CLIP_MAX = 1e-20, 1e20
"""Bounds of C that keep float32 far from its own: nobody learns with either."""


def norm_of(update: NDArray[Float]) -> float:
    """The Euclidean norm in float64 of a flat float32 or float64 vector; safe where its squares would overflow.

    Raises ``InvalidInput`` for another shape or dtype, or for a number that is not finite.
    """
    if update.ndim != 1 or update.dtype not in (np.float32, np.float64):
        raise InvalidInput(
            f"an update of shape {update.shape}, {update.dtype}; it must be one flat vector of float32 or float64"
        )
    if not update.size:
        return 0.0
    largest = float(np.max(np.abs(update)))  # NaN and Inf both show up in it
    if not math.isfinite(largest):
        n_bad = int(np.count_nonzero(~np.isfinite(update)))
        raise InvalidInput(f"an update with {n_bad} of {update.size} numbers not finite; discard it and learn anew")
    if largest == 0.0:
        return 0.0
    scaled = update.astype(np.float64) / largest
    return largest * math.sqrt(float(scaled @ scaled))


def clip_factor(norm: float, clip: float) -> float:
    """What an update of this norm is multiplied by, in float64, so that its norm is at most ``clip``; 1 if it is.

    Raises ``UsageError`` for a norm or a clip that makes no sense: such an update is refused before, never clipped.
    """
    if not (CLIP_MIN <= clip <= CLIP_MAX):
        raise UsageError(f"a clip of {clip:g}; say one between {CLIP_MIN:g} and {CLIP_MAX:g}")
    if not (math.isfinite(norm) and norm >= 0.0):
        raise UsageError(f"a norm of {norm} cannot be clipped to {clip:g}")
    return 1.0 if norm <= clip else clip / norm * SHRINK


def clip_update(update: NDArray[Float], clip: float) -> NDArray[Float]:
    """The update, or a shorter one in the same direction and dtype whose norm, in float64, is at most ``clip``.

    The same array where nothing was to be done, so clipping twice is clipping once. Raises as ``norm_of`` does.
    """
    norm = norm_of(update)
    factor = clip_factor(norm, clip)
    if factor == 1.0:
        return update
    # Rounding to the dtype moves each number by at most half an epsilon of itself (subnormal ones are below 1e-38·C).
    room = 1.0 - float(np.finfo(update.dtype).eps)
    return (update.astype(np.float64) * (factor * room)).astype(update.dtype)
