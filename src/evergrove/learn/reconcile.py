"""What many devices have learnt apart, reconciled with what the base knew: two teachers, no picture of any user's.

A mean of many updates, long enough to bring what only some of them hold, harms what all of them had kept: each device's
own replay held *its* update in place, not their sum. So the cloud trains B on for a while, from two sources that it
has: what the release's larger network (or the release itself) says of old conditions, with the public rehearsal pack,
and what the candidate itself says of the values that the fleet brought (Deep Model Consolidation, Zhang et al. 2020,
with a generative model's own trajectories as the unlabelled data). It reads the noised sum and public files alone, so
it costs no ε: post-processing.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from evergrove.core.errors import UsageError
from evergrove.core.rng import seed_of
from evergrove.learn.adapter import Adapter, Basis, attach, fuse, read_adapter
from evergrove.learn.generator import to_condition
from evergrove.learn.objective import Batch, data_loss, flow_rows, join, teacher_rows
from evergrove.learn.strategies import Samples, even
from evergrove.learn.teacher import Points, trajectories

N_TRAJECTORIES = 64
"""Of each of the two teachers, four points each."""
BATCH = 16
N_NEW, N_TAUGHT = 6, 6
"""Rows of a step that the candidate and the old teacher are asked for; the rest are pictures of the rehearsal pack."""
LABEL_DROP = 0.05
WARM_UP = 10


@dataclass(frozen=True)
class Old:
    """What is known already: the ``teacher`` of it, and ``pictures`` (the rehearsal pack) drawn evenly over the values
    of factor ``balance``."""

    teacher: nn.Module
    pictures: Samples
    balance: int = 0


def reconcile(
    model: nn.Module,
    basis: Basis,
    candidate: Adapter,
    old: Old,
    new: NDArray[np.int16],
    steps: int,
    lr: float,
    seed: int,
) -> Adapter | None:
    """The candidate after ``steps`` of Adam on B and the rows; the same to the bit for the same ``seed``.

    None where training diverged, as it does from a candidate that is mostly noise. ``new`` are codes (N, F) of what the
    fleet brought, none: only the old is taught. Raises ``UsageError`` without a rehearsal pack.
    """
    if not len(old.pictures):
        raise UsageError(
            "nothing to rehearse: the release's rehearsal pack is empty; set consolidate.reconcile_steps = 0"
        )
    rng = torch.Generator().manual_seed(seed_of(seed, "reconcile"))
    shape = old.pictures.shape
    # 1. What both teachers say, once.
    picked = even(old.pictures.codes, old.balance, N_TRAJECTORIES, rng)
    taught = trajectories(old.teacher, to_condition(old.pictures.codes)[picked], shape, rng)
    brought = None
    if len(new):
        rows = torch.randint(len(new), (N_TRAJECTORIES,), generator=rng)
        brought = trajectories(fuse(model, basis, candidate), to_condition(new)[rows], shape, rng)
    # 2. A short training on both and on the pack.
    attached = attach(model, basis, candidate)
    parameters = list(attached.parameters.values())
    optimiser = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / WARM_UP) * (1.0 - step / steps)
        optimiser.zero_grad(set_to_none=True)
        loss = data_loss(attached.module, _rows(old, taught, brought, rng))
        if not bool(torch.isfinite(loss)):
            return None
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
    sound = all(bool(torch.isfinite(p.half()).all()) for p in parameters)
    return read_adapter(attached) if sound else None


def _rows(old: Old, taught: Points, brought: Points | None, rng: torch.Generator) -> Batch:
    """One step's rows; the two teachers and the pack each weigh 1."""
    n_shown = BATCH - N_TAUGHT - (N_NEW if brought is not None else 0)
    shown = old.pictures.pick(even(old.pictures.codes, old.balance, n_shown, rng))
    parts = [flow_rows(*shown, 1.0, rng, LABEL_DROP), teacher_rows(taught, _some(taught, N_TAUGHT, rng), 1.0)]
    if brought is not None:
        parts.append(teacher_rows(brought, _some(brought, N_NEW, rng), 1.0))
    return join(parts)


def _some(points: Points, n: int, rng: torch.Generator) -> torch.Tensor:
    return torch.randint(len(points), (n,), generator=rng)
