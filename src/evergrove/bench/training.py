"""What a training step costs: the adapter, and the whole objective, against a plain full fine-tune of the same model.

All three run in the device's own trainer, on the same pictures, in interleaved blocks of a few steps.
"""

import time
from pathlib import Path

import numpy as np

from evergrove.bench.measure import Ratio
from evergrove.bench.serving import wider
from evergrove.learn.strategies import Recipe, Samples, Task, strategy_named
from evergrove.learn.trainer import CHECKPOINT, Hooks, Progress, train
from evergrove.media.packs import pack_of_bytes
from evergrove.runtime.assembly import Parts

BATCH = 16
N_NEW_MAX = 48
WARM_UP_STEPS = 2
"""First steps of a block, which are not counted: caches and the optimiser's state are made in them."""
ARMS = {"full": "full", "adapter": "naive", "objective": "evergrove"}
"""Our words, and the strategies behind them: naive is the adapter with the loss of new pictures alone."""


def compare(parts: Parts, folder: Path, n_blocks: int, n_steps: int) -> dict[str, Ratio]:
    """Images (rows of a batch) a second on one thread: the adapter, and the whole objective, over a full fine-tune.

    ``n_steps`` is at least 2: the last one of a block is not counted.
    """
    tasks = {arm: task(parts, strategy, WARM_UP_STEPS + n_steps) for arm, strategy in ARMS.items()}
    rates: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for block in range(n_blocks):
        order = list(ARMS) if block % 2 == 0 else list(reversed(ARMS))
        for arm in order:
            rates[arm].append(block_rate(tasks[arm], folder / arm))
    return {arm: Ratio.of(rates[arm], rates["full"], "images/s") for arm in ("adapter", "objective")}


def task(parts: Parts, strategy: str, steps: int) -> Task:
    """A learning job on the rehearsal pack: some of its pictures play a new condition."""
    manifest = parts.release.manifest
    pack = pack_of_bytes(parts.release.read(manifest.rehearsal), manifest.rehearsal.name)
    vocabulary = wider(manifest.vocabulary)
    n_new = min(N_NEW_MAX, len(pack) // 2)
    codes = pack.codes[:n_new].copy()
    codes[:, 0] = vocabulary.sizes[0]
    return Task(
        model=parts.model,
        basis=parts.basis,
        vocabulary=vocabulary,
        new=Samples(pack.images[:n_new], codes),
        replay=Samples(pack.images[n_new:], pack.codes[n_new:]),
        strategy=strategy_named(strategy),
        recipe=Recipe(steps=steps, batch=BATCH, checkpoint_every=steps),
        start=parts.adapter,
    )


def block_rate(job: Task, folder: Path) -> float:
    """Images a second over the counted steps of one block (their median), from the start of training.

    What is prepared before the first step (teacher points, Fisher: once a job) is kept in ``folder`` and not counted.
    """
    (folder / CHECKPOINT).unlink(missing_ok=True)
    stamps_s: list[float] = []

    def stamp(progress: Progress) -> None:
        stamps_s.append(time.perf_counter())

    train(job, folder, Hooks(progress=stamp))
    counted = np.diff(stamps_s)[WARM_UP_STEPS - 1 : -1]  # the last step also writes a checkpoint
    return job.recipe.batch / float(np.median(counted))
