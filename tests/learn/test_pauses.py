"""Pauses between blocks: as many as there are blocks, forward and back, and not one bit of difference."""

import pytest
import torch

from evergrove.core.conditions import Factor, Vocabulary
from evergrove.learn.dit import DiT, DiTConfig
from evergrove.learn.pauses import asking

DEPTH = 3


def network() -> DiT:
    torch.manual_seed(0)
    model = DiT(
        DiTConfig(image_px=16, patch_px=4, width=32, depth=DEPTH, heads=2),
        Vocabulary((Factor("emotion", ("happy", "sad")),)),
    )
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model


def passes(model: DiT) -> list[torch.Tensor]:
    """The gradients of one pass, forward and back."""
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    model.zero_grad()
    model(x, torch.tensor([0.2, 0.7]), torch.tensor([[1], [2]])).square().sum().backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def test_every_block_asks_forward_and_back() -> None:
    """Twice the depth for a pass with gradients, once for one without, and none once the context has ended."""
    model, asked = network(), [0]

    def ask() -> None:
        asked[0] += 1

    with asking(ask):
        passes(model)
        assert asked[0] == 2 * DEPTH
        with torch.no_grad():
            model(torch.zeros(1, 3, 16, 16), torch.tensor([0.5]), torch.tensor([[1]]))
        assert asked[0] == 3 * DEPTH
    passes(model)
    assert asked[0] == 3 * DEPTH


def test_gradients_are_the_same_to_the_bit() -> None:
    """A pause computes nothing."""
    plain = passes(network())
    with asking(lambda: None):
        paused = passes(network())
    assert all(torch.equal(one, other) for one, other in zip(plain, paused, strict=True))


def test_an_error_in_a_pause_comes_out_and_leaves_nothing_behind() -> None:
    """A trainer that is told to stop stops between two blocks, and the next pass is free of hooks."""

    def stop() -> None:
        raise InterruptedError("paused for good")

    model = network()
    with pytest.raises(InterruptedError), asking(stop):
        passes(model)
    assert passes(model)
