"""The attack on an adapter: one that learnt pictures by heart gives them away, one that learnt nothing does not."""

from pathlib import Path
from typing import Any

import numpy as np

from evergrove.learn.adapter import blank_adapter
from evergrove.learn.adapter_file import adapter_of_bytes
from evergrove.learn.membership import scores
from evergrove.learn.strategies import STRATEGIES, Recipe, Samples, Task
from evergrove.learn.trainer import train
from evergrove.rules.audit import membership

from .conftest import pictures

World = Any


def test_what_was_learnt_by_heart_is_recognised(world: World, tmp_path: Path) -> None:
    """Eight pictures in pure noise, 1200 naive steps: nearly all of them at 1 % false accusations of 200 others."""
    rng = np.random.default_rng(0)
    noisy = lambda n: Samples(  # noqa: E731
        rng.integers(0, 256, (n, 8, 8, 3)).astype(np.uint8), np.array([(4, 1)] * n, np.int16)
    )
    mine, others = noisy(8), noisy(200)
    recipe = Recipe(steps=1200, batch=12, checkpoint_every=1200, warm_up=2)
    task = Task(world.model, world.basis, world.wider, mine, world.old, STRATEGIES["naive"], recipe)
    outcome = train(task, tmp_path)
    assert outcome.candidate is not None
    adapter = adapter_of_bytes(outcome.candidate.read_bytes(), "it")
    scored = [scores(world.model, world.basis, adapter, None, world.wider, one, 1) for one in (mine, others)]
    found = membership(*scored)
    assert found.tpr >= 0.75
    assert found.low > 0.3


def test_an_adapter_that_learnt_nothing_gives_nothing_away(world: World) -> None:
    """All scores are 0, ties accuse nobody."""
    blank = blank_adapter(world.model, world.basis, world.wider)
    some = pictures([4], 100, "some")
    scored = scores(world.model, world.basis, blank, None, world.wider, some, 1)
    assert (scored == 0.0).all()
    assert membership(scored[:50], scored).tpr == 0.0
