"""What ``evergrove base`` trains from: the avatars, their tiny version for tests, or a person's folder of pictures.

A *source* is pictures with codes, split into what is trained on and the golden set, and the sizes and steps that suit
it. Everything is drawn from the seed: the same command gives the same release.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from evergrove.core.conditions import Vocabulary
from evergrove.core.errors import UsageError
from evergrove.core.release import Sampler
from evergrove.core.rng import stream
from evergrove.learn.base_train import TrainPlan
from evergrove.learn.basis import BasisPlan
from evergrove.learn.dit import DiTConfig
from evergrove.media import avatars
from evergrove.media.folders import read_folder
from evergrove.media.packs import Pack

REHEARSAL_PER_VALUE = 64
GOLDEN_PER_VALUE = 150
DEMO_TRAIN, DEMO_TEST = 260, 120
"""Pictures of each held-back emotion for the demo's stream, and for measuring what it learnt."""


@dataclass(frozen=True)
class Source:
    """Pictures and the settings that suit them. ``extras`` are further packs, ``judged`` what an oracle learns from."""

    name: str
    vocabulary: Vocabulary
    train: Pack
    golden: Pack
    rehearsal: Pack
    network: DiTConfig
    plan: TrainPlan
    basis: BasisPlan
    teacher: DiTConfig | None = None
    teacher_plan: TrainPlan | None = None
    extras: tuple[tuple[str, Pack], ...] = ()
    judged: tuple[Vocabulary, Pack] | None = None
    oracle_steps: int = 0
    sampler: Sampler = field(default_factory=Sampler)
    notes: tuple[str, ...] = ()


def avatars_source(seed: int) -> Source:
    """The shipped base: every known face with every training look, 18 444 pictures of 64 pixels."""
    atelier = avatars.Atelier(64)
    train = Pack(*avatars.draw_every(atelier, avatars.FACES, avatars.all_looks("train"), avatars.VOCABULARY))
    return Source(
        name="avatars",
        vocabulary=avatars.VOCABULARY,
        train=train,
        golden=_draw(atelier, "golden", GOLDEN_PER_VALUE * len(avatars.FACES), seed),
        rehearsal=even_part(train, REHEARSAL_PER_VALUE, stream(seed, "rehearsal")),
        network=DiTConfig(image_px=64, patch_px=8, width=192, depth=4, heads=6),
        plan=TrainPlan(steps=5000, seed=seed),
        basis=BasisPlan(seed=seed),
        teacher=DiTConfig(image_px=64, patch_px=8, width=256, depth=6, heads=8),
        teacher_plan=TrainPlan(steps=3400, seed=seed),
        extras=(("demo.npz", _demo(atelier, seed)),),
        judged=_judged(atelier, seed),
        oracle_steps=1000,
        # As good as 4 by the oracle (480 pictures: 1.00 on emotion, hair and skin) and by eye, and a quarter faster.
        sampler=Sampler(steps=3),
    )


def tiny_source(seed: int) -> Source:
    """Four emotions and 48 looks at 32 pixels, for tests: trains in about a minute."""
    atelier = avatars.Atelier(32, avatars.TINY_VIEW_BOX)
    vocabulary = wider = avatars.TINY
    known = {name: avatars.FACES[name] for name in vocabulary.factors[0].values}
    for name in avatars.HELD_BACK_FACES:
        wider = wider.extend({"emotion": name})
    looks = {split: avatars.tiny_looks(split) for split in ("train", "golden")}
    train, golden = (Pack(*avatars.draw_every(atelier, known, looks[split], vocabulary)) for split in looks)
    everything = (known | avatars.HELD_BACK_FACES, looks["train"] + looks["golden"])
    demo = (avatars.HELD_BACK_FACES, looks["train"] + looks["golden"])
    return Source(
        name="tiny",
        vocabulary=vocabulary,
        train=train,
        golden=golden,
        rehearsal=train,
        network=DiTConfig(image_px=32, patch_px=8, width=64, depth=3, heads=2),
        plan=TrainPlan(steps=2000, seed=seed, lr=2e-3),
        basis=BasisPlan(rank=8, tasks=30, steps=40, seed=seed),
        teacher=DiTConfig(image_px=32, patch_px=8, width=96, depth=3, heads=3),
        teacher_plan=TrainPlan(steps=1500, seed=seed, lr=2e-3),
        extras=(("demo.npz", Pack(*avatars.draw_every(atelier, *demo, wider))),),
        judged=(wider, Pack(*avatars.draw_every(atelier, *everything, wider))),
        oracle_steps=300,
    )


def folder_source(folder: Path, image_px: int | None, seed: int) -> Source:
    """A person's pictures; a fifth of each value of the first factor, 150 at most, becomes the golden set.

    The gate's bound on harm narrows with their number: of 18 digits it can tell little, of 36 about twice as much.
    """
    found = read_folder(folder, image_px)
    pack = Pack(found.images, found.codes)
    rng = stream(seed, "folder", "golden")
    golden = np.zeros(len(pack), bool)
    for value in np.unique(pack.codes[:, 0]):
        where = np.flatnonzero(pack.codes[:, 0] == value)
        golden[rng.permutation(where)[: min(GOLDEN_PER_VALUE, max(1, len(where) // 5))]] = True
    if golden.all():
        raise UsageError(f"{folder}: {len(pack)} pictures are too few to train on; add some of every value")
    train = Pack(pack.images[~golden], pack.codes[~golden])
    side = found.images.shape[1]
    return Source(
        name=folder.resolve().name,
        vocabulary=found.vocabulary,
        train=train,
        golden=Pack(pack.images[golden], pack.codes[golden]),
        rehearsal=even_part(train, REHEARSAL_PER_VALUE, stream(seed, "rehearsal")),
        network=DiTConfig(image_px=side, patch_px=side // 8 if side > 32 else side // 4, width=128, depth=4, heads=4),
        plan=TrainPlan(steps=3000, seed=seed),
        basis=BasisPlan(rank=12, seed=seed),
        notes=found.notes,
    )


PRESETS: dict[str, Callable[[int], Source]] = {"avatars": avatars_source, "tiny": tiny_source}


def even_part(pack: Pack, n: int, rng: np.random.Generator) -> Pack:
    """At most ``n`` items of every value of the first factor, drawn at random."""
    values = np.unique(pack.codes[:, 0])
    chosen = np.concatenate([rng.permutation(np.flatnonzero(pack.codes[:, 0] == v))[:n] for v in values])
    return Pack(pack.images[chosen], pack.codes[chosen])


def _draw(atelier: avatars.Atelier, split: str, n: int, seed: int) -> Pack:
    rng = stream(seed, "avatars", split)
    return Pack(*avatars.draw_pack(atelier, avatars.FACES, avatars.all_looks(split), n, rng, avatars.VOCABULARY))


def _demo(atelier: avatars.Atelier, seed: int) -> Pack:
    """Love and dizzy: first the candidates for the stream, then, in looks that are never trained on, the test items."""
    parts = []
    for split, n in (("train", DEMO_TRAIN), ("test", DEMO_TEST)):
        rng = stream(seed, "avatars", "demo", split)
        looks = avatars.all_looks(split)
        parts.append(avatars.draw_pack(atelier, avatars.HELD_BACK_FACES, looks, 2 * n, rng))
    return Pack(np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]))


def _judged(atelier: avatars.Atelier, seed: int) -> tuple[Vocabulary, Pack]:
    """What the oracle learns from: all eight emotions in looks of all kinds, the held-back ones included."""
    hair = (*avatars.HAIR, *avatars.HELD_BACK_HAIR)
    clothes = (*avatars.CLOTHES, *avatars.HELD_BACK_CLOTHES)
    vocabulary = avatars.ALL_EMOTIONS
    for value in hair:
        vocabulary = vocabulary.extend({"hair": value})
    for value in clothes:
        vocabulary = vocabulary.extend({"clothes": value})
    rng = stream(seed, "avatars", "oracle")
    faces, looks = avatars.FACES | avatars.HELD_BACK_FACES, avatars.all_looks()
    known = avatars.draw_pack(atelier, faces, looks, 6000, rng, vocabulary)
    odd = [
        avatars.Look(
            hair=hair[rng.integers(len(hair))],
            skin=look.skin,
            hair_color=look.hair_color,
            clothes=clothes[rng.integers(len(clothes))],
            background=look.background,
            shade=look.shade,
        )
        for look in (looks[rng.integers(len(looks))] for _ in range(3000))
    ]
    held = avatars.draw_pack(atelier, faces, odd, 3000, rng, vocabulary)
    return vocabulary, Pack(np.concatenate((known[0], held[0])), np.concatenate((known[1], held[1])))
