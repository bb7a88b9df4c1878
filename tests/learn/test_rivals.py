"""The published rivals: each one's own formula against numbers worked out by hand, and all of them over two tasks."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evergrove.core.config import Learn
from evergrove.core.errors import UsageError
from evergrove.learn.adapter import attach, blank_adapter
from evergrove.learn.adapter_file import adapter_bytes
from evergrove.learn.branches import BRANCHES
from evergrove.learn.fisher import Fisher, sample_gradients, stratified_t
from evergrove.learn.flow import mix, sample, weight
from evergrove.learn.objective import Anchor
from evergrove.learn.rivals import ABLATIONS, RIVALS, Carried, elastic, generative, rival_named, sequence
from evergrove.learn.strategies import Memory, Recipe, Samples, Task, strategy_named
from evergrove.learn.trainer import train

World = Any  # the one of conftest.py
LAYER = "layer"


class Scaled(nn.Module):
    """x̂ = a·x_t: one pixel, one weight; a network whose gradients are known by hand."""

    def __init__(self, a: float) -> None:
        super().__init__()
        self.line = nn.Linear(1, 1, bias=False)
        self.line.weight.data.fill_(a)
        self.line.weight.requires_grad_(False)

    def forward(self, x_t: Tensor, t: Tensor, code: Tensor) -> Tensor:
        """(N, 1, 1, 1) → the same."""
        return self.line(x_t)


def one(value: float, shape: tuple[int, ...] = (1, 1)) -> dict[str, Tensor]:
    """The only layer's tensor."""
    return {LAYER: torch.full(shape, value)}


def test_rank_one_is_one_direction_over_all_layers() -> None:
    """u = (.6, .8) over two layers, Δ = (1, 2), c = 5: ½·λ·c·(.6 + 1.6)² = ½·2·5·4.84; layers apart would give 14.8."""
    fisher = Fisher(
        {"a": torch.tensor([[0.6]]), "b": torch.tensor([[0.8]])}, dict.fromkeys("ab", torch.tensor([5.0])), {}, 1
    )
    anchor = Anchor({"a": torch.zeros(1, 1), "b": torch.ones(1, 1)}, fisher)
    parameters = {"a.B": torch.tensor([[1.0]]), "b.B": torch.tensor([[3.0]])}
    assert float(elastic.rank_one_loss(parameters, anchor, 2.0)) == pytest.approx(24.2)
    two = elastic.stacked(fisher, fisher)
    assert float(elastic.rank_one_loss(parameters, replace(anchor, fisher=two), 2.0)) == pytest.approx(48.4)
    assert sequence.fisher_numbers(two) == 6


def test_ewc_lora_holds_the_product_and_not_its_factors() -> None:
    """B = 2, A = 3, (B·A)* = 5, F = 4, λ = 3: ½·3·4·(6 − 5)² = 6; other factors of the same product cost nothing."""
    anchor = Anchor(one(5.0), Fisher({}, {}, one(4.0), 1))
    assert (
        float(elastic.delta_loss({"layer.B": torch.tensor([[2.0]]), "layer.A": torch.tensor([[3.0]])}, anchor, 3.0))
        == 6
    )
    same = {"layer.B": torch.tensor([[10.0]]), "layer.A": torch.tensor([[0.5]])}
    assert float(elastic.delta_loss(same, anchor, 3.0)) == 0


def test_o_lora_asks_for_right_angles() -> None:
    """Earlier (1, 0) and (0, 1), now (3, 4): 9 + 16 = 25; at a right angle nothing."""
    earlier = Fisher({LAYER: torch.eye(3)[:2]}, {LAYER: torch.ones(2)}, {}, 0)
    anchor = Anchor({}, earlier)
    assert float(elastic.orthogonal_loss({"layer.A": torch.tensor([[3.0, 4.0, 7.0]])}, anchor, 1.0)) == 25
    assert float(elastic.orthogonal_loss({"layer.A": torch.tensor([[0.0, 0.0, 7.0]])}, anchor, 1.0)) == 0


def test_the_weights_fisher_is_the_hand_computed_one() -> None:
    """For x̂ = a·x_t the gradient is √(2w)·x_t·ξ, so F is the mean of 2·w(t)·x_t²·ξ² over the very same draws."""
    x = torch.tensor([0.5, -1.0, 0.25]).reshape(3, 1, 1, 1)
    found = elastic.weight_diagonal(Scaled(0.7), ["line"], x, torch.zeros(3, 1), torch.Generator().manual_seed(1), 9)
    rng = torch.Generator().manual_seed(1)
    order = torch.randperm(9, generator=rng) % 3
    t = stratified_t(9, rng)
    noise, xi = torch.randn((9, 1, 1, 1), generator=rng), torch.randn((9, 1, 1, 1), generator=rng)
    by_hand = (2 * weight(t) * (mix(x[order], noise, t) * xi).flatten().square()).mean()
    torch.testing.assert_close(found.rest["line"], by_hand.reshape(1, 1))
    assert found.n == 9


def test_online_ewc_adds_up() -> None:
    """Half of what was carried (2) and the latest (3): 4; counts add up; the first task's is itself."""
    first, second = Fisher({}, {}, one(2.0), 5), Fisher({}, {}, one(3.0), 7)
    total = elastic.running(first, second, keep=0.5)
    assert (float(total.rest[LAYER]), total.n) == (4.0, 12)
    assert elastic.running(None, second) is second


def test_the_diagonal_squares_each_gradient_by_itself(world: World) -> None:
    """Σ g²/n of the very same draws, in batches of 16 and whole."""
    attached = attach(world.model, world.basis, blank_adapter(world.model, world.basis, world.known))
    x, code = world.old.pick(torch.arange(8))
    found = elastic.diagonal(attached, x, code, torch.Generator().manual_seed(2), 24)
    rng = torch.Generator().manual_seed(2)
    order = torch.randperm(24, generator=rng) % 8
    t = stratified_t(24, rng)
    noise, xi = torch.randn((24, *x.shape[1:]), generator=rng), torch.randn((24, *x.shape[1:]), generator=rng)
    g = sample_gradients(attached.module, mix(x[order], noise, t), t, code[order], xi)
    for name, rest in found.rest.items():
        torch.testing.assert_close(rest, g[name].square().mean(0), atol=1e-7, rtol=1e-4)
        assert found.u[name].numel() == 0


def test_the_mean_direction_is_the_mean_gradients(world: World) -> None:
    """u has length 1 over all layers and c = E[(uᵀg)²] ≥ ‖E g‖², with equality for one draw alone."""
    attached = attach(world.model, world.basis, blank_adapter(world.model, world.basis, world.known))
    x, code = world.old.pick(torch.arange(8))
    for n in (1, 32):
        found = elastic.mean_direction(attached, x, code, torch.Generator().manual_seed(3), n)
        assert float(sum(u.square().sum() for u in found.u.values())) == pytest.approx(1.0, rel=1e-5)
        assert not found.rest
        # The penalty's second derivative along u is c: at a distance of 1 along it the loss is c/2.
        parameters = {f"{name}.B": u.reshape(attached.parameters[f"{name}.B"].shape) for name, u in found.u.items()}
        star = {name: torch.zeros_like(parameters[f"{name}.B"]) for name in found.u}
        c = float(next(iter(found.c.values())))
        assert float(elastic.rank_one_loss(parameters, Anchor(star, found), 1.0)) == pytest.approx(c / 2, rel=1e-4)
        assert c > 0


def second_task(world: World, name: str, known: int = 2) -> Task:
    """The fourth pattern, where two conditions are known by name and no old observation is kept."""
    codes = np.array([(1, 1), (2, 2)], np.int16)[:known]
    nothing = Samples(world.old.images[:0], world.old.codes[:0])
    recipe = Recipe(steps=3, checkpoint_every=3, label_drop=0.0)
    return Task(world.model, world.basis, world.wider, world.new, nothing, RIVALS[name].strategy, recipe, known=codes)


def test_generative_replay_learns_the_incumbents_pictures(world: World) -> None:
    """Kept are 4-step pictures by the model itself; half of a batch asks for them, weighted as the flow is."""
    task = second_task(world, "dgr")
    memory = task.strategy.remember(task, task.strategy)
    points = memory.points
    assert points is not None
    assert len(points) == generative.N_PICTURES
    noise = torch.randn((generative.N_PICTURES, 3, 8, 8), generator=task.rng("drawn"))
    torch.testing.assert_close(points.x_hat.float(), sample(world.model, points.code, noise, 4), atol=1e-3, rtol=0)
    batch = task.strategy.draw(task, memory, task.strategy, 0)
    assert batch.code[:8, 0].tolist() == [4] * 8
    torch.testing.assert_close(batch.weight[8:], weight(batch.t[8:]) / 8)
    pictures = points.x_hat.float()
    assert all((pictures == target).flatten(1).all(1).any() for target in batch.target[8:])


def test_generative_distillation_asks_for_the_incumbents_estimate(world: World) -> None:
    """Every point's target is the incumbent's own x̂ there, and points stand at fresh times and not at the sampler's."""
    task = second_task(world, "gd")
    memory = task.strategy.remember(task, task.strategy)
    points = memory.points
    assert points is not None
    assert len(points) == 2 * generative.N_PICTURES
    x_hat = world.model(points.x_t.float(), points.t, points.code)
    torch.testing.assert_close(points.x_hat.float(), x_hat, atol=2e-2, rtol=0)
    assert len(points.t.unique()) > generative.N_PICTURES
    batch = task.strategy.draw(task, memory, task.strategy, 3)
    n_points = int(16 * task.strategy.shares.teacher)
    torch.testing.assert_close(batch.weight[-n_points:], weight(batch.t[-n_points:]) / n_points)
    assert len(task.strategy.draw(task, Memory(), task.strategy, 3)) == 16


def test_who_knows_no_old_condition_is_told_so(world: World) -> None:
    """A generative rival with nothing to ask for says what is missing; unknown names list those there are."""
    task = second_task(world, "gd", known=0)
    with pytest.raises(UsageError, match="known"):
        task.strategy.remember(task, task.strategy)
    with pytest.raises(UsageError, match="rank1"):
        rival_named("magic")


def test_an_ablation_is_ours_less_one_term() -> None:
    """Rows are shared out as before, eight new ones of sixteen; and what is left out costs no preparation."""
    ours = RIVALS["shared"]
    less = {"no-ewc", "no-teacher", "no-replay"}
    assert less < set(ABLATIONS)
    for name in less:
        rival = ABLATIONS[name]
        assert rival_named(name) is rival
        assert rival.strategy.shares.replay + rival.strategy.shares.teacher == 0.5
        assert rival.prepare_rows < ours.prepare_rows
    assert ABLATIONS["no-ewc"].strategy.weights.ewc == 0
    assert ABLATIONS["no-teacher"].strategy.weights.ewc == ours.strategy.weights.ewc


def test_the_device_is_raced_with_the_very_recipe_that_ships() -> None:
    """Its own rate included; and beside it the same with nothing but the Fisher's weight changed."""
    ours, without = ABLATIONS["device"], ABLATIONS["device-no-ewc"]
    assert ours.strategy is strategy_named(Learn().strategy)
    assert ABLATIONS["branches"].strategy is BRANCHES
    weights = replace(without.strategy.weights, ewc=ours.strategy.weights.ewc)
    assert replace(without.strategy, weights=weights) == ours.strategy
    assert (without.strategy.weights.ewc, ours.strategy.weights.ewc) == (0, 5)


@pytest.mark.parametrize("name", [name for name in ABLATIONS if name.startswith("device-")])
def test_an_ablation_of_the_device_differs_in_one_thing(name: str) -> None:
    """One field of the rival, its strategy's included, besides what it is called and what that costs."""
    ours, other = ABLATIONS["device"], ABLATIONS[name]
    fields = ("begin", "after", "network", "keeps_observations", "prior", "recombines", "joint", "alone", "strategy")
    assert sum(getattr(ours, field) != getattr(other, field) for field in fields) == 1
    inner = ("init", "remember", "draw", "lr", "weights", "shares", "hold")
    assert sum(getattr(ours.strategy, field) != getattr(other.strategy, field) for field in inner) <= 1


@pytest.mark.parametrize("name", [name for name in RIVALS if name not in ("joint", "recombined")])
def test_two_tasks_in_a_row(world: World, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each trains, carries what it must, counts its numbers, and gives a network that knows the new condition."""
    monkeypatch.setattr(sequence, "N_FISHER", 16)
    rival = RIVALS[name]
    carried: Carried = rival.begin(world.model, world.basis, 2)
    vocabulary = world.known
    for i, pattern in enumerate(("corners", "dots")):
        vocabulary = vocabulary.extend({"pattern": pattern})
        new = Samples(world.new.images, np.where(world.new.codes == 4, 4 + i, world.new.codes).astype(np.int16))
        task = replace(
            second_task(world, name),
            vocabulary=vocabulary,
            new=new,
            replay=world.old,
            model=carried.model,
            basis=carried.basis,
            start=carried.start,
            fisher=carried.fisher,
        )
        outcome = train(task, tmp_path / str(i))
        assert outcome.candidate is not None
        before, carried = carried, rival.after(task, outcome.candidate.read_bytes(), carried)
        network = rival.network(carried, vocabulary, i)
        x_hat = network(torch.zeros(1, 3, 8, 8), torch.tensor([0.5]), torch.tensor([[4 + i, 1]]))
        assert torch.isfinite(x_hat).all()
        assert carried.n_numbers >= before.n_numbers > -1
    expected = {"isolated": 2, "isolated-b": 2, "o-lora": 2}.get(name, 0)
    assert len(carried.parts) == expected


def test_what_is_stored_is_counted(world: World) -> None:
    """Rank 6 of A frozen is 6·Σout numbers; with A trained too the rank falls, and with more tasks."""
    out = {name: world.model.get_submodule(name).out_features for name in world.basis.a}
    both = sum(out[name] + a.shape[1] for name, a in world.basis.a.items())
    assert sequence.frozen_numbers(world.model, world.basis) == 6 * sum(out.values())
    trained = sequence.begin_trained(world.model, world.basis, 2).basis
    assert trained.rank == round(6 * sum(out.values()) / both)
    growing = sequence.begin_growing(world.model, world.basis, 4).basis
    assert 4 * growing.rank * both <= 2 * 6 * sum(out.values())
    blank = blank_adapter(world.model, world.basis, world.wider)
    task = second_task(world, "naive")
    carried = sequence.after_adapter(task, adapter_bytes(blank), Carried(world.model, world.basis))
    assert carried.n_bytes == 2 * (6 * sum(out.values()) + 32)
    full = RIVALS["full"]
    module = full.strategy.init(task)
    after = full.after(task, module.candidate(), Carried(world.model, world.basis))
    assert after.n_numbers == sum(p.numel() for p in world.model.parameters()) + 32
