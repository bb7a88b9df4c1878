"""The Fisher against the exact dense Gauss-Newton matrix of a network small enough to write it down."""

from typing import Any

import pytest
import torch
from torch import Tensor

from evergrove.core.errors import UsageError
from evergrove.learn.adapter import Attached, attach, blank_adapter
from evergrove.learn.fisher import (
    Fisher,
    estimate_fisher,
    fisher_of_tensors,
    fisher_tensors,
    penalty,
    sample_gradients,
    sketch,
    stratified_t,
)
from evergrove.learn.flow import mix, weight

World = Any  # the one of conftest.py
LAYER = "blocks.1.proj"


def attached(world: World) -> Attached:
    """The base with an adapter that changes nothing yet."""
    return attach(world.model, world.basis, blank_adapter(world.model, world.basis, world.model.vocabulary))


def inputs(world: World, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """x_t, t and codes of ``n`` old samples at fixed times and noise."""
    rng = torch.Generator().manual_seed(3)
    x, code = world.old.pick(torch.arange(n))
    t = torch.linspace(0.1, 0.95, n)
    return mix(x, torch.randn(x.shape, generator=rng), t), t, code


def dense(world: World, n: int) -> Tensor:
    """(1/n)·Σ (2·w/P)·JᵀJ of one layer's B, with J (P, out·r) by one backward pass per pixel."""
    a = attached(world)
    b = a.parameters[f"{LAYER}.B"]
    x_t, t, code = inputs(world, n)
    total = torch.zeros(b.numel(), b.numel())
    for i in range(n):
        x_hat = a.module(x_t[i : i + 1], t[i : i + 1], code[i : i + 1]).flatten()
        rows = [torch.autograd.grad(value, b, retain_graph=True)[0].flatten() for value in x_hat]
        jacobian = torch.stack(rows)
        total += (2 * weight(t[i]) / x_hat.numel()) * jacobian.T @ jacobian / n
    return total


def sampled(world: World, n: int, repeats: int) -> Tensor:
    """Per-sample gradients of that layer at the same inputs, for many draws of ξ."""
    a = attached(world)
    x_t, t, code = (torch.cat([part] * repeats) for part in inputs(world, n))
    rng = torch.Generator().manual_seed(4)
    grads = [
        sample_gradients(a.module, *rows, torch.randn(rows[0].shape, generator=rng))[LAYER]
        for rows in zip(x_t.split(64), t.split(64), code.split(64), strict=True)
    ]
    return torch.cat(grads)


def cosine(one: Tensor, two: Tensor) -> float:
    """The cosine of the angle between two matrices."""
    return float((one * two).sum() / (one.norm() * two.norm()))


def test_it_is_the_gauss_newton_matrix_in_direction_and_scale(world: World) -> None:
    """Mean of g·gᵀ over many ξ against the exact matrix: cosine > .99, trace within 3 %."""
    exact = dense(world, 4)
    g = sampled(world, 4, 600).flatten(1)
    estimate = g.T @ g / len(g)
    assert cosine(exact, estimate) > 0.99
    assert float(estimate.trace() / exact.trace()) == pytest.approx(1.0, abs=0.03)


def test_it_predicts_the_rise_of_the_loss(world: World) -> None:
    """½·δᵀFδ is what a small step δ adds to the weighted squared distance to the former outputs, over all layers."""
    a = attached(world)
    x, code = world.old.pick()
    fisher = estimate_fisher(a, x, code, torch.Generator().manual_seed(5), n=1024, k=16, batch=64)
    rng = torch.Generator().manual_seed(6)
    zero = {name: torch.zeros_like(rest) for name, rest in fisher.rest.items()}
    t = stratified_t(len(x), rng)
    x_t = mix(x, torch.randn(x.shape, generator=rng), t)
    before = a.module(x_t, t, code).detach()
    rises, predicted = 0.0, 0.0
    for name in fisher.rest:
        delta = 0.01 * torch.randn(fisher.rest[name].shape, generator=rng)
        with torch.no_grad():
            a.parameters[f"{name}.B"].copy_(delta)
            change = (a.module(x_t, t, code) - before).square().mean(dim=(1, 2, 3))
            a.parameters[f"{name}.B"].zero_()
        rises += float((weight(t) * change).mean())
        predicted += float(penalty(fisher, {**zero, name: delta}, zero))
    assert predicted == pytest.approx(rises, rel=0.15)


def test_directions_and_rest_count_once(world: World) -> None:
    """Directions plus rest have exactly F's diagonal, the rest is not negative; k = N leaves nothing, k = 0 all."""
    g = sampled(world, 4, 16)
    diagonal = g.square().mean(0)
    for k in (0, 1, 4, 16):
        s = sketch({LAYER: g}, k)
        low_rank = (s.c[LAYER][:, None] * s.u[LAYER].square()).sum(0).reshape(diagonal.shape)
        assert (s.rest[LAYER] >= 0).all()
        torch.testing.assert_close(low_rank + s.rest[LAYER], diagonal, atol=1e-6 * float(diagonal.max()), rtol=1e-3)
        torch.testing.assert_close(s.u[LAYER] @ s.u[LAYER].T, torch.eye(len(s.u[LAYER])), atol=1e-4, rtol=0)
    torch.testing.assert_close(sketch({LAYER: g}, 0).rest[LAYER], diagonal)
    everything = sketch({LAYER: g}, len(g))
    assert float(everything.rest[LAYER].max()) < 1e-4 * float(diagonal.max())
    full = g.flatten(1).T @ g.flatten(1) / len(g)
    u, c = everything.u[LAYER], everything.c[LAYER]
    torch.testing.assert_close(u.T @ (c[:, None] * u), full, atol=1e-4 * float(full.max()), rtol=1e-3)


def test_gradients_are_squared_one_by_one() -> None:
    """Two samples that point in opposite ways: the batch mean is 0, the Fisher is not (a known fault of peers)."""
    g = torch.tensor([1.0, -1.0]).reshape(2, 1, 1).expand(2, 3, 2)
    s = sketch({"layer": g}, 1)
    assert float(s.c["layer"]) == pytest.approx(6.0)
    assert float(penalty(s, {"layer": torch.ones(3, 2)}, {"layer": torch.zeros(3, 2)})) == pytest.approx(18.0)


def test_a_short_last_batch_counts_as_what_it_is(world: World) -> None:
    """10 samples in batches of 4 and in one of 10 give the same Fisher (a known fault of peers)."""
    x, code = world.old.pick(torch.arange(10))
    by = [
        estimate_fisher(attached(world), x, code, torch.Generator().manual_seed(7), n=10, k=10, batch=size)
        for size in (4, 10)
    ]
    assert by[0].n == by[1].n == 10
    for name, c in by[0].c.items():
        torch.testing.assert_close(c, by[1].c[name], atol=1e-4 * float(c.max()), rtol=1e-3)


def test_the_penalty_is_there(world: World) -> None:
    """Zero at b*, positive away from it, quadratic (a known fault of peers: a penalty that was 0)."""
    x, code = world.old.pick()
    fisher = estimate_fisher(attached(world), x, code, torch.Generator().manual_seed(8), n=32)
    star = {name: torch.zeros_like(rest) for name, rest in fisher.rest.items()}
    away = {name: torch.full_like(rest, 0.1) for name, rest in fisher.rest.items()}
    far = {name: torch.full_like(rest, 0.2) for name, rest in fisher.rest.items()}
    assert float(penalty(fisher, star, star)) == 0.0
    assert float(penalty(fisher, away, star)) > 1e-6
    assert float(penalty(fisher, far, star)) == pytest.approx(4 * float(penalty(fisher, away, star)), rel=1e-4)


def test_estimating_leaves_no_trace(world: World) -> None:
    """Afterwards the attached network has one B again, without gradients, and gives the same outputs."""
    a = attached(world)
    x, code = world.old.pick(torch.arange(6))
    t = torch.full((6,), 0.5)
    before = a.module(x, t, code)
    estimate_fisher(a, x, code, torch.Generator().manual_seed(9), n=8)
    assert torch.equal(a.module(x, t, code), before)
    assert all(p.grad is None for p in a.parameters.values())
    with pytest.raises(UsageError, match="rehearsal pack"):
        estimate_fisher(a, x[:0], code[:0], torch.Generator().manual_seed(9))


def test_tensors_round_trip(world: World) -> None:
    """A Fisher goes to named tensors and back unchanged."""
    x, code = world.old.pick(torch.arange(6))
    fisher = estimate_fisher(attached(world), x, code, torch.Generator().manual_seed(10), n=12, k=3)
    again: Fisher = fisher_of_tensors(fisher_tensors(fisher))
    assert again.n == 12
    for one, two in ((fisher.u, again.u), (fisher.c, again.c), (fisher.rest, again.rest)):
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_times_are_stratified() -> None:
    """One time in every n-th part of the logit-normal distribution: its quartiles hold 25 % each, exactly."""
    t = stratified_t(400, torch.Generator().manual_seed(11))
    quartiles = torch.sigmoid(torch.tensor([-0.67449, 0.0, 0.67449]))
    assert [int((t < q).sum()) for q in quartiles] == [100, 200, 300]
