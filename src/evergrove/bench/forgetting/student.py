"""Teacher → student: is a small network better for having been taught, and is it noticed when an adapter leaves it?

*Taught.* The teacher is the base of the handwriting streams; a student has a quarter of its numbers. Students of the
same seed start from the same weights and take the same steps on the same batches: *direct* aims at the pictures,
*late* is what ``learn/base_train`` does by default (half of each batch aims at the teacher's x̂ in the last quarter),
*all* aims at the teacher's x̂ always. Each is judged at four sampling steps, on new pictures of the signs it knows.

*Noticed.* The taught student is then a release. Two adapters learn a new sign: one by our objective, one by many naive
steps. The gate's student check (distance to the teacher against the release's distance, margin τ) must let the first
pass and stop the second, and does so beside the truth: how much of the known signs is still read right.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from evergrove.bench.forgetting import glyphs, metrics, worlds
from evergrove.bench.forgetting.streams import Classes
from evergrove.bench.forgetting.worlds import Judge, WorldPlan
from evergrove.core.config import Config
from evergrove.core.rng import seed_of
from evergrove.core.rng import stream as named
from evergrove.learn import base_train, evaluate
from evergrove.learn.adapter import Adapter, Basis, fuse
from evergrove.learn.adapter_file import adapter_of_bytes
from evergrove.learn.basis import BasisPlan, learn_basis
from evergrove.learn.dit import DiT, DiTConfig
from evergrove.learn.flow import sample
from evergrove.learn.generator import to_condition, to_uint8
from evergrove.learn.rivals import RIVALS
from evergrove.learn.strategies import Recipe, Samples, Strategy, Task
from evergrove.learn.trainer import Hooks, train
from evergrove.rules import gate

STUDENT = DiTConfig(16, 1, 4, 32, 2, 2)
ARMS = {"direct": (0.0, 1.0), "late": (0.5, 0.75), "all": (1.0, 0.0)}
"""(share of a batch that aims at the teacher, the part of the steps after which it does)."""
N_SIGNS = 8
"""Known signs that the student check asks about."""


class Taught(msgspec.Struct, frozen=True):
    """One student at four sampling steps: FID in the judge's features and in random ones, share read right."""

    seed: int
    arm: str
    steps: int
    fid: float
    fid_random: float
    accuracy: float


class Noticed(msgspec.Struct, frozen=True):
    """One adapter on the taught student: ``bound`` is the worst upper bound of the student check in units of worth,
    ``margin`` is τ, ``kept`` the share of known signs still read right."""

    seed: int
    adapter: str
    stopped: bool
    bound: float
    margin: float
    kept: float


def judge_of(plan: WorldPlan, folder: Path) -> Judge:
    """Reads the signs that the base knows."""
    known, vocabulary = worlds.known_pictures(plan)
    parts = tuple(known.images[known.codes[:, 0] == c + 1] for c in range(len(vocabulary.factors[0].values)))
    half = len(parts[0]) // 2
    classes = Classes(vocabulary.factors[0].values, tuple(p[:half] for p in parts), tuple(p[half:] for p in parts))
    return worlds.open_judge("known", plan, classes, folder, _silent)


def compare(plan: WorldPlan, folder: Path, seed: int, steps: int, n_asked: int = 20) -> list[Taught]:
    """Every arm of one seed, and the teacher itself."""
    world, judge = worlds.open_world(plan, folder, _silent), judge_of(plan, folder)
    real = fresh(plan, 20, seed)
    found = [_judged(world.model, judge, real, seed, "teacher", plan.base_steps, n_asked)]
    for arm in ARMS:
        student = taught(world.model, world.known, plan, arm, seed, steps)
        found.append(_judged(student, judge, real, seed, arm, steps, n_asked))
    return found


def taught(teacher: DiT, known: Samples, plan: WorldPlan, arm: str, seed: int, steps: int) -> DiT:
    """A student after ``steps`` steps."""
    share, start = ARMS[arm]
    how = base_train.TrainPlan(
        steps=steps, seed=seed, batch=plan.base_batch, lr=plan.base_lr, ema=0.995, distil=share, distil_from=start
    )
    return base_train.train(STUDENT, teacher.vocabulary, known.images, known.codes, how, teacher if share else None)


def notice(plan: WorldPlan, folder: Path, seed: int, steps: int) -> list[Noticed]:
    """Both adapters of one seed, on the student that was taught by its teacher always."""
    world, judge = worlds.open_world(plan, folder, _silent), judge_of(plan, folder)
    student = taught(world.model, world.known, plan, "all", seed, steps)
    rank = BasisPlan(rank=8, tasks=10, steps=40, seed=seed)
    a = learn_basis(
        student, world.known.images, world.known.codes, rank,
        draw=lambda n, rng: glyphs.pseudo_task(world.known, student.vocabulary, n, rng),
    )  # fmt: skip
    basis = Basis("student", "student", rank.scale, a)
    rng = named(seed, "student", "new sign")
    vocabulary = student.vocabulary.extend({"sign": "new"})
    pictures = glyphs.pictures(glyphs.draw_sign(rng), 40, STUDENT.image_px, rng)
    new = Samples(pictures, np.full((40, 1), vocabulary.sizes[0], np.int16))
    naive = RIVALS["naive"].strategy
    how: dict[str, tuple[Strategy, int]] = {
        "ours": (RIVALS["evergrove"].strategy, 60),
        "leaver": (replace(naive, lr=2 * naive.lr), 400),
    }
    found = []
    for name, (strategy, n_steps) in how.items():
        recipe = Recipe(steps=n_steps, checkpoint_every=n_steps)
        task = Task(student, basis, vocabulary, new, world.known, strategy, recipe, seed=seed)
        adapter = _learnt(task)
        found.append(_noticed(student, world.model, basis, adapter, judge, plan, seed, name))
    return found


def fresh(plan: WorldPlan, n_each: int, seed: int) -> Samples:
    """New pictures of the signs that the base knows: none that it or a judge was trained on."""
    images, codes = [], []
    for i in range(plan.n_known):
        sign = glyphs.draw_sign(named(plan.seed, "glyphs", "sign", i))
        images.append(glyphs.pictures(sign, n_each, plan.network.image_px, named(seed, "student", "fresh", i)))
        codes.append(np.full((n_each, 1), i + 1, np.int16))
    return Samples(np.concatenate(images), np.concatenate(codes))


def _learnt(task: Task) -> Adapter:
    written: list[bytes] = []
    with tempfile.TemporaryDirectory() as folder:
        train(task, Path(folder), Hooks(write=lambda path, data: written.append(data)))
    return adapter_of_bytes(written[-1])


def _noticed(
    student: DiT,
    teacher: DiT,
    basis: Basis,
    adapter: Adapter,
    judge: Judge,
    plan: WorldPlan,
    seed: int,
    name: str,
) -> Noticed:
    policy = gate.Policy.of(Config().gate)
    golden = fresh(plan, 150, seed + 1)
    rows = golden.codes[:, 0] <= N_SIGNS
    asked = Samples(golden.images[rows], golden.codes[rows])
    conditions = tuple((c,) for c in range(1, N_SIGNS + 1))
    release = evaluate.network(student, basis, None, adapter.vocabulary, None)
    roles = evaluate.Roles(
        evaluate.network(student, basis, adapter, adapter.vocabulary), release, release, evaluate.Network(teacher)
    )
    golden_set = evaluate.Golden(asked, conditions, seed, adapter.vocabulary.sizes)
    none = evaluate.Golden(Samples(asked.images[:0], asked.codes[:0]), (), seed)
    comparisons = [c for c in evaluate.measure(roles, golden_set, none, ()) if c.kind == "teacher"]
    bounds = [gate.bound_on_harm(c.mean, c.std, c.n, policy.alpha_look, c.skew) for c in comparisons]
    questions = [q for q in gate.questions(conditions, (), ()) if q.kind == "teacher"]
    stopped = bool(gate.examine(policy, comparisons, questions))
    drawn = _drawn(fuse(student, basis, adapter), fresh(plan, 6, seed).codes, seed)
    read = judge.oracle.read(drawn)[:, 0]
    kept = float((read == fresh(plan, 6, seed).codes[:, 0]).mean())
    return Noticed(seed, name, stopped, max(bounds), policy.tau, kept)


def _judged(model: nn.Module, judge: Judge, real: Samples, seed: int, arm: str, steps: int, n_each: int) -> Taught:
    asked = np.repeat(np.unique(real.codes, axis=0), n_each, axis=0)
    pictures = _drawn(model, asked, seed)
    truth, made = judge.features(real.images), judge.features(pictures)
    right = judge.oracle.read(pictures)[:, 0] == asked[:, 0]
    own, random = (metrics.fid(truth[name], made[name]) for name in ("own", "random"))
    return Taught(seed, arm, steps, own, random, float(right.mean()))


@torch.no_grad()
def _drawn(model: nn.Module, asked: NDArray[np.int16], seed: int, steps: int = 4) -> NDArray[np.uint8]:
    """One picture for each code, by four steps, from noise that depends on the seed alone."""
    rng = torch.Generator().manual_seed(seed_of(seed, "student", "noise"))
    noise = torch.randn((len(asked), STUDENT.channels, STUDENT.image_px, STUDENT.image_px), generator=rng)
    parts = zip(torch.split(to_condition(asked), 128), torch.split(noise, 128), strict=True)
    return np.concatenate([to_uint8(sample(model, code, z, steps)) for code, z in parts])


def _silent(what: str, done: int, total: int) -> None:
    """Nobody listens."""
