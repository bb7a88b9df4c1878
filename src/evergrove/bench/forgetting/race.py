"""One strategy over one stream: learn lesson after lesson, and after each draw what every lesson asks for.

All strategies get the same base, pictures, batch and network passes a lesson: what a strategy prepares (a teacher's
points, a Fisher) is taken off its steps. All get the same bytes to store beyond the release: what a strategy's numbers
leave is filled with observations where it keeps any. Both are declared by the rival and counted here.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from evergrove.bench.forgetting.lines import Line, Settings
from evergrove.bench.forgetting.scores import Scores
from evergrove.bench.forgetting.streams import Codes, Lesson, Stream
from evergrove.bench.forgetting.worlds import Judge, World
from evergrove.core.rng import seed_of
from evergrove.core.rng import stream as named
from evergrove.learn.dit import Block
from evergrove.learn.flow import sample
from evergrove.learn.generator import to_condition, to_uint8
from evergrove.learn.place import described, place_of
from evergrove.learn.rivals import Carried, Rival
from evergrove.learn.rivals.sequence import NUMBER_BYTES, frozen_numbers, routed
from evergrove.learn.strategies import Recipe, Samples, Task, remember_nothing
from evergrove.learn.trainer import Hooks, train

FORWARD, STEP = 1, 3
"""What a row costs in passes: forward alone, and forward and backward (twice a forward pass)."""


@dataclass(frozen=True)
class Budget:
    """``steps`` of a lesson for a strategy that prepares nothing; ``copies`` of the adapter's bytes that all may store:
    one for the adapter itself, one for whatever a method remembers by."""

    steps: int = 250
    batch: int = 16
    copies: int = 2
    sampler_steps: int = 4


Told = Callable[[int], None]
"""Called after each lesson with how many are done."""


def run(
    rival: Rival, world: World, judge: Judge, stream: Stream, seed: int, budget: Budget, told: Told = lambda done: None
) -> Line:
    """The whole stream by one strategy, and every measurement. The same arguments give the same line but its times.

    Networks compute where the world's and the judge's are (``World.to``); rows, noise and chance are the same anywhere,
    and what comes out differs by rounding.
    """
    started_s = time.process_time()
    rival = routed(rival, world.model)
    carried = rival.begin(world.model, world.basis, len(stream.lessons))
    scores = Scores(judge, stream)
    room = Room(budget.copies * NUMBER_BYTES * frozen_numbers(world.model, world.basis))
    steps: list[int] = []
    declared, counter = 0, Counter(world.plan.network.depth)
    if rival.prior is not None and len(stream.rehearsal):
        rng = torch.Generator().manual_seed(seed_of(seed, "race", "prior"))
        carried = replace(carried, fisher=rival.prior(carried.model, carried.basis, *stream.rehearsal.pick(), rng))
    if not rival.joint:
        measure(scores, 0, rival, carried, stream, seed, budget)
    for i, lesson in enumerate(stream.lessons):
        last = i == len(stream.lessons) - 1
        if not rival.joint or last:
            task = task_of(rival, carried, stream, i, room, seed, budget)
            with counter.counting(), tempfile.TemporaryDirectory() as folder:
                outcome = train(task, Path(folder), Hooks(write=lambda path, data: _write(path, data)))
                assert outcome.candidate is not None
                data = outcome.candidate.read_bytes()
                carried = rival.after(task, data, carried)
            steps.append(task.recipe.steps)
            declared += task.recipe.steps * budget.batch * STEP + (rival.prepare_rows if _has_old(task) else 0)
            if rival.keeps_observations:
                room.keep(i, lesson.new, carried.n_bytes, seed)
            measure(scores, i + 1, rival, carried, stream, seed, budget)
        told(i + 1)
    n_bytes = carried.n_bytes + room.n_bytes
    return Line(
        stream=stream.name,
        strategy=rival.name,
        seed=seed,
        settings=settings_of(rival, world, budget),
        lessons=tuple(lesson.name for lesson in stream.lessons),
        steps=tuple(steps),
        rows_declared=declared,
        rows_counted=counter.passes,
        n_bytes=n_bytes,
        over=round(n_bytes / room.n_bytes_max, 4),
        n_observations=room.n,
        cpu_s=round(time.process_time() - started_s, 1),
        versions={name: metadata.version(name) for name in ("torch", "numpy")},
        device=described(str(place_of(world.model))),
        **scores.fields(),
    )


def settings_of(rival: Rival, world: World, budget: Budget) -> Settings:
    """What a line must have been made with to count as done."""
    s = routed(rival, world.model).strategy
    words = f"lr={s.lr:g} {s.weights} {s.shares}"
    return Settings(world.plan.name, budget.steps, budget.batch, budget.sampler_steps, words)


def is_made(line: Line | None, rival: Rival, world: World, budget: Budget) -> bool:
    """Whether there is a line, with these settings, from such a device: lines of two devices are not one table."""
    here = described(str(place_of(world.model)))
    return line is not None and line.settings == settings_of(rival, world, budget) and _as_one(line.device, here)


def _as_one(one: str, other: str) -> bool:
    """All CPUs are; lines from before there was a choice are of a CPU."""
    on_cpu = [name.startswith("cpu") or not name for name in (one, other)]
    return all(on_cpu) or one == other


def task_of(rival: Rival, carried: Carried, stream: Stream, i: int, room: "Room", seed: int, budget: Budget) -> Task:
    """The learning job of lesson ``i`` (from 0), with as many steps as its preparation leaves."""
    lesson = stream.lessons[i]
    new, replay = lesson.new, evened([stream.rehearsal, *room.held])
    earlier = [each.new for each in stream.lessons[:i]]
    if rival.recombines:
        earlier = [recombined(part, carried.model) for part in earlier]
    known = evened([stream.rehearsal, *earlier]).codes
    n_lessons = 1
    if rival.joint:
        new, n_lessons = evened([stream.rehearsal, *(each.new for each in stream.lessons)]), i + 1
    recipe = Recipe(steps=budget.steps * n_lessons, batch=budget.batch, micro_batch=budget.batch)
    task = Task(
        model=carried.model,
        basis=carried.basis,
        vocabulary=lesson.vocabulary,
        new=new,
        replay=replay,
        strategy=rival.strategy,
        recipe=recipe,
        seed=seed_of(seed, stream.name, "lesson", i),
        start=carried.start,
        fisher=carried.fisher,
        known=known,
    )
    whole = recipe.steps * budget.batch * STEP
    left = whole - rival.prepare_rows if _has_old(task) else whole
    n_steps = max(1, left // (budget.batch * STEP))
    strategy = rival.strategy if _has_old(task) else replace(rival.strategy, remember=remember_nothing)
    return replace(task, strategy=strategy, recipe=replace(recipe, steps=n_steps, checkpoint_every=n_steps))


def measure(
    scores: Scores, row: int, rival: Rival, carried: Carried, stream: Stream, seed: int, budget: Budget
) -> None:
    """Draws and scores what row ``row`` of R needs: all lessons so far, or the one just learnt alone.

    Where lessons share what the release knows (S3), row 0 is all of them, and every row has the next one, too; where
    each is of classes that nobody has heard of, a network cannot be asked for them before.
    """
    n = len(stream.lessons)
    foreseen = len(stream.kept) > 0
    columns = range(row) if row in stream.rows else range(max(0, row - 1), row)
    if foreseen:
        columns = range(n if row == 0 else min(n, row + 1))
    if rival.joint:
        columns = range(n)
    last = max((*columns, 0))
    vocabulary = stream.lessons[last].vocabulary
    for j in columns:
        lesson = stream.lessons[j]
        network = rival.network(carried, vocabulary, j)
        scores.add(row, j, drawn(network, lesson.asked, lesson, named_noise(seed, stream, j), budget.sampler_steps))
    if row == n and len(stream.kept):
        network = rival.network(carried, vocabulary, -1)
        pictures = drawn(network, stream.kept, stream.lessons[0], named_noise(seed, stream, -1), budget.sampler_steps)
        scores.add_kept(pictures)


def drawn(network: nn.Module, asked: Codes, lesson: Lesson, rng: torch.Generator, steps: int) -> Any:
    """Pictures uint8 (N, H, W, C) of the asked conditions; the same generator, the same noise."""
    noise = torch.randn((len(asked), *lesson.real.shape), generator=rng)
    codes = to_condition(asked)
    parts = zip(torch.split(codes, 64), torch.split(noise, 64), strict=True)
    return np.concatenate([to_uint8(sample(network, code, z, steps)) for code, z in parts])


def named_noise(seed: int, stream: Stream, j: int) -> torch.Generator:
    """The noise of lesson ``j``: the same for every strategy and after every lesson."""
    return torch.Generator().manual_seed(seed_of(seed, stream.name, "noise", j))


def evened(parts: Sequence[Samples]) -> Samples:
    """All parts, those after the first repeated so that together they are as many as the first: what a device has few
    of is drawn as often as what a release has many of."""
    first, rest = parts[0], [part for part in parts[1:] if len(part)]
    times = max(1, len(first) // max(1, sum(len(part) for part in rest)))
    images = [first.images, *(part.images for part in rest for _ in range(times))]
    codes = [first.codes, *(part.codes for part in rest for _ in range(times))]
    return Samples(np.concatenate(images), np.concatenate(codes))


def recombined(part: Samples, model: nn.Module) -> Samples:
    """Every code with every value of the first factor that the base knows, where there are other factors, too."""
    n_factors = part.codes.shape[1]
    if n_factors < 2:
        return part
    n_values = len(cast(Any, model).tables[0].weight) - 1
    codes = np.repeat(part.codes, n_values, axis=0)
    codes[:, 0] = np.tile(np.arange(1, n_values + 1), len(part))
    return Samples(np.repeat(part.images, n_values, axis=0), codes)


class Room:
    """The observations that fit into what a strategy's numbers leave of the bytes; every lesson has the same part."""

    def __init__(self, n_bytes_max: int) -> None:
        self.n_bytes_max = n_bytes_max
        self.held: list[Samples] = []

    @property
    def n(self) -> int:
        """Observations held."""
        return sum(len(part) for part in self.held)

    @property
    def n_bytes(self) -> int:
        """Bytes of the observations held: raw pictures and their codes."""
        return sum(part.images.nbytes + part.codes.nbytes for part in self.held)

    def keep(self, i: int, new: Samples, n_bytes_numbers: int, seed: int) -> None:
        """After lesson ``i``: earlier lessons give up what the new one needs."""
        one = new.images[0].nbytes + new.codes[0].nbytes
        quota = max(0, self.n_bytes_max - n_bytes_numbers) // one // (i + 1)
        order = named(seed, "race", "kept", i).permutation(len(new))
        latest = Samples(new.images[order], new.codes[order])
        self.held = [Samples(part.images[:quota], part.codes[:quota]) for part in (*self.held, latest)]


class Counter:
    """Counts network passes of one row: every pass through a block is seen, by whichever way the network is used."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.n_blocks = 0

    @property
    def passes(self) -> int:
        """Passes so far."""
        return round(self.n_blocks / self.depth)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Counts whatever runs inside."""
        handle = register_module_forward_pre_hook(self._see)
        try:
            yield
        finally:
            handle.remove()

    def _see(self, module: nn.Module, given: tuple[Tensor, ...]) -> None:
        if isinstance(module, Block):
            self.n_blocks += len(given[0]) * (STEP if torch.is_grad_enabled() else FORWARD)


def _has_old(task: Task) -> bool:
    return len(task.old_codes()) > 0


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
