"""A small world for the tests of learning: 8 px pictures of three known patterns and a fourth that devices learn."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from evergrove.core.conditions import Factor, Vocabulary
from evergrove.core.rng import stream
from evergrove.learn.adapter import Basis
from evergrove.learn.dit import DiT, DiTConfig, adapted_layers
from evergrove.learn.flow import flow_loss
from evergrove.learn.strategies import Samples

KNOWN = Vocabulary((Factor("pattern", ("rows", "columns", "square")), Factor("colour", ("red", "blue"))))
WIDER = KNOWN.extend({"pattern": "corners"})
CONFIG = DiTConfig(image_px=8, channels=3, patch_px=4, width=32, depth=2, heads=2)


@dataclass(frozen=True)
class World:
    """A trained tiny base, a random orthonormal A, and samples of the known and of the new pattern.

    ``wider`` knows the fourth pattern, "corners" (code 4 of factor 0), besides what ``known`` does.
    """

    known: Vocabulary
    wider: Vocabulary
    model: DiT
    basis: Basis
    old: Samples
    golden: Samples
    new: Samples
    own: Samples


def pictures(patterns: list[int], n_each: int, seed: str) -> Samples:
    """``n_each`` noisy pictures of every pattern (1-4) in both colours."""
    rng = stream(0, "world", seed)
    masks = np.zeros((5, 8, 8), np.float64)
    masks[1, ::2] = 1
    masks[2, :, ::2] = 1
    masks[3, 2:6, 2:6] = 1
    masks[4, :2, :2] = masks[4, 6:, 6:] = masks[4, :2, 6:] = masks[4, 6:, :2] = 1
    codes = np.array([(p, 1 + i % 2) for i in range(n_each) for p in patterns], np.int16)
    colour = np.array([(0, 0, 0), (255, 40, 40), (40, 40, 255)], np.float64)
    clean = masks[codes[:, 0], :, :, None] * colour[codes[:, 1]][:, None, None, :]
    images = (0.9 * clean + rng.uniform(0, 25, clean.shape)).astype(np.uint8)
    return Samples(images, codes)


def random_basis(model: DiT, rank: int = 6, seed: int = 0) -> Basis:
    """Orthonormal rows at random: a stand-in for the learned A."""
    rng = torch.Generator().manual_seed(seed)
    a = {
        name: torch.linalg.qr(torch.randn(layer.in_features, rank, generator=rng))[0].T.contiguous()
        for name, layer in adapted_layers(model).items()
    }
    return Basis("b" * 64, "a" * 64, 1.0, a)


@pytest.fixture(scope="session")
def world() -> World:
    """The world, its base trained for a second or two."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = DiT(CONFIG, KNOWN)
    old = pictures([1, 2, 3], 40, "old")
    rng = torch.Generator().manual_seed(1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(400):
        x, code = old.pick(torch.randint(len(old), (32,), generator=rng))
        loss = flow_loss(model, x, code, rng)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.requires_grad_(False).eval()
    new, own = pictures([4], 24, "new"), pictures([4], 6, "own")
    return World(KNOWN, WIDER, model, random_basis(model), old, pictures([1, 2, 3], 12, "golden"), new, own)


@pytest.fixture
def probe() -> tuple[Tensor, Tensor, Tensor]:
    """Six inputs of a network: x_t, t and known conditions."""
    rng = torch.Generator().manual_seed(2)
    x_t = torch.randn(6, 3, 8, 8, generator=rng)
    return x_t, torch.linspace(0.05, 0.9, 6), torch.tensor([(1, 1), (2, 1), (3, 2), (0, 0), (1, 0), (0, 2)])
