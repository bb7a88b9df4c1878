"""Learns A, the frozen half of every adapter of a generation (DESIGN §4), on public pseudo-tasks.

A frozen random A learns poorly. So an ordinary LoRA is trained over many small tasks like those that devices will have:
'here are some pictures of a condition that you do not know'. B and the new rows start anew in each task, A goes on; at
the end its rows are made orthonormal. The tasks are known pictures, changed (``learn/pseudo_tasks.py``).
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import msgspec
import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from evergrove.core.errors import InvalidArtefact, UsageError
from evergrove.core.rng import seed_of, stream
from evergrove.learn import flow
from evergrove.learn.adapter import Basis, attach, blank_adapter
from evergrove.learn.dit import DiT, adapted_layers
from evergrove.learn.generator import to_condition, to_float
from evergrove.learn.pseudo_tasks import PseudoTask, draw_task
from evergrove.learn.tensor_file import tensor_bytes

FORMAT = "evergrove-basis-1"
N_BYTES_MAX = 64 << 20
ORTHONORMAL_WITHIN = 1e-2


class BasisPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How A is learnt. ``lr`` falls linearly to ``lr_last`` over the tasks; within a task, over its second half."""

    rank: int = 12
    scale: float = 1.0
    tasks: int = 40
    steps: int = 60
    batch: int = 16
    lr: float = 5e-3
    lr_last: float = 2e-3
    warmup: int = 10
    label_drop: float = 0.05
    n_new: int = 60
    seed: int = 0

    def check(self) -> None:
        """Raise ``UsageError`` where a number is out of its range."""
        if min(self.rank, self.tasks, self.steps, self.n_new) < 1 or self.batch < 2:
            raise UsageError("rank, tasks, steps and n_new are positive, and a batch has at least two pictures")


Report = Callable[[int, float], None]
"""Called after each task with how many are done and the loss on the new pictures over its last ten steps."""

Draw = Callable[[int, np.random.Generator], PseudoTask]
"""A task of that many new pictures."""


def learn_basis(
    model: DiT,
    images: NDArray[np.uint8],
    codes: NDArray[np.int16],
    plan: BasisPlan,
    checkpoint: Path | None = None,
    report: Report | None = None,
    draw: Draw | None = None,
) -> dict[str, Tensor]:
    """A[layer] (rank, in) with orthonormal rows, the most used first, learnt on changed pictures of the base.

    ``draw`` makes the tasks from (number of new pictures, chance); by default they are the base's pictures, changed.
    ``checkpoint`` is read if it exists (``InvalidArtefact`` if it belongs to other settings) and written after every
    task.
    """
    plan.check()
    identity = _identity(model, images, codes, plan)
    a, first = random_rows(model, plan.rank, plan.seed), 0
    if checkpoint is not None and checkpoint.exists():
        a, first = _load_checkpoint(checkpoint, identity)
    for task in range(first, plan.tasks):
        rng = stream(plan.seed, "basis", "task", task)
        drawn = draw(plan.n_new, rng) if draw else draw_task(images, codes, model.vocabulary, plan.n_new, rng)
        a, loss = _one_task(model, a, drawn, plan, task)
        if checkpoint is not None:
            _save_checkpoint(checkpoint, a, identity, task + 1)
        if report is not None:
            report(task + 1, loss)
    return {name: orthonormal(rows) for name, rows in a.items()}


def random_rows(model: DiT, rank: int, seed: int) -> dict[str, Tensor]:
    """A with random orthonormal rows for every adapted layer: where learning starts, and the rival to beat."""
    rng = torch.Generator().manual_seed(seed_of(seed, "basis", "random"))
    return {
        name: orthonormal(torch.randn(rank, layer.in_features, generator=rng))
        for name, layer in adapted_layers(model).items()
    }


def orthonormal(rows: Tensor) -> Tensor:
    """An orthonormal basis of the span of ``rows`` (r, in), by falling singular value."""
    if rows.shape[0] > rows.shape[1]:
        raise UsageError(f"{rows.shape[0]} orthonormal rows do not fit into {rows.shape[1]} dimensions; lower the rank")
    _, _, directions = torch.linalg.svd(rows, full_matrices=False)
    return cast(Tensor, directions).contiguous()


def _one_task(
    model: DiT, a: Mapping[str, Tensor], task: PseudoTask, plan: BasisPlan, index: int
) -> tuple[dict[str, Tensor], float]:
    """Ordinary LoRA from B = 0 and fresh rows on one task; A as it is afterwards, and the last loss on what is new."""
    basis = Basis("", "", plan.scale, a)
    attached = attach(model, basis, replace(blank_adapter(model, basis, task.vocabulary), a=dict(a)), train_a=True)
    parameters = list(attached.parameters.values())
    optimiser = torch.optim.AdamW(parameters, weight_decay=0.0)
    rng = torch.Generator().manual_seed(seed_of(plan.seed, "basis", "noise", index))
    peak = plan.lr + (plan.lr_last - plan.lr) * index / max(1, plan.tasks - 1)
    n_new = plan.batch // 2
    last: list[float] = []
    for step in range(plan.steps):
        lr = peak * min(1.0, (step + 1) / plan.warmup, 2 * (plan.steps - step) / plan.steps)
        for group in optimiser.param_groups:
            group["lr"] = lr
        images, codes = task.batch(n_new, plan.batch - n_new, stream(plan.seed, "basis", "batch", index, step))
        x = to_float(images)
        condition = flow.drop_labels(to_condition(codes), plan.label_drop, rng)
        t, noise = flow.draw_t(len(x), rng), torch.randn(x.shape, generator=rng)
        losses = flow.loss_per_sample(attached.module, x, condition, t, noise)
        optimiser.zero_grad(set_to_none=True)
        losses.mean().backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        if step >= plan.steps - 10:
            last.append(losses[:n_new].mean().item())
    return {name: attached.parameters[f"{name}.A"].detach().clone() for name in a}, float(np.mean(last))


def basis_bytes(a: Mapping[str, Tensor], base_hash: str) -> bytes:
    """The bytes of ``basis.safetensors``: ``{layer}.A`` fp32 (r, in), and the hash of the base that it is for."""
    tensors = {f"{name}.A": rows.float().contiguous() for name, rows in sorted(a.items())}
    return tensor_bytes(tensors, {"format": FORMAT, "base": base_hash})


def load_basis(path: Path, base_hash: str, scale: float) -> Basis:
    """The A of a generation. Raises ``InvalidArtefact`` where it is damaged or for another base."""
    try:
        data = path.read_bytes() if path.stat().st_size <= N_BYTES_MAX else b""
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        tensors = safetensors.torch.load(data)
    except (SafetensorError, OSError, ValueError) as error:
        raise InvalidArtefact(f"'{path}' is no readable A ({error})") from error
    if metadata.get("format") != FORMAT:
        raise InvalidArtefact(f"'{path}' is no A of format {FORMAT}")
    if metadata.get("base") != base_hash:
        raise InvalidArtefact(f"'{path}' was learnt for another base; `evergrove base adapt-basis` makes one for this")
    for name, rows in tensors.items():
        if rows.ndim != 2 or not name.endswith(".A") or not torch.isfinite(rows).all():
            raise InvalidArtefact(f"'{path}': '{name}' is no finite A (r, in)")
        if (rows @ rows.T - torch.eye(len(rows))).abs().max() > ORTHONORMAL_WITHIN:
            raise InvalidArtefact(f"'{path}': the rows of '{name}' are not orthonormal")
    # In one order always: the library's is drawn by chance, and gradients are summed up in this one when clipped, so
    # that a training would differ in its last bits from one process to the next.
    a = {name.removesuffix(".A"): rows for name, rows in sorted(tensors.items())}
    return Basis(base_hash, hashlib.sha256(data).hexdigest(), scale, a)


def _identity(model: DiT, images: NDArray[np.uint8], codes: NDArray[np.int16], plan: BasisPlan) -> str:
    digest = hashlib.sha256(msgspec.json.encode([plan, model.config, model.vocabulary, list(images.shape)]))
    digest.update(codes.tobytes())
    digest.update(images[:: max(1, len(images) // 256)].tobytes())
    for weight in model.parameters():
        digest.update(weight.detach().numpy().tobytes())
    return digest.hexdigest()


def _save_checkpoint(path: Path, a: Mapping[str, Tensor], identity: str, tasks: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_bytes(safetensors.torch.save(dict(a), {"identity": identity, "tasks": str(tasks)}))
    partial.replace(path)


def _load_checkpoint(path: Path, identity: str) -> tuple[dict[str, Tensor], int]:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            a = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InvalidArtefact(f"'{path}' is no checkpoint ({error}); delete it to start anew") from error
    if metadata.get("identity") != identity:
        raise InvalidArtefact(f"'{path}' belongs to another base or other settings; delete it to start anew")
    return a, int(metadata["tasks"])
