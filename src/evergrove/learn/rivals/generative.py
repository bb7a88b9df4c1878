"""What stands in for old observations in the published methods: the earlier model's own pictures.

- generative replay: pictures that the earlier model drew, learnt again as if they were observations (DGR, Shin et al.
  2017, arXiv 1705.08690);
- generative distillation: such pictures, drawn in two steps, noised at a fresh time, with the earlier model's x̂ there
  as the target (Masip et al. 2023, arXiv 2311.14028; with two deterministic steps as arXiv 2509.23593 has them).

Both keep ``Points`` (fp16), drawn once before the first step of a task and thrown away after its last.
"""

from functools import partial

import torch
from torch import Tensor, nn

from evergrove.core.errors import UsageError
from evergrove.learn.adapter import fuse
from evergrove.learn.flow import draw_t, estimate, mix, sample, weight
from evergrove.learn.generator import to_condition
from evergrove.learn.objective import Anchor, Batch, flow_rows, join
from evergrove.learn.strategies import Memory, Strategy, Task, even
from evergrove.learn.teacher import Points

N_PICTURES = 128
"""Pictures that are drawn of the old conditions before a task: as many as our teacher draws trajectories."""


def remember_drawn(task: Task, strategy: Strategy, n: int = N_PICTURES, steps: int = 4) -> Memory:
    """``n`` pictures of the old conditions by the incumbent, as points at t = 1 whose x̂ are the pictures."""
    drawn, codes, _ = _drawn(task, strategy, n, steps)
    picture = drawn.half()
    return Memory(points=Points(picture.clone(), torch.ones(n), codes, picture), anchor=_anchor(task))


def draw_replayed(task: Task, memory: Memory, strategy: Strategy, step: int) -> Batch:
    """New rows, and rows of the flow loss on the pictures that were drawn, in the strategy's teacher share."""
    new, rng, n_old = _new_rows(task, memory, strategy, step)
    if memory.points is None or not n_old:
        return new
    picked = torch.randint(len(memory.points), (n_old,), generator=rng)
    pictures, codes = memory.points.x_hat[picked].float(), memory.points.code[picked]
    recipe = task.recipe
    old = flow_rows(pictures, codes, strategy.weights.teacher, rng, recipe.label_drop, recipe.t_shift)
    return join((new, old))


def remember_distilled(task: Task, strategy: Strategy, n: int = N_PICTURES, steps: int = 2, looks: int = 2) -> Memory:
    """``n`` pictures in ``steps`` steps, each noised at ``looks`` fresh times, with the incumbent's x̂ there."""
    drawn, codes, incumbent = _drawn(task, strategy, n, steps)
    rng = task.rng("distilled")
    clean, code = drawn.repeat(looks, 1, 1, 1), codes.repeat(looks, 1)
    t = draw_t(len(clean), rng)
    x_t = mix(clean, torch.randn(clean.shape, generator=rng), t)
    with torch.no_grad():
        parts = zip(torch.split(x_t, 32), torch.split(t, 32), torch.split(code, 32), strict=True)
        x_hat = torch.cat([estimate(incumbent, *part) for part in parts])
    return Memory(points=Points(x_t.half(), t, code, x_hat.half()), anchor=_anchor(task))


def draw_distilled(task: Task, memory: Memory, strategy: Strategy, step: int) -> Batch:
    """New rows, and rows that ask for the incumbent's x̂, weighted by w(t) as the flow loss is."""
    new, rng, n_old = _new_rows(task, memory, strategy, step)
    points = memory.points
    if points is None or not n_old:
        return new
    picked = torch.randint(len(points), (n_old,), generator=rng)
    t = points.t[picked]
    scale = strategy.weights.teacher * weight(t) / n_old
    return join((new, Batch(points.x_t[picked].float(), t, points.code[picked], points.x_hat[picked].float(), scale)))


def _new_rows(task: Task, memory: Memory, strategy: Strategy, step: int) -> tuple[Batch, torch.Generator, int]:
    rng, recipe = task.rng("step", step), task.recipe
    n_old = int(strategy.shares.teacher * recipe.batch) if memory.points is not None else 0
    new = task.new.pick(even(task.new.codes, task.balance, recipe.batch - n_old, rng))
    return flow_rows(*new, 1.0, rng, recipe.label_drop, recipe.t_shift), rng, n_old


def _drawn(task: Task, strategy: Strategy, n: int, steps: int) -> tuple[Tensor, Tensor, nn.Module]:
    """Pictures (n, C, H, W), their codes, and the incumbent that drew them."""
    known = task.old_codes()
    if not len(known):
        raise UsageError(f"strategy '{strategy.name}' needs to know the old conditions; give the task's ``known``")
    incumbent = fuse(task.model, task.basis, task.incumbent())
    codes = to_condition(known)[even(known, task.balance, n, task.rng("asked"))]
    noise = torch.randn((n, *task.new.shape), generator=task.rng("drawn"))
    parts = zip(torch.split(codes, 32), torch.split(noise, 32), strict=True)
    draw = partial(sample, incumbent, steps=steps)
    return torch.cat([draw(code, z) for code, z in parts]), codes, incumbent


def _anchor(task: Task) -> Anchor | None:
    """Where a Fisher came with the task: around the incumbent's B."""
    return None if task.fisher is None else Anchor(dict(task.incumbent().b), task.fisher)
