"""A race on another device: networks compute there alone, and the rows, the chance and the counts are the same."""

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch

from evergrove.bench.forgetting import race, worlds
from evergrove.bench.forgetting.command import Wanted
from evergrove.bench.forgetting.command import race as race_command
from evergrove.bench.forgetting.lines import Line
from evergrove.bench.forgetting.race import Budget
from evergrove.bench.forgetting.streams import Classes, Sizes, class_incremental
from evergrove.bench.forgetting.worlds import Judge
from evergrove.core.errors import MissingDependency, UsageError
from evergrove.learn.rivals import rival_named
from evergrove.learn.strategies import Task
from evergrove.learn.trainer import Hooks, Outcome, train

from .conftest import TINY, silent
from .elsewhere import opened

BUDGET = Budget(steps=26, batch=16)
RACED = ("full", "ewc-diagonal", "rank1+gd", "ewc-lora", "o-lora", "isolated", "dgr", "evergrove", "shared")
"""Every way to train, to prepare and to carry on, and by that every place that calls a network."""
Losses = list[tuple[float, ...]]


def test_networks_compute_elsewhere(folder: Path, classes: Classes, judge: Judge) -> None:
    """On a device that refuses to mix its tensors with the CPU's every kind of strategy gets through, and learns alike.

    By the losses of a lesson's first steps, what it prepared and carried included; later Adam makes of a rounding in a
    gradient near zero a step like any other.
    """
    # A process of its own: autograd looks for devices once, before its first pass backward.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        elsewhere = pool.submit(_race, folder, classes, True).result()
    for (line, losses), (far, far_losses) in zip(_race(folder, classes, False), elsewhere, strict=True):
        assert (line.device.split()[0], far.device) == ("cpu", "elsewhere")
        assert _counts(line) == _counts(far)
        for here, there in zip(losses, far_losses, strict=True):
            np.testing.assert_allclose(there[:12], here[:12], rtol=1e-5, err_msg=line.strategy)


def _race(folder: Path, classes: Classes, far: bool) -> list[tuple[Line, Losses]]:
    """Two lessons by each strategy: its line, and the losses of both."""
    torch.set_num_threads(1)
    device = opened() if far else "cpu"
    world = worlds.open_world(TINY, folder, silent).to(device)
    judge = worlds.open_judge("test", TINY, classes, folder, silent).to(device)
    sizes = Sizes(n_train=10, n_real=8, n_asked=6)
    stream = class_incremental("S1", classes, world.model.vocabulary, [[0, 1], [4, 2]], sizes, seed=1)
    found = []
    for name in RACED:
        losses: Losses = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(race, "train", partial(_noted, losses))
            found.append((race.run(rival_named(name), world, judge, stream, 0, BUDGET), losses))
    return found


def _noted(losses: Losses, task: Task, folder: Path, hooks: Hooks) -> Outcome:
    outcome = train(task, folder, hooks)
    losses.append(outcome.losses)
    return outcome


def _counts(line: Line) -> tuple[object, ...]:
    return line.strategy, line.steps, line.rows_declared, line.rows_counted, line.n_bytes, line.n_observations


@pytest.mark.parametrize(
    ("device", "error"), [("no such", UsageError), ("cuda:99", MissingDependency), ("meta", MissingDependency)]
)
def test_a_device_that_is_not_there_is_named(tmp_path: Path, device: str, error: type[Exception]) -> None:
    """Before anything is made."""
    wanted = Wanted(["S1"], ["naive"], 1, 0, tmp_path / "out", None, device)
    with pytest.raises(error, match=device):
        race_command(wanted, True, silent)
    assert not (tmp_path / "out").exists()
