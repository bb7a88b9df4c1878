"""Many devices' adapters trained in one pass: the same steps as one by one, in a part of the time.

The devices of a generation share the base and A, so x·Wᵀ and x·Aᵀ are one product for the rows of all of them; B
(D, out, r) and the new rows (D, k, width) are apart, and so is every number that the optimiser keeps. Nothing passes
from one device to another: gradients are clipped by device, and one whose training diverges spoils its own result
alone. For a fog that trains for devices of its owner, and for fleets in studies.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from evergrove.core.errors import EvergroveError, UsageError
from evergrove.learn.adapter import Adapter, Attached, read_adapter
from evergrove.learn.layers import AdaptedLinear, GrownTable
from evergrove.learn.objective import Anchor, data_loss, ewc_loss, join
from evergrove.learn.strategies import Learner, Task
from evergrove.learn.trainer import learning_rate


def train_together(
    tasks: Sequence[Task], progress: Callable[[int, int], None] = lambda done, steps: None
) -> list[Adapter | EvergroveError]:
    """Runs learning jobs that differ in their observations, starts and seeds only; a candidate or a failure for each.

    A candidate is what ``trainer.train`` makes of the task alone, but for rounding (1e-5). The memory that a pass takes
    grows with the number of tasks: pass on as many as fit. Raises ``UsageError`` for tasks that differ otherwise, or
    whose strategy trains more than B and new rows.
    """
    # 1. Each device's start, and what it remembers of the old.
    first = _alike(tasks)
    learners = [task.strategy.init(task) for task in tasks]
    memories = [task.strategy.remember(task, task.strategy) for task in tasks]
    parameters = _stack(learners)
    module = _module(first, learners[0], parameters)
    optimiser = torch.optim.AdamW(list(parameters.values()), lr=0.0, weight_decay=0.0)
    anchors = [memory.anchor for memory in memories]
    # 2. Step by step, all at once.
    for step in range(first.recipe.steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(first, step)
        optimiser.zero_grad(set_to_none=True)
        drawn = [first.strategy.draw(*known, first.strategy, step) for known in zip(tasks, memories, strict=True)]
        if len({len(batch) for batch in drawn}) > 1:
            raise UsageError("tasks that are trained together draw equally many rows: give each some of the old")
        data_loss(module, join(drawn)).backward()  # type: ignore[no-untyped-call]
        for d, anchor in enumerate(anchors):
            _hold(parameters, d, anchor, first.strategy.weights.ewc)
        clip_each(parameters, first.recipe.clip)
        optimiser.step()
        progress(step + 1, first.recipe.steps)
    # 3. Apart again.
    return [_candidate(task, parameters, d) for d, task in enumerate(tasks)]


def _alike(tasks: Sequence[Task]) -> Task:
    if not tasks:
        raise UsageError("nothing to learn: there is no task")
    first = tasks[0]
    for task in tasks:
        same = task.model is first.model and task.basis is first.basis and task.vocabulary == first.vocabulary
        if not (same and task.strategy == first.strategy and task.recipe == first.recipe):
            raise UsageError("tasks that are trained together share base, A, vocabulary, strategy and recipe")
        if not len(task.new):
            raise UsageError("nothing to learn: a task has no new observations")
    return first


def _stack(learners: Sequence[Learner]) -> dict[str, nn.Parameter]:
    if not all(name.endswith(".B") or name.startswith("rows.") for name in learners[0].parameters):
        raise UsageError("only strategies that train B and new rows are trained together: nothing else is apart")
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


def _hold(parameters: dict[str, nn.Parameter], d: int, anchor: Anchor | None, weight: float) -> None:
    """Adds the gradient of one device's EWC term."""
    if anchor is None:
        return
    own = {f"{name}.B": parameters[f"{name}.B"].detach()[d].requires_grad_() for name in anchor.fisher.rest}
    held = torch.autograd.grad(ewc_loss(own, anchor, weight), list(own.values()))
    for name, gradient in zip(own, held, strict=True):
        whole = parameters[name].grad
        assert whole is not None
        whole[d] += gradient


def clip_each(parameters: dict[str, nn.Parameter], most: float) -> None:
    """``clip_grad_norm_`` for every device apart; ``parameters`` are stacked, (devices, …)."""
    gradients = [p.grad for p in parameters.values() if p.grad is not None]
    norm = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0).sqrt()
    share = (most / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(share.reshape(-1, *[1] * (gradient.ndim - 1)))


def _candidate(task: Task, parameters: dict[str, nn.Parameter], d: int) -> Adapter | EvergroveError:
    own = {name: nn.Parameter(p.detach()[d].clone()) for name, p in parameters.items()}
    if not all(bool(torch.isfinite(value).all()) for value in own.values()):
        return EvergroveError("training diverged; lower the learning rate or check the observations, then learn again")
    return read_adapter(Attached(task.model, own, task.incumbent()))
