"""What holds parameters in place in the published methods: penalties around where they were, and never go.

- diagonal, online: Σ f_i·(b_i − b*_i)², f carried from task to task (EWC, Kirkpatrick et al. 2017, arXiv 1612.00796;
  the running sum is Schwarz et al. 2018's, arXiv 1805.06370). The Fisher is the true one (``learn/fisher.py``);
- rank 1: c·(uᵀ(b − b*))², u along the mean gradient over *all* layers (arXiv 2509.23593), one direction a task;
- ΔW: Σ F·(B·A − (B·A)*)² with A and B trained and F over the whole matrix (EWC-LoRA, arXiv 2602.17559);
- orthogonal: ‖A_earlier·Aᵀ‖² (O-LoRA, Wang et al. 2023, arXiv 2310.14152).

Deviations: the anchor b* is always the latest parameters (as in online EWC), and gradients at early and late times are
weighted as the training loss weighs them.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from evergrove.learn.adapter import Attached
from evergrove.learn.fisher import Fisher, gradients_apart, sample_gradients, stratified_t
from evergrove.learn.flow import estimate, mix, weight
from evergrove.learn.objective import Anchor

BATCH = 16


def diagonal(attached: Attached, x: Tensor, code: Tensor, rng: torch.Generator, n: int) -> Fisher:
    """The diagonal of the true Fisher over B from ``n`` draws over x (N, C, H, W); no directions."""
    total: dict[str, Tensor] = {}
    for x_t, t, codes, _, xi in _draws(x, code, rng, n):
        for name, g in sample_gradients(attached.module, x_t, t, codes, xi).items():
            part = g.square().sum(0) / n
            total[name] = total[name] + part if name in total else part
    return _only_diagonal(total, n)


def running(earlier: Fisher | None, latest: Fisher, keep: float = 1.0) -> Fisher:
    """Online EWC's sum: ``keep`` times what was carried, plus the latest task's diagonal."""
    if earlier is None:
        return latest
    rest = {name: keep * earlier.rest[name] + f for name, f in latest.rest.items()}
    return replace(latest, rest=rest, n=earlier.n + latest.n)


def mean_direction(attached: Attached, x: Tensor, code: Tensor, rng: torch.Generator, n: int) -> Fisher:
    """The rank-1 Fisher of a task: u along the mean loss gradient, c = E[(uᵀg)²], from ``n`` draws.

    ``u[layer]`` (1, out·r) are the parts of *one* unit vector over all layers, and ``c`` stands with each of them.
    """
    parts: dict[str, list[Tensor]] = {}
    for x_t, t, codes, clean, _ in _draws(x, code, rng, n):
        w = weight(t)

        def loss(x_hat: Tensor, clean: Tensor = clean, w: Tensor = w) -> Tensor:
            return (w * (x_hat - clean).square().mean(dim=(1, 2, 3))).sum()

        for name, g in gradients_apart(attached.module, x_t, t, codes, loss).items():
            parts.setdefault(name, []).append(g.flatten(1))
    grads = {name: torch.cat(g) for name, g in parts.items()}
    length = torch.stack([g.mean(0).square().sum() for g in grads.values()]).sum().sqrt().clamp_min(1e-30)
    u = {name: g.mean(0, keepdim=True) / length for name, g in grads.items()}
    along = torch.stack([grads[name] @ u[name][0] for name in grads]).sum(0)
    c = along.square().mean().reshape(1)
    return Fisher(u, {name: c.clone() for name in u}, {}, n)


def stacked(earlier: Fisher | None, latest: Fisher) -> Fisher:
    """The directions of both, one task after the other."""
    if earlier is None:
        return latest
    u = {name: torch.cat((earlier.u[name], rows)) for name, rows in latest.u.items()}
    c = {name: torch.cat((earlier.c[name], values)) for name, values in latest.c.items()}
    return Fisher(u, c, {}, earlier.n + latest.n)


def rank_one_loss(parameters: Mapping[str, Tensor], anchor: Anchor, weight_ewc: float) -> Tensor:
    """λe/2·Σ_tasks c·(Σ_layers u·(b − b*))² (a scalar)."""
    names = sorted(anchor.fisher.u)
    along = torch.stack(
        [anchor.fisher.u[name] @ (parameters[f"{name}.B"] - anchor.star[name]).flatten() for name in names]
    ).sum(0)
    return 0.5 * weight_ewc * (anchor.fisher.c[names[0]] * along.square()).sum()


def weight_diagonal(
    network: nn.Module, layers: Collection[str], x: Tensor, code: Tensor, rng: torch.Generator, n: int
) -> Fisher:
    """The diagonal of the true Fisher over the whole weight (out, in) of every one of ``layers`` (linear ones).

    A sample's gradient of a weight is Σ_tokens dyᵀ·x, from the layer's own input and the gradient of its output.
    """
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def look(name: str, module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        seen[name] = (given[0].detach(), out)

    hooks = [network.get_submodule(name).register_forward_hook(partial(look, name)) for name in layers]
    total: dict[str, Tensor] = {}
    for x_t, t, codes, _, xi in _draws(x, code, rng, n):
        root = (2.0 * weight(t.detach()) / x_t[0].numel()).sqrt().reshape(-1, 1, 1, 1)
        # No weight asks for a gradient here: the inputs do, so that autograd follows every layer.
        x_hat = estimate(network, x_t.requires_grad_(), t.requires_grad_(), codes)
        grads = torch.autograd.grad((root * x_hat * xi).sum(), [out for _, out in seen.values()])
        for (name, (given, _)), dy in zip(seen.items(), grads, strict=True):
            flat = given.reshape(len(x_t), -1, given.shape[-1])
            g = torch.einsum("nto,nti->noi", dy.reshape(len(x_t), -1, dy.shape[-1]), flat)
            part = (g.square().sum(0) / n).to(x.device)
            total[name] = total[name] + part if name in total else part
        seen.clear()
    for hook in hooks:
        hook.remove()
    return _only_diagonal(total, n)


def delta_loss(parameters: Mapping[str, Tensor], anchor: Anchor, weight_ewc: float) -> Tensor:
    """λe/2·Σ F·(B·A − (B·A)*)² with both trained; ``anchor.star[layer]`` is (out, in) (a scalar)."""
    terms = [
        (f * (parameters[f"{name}.B"] @ parameters[f"{name}.A"] - anchor.star[name]).square()).sum()
        for name, f in sorted(anchor.fisher.rest.items())
    ]
    return 0.5 * weight_ewc * torch.stack(terms).sum()


def orthogonal_loss(parameters: Mapping[str, Tensor], anchor: Anchor, weight_ewc: float) -> Tensor:
    """λ·Σ ‖A_earlier·Aᵀ‖²: how much the trained A lies in the space of earlier tasks' (a scalar)."""
    terms = [(rows @ parameters[f"{name}.A"].T).square().sum() for name, rows in sorted(anchor.fisher.u.items())]
    return weight_ewc * torch.stack(terms).sum()


def _draws(
    x: Tensor, code: Tensor, rng: torch.Generator, n: int
) -> list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]:
    """(x_t, t, code, x, ξ) in batches: ``n`` draws in all, samples in turn, t stratified."""
    order = torch.randperm(n, generator=rng) % len(x)
    t = stratified_t(n, rng)
    noise, xi = (torch.randn((n, *x.shape[1:]), generator=rng) for _ in range(2))
    return [
        (mix(x[order[rows]], noise[rows], t[rows]), t[rows], code[order[rows]], x[order[rows]], xi[rows])
        for rows in torch.split(torch.arange(n), BATCH)
    ]


def _only_diagonal(total: dict[str, Tensor], n: int) -> Fisher:
    u = {name: f.new_zeros(0, f.numel()) for name, f in total.items()}
    return Fisher(u, {name: f.new_zeros(0) for name, f in total.items()}, total, n)
