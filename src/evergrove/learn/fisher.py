"""The true Gauss-Newton Fisher over B, as a few directions per layer and the diagonal of what they leave over.

A denoiser, an adapter and samples of old conditions come in; out comes a ``Fisher`` whose quadratic form is, to second
order, how much the old conditions' loss rises when B moves. *True*: the gradients are of the model's own output along
random ξ, not of the loss on labels (which is the empirical Fisher; Kunstner et al. 2019). Extends the rank-1 Fisher of
arXiv 2509.23593 to k directions per layer plus the remaining diagonal.

Scale: per sample, ℓ = w(t)·mean over P values of (x̂ − x)², whose Gauss-Newton matrix is (2·w(t)/P)·JᵀJ. With
g = ∇_b ⟨√(2·w(t)/P)·x̂, ξ⟩ and ξ ~ N(0, I) that is E[g·gᵀ], sample by sample; then the mean over samples.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from evergrove.core.errors import UsageError
from evergrove.learn.adapter import Attached
from evergrove.learn.flow import estimate, mix, weight
from evergrove.learn.layers import AdaptedLinear


@dataclass(frozen=True)
class Fisher:
    """Per layer: ``u[layer]`` (k, out·r) orthonormal, ``c[layer]`` (k,) their eigenvalues, and ``rest[layer]``
    (out, r), the diagonal of F − Uᵀ·c·U, not negative. Layers are independent blocks; ``n`` samples went in."""

    u: Mapping[str, Tensor]
    c: Mapping[str, Tensor]
    rest: Mapping[str, Tensor]
    n: int


def estimate_fisher(
    attached: Attached, x: Tensor, code: Tensor, rng: torch.Generator, n: int = 192, k: int = 4, batch: int = 16
) -> Fisher:
    """The Fisher of ``attached``'s B at its present values, from ``n`` draws over samples x (N, C, H, W), code (N, F).

    Samples are taken in turn (each n/N times), t is stratified over its logit-normal distribution. Costs n forward and
    backward passes and n·|B| numbers of memory.
    """
    if not len(x):
        raise UsageError("a Fisher needs samples of old conditions, and there are none; give a rehearsal pack")
    grads: dict[str, list[Tensor]] = {}
    order = torch.randperm(n, generator=rng) % len(x)
    t = stratified_t(n, rng).to(x.dtype)
    # Drawn for all samples at once, so that the size of a batch changes nothing but the speed.
    noise = torch.randn((n, *x.shape[1:]), generator=rng, dtype=x.dtype)
    xi = torch.randn((n, *x.shape[1:]), generator=rng, dtype=x.dtype)
    for rows in torch.split(torch.arange(n), batch):
        x_t = mix(x[order[rows]], noise[rows], t[rows])
        per_sample = sample_gradients(attached.module, x_t, t[rows], code[order[rows]], xi[rows])
        for name, g in per_sample.items():
            grads.setdefault(name, []).append(g)
    return sketch({name: torch.cat(g) for name, g in grads.items()}, k)


def sample_gradients(module: nn.Module, x_t: Tensor, t: Tensor, code: Tensor, xi: Tensor) -> dict[str, Tensor]:
    """g = ∇_B ⟨√(2·w(t)/P)·x̂, ξ⟩ for every sample apart: per layer (N, out, r). One forward and backward pass."""
    root = (2.0 * weight(t) / x_t[0].numel()).sqrt().reshape(-1, 1, 1, 1)
    return gradients_apart(module, x_t, t, code, lambda x_hat: (root * x_hat * xi).sum())


def gradients_apart(
    module: nn.Module, x_t: Tensor, t: Tensor, code: Tensor, total: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """∇_B of every sample's own part of ``total`` (a scalar, summed over samples): per layer (N, out, r)."""
    layers = {name: m for name, m in module.named_modules() if isinstance(m, AdaptedLinear)}
    with _own_b(layers, len(x_t)) as copies:
        grads = torch.autograd.grad(total(estimate(module, x_t, t, code)), copies)
    return {name: g.to(x_t.device) for name, g in zip(layers, grads, strict=True)}


def sketch(grads: Mapping[str, Tensor], k: int) -> Fisher:
    """From per-sample gradients (N, out, r) per layer to directions and remaining diagonal of F = GᵀG/N.

    Each gradient is squared by itself, never the mean of a batch, and the count is the samples' own.
    """
    u, c, rest = {}, {}, {}
    n = 0
    for name, g in grads.items():
        n = len(g)
        flat = g.reshape(n, -1) / n**0.5
        values, vectors = torch.linalg.eigh((flat @ flat.T).double())
        first = max(n - k, 0)
        top = values[first:].flip(0).clamp_min(0.0)
        keep = top > 1e-12 * values[-1].clamp_min(1e-300)
        u[name] = (vectors[:, first:].flip(1)[:, keep].T.to(flat) @ flat) / top[keep].sqrt().to(flat)[:, None]
        c[name] = top[keep].to(flat)
        diagonal = flat.square().sum(0) - (c[name][:, None] * u[name].square()).sum(0)
        rest[name] = diagonal.clamp_min(0.0).reshape(g.shape[1:])
    return Fisher(u, c, rest, n)


def penalty(fisher: Fisher, b: Mapping[str, Tensor], star: Mapping[str, Tensor]) -> Tensor:
    """½·[Σ_i f_i·(b_i − b*_i)² + Σ_k c_k·(u_kᵀ(b − b*))²], the expected rise of the old loss (a scalar)."""
    terms = []
    for name, rest in sorted(fisher.rest.items()):  # in one order always, so that sums are the same to the bit
        change = b[name] - star[name]
        terms.append((rest * change.square()).sum())
        terms.append((fisher.c[name] * (fisher.u[name] @ change.flatten()).square()).sum())
    return 0.5 * torch.stack(terms).sum()


def stratified_t(n: int, rng: torch.Generator) -> Tensor:
    """``n`` times (n,), one from each n-th part of the logit-normal distribution that training draws t from."""
    quantile = (torch.arange(n) + torch.rand(n, generator=rng)) / n
    return torch.sigmoid(torch.special.ndtri(quantile.double().clamp(1e-6, 1 - 1e-6)).float())


def fisher_tensors(fisher: Fisher) -> dict[str, Tensor]:
    """The Fisher as named tensors for a safetensors file (fp32); ``fisher_of_tensors`` is the way back."""
    parts = {"u": fisher.u, "c": fisher.c, "rest": fisher.rest}
    named = {f"{kind}:{name}": t.contiguous() for kind, part in parts.items() for name, t in part.items()}
    return {**named, "n": torch.tensor(fisher.n)}


def fisher_of_tensors(tensors: Mapping[str, Tensor]) -> Fisher:
    """The way back from ``fisher_tensors``."""
    parts: dict[str, dict[str, Tensor]] = {"u": {}, "c": {}, "rest": {}}
    for key, tensor in tensors.items():
        kind, _, name = key.partition(":")
        if name and kind in parts:
            parts[kind][name] = tensor
    return Fisher(parts["u"], parts["c"], parts["rest"], int(tensors["n"]))


@contextmanager
def _own_b(layers: Mapping[str, AdaptedLinear], n: int) -> Iterator[list[Tensor]]:
    """Gives every sample of a batch a B of its own for one pass."""
    copies = [layer.b.detach().expand(n, -1, -1).clone().requires_grad_() for layer in layers.values()]
    for layer, b in zip(layers.values(), copies, strict=True):
        layer.b_per_group = b
    try:
        yield copies
    finally:
        for layer in layers.values():
            layer.b_per_group = None
