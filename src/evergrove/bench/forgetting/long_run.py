"""The gate in the long run: one device, 200 updates on one golden set, every fifth of them spoilt on purpose (S3).

A device meets one user after another, each with looks that the base never saw; every look is an update, learnt in a
few steps from what the gate let through until then, and judged as a device judges it: the release's golden set, own
golden items of the new look, the gate's γ (1, ½ and ¼ in the results of ADR 0023). *Truth* is the same loss on a large
set of pictures that no one trains on or gates by, in units of what a condition is worth. A spoilt update is one of

- *naive*: only the new look, at twenty times the rate, and nothing of the old;
- *mislabelled*: at twenty times the rate, and what is replayed has its emotions exchanged;
- *hurried*: at twenty times the rate, and right otherwise, which is near what the gate must tell apart;
- *noise*: a good candidate with noise on its B.

Harmful is who truly costs some known condition twice the margin or more against the incumbent; innocent is a good
update that truly costs no known condition half a margin and is truly better on what it was for.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import torch

from evergrove.bench import json_lines
from evergrove.bench.forgetting import looks, race, worlds
from evergrove.bench.forgetting.worlds import World, WorldPlan
from evergrove.core.conditions import Code, Vocabulary, group
from evergrove.core.config import Config
from evergrove.core.rng import seed_of
from evergrove.core.rng import stream as named
from evergrove.learn import evaluate
from evergrove.learn.adapter import Adapter, rescale
from evergrove.learn.adapter_file import adapter_bytes, adapter_of_bytes
from evergrove.learn.strategies import EVERGROVE, NAIVE, Recipe, Samples, Shares, Strategy, Task
from evergrove.learn.trainer import Hooks, train, write_durably
from evergrove.media.avatars import FACES, Atelier
from evergrove.rules import gate

SPOILT_EVERY = 5
SPOILS = ("naive", "mislabelled", "hurried", "noise")
HURRY = 20
GOOD = replace(EVERGROVE, lr=5e-4, shares=Shares(replay=0.5, teacher=0.25))
"""A device's objective, for jobs of a tenth of a device's steps: at a device's rate of 1e-2 so few steps end before
Adam has settled, and cost a known condition .3 to .8 (updates of seed 1000, which no verdict is drawn from)."""
NOISE = 0.5
"""Deviation of the noise on B, in deviations of B itself."""


@dataclass(frozen=True)
class Sizes:
    """``n_golden`` and ``n_truth`` pictures of what the base knows; ``n_kept`` earlier observations at most."""

    n_updates: int = 200
    steps: int = 30
    n_golden: int = 900
    n_truth: int = 300
    n_kept: int = 96


class Update(msgspec.Struct, frozen=True):
    """One update. ``kind`` is 'good' or how it was spoilt; ``harm`` its true worst harm to a known condition against
    the incumbent, ``drift`` that against the release, ``gain`` the true gain on what it was for, all at γ = 1; all in
    units of worth. ``promoted_harm`` and ``promoted_drift`` are those of what was promoted, at its γ (None: nothing
    was)."""

    n: int
    kind: str
    outcome: str
    gamma: float
    harm: float
    drift: float
    gain: float
    promoted_harm: float | None
    promoted_drift: float | None
    why: str


class Verdict(msgspec.Struct, frozen=True):
    """Counts over all updates; ``good`` are all that were not spoilt, innocent or not. ``margin`` is δ of the gate that
    judged. ``worst_promoted`` is the largest true harm of one promoted update against the incumbent of its time,
    ``drift_max`` the largest of what was promoted against the release."""

    n: int
    margin: float
    harmful: int
    harmful_promoted: int
    innocent: int
    innocent_rejected: int
    good: int
    good_rejected: int
    worst_promoted: float
    drift_max: float
    looks: int

    @property
    def false_reject(self) -> float:
        """The share of innocent updates that were rejected."""
        return self.innocent_rejected / max(self.innocent, 1)

    @property
    def met(self) -> bool:
        """Whether no harmful one was promoted and at most a tenth of the innocent ones rejected."""
        return self.harmful_promoted == 0 and self.false_reject <= 0.1


@dataclass(frozen=True)
class Device:
    """What one device holds: the adapter that was let through last, earlier observations, and the gate's state."""

    adapter: Adapter | None
    vocabulary: Vocabulary
    kept: Samples
    state: gate.State


@dataclass(frozen=True)
class Ground:
    """What all updates share: the golden set, the truth, and the release's own values on it."""

    world: World
    golden: evaluate.Golden
    truth: evaluate.Golden
    rehearsal: Samples
    policy: gate.Policy
    cache: Path


def run(plan: WorldPlan, folder: Path, out: Path, sizes: Sizes, seed: int, report: worlds.Report) -> Verdict:
    """All updates; what ``out`` holds already is gone on from (``updates.jsonl``, ``device.*``)."""
    out.mkdir(parents=True, exist_ok=True)
    ground = _ground(worlds.open_world(plan, folder, report), sizes, seed, out / "cache")
    done = json_lines.read(out / "updates.jsonl", Update)
    device = _resumed(out, len(done), ground)
    atelier = Atelier(plan.network.image_px)
    for n in range(len(done), sizes.n_updates):
        device, update = step(device, ground, atelier, n, sizes, seed)
        _store(out, device, n + 1)
        done.append(update)
        json_lines.append(out / "updates.jsonl", update)
        report(f"update {n}: {update.kind}, {update.outcome}", n + 1, sizes.n_updates)
    return verdict(done, ground.policy.delta, device.state.n_looks)


def step(device: Device, ground: Ground, atelier: Atelier, n: int, sizes: Sizes, seed: int) -> tuple[Device, Update]:
    """One update: learn, spoil it or not, judge it, promote it or not, and find out the truth."""
    # 1. What is new: the next look of the user whose turn it is; a fifth of it is the device's own golden set.
    user = looks.avatar_stream(atelier, ground.rehearsal, ground.rehearsal, seed_of(seed, "user", n // 5) % 2**31)
    lesson = user.lessons[n % 5]
    rng = named(seed, "long run", n)
    new, vocabulary = _in_numbers(lesson.new, lesson.vocabulary, device.vocabulary)
    order = rng.permutation(len(new))
    held_back = max(8, len(new) // 5)
    own = Samples(new.images[order[:held_back]], new.codes[order[:held_back]])
    new = Samples(new.images[order[held_back:]], new.codes[order[held_back:]])
    device = replace(device, vocabulary=vocabulary)
    # 2. Learn.
    kind = kind_of(n)
    candidate = learn(device, ground, new, kind, n, sizes, seed)
    # 3. Judge, at each γ that is asked for.
    known = ground.world.model.vocabulary.sizes
    learnt = tuple(sorted({group(tuple(code.tolist()), known) for code in own.codes}))
    mine = evaluate.Golden(own, learnt, seed_of(seed, "own", n) % 2**31, vocabulary.sizes)
    state, found, gamma = device.state, None, 1.0
    expected = gate.questions(ground.golden.conditions, (), learnt, teacher=False)
    while found is None or found.outcome == "rescale":
        gamma = 1.0 if found is None else found.gamma
        roles = _roles(ground, device, rescale(candidate, gamma), gamma)
        comparisons = evaluate.measure(roles, ground.golden, mine, learnt, cache=ground.cache)
        state, found = gate.judge(state, ground.policy, comparisons, expected, gamma)
    # 4. The truth.
    harm, drift = true_harm(ground, device, candidate)
    gain = true_gain(ground, device, candidate, lesson.real, lesson.vocabulary, learnt, seed)
    accepted = found.outcome == "accept"
    promoted = rescale(candidate, gamma) if accepted else None
    told: tuple[float | None, float | None] = (None, None)
    if promoted is not None:
        told = (harm, drift) if gamma == 1.0 else true_harm(ground, device, promoted)
    update = Update(n, kind, found.outcome, gamma, harm, drift, gain, *told, found.sentence)
    kept = device.kept if promoted is None else _latest(device.kept, new, sizes.n_kept, rng)
    return replace(device, adapter=promoted or device.adapter, kept=kept, state=state), update


def kind_of(n: int) -> str:
    """What becomes of update ``n`` (from 0): 'good', or every fifth one a kind of spoilt, in turn."""
    return SPOILS[(n // SPOILT_EVERY) % len(SPOILS)] if n % SPOILT_EVERY == SPOILT_EVERY - 1 else "good"


def mislabelled(samples: Samples, rng: np.random.Generator) -> Samples:
    """The same pictures, each under another one of the emotions than its own."""
    codes = samples.codes.copy()
    codes[:, 0] = (codes[:, 0] + rng.integers(1, len(FACES), len(codes)) - 1) % len(FACES) + 1
    return Samples(samples.images, codes)


def learn(device: Device, ground: Ground, new: Samples, kind: str, n: int, sizes: Sizes, seed: int) -> Adapter:
    """The candidate of one update."""
    strategy: Strategy = GOOD
    replay = race.evened([ground.rehearsal, device.kept])
    rng = named(seed, "long run", "spoilt", n)
    if kind == "naive":
        strategy = NAIVE
    if kind in ("naive", "mislabelled", "hurried"):
        strategy = replace(strategy, lr=HURRY * GOOD.lr)
    if kind == "mislabelled":
        replay = mislabelled(replay, rng)
    world = ground.world
    task = Task(
        model=world.model,
        basis=world.basis,
        vocabulary=device.vocabulary,
        new=new,
        replay=replay,
        strategy=strategy,
        recipe=Recipe(steps=sizes.steps, warm_up=5, checkpoint_every=sizes.steps),
        seed=seed_of(seed, "long run", "task", n) % 2**31,
        start=device.adapter,
    )
    data: list[bytes] = []
    train(task, ground.cache / "task", Hooks(write=lambda path, given: data.append(given)))
    candidate = adapter_of_bytes(data[-1])
    if kind != "noise":
        return candidate
    torch_rng = torch.Generator().manual_seed(task.seed)
    noised = {name: b + NOISE * b.std() * torch.randn(b.shape, generator=torch_rng) for name, b in candidate.b.items()}
    return replace(candidate, b=noised)


def true_harm(ground: Ground, device: Device, candidate: Adapter) -> tuple[float, float]:
    """The worst mean harm over the known conditions on the truth: against the incumbent, and against the release."""
    roles = _roles(ground, device, candidate, 1.0)
    nothing = evaluate.Golden(
        Samples(ground.truth.samples.images[:0], ground.truth.samples.codes[:0]), (), 0, device.vocabulary.sizes
    )
    found = evaluate.measure(roles, ground.truth, nothing, (), cache=ground.cache)
    return (
        max(c.mean for c in found if c.kind == "incumbent"),
        max(c.mean for c in found if c.kind == "release"),
    )


def true_gain(
    ground: Ground,
    device: Device,
    candidate: Adapter,
    real: Samples,
    theirs: Vocabulary,
    learnt: Sequence[Code],
    seed: int,
) -> float:
    """The least mean gain over what was learnt, on all pictures of the new look, emotions that were not shown too."""
    samples, vocabulary = _in_numbers(real, theirs, device.vocabulary)
    look = evaluate.Golden(samples, tuple(learnt), seed_of(seed, "gain") % 2**31, vocabulary.sizes)
    roles = _roles(ground, device, candidate, 1.0)
    found = evaluate.measure(roles, replace(ground.truth, samples=_none(samples), conditions=()), look, learnt)
    return min(-c.mean for c in found if c.kind == "gain")


def verdict(done: Sequence[Update], margin: float, n_looks: int) -> Verdict:
    """What the updates come to."""
    harmful = [u for u in done if u.harm >= 2 * margin]
    innocent = [u for u in done if u.kind == "good" and u.harm <= margin / 2 and u.gain > 0]
    promoted = [u for u in done if u.promoted_harm is not None]
    return Verdict(
        n=len(done),
        margin=margin,
        harmful=len(harmful),
        harmful_promoted=sum(1 for u in promoted if u.promoted_harm is not None and u.promoted_harm >= 2 * margin),
        innocent=len(innocent),
        innocent_rejected=sum(1 for u in innocent if u.outcome != "accept"),
        good=sum(1 for u in done if u.kind == "good"),
        good_rejected=sum(1 for u in done if u.kind == "good" and u.outcome != "accept"),
        worst_promoted=max((u.promoted_harm for u in promoted if u.promoted_harm is not None), default=0.0),
        drift_max=max((u.promoted_drift for u in promoted if u.promoted_drift is not None), default=0.0),
        looks=n_looks,
    )


def _ground(world: World, sizes: Sizes, seed: int, cache: Path) -> Ground:
    atelier = Atelier(world.plan.network.image_px)
    golden = looks.base_pictures(atelier, sizes.n_golden, seed_of(seed, "golden") % 2**31, "golden")
    truth = looks.base_pictures(atelier, sizes.n_truth, seed_of(seed, "truth") % 2**31, "train")
    known = world.model.vocabulary.sizes
    conditions = tuple(sorted({group(tuple(code.tolist()), known) for code in golden.codes}))
    rehearsal = Samples(world.known.images[:288], world.known.codes[:288])
    return Ground(
        world,
        evaluate.Golden(golden, conditions, 1, known),
        evaluate.Golden(truth, conditions, 2, known),
        rehearsal,
        gate.Policy.of(Config().gate),
        cache,
    )


def _roles(ground: Ground, device: Device, candidate: Adapter, gamma: float) -> evaluate.Roles:
    world = ground.world

    def network(adapter: Adapter | None, name: str | None) -> evaluate.Network:
        return evaluate.network(world.model, world.basis, adapter, device.vocabulary, name)

    incumbent = "release" if device.adapter is None else _name(device.adapter)
    return evaluate.Roles(network(candidate, None), network(device.adapter, incumbent), network(None, "release"))


def _name(adapter: Adapter) -> str:
    return hashlib.sha256(adapter_bytes(adapter)).hexdigest()


def _in_numbers(samples: Samples, theirs: Vocabulary, ours: Vocabulary) -> tuple[Samples, Vocabulary]:
    """Observations in the device's own numbers, and its vocabulary with what is new to it."""
    wider = ours
    words = [theirs.decode(tuple(int(v) for v in code)) for code in samples.codes]
    for word in words:
        wider = wider.extend(word)
    codes = np.array([wider.encode(word) for word in words], np.int16).reshape(len(words), -1)
    return Samples(samples.images, codes), wider


def _latest(kept: Samples, new: Samples, n: int, rng: np.random.Generator) -> Samples:
    """What is kept of earlier looks: eight of the new one, and what there is room for of the others."""
    some = rng.permutation(len(new))[:8]
    rest = rng.permutation(len(kept))[: n - len(some)]
    return Samples(
        np.concatenate((kept.images[rest], new.images[some])), np.concatenate((kept.codes[rest], new.codes[some]))
    )


def _none(samples: Samples) -> Samples:
    return Samples(samples.images[:0], samples.codes[:0])


# What lies in the folder: a line an update, and the device as it was after the last of them.


def _store(out: Path, device: Device, n: int) -> None:
    """The device after ``n`` updates."""
    adapter = np.frombuffer(b"" if device.adapter is None else adapter_bytes(device.adapter), np.uint8)
    state = np.frombuffer(msgspec.json.encode((device.state, device.vocabulary)), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, adapter=adapter, state=state, images=device.kept.images, codes=device.kept.codes)
    write_durably(out / f"device-{n % 2}.npz", buffer.getvalue())


def _resumed(out: Path, n: int, ground: Ground) -> Device:
    """The device after ``n`` updates: a kill between the device's file and its line leaves the one before it."""
    if not n:
        return Device(None, ground.world.model.vocabulary, _none(ground.rehearsal), gate.State())
    with np.load(out / f"device-{n % 2}.npz", allow_pickle=False) as file:
        adapter, state = file["adapter"].tobytes(), file["state"].tobytes()
        kept = Samples(file["images"], file["codes"])
    gate_state, vocabulary = msgspec.json.decode(state, type=tuple[gate.State, Vocabulary])
    return Device(adapter_of_bytes(adapter) if adapter else None, vocabulary, kept, gate_state)
