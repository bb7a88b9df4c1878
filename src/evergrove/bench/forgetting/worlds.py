"""What every strategy starts from and is judged by: a base, its A, and two judges; made once, kept in a folder.

The base of the handwriting streams has only ever seen drawn signs (``glyphs.py``), that of the avatars only what is
not held back. A is learnt on pseudo-tasks of the same kind. An *oracle* reads pictures; its features and those of the
same network with random weights are what FID and KID are taken in. All of it depends on a plan alone, never on a
stream's seed, and files are named by the plan's hash.
"""

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from evergrove.bench.forgetting import glyphs, looks
from evergrove.bench.forgetting.metrics import Features
from evergrove.bench.forgetting.streams import Classes
from evergrove.core.conditions import Factor, Vocabulary
from evergrove.core.release import sha256_hex
from evergrove.core.rng import seed_of
from evergrove.learn import base_train
from evergrove.learn.adapter import Basis
from evergrove.learn.base import base_bytes, load_network
from evergrove.learn.basis import BasisPlan, basis_bytes, learn_basis, load_basis
from evergrove.learn.dit import DiT, DiTConfig
from evergrove.learn.generator import to_float
from evergrove.learn.oracle import Oracle, load_oracle, save_oracle, train_oracle
from evergrove.learn.place import place_of
from evergrove.learn.strategies import Samples
from evergrove.media.avatars import Atelier

Report = Callable[[str, int, int], None]
"""(what, done, total)."""


class WorldPlan(msgspec.Struct, frozen=True):
    """How a base, its A and an oracle are made."""

    kind: str
    network: DiTConfig
    base_steps: int
    basis: BasisPlan
    judge_steps: int
    n_known: int = 64
    n_each: int = 40
    base_batch: int = 32
    base_lr: float = 3e-3
    seed: int = 0

    @property
    def name(self) -> str:
        """The kind and a hash of everything."""
        return f"{self.kind}-{hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:12]}"


HANDWRITING = WorldPlan(
    "glyphs", DiTConfig(16, 1, 4, 64, 2, 4), 3000, BasisPlan(rank=12, tasks=30), 900, 48, 40, base_lr=4e-3
)
SMALL = WorldPlan("glyphs", DiTConfig(16, 1, 4, 64, 2, 4), 900, BasisPlan(rank=8, tasks=10, steps=40), 350, 24, 24)
AVATARS = WorldPlan(
    "avatars",
    DiTConfig(32, 3, 8, 128, 3, 4),
    1600,
    BasisPlan(rank=12, tasks=20),
    2200,
    2400,
    base_batch=16,
    base_lr=1.5e-3,
)


@dataclass(frozen=True)
class World:
    """A base network (frozen), the A of its generation, and pictures of what it knows."""

    plan: WorldPlan
    model: DiT
    basis: Basis
    known: Samples

    def to(self, device: str) -> "World":
        """Its network there; what is not a network stays where it is."""
        return replace(self, model=copy.deepcopy(self.model).to(device))


@dataclass(frozen=True)
class Judge:
    """``oracle`` reads pictures in its own vocabulary; ``chance`` is the same network, never trained."""

    oracle: Oracle
    chance: Oracle

    def to(self, device: str) -> "Judge":
        """Both networks there."""
        return Judge(copy.deepcopy(self.oracle).to(device), copy.deepcopy(self.chance).to(device))

    def features(self, images: NDArray[np.uint8]) -> dict[str, Features]:
        """Vectors (N, 64) of pictures uint8 (N, H, W, C) by both networks: the means of the last maps."""
        return {"own": _pooled(self.oracle, images), "random": _pooled(self.chance, images)}


def open_world(plan: WorldPlan, folder: Path, report: Report) -> World:
    """The world of a plan, from the folder or made now (a minute or two) and put there."""
    known, vocabulary = known_pictures(plan)
    base = folder / f"{plan.name}.base.safetensors"
    if not base.exists():
        training = base_train.TrainPlan(
            steps=plan.base_steps, seed=plan.seed, batch=plan.base_batch, lr=plan.base_lr, ema=0.995
        )
        model = base_train.train(
            plan.network,
            vocabulary,
            known.images,
            known.codes,
            training,
            checkpoint=folder / f"{plan.name}.base.partial.safetensors",
            report=lambda p: report("the base", p.step, p.n_steps),
        )
        _put(base, base_bytes(model))
        (folder / f"{plan.name}.base.partial.safetensors").unlink(missing_ok=True)
    model, base_hash = load_network(base), sha256_hex(base.read_bytes())
    rows = folder / f"{plan.name}.basis.safetensors"
    if not rows.exists():
        draw = partial(glyphs.pseudo_task, known, vocabulary) if plan.kind == "glyphs" else None
        done = partial(_basis_done, report, plan.basis.tasks)
        a = learn_basis(model, known.images, known.codes, plan.basis, report=done, draw=draw)
        _put(rows, basis_bytes(a, base_hash))
    return World(plan, model, load_basis(rows, base_hash, plan.basis.scale), known)


def known_pictures(plan: WorldPlan) -> tuple[Samples, Vocabulary]:
    """What the base is trained on."""
    if plan.kind == "glyphs":
        return glyphs.known_signs(plan.n_known, plan.n_each, plan.network.image_px, plan.seed)
    return looks.base_pictures(Atelier(plan.network.image_px), plan.n_known, plan.seed), looks.BASE


def open_judge(name: str, plan: WorldPlan, classes: Classes | None, folder: Path, report: Report) -> Judge:
    """The judge of a stream, trained on real pictures of ``classes`` (both halves: it judges, and teaches nobody);
    None for avatars, which it draws itself."""
    path = folder / f"{plan.name}.{name}.judge.safetensors"
    if not path.exists():
        samples, vocabulary = _judged(plan, classes)
        oracle = train_oracle(
            vocabulary,
            samples.images,
            samples.codes,
            plan.judge_steps,
            report=lambda step, loss: report("the judge", step, plan.judge_steps),
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".partial")
        save_oracle(oracle, temporary)
        temporary.replace(path)
    oracle = load_oracle(path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(plan.seed, "judge", "random weights"))
        chance = Oracle(oracle.vocabulary, oracle.image_px, oracle.channels).requires_grad_(False).eval()
    return Judge(oracle, chance)


def _judged(plan: WorldPlan, classes: Classes | None) -> tuple[Samples, Vocabulary]:
    if classes is None:
        return looks.judge_pictures(Atelier(plan.network.image_px), 4000, plan.seed)
    parts = [np.concatenate(pair) for pair in zip(classes.train, classes.test, strict=True)]
    codes = [np.full((len(part), 1), i + 1, np.int16) for i, part in enumerate(parts)]
    return Samples(np.concatenate(parts), np.concatenate(codes)), Vocabulary((Factor("sign", classes.names),))


@torch.no_grad()
def _pooled(network: Oracle, images: NDArray[np.uint8]) -> Features:
    parts = (to_float(images[i : i + 128]).to(place_of(network)) for i in range(0, len(images), 128))
    return np.asarray(torch.cat([network.features(part).mean(dim=(2, 3)) for part in parts]).cpu().double().numpy())


def _basis_done(report: Report, n_tasks: int, done: int, loss: float) -> None:
    report("A, on pseudo-tasks", done, n_tasks)


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")
    temporary.write_bytes(data)
    temporary.replace(path)
