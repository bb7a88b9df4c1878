"""What is raced: streams in their forms, seeds and strategies; done lines are passed over, the rest is run in order."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from evergrove.bench import json_lines
from evergrove.bench.forgetting import lines, looks, race, retention, worlds
from evergrove.bench.forgetting.lines import Line
from evergrove.bench.forgetting.race import Budget
from evergrove.bench.forgetting.streams import Sizes, Stream, class_incremental, classes_of, groups_of
from evergrove.bench.forgetting.worlds import Judge, World, WorldPlan
from evergrove.core.errors import UsageError
from evergrove.learn.rivals import Rival
from evergrove.learn.strategies import Samples
from evergrove.media.avatars import Atelier

Report = Callable[[str, int, int], None]
"""(what, lessons done, lessons in all)."""

N_REHEARSAL = 288
"""Public pictures of what the avatars' base knows, which ship with it: six emotions in 48 looks each."""


@dataclass(frozen=True)
class Form:
    """One stream in one size: its world, its sizes, and every strategy's budget. ``shows`` names the stream whose
    pictures it shows and is judged by, where that is another one."""

    name: str
    world: WorldPlan
    sizes: Sizes
    budget: Budget
    small: bool = False
    shows: str = ""

    @property
    def source(self) -> str:
        """The stream that its pictures are from."""
        return self.shows or self.name


FORMS = {
    "S1": Form("S1", worlds.HANDWRITING, Sizes(n_asked=64), Budget(steps=200)),
    "S2": Form("S2", worlds.HANDWRITING, Sizes(n_train=12, n_real=8, n_asked=24), Budget(steps=80)),
    "S3": Form("S3", worlds.AVATARS, Sizes(), Budget(steps=240)),
    "S4": Form("S4", worlds.HANDWRITING, Sizes(n_lessons=50, n_train=12, n_real=8, n_asked=16), Budget(steps=60)),
    "T1": Form("T1", worlds.HANDWRITING, Sizes(n_lessons=3, n_train=42, n_real=28, n_asked=32), Budget(steps=60)),
    "R1": Form("R1", worlds.HANDWRITING, Sizes(n_asked=64), Budget(steps=200, copies=25), shows="S1"),
}
"""A seed of one strategy takes 10 to 30 s on one core (S3 one minute, S4 two). R1 is the retention curve on the digits
of S1, with room for every observation that a selection keeps."""
QUICK = Form("S1", worlds.SMALL, Sizes(n_train=120, n_real=50, n_asked=24), Budget(steps=80), small=True)
QUICK_STRATEGIES = ("joint", "evergrove", "replay", "naive")
QUICK_ORDER = ("evergrove", "replay", "naive")
"""By average FID, the least first: what a quick race must find again. On digits, on Omniglot and on fifty signs every
step of it has an interval that excludes 0; joint is raced beside them, but is level with ours on digits."""


@dataclass(frozen=True)
class Places:
    """``data`` holds the data sets (None: looked for), ``folder`` the worlds that were made, ``results`` the lines;
    ``device`` is where the networks of a race compute. Worlds and judges are made on the CPU, once for all devices."""

    data: Path | None
    folder: Path
    results: Path
    device: str = "cpu"


def run(form: Form, rivals: Sequence[Rival], seeds: Sequence[int], places: Places, report: Report) -> list[Line]:
    """Every strategy over every seed's stream; the lines, those of earlier runs with these settings included."""
    if not rivals or not seeds:
        raise UsageError("nothing to race: name at least one strategy and one seed")
    world, judge = opened(form, places, report)
    done = lines.read(places.results)
    found: list[Line] = []
    n_lessons = form.sizes.n_lessons
    total = len(rivals) * len(seeds) * n_lessons
    for seed in seeds:
        whole = stream_of(form, world, places.data, seed)
        for rival in rivals:
            stream = seen_by(form, rival, whole, seed)
            line = done.get((form.name, rival.name, seed))
            if line is None or not race.is_made(line, rival, world, form.budget):
                start = len(found) * n_lessons
                told = functools.partial(_told, report, f"{form.name} {rival.name}, seed {seed}", start, total)
                line = race.run(rival, world, judge, stream, seed, form.budget, told)
                json_lines.append(places.results, line)
            found.append(line)
            report(f"{form.name} {rival.name}, seed {seed}", len(found) * n_lessons, total)
    return found


def opened(form: Form, places: Places, report: Report) -> tuple[World, Judge]:
    """The world and the judge of a form, where the race computes."""
    world, judge = worlds.open_world(form.world, places.folder, report), open_judge(form, places, report)
    # A judge of convolutions reads with all of its bits, as on the CPU.
    torch.backends.cudnn.allow_tf32 = False
    return world.to(places.device), judge.to(places.device)


def stream_of(form: Form, world: World, data: Path | None, seed: int) -> Stream:
    """The stream of a seed."""
    if form.name == "S3":
        atelier = _atelier(form.world.network.image_px)
        rows = np.arange(min(N_REHEARSAL, len(world.known)))
        rehearsal = Samples(world.known.images[rows], world.known.codes[rows])
        return looks.avatar_stream(atelier, rehearsal, _golden(form.world), seed)
    classes = classes_of(form.source, data, form.small)
    groups = groups_of(form.source, classes, form.sizes.n_lessons, seed)
    stream = class_incremental(form.source, classes, world.model.vocabulary, groups, form.sizes, seed)
    return replace(stream, name=form.name)


def seen_by(form: Form, rival: Rival, stream: Stream, seed: int) -> Stream:
    """What a strategy sees of the stream: all of it, but on the retention curve what its selection keeps."""
    keep = retention.kept_named(rival.name) if form.name == "R1" else None
    return stream if keep is None else retention.thinned(stream, keep, seed)


def open_judge(form: Form, places: Places, report: Report) -> Judge:
    """The judge of a stream; S2 and S4 are of one set and share theirs."""
    classes = None if form.name == "S3" else classes_of(form.source, places.data, form.small)
    name = "omniglot" if form.name in ("S2", "S4") else form.source
    return worlds.open_judge(name, form.world, classes, places.folder, report)


@functools.lru_cache(maxsize=2)
def _atelier(image_px: int) -> Atelier:
    """One for all seeds: it keeps the layers that it has rasterised."""
    return Atelier(image_px)


@functools.lru_cache(maxsize=2)
def _golden(plan: WorldPlan) -> Samples:
    return looks.base_pictures(_atelier(plan.network.image_px), 96, plan.seed, "golden")


def _told(report: Report, what: str, start: int, total: int, done: int) -> None:
    report(what, start + done, total)
