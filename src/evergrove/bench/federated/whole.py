"""The rival by bytes: federated averaging of the whole model (McMahan et al. 2017), every weight trained and sent.

The same fleet, rounds, local steps and pictures; the mean of what the devices learnt in float16, no noise; the server's
rate and momentum as for the fleet (FedAvgM).
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from evergrove.bench.federated.crowd import Crowd, Pictures, on
from evergrove.bench.federated.fleet import Fleet
from evergrove.bench.federated.study import Spec
from evergrove.bench.federated.world import World, layout_of, narrowed
from evergrove.core.rng import seed_of
from evergrove.learn.adapter import fuse
from evergrove.learn.dit import DiT
from evergrove.learn.objective import Batch, flow_rows

Weights = dict[str, Tensor]


def federate_whole(
    world: World,
    fleet: Fleet,
    spec: Spec,
    seed: int,
    told: Callable[[int, nn.Module], None] = lambda done, module: None,
) -> tuple[nn.Module, int, float]:
    """The final network, the bytes that a device sends in one round, and the seconds that it took."""
    started = time.monotonic()
    basis = narrowed(world, spec.part)
    crowd = Crowd(world, basis, layout_of(world, basis, fleet.vocabulary))
    start = crowd.start(torch.Generator().manual_seed(seed_of(seed, "federated", "rows")))
    module = fuse(world.model, basis, crowd.adapter(start))
    weights = {name: p.detach().clone() for name, p in module.named_parameters()}
    moving = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in weights.items()}
    rng = torch.Generator(world.device).manual_seed(seed_of(seed, "federated", "local"))
    pictures = Pictures(*on(world.device, fleet.images, fleet.codes))
    for r in range(spec.rounds):
        cool = min(1.0, (spec.rounds - r) / (spec.rounds / 2)) if spec.cool else 1.0
        who = torch.arange(r % spec.separation, len(fleet), spec.separation, device=world.device)
        learnt = _learn(module, weights, pictures.of(who), crowd, spec, rng, cool)
        for name, value in weights.items():
            sent = (learnt[name] - value).half().double()
            moving[name] = spec.momentum * moving[name] + sent.mean(0)
            weights[name] = value + (spec.rate * moving[name]).float()
        _put(module, weights)
        told(r + 1, module)
    return module, 2 * sum(value.numel() for value in weights.values()), time.monotonic() - started


def _learn(
    module: nn.Module, start: Weights, pictures: Pictures, crowd: Crowd, spec: Spec, rng: torch.Generator, cool: float
) -> Weights:
    """Every device's weights (D, …) after its local steps."""
    n, local = len(pictures.images), spec.local
    stacked = {name: value.expand(n, *value.shape).clone().requires_grad_() for name, value in start.items()}
    optimiser = torch.optim.AdamW(list(stacked.values()), lr=local.lr * cool, weight_decay=0.0)

    def loss(weights: Weights, x_t: Tensor, t: Tensor, code: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        x_hat: Tensor = functional_call(module, weights, (x_t, t, code))
        error = (x_hat - target).square().mean(dim=(1, 2, 3))
        return (weight * error).sum()

    for _ in range(local.steps):
        x, code = crowd.rows_of(pictures, local, rng)
        rows = flow_rows(x, code, 2.0 * n, rng, local.label_drop)
        with sdpa_kernel(SDPBackend.MATH):  # the others have no batching rule: device by device, ten times as long
            gradients = vmap(grad(loss))({k: v.detach() for k, v in stacked.items()}, *_by_device(rows, n))
        norm = torch.stack([g.flatten(1).square().sum(1) for g in gradients.values()]).sum(0).sqrt()
        share = (local.clip / (norm + 1e-6)).clamp(max=1.0)
        for name, value in stacked.items():
            value.grad = gradients[name] * share.reshape(-1, *[1] * (value.ndim - 1))
        optimiser.step()
    return {name: value.detach() for name, value in stacked.items()}


def _by_device(rows: Batch, n: int) -> list[Tensor]:
    return [f.reshape(n, -1, *f.shape[1:]) for f in (rows.x_t, rows.t, rows.code, rows.target, rows.weight)]


@torch.no_grad()
def _put(module: nn.Module, weights: Weights) -> None:
    assert isinstance(module, DiT)
    for name, parameter in module.named_parameters():
        parameter.copy_(weights[name])
