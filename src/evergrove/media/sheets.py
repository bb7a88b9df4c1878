"""Contact sheets: labelled grids of pictures as one PNG, for people to look at.

Rows and columns have names; pictures are enlarged by whole factors, so that what is seen are the pixels themselves.
"""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from evergrove.core.errors import UsageError

GAP_PX = 4
TEXT_PX = 13
INK = (32, 36, 42)
PAPER = (255, 255, 255)
EMPTY = (236, 238, 241)


def contact_sheet(
    rows: Sequence[Sequence[NDArray[np.uint8] | None]],
    row_names: Sequence[str] = (),
    column_names: Sequence[str] = (),
    title: str = "",
    zoom: int = 2,
) -> NDArray[np.uint8]:
    """The sheet (H, W, 3) of pictures uint8 (h, w, 3) or (h, w, 1), all of one size; None leaves a cell empty.

    Names may be left out. Raises ``UsageError`` where sizes differ or names do not match the grid.
    """
    shapes = {picture.shape[:2] for row in rows for picture in row if picture is not None}
    if len(shapes) != 1:
        raise UsageError(f"a sheet's pictures have one size, these have {sorted(shapes) or 'none'}")
    n_columns = max(len(row) for row in rows)
    if (row_names and len(row_names) != len(rows)) or (column_names and len(column_names) != n_columns):
        raise UsageError(f"{len(row_names)}×{len(column_names)} names for a grid of {len(rows)}×{n_columns}")
    (height, width) = (side * zoom for side in shapes.pop())
    font = ImageFont.load_default(TEXT_PX)
    left = GAP_PX + max((int(font.getlength(name)) + 2 * GAP_PX for name in row_names), default=0)
    title_px = TEXT_PX + 3 * GAP_PX if title else 0
    top = GAP_PX + title_px + (TEXT_PX + 2 * GAP_PX if column_names else 0)
    size = (left + n_columns * (width + GAP_PX), top + len(rows) * (height + GAP_PX))
    sheet = Image.new("RGB", (max(size[0], int(font.getlength(title)) + 2 * GAP_PX), size[1]), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP_PX, GAP_PX), title, INK, font)
    for j, name in enumerate(column_names):
        draw.text((left + j * (width + GAP_PX) + width // 2, top - GAP_PX), name, INK, font, anchor="ms")
    for i, row in enumerate(rows):
        y = top + i * (height + GAP_PX)
        if row_names:
            draw.text((left - 2 * GAP_PX, y + height // 2), row_names[i], INK, font, anchor="rm")
        for j in range(n_columns):
            x = left + j * (width + GAP_PX)
            picture = row[j] if j < len(row) else None
            if picture is None:
                draw.rectangle((x, y, x + width - 1, y + height - 1), EMPTY)
            else:
                sheet.paste(_enlarged(picture, (width, height)), (x, y))
    return np.asarray(sheet, np.uint8)


def png_bytes(image: NDArray[np.uint8]) -> bytes:
    """A picture (H, W, 3) or (H, W, 1) as the bytes of a PNG file."""
    buffer = io.BytesIO()
    _enlarged(image, (image.shape[1], image.shape[0])).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _enlarged(picture: NDArray[np.uint8], size: tuple[int, int]) -> Image.Image:
    grey = picture.ndim == 3 and picture.shape[2] == 1
    whole = Image.fromarray(np.ascontiguousarray(picture[..., 0] if grey else picture))
    return whole.convert("RGB").resize(size, Image.Resampling.NEAREST)
