"""One learning job put together: the very same ``Task``, whether a device's worker trains it or a trusted fog.

Files of a release and samples come in; nothing here knows where they were kept.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import nn

from evergrove.adapters.images import decode
from evergrove.adapters.release import Release
from evergrove.core.conditions import Code, Vocabulary
from evergrove.core.config import Learn
from evergrove.core.errors import InvalidArtefact, InvalidMedia
from evergrove.core.rng import stream
from evergrove.core.sections import SHARED
from evergrove.learn.adapter import Adapter, Basis, fuse, unknown_values
from evergrove.learn.adapter_file import load_adapter
from evergrove.learn.assist import Assist, Released
from evergrove.learn.base import load_base, load_teacher
from evergrove.learn.basis import load_basis
from evergrove.learn.branches import BRANCHES, lesson_of, stands_alone
from evergrove.learn.rehearsal import codes_of, draw, fleet_values, untaught_values
from evergrove.learn.strategies import Recipe, Samples, Task, strategy_named
from evergrove.learn.teacher import Beside
from evergrove.media.packs import read_pack

UNTAUGHT_SHARE = 3
"""Of the values that the teacher is asked about, at most one untaught for so many known ones."""
N_DRAWN = 48
"""Pictures that are drawn of each value that only the fleet knows; a third as many keep it about a tenth worse."""


@dataclass(frozen=True)
class Parts:
    """A verified release's networks. ``adapter`` is the released one (None: the release is its base alone)."""

    release: Release
    model: nn.Module
    basis: Basis
    adapter: Adapter | None = None

    def serving(self, adapter: Adapter | None) -> Adapter | None:
        """What is attached where ``adapter`` is a device's own, or None for the release alone."""
        return self.adapter if adapter is None else adapter

    def network(self) -> nn.Module:
        """The release alone as one network, frozen."""
        return self.model if self.adapter is None else fuse(self.model, self.basis, self.adapter)

    @cached_property
    def guide(self) -> nn.Module | None:
        """Who is asked about old conditions, read when first asked for: the larger network, with the release beside it
        for what only the fleet knows (None: the release has no larger one, and the incumbent is asked)."""
        teacher = teacher_of(self.release)
        if teacher is None or self.adapter is None or not self.adapter.rows:
            return teacher
        return Beside(teacher, self.network())


@dataclass(frozen=True)
class Lesson:
    """What is to be learnt, on top of what: ``new`` and what was learnt before (``known``), the incumbent's adapter
    (None: the release alone), and what ``vocabulary`` the candidate must understand. ``made_of`` names the records
    that it began with (``learn.strategies.Task``)."""

    new: Samples
    known: Samples
    start: Adapter | None
    vocabulary: Vocabulary
    seed: int
    made_of: str = ""


def open_parts(release: Release) -> Parts:
    """The networks of a release that passed its checks.

    Raises ``InvalidArtefact`` where they do not belong together, or a value of its vocabulary has a row nowhere.
    """
    manifest = release.manifest
    basis = load_basis(release.path_of(manifest.basis), manifest.base.sha256, manifest.scale)
    model = load_base(release.folder)
    if manifest.adapter is not None:
        return Parts(release, model, basis, load_adapter(release.path_of(manifest.adapter), model, basis))
    for f, n in unknown_values(model, manifest.vocabulary):
        factor = manifest.vocabulary.factors[f]
        raise InvalidArtefact(
            f"{release.folder}: the release names {factor.name}={factor.values[n - 1]}, which its base has no row for, "
            "and it has no adapter; get the release again"
        )
    return Parts(release, model, basis)


def task_of(parts: Parts, lesson: Lesson, learn: Learn, assist: Assist | None = None, rehearse: bool = False) -> Task:
    """The task: new against the rehearsal pack, what was learnt before, and what only the fleet knows.

    With an ``assist`` neither Fisher nor teacher points are made here, so that not even the teacher is loaded;
    ``rehearse`` also adds its pictures to the replay. Where conditions stand alone all of that is not needed. One B for
    all is learnt anew, from all that is kept, where the incumbent has branches.
    """
    manifest = parts.release.manifest
    pack = pack_of(parts.release, manifest.rehearsal.name)
    if stands_alone(learn.strategy, manifest.vocabulary, lesson.start):
        return _task_alone(parts, lesson, learn, pack)
    if learn.strategy == SHARED and lesson.start is not None and lesson.start.branches:
        lesson = _anew(lesson)
    drawn = rehearsed(parts, [lesson.new.codes, pack.codes, lesson.known.codes])
    replay = [pack, drawn, lesson.known]
    if assist is not None and rehearse:
        replay.append(assist.rehearsal)
    return Task(
        model=parts.model,
        basis=parts.basis,
        vocabulary=lesson.vocabulary,
        new=lesson.new,
        replay=Samples(np.concatenate([s.images for s in replay]), np.concatenate([s.codes for s in replay])),
        strategy=strategy_named(learn.strategy),
        recipe=_recipe(learn),
        seed=lesson.seed,
        start=parts.serving(lesson.start),
        teacher=parts.guide if assist is None else None,
        fisher=None if assist is None else assist.fisher,
        points=None if assist is None else assist.points,
        balance=balance(lesson.new.codes, manifest.known),
        made_of=lesson.made_of,
        known=_asked(parts, [pack.codes, drawn.codes], lesson),
    )


def _anew(lesson: Lesson) -> Lesson:
    """The same from the release on, with all that was learnt before among the new."""
    parts = (lesson.new, lesson.known)
    new = Samples(np.concatenate([s.images for s in parts]), np.concatenate([s.codes for s in parts]))
    return replace(lesson, new=new, known=Samples(new.images[:0], new.codes[:0]), start=None)


def _recipe(learn: Learn) -> Recipe:
    return Recipe(learn.steps, learn.batch, lr=learn.rate or None, checkpoint_every=learn.checkpoint_every)


def _task_alone(parts: Parts, lesson: Lesson, learn: Learn, pack: Samples) -> Task:
    """The task where each condition gets a B of its own: nobody is asked about the old, for nothing old moves."""
    new, replay = lesson_of(lesson.new, (pack, lesson.known))
    return Task(
        model=parts.model,
        basis=parts.basis,
        vocabulary=lesson.vocabulary,
        new=new,
        replay=replay,
        strategy=BRANCHES,
        recipe=_recipe(learn),
        seed=lesson.seed,
        start=parts.serving(lesson.start),
        made_of=lesson.made_of,
    )


def released(parts: Parts, with_teacher: bool) -> Released:
    """The release as an assist is computed from it (with its teacher), or is checked against it (without)."""
    manifest = parts.release.manifest
    codes = pack_of(parts.release, manifest.rehearsal.name).codes
    return Released(
        name=parts.release.manifest_hash,
        model=parts.model,
        basis=parts.basis,
        vocabulary=manifest.vocabulary,
        adapter=parts.adapter,
        codes=np.concatenate((codes, codes_of(fleet_values(manifest, parts.adapter, [codes]), manifest, N_DRAWN))),
        shape=(3, manifest.image_px, manifest.image_px),
        teacher=parts.guide if with_teacher else None,
        sampler=manifest.sampler,
    )


def samples_of(shown: Iterable[tuple[bytes, Code]], n_px: int, n_factors: int) -> Samples:
    """Encoded media and their codes as arrays. Raises ``InvalidMedia`` for one that is not of the release's size."""
    shown = list(shown)
    images = np.zeros((len(shown), n_px, n_px, 3), np.uint8)
    codes = np.zeros((len(shown), n_factors), np.int16)
    for i, (media, code) in enumerate(shown):
        pixels = decode(media)
        if pixels.shape != images.shape[1:]:
            raise InvalidMedia("wrong size", f"a record of {pixels.shape}, this release's are {images.shape[1:]}")
        images[i], codes[i] = pixels, code
    return Samples(images, codes)


def pack_of(release: Release, name: str) -> Samples:
    """One of the release's packs."""
    pack = read_pack(release.folder / name)
    return Samples(pack.images, pack.codes)


def teacher_of(release: Release) -> nn.Module | None:
    """The release's larger network, None where it has none."""
    return None if release.manifest.teacher is None else load_teacher(release.folder)


def rehearsed(parts: Parts, shown: Iterable[NDArray[np.int16]]) -> Samples:
    """Pictures of what the fleet has learnt and nothing of ``shown`` is of, drawn by the release itself."""
    manifest = parts.release.manifest
    codes = codes_of(fleet_values(manifest, parts.adapter, shown), manifest, N_DRAWN)
    if not len(codes):
        return Samples(np.zeros((0, manifest.image_px, manifest.image_px, 3), np.uint8), codes)
    return draw(parts.network(), manifest, codes)


def _asked(parts: Parts, public: list[NDArray[np.int16]], lesson: Lesson) -> NDArray[np.int16] | None:
    """The old conditions that the teacher is asked about (None: those that are replayed).

    Of the fleet's values it is the release that speaks; of those that the device has learnt itself, its pictures do.
    What others of the fleet are to teach stays as the release draws it: whoever learns one new value alone makes it
    of all new ones, and in the fleet's mean each then spoils the others' (ADR 0030).
    """
    if parts.adapter is None or not parts.adapter.rows:
        return None
    manifest, own = parts.release.manifest, lesson.known.codes
    untaught = untaught_values(manifest, parts.adapter, [lesson.new.codes, own])
    some = stream(lesson.seed, "untaught").permutation(len(untaught))[: max(max(manifest.known) // UNTAUGHT_SHARE, 1)]
    others = codes_of([untaught[i] for i in some], manifest, N_DRAWN)
    return np.concatenate([*public, own[(own <= np.array(manifest.known)).all(axis=1)], others])


def balance(codes: NDArray[np.int16], known: Code) -> int:
    """The factor whose values are drawn evenly: the first in which something new stands, else the first of all."""
    new = [f for f, size in enumerate(known) if (codes[:, f] > size).any()]
    return new[0] if new else 0
