"""Many devices' adapters trained in one pass: the same steps as one by one, in a part of the time.

The devices of a generation share the base and A, so x·Wᵀ and x·Aᵀ are one product for the rows of all of them; B
(D, out, r) and the new rows (D, k, width) are apart, and so is every number that the optimiser keeps. Nothing passes
from one device to another: gradients are clipped by device, and one whose training diverges spoils its own result
alone. For a fog that trains for devices of its owner (``runtime/together``), and for fleets in studies.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from evergrove.core.errors import EvergroveError, UsageError
from evergrove.learn.adapter import Adapter, Attached, read_adapter
from evergrove.learn.layers import AdaptedLinear, GrownTable
from evergrove.learn.objective import Anchor, ewc_loss, join, row_losses
from evergrove.learn.strategies import Learner, Task, init_adapter
from evergrove.learn.trainer import diverged, learning_rate


@dataclass(frozen=True)
class Learnt:
    """What a task has become, and its loss at every step as the trainer counts it."""

    adapter: Adapter
    losses: tuple[float, ...]


def train_together(
    tasks: Sequence[Task], progress: Callable[[int, int], None] = lambda done, steps: None
) -> list[Learnt | EvergroveError]:
    """Runs learning jobs that differ in their observations, starts and seeds only; a candidate or a failure for each.

    A candidate is what ``trainer.train`` makes of the task alone, but for rounding (1e-5). The memory that a pass takes
    grows with the rows of a step, all of which are taken at once: pass on as many tasks as fit. Raises ``UsageError``
    for tasks that are not ``alike``, or one of which is not ``separable``.
    """
    # 1. Each device's start, and what it remembers of the old.
    first = _alike(tasks)
    learners = [task.strategy.init(task) for task in tasks]
    memories = [task.strategy.remember(task, task.strategy) for task in tasks]
    parameters = _stack(learners)
    module = _module(first, learners[0], parameters)
    optimiser = torch.optim.AdamW(list(parameters.values()), lr=0.0, weight_decay=0.0)
    anchors = [memory.anchor for memory in memories]
    losses: list[list[float]] = [[] for _ in tasks]
    # 2. Step by step, all at once.
    for step in range(first.recipe.steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(first, step)
        optimiser.zero_grad(set_to_none=True)
        drawn = [first.strategy.draw(*known, first.strategy, step) for known in zip(tasks, memories, strict=True)]
        if len({len(batch) for batch in drawn}) > 1:
            raise UsageError("tasks that are trained together draw equally many rows: give each some of the old")
        each = row_losses(module, join(drawn)).reshape(len(tasks), -1).sum(1)
        each.sum().backward()  # type: ignore[no-untyped-call]
        held = [_hold(parameters, d, anchor, first.strategy.weights.ewc) for d, anchor in enumerate(anchors)]
        norms = clip_each(parameters, first.recipe.clip)
        for d, own in enumerate(losses):
            own.append(float(each[d].detach()) + held[d] if math.isfinite(norms[d]) else math.nan)
        optimiser.step()
        progress(step + 1, first.recipe.steps)
    # 3. Apart again.
    return [_learnt(task, parameters, d, losses[d]) for d, task in enumerate(tasks)]


def separable(task: Task) -> bool:
    """Whether a task may be one of many: it trains B and new rows alone, upon the generation's own A."""
    ours = task.strategy.init is init_adapter and task.strategy.hold is ewc_loss
    return ours and (task.start is None or (task.start.a is None and not task.start.branches))


def alike(one: Task, other: Task) -> bool:
    """Whether two tasks share base, A, vocabulary, rank, strategy and recipe."""
    same = one.model is other.model and one.basis is other.basis and one.vocabulary == other.vocabulary
    return same and one.strategy == other.strategy and one.recipe == other.recipe and _rank(one) == _rank(other)


def _rank(task: Task) -> int:
    return task.basis.rank if task.start is None else task.start.rank


def _alike(tasks: Sequence[Task]) -> Task:
    if not tasks:
        raise UsageError("nothing to learn: there is no task")
    first = tasks[0]
    for task in tasks:
        if not alike(first, task):
            raise UsageError("tasks that are trained together share base, A, vocabulary, rank, strategy and recipe")
        if not separable(task):
            raise UsageError("only tasks that train B and new rows are trained together: nothing else is apart")
        if not len(task.new):
            raise UsageError("nothing to learn: a task has no new observations")
    return first


def _stack(learners: Sequence[Learner]) -> dict[str, nn.Parameter]:
    return {
        name: nn.Parameter(torch.stack([learner.parameters[name].detach() for learner in learners]))
        for name in learners[0].parameters
    }


def _module(task: Task, learner: Learner, parameters: dict[str, nn.Parameter]) -> nn.Module:
    """One network in which each device's rows meet the device's own B and rows."""
    module = learner.module.requires_grad_(False)
    for name, layer in module.named_modules():
        if isinstance(layer, AdaptedLinear):
            layer.b_per_group = parameters[f"{name}.B"]
        elif isinstance(layer, GrownTable):
            layer.rows_per_group = parameters[f"rows.{name.rpartition('.')[2]}"]
    return module


def _hold(parameters: dict[str, nn.Parameter], d: int, anchor: Anchor | None, weight: float) -> float:
    """Adds the gradient of one device's EWC term; the term."""
    if anchor is None:
        return 0.0
    own = {f"{name}.B": parameters[f"{name}.B"].detach()[d].requires_grad_() for name in anchor.fisher.rest}
    held = ewc_loss(own, anchor, weight)
    for name, gradient in zip(own, torch.autograd.grad(held, list(own.values())), strict=True):
        whole = parameters[name].grad
        assert whole is not None
        whole[d] += gradient
    return float(held.detach())


def clip_each(parameters: dict[str, nn.Parameter], most: float) -> Tensor:
    """``clip_grad_norm_`` for every device apart; ``parameters`` are stacked, (devices, …). The norms: (devices,)."""
    gradients = [p.grad for p in parameters.values() if p.grad is not None]
    norm = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0).sqrt()
    share = (most / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(share.reshape(-1, *[1] * (gradient.ndim - 1)))
    return norm


def _learnt(
    task: Task, parameters: dict[str, nn.Parameter], d: int, losses: Sequence[float]
) -> Learnt | EvergroveError:
    for step, loss in enumerate(losses):
        if not math.isfinite(loss):
            return diverged(task, step, loss)
    own = {name: nn.Parameter(p.detach()[d].clone()) for name, p in parameters.items()}
    return Learnt(read_adapter(Attached(task.model, own, task.incumbent())), tuple(losses))
