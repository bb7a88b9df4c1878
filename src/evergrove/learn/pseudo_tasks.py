"""Pseudo-tasks: known pictures, changed by a recipe and called by a new name, for learning A (``learn/basis.py``).

A recipe is one to three changes of a region: a stamp, another colour, a flip, a shift, a warp. It is drawn once per
new value and applied to all its pictures alike, as a new face is to all who make it. Nothing here may look like what is
held back for devices to learn: stamps are neither red, pink nor green and never cross, and nothing adds green.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evergrove.core.conditions import Factor, Vocabulary

Images = NDArray[np.uint8]
Change = Callable[[Images], Images]
"""uint8 (N, H, W, C) → the same shape; the input is not written to."""

STAMP_COLORS = (
    (20, 24, 60),
    (60, 90, 220),
    (120, 70, 200),
    (250, 210, 40),
    (240, 140, 30),
    (250, 250, 250),
    (30, 30, 30),
)
STRONG = ("stamp", "flip", "shift")
KINDS = (*STRONG, "recolour", "warp")
FIRST_FACTOR_SHARE = 0.75
"""How often the new values belong to the vocabulary's first factor; else to any other one."""


@dataclass(frozen=True)
class PseudoTask:
    """New pictures with their new codes, and the known ones to replay; ``vocabulary`` knows both."""

    vocabulary: Vocabulary
    images: Images
    codes: NDArray[np.int16]
    known_images: Images
    known_codes: NDArray[np.int16]

    def batch(self, n_new: int, n_known: int, rng: np.random.Generator) -> tuple[Images, NDArray[np.int16]]:
        """New ones first, then known ones."""
        new = rng.integers(len(self.images), size=n_new)
        known = rng.integers(len(self.known_images), size=n_known)
        images = np.concatenate((self.images[new], self.known_images[known]))
        return images, np.concatenate((self.codes[new], self.known_codes[known]))


def draw_task(
    images: Images,
    codes: NDArray[np.int16],
    vocabulary: Vocabulary,
    n_new: int,
    rng: np.random.Generator,
    kinds: Sequence[str] = KINDS,
) -> PseudoTask:
    """A task of two new values of one factor with ``n_new`` pictures in all, made from known pictures."""
    f = 0 if rng.random() < FIRST_FACTOR_SHARE else int(rng.integers(len(vocabulary.factors)))
    factor = vocabulary.factors[f]
    names = tuple(f"pseudo-{i}" for i in range(2))
    wider = Vocabulary(
        (*vocabulary.factors[:f], Factor(factor.name, (*factor.values, *names)), *vocabulary.factors[f + 1 :])
    )
    new_images, new_codes = [], []
    for i in range(len(names)):
        source = np.flatnonzero(codes[:, f] == 1 + rng.integers(len(factor.values)))
        if not len(source):  # a value that no picture shows
            source = np.arange(len(images))
        chosen = rng.choice(source, size=max(1, n_new // 2))
        picked = codes[chosen].copy()
        picked[:, f] = len(factor.values) + 1 + i
        new_images.append(draw_recipe(rng, kinds)(images[chosen]))
        new_codes.append(picked)
    return PseudoTask(wider, np.concatenate(new_images), np.concatenate(new_codes), images, codes)


def draw_recipe(rng: np.random.Generator, kinds: Sequence[str] = KINDS) -> Change:
    """One to three changes in a row, of those ``kinds``; the first is a strong one where there is any."""
    strong = [kind for kind in kinds if kind in STRONG] or kinds
    changes = [_MAKERS[strong[int(rng.integers(len(strong)))]](rng)]
    for _ in range(int(rng.integers(3))):
        changes.append(_MAKERS[kinds[int(rng.integers(len(kinds)))]](rng))

    def recipe(images: Images) -> Images:
        for change in changes:
            images = change(images)
        return images

    return recipe


@dataclass(frozen=True)
class _Region:
    """A box, and perhaps its mirror image, in shares of the picture's side."""

    y: float
    x: float
    height: float
    width: float
    mirrored: bool

    def boxes(self, side: int) -> list[tuple[slice, slice]]:
        centres = [self.x, 1.0 - self.x] if self.mirrored else [self.x]
        return [(_span(self.y, self.height, side), _span(x, self.width, side)) for x in centres]


def _span(centre: float, size: float, side: int) -> slice:
    n = max(2, round(size * side))
    start = min(max(0, round(centre * side - n / 2)), side - n)
    return slice(start, start + n)


def _region(rng: np.random.Generator, size: tuple[float, float] = (0.12, 0.4)) -> _Region:
    mirrored = bool(rng.random() < 0.4)
    x = rng.uniform(0.25, 0.42) if mirrored else rng.uniform(0.3, 0.7)
    width = rng.uniform(size[0], min(size[1], 0.25 if mirrored else size[1]))
    return _Region(rng.uniform(0.25, 0.8), x, rng.uniform(*size), width, mirrored)


def _stamp(rng: np.random.Generator) -> Change:
    """A disc, ring, bar, triangle or chequer in one colour, once or as a mirrored pair."""
    region = _region(rng, (0.06, 0.25))
    color = np.array(STAMP_COLORS[rng.integers(len(STAMP_COLORS))], np.float32)
    shape = _SHAPES[rng.integers(len(_SHAPES))]

    def change(images: Images) -> Images:
        out = images.astype(np.float32)
        for rows, columns in region.boxes(images.shape[1]):
            v, u = np.meshgrid(
                np.linspace(-1, 1, rows.stop - rows.start),
                np.linspace(-1, 1, columns.stop - columns.start),
                indexing="ij",
            )
            mask = shape(v, u)[None, :, :, None].astype(np.float32)
            out[:, rows, columns] += mask * (color[: images.shape[3]] - out[:, rows, columns])
        return out.astype(np.uint8)

    return change


_SHAPES: tuple[Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.bool_]], ...] = (
    lambda v, u: v**2 + u**2 <= 1.0,
    lambda v, u: (v**2 + u**2 <= 1.0) & (v**2 + u**2 >= 0.35),
    lambda v, u: np.abs(v) <= 0.45,
    lambda v, u: np.abs(u) <= 0.45,
    lambda v, u: np.abs(u) <= (v + 1) / 2,
    lambda v, u: ((v > 0) == (u > 0)) | (v**2 > 0.8),
)


def _recolour(rng: np.random.Generator) -> Change:
    """Darker, lighter, greyer, bluer or negative, in a region."""
    region = _region(rng)
    kind = int(rng.integers(5))

    def change(images: Images) -> Images:
        out = images.astype(np.float32)
        for box in region.boxes(images.shape[1]):
            part = out[:, box[0], box[1]]
            grey = part.mean(axis=-1, keepdims=True)
            blue = np.concatenate((part[..., :-1] * 0.6, part[..., -1:] * 0.4 + 150), axis=-1)
            out[:, box[0], box[1]] = (part * 0.5, part * 0.5 + 127, grey + 0 * part, blue, 255 - grey + 0 * part)[kind]
        return out.clip(0, 255).astype(np.uint8)

    return change


def _flip(rng: np.random.Generator) -> Change:
    """A region upside down, mirrored, or both."""
    region = _region(rng, (0.2, 0.5))
    axes = ((1,), (2,), (1, 2))[rng.integers(3)]

    def change(images: Images) -> Images:
        out = images.copy()
        for rows, columns in region.boxes(images.shape[1]):
            out[:, rows, columns] = np.flip(images[:, rows, columns], axis=axes)
        return out

    return change


def _shift(rng: np.random.Generator) -> Change:
    """A region copied a little way off."""
    region = _region(rng, (0.12, 0.4))
    share = rng.uniform(0.06, 0.15, size=2) * rng.choice((-1, 1), size=2)

    def change(images: Images) -> Images:
        out = images.copy()
        side = images.shape[1]
        down, right = (int(s) for s in np.round(share * side))
        for rows, columns in region.boxes(side):
            to_rows = _moved(rows, down, side)
            to_columns = _moved(columns, right, side)
            out[:, to_rows, to_columns] = images[:, rows, columns]
        return out

    return change


def _moved(span: slice, by: int, side: int) -> slice:
    n = span.stop - span.start
    start = min(max(0, span.start + by), side - n)
    return slice(start, start + n)


def _warp(rng: np.random.Generator) -> Change:
    """A region pulled sideways in waves, or squeezed towards its middle."""
    region = _region(rng, (0.25, 0.5))
    waves, depth, squeeze = rng.uniform(0.5, 2.0), rng.uniform(0.04, 0.1), bool(rng.random() < 0.5)

    def change(images: Images) -> Images:
        out = images.copy()
        for rows, columns in region.boxes(images.shape[1]):
            height, width = rows.stop - rows.start, columns.stop - columns.start
            v, u = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
            inside = np.clip(1 - np.maximum(np.abs(v), np.abs(u)), 0, 1)
            pull = u * inside if squeeze else np.sin(np.pi * waves * v) * np.sqrt(inside)
            source = np.arange(width)[None, :] + pull * depth * images.shape[1]
            near = np.clip(np.round(source), 0, width - 1).astype(np.intp)
            part = images[:, rows, columns]
            out[:, rows, columns] = part[:, np.arange(height)[:, None], near]
        return out

    return change


_MAKERS: Mapping[str, Callable[[np.random.Generator], Change]] = {
    "stamp": _stamp,
    "flip": _flip,
    "shift": _shift,
    "recolour": _recolour,
    "warp": _warp,
}
