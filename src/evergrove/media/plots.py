"""Pictures that tell the story without words around them: faces with and without Evergrove, and what was forgotten.

Drawn with Pillow alone, at twice the size and then halved, so that lines and letters are crisp on any screen and no
plotting library is needed. In go uint8 pictures (H, W, 3) and plain numbers, out come images to be saved as PNG.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from evergrove.core.errors import UsageError
from evergrove.media.charts import Curve, ticks

PAPER, INK, FAINT, GRID = "#ffffff", "#1d2b24", "#68756e", "#e3e9e5"
TONES = {"good": "#0f7a55", "bad": "#c8443a", "plain": "#68756e"}
OVERSIZE = 2
"""Everything is drawn this much larger and then reduced: the cheapest way to smooth lines."""


@dataclass(frozen=True)
class Row:
    """One row of faces: what it is, and per condition its pictures (uint8 (H, W, 3)) and the share that is right.

    A condition without pictures is shown as not known.
    """

    label: str
    pictures: Mapping[str, Sequence[NDArray[np.uint8]]]
    right: Mapping[str, float]


def samples(
    title: str, rows: Sequence[Row], groups: Sequence[tuple[str, Sequence[str]]], *, face_px: int = 76
) -> Image.Image:
    """A sheet: one row per model, one column per condition, up to four faces in each, the wrong ones framed in red.

    ``groups`` name the columns in order, such as ``("what it knew", ["happy", "sad"])``. Raises ``UsageError`` for a
    sheet without rows or columns.
    """
    grid = _Grid(rows, groups, face_px, n_side=2)
    page = _Page(grid.width + 40, grid.height + 74)
    page.text(20, 16, title, size=23, weight=1)
    grid.draw(page, 20, 60)
    return page.finish()


def forgetting(
    title: str,
    rows: Sequence[Row],
    groups: Sequence[tuple[str, Sequence[str]]],
    lines: Sequence[Curve],
    *,
    face_px: int = 88,
) -> Image.Image:
    """The picture of forgetting: one face per model and condition above, accuracy over the training steps below."""
    grid = _Grid(rows, groups, face_px, n_side=1)
    width, chart_height = grid.width + 40, 300
    page = _Page(width, grid.height + chart_height + 100)
    page.text(20, 16, title, size=23, weight=1)
    grid.draw(page, 20, 60)
    _chart(page, lines, 20, grid.height + 78, width - 40, chart_height)
    return page.finish()


class _Page:
    """A canvas in points: coordinates and sizes of the finished picture, drawn ``OVERSIZE`` times as large."""

    def __init__(self, width: int, height: int) -> None:
        self.size = (width * 2, height * 2)
        self.scale = 2 * OVERSIZE
        self.image = Image.new("RGB", (width * self.scale, height * self.scale), PAPER)
        self.pen = ImageDraw.Draw(self.image)

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: float = 14,
        colour: str = INK,
        anchor: str = "la",
        weight: int = 0,
    ) -> None:
        font = ImageFont.load_default(size * self.scale)
        place = (x * self.scale, y * self.scale)
        self.pen.text(place, words, fill=colour, font=font, anchor=anchor, stroke_width=weight, stroke_fill=colour)

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: float, dashed: bool = False) -> None:
        scaled = [(x * self.scale, y * self.scale) for x, y in points]
        for piece in _dashes(scaled, 7.0 * self.scale) if dashed else [scaled]:
            self.pen.line(piece, fill=colour, width=round(width * self.scale), joint="curve")

    def disc(self, x: float, y: float, radius: float, colour: str) -> None:
        self.pen.circle(
            (x * self.scale, y * self.scale), radius * self.scale, fill=colour, outline=PAPER, width=self.scale
        )

    def frame(self, x: float, y: float, w: float, h: float, colour: str, width: float = 2) -> None:
        box = (x * self.scale, y * self.scale, (x + w) * self.scale, (y + h) * self.scale)
        self.pen.rounded_rectangle(box, 6 * self.scale, outline=colour, width=round(width * self.scale))

    def face(self, x: float, y: float, side: float, pixels: NDArray[np.uint8]) -> None:
        length = round(side * self.scale)
        face = Image.fromarray(pixels).resize((length, length), Image.Resampling.LANCZOS)
        mask = Image.new("L", (length, length), 0)
        ImageDraw.Draw(mask).rounded_rectangle((0, 0, length - 1, length - 1), 6 * self.scale, fill=255)
        self.image.paste(face, (round(x * self.scale), round(y * self.scale)), mask)

    def finish(self) -> Image.Image:
        return self.image.resize(self.size, Image.Resampling.LANCZOS)


class _Grid:
    """Rows of faces with their labels, captions and the names of the columns."""

    label_width, gap, head, caption = 138, 10, 44, 20

    def __init__(
        self, rows: Sequence[Row], groups: Sequence[tuple[str, Sequence[str]]], face_px: int, n_side: int
    ) -> None:
        n_columns = sum(len(names) for _, names in groups)
        if not rows or not n_columns:
            raise UsageError("a sheet needs at least one row and one column")
        self.rows, self.groups, self.face_px, self.n_side = rows, groups, face_px, n_side
        self.cell = face_px * n_side + 3 * (n_side - 1)
        self.width = self.label_width + n_columns * (self.cell + self.gap) + (len(groups) - 1) * self.gap * 2
        self.height = self.head + len(rows) * (self.cell + self.caption + self.gap)

    def draw(self, page: _Page, x: float, y: float) -> None:
        left = x + self.label_width
        for group, names in self.groups:
            wide = len(names) * (self.cell + self.gap) - self.gap
            page.text(left, y, group, size=13, colour=FAINT)
            page.line([(left, y + 19), (left + wide, y + 19)], GRID, 1.5)
            for name in names:
                page.text(left + self.cell / 2, y + 24, name, size=14, anchor="ma")
                self._column(page, left, y + self.head, name)
                left += self.cell + self.gap
            left += self.gap * 2
        for i, row in enumerate(self.rows):
            top = y + self.head + i * (self.cell + self.caption + self.gap)
            for j, words in enumerate(_wrap(row.label, 16)):
                page.text(x, top + self.cell / 2 - 10 + 19 * j, words, size=15, weight=1 if j == 0 else 0)

    def _column(self, page: _Page, x: float, y: float, name: str) -> None:
        for row in self.rows:
            faces = row.pictures.get(name, ())
            if len(faces) == 0:
                page.frame(x, y, self.cell, self.cell, GRID, 1)
                page.text(x + self.cell / 2, y + self.cell / 2, "not known", size=12, colour=FAINT, anchor="mm")
            for k, pixels in enumerate(list(faces)[: self.n_side**2]):
                step = self.face_px + 3
                page.face(x + k % self.n_side * step, y + k // self.n_side * step, self.face_px, pixels)
            share = row.right.get(name)
            if share is not None and len(faces):
                tone = TONES["good" if share >= 0.9 else "bad" if share < 0.6 else "plain"]
                if share < 0.6:
                    page.frame(x - 2, y - 2, self.cell + 4, self.cell + 4, TONES["bad"])
                page.text(x + self.cell / 2, y + self.cell + 4, f"{share:.0%} right", size=12, colour=tone, anchor="ma")
            y += self.cell + self.caption + self.gap


def _chart(page: _Page, lines: Sequence[Curve], x: float, y: float, width: float, height: float) -> None:
    """Shares over training steps; every line carries its name at its end, kept apart from its neighbours."""
    x_max = max((px for line in lines for px, _ in line.points), default=0.0)
    if x_max <= 0:
        raise UsageError("a chart needs at least one point beyond x = 0")
    left, right, top, bottom = x + 44, x + width - 250, y + 26, y + height - 34

    def at(px: float, py: float) -> tuple[float, float]:
        return left + (right - left) * px / x_max, bottom - (bottom - top) * py

    page.text(x, y, "pictures that an independent judge recognises", size=13, colour=FAINT)
    for share in (0, 0.25, 0.5, 0.75, 1):
        page.line([at(0, share), at(x_max, share)], GRID, 1)
        page.text(left - 8, at(0, share)[1], f"{share:.0%}", size=12, colour=FAINT, anchor="rm")
    for step in ticks(x_max):
        page.text(at(step, 0)[0], bottom + 6, f"{step:g}", size=12, colour=FAINT, anchor="ma")
    page.text((left + right) / 2, bottom + 20, "training steps on the device", size=12, colour=FAINT, anchor="ma")
    for line in lines:
        colour = TONES.get(line.tone, TONES["plain"])
        page.line([at(*p) for p in line.points], colour, 3, line.dashed)
        page.disc(*at(*line.points[-1]), 5, colour)
    ends = sorted(lines, key=lambda line: -line.points[-1][1])
    heights = _apart([at(*line.points[-1])[1] for line in ends], 19)
    for line, level in zip(ends, heights, strict=True):
        words = f"{line.points[-1][1]:.0%}  {line.label}"
        page.text(right + 14, level, words, size=13, colour=TONES.get(line.tone, TONES["plain"]), anchor="lm")


def _apart(levels: list[float], least: float) -> list[float]:
    """Levels (ascending) moved so that neighbours are ``least`` apart, around where they were."""
    placed: list[float] = []
    for level in levels:
        placed.append(max(level, placed[-1] + least) if placed else level)
    drift = (sum(placed) - sum(levels)) / len(levels) if levels else 0.0
    return [p - drift / 2 for p in placed]


def _dashes(points: Sequence[tuple[float, float]], length: float) -> list[list[tuple[float, float]]]:
    """A path cut into dashes of a length, with gaps as long."""
    pieces, on, left = [], True, length
    piece = [points[0]]
    for (x0, y0), (x1, y1) in pairwise(points):
        span = float(np.hypot(x1 - x0, y1 - y0))
        done = 0.0
        while span - done > left:
            done += left
            cut = (x0 + (x1 - x0) * done / span, y0 + (y1 - y0) * done / span)
            if on:
                pieces.append([*piece, cut])
            piece, on, left = [cut], not on, length
        left -= span - done
        piece.append((x1, y1))
    return [*pieces, piece] if on and len(piece) > 1 else pieces


def _wrap(words: str, most: int) -> list[str]:
    lines = [""]
    for word in words.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > most:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
