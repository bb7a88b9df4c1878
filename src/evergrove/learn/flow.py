"""Flow matching with x-prediction: the loss that trains a generator, and the samplers that draw from it.

A path leads straight from noise (t = 0) to a picture (t = 1): x_t = (1−t)·noise + t·x. The network estimates the
picture, x̂; the velocity follows, v = (x̂ − x_t)/(1 − t) (Lipman et al. 2023; x-prediction after Li & He 2025).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor

from evergrove.core.errors import UsageError
from evergrove.learn.place import place_of

Denoiser = Callable[[Tensor, Tensor, Tensor], Tensor]
"""x̂ = model(x_t (N, C, H, W), t (N,), condition (N, F)): a ``DiT``, an adapted one, or any other."""
Method = Literal["euler", "heun"]

WEIGHT_MAX = 10.0
STEPS_MAX = 32


def weight(t: Tensor) -> Tensor:
    """w(t) = min(1/(1−t), 10), which multiplies the squared error of x̂ averaged over pixels."""
    return torch.clamp(1.0 / (1.0 - t).clamp_min(1e-6), max=WEIGHT_MAX)


def draw_t(n: int, rng: torch.Generator) -> Tensor:
    """``n`` times from the logit-normal distribution, t = σ(z) with z ~ N(0, 1) (Esser et al. 2024)."""
    return torch.sigmoid(torch.randn(n, generator=rng, device=rng.device))


def mix(x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t = (1−t)·noise + t·x for pictures (N, C, H, W) and times (N,)."""
    t = t.reshape(-1, 1, 1, 1)
    return (1.0 - t) * noise + t * x


def loss_per_sample(model: Denoiser, x: Tensor, condition: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """w(t)·mean over pixels of (x̂ − x)², for every sample (N,)."""
    x_hat = model(mix(x, noise, t), t, condition)
    return weight(t) * (x_hat - x).square().mean(dim=(1, 2, 3))


def drop_labels(condition: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Set factors to null in a share of the samples: in half of these all factors, in half each one by a coin.

    The first kind teaches the unconditional model that guidance needs, the second what a partly named condition means.
    """
    n, n_factors = condition.shape
    fate = torch.rand(n, 1, generator=rng, device=rng.device)
    coin = torch.rand(n, n_factors, generator=rng, device=rng.device) < 0.5
    dropped = (fate < share / 2) | ((fate < share) & coin)
    return condition.masked_fill(dropped, 0)


def flow_loss(model: Denoiser, x: Tensor, condition: Tensor, rng: torch.Generator, label_drop: float = 0.1) -> Tensor:
    """The training loss (a scalar) at freshly drawn times and noise."""
    t = draw_t(len(x), rng)
    noise = torch.randn(x.shape, generator=rng)
    if label_drop:
        condition = drop_labels(condition, label_drop, rng)
    return loss_per_sample(model, x, condition, t, noise).mean()


@torch.no_grad()
def sample(
    model: Denoiser,
    condition: Tensor,
    noise: Tensor,
    steps: int = 4,
    method: Method = "euler",
    guidance: float = 1.0,
) -> Tensor:
    """Pictures (N, C, H, W) in [-1, 1] for conditions (N, F), from noise (N, C, H, W), in 1 to 32 even steps.

    ``heun`` is the trapezoidal rule (Algorithm 2 of Karras et al. 2022, on this path) and ends with an Euler step,
    for t = 1 is singular. ``guidance`` g > 1 extrapolates from the null condition: x̂ = x̂_0 + g·(x̂_c − x̂_0).
    Computed where the model is; the pictures are where the noise was.
    Raises ``UsageError`` for a step count or method that there is not.
    """
    if not 1 <= steps <= STEPS_MAX:
        raise UsageError(f"steps={steps} is not in 1 to {STEPS_MAX}")
    if method not in ("euler", "heun"):
        raise UsageError(f"unknown sampler '{method}'; known: euler, heun")
    at = place_of(model, noise.device)
    x, condition = noise.to(at), condition.to(at)
    times = [i / steps for i in range(steps)]
    velocity = velocities(model, times, condition, guidance)
    for i in range(steps):
        v = velocity[i](x)
        ahead = x + v / steps
        if method == "heun" and i < steps - 1:
            ahead = x + 0.5 * (v + velocity[i + 1](ahead)) / steps
        x = ahead
    return x.clamp(-1.0, 1.0).to(noise.device)


def estimate(model: Denoiser, x_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
    """x̂ (N, C, H, W), computed where the model is and brought back to where x_t is."""
    at = place_of(model, x_t.device)
    return model(x_t.to(at), t.to(at), condition.to(at)).to(x_t.device)


def velocities(
    model: Denoiser, times: Sequence[float], condition: Tensor, guidance: float
) -> list[Callable[[Tensor], Tensor]]:
    """For each time v(x_t) = (x̂ − x_t)/(1 − t), for the whole batch.

    A network that can ``plan`` (``DiT``) does once what its steps have in common.
    """
    wanted = estimates(model, times, condition)
    if guidance == 1.0:
        return [partial(_velocity, x_hat, t) for x_hat, t in zip(wanted, times, strict=True)]
    null = estimates(model, times, torch.zeros_like(condition))
    guided = [partial(_guided, *pair, guidance) for pair in zip(wanted, null, strict=True)]
    return [partial(_velocity, x_hat, t) for x_hat, t in zip(guided, times, strict=True)]


def estimates(model: Denoiser, times: Sequence[float], condition: Tensor) -> list[Callable[[Tensor], Tensor]]:
    """For each time x̂(x_t) for these conditions."""
    plan = getattr(model, "plan", None)
    if plan is not None:
        return cast(list[Callable[[Tensor], Tensor]], plan(times, condition))
    full = partial(torch.full, (len(condition),), device=condition.device)
    return [partial(_estimate, model, full(t), condition) for t in times]


def _estimate(model: Denoiser, t: Tensor, condition: Tensor, x_t: Tensor) -> Tensor:
    return model(x_t, t, condition)


def _guided(wanted: Callable[[Tensor], Tensor], null: Callable[[Tensor], Tensor], g: float, x_t: Tensor) -> Tensor:
    unconditional = null(x_t)
    return unconditional + g * (wanted(x_t) - unconditional)


def _velocity(x_hat: Callable[[Tensor], Tensor], t: float, x_t: Tensor) -> Tensor:
    return (x_hat(x_t) - x_t) / (1.0 - t)
