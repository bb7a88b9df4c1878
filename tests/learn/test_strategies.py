"""One contract for every strategy: it learns the new, writes a candidate that serves, and leaves its inputs alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from evergrove.core.errors import UsageError
from evergrove.learn.adapter import fuse
from evergrove.learn.adapter_file import load_adapter
from evergrove.learn.evaluate import Golden, Probe, item_values
from evergrove.learn.strategies import (
    STRATEGIES,
    Memory,
    Recipe,
    Samples,
    Task,
    full_of_bytes,
    strategy_named,
)
from evergrove.learn.trainer import train

World = Any  # the one of conftest.py


def task(world: World, name: str, steps: int = 60, seed: int = 0) -> Task:
    """Learn the fourth pattern by that strategy."""
    recipe = Recipe(steps=steps, checkpoint_every=20)
    return Task(world.model, world.basis, world.wider, world.new, world.old, STRATEGIES[name], recipe, seed)


def learnt(world: World, name: str, folder: Path) -> nn.Module:
    """The network after training."""
    outcome = train(task(world, name), folder)
    assert outcome.candidate is not None
    if name == "full":
        return full_of_bytes(outcome.candidate.read_bytes(), world.model, world.basis, world.wider)
    return fuse(world.model, world.basis, load_adapter(outcome.candidate, world.model, world.basis))


def loss(module: nn.Module, samples: Samples) -> float:
    """The mean denoising loss."""
    return float(item_values(module, Golden(samples, (), 1), Probe(draws=2)).loss.mean())


@pytest.fixture(scope="session")
def after(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[float, float]]:
    """Per strategy, the loss on the new pattern and on the old ones, relative to those of the base before."""
    before = fuse(world.model, world.basis, task(world, "naive").incumbent())
    start = loss(before, world.own), loss(before, world.golden)
    result = {}
    for name in STRATEGIES:
        module = learnt(world, name, tmp_path_factory.mktemp(name))
        result[name] = (loss(module, world.own) / start[0], loss(module, world.golden) / start[1])
    return result


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_learns_the_new(after: dict[str, tuple[float, float]], name: str) -> None:
    """The loss on the new pattern falls to less than a third."""
    assert after[name][0] < 0.33


def test_protection_protects(after: dict[str, tuple[float, float]]) -> None:
    """Replay, ours and protected LoRA forget less than half as much as than naive and full fine-tuning."""
    for protected in ("replay", "evergrove", "lora"):
        assert after[protected][1] < 0.4 * min(after["naive"][1], after["full"][1])


@pytest.mark.parametrize("name", STRATEGIES)
def test_inputs_are_left_alone(world: World, name: str, tmp_path: Path) -> None:
    """Neither the base nor any sample changes, and the old rows of an adapter strategy are the base's bits."""
    weights = {key: p.clone() for key, p in world.model.named_parameters()}
    images = world.new.images.copy(), world.old.images.copy()
    outcome = train(task(world, name, steps=3), tmp_path)
    assert outcome.candidate is not None
    assert all(torch.equal(p, weights[key]) for key, p in world.model.named_parameters())
    assert np.array_equal(images[0], world.new.images)
    assert np.array_equal(images[1], world.old.images)
    if name != "full":
        module = fuse(world.model, world.basis, load_adapter(outcome.candidate, world.model, world.basis))
        assert torch.equal(module.tables[0].weight[:4], world.model.tables[0].weight)


def test_the_same_step_has_the_same_rows(world: World) -> None:
    """Rows depend on seed and step only; another step or seed has others."""
    strategy = STRATEGIES["replay"]
    draws = [
        strategy.draw(task(world, "replay", seed=seed), Memory(), strategy, step)
        for seed, step in ((0, 5), (0, 5), (0, 6), (1, 5))
    ]
    assert torch.equal(draws[0].x_t, draws[1].x_t)
    assert not torch.equal(draws[0].x_t, draws[2].x_t)
    assert not torch.equal(draws[0].x_t, draws[3].x_t)


def test_batches_are_shared_out_and_balanced(world: World) -> None:
    """Half of replay's rows are old; an unbalanced memory is drawn evenly over the factor's values."""
    strategy = STRATEGIES["replay"]
    few = np.concatenate([np.arange(0, 120, 3), [1, 2]])  # forty of pattern 1, one of each other
    lopsided = Samples(world.old.images[few], world.old.codes[few])
    recipe = Recipe(batch=16, label_drop=0.0)
    uneven = Task(world.model, world.basis, world.wider, world.new, lopsided, strategy, recipe)
    codes = torch.cat([strategy.draw(uneven, Memory(), strategy, step).code for step in range(60)])
    assert int((codes[:, 0] == 4).sum()) == 60 * 8
    counts = [int((codes[:, 0] == value).sum()) for value in (1, 2, 3)]
    assert sum(counts) == 60 * 8
    assert min(counts) > 120


def test_a_larger_teacher_is_asked_what_it_knows(world: World) -> None:
    """Trajectories of a teacher without the newest rows are of the release's conditions only."""
    mixed = Samples(
        np.concatenate([world.old.images, world.new.images]), np.concatenate([world.old.codes, world.new.codes])
    )
    strategy = STRATEGIES["evergrove"]
    job = Task(world.model, world.basis, world.wider, world.new, mixed, strategy, teacher=world.model)
    points = strategy.remember(job, strategy).points
    assert points is not None
    assert set(points.code[:, 0].tolist()) == {1, 2, 3}
    itself = strategy.remember(replace(job, teacher=None), strategy).points
    assert itself is not None
    assert set(itself.code[:, 0].tolist()) == {1, 2, 3, 4}


def test_a_new_row_may_start_off_the_mean(world: World) -> None:
    """With a deviation, an untrained row starts at a place of its own, fixed by the seed; a trained one stays."""
    spread = replace(task(world, "naive"), recipe=Recipe(row_std=0.5))
    flat = replace(spread, recipe=Recipe(row_std=0.0))
    rows = [STRATEGIES["naive"].init(t).parameters["rows.0"].detach() for t in (spread, spread, flat)]
    assert torch.equal(rows[0], rows[1])
    assert float(rows[0].std()) == pytest.approx(0.5, abs=0.15)
    assert not rows[2].any()
    blank = spread.incumbent()
    trained = replace(spread, start=replace(blank, rows={"0:4": torch.ones(32)}))
    assert torch.equal(STRATEGIES["naive"].init(trained).parameters["rows.0"].detach(), torch.ones(1, 32))


def test_protection_without_samples_is_refused(world: World, tmp_path: Path) -> None:
    """Ours needs old samples and says so; an unknown strategy names those there are."""
    nothing = Samples(world.old.images[:0], world.old.codes[:0])
    bare = Task(world.model, world.basis, world.wider, world.new, nothing, STRATEGIES["evergrove"])
    with pytest.raises(UsageError, match="rehearsal pack"):
        train(bare, tmp_path)
    with pytest.raises(UsageError, match="known: naive"):
        strategy_named("magic")
