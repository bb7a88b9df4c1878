"""The rivals that ``test_rivals.py`` does not take apart, each against numbers that can be worked out by hand."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from evergrove.core.conditions import Factor, Vocabulary
from evergrove.learn.adapter import Adapter, attach, blank_adapter, fuse
from evergrove.learn.adapter_file import adapter_bytes
from evergrove.learn.dit import DiT, DiTConfig
from evergrove.learn.fisher import Fisher, estimate_fisher
from evergrove.learn.flow import weight
from evergrove.learn.objective import Anchor, ewc_loss
from evergrove.learn.rivals import RIVALS, elastic, rival_named, sequence
from evergrove.learn.rivals.sequence import Carried, routed
from evergrove.learn.strategies import Memory, Recipe, Task

World = Any  # the one of conftest.py


def task_of(world: World, name: str) -> Task:
    """The fourth pattern, with the known ones to replay; no label is dropped, so that rows can be counted."""
    strategy = RIVALS[name].strategy
    return Task(world.model, world.basis, world.wider, world.new, world.old, strategy, Recipe(label_drop=0.0))


def adapter_with(world: World, value: float, train_a: bool = False) -> Adapter:
    """Every B full of ``value``, and where A is trained an A full of ones."""
    blank = blank_adapter(world.model, world.basis, world.wider)
    b = {name: torch.full_like(tensor, value) for name, tensor in blank.b.items()}
    a = {name: torch.ones_like(rows) for name, rows in world.basis.a.items()} if train_a else None
    return replace(blank, b=b, a=a)


def test_the_naive_one_sees_what_is_new_and_nothing_else(world: World) -> None:
    """Sixteen new rows, each weighted w(t)/16; no teacher, no anchor."""
    task = task_of(world, "naive")
    assert task.strategy.remember(task, task.strategy) == Memory()
    batch = task.strategy.draw(task, Memory(), task.strategy, 0)
    assert batch.code[:, 0].tolist() == [4] * 16
    torch.testing.assert_close(batch.weight, weight(batch.t) / 16)


def test_replay_takes_ten_of_sixteen_from_what_it_kept(world: World) -> None:
    """.625 of 16 are 10 old rows, weighted w(t)/10, beside 6 new ones, weighted w(t)/6; old conditions in turn."""
    task = task_of(world, "replay")
    rows = [task.strategy.draw(task, Memory(), task.strategy, step) for step in range(60)]
    old = torch.cat([batch.code[6:, 0] for batch in rows])
    assert all(batch.code[:6, 0].tolist() == [4] * 6 for batch in rows)
    torch.testing.assert_close(rows[0].weight[:6], weight(rows[0].t[:6]) / 6)
    torch.testing.assert_close(rows[0].weight[6:], weight(rows[0].t[6:]) / 10)
    # 600 rows of three conditions: 200 each, within five standard errors (11.5).
    assert np.abs(np.bincount(old.numpy(), minlength=4)[1:] - 200).max() < 58


def test_diagonal_ewc_by_hand() -> None:
    """f = (1, 4), b − b* = (3, 1), λ = 2: ½·2·(1·9 + 4·1) = 13."""
    fisher = Fisher({"l": torch.zeros(0, 2)}, {"l": torch.zeros(0)}, {"l": torch.tensor([[1.0], [4.0]])}, 1)
    anchor = Anchor({"l": torch.tensor([[1.0], [1.0]])}, fisher)
    assert float(ewc_loss({"l.B": torch.tensor([[4.0], [2.0]])}, anchor, 2.0)) == 13


def test_rank_one_with_distillation_holds_on_to_the_incumbent(world: World) -> None:
    """b* is the incumbent's B, all of it .5: at B = .5 the penalty is 0, at 1.5 it is ½·λ·c·(Σ u)²; half is new."""
    n = sum(tensor.numel() for tensor in adapter_with(world, 0.0).b.values())
    u = {name: torch.full((1, b.numel()), n**-0.5) for name, b in adapter_with(world, 0.0).b.items()}
    fisher = Fisher(u, {name: torch.tensor([2.0]) for name in u}, {}, 1)
    task = replace(task_of(world, "rank1+gd"), start=adapter_with(world, 0.5), fisher=fisher)
    memory = task.strategy.remember(task, task.strategy)
    assert memory.anchor is not None
    for value, expected in ((0.5, 0.0), (1.5, 0.5 * 3.0 * 2.0 * n)):
        parameters = {f"{name}.B": b for name, b in adapter_with(world, value).b.items()}
        assert float(elastic.rank_one_loss(parameters, memory.anchor, 3.0)) == pytest.approx(expected, rel=1e-4)
    batch = task.strategy.draw(task, memory, task.strategy, 0)
    n_old = int(task.strategy.shares.teacher * 16)
    assert batch.code[: 16 - n_old, 0].tolist() == [4] * (16 - n_old)
    assert set(batch.code[16 - n_old :, 0].tolist()) <= {1, 2, 3}


def test_what_goes_on_may_be_a_part_of_what_was_learnt(world: World) -> None:
    """B was .5 and is trained to 1.5. Rescaled by ½ all of it is halved, .75; a slow one goes halfway, 1.0."""
    task = replace(task_of(world, "naive"), start=adapter_with(world, 0.5))
    row = {key: torch.full_like(row, 8.0) for key, row in adapter_with(world, 0.0).rows.items()}
    data = adapter_bytes(replace(adapter_with(world, 1.5), rows=row))
    carried = Carried(world.model, world.basis)
    for after, b, rows in (
        (partial(sequence.after_scaled, gamma=0.5), 0.75, 4.0),
        (partial(sequence.after_slowed, share=0.5), 1.0, 8.0),
    ):
        start = after(task, data, carried).start
        assert start is not None
        assert all((tensor == b).all() for tensor in start.b.values())
        assert all((tensor == rows).all() for tensor in start.rows.values())


def test_an_a_can_be_cut(world: World) -> None:
    """The first two rows of each layer, and a B as narrow."""
    carried = sequence.begin_cut(world.model, world.basis, 3, rank=2)
    assert all(torch.equal(a, world.basis.a[name][:2]) for name, a in carried.basis.a.items())
    assert blank_adapter(carried.model, carried.basis, world.wider).rank == 2


def test_the_releases_fisher_is_ours_at_the_release(world: World) -> None:
    """As ``estimate_fisher`` makes it of the base with an empty adapter."""
    x, code = world.old.pick()
    made = sequence.prior_sketch(world.model, world.basis, x, code, torch.Generator().manual_seed(3))
    blank = attach(world.model, world.basis, blank_adapter(world.model, world.basis, world.known))
    expected = estimate_fisher(blank, x, code, torch.Generator().manual_seed(3), sequence.N_FISHER)
    for name, rest in expected.rest.items():
        torch.testing.assert_close(made.rest[name], rest)
        torch.testing.assert_close(made.c[name], expected.c[name])
        torch.testing.assert_close(made.u[name], expected.u[name])


def test_o_lora_merges_and_begins_anew(world: World) -> None:
    """W' = W + s·B·A with B = .1 and A = 1 at rank 6 is W + .6·s everywhere; the next A is another orthonormal one."""
    task, adapter = task_of(world, "o-lora"), adapter_with(world, 0.1, train_a=True)
    carried = sequence.after_merged(task, adapter_bytes(adapter), Carried(world.model, world.basis))
    for name in world.basis.a:
        before, after = (m.get_submodule(name).weight for m in (world.model, carried.model))
        torch.testing.assert_close(after, before + 0.6 * world.basis.scale, atol=1e-2, rtol=0)
        rows = carried.basis.a[name]
        torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows)), atol=1e-5, rtol=0)
        assert carried.fisher is not None
        torch.testing.assert_close(carried.fisher.u[name].float(), torch.ones_like(rows))
    again = sequence.after_merged(replace(task, basis=carried.basis), adapter_bytes(adapter), carried)
    name = next(iter(world.basis.a))
    assert not torch.allclose(again.basis.a[name], carried.basis.a[name])


def test_ewc_lora_holds_the_product_of_the_incumbent(world: World) -> None:
    """B = .5 and A = 1 at rank 6: (B·A)* is 3 everywhere, and the penalty there is nothing."""
    fisher = Fisher({}, {}, {name: torch.ones(b.shape[0], world.basis.a[name].shape[1])
                             for name, b in adapter_with(world, 0.0).b.items()}, 1)  # fmt: skip
    task = replace(task_of(world, "ewc-lora"), start=adapter_with(world, 0.5, train_a=True), fisher=fisher)
    memory = task.strategy.remember(task, task.strategy)
    assert memory.anchor is not None
    assert all(bool((star == 3.0).all()) for star in memory.anchor.star.values())


@pytest.mark.parametrize("name", ["isolated", "isolated-b"])
def test_an_adapter_a_task_is_asked_for_its_own_task(world: World, name: str) -> None:
    """Two adapters, B of .1 and of .2: task 0 is drawn by the first, task 1 by the second, what is older by none."""
    rival, task = RIVALS[name], task_of(world, name)
    carried = Carried(world.model, world.basis)
    for value in (0.1, 0.2):
        carried = rival.after(task, adapter_bytes(adapter_with(world, value)), carried)
    layer = next(iter(world.basis.a))
    weights = [
        rival.network(carried, world.wider, i).get_submodule(layer).weight - world.model.get_submodule(layer).weight
        for i in (0, 1, -1)
    ]
    torch.testing.assert_close(weights[1], 2 * weights[0], atol=1e-3, rtol=1e-2)
    assert weights[0].abs().max() > 0
    assert not weights[2].any()
    # The rows of the new condition are counted once, not once a task.
    one = sum(b.numel() for b in carried.parts[0].b.values())
    rows = sum(row.numel() for row in carried.parts[0].rows.values())
    assert carried.n_numbers == 2 * one + rows


def test_a_b_a_task_gets_its_share_of_the_rank(world: World) -> None:
    """Two adapters' bytes at rank 6 are 12 rows of B: 4 tasks get rank 3, 5 get 2, 50 get 1, and 1 the whole 6."""
    assert [sequence.begin_parts(world.model, world.basis, n).basis.rank for n in (4, 5, 50, 1)] == [3, 2, 1, 6]


def test_ours_gives_a_b_of_its_own_to_what_combines_with_nothing(world: World) -> None:
    """With two factors it is the shared B with replay and teacher; with one a branch a class, under ours' name."""
    ours = RIVALS["evergrove"]
    assert routed(ours, world.model) is ours
    assert ours.strategy.shares == RIVALS["replay+teacher"].strategy.shares
    single = DiT(DiTConfig(8, 3, 4, 8, 1, 2), Vocabulary((Factor("sign", ("a", "b")),)))
    alone = routed(ours, single)
    assert alone == replace(rival_named("branches-fast"), name="evergrove")
    assert routed(RIVALS["naive"], single) is RIVALS["naive"]


def test_full_fine_tuning_stores_every_weight(world: World) -> None:
    """One weight moved by 1 in a network of the base's kind: the carried model has it, and all numbers are counted."""
    task = task_of(world, "full")
    learner = task.strategy.init(task)
    name, parameter = next(iter(learner.parameters.items()))
    with torch.no_grad():
        parameter += 1.0
    carried = RIVALS["full"].after(task, learner.candidate(), Carried(world.model, world.basis))
    before = fuse(world.model, world.basis, blank_adapter(world.model, world.basis, world.wider))
    torch.testing.assert_close(carried.model.get_parameter(name), before.get_parameter(name) + 1.0)
    assert carried.n_numbers == sum(p.numel() for p in before.parameters())
