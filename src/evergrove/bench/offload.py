"""``evergrove bench offload``: what a fog's assist saves the device, and whether what is learnt is as good.

The same job is trained twice, alone and with the assist, in pairs and in turn: two new emotions, learnt on top of a
release. CPU time of this process and floating-point operations are counted apart for what is prepared before the first
step and for the steps; joules are estimated from CPU time and a declared power. An oracle that nothing else uses says
how well the old and the new emotions are drawn afterwards.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from evergrove.adapters.release import Release, open_release
from evergrove.bench.measure import Machine, Spread, machine
from evergrove.core.config import Learn, Placement
from evergrove.demo.judge import Judge
from evergrove.learn import assist
from evergrove.learn.adapter import blank_adapter
from evergrove.learn.adapter_file import adapter_of_bytes
from evergrove.learn.oracle import load_oracle
from evergrove.learn.strategies import Samples, Task
from evergrove.learn.trainer import Hooks, train
from evergrove.media.packs import pack_of_bytes
from evergrove.rules import trust
from evergrove.runtime import assembly

FACTOR = "emotion"
ORACLE, PICTURES = "oracle.safetensors", "demo.npz"
JOULES_PER_MBIT = 0.137
"""To receive over Wi-Fi: a phone of 2012 (Huang et al., MobiSys 2012, table 4: 137 mW per Mbit/s), on the high side."""
ALONE, ASSISTED = "alone", "assisted"


class Sizes(msgspec.Struct, frozen=True):
    """How much is measured: seeds, steps of a job, observations of each new emotion, pictures judged per emotion."""

    n_seeds: int = 3
    steps: int = 250
    n_new: int = 30
    n_judged: int = 40


QUICK = Sizes(n_seeds=1, steps=40, n_new=12, n_judged=4)


class Arm(msgspec.Struct, frozen=True):
    """One way to learn, over all seeds. ``read_cpu_s`` is for verifying and unpacking the assist, in every job.

    ``held_mb`` is what must be in memory at once before the first step, besides the model: the larger teacher, and the
    gradients of every sample of the Fisher. ``old`` and ``new`` are the shares that the oracle reads rightly.
    """

    prepare_cpu_s: Spread
    read_cpu_s: Spread
    steps_cpu_s: Spread
    prepare_gflop: float
    steps_gflop: float
    held_mb: float
    joules: float
    old: float
    new: float
    old_by_seed: tuple[float, ...]
    new_by_seed: tuple[float, ...]

    @property
    def gflop(self) -> float:
        """The whole job."""
        return self.prepare_gflop + self.steps_gflop


class Report(msgspec.Struct, frozen=True):
    """Both arms; shares are of the job that learns alone. ``assist_*`` is what the fog spends once for a release, and
    the device once for all its jobs on one. ``steps_cpu_ratio`` (assisted over alone) would be 1 on a quiet machine."""

    release: str
    sizes: Sizes
    machine: Machine
    core_w: float
    alone: Arm
    assisted: Arm
    assist_bytes: int
    assist_cpu_s: float
    download_joules: float
    saved_cpu_share: float
    saved_cpu_share_min: float
    saved_cpu_share_max: float
    steps_cpu_ratio: float
    saved_gflop_share: float
    saved_joules: float
    jobs_to_repay: float


class Run(msgspec.Struct, frozen=True):
    """One job of one arm."""

    read_cpu_s: float
    prepare_cpu_s: float
    steps_cpu_s: float
    old: float
    new: float

    @property
    def before_cpu_s(self) -> float:
        """All that comes before the first step."""
        return self.read_cpu_s + self.prepare_cpu_s


def run(
    place: str | Path = "avatars",
    sizes: Sizes | None = None,
    core_w: float | None = None,
    say: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Report:
    """Both arms for every seed, on one thread. ``core_w`` is the power of one busy core (None: the configured one)."""
    sizes, core_w = sizes or Sizes(), Placement().core_w if core_w is None else core_w
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _run(open_release(place), sizes, core_w, say)
    finally:
        torch.set_num_threads(threads)


def _run(release: Release, sizes: Sizes, core_w: float, say: Callable[[str, int, int], None]) -> Report:
    total = 2 * sizes.n_seeds + 3
    parts = assembly.open_parts(release)
    # 1. What the fog does, once.
    say("the fog's assist", 0, total)
    released = assembly.released(parts, with_teacher=True)
    started_s = time.process_time()
    body = assist.compute(released)
    assist_cpu_s = time.process_time() - started_s
    key = bytes(32)
    signed = trust.sign(key, "assist", release.manifest_hash, body, 1.0)
    expected = trust.Expected("assist", release.manifest_hash, trust.public_key(key), len(signed))
    # 2. The operations of each arm, which are the same whatever the seed.
    gflop = {}
    for i, arm in enumerate((ALONE, ASSISTED)):
        say("counting operations", 1 + i, total)
        given = assist.read(body, released) if arm == ASSISTED else None
        gflop[arm] = _count(parts, sizes, given)
    # 3. The job, alone and assisted, in turn.
    runs: dict[str, list[Run]] = {ALONE: [], ASSISTED: []}
    for seed in range(sizes.n_seeds):
        judge = Judge(release, load_oracle(release.folder / ORACLE), seed)
        for arm in (ALONE, ASSISTED) if seed % 2 == 0 else (ASSISTED, ALONE):
            say(f"learning {arm}", 3 + len(runs[ALONE]) + len(runs[ASSISTED]), total)
            runs[arm].append(_job(parts, sizes, seed, judge, (signed, expected) if arm == ASSISTED else None))
    arms = {arm: _arm(runs[arm], *gflop[arm], _held_mb(parts, arm), core_w) for arm in runs}
    alone, assisted = arms[ALONE], arms[ASSISTED]
    # The steps are the same operations in both arms, so what differs between their times is the machine's: pooled.
    steps_cpu_s = float(np.median([r.steps_cpu_s for arm in runs.values() for r in arm]))
    before = [(a.before_cpu_s, b.before_cpu_s) for a, b in zip(runs[ALONE], runs[ASSISTED], strict=True)]
    saved = [(a - b) / (a + steps_cpu_s) for a, b in before]
    download_joules = JOULES_PER_MBIT * len(signed) * 8e-6
    saved_joules = core_w * float(np.median([a - b for a, b in before]))
    return Report(
        release=release.manifest.name,
        sizes=sizes,
        machine=machine(),
        core_w=core_w,
        alone=alone,
        assisted=assisted,
        assist_bytes=len(signed),
        assist_cpu_s=_short(assist_cpu_s),
        download_joules=_short(download_joules),
        saved_cpu_share=_short(float(np.median(saved))),
        saved_cpu_share_min=_short(min(saved)),
        saved_cpu_share_max=_short(max(saved)),
        steps_cpu_ratio=_short(assisted.steps_cpu_s.p50 / alone.steps_cpu_s.p50),
        saved_gflop_share=_short(1 - assisted.gflop / alone.gflop),
        saved_joules=_short(saved_joules),
        jobs_to_repay=_short(download_joules / saved_joules) if saved_joules > 0 else float("inf"),
    )


def _job(
    parts: assembly.Parts, sizes: Sizes, seed: int, judge: Judge, signed: tuple[bytes, trust.Expected] | None
) -> Run:
    """One job of one arm, and what the oracle says of it."""
    started_s = time.process_time()
    given = None
    if signed is not None:
        given = assist.read(trust.verify(*signed, 0.0), assembly.released(parts, with_teacher=False))
    read_s = time.process_time()
    task = job_of(parts, sizes, seed, given, sizes.steps)
    marks: list[float] = []

    def mark(rows: int) -> int:
        marks.append(time.process_time())
        return rows

    with tempfile.TemporaryDirectory(prefix="evergrove-bench-") as folder:
        outcome = train(task, Path(folder), Hooks(micro_batch=mark))
        ended_s = time.process_time()
        assert outcome.candidate is not None
        adapter = adapter_of_bytes(outcome.candidate.read_bytes())
    old, new = judge.known(), list(task.vocabulary.factors[_factor(judge)].values)[len(judge.known()) :]
    judged = judge.judge(adapter, [*old, *new], sizes.n_judged)
    read, prepared, stepped = read_s - started_s, marks[0] - read_s, ended_s - marks[0]
    return Run(read if given else 0.0, prepared, stepped, judged.mean(old), judged.mean(new))


def job_of(parts: assembly.Parts, sizes: Sizes, seed: int, given: assist.Assist | None, steps: int) -> Task:
    """Two new emotions, ``n_new`` real pictures of each."""
    release = parts.release
    pack = pack_of_bytes((release.folder / PICTURES).read_bytes(), PICTURES)
    named = load_oracle(release.folder / ORACLE).vocabulary.factors
    f = [factor.name for factor in named].index(FACTOR)
    vocabulary, first = release.manifest.vocabulary, release.manifest.vocabulary.sizes[f]
    chosen = []
    for number in range(first + 1, len(named[f].values) + 1):
        vocabulary = vocabulary.extend({FACTOR: named[f].values[number - 1]})
        chosen += np.flatnonzero(pack.codes[:, f] == number)[seed * sizes.n_new :][: sizes.n_new].tolist()
    new = Samples(pack.images[chosen], pack.codes[chosen])
    none = Samples(new.images[:0], new.codes[:0])
    lesson = assembly.Lesson(new, none, None, vocabulary, seed)
    return assembly.task_of(parts, lesson, Learn(steps=steps, checkpoint_every=steps), given)


def _count(parts: assembly.Parts, sizes: Sizes, given: assist.Assist | None) -> tuple[float, float]:
    """10⁹ floating-point operations before the first step, and in all steps (the first one, times their number)."""
    task = job_of(parts, sizes, 0, given, 1)
    attention = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_back,
    }
    counter = FlopCounterMode(display=False, custom_mapping=attention)
    marks: list[int] = []

    def mark(rows: int) -> int:
        marks.append(counter.get_total_flops())
        return rows

    with tempfile.TemporaryDirectory(prefix="evergrove-bench-") as folder, counter:
        train(task, Path(folder), Hooks(micro_batch=mark))
    return marks[0] / 1e9, sizes.steps * (counter.get_total_flops() - marks[0]) / 1e9


def _attention(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    """Operations of attention on a CPU, which the counter does not know; q, k and v are shapes."""
    return int(sdpa_flop_count(q, k, v))  # type: ignore[no-untyped-call]


def _attention_back(grad: Any, q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad, q, k, v))  # type: ignore[no-untyped-call]


def _arm(runs: list[Run], prepare_gflop: float, steps_gflop: float, held_mb: float, core_w: float) -> Arm:
    return Arm(
        prepare_cpu_s=Spread.of([r.prepare_cpu_s for r in runs], "s"),
        read_cpu_s=Spread.of([r.read_cpu_s for r in runs], "s"),
        steps_cpu_s=Spread.of([r.steps_cpu_s for r in runs], "s"),
        prepare_gflop=_short(prepare_gflop),
        steps_gflop=_short(steps_gflop),
        held_mb=held_mb,
        joules=_short(core_w * float(np.median([r.before_cpu_s + r.steps_cpu_s for r in runs]))),
        old=_short(float(np.mean([r.old for r in runs]))),
        new=_short(float(np.mean([r.new for r in runs]))),
        old_by_seed=tuple(_short(r.old) for r in runs),
        new_by_seed=tuple(_short(r.new) for r in runs),
    )


def _held_mb(parts: assembly.Parts, arm: str) -> float:
    """See ``Arm``; with an assist, neither is there."""
    if arm == ASSISTED:
        return 0.0
    teacher: nn.Module | None = assembly.teacher_of(parts.release)
    n_teacher = 0 if teacher is None else sum(p.numel() for p in teacher.parameters())
    n_b = blank_adapter(parts.model, parts.basis, parts.release.manifest.vocabulary).n_numbers
    return _short(4 * (n_teacher + assist.Settings().n_fisher * n_b) / 1e6)


def _factor(judge: Judge) -> int:
    return judge.manifest.vocabulary.names.index(FACTOR)


def _short(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")
