"""``evergrove bench latency``: what training does to a stream of 30 frames a second, and what the stream leaves of it.

One device, one stream, in short blocks: training paused, training at work, turn about. First with the device's own
worker, then with the two ways that come to mind first (``bench.beside``). A frame's time runs from its beat, at which
it may begin, to its pixels in the app's hands: a late awakening counts. Blocks are compared in pairs of neighbours, by
the p99 of each; what neighbours without any training differ by is the noise floor.
"""

import contextlib
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from evergrove.adapters.release import Release, open_release
from evergrove.bench import beside
from evergrove.bench.beside import Trainer
from evergrove.bench.frames import FPS, condition_of, steps_of, time_ms
from evergrove.bench.measure import Bar, Machine, Ratio, Spread, machine
from evergrove.bootstrap import Device
from evergrove.runtime.stream import Stream

P99_RATIO_MAX = 1.10
"""p99 of frame times while training, over the same without, with the cores that there are (issue 3)."""
P99_RATIO_MAX_ONE_CORE = 1.25
GIVEN_UP_MAX = 30.0
"""Per cent of the training throughput that the frames leave room for."""
RIVALS = (("default process", beside.plain_process), ("thread of the app", beside.plain_thread))


class Sizes(msgspec.Struct, frozen=True):
    """Seconds of streaming with the worker paused, as many with it at work; the same for each rival (0: none); a block.

    ``solo_s`` is one of the three times in which the worker has the machine to itself.
    """

    own_s: float = 60.0
    rival_s: float = 15.0
    block_s: float = 5.0
    solo_s: float = 6.0
    settle_s: float = 0.5


QUICK = Sizes(own_s=4.0, rival_s=2.0, block_s=1.0, solo_s=1.0, settle_s=0.2)


class Arm(msgspec.Struct, frozen=True):
    """One way to train beside a stream. ``alone`` and ``training`` are the frame times of all blocks of a kind.

    ``p99`` compares the blocks' p99, pair by pair. ``*_missed`` are frames that came late and beats that had none, per
    1000 beats. ``rows_per_s`` is what was trained meanwhile.
    """

    name: str
    alone: Spread
    training: Spread
    p99: Ratio
    p50: Ratio
    alone_missed: float
    training_missed: float
    rows_per_s: float


class Report(msgspec.Struct, frozen=True):
    """The whole measurement. ``steps`` are the sampler's: what this machine keeps up with (``bench.frames``).

    ``noise`` compares the p99 of neighbouring blocks in which nothing trained. ``solo_rows_per_s`` is the worker's pace
    with the machine to itself: no frames are made. ``inference_share`` is the part of one core that the app takes for
    its stream alone. ``attainable`` is how much of one core that leaves for a trainer of one thread: all of it, or what
    is free of all cores where that is less. ``attained`` is the worker's pace beside the stream over
    ``solo_rows_per_s * attainable``.
    """

    release: str
    fps: float
    steps: int
    cores: int
    sizes: Sizes
    machine: Machine
    own: Arm
    rivals: tuple[Arm, ...]
    noise: Ratio
    solo_rows_per_s: float
    inference_share: float
    attainable: float
    attained: float

    @property
    def bars(self) -> tuple[Bar, ...]:
        """What the design promises, beside what was measured."""
        limit = P99_RATIO_MAX if self.cores > 1 else P99_RATIO_MAX_ONE_CORE
        beyond = max(0.0, round(self.own.training_missed - self.own.alone_missed, 4))
        return (
            Bar("frame p99 while training, of alone", self.own.p99.ratio, limit, "x"),
            Bar("frames missed while training, beyond alone", beyond, 0.0, "per 1000"),
            Bar("attainable training given up", _short(100 * (1 - self.attained)), GIVEN_UP_MAX, "%"),
        )


class Block(NamedTuple):
    """Some seconds of the stream: each frame's time, what was missed, CPU time of this process, rows trained."""

    times_ms: list[float]
    missed: int
    beats: int
    cpu_s: float
    wall_s: float
    rows: int


Say = Callable[[str, int, int], None]


def run(
    place: str | Path = "avatars",
    sizes: Sizes | None = None,
    one_core: bool = False,
    say: Say = lambda what, done, total: None,
) -> Report:
    """Measures a temporary device made from a release. ``one_core`` confines this process and all that it starts.

    Takes about four minutes. Raises ``EvergroveError`` where a trainer ends or does not start.
    """
    sizes, release = sizes or Sizes(), open_release(place)
    with _confined(one_core) as cores, tempfile.TemporaryDirectory(prefix="evergrove-bench-") as folder:
        root = Path(folder)
        with Device.create(root / "device", release=place, flags={"learn.auto": "false"}) as device:
            try:
                return _measure(device, release, root, sizes, cores, say)
            finally:
                device.close(stop_agent=True)


def _measure(device: Device, release: Release, root: Path, sizes: Sizes, cores: int, say: Say) -> Report:
    # 1. Something to learn, and a stream of what the release knows.
    say("preparing", 0, 4)
    for image, condition in beside.pictures(release):
        device.observe(image, condition)
    condition = condition_of(release)
    steps = steps_of(device, release, condition)
    with device.stream(condition, FPS, seed=0, steps=steps) as stream:
        _play(stream, 2 * sizes.settle_s)
        # 2. The device's own worker: beside the stream, and three times by itself.
        say("the device's worker", 1, 4)
        solo: list[float] = []
        own = _beside(
            stream,
            "worker",
            beside.worker(device, root / "job"),
            sizes.own_s,
            sizes,
            lambda t: solo.append(_solo(t, sizes)),
        )
        # 3. The rivals.
        rivals = []
        for number, (name, start) in enumerate(RIVALS if sizes.rival_s else ()):
            say(name, 2 + number, 4)
            folder = root / f"rival{number}"
            folder.mkdir()
            rivals.append(_beside(stream, name, start(release, folder), sizes.rival_s, sizes))
    alone = own.alone
    inference = sum(b.cpu_s for b in alone) / sum(b.wall_s for b in alone)
    attainable = max(0.0, min(1.0, cores - inference))
    arm, pace = own.arm(), float(np.median(solo))
    return Report(
        release=release.manifest.name,
        fps=FPS,
        steps=steps,
        cores=cores,
        sizes=sizes,
        machine=machine(),
        own=arm,
        rivals=tuple(rival.arm() for rival in rivals),
        noise=own.noise(),
        solo_rows_per_s=_short(pace),
        inference_share=_short(inference),
        attainable=_short(attainable),
        attained=_short(arm.rows_per_s / (pace * attainable)) if attainable else 0.0,
    )


class Pairs(NamedTuple):
    """Blocks alone and while training, in pairs of neighbours; which of a pair came first alternates."""

    name: str
    alone: list[Block]
    training: list[Block]

    def arm(self) -> Arm:
        """Their sums."""
        return Arm(
            name=self.name,
            alone=Spread.of([t for block in self.alone for t in block.times_ms], "ms"),
            training=Spread.of([t for block in self.training for t in block.times_ms], "ms"),
            p99=Ratio.of(_quantiles(self.training, 99), _quantiles(self.alone, 99), "ms"),
            p50=Ratio.of(_quantiles(self.training, 50), _quantiles(self.alone, 50), "ms"),
            alone_missed=_missed(self.alone),
            training_missed=_missed(self.training),
            rows_per_s=_short(sum(b.rows for b in self.training) / sum(b.wall_s for b in self.training)),
        )

    def noise(self) -> Ratio:
        """Each block alone over the one before it."""
        p99 = _quantiles(self.alone, 99)
        return Ratio.of(p99[1:], p99[:-1], "ms")


def _beside(
    stream: Stream,
    name: str,
    trainer: Trainer,
    seconds: float,
    sizes: Sizes,
    between: Callable[[Trainer], None] = lambda trainer: None,
) -> Pairs:
    """``seconds`` alone and as many while training, in blocks: A T, T A, A T, …; ``between`` comes at start, in the
    middle and at the end."""
    alone: list[Block] = []
    training: list[Block] = []
    n_pairs = max(2, round(seconds / sizes.block_s))
    try:
        trainer.wait_ready()
        for pair in range(n_pairs):
            if pair in (0, n_pairs // 2):
                between(trainer)
            for trains in (False, True) if pair % 2 == 0 else (True, False):
                if trains:
                    trainer.go_on()
                else:
                    trainer.pause(lambda: _settle(stream, sizes))
                _settle(stream, sizes)
                (training if trains else alone).append(_play(stream, sizes.block_s, trainer))
        between(trainer)
    finally:
        trainer.end()
    return Pairs(name, alone, training)


def _play(stream: Stream, seconds: float, trainer: Trainer | None = None) -> Block:
    """The frames of as many beats as there are in ``seconds``, those of them that miss their beat not made up for."""
    before, rows = stream.stats, trainer.rows() if trainer else 0
    n_beats, n_done = max(1, round(seconds / stream.period_s)), 0
    times_ms: list[float] = []
    cpu_s, started_s = time.process_time(), time.monotonic()
    while n_done < n_beats:
        frame = next(stream)
        times_ms.append(time_ms(frame, stream.period_s))
        n_done += 1 + math.floor(frame.late_s / stream.period_s)
    cpu_s, wall_s = time.process_time() - cpu_s, time.monotonic() - started_s
    after, rows = stream.stats, trainer.rows() - rows if trainer else 0
    missed = after.late - before.late + after.missed - before.missed
    return Block(times_ms, missed, n_done, cpu_s, wall_s, rows)


def _settle(stream: Stream, sizes: Sizes) -> None:
    _play(stream, sizes.settle_s)


def _solo(trainer: Trainer, sizes: Sizes) -> float:
    """Rows a second while nobody asks for a frame."""
    trainer.go_on()
    time.sleep(sizes.settle_s)
    rows, started_s = trainer.rows(), time.monotonic()
    time.sleep(sizes.solo_s)
    return (trainer.rows() - rows) / (time.monotonic() - started_s)


@contextlib.contextmanager
def _confined(one_core: bool) -> Iterator[int]:
    """On how many cores this process and what it starts may run; with ``one_core`` on the last of them alone."""
    if not hasattr(os, "sched_setaffinity"):
        yield os.cpu_count() or 1
        return
    allowed = os.sched_getaffinity(0)
    try:
        if one_core:
            os.sched_setaffinity(0, {max(allowed)})
        yield len(os.sched_getaffinity(0))
    finally:
        os.sched_setaffinity(0, allowed)


def _quantiles(blocks: list[Block], percent: float) -> list[float]:
    return [float(np.percentile(block.times_ms, percent)) for block in blocks]


def _missed(blocks: list[Block]) -> float:
    return _short(1000 * sum(b.missed for b in blocks) / sum(b.beats for b in blocks))


def _short(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")
