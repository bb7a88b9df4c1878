"""The objective of one learning step (DESIGN §5), over everything that is trained, b:

    L(b) = FM(new) + λr·FM(replay) + λd·E_old‖x̂_b − x̂_teacher‖² + λe/2·[Σ f_i (b_i−b*_i)² + Σ_k c_k (u_kᵀ(b−b*))²]

Flow matching, replay and the teacher all ask the same of the network: at (x_t, t, condition) come near a target, with
a weight. So a batch is rows of (x_t, t, code, target, weight), whatever they are for, and the first three terms are one
weighted squared error; rows can be split into micro-batches at will. The last term is ``fisher.penalty``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from evergrove.learn.fisher import Fisher, penalty
from evergrove.learn.flow import Denoiser, draw_t, drop_labels, mix, weight
from evergrove.learn.teacher import Points


@dataclass(frozen=True)
class Weights:
    """λr, λd and λe of the objective. FM(new) has weight 1; a mean over pixels and samples stands in every term."""

    replay: float = 1.0
    teacher: float = 0.0
    ewc: float = 0.0


@dataclass(frozen=True)
class Batch:
    """Rows of work: ``x_t`` and ``target`` fp32 (N, C, H, W), ``t`` and ``weight`` fp32 (N,), ``code`` int64 (N, F)."""

    x_t: Tensor
    t: Tensor
    code: Tensor
    target: Tensor
    weight: Tensor

    def __len__(self) -> int:
        return len(self.t)

    def rows(self, first: int, end: int) -> "Batch":
        """The rows from ``first`` up to ``end``; the losses of all parts of a batch add up to the whole's."""
        return Batch(*(field[first:end] for field in (self.x_t, self.t, self.code, self.target, self.weight)))

    def to(self, device: torch.device) -> "Batch":
        """The same rows there."""
        return Batch(*(field.to(device) for field in (self.x_t, self.t, self.code, self.target, self.weight)))

    def split(self, n: int) -> list["Batch"]:
        """Micro-batches of at most ``n`` rows."""
        return [self.rows(first, min(first + n, len(self))) for first in range(0, len(self), n)]


@dataclass(frozen=True)
class Anchor:
    """What the EWC term holds on to: b* by parameter name, and the Fisher around it."""

    star: Mapping[str, Tensor]
    fisher: Fisher

    def to(self, device: torch.device) -> "Anchor":
        """The same there."""
        f = self.fisher
        u, c, rest, star = ({name: t.to(device) for name, t in part.items()} for part in (f.u, f.c, f.rest, self.star))
        return Anchor(star, replace(f, u=u, c=c, rest=rest))


def flow_rows(
    x: Tensor, code: Tensor, scale: float, rng: torch.Generator, label_drop: float, t_shift: float = 0.0
) -> Batch:
    """Rows of the flow matching loss of pictures x (N, C, H, W), whose weights sum to ``scale``·E[w(t)].

    ``t_shift`` is the mean of t's logit: below 0, more of the times are early, where the condition decides.
    """
    t = torch.sigmoid(torch.logit(draw_t(len(x), rng)) + t_shift) if t_shift else draw_t(len(x), rng)
    noise = torch.randn(x.shape, generator=rng, device=rng.device)
    code = drop_labels(code, label_drop, rng)
    return Batch(mix(x, noise, t), t, code, x, scale * weight(t) / max(len(x), 1))


def teacher_rows(points: Points, picked: Tensor, scale: float) -> Batch:
    """Rows that ask for the teacher's x̂ at the ``picked`` points, each as important as every other."""
    n = max(len(picked), 1)
    x_t, x_hat = points.x_t[picked].float(), points.x_hat[picked].float()
    return Batch(x_t, points.t[picked], points.code[picked], x_hat, torch.full((len(picked),), scale / n))


def join(batches: Sequence[Batch]) -> Batch:
    """All rows of some batches, in order."""
    fields = zip(*((b.x_t, b.t, b.code, b.target, b.weight) for b in batches), strict=True)
    return Batch(*(torch.cat(field) for field in fields))


def data_loss(model: Denoiser, batch: Batch) -> Tensor:
    """The first three terms of L: Σ weight·mean over pixels of (x̂ − target)² (a scalar)."""
    return row_losses(model, batch).sum()


def row_losses(model: Denoiser, batch: Batch) -> Tensor:
    """The part of each row in ``data_loss``: (N,)."""
    x_hat = model(batch.x_t, batch.t, batch.code)
    return batch.weight * (x_hat - batch.target).square().mean(dim=(1, 2, 3))


def ewc_loss(parameters: Mapping[str, Tensor], anchor: Anchor, weight_ewc: float) -> Tensor:
    """The last term of L (a scalar). ``parameters`` are the trained ones by name, of which ``{layer}.B`` are held."""
    b = {name: parameters[f"{name}.B"] for name in anchor.fisher.rest}
    return weight_ewc * penalty(anchor.fisher, b, anchor.star)


def total_loss(
    model: Denoiser, parameters: Mapping[str, Tensor], batch: Batch, anchor: Anchor | None, weights: Weights
) -> Tensor:
    """L(b), whole: what the trainer's micro-batches add up to."""
    loss = data_loss(model, batch)
    if anchor is not None and weights.ewc:
        loss = loss + ewc_loss(parameters, anchor, weights.ewc)
    return loss
