"""What a sum of many updates harms is mended by the cloud, and what it brings stays."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from evergrove.core.errors import UsageError
from evergrove.learn.adapter import Adapter, fuse
from evergrove.learn.adapter_file import adapter_bytes, load_adapter
from evergrove.learn.evaluate import Golden, Probe, item_values
from evergrove.learn.reconcile import Old, reconcile
from evergrove.learn.strategies import Recipe, Samples, Task, strategy_named
from evergrove.learn.trainer import train

from .conftest import World

NEW = np.array([(4, 1), (4, 2)], np.int16)


@pytest.fixture(scope="module")
def candidate(world: World, tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    """A step that brings the new pattern whole, and half as much again: longer than the old ones bear."""
    recipe = Recipe(steps=80, batch=16, micro_batch=16)
    task = Task(world.model, world.basis, world.wider, world.new, world.old, strategy_named("naive"), recipe)
    outcome = train(task, tmp_path_factory.mktemp("naive"))
    assert outcome.candidate is not None
    learnt = load_adapter(outcome.candidate, world.model, world.basis)
    return replace(learnt, b={name: 1.5 * b for name, b in learnt.b.items()})


def loss(world: World, adapter: Adapter, samples: Samples) -> float:
    """The mean denoising loss of an adapter on some samples."""
    module = fuse(world.model, world.basis, adapter)
    conditions = tuple(sorted({(int(p), 0) for p in samples.codes[:, 0]}))
    golden = Golden(samples, conditions, 0, world.wider.sizes)
    return float(item_values(module, golden, Probe(draws=4)).loss.mean())


def mended(world: World, candidate: Adapter, new: np.ndarray = NEW, steps: int = 100, seed: int = 0) -> Adapter:
    """As the cloud does it; the base is the teacher."""
    old = Old(world.model, world.old)
    after = reconcile(world.model, world.basis, candidate, old, new, steps, 4e-3, seed)
    assert after is not None
    return after


def test_a_candidate_that_is_mostly_noise_has_no_reconciled_form(world: World, candidate: Adapter) -> None:
    """Training from it diverges: that is said, and no broken file comes of it."""
    rng = torch.Generator().manual_seed(0)
    noise = replace(candidate, b={name: 1e12 * torch.randn(b.shape, generator=rng) for name, b in candidate.b.items()})
    assert reconcile(world.model, world.basis, noise, Old(world.model, world.old), NEW, 3, 4e-3, 0) is None


def test_the_old_comes_back_and_the_new_stays(world: World, candidate: Adapter) -> None:
    """At least two thirds of the harm is undone; of the new no more is lost than a tenth of what was gained."""
    after = mended(world, candidate)
    base = replace(candidate, b={name: torch.zeros_like(b) for name, b in candidate.b.items()})
    before = loss(world, base, world.golden)
    harm = loss(world, candidate, world.golden) - before
    assert harm > 0.5 * before, "a candidate that harms nothing shows nothing"
    assert loss(world, after, world.golden) - before < harm / 3
    gain = loss(world, base, world.own) - loss(world, candidate, world.own)
    assert loss(world, after, world.own) < loss(world, candidate, world.own) + 0.1 * gain


def test_who_is_not_asked_about_the_new_loses_it(world: World, candidate: Adapter) -> None:
    """The candidate as its own teacher is what keeps the new: without it more is lost."""
    with_it, without = mended(world, candidate), mended(world, candidate, NEW[:0])
    assert loss(world, with_it, world.own) < loss(world, without, world.own)


def test_the_same_to_the_bit(world: World, candidate: Adapter) -> None:
    """A worker that was killed makes the very same candidate again; the inputs are left alone."""
    given = adapter_bytes(candidate)
    one, two, other = (adapter_bytes(mended(world, candidate, steps=5, seed=s)) for s in (0, 0, 1))
    assert one == two != other
    assert adapter_bytes(candidate) == given


def test_nothing_to_rehearse_is_refused(world: World, candidate: Adapter, tmp_path: Path) -> None:
    """With the way out."""
    empty = Samples(world.old.images[:0], world.old.codes[:0])
    with pytest.raises(UsageError, match="reconcile_steps = 0"):
        reconcile(world.model, world.basis, candidate, Old(world.model, empty), NEW, 5, 4e-3, 0)
