"""S3: one user whose look changes five times, seen with only two emotions in each look; afterwards all must work.

Every look adds or changes one thing that the base never saw: hair, glasses, clothes, a hat, a beard (what
``media/avatars`` holds back). The device learns from the two emotions that it was shown; the other four in that look
are *held-out combinations*: nobody ever saw them together. Needs the extra ``demo``.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from evergrove.bench.forgetting.streams import Lesson, Stream
from evergrove.core.conditions import Factor, Vocabulary
from evergrove.core.rng import stream as named
from evergrove.learn.strategies import Samples
from evergrove.media import avatars
from evergrove.media.avatars import Atelier, Look

BASE = Vocabulary(
    (*avatars.VOCABULARY.factors, Factor("accessory", ("none",)), Factor("facial_hair", ("none",))),
)
"""The shipped base's factors, and two in which it knows nothing but 'none'."""
N_SHOWN = 2
KINDS = ("hair", "accessory", "clothes", "hat", "facial_hair")
HELD_BACK = {
    "hair": tuple(avatars.HELD_BACK_HAIR),
    # What hides an eye hides half of an emotion.
    "accessory": ("glasses", "thick_glasses", "round_glasses"),
    "clothes": tuple(avatars.HELD_BACK_CLOTHES),
    "hat": tuple(avatars.HELD_BACK_HATS),
    "facial_hair": tuple(avatars.HELD_BACK_FACIAL_HAIR),
}


def avatar_stream(atelier: Atelier, rehearsal: Samples, golden: Samples, seed: int, n_each: int = 2) -> Stream:
    """Five looks of one user, in an order drawn by the seed; ``n_each`` pictures are asked for of each combination.

    ``rehearsal`` and ``golden`` are of what the base knows: to learn again from, and to be asked for.
    """
    rng = named(seed, "S3")
    look = _user(rng)
    vocabulary, lessons = BASE, []
    for i, kind in enumerate(rng.permutation(KINDS).tolist()):
        value = str(rng.choice(HELD_BACK[kind]))
        look = changed(look, kind, value)
        vocabulary = vocabulary.extend(values_of(look, "neutral"))
        shown = rng.permutation(list(avatars.FACES))[:N_SHOWN].tolist()
        new = _draw(atelier, vocabulary, look, shown)
        real = _draw(atelier, vocabulary, look, list(avatars.FACES))
        asked = np.repeat(np.unique(real.codes, axis=0), n_each, axis=0)
        unseen = ~np.isin(asked[:, 0], [1 + list(avatars.FACES).index(name) for name in shown])
        lessons.append(Lesson(f"{i + 1}: {value}, {' and '.join(shown)}", vocabulary, new, asked, real, unseen))
    some = named(seed, "S3", "kept").choice(len(golden), min(48, len(golden)), replace=False)
    return Stream("S3", BASE, tuple(lessons), rehearsal, golden.codes[some], tuple(range(1, len(lessons) + 1)))


def changed(look: Look, kind: str, value: str) -> Look:
    """The look with one thing changed; a hat takes the place of hair, as the drawings have it."""
    changes: dict[str, Any] = {"hair" if kind == "hat" else kind: value}
    return replace(look, **changes)


def values_of(look: Look, emotion: str) -> dict[str, str]:
    """The whole condition of one avatar."""
    names = avatars.VOCABULARY.names
    known = dict(zip(names, (emotion, *look.values()), strict=True))
    return known | {"accessory": look.accessory, "facial_hair": look.facial_hair}


def base_pictures(atelier: Atelier, n: int, seed: int, split: str = "train") -> Samples:
    """``n`` pictures of what the base knows: all emotions in looks of that split."""
    looks = avatars.all_looks(split)
    rng = named(seed, "S3", "base", split)
    images, codes = avatars.draw_pack(atelier, avatars.FACES, looks, n, rng, avatars.VOCABULARY)
    return Samples(images, np.concatenate((codes, np.ones((n, 2), np.int16)), axis=1))


def judge_pictures(atelier: Atelier, n: int, seed: int) -> tuple[Samples, Vocabulary]:
    """``n`` pictures with any of the held-back things, for the oracle, and the vocabulary that names all of them."""
    rng = named(seed, "S3", "judge")
    vocabulary = everything()
    images, codes = [], []
    for i in range(n):
        look = _user(rng)
        for kind in KINDS:
            if rng.random() < (0.75 if kind in ("hair", "hat") else 0.6):
                look = changed(look, kind, str(rng.choice(HELD_BACK[kind])))
        if rng.random() < 0.2:
            look = replace(look, hair=str(rng.choice(list(avatars.HAIR))))
        emotion = list(avatars.FACES)[i % len(avatars.FACES)]
        images.append(atelier.draw(avatars.FACES[emotion], look))
        codes.append(vocabulary.encode(values_of(look, emotion)))
    return Samples(np.stack(images), np.array(codes, np.int16)), vocabulary


def everything() -> Vocabulary:
    """Every value of every factor: the oracle's vocabulary."""
    vocabulary = BASE
    for kind, values in HELD_BACK.items():
        for value in values:
            vocabulary = vocabulary.extend({"hair" if kind == "hat" else kind: value})
    return vocabulary


def _user(rng: np.random.Generator) -> Look:
    """Somebody that the base could draw."""
    pick: dict[str, dict[str, Any]] = {
        "hair": avatars.HAIR,
        "skin": avatars.SKIN,
        "hair_color": avatars.HAIR_COLOR,
        "clothes": avatars.CLOTHES,
        "background": avatars.BACKGROUND,
    }
    picked: dict[str, Any] = {name: str(rng.choice(list(values))) for name, values in pick.items()}
    return Look(**picked)


def _draw(atelier: Atelier, vocabulary: Vocabulary, look: Look, emotions: list[str]) -> Samples:
    """Every emotion before every background in both shades of the clothes."""
    looks = [replace(look, background=b, shade=s) for b in avatars.BACKGROUND for s in (0, 1)]
    images = np.stack([atelier.draw(avatars.FACES[name], one) for name in emotions for one in looks])
    codes = np.array([vocabulary.encode(values_of(one, name)) for name in emotions for one in looks], np.int16)
    return Samples(images, codes)
