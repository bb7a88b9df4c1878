"""What not forgetting costs: CPU time of a whole learning job by our objective over plain adapter training.

A job is what is prepared once (teacher points, Fisher) and its steps. Plain training learns the same new rows by the
same number of steps and nothing else. Blocks of both alternate in one process; with an assist the fog has prepared.
"""

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from evergrove.adapters.release import open_release
from evergrove.bench.measure import Machine, Ratio, machine
from evergrove.bench.training import task as task_of
from evergrove.core.config import Config
from evergrove.learn.strategies import Memory, Task, strategy_named
from evergrove.learn.trainer import Hooks, Progress, train
from evergrove.runtime.assembly import open_parts

WARM_UP = 2
"""First steps of a block, not counted: caches and the optimiser's state are made in them."""
LOCAL_MAX, ASSISTED_MAX = 2.5, 1.6


class Cost(msgspec.Struct, frozen=True):
    """CPU seconds of a job of ``steps`` steps, ours over plain: ``local`` prepares here, ``assisted`` does not. Plain
    trains on the new rows that ours has in a batch; ``same_batch`` is against plain training with our whole batch."""

    machine: Machine
    release: str
    steps: int
    prepare_s: float
    step_s: float
    plain_step_s: float
    local: Ratio
    assisted: Ratio
    same_batch: Ratio

    @property
    def met(self) -> bool:
        """Whether both bars of the issue are met."""
        return self.local.ratio <= LOCAL_MAX and self.assisted.ratio <= ASSISTED_MAX


def measure(place: str, n_blocks: int = 5, n_steps: int = 12) -> Cost:
    """``n_blocks`` pairs of ``n_steps`` counted steps of each, and the preparation as often."""
    release = open_release(place)
    steps = Config().learn.steps
    job = task_of(open_parts(release), "evergrove", WARM_UP + n_steps)
    shares = job.strategy.shares
    n_new = job.recipe.batch - int(shares.replay * job.recipe.batch) - int(shares.teacher * job.recipe.batch)
    plain = replace(job, strategy=strategy_named("naive"), recipe=replace(job.recipe, batch=n_new, micro_batch=n_new))
    wide = replace(job, strategy=strategy_named("naive"))
    prepared: list[float] = []
    per_step: dict[str, list[float]] = {"ours": [], "plain": [], "wide": []}
    arms = {"ours": job, "plain": plain, "wide": wide}
    for block in range(n_blocks):
        started_s = time.process_time()
        memory = job.strategy.remember(job, job.strategy)
        prepared.append(time.process_time() - started_s)
        for name in list(arms) if block % 2 == 0 else list(reversed(arms)):
            per_step[name].append(_step_s(arms[name], memory if name == "ours" else Memory()))
    ours, less, wide_s = (np.array(per_step[name]) for name in ("ours", "plain", "wide"))
    prepare = np.array(prepared)
    return Cost(
        machine(),
        place,
        steps,
        round(float(np.median(prepare)), 3),
        round(float(np.median(ours)), 4),
        round(float(np.median(less)), 4),
        Ratio.of((prepare + steps * ours).tolist(), (steps * less).tolist(), "CPU s"),
        Ratio.of((steps * ours).tolist(), (steps * less).tolist(), "CPU s"),
        Ratio.of((prepare + steps * ours).tolist(), (steps * wide_s).tolist(), "CPU s"),
    )


def _step_s(job: Task, memory: Memory) -> float:
    """CPU seconds of a step: the median over a block, preparation given."""
    given = replace(job, strategy=replace(job.strategy, remember=lambda task, strategy: memory))
    stamps_s: list[float] = []

    def stamp(progress: Progress) -> None:
        stamps_s.append(time.process_time())

    with tempfile.TemporaryDirectory() as folder:
        train(given, Path(folder), Hooks(progress=stamp))
    return float(np.median(np.diff(stamps_s)[WARM_UP - 1 : -1]))  # the last step also writes a checkpoint
