"""Signs that nobody writes, drawn by rule: what the base of the handwriting streams knows.

A sign is one to three strokes (quadratic Bézier curves); each of its pictures is turned, sheared, moved, and drawn with
another pen. So a base can learn what strokes are with no data set at all, every character of the real sets stays unseen
by base, A and tuning, and there is no end of pseudo-tasks. White ink on black, as MNIST has it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evergrove.core.conditions import Factor, Vocabulary
from evergrove.core.rng import stream
from evergrove.learn.pseudo_tasks import PseudoTask
from evergrove.learn.strategies import Samples

POINTS = 32
"""Points along a stroke; at 32 px they stand closer than the thinnest pen is wide."""
ELASTIC = 0.035
"""How far the strokes' own points wander from picture to picture, in shares of the side."""


@dataclass(frozen=True)
class Sign:
    """``strokes`` (S, 3, 2): the control points of each curve, (x, y); the picture is -1 to 1."""

    strokes: NDArray[np.float64]


def draw_sign(rng: np.random.Generator) -> Sign:
    """A new sign."""
    strokes = rng.uniform(-0.7, 0.7, size=(int(rng.integers(1, 4)), 3, 2))
    strokes[:, 1] *= 2.2  # the middle point only draws a curve towards it: from further off, rounder ones
    for i in range(1, len(strokes)):
        if rng.random() < 0.6:  # the pen is not lifted
            strokes[i, 0] = strokes[i - 1, 2]
    return Sign(strokes)


def pictures(sign: Sign, n: int, image_px: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """``n`` pictures of a sign, uint8 (n, image_px, image_px, 1)."""
    s = np.linspace(0.0, 1.0, POINTS)[:, None]
    curve = np.stack(((1 - s) ** 2, 2 * s * (1 - s), s**2), axis=0)  # (3, POINTS, 1)
    wander = rng.normal(0.0, 2 * ELASTIC, size=(n, *sign.strokes.shape))
    points = np.einsum("nscd,cpo->nspd", sign.strokes + wander, curve).reshape(n, -1, 2)
    turned = points @ _maps(n, rng) + rng.uniform(-0.12, 0.12, size=(n, 1, 2))
    axis = (np.arange(image_px) + 0.5) / image_px * 2 - 1
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)  # (x, y)
    far = (grid**2).sum(1)[:, None]
    pen = rng.uniform(0.05, 0.13, size=n)
    edge = 1.4 / image_px
    out = np.empty((n, image_px, image_px, 1), np.uint8)
    for i in range(n):
        squares = far + (turned[i] ** 2).sum(1)[None] - 2 * grid @ turned[i].T
        nearest = np.sqrt(squares.min(1).clip(0.0))
        ink = np.clip((pen[i] - nearest) / edge + 0.5, 0.0, 1.0)
        out[i] = np.rint(255 * ink).reshape(image_px, image_px, 1).astype(np.uint8)
    return out


def known_signs(n_signs: int, n_each: int, image_px: int, seed: int) -> tuple[Samples, Vocabulary]:
    """``n_each`` pictures of ``n_signs`` signs, and the vocabulary of one factor, ``sign``, that names them."""
    images, codes = [], []
    for i in range(n_signs):
        rng = stream(seed, "glyphs", "sign", i)
        images.append(pictures(draw_sign(rng), n_each, image_px, rng))
        codes.append(np.full((n_each, 1), i + 1, np.int16))
    names = tuple(f"glyph-{i}" for i in range(n_signs))
    return Samples(np.concatenate(images), np.concatenate(codes)), Vocabulary((Factor("sign", names),))


def pseudo_task(known: Samples, vocabulary: Vocabulary, n_new: int, rng: np.random.Generator) -> PseudoTask:
    """Two signs that are new, ``n_new`` pictures in all, beside the known ones: one task for learning A."""
    wider, images, codes = vocabulary, [], []
    for i in range(2):
        wider = wider.extend({"sign": f"pseudo-{i}"})
        images.append(pictures(draw_sign(rng), max(1, n_new // 2), known.images.shape[1], rng))
        codes.append(np.full((len(images[-1]), 1), wider.sizes[0], np.int16))
    return PseudoTask(wider, np.concatenate(images), np.concatenate(codes), known.images, known.codes)


def _maps(n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """A turn, a shear and a scale for each picture (n, 2, 2)."""
    angle, shear = rng.normal(0.0, 0.14, n), rng.normal(0.0, 0.15, n)
    scale = rng.uniform(0.85, 1.1, size=(n, 2))
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.stack((np.stack((cos, sin), -1), np.stack((-sin, cos), -1)), -2)
    lean = np.zeros((n, 2, 2))
    lean[:, 0, 0], lean[:, 1, 1], lean[:, 1, 0] = scale[:, 0], scale[:, 1], shear
    return np.asarray(turn @ lean)
