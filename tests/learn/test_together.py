"""Many adapters in one pass: what each would have become alone, and none hears of another."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evergrove.core.errors import EvergroveError, UsageError
from evergrove.learn.adapter import Adapter
from evergrove.learn.adapter_file import load_adapter
from evergrove.learn.strategies import STRATEGIES, Recipe, Task
from evergrove.learn.together import train_together
from evergrove.learn.trainer import train

World = Any  # the one of conftest.py
RECIPE = Recipe(steps=12, warm_up=2, micro_batch=16)


def tasks(world: World, name: str = "evergrove") -> list[Task]:
    """Three devices: other pictures, other chance, and one that has learnt before."""
    made = [
        Task(world.model, world.basis, world.wider, world.new, world.old, STRATEGIES[name], RECIPE, seed=seed)
        for seed in range(3)
    ]
    shown = replace(world.new, images=np.ascontiguousarray(world.new.images[::-1]), codes=world.new.codes[::-1].copy())
    return [made[0], replace(made[1], new=shown), made[2]]


def test_each_becomes_what_it_would_have_become_alone(world: World, tmp_path: Path) -> None:
    """Base, A and steps in common, starts and observations apart: equal to the trainer's own to a part in 1e5."""
    alone = []
    learnt = replace(tasks(world)[2], start=None, seed=7)
    train(learnt, tmp_path / "before")
    start = load_adapter(tmp_path / "before" / "candidate.safetensors", world.model, world.basis)
    jobs = [*tasks(world)[:2], replace(tasks(world)[2], start=start)]
    for d, job in enumerate(jobs):
        train(job, tmp_path / f"{d}")
        alone.append(load_adapter(tmp_path / f"{d}" / "candidate.safetensors", world.model, world.basis))
    steps: list[tuple[int, int]] = []
    together = train_together(jobs, lambda done, total: steps.append((done, total)))
    assert steps[-1] == (12, 12)
    moved = 0.0
    for one, own in zip(together, alone, strict=True):
        assert isinstance(one, Adapter)
        assert (one.vocabulary, set(one.rows)) == (own.vocabulary, set(own.rows))
        for name in own.b:
            # The trainer's file is in halves: a part in 2048 of it is rounding.
            assert torch.allclose(one.b[name], own.b[name], atol=1e-5, rtol=1e-3)
            moved = max(moved, float(own.b[name].abs().max()))
        for name, row in own.rows.items():
            assert torch.allclose(one.rows[name], row, atol=1e-5, rtol=1e-3)
    assert moved > 0.01


def test_who_diverges_spoils_nobody_else(world: World) -> None:
    """A device that starts from numbers beyond all sense fails alone; the others' candidates do not change a bit."""
    jobs = tasks(world, "replay")
    sound = train_together(jobs)
    start = jobs[1].incumbent()
    mad = replace(start, b={name: torch.full_like(b, 1e30) for name, b in start.b.items()})
    spoilt = train_together([jobs[0], replace(jobs[1], start=mad), jobs[2]])
    assert isinstance(spoilt[1], EvergroveError)
    for d in (0, 2):
        one, other = sound[d], spoilt[d]
        assert isinstance(one, Adapter)
        assert isinstance(other, Adapter)
        assert all(torch.equal(one.b[name], other.b[name]) for name in one.b)


def test_what_is_not_alike_is_refused(world: World) -> None:
    """Other recipes, another strategy, an A of one's own, no observations, no task at all."""
    first, second, _ = tasks(world)
    for odd in (
        [],
        [first, replace(second, recipe=replace(RECIPE, steps=3))],
        [first, replace(second, strategy=STRATEGIES["replay"])],
        [replace(first, strategy=STRATEGIES["lora"])],
        [replace(first, new=replace(first.new, images=first.new.images[:0], codes=first.new.codes[:0]))],
    ):
        with pytest.raises(UsageError):
            train_together(odd)
