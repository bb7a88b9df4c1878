"""``evergrove bench swap``: a stream of 30 frames a second while another version is promoted every 200 ms.

The pointer of the device is turned by another process, as its agent does it; the app's own watcher notices, reads and
checks the file, fuses it into the idle slot and swaps. Blocks with and without that, turn about, tell what it costs.
Afterwards every frame of the blocks with it is made again, by a generator that never knew another version than the one
that the frame names: a frame that differs in one bit was made by something else than exactly that version.
"""

import contextlib
import itertools
import multiprocessing
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path

import msgspec
import numpy as np
import torch

from evergrove.adapters.release import Release, open_release
from evergrove.adapters.versions import Versions
from evergrove.bench.frames import FPS, condition_of, steps_of, time_ms
from evergrove.bench.measure import Bar, Machine, Ratio, Spread, machine
from evergrove.bench.serving import some_adapter
from evergrove.bootstrap import Device
from evergrove.core.errors import EvergroveError
from evergrove.learn.adapter_file import adapter_bytes
from evergrove.runtime.assembly import Parts, open_parts
from evergrove.runtime.picture import Frame
from evergrove.runtime.stream import Stream
from evergrove.runtime.studio import LocalStudio

EVERY_S = 0.2
POLL_S = 0.02
"""How often the app looks for a new version here: ten times as often as by default, so that it sees every one."""
N_VERSIONS = 2
START_S_MAX = 60.0


class Sizes(msgspec.Struct, frozen=True):
    """Seconds of streaming without promotions, as many with; of one block of either; and what passes between blocks."""

    seconds: float = 60.0
    block_s: float = 5.0
    settle_s: float = 0.5


QUICK = Sizes(seconds=4.0, block_s=1.0)


class Report(msgspec.Struct, frozen=True):
    """The whole measurement. ``steps`` are the sampler's: what this machine keeps up with (``bench.frames``).

    ``promotions`` is how often the pointer was turned while frames were measured, ``swaps`` how often a frame came from
    another version than the one before it. ``late_*`` are frames that came late, and beats without one. ``compared``
    frames were made again; ``torn`` of them differ from what their version makes, and ``telling`` differ from what
    the other would have made, so that a mistake would have shown.
    """

    release: str
    fps: float
    steps: int
    every_s: float
    sizes: Sizes
    machine: Machine
    still: Spread
    swapping: Spread
    p99: Ratio
    noise: Ratio
    promotions: int
    swaps: int
    late_still: int
    late_swapping: int
    frames_by_version: dict[str, int]
    compared: int
    torn: int
    telling: int

    @property
    def bars(self) -> tuple[Bar, ...]:
        """What the design promises, beside what was measured."""
        return (
            Bar("frames late beyond a stream without swaps", max(0, self.late_swapping - self.late_still), 0, "frames"),
            Bar("frames of no one version", self.torn, 0, "frames"),
        )


Say = Callable[[str, int, int], None]


def run(place: str | Path = "avatars", sizes: Sizes | None = None, say: Say = lambda what, done, total: None) -> Report:
    """Measures a temporary device made from a release. Takes about three minutes."""
    sizes, release = sizes or Sizes(), open_release(place)
    threads = torch.get_num_threads()
    flags = {"learn.auto": "false", "generate.threads": "1", "generate.poll_s": str(POLL_S)}
    try:
        with (
            tempfile.TemporaryDirectory(prefix="evergrove-bench-") as folder,
            Device.create(Path(folder) / "device", release=place, flags=flags) as device,
        ):
            try:
                return _measure(device, release, sizes, say)
            finally:
                device.close(stop_agent=True)
    finally:
        torch.set_num_threads(threads)


def _measure(device: Device, release: Release, sizes: Sizes, say: Say) -> Report:
    # 1. Some versions, and a stream of what all of them know.
    versions = Versions(device.root / "versions")
    names = [versions.add(data) for data in _some_versions(open_parts(release))]
    versions.activate(names[0], None, 1, probation=False)
    device.refresh()
    condition = condition_of(release)
    steps = steps_of(device, release, condition)
    n_blocks = max(2, round(sizes.seconds / sizes.block_s))
    # 2. Blocks with and without promotions, turn about.
    blocks: dict[bool, list[list[float]]] = {False: [], True: []}
    late: dict[bool, int] = {False: 0, True: 0}
    frames: list[Frame] = []
    promotions = 0
    with (
        device.stream(condition, FPS, seed=0, steps=steps) as stream,
        _promoting(versions.folder, names) as (go, count),
    ):
        _play(stream, 2 * sizes.settle_s)
        for number in range(n_blocks):
            say("streaming", number, 2 * n_blocks)
            for swapping in (False, True) if number % 2 == 0 else (True, False):
                if swapping:
                    go.set()
                else:
                    go.clear()
                settled = _play(stream, sizes.settle_s)[0]
                before, promoted = stream.stats, count()
                made, times_ms = _play(stream, sizes.block_s)
                after = stream.stats
                late[swapping] += after.late - before.late + after.missed - before.missed
                promotions += (count() - promoted) if swapping else 0
                blocks[swapping].append(times_ms)
                frames += settled + made if swapping else []
    # 3. Every frame of the blocks with promotions again, by its version alone.
    say("making every frame again", n_blocks, 2 * n_blocks)
    apart = {name: lone_studio(release, device.root.with_name(name[:12]), versions.load(name)) for name in names}
    torn, telling = compare(frames, apart, steps)
    quantiles = {kind: [float(np.percentile(b, 99)) for b in some] for kind, some in blocks.items()}
    return Report(
        release=release.manifest.name,
        fps=FPS,
        steps=steps,
        every_s=EVERY_S,
        sizes=sizes,
        machine=machine(),
        still=Spread.of([t for block in blocks[False] for t in block], "ms"),
        swapping=Spread.of([t for block in blocks[True] for t in block], "ms"),
        p99=Ratio.of(quantiles[True], quantiles[False], "ms"),
        noise=Ratio.of(quantiles[False][1:], quantiles[False][:-1], "ms"),
        promotions=promotions,
        swaps=sum(a.version != b.version for a, b in itertools.pairwise(frames)),
        late_still=late[False],
        late_swapping=late[True],
        frames_by_version=dict(Counter(str(frame.version) for frame in frames)),
        compared=len(frames),
        torn=torn,
        telling=telling,
    )


def _some_versions(parts: Parts) -> list[bytes]:
    return [adapter_bytes(some_adapter(parts, seed)) for seed in range(N_VERSIONS)]


def _play(stream: Stream, seconds: float) -> tuple[list[Frame], list[float]]:
    """As many frames as ``seconds`` have beats, and the milliseconds of each from its beat to the app's hands."""
    frames: list[Frame] = []
    times_ms: list[float] = []
    for _ in range(max(1, round(seconds / stream.period_s))):
        frames.append(next(stream))
        times_ms.append(time_ms(frames[-1], stream.period_s))
    return frames, times_ms


@contextlib.contextmanager
def _promoting(folder: Path, names: list[str]) -> Iterator[tuple[Event, Callable[[], int]]]:
    """A process that turns the pointer while the event is set, and how often it has."""
    context = multiprocessing.get_context("spawn")
    go, ready, count = context.Event(), context.Event(), context.Value("q", 0)
    process = context.Process(target=promote, args=(folder, names, go, ready, count), daemon=True)
    process.start()
    try:
        if not ready.wait(START_S_MAX):
            raise EvergroveError(f"the promoting process has not started within {START_S_MAX:g} s")
        yield go, lambda: int(count.value)
    finally:
        process.kill()
        process.join()


def promote(folder: Path, names: list[str], go: Event, ready: Event, count: "Synchronized[int]") -> None:
    """Promotes one version after the other, each ``EVERY_S`` while ``go`` is set, until this process is ended."""
    versions = Versions(folder)
    seq = versions.read_pointer().seq
    ready.set()
    while True:
        if not go.is_set():
            go.wait()
            due_s = time.monotonic()
        seq += 1
        versions.activate(names[seq % len(names)], names[(seq - 1) % len(names)], seq, probation=False)
        count.value += 1
        due_s += EVERY_S
        time.sleep(max(0.0, due_s - time.monotonic()))


def compare(frames: list[Frame], studios: Mapping[str, LocalStudio], steps: int | None = None) -> tuple[int, int]:
    """How many frames are not what their version's own generator makes, and how many no other one would have made."""
    torn = telling = 0
    for frame in frames:
        made = {name: studio.generate(frame.condition, frame.seed, steps, None)[0] for name, studio in studios.items()}
        mine = made.pop(str(frame.version), None)
        torn += mine is None or not np.array_equal(mine, frame.array)
        telling += not any(np.array_equal(other, frame.array) for other in made.values())
    return torn, telling


def lone_studio(release: Release, folder: Path, data: bytes) -> LocalStudio:
    """A generator that has only ever known this one version."""
    versions = Versions(folder)
    versions.activate(versions.add(data), None, 1, probation=False)
    studio = LocalStudio(release, versions, 1)
    problem = studio.refresh()
    assert problem is None, problem
    return studio
