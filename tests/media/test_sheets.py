"""Contact sheets: pixels stay pixels, and names have their room."""

import io

import numpy as np
import pytest
from PIL import Image

from evergrove.core.errors import UsageError
from evergrove.media.sheets import contact_sheet, png_bytes

RED = np.full((8, 8, 3), (255, 0, 0), np.uint8)


def test_a_sheet_without_names_is_a_grid() -> None:
    """Two by three pictures of 8 pixels at zoom 2, with gaps of 4."""
    sheet = contact_sheet([[RED, RED, RED], [RED, None]], zoom=2)
    assert sheet.shape == (4 + 2 * 20, 4 + 3 * 20, 3)
    assert (sheet[4:20, 4:20] == RED[0, 0]).all()
    assert (sheet[:4] == 255).all()
    assert not (sheet[24:40, 24:40] == RED[0, 0]).all()


def test_names_and_a_title_take_room_and_are_drawn() -> None:
    """The sheet grows, and has ink outside of the pictures."""
    plain = contact_sheet([[RED]])
    named = contact_sheet([[RED]], ["happy"], ["before"], "What was learnt")
    assert named.shape[0] > plain.shape[0]
    assert named.shape[1] > plain.shape[1]
    assert (named.max(axis=2) < 128).any()


def test_grey_pictures_and_png() -> None:
    """One channel is enough; PNG bytes decode to the same pixels."""
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    again = np.asarray(Image.open(io.BytesIO(png_bytes(grey))))
    assert np.array_equal(again, np.repeat(grey, 3, axis=2))
    assert contact_sheet([[grey]], zoom=1).shape == (16, 16, 3)


def test_what_does_not_fit_is_refused() -> None:
    """Different sizes, an empty sheet, names for another grid."""
    with pytest.raises(UsageError, match="one size"):
        contact_sheet([[RED, RED[:4, :4]]])
    with pytest.raises(UsageError, match="none"):
        contact_sheet([[None]])
    with pytest.raises(UsageError, match="names for a grid"):
        contact_sheet([[RED]], ["a", "b"])
