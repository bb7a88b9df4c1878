"""What the teacher knows of old conditions, as labelled points: (x_t, t, condition) → x̂_teacher.

A trajectory of the teacher's own N-step ODE gives N such points for the price of drawing one picture, and later costs
the student no teacher pass at all (generative distillation, Masip et al. 2023). The teacher is the incumbent, or a
larger network; always on *old* conditions, never only on new inputs. Points are kept in fp16.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from evergrove.learn.flow import Denoiser


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
    parts = []
    for codes in torch.split(code, batch):
        n = len(codes)
        x = torch.randn((n, *image_shape), generator=rng)
        t = torch.zeros(n)
        shift = torch.rand(n, generator=rng)
        for i in range(steps):
            x_hat = teacher(x, t, codes)
            parts.append(Points(x.half(), t, codes, x_hat.half()))
            t_next = (i + shift.clamp_min(0.05)) / steps
            velocity = (x_hat - x) / (1.0 - t).reshape(-1, 1, 1, 1)
            x, t = x + (t_next - t).reshape(-1, 1, 1, 1) * velocity, t_next
    fields = zip(*((p.x_t, p.t, p.code, p.x_hat) for p in parts), strict=True)
    return Points(*(torch.cat(field) for field in fields))
