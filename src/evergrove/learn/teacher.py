"""What the teacher knows of old conditions, as labelled points: (x_t, t, condition) → x̂_teacher.

A trajectory of the teacher's own N-step ODE gives N such points for the price of drawing one picture, and later costs
the student no teacher pass at all (generative distillation, Masip et al. 2023). The teacher is the incumbent, or a
larger network; always on *old* conditions, never only on new inputs. Points are kept in fp16.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from evergrove.learn.flow import Denoiser, estimate


@dataclass(frozen=True)
class Points:
    """``x_t`` and ``x_hat`` fp16 (M, C, H, W), ``t`` fp32 (M,), ``code`` int64 (M, F)."""

    x_t: Tensor
    t: Tensor
    code: Tensor
    x_hat: Tensor

    def __len__(self) -> int:
        return len(self.t)


@torch.no_grad()
def trajectories(
    teacher: Denoiser,
    code: Tensor,
    image_shape: tuple[int, int, int],
    rng: torch.Generator,
    steps: int = 4,
    batch: int = 32,
) -> Points:
    """One trajectory of ``steps`` points for every code (N, F), from noise of ``image_shape`` (C, H, W).

    Every trajectory's time grid is shifted by a random part of a step, so that all of [0, 1) is covered and not only
    the sampler's own times; the first step then goes from t = 0 to that shift.
    """
    parts: list[Points] = []
    for codes in torch.split(code, batch):
        noise = torch.randn((len(codes), *image_shape), generator=rng)
        shift = torch.rand(len(codes), generator=rng)
        parts += walk(noise, shift, codes, steps, lambda i, x, t, code: estimate(teacher, x, t, code))
    return join_points(parts)


Estimate = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""x̂ (n, C, H, W) of step i at x_t (n, C, H, W), t (n,), code (n, F)."""


def walk(x: Tensor, shift: Tensor, code: Tensor, steps: int, x_hat_of: Estimate) -> list[Points]:
    """The ``steps`` points of every trajectory from noise x (n, C, H, W), step by step.

    ``x_hat_of`` may also read its x̂ from a file, for x_t follows from the noise and the x̂'s alone. ``shift`` (n,)
    in [0, 1) is how far each grid is shifted, in steps.
    """
    points = []
    t = torch.zeros(len(x))
    for i in range(steps):
        x_hat = x_hat_of(i, x, t, code)
        points.append(Points(x.half(), t, code, x_hat.half()))
        t_next = (i + shift.clamp_min(0.05)) / steps
        velocity = (x_hat - x) / (1.0 - t).reshape(-1, 1, 1, 1)
        x, t = x + (t_next - t).reshape(-1, 1, 1, 1) * velocity, t_next
    return points


def join_points(parts: Sequence[Points]) -> Points:
    """All points of some parts, in order."""
    fields = zip(*((p.x_t, p.t, p.code, p.x_hat) for p in parts), strict=True)
    return Points(*(torch.cat(field) for field in fields))


class Beside(nn.Module):
    """A teacher, and beside it the release, which is asked about the values that the teacher has no row for.

    Both are networks of (x_t, t, code); ``tables`` are the release's, which know more.
    """

    def __init__(self, teacher: nn.Module, release: nn.Module) -> None:
        super().__init__()
        self.teacher, self.release = teacher, release
        self.tables = release.tables
        sizes = [len(cast(Tensor, table.weight)) for table in cast(nn.ModuleList, teacher.tables)]
        self.register_buffer("sizes", torch.tensor(sizes))

    def forward(self, x: Tensor, t: Tensor, code: Tensor) -> Tensor:
        """x̂ (N, C, H, W)."""
        taught = (code < cast(Tensor, self.sizes)).all(dim=1)
        x_hat = torch.empty_like(x)
        for rows, network in ((taught, self.teacher), (~taught, self.release)):
            if rows.any():
                x_hat[rows] = network(x[rows], t[rows], code[rows])
        return x_hat
