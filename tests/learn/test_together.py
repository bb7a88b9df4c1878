"""Many adapters in one pass: what each would have become alone, and none hears of another."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from evergrove.core.errors import EvergroveError, UsageError
from evergrove.learn.adapter import blank_adapter
from evergrove.learn.adapter_file import load_adapter
from evergrove.learn.strategies import STRATEGIES, Recipe, Task
from evergrove.learn.together import Learnt, train_together
from evergrove.learn.trainer import CHECKPOINT, Outcome, train

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
    """Base, A and steps in common, starts and observations apart: the trainer's own numbers and losses to 1e-5.

    The trainer's fp32 numbers are in its last checkpoint; its candidate is in halves.
    """
    alone: list[Outcome] = []
    learnt = replace(tasks(world)[2], start=None, seed=7)
    train(learnt, tmp_path / "before")
    start = load_adapter(tmp_path / "before" / "candidate.safetensors", world.model, world.basis)
    jobs = [*tasks(world)[:2], replace(tasks(world)[2], start=start)]
    for d, job in enumerate(jobs):
        alone.append(train(job, tmp_path / f"{d}"))
    steps: list[tuple[int, int]] = []
    together = train_together(jobs, lambda done, total: steps.append((done, total)))
    assert steps[-1] == (12, 12)
    moved = 0.0
    for d, one in enumerate(together):
        assert isinstance(one, Learnt)
        own = safetensors.torch.load_file(tmp_path / f"{d}" / CHECKPOINT)
        file = load_adapter(tmp_path / f"{d}" / "candidate.safetensors", world.model, world.basis)
        assert (one.adapter.vocabulary, list(one.adapter.rows)) == (file.vocabulary, ["0:4"])
        for name, b in one.adapter.b.items():
            torch.testing.assert_close(b, own[f"value.{name}.B"], atol=1e-5, rtol=0)
            moved = max(moved, float(b.abs().max()))
        torch.testing.assert_close(one.adapter.rows["0:4"], own["value.rows.0"][0], atol=1e-5, rtol=0)
        assert one.losses == pytest.approx(alone[d].losses, abs=1e-5)
    assert moved > 0.01


def test_who_diverges_spoils_nobody_else(world: World) -> None:
    """A device that starts from numbers beyond all sense fails alone; the others' candidates do not change a bit."""
    jobs = tasks(world, "replay")
    sound = train_together(jobs)
    start = jobs[1].incumbent()
    mad = replace(start, b={name: torch.full_like(b, 1e30) for name, b in start.b.items()})
    spoilt = train_together([jobs[0], replace(jobs[1], start=mad), jobs[2]])
    assert isinstance(spoilt[1], EvergroveError)
    assert "diverged at step 1 " in str(spoilt[1])
    for d in (0, 2):
        one, other = sound[d], spoilt[d]
        assert isinstance(one, Learnt)
        assert isinstance(other, Learnt)
        assert all(torch.equal(one.adapter.b[name], other.adapter.b[name]) for name in one.adapter.b)
        assert one.losses == other.losses


def test_a_pass_leaves_base_and_basis_as_they_were(world: World, tmp_path: Path) -> None:
    """What is trained after it on the same objects, alone or together, is to the bit what it was before."""
    jobs = tasks(world)
    alone, first = train(jobs[0], tmp_path / "before"), train_together(jobs)
    assert train(jobs[0], tmp_path / "after").sha256 == alone.sha256
    for one, other in zip(first, train_together(jobs), strict=True):
        assert isinstance(one, Learnt)
        assert isinstance(other, Learnt)
        assert all(torch.equal(one.adapter.b[name], other.adapter.b[name]) for name in one.adapter.b)


def test_what_is_not_alike_is_refused(world: World) -> None:
    """Other recipes, another strategy or rank, an A of one's own, no observations, no task at all."""
    first, second, _ = tasks(world)
    own_a = replace(first.incumbent(), a=world.basis.a)
    narrow = blank_adapter(world.model, world.basis, world.wider, rank=2)
    for odd in (
        [],
        [first, replace(second, recipe=replace(RECIPE, steps=3))],
        [first, replace(second, strategy=STRATEGIES["replay"])],
        [first, replace(second, start=narrow)],
        [replace(first, strategy=STRATEGIES["lora"])],
        [first, replace(second, start=own_a)],
        [replace(first, new=replace(first.new, images=first.new.images[:0], codes=first.new.codes[:0]))],
    ):
        with pytest.raises(UsageError):
            train_together(odd)
