"""What Evergrove asks of a generator, and how the built-in one meets it.

Any ``torch.nn.Module`` with a ``loss`` and a ``sample`` can be trained, adapted and served; ``FlowGenerator`` gives
these two to a network that estimates the clean picture (``DiT``, or one with an adapter attached).
"""

from typing import Protocol, cast, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evergrove.core.release import Sampler
from evergrove.learn import flow


@runtime_checkable
class Generator(Protocol):
    """A model of pictures given conditions. Pictures float32 (N, C, H, W) in [-1, 1], conditions int64 (N, F)."""

    def loss(self, x: Tensor, condition: Tensor, rng: torch.Generator) -> Tensor:
        """A scalar whose gradient trains the model on these pictures."""

    def sample(self, condition: Tensor, rng: torch.Generator, steps: int | None = None) -> Tensor:
        """One picture for every condition; equal generators' states give equal pictures."""


class FlowGenerator(nn.Module):
    """A network x̂ = network(x_t, t, condition) as a ``Generator``, by flow matching (``learn/flow.py``)."""

    def __init__(
        self, network: nn.Module, shape: tuple[int, int, int], sampler: Sampler | None = None, label_drop: float = 0.1
    ) -> None:
        super().__init__()
        self.network = network
        self.shape = shape
        self.sampler = sampler or Sampler()
        self.label_drop = label_drop

    def loss(self, x: Tensor, condition: Tensor, rng: torch.Generator) -> Tensor:
        """The flow-matching loss at freshly drawn times and noise."""
        return flow.flow_loss(self.network, x, condition, rng, self.label_drop)

    def sample(self, condition: Tensor, rng: torch.Generator, steps: int | None = None) -> Tensor:
        """Pictures by the sampler's settings, or in another number of ``steps`` (1-32)."""
        noise = torch.randn((len(condition), *self.shape), generator=rng)
        method = cast(flow.Method, self.sampler.method)
        steps = self.sampler.steps if steps is None else steps
        return flow.sample(self.network, condition, noise, steps, method, self.sampler.guidance)


def to_float(images: NDArray[np.uint8]) -> Tensor:
    """uint8 (N, H, W, C) → float32 (N, C, H, W) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def to_uint8(x: Tensor) -> NDArray[np.uint8]:
    """float (N, C, H, W) in [-1, 1], clamped → uint8 (N, H, W, C)."""
    scaled = x.detach().clamp(-1.0, 1.0).add(1.0).mul(127.5).round().to(torch.uint8)
    return cast(NDArray[np.uint8], scaled.permute(0, 2, 3, 1).contiguous().numpy())


def to_condition(codes: NDArray[np.int16]) -> Tensor:
    """int16 (N, F) → int64 (N, F)."""
    return torch.from_numpy(codes.astype(np.int64))
