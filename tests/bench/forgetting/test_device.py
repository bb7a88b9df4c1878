"""A race on another device: networks compute there alone, and the rows, the chance and the counts are the same."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch.utils import backend_registration

from evergrove.bench.forgetting import plan, race
from evergrove.bench.forgetting.command import Wanted
from evergrove.bench.forgetting.command import race as race_command
from evergrove.bench.forgetting.lines import Line
from evergrove.bench.forgetting.plan import Form, Places
from evergrove.bench.forgetting.race import Budget
from evergrove.bench.forgetting.streams import Classes, Sizes, Stream, class_incremental
from evergrove.bench.forgetting.worlds import Judge, World
from evergrove.core.errors import MissingDependency, UsageError
from evergrove.learn.place import place_of
from evergrove.learn.rivals import RIVALS, rival_named
from evergrove.learn.strategies import Samples, Task
from evergrove.learn.trainer import Hooks, Outcome, train

from .conftest import TINY, silent
from .elsewhere import opened

BUDGET = Budget(steps=26, batch=16)
RACED = ("full", "rank1+gd", "ewc-lora", "o-lora", "evergrove", "shared", "device-once")
"""Each way to train, and of the ways to prepare and to carry on those that call networks differently; all with the
release's own pictures from the first lesson on."""
Losses = list[tuple[float, ...]]


def test_networks_compute_elsewhere(folder: Path, classes: Classes, judge: Judge, tmp_path: Path) -> None:
    """On a device that refuses to mix its tensors with the CPU's these strategies get through, and learn alike.

    By the losses of a lesson's first steps, what it prepared and carried included; later Adam makes of a rounding in a
    gradient near zero a step like any other.
    """
    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip(f"torch {torch.__version__} has no backends in Python; 2.13 has")
    # A process of its own: autograd looks for devices once, before its first pass backward.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        elsewhere = pool.submit(_race, folder, classes, tmp_path, True).result()
    for (line, losses), (far, far_losses) in zip(_race(folder, classes, tmp_path, False), elsewhere, strict=True):
        assert (line.device.split()[0], far.device) == ("cpu", "elsewhere")
        assert _counts(line) == _counts(far)
        for here, there in zip(losses, far_losses, strict=True):
            np.testing.assert_allclose(there[:12], here[:12], rtol=1e-5, err_msg=line.strategy)


def _race(folder: Path, classes: Classes, work: Path, far: bool) -> list[tuple[Line, Losses]]:
    """Two lessons by each strategy: its line, and the losses of both."""
    torch.set_num_threads(1)
    device = opened() if far else "cpu"
    form = Form("test", TINY, Sizes(n_train=10, n_real=8, n_asked=6), BUDGET)
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "classes_of", lambda name, data, small: classes)
        world, judge = plan.opened(form, Places(None, folder, work / "lines.jsonl", device), silent)
        assert {place_of(one).type for one in (world.model, judge.oracle, judge.chance)} == {device}
        stream = class_incremental("S1", classes, world.model.vocabulary, [[0, 1], [4, 2]], form.sizes, seed=1)
        stream = replace(stream, rehearsal=Samples(world.known.images[:32], world.known.codes[:32]))
        for name in RACED:
            losses: Losses = []
            patch.setattr(race, "train", partial(_noted, losses))
            found.append((race.run(rival_named(name), world, judge, stream, 0, BUDGET), losses))
    return found


def _noted(losses: Losses, task: Task, folder: Path, hooks: Hooks) -> Outcome:
    """Trains in two goes: it is paused at its third step, and goes on from the checkpoint."""
    asked = iter((task.recipe.batch,) * 2)
    train(task, folder, replace(hooks, micro_batch=lambda rows: next(asked, 0)))
    outcome = train(task, folder, hooks)
    losses.append(outcome.losses)
    return outcome


def _counts(line: Line) -> tuple[object, ...]:
    return line.strategy, line.steps, line.rows_declared, line.rows_counted, line.n_bytes, line.n_observations


def test_a_line_of_another_device_is_not_done(world: World, judge: Judge, stream: Stream) -> None:
    """Lines of the CPU are made again for a GPU; those that name no device are of a CPU, whichever."""
    rival = RIVALS["naive"]
    small = Budget(steps=1, batch=2)
    line = race.run(rival, world, judge, stream, 0, small)
    for device, made in (("", True), ("cpu arm64", True), ("NVIDIA H100 80GB HBM3", False)):
        assert race.is_made(msgspec.structs.replace(line, device=device), rival, world, small) is made
    assert not race.is_made(line, rival, world, BUDGET)
    assert not race.is_made(None, rival, world, small)


@pytest.mark.parametrize("device", ["no such", "cuda:99", "meta", "hpu"])
def test_a_device_that_is_not_there_is_named(tmp_path: Path, device: str) -> None:
    """Before anything is made."""
    wanted = Wanted(["S1"], ["naive"], 1, 0, tmp_path / "out", None, device)
    with pytest.raises(UsageError if " " in device else MissingDependency, match=device):
        race_command(wanted, True, silent)
    assert not (tmp_path / "out").exists()
