"""The objective: its terms are what the paper's formulas say, and its gradient is that of finite differences."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from evergrove.learn import flow
from evergrove.learn.adapter import attach, blank_adapter
from evergrove.learn.fisher import Fisher, estimate_fisher, sketch
from evergrove.learn.objective import Anchor, Batch, Weights, data_loss, ewc_loss, flow_rows, join, teacher_rows
from evergrove.learn.objective import total_loss as whole
from evergrove.learn.teacher import trajectories

World = Any  # the one of conftest.py


def rng(seed: int = 0) -> torch.Generator:
    """A random stream."""
    return torch.Generator().manual_seed(seed)


def double(batch: Batch) -> Batch:
    """The same rows in float64."""
    return Batch(batch.x_t.double(), batch.t.double(), batch.code, batch.target.double(), batch.weight.double())


def test_rows_are_the_flow_matching_loss(world: World) -> None:
    """Rows of pictures give exactly ``flow.loss_per_sample``'s mean, at the same times and noise."""
    x, code = world.old.pick(torch.arange(8))
    rows = flow_rows(x, code, 1.0, rng(1), 0.0)
    same = rng(1)
    t = flow.draw_t(8, same)
    expected = flow.loss_per_sample(world.model, x, code, t, torch.randn(x.shape, generator=same)).mean()
    torch.testing.assert_close(data_loss(world.model, rows), expected)


def test_micro_batches_add_up(world: World) -> None:
    """The loss of a batch is the sum of its micro-batches' losses, however it is cut."""
    x, code = world.old.pick(torch.arange(10))
    batch = flow_rows(x, code, 1.0, rng(2), 0.1)
    expected = data_loss(world.model, batch)
    for n in (1, 3, 10):
        parts = batch.split(n)
        assert sum(len(part) for part in parts) == 10
        torch.testing.assert_close(sum(data_loss(world.model, part) for part in parts), expected)


def test_the_teacher_itself_has_nothing_to_learn(world: World) -> None:
    """At the teacher's own points its distance to itself is that of fp16, and another network's is not."""
    points = trajectories(world.model, world.old.pick(torch.arange(6))[1], (3, 8, 8), rng(3), steps=4)
    assert len(points) == 24
    assert set(torch.unique(points.t[:6]).tolist()) == {0.0}
    assert points.t.max() < 1.0
    rows = teacher_rows(points, torch.arange(24), 1.0)
    assert float(data_loss(world.model, rows)) < 1e-5
    other = copy.deepcopy(world.model)
    with torch.no_grad():
        other.patch_out.bias.add_(0.1)
    assert float(data_loss(other, rows)) == pytest.approx(0.01, rel=0.05)


def test_a_trajectory_ends_at_the_samplers_picture(world: World) -> None:
    """The points lie on the ODE's path: x̂ at the last one shows what the sampler draws for that condition."""
    x, code = world.golden.pick(torch.arange(6))
    points = trajectories(world.model, code, (3, 8, 8), rng(4), steps=8)
    last = points.x_hat[-6:].float()
    assert float((last - x).square().mean()) < 0.1 * float((x - x.roll(1, 0)).square().mean())


def test_low_rank_and_rest_are_counted_once() -> None:
    """By hand: F = diag(5, 1) from g = (±2, 1), (±1, …): the penalty is ½·δᵀFδ, for any number of directions."""
    g = torch.tensor([[3.0, 1.0], [-1.0, 1.0]]).reshape(2, 2, 1)  # F = ½·Σ g·gᵀ = [[5, 1], [1, 1]]
    delta = torch.tensor([1.0, 2.0]).reshape(2, 1)  # ½·δᵀFδ = ½·(5 + 4 + 4) = 6.5
    zero = {"l": torch.zeros(2, 1)}
    exact = ewc_loss({"l.B": delta}, Anchor(zero, sketch({"l": g}, 2)), 1.0)
    assert float(exact) == pytest.approx(6.5, rel=1e-5)
    diagonal = Fisher({"l": torch.zeros(0, 2)}, {"l": torch.zeros(0)}, {"l": g.square().mean(0)}, 2)
    assert float(ewc_loss({"l.B": delta}, Anchor(zero, diagonal), 2.0)) == pytest.approx(9.0)  # 2·½·(5 + 4)
    one = sketch({"l": g}, 1)
    total = (one.c["l"][:, None] * one.u["l"].square()).sum(0) + one.rest["l"].flatten()
    torch.testing.assert_close(total, torch.tensor([5.0, 1.0]))


def test_the_whole_gradient_is_that_of_finite_differences(world: World) -> None:
    """All four terms together, in float64, for B of every layer and for the new row: central differences agree."""
    model = copy.deepcopy(world.model).double()
    attached = attach(model, world.basis, blank_adapter(model, world.basis, world.wider))
    draw = rng(5)
    with torch.no_grad():
        for p in attached.parameters.values():
            p.add_(0.02 * torch.randn(p.shape, generator=draw, dtype=torch.float64))
    old, new = world.old.pick(torch.arange(4)), world.new.pick(torch.arange(4))
    points = trajectories(world.model, old[1], (3, 8, 8), draw, steps=2)
    batch = double(
        join(
            [
                flow_rows(*new, 1.0, draw, 0.0),
                flow_rows(*old, 0.7, draw, 0.0),
                teacher_rows(points, torch.arange(4), 1.3),
            ]
        )
    )
    x, code = old
    fisher = estimate_fisher(attached, x.double(), code, draw, n=16, k=2)
    star = {name: torch.zeros_like(rest) for name, rest in fisher.rest.items()}
    weights = Weights(replay=0.7, teacher=1.3, ewc=20.0)

    def loss() -> Tensor:
        return whole(attached.module, attached.parameters, batch, Anchor(star, fisher), weights)

    held = float(ewc_loss(attached.parameters, Anchor(star, fisher), 20.0).detach())
    assert held > 1e-3 * float(loss().detach())  # the EWC term is no bystander
    loss().backward()
    for name, p in attached.parameters.items():
        direction = torch.randn(p.shape, generator=draw, dtype=torch.float64)
        assert p.grad is not None
        slope = float((p.grad * direction).sum())
        with torch.no_grad():
            p.add_(1e-5 * direction)
            above = float(loss())
            p.sub_(2e-5 * direction)
            below = float(loss())
            p.add_(1e-5 * direction)
        assert (above - below) / 2e-5 == pytest.approx(slope, rel=1e-4, abs=1e-8), name


def test_a_weight_of_zero_leaves_a_term_out(world: World) -> None:
    """λe = 0, or no anchor: the loss is the rows' alone."""
    attached = attach(world.model, world.basis, blank_adapter(world.model, world.basis, world.wider))
    batch = flow_rows(*world.new.pick(torch.arange(4)), 1.0, rng(6), 0.0)
    rows_only = data_loss(attached.module, batch)
    assert torch.equal(whole(attached.module, attached.parameters, batch, None, Weights(ewc=1.0)), rows_only)
