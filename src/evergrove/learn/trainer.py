"""The training loop: resumable to the bit, asks before every micro-batch, and writes a candidate only when all is well.

A ``Task`` and a folder come in; out comes a candidate file in that folder. Every step's chance has its own named
stream, so a step number *is* the state of randomness, and training that was killed goes on exactly as if it had not
been: at most one checkpoint interval is done again. Checkpoints are written whole or not at all (temp, fsync, rename).
"""

import contextlib
import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from evergrove.core.errors import CorruptState, EvergroveError, UsageError
from evergrove.learn.adapter_file import adapter_bytes
from evergrove.learn.fisher import fisher_of_tensors, fisher_tensors
from evergrove.learn.objective import Anchor, data_loss
from evergrove.learn.pauses import asking
from evergrove.learn.place import place_of
from evergrove.learn.strategies import Learner, Memory, Task
from evergrove.learn.teacher import Points

CHECKPOINT = "checkpoint.safetensors"
MEMORY = "memory.safetensors"
CANDIDATE = "candidate.safetensors"


@dataclass(frozen=True)
class Progress:
    """After a step: how many of ``steps`` are done, the step's loss, and the seconds that the rest will take."""

    step: int
    steps: int
    loss: float
    eta_s: float


@dataclass(frozen=True)
class Hooks:
    """What the trainer asks and tells.

    ``micro_batch`` is asked before every micro-batch how many of up to ``rows`` it may have; it may wait, and 0 pauses
    training there. ``within`` is called between the blocks of a network, ``aside`` before the work of a step that has
    nothing to do with rows; both may wait. How a step is cut changes its sums by rounding alone. ``progress`` is told
    after every step. ``write`` stores bytes at a path, whole or not at all.
    """

    micro_batch: Callable[[int], int] = lambda rows: rows
    within: Callable[[], None] | None = None
    aside: Callable[[], None] = lambda: None
    progress: Callable[[Progress], None] = lambda progress: None
    write: Callable[[Path, bytes], None] | None = None


@dataclass(frozen=True)
class Outcome:
    """``candidate`` is None while paused. ``losses`` has one number a step, those before a resumption included;
    ``seconds`` are this run's own."""

    steps: int
    losses: tuple[float, ...]
    seconds: float
    candidate: Path | None
    sha256: str | None
    n_bytes: int


def train(task: Task, folder: Path, hooks: Hooks | None = None) -> Outcome:
    """Runs, or resumes, one learning job in its folder.

    Raises ``EvergroveError`` where the loss stops being a finite number (no candidate is left behind), ``UsageError``
    for a task without observations or a folder of another task, ``CorruptState`` for a damaged checkpoint.
    """
    hooks = hooks or Hooks()
    if not len(task.new):
        raise UsageError("nothing to learn: the task has no new observations")
    with asking(hooks.within) if hooks.within else contextlib.nullcontext():
        return _train(task, folder, hooks)


def _train(task: Task, folder: Path, hooks: Hooks) -> Outcome:
    write = hooks.write or write_durably
    started_s = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    name = fingerprint(task)
    # 1. What is trained, and what is remembered of the old (made once, kept for a resumption).
    learner = task.strategy.init(task)
    memory = _memory(task, folder, name, write)
    if memory.anchor is not None:
        memory = replace(memory, anchor=memory.anchor.to(place_of(learner.module)))
    optimiser = torch.optim.AdamW(list(learner.parameters.values()), lr=learning_rate(task, 0), weight_decay=0.0)
    # 2. Go on where the last checkpoint was.
    losses = _resume(folder / CHECKPOINT, name, learner, optimiser)
    first = len(losses)
    # 3. Step by step.
    for step in range(first, task.recipe.steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(task, step)
        loss = _step(task, memory, learner, optimiser, step, hooks)
        if loss is None:
            _checkpoint(folder / CHECKPOINT, name, learner, optimiser, losses, write)
            return Outcome(step, tuple(losses), time.monotonic() - started_s, None, None, 0)
        losses.append(loss)
        done = step + 1
        if done % task.recipe.checkpoint_every == 0 or done == task.recipe.steps:
            _checkpoint(folder / CHECKPOINT, name, learner, optimiser, losses, write)
        pace_s = (time.monotonic() - started_s) / (done - first)
        hooks.progress(Progress(done, task.recipe.steps, loss, pace_s * (task.recipe.steps - done)))
    # 4. The candidate, whole or not at all.
    data = learner.candidate()
    write(folder / CANDIDATE, data)
    sha256 = hashlib.sha256(data).hexdigest()
    seconds = time.monotonic() - started_s
    return Outcome(task.recipe.steps, tuple(losses), seconds, folder / CANDIDATE, sha256, len(data))


def _step(
    task: Task, memory: Memory, learner: Learner, optimiser: torch.optim.Optimizer, step: int, hooks: Hooks
) -> float | None:
    """One optimiser step, in micro-batches; its loss, or None where the hook said to pause (nothing is changed)."""
    optimiser.zero_grad(set_to_none=True)
    batch = task.strategy.draw(task, memory, task.strategy, step)
    loss, done = 0.0, 0
    while done < len(batch):
        rows = hooks.micro_batch(min(task.recipe.micro_batch, len(batch) - done))
        if not rows:
            return None
        part_loss = data_loss(learner.module, batch.rows(done, done + rows).to(place_of(learner.module)))
        part_loss.backward()  # type: ignore[no-untyped-call]
        loss += float(part_loss.detach())
        done += rows
    hooks.aside()
    if memory.anchor is not None:
        held = task.strategy.hold(learner.parameters, memory.anchor, task.strategy.weights.ewc)
        held.backward()  # type: ignore[no-untyped-call]
        loss += float(held.detach())
        hooks.aside()
    norm = torch.nn.utils.clip_grad_norm_(list(learner.parameters.values()), task.recipe.clip)
    if not (torch.isfinite(norm) and math.isfinite(loss)):
        raise diverged(task, step, loss)
    optimiser.step()
    return loss


def diverged(task: Task, step: int, loss: float) -> EvergroveError:
    """What is said of a task whose loss or gradient stopped being finite at a step."""
    return EvergroveError(
        f"training diverged at step {step + 1} (loss {loss}); no candidate was made."
        f" Lower the learning rate (now {learning_rate(task, step):.2g}) or check the observations, and learn again"
    )


def learning_rate(task: Task, step: int) -> float:
    """Linear warm-up, then flat, then linear decay over the second half."""
    recipe = task.recipe
    peak = task.strategy.lr if recipe.lr is None else recipe.lr
    warm = min(1.0, (step + 1) / max(recipe.warm_up, 1))
    half = recipe.steps / 2
    decay = min(1.0, (recipe.steps - step) / max(half, 1.0))
    return peak * warm * decay


def fingerprint(task: Task) -> str:
    """A name for all that decides a training's result: a checkpoint of another name is not gone on with."""
    digest = hashlib.blake2b(digest_size=16)
    s = task.strategy
    given = (task.fisher is not None, task.teacher is not None, task.points is not None)
    words = (s.name, s.lr, s.weights, s.shares, task.recipe, task.seed, task.vocabulary, task.balance, given)
    digest.update(repr((words, task.basis.base_hash, task.basis.basis_hash, task.basis.scale)).encode())
    digest.update(task.made_of.encode())
    for samples in () if task.made_of else (task.new, task.replay):
        digest.update(repr((samples.images.shape, samples.codes.shape)).encode())
        digest.update(samples.images.tobytes())
        digest.update(samples.codes.tobytes())
    if task.known is not None:
        digest.update(repr(task.known.shape).encode() + task.known.tobytes())
    if task.start is not None:
        digest.update(adapter_bytes(task.start))
    if task.points is not None:
        digest.update(task.points.x_hat.numpy().tobytes() + task.points.t.numpy().tobytes())
    if task.fisher is not None:
        for key, tensor in sorted(fisher_tensors(task.fisher).items()):
            digest.update(key.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def _memory(task: Task, folder: Path, name: str, write: Callable[[Path, bytes], None]) -> Memory:
    """What the strategy remembers, from the folder where it was made before."""
    path = folder / MEMORY
    if path.exists():
        tensors, metadata = _read(path)
        if metadata.get("task") == name:
            return _memory_of(tensors)
    memory = task.strategy.remember(task, task.strategy)
    tensors = {}
    if memory.points is not None:
        p = memory.points
        tensors |= {"points.x_t": p.x_t, "points.t": p.t, "points.code": p.code, "points.x_hat": p.x_hat}
    if memory.anchor is not None:
        tensors |= {f"fisher.{key}": t for key, t in fisher_tensors(memory.anchor.fisher).items()}
        tensors |= {f"star.{key}": t for key, t in memory.anchor.star.items()}
    write(path, safetensors.torch.save(tensors, {"task": name}))
    return memory


def _memory_of(tensors: dict[str, Tensor]) -> Memory:
    def part(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}

    p, fisher = part("points."), part("fisher.")
    points = Points(p["x_t"], p["t"], p["code"], p["x_hat"]) if p else None
    return Memory(points, Anchor(part("star."), fisher_of_tensors(fisher)) if fisher else None)


def _checkpoint(
    path: Path,
    name: str,
    learner: Learner,
    optimiser: torch.optim.Optimizer,
    losses: list[float],
    write: Callable[[Path, bytes], None],
) -> None:
    tensors = {}
    for key, parameter in learner.parameters.items():
        tensors[f"value.{key}"] = parameter.detach()
        for kind, state in optimiser.state.get(parameter, {}).items():
            tensors[f"{kind}.{key}"] = state
    metadata = {"task": name, "losses": json.dumps(losses)}
    write(path, safetensors.torch.save({key: t.cpu().contiguous() for key, t in tensors.items()}, metadata))


@torch.no_grad()
def _resume(path: Path, name: str, learner: Learner, optimiser: torch.optim.Optimizer) -> list[float]:
    """Puts the checkpoint's values into learner and optimiser; the losses so far, of which there is one a step."""
    if not path.exists():
        return []
    tensors, metadata = _read(path)
    if metadata.get("task") != name:
        raise UsageError(f"{path.parent} holds the checkpoint of another task; use another folder, or delete it")
    for key, parameter in learner.parameters.items():
        parameter.copy_(tensors[f"value.{key}"])
        kinds = [k for k in ("step", "exp_avg", "exp_avg_sq") if f"{k}.{key}" in tensors]
        if kinds:
            # The count of steps stays where AdamW looks for it, on the CPU.
            optimiser.state[parameter] = {
                kind: t if kind == "step" else t.to(parameter.device)
                for kind, t in ((kind, tensors[f"{kind}.{key}"]) for kind in kinds)
            }
    return [float(loss) for loss in json.loads(metadata["losses"])]


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            # Copied: a tensor that maps the file would change under a later write.
            return {
                key: file.get_tensor(key).clone()
                for key in file.keys()  # noqa: SIM118
            }, file.metadata() or {}
    except (OSError, safetensors.SafetensorError) as fault:
        raise CorruptState(f"{path}: damaged ({fault}); delete it to begin this job anew") from fault


def write_durably(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all: temp file beside it, fsync, rename, fsync of the folder."""
    temp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temp.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temp.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
