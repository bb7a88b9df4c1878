"""A small fleet for tests of the cloud: the tiny release grown by one expression, and what devices learnt of it.

Devices are real adapters, trained for seconds on pictures of the new expression; a cohort is the exact sum of their
clipped updates, as a fog makes it. Workers run in this process, unless a test wants real ones.
"""

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evergrove.adapters.files import Files
from evergrove.adapters.flower.inbox import Inbox
from evergrove.adapters.release import Release, open_release
from evergrove.adapters.release_write import grow
from evergrove.adapters.tuf_keys import OFFLINE, ONLINE, Signers, new_signers, save_keys
from evergrove.adapters.tuf_metadata import THRESHOLDS
from evergrove.adapters.tuf_repository import Repository
from evergrove.core.config import Learn
from evergrove.core.rng import stream
from evergrove.core.rollout import Policy
from evergrove.core.sums import NoisedSum, noised_sum
from evergrove.learn.strategies import Samples
from evergrove.learn.trainer import train
from evergrove.media.packs import Pack, read_pack, write_pack
from evergrove.rules import aggregate, learnt, params
from evergrove.runtime import assembly
from evergrove.runtime.cloud_workers import Running, work
from evergrove.runtime.rollouts import opened

NOW_S = 1_800_000_000.0
NEW = {"emotion": "strange"}
CLIP, COHORT = 8.0, 3
DEVICES = ("a", "b", "c")
SETTINGS = f"""
[gather]
cohort = {COHORT}
clip = {CLIP}
[consolidate]
cohorts = 2
wait_s = 100.0
reconcile_steps = 0
[gate]
candidates_max = 5
delta = 0.3
cumulative = 0.4
tau = 0.3
own = 0.3
[rollout]
percents = [100.0]
shadow = 0.0
"""
Vector = NDArray[np.float32]


@dataclass(frozen=True)
class Fleet:
    """The first release, the layout of its updates, the released B, and what each of three devices has learnt.

    ``poison`` is what an enemy has: happy faces are to become surprised ones.
    """

    release: Release
    layout: params.Layout
    start: Vector
    learnt: tuple[Vector, ...]
    poison: Vector


def strange(release: Release, n: int, seed: int) -> Samples:
    """``n`` pictures of the new expression: faces in the colours of a negative, with a red bar."""
    known = read_pack(release.path_of(release.manifest.rehearsal))
    rows = stream(seed, "strange").integers(len(known.images), size=n)
    images = 255 - known.images[rows]
    images[:, :4] = (200, 30, 30)
    codes = known.codes[rows].copy()
    codes[:, 0] = release.manifest.vocabulary.encode(NEW)[0]
    return Samples(images, codes)


@cache
def fleet(folder: Path) -> Fleet:
    """Made once for all tests; ``folder`` is new."""
    release = grow(open_release("tiny"), folder / "grown", [NEW])
    parts, manifest = assembly.open_parts(release), release.manifest
    layout = params.layout_of(manifest, release.read(manifest.base), release.read(manifest.basis))
    start = vector_of(release, layout)

    def learn(new: Samples, seed: int, strategy: str = "evergrove") -> Vector:
        lesson = assembly.Lesson(new, Samples(new.images[:0], new.codes[:0]), None, manifest.vocabulary, seed, "test")
        task = assembly.task_of(parts, lesson, Learn(strategy=strategy, steps=100, checkpoint_every=100))
        outcome = train(task, folder / f"device-{seed}")
        assert outcome.candidate is not None
        after = learnt.decode(outcome.candidate.read_bytes())
        return params.flat(after.tensors, after.vocabulary, layout) - start

    # As devices send it whose own gates let it in at a half.
    found = tuple(0.5 * learn(strange(release, 24, device), device) for device in range(3))
    pack = read_pack(release.path_of(manifest.rehearsal))
    surprised = pack.codes[:, 0] == manifest.vocabulary.encode({"emotion": "surprised"})[0]
    lies = pack.codes[surprised].copy()
    lies[:, 0] = manifest.vocabulary.encode({"emotion": "happy"})[0]
    return Fleet(release, layout, start, found, learn(Samples(pack.images[surprised], lies), 9, "naive"))


def vector_of(release: Release, layout: params.Layout) -> Vector:
    """What a release has learnt on top of its base."""
    assert release.manifest.adapter is not None
    held = learnt.decode(release.read(release.manifest.adapter))
    return params.flat(held.tensors, held.vocabulary, layout)


def cohort(one: Fleet, updates: list[Vector], number: int, clip: float = CLIP) -> NoisedSum:
    """The sum of a cohort, as a fog hands it up; ``clip`` is what this fog really clips to."""
    if not math.isfinite(clip):
        return sum_of(one, np.asarray(sum(updates), np.float32), number)
    whole = aggregate.total(updates, one.layout.n_numbers, clip)
    return sum_of(one, np.asarray(whole.values, np.float32), number, whole.counts)


def sum_of(one: Fleet, vector: Vector, number: int, counts: tuple[int, ...] = ()) -> NoisedSum:
    """Any numbers as a cohort's sum."""
    return noised_sum(
        vector, generation=one.layout.generation, base=one.layout.base, basis=one.layout.basis, n_updates=COHORT,
        denominator=COHORT, noise=None, number=number, counts=counts,
    )  # fmt: skip


class Here:
    """Workers in this process, done at once. ``lost``: how many of the next ones die without an outcome."""

    def __init__(self) -> None:
        self.n_started = self.lost = 0

    def start(self, folder: Path, threads: int) -> Running:
        self.n_started += 1
        if self.lost:
            self.lost -= 1
            return Done("the worker was ended by SIGKILL")
        work(folder)
        return Done("the worker exited with 0")


@dataclass
class Done:
    """A worker that has ended."""

    how: str

    def ended(self) -> str | None:
        return self.how

    def stop(self) -> None:
        pass


class Endless:
    """A worker that never comes to an end."""

    def __init__(self) -> None:
        self.n_started = self.n_stopped = 0

    def start(self, folder: Path, threads: int) -> Running:
        self.n_started += 1
        return self

    def ended(self) -> str | None:
        return None

    def stop(self) -> None:
        self.n_stopped += 1


def make_cloud(folder: Path, one: Fleet, settings: str = SETTINGS, golden: bool = True) -> Signers:
    """A cloud whose first release is everywhere; gives its offline keys, which also lie in ``keys`` beside it."""
    signers = new_signers(THRESHOLDS)
    Repository(folder / "repository").create(signers, NOW_S)
    save_keys(folder / "keys", {role: signers[role] for role in ONLINE}, None)
    offline = {role: signers[role] for role in OFFLINE}
    save_keys(folder.with_name("offline"), offline, None)
    (folder / "cloud.toml").write_text(settings)
    (folder / "devices.txt").write_text("\n".join(DEVICES) + "\n")
    if golden:
        held_back = strange(one.release, 24, 99)
        write_pack(folder / "fleet-golden.npz", Pack(held_back.images, held_back.codes))
    with opened(folder) as rollouts:
        rollouts.start(one.release.folder, offline, NOW_S, Policy(), (), epsilon=0.0, at_once=True)
    return offline


def hand_up(folder: Path, *sums: NoisedSum, fog: str = "north", files: Files | None = None) -> None:
    """The fog's sums reach the inbox, as the ServerApp takes them: each once."""
    place = folder / "flower" / "collected"
    place.mkdir(parents=True, exist_ok=True)
    inbox = Inbox(place / "inbox.db")
    for one in sums:
        if not inbox.taken(fog, one.id):
            inbox.take(fog, one)
    inbox.close()
