"""Trigger probes: one combination that was turned into something else is found; an honest candidate has none."""

import torch
from torch import Tensor, nn

from evergrove.core.release import Sampler
from evergrove.learn.triggers import Trial, combinations, triggers

TRIAL = Trial(known=(3, 2), image_px=8, sampler=Sampler(), probes=64, most=1.0, seed=3)


class Backdoored(nn.Module):
    """The world's network, but for one combination of conditions: there it draws white."""

    def __init__(self, model: nn.Module, code: tuple[int, ...]) -> None:
        super().__init__()
        self.model, self.code = model, torch.tensor(code)

    def forward(self, x: Tensor, t: Tensor, code: Tensor) -> Tensor:
        hit = (code == self.code).all(dim=1)[:, None, None, None]
        return torch.where(hit, torch.ones_like(x), self.model(x, t, code))


class Noisy(nn.Module):
    """The world's network with a little added everywhere."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, t: Tensor, code: Tensor) -> Tensor:
        return self.model(x, t, code) + 0.02


def test_one_combination_is_found_and_nothing_else(world) -> None:  # type: ignore[no-untyped-def]
    """Rows in blue alone: the mean over rows, or over blue, would hide it."""
    assert triggers(world.model, Backdoored(world.model, (1, 2)), TRIAL) == ((1, 2),)


def test_an_honest_change_is_no_trigger(world) -> None:  # type: ignore[no-untyped-def]
    """A little of everything, and nothing at all."""
    assert triggers(world.model, Noisy(world.model), TRIAL) == ()
    assert triggers(world.model, world.model, TRIAL) == ()


def test_what_is_no_number_is_a_trigger(world) -> None:  # type: ignore[no-untyped-def]
    """A network that draws NaN has moved without bound."""

    class Broken(Noisy):
        def forward(self, x: Tensor, t: Tensor, code: Tensor) -> Tensor:
            return self.model(x, t, code) * float("nan")

    assert len(triggers(world.model, Broken(world.model), TRIAL)) == 6


def test_many_combinations_are_drawn_from_each_once() -> None:
    """40 of 3·7·5 = 105, all within their sizes; all of them where there are few."""
    many = Trial((3, 7, 5), 8, Sampler(), 40, 1.0, 0)
    drawn = combinations(many)
    assert len(set(drawn)) == 40
    assert all(1 <= n <= size for code in drawn for n, size in zip(code, many.known, strict=True))
    assert combinations(TRIAL) == [(p, c) for p in (1, 2, 3) for c in (1, 2)]
