"""A fleet of users, each with one look of its own, and what they are asked for afterwards.

A look is hair that the base never saw, skin, hair colour and clothes; its pictures show it before every background, in
both shades of the clothes. A device sees it in a few emotions: one that the base never saw, the others known to it.
"""

import itertools
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evergrove.bench.federated.world import World
from evergrove.core.conditions import Vocabulary
from evergrove.core.rng import stream as named
from evergrove.media import avatars
from evergrove.media.avatars import Look, code_of

FACES = {**avatars.FACES, **avatars.HELD_BACK_FACES, **avatars.TUNING_FACES}
UNMISTAKABLE = ("flowers", "curvy", "dreadlocks", "braids", "half_shaved")
"""Held-back hair that the oracle tells apart in every real picture."""


@dataclass(frozen=True)
class FleetPlan:
    """``emotions`` and ``hairs`` are what the base does not know; no ``hairs``: looks of the base. Each device sees
    ``n_shown`` emotions of its look, one of them new."""

    n_devices: int
    emotions: tuple[str, ...] = tuple(avatars.HELD_BACK_FACES)
    hairs: tuple[str, ...] = UNMISTAKABLE
    n_shown: int = 4
    looks_asked: int = 40


@dataclass(frozen=True)
class Fleet:
    """``images`` uint8 (D, n, H, W, C) and ``codes`` int16 (D, n, F) are what each device saw.

    ``asked`` int16 (M, F) are conditions, each of some device's look; ``seen`` (M,) whether that very device saw the
    look in that emotion; ``new`` (M,) whether the emotion is new. ``real`` are true pictures of what is asked.
    """

    plan: FleetPlan
    vocabulary: Vocabulary
    images: NDArray[np.uint8]
    codes: NDArray[np.int16]
    asked: NDArray[np.int16]
    real: NDArray[np.uint8]
    seen: NDArray[np.bool_]
    new: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.images)


def make_fleet(world: World, plan: FleetPlan, seed: int) -> Fleet:
    """The fleet of a seed; the same arguments, the same pictures."""
    rng = named(seed, "federated", "fleet", plan.n_devices)
    vocabulary = vocabulary_of(world, plan)
    known = list(world.manifest.vocabulary.factors[0].values)
    looks = _looks(world, plan, rng)
    atlas = {hair: open_atlas(world, hair, (*known, *plan.emotions)) for hair in {look.hair for look in looks}}
    images, codes, shown = [], [], []
    for d, look in enumerate(looks):
        emotions = [plan.emotions[d % len(plan.emotions)], *rng.permutation(known)[: plan.n_shown - 1].tolist()]
        ones = [
            (e, replace(look, background=b, shade=s))
            for e in emotions
            for b in _values(world, "background")
            for s in (0, 1)
        ]
        images.append(np.stack([atlas[look.hair].picture(world, *one) for one in ones]))
        codes.append(np.array([code_of(*one, vocabulary) for one in ones], np.int16))
        shown.append(set(emotions))
    asked, real, seen = [], [], []
    n_looks = min(plan.looks_asked, len(looks))
    times = plan.looks_asked // n_looks
    backgrounds = _values(world, "background")
    for d in range(n_looks):
        for emotion in (*known, *plan.emotions):
            for background in rng.permutation(backgrounds)[:times].tolist():
                one = replace(looks[d], background=background, shade=int(rng.integers(2)))
                asked.append(code_of(emotion, one, vocabulary))
                real.append(atlas[one.hair].picture(world, emotion, one))
                seen.append(emotion in shown[d])
    codes_asked = np.array(asked, np.int16)
    return Fleet(
        plan,
        vocabulary,
        np.stack(images),
        np.stack(codes),
        codes_asked,
        np.stack(real),
        np.array(seen),
        codes_asked[:, 0] > len(known),
    )


def vocabulary_of(world: World, plan: FleetPlan) -> Vocabulary:
    """The fleet's: the base's, the new emotions and the new hair."""
    vocabulary = world.manifest.vocabulary
    for emotion in plan.emotions:
        vocabulary = vocabulary.extend({"emotion": emotion})
    for hair in plan.hairs:
        vocabulary = vocabulary.extend({"hair": hair})
    return vocabulary


def true_picture(world: World, emotion: str, look: Look) -> NDArray[np.uint8]:
    """One true picture."""
    return world.atelier.draw(FACES[emotion], look)


def _looks(world: World, plan: FleetPlan, rng: np.random.Generator) -> list[Look]:
    """As many looks as devices, all different as long as there are any; each hair equally often."""
    hairs = plan.hairs or tuple(_values(world, "hair"))
    rest = list(itertools.product(*(_values(world, name, default) for name, default in PARTS[:3])))
    orders = {hair: rng.permutation(len(rest)) for hair in hairs}
    background = _values(world, "background")[0]
    looks = []
    for d in range(plan.n_devices):
        hair = hairs[d % len(hairs)]
        skin, color, clothes = rest[orders[hair][(d // len(hairs)) % len(rest)]]
        looks.append(Look(hair, skin, color, clothes, background))
    order = rng.permutation(len(looks))
    return [looks[i] for i in order]


@dataclass(frozen=True)
class Atlas:
    """Every picture of one hair: uint8 (emotions, skins, hair colours, clothes, backgrounds, shades, H, W, C)."""

    emotions: tuple[str, ...]
    images: NDArray[np.uint8]

    def picture(self, world: World, emotion: str, look: Look) -> NDArray[np.uint8]:
        """The one of that emotion and look."""
        wanted = (look.skin, look.hair_color, look.clothes, look.background)
        at = [_values(world, name, default).index(v) for (name, default), v in zip(PARTS, wanted, strict=True)]
        picture: NDArray[np.uint8] = self.images[(self.emotions.index(emotion), *at, look.shade)]
        return picture


PARTS = (("skin", ""), ("hair_color", ""), ("clothes", "hoodie"), ("background", ""))
FOLDER = Path(tempfile.gettempdir()) / "evergrove-federated"
"""Where atlases are kept for other processes and other runs; 63 MB a hair at 64 pixels."""


def open_atlas(world: World, hair: str, emotions: tuple[str, ...]) -> Atlas:
    """The atlas of a hair, drawn (seconds) where it is not there yet."""
    px = world.manifest.image_px
    path = FOLDER / f"{world.manifest.name}-{px}-{hair}-{'-'.join(emotions)}.npy"
    if not path.exists():
        values = [_values(world, name, default) for name, default in PARTS]
        size = (len(emotions), *(len(v) for v in values), 2)
        images = np.empty((*size, px, px, 3), np.uint8)
        for at in np.ndindex(*size):
            skin, color, clothes, background = (v[i] for v, i in zip(values, at[1:-1], strict=True))
            images[at] = true_picture(world, emotions[at[0]], Look(hair, skin, color, clothes, background, at[-1]))
        FOLDER.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        with partial.open("wb") as file:
            np.save(file, images)
        partial.replace(path)
    return Atlas(emotions, np.load(path, mmap_mode="r", allow_pickle=False))


def atlases(world: World, plan: FleetPlan) -> list[tuple[str, tuple[str, ...]]]:
    """The (hair, emotions) of every atlas that a fleet of this plan looks into."""
    known = world.manifest.vocabulary.factors[0].values
    return [(hair, (*known, *plan.emotions)) for hair in plan.hairs or tuple(_values(world, "hair"))]


def _values(world: World, factor: str, default: str = "") -> list[str]:
    """What the base knows of a factor; what it does not name is fixed."""
    for one in world.manifest.vocabulary.factors:
        if one.name == factor:
            return list(one.values)
    return [default]
