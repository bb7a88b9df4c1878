"""Trains a base (or its teacher) from pictures: seeded, resumable from checkpoints, safe to kill at any instant.

In come uint8 pictures, their codes and a plan; out comes the network with its averaged weights. With a teacher, a part
of every batch aims at the teacher's x̂ at the same (x_t, t) and not at the picture (distillation of the denoiser, as in
generative distillation, Masip et al. 2023). The same pictures, plan and thread count give the same weights, in one run
or in several.
"""

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from evergrove.core.conditions import Vocabulary
from evergrove.core.errors import InvalidArtefact, UsageError
from evergrove.core.rng import seed_of, stream
from evergrove.learn import flow
from evergrove.learn.dit import DiT, DiTConfig
from evergrove.learn.generator import to_condition, to_float


class TrainPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long and how to train. The rate warms up, stays, and falls linearly to zero over the last ``cooldown``."""

    steps: int
    seed: int = 0
    batch: int = 16
    lr: float = 1e-3
    warmup: int = 100
    cooldown: float = 0.4
    ema: float = 0.998
    label_drop: float = 0.1
    clip: float = 1.0
    distil: float = 0.5
    """Share of a batch that aims at the teacher's x̂, 0-1; without a teacher it is ignored."""
    distil_from: float = 0.75
    """After which part of the steps the teacher is asked, 0-1: what is coarse is learnt as well without it."""
    checkpoint_every: int = 250

    def check(self) -> None:
        """Raise ``UsageError`` where a number is out of its range."""
        if self.steps < 1 or self.batch < 1 or self.checkpoint_every < 1:
            raise UsageError("steps, batch and checkpoint_every are positive")
        if not all(0 <= v <= 1 for v in (self.ema, self.label_drop, self.distil, self.distil_from, self.cooldown)):
            raise UsageError("ema, label_drop, distil, distil_from and cooldown lie in 0 to 1")


class Progress(msgspec.Struct, frozen=True):
    """After a step: steps done of ``n_steps``, the loss averaged over about the last 50, seconds left."""

    step: int
    n_steps: int
    loss: float
    eta_s: float


Report = Callable[[Progress], None]


def train(
    config: DiTConfig,
    vocabulary: Vocabulary,
    images: NDArray[np.uint8],
    codes: NDArray[np.int16],
    plan: TrainPlan,
    teacher: nn.Module | None = None,
    checkpoint: Path | None = None,
    report: Report | None = None,
) -> DiT:
    """The trained network, with its averaged weights, for pictures (N, H, W, C) and codes (N, F).

    ``checkpoint`` is read if it exists (``InvalidArtefact`` if it belongs to another training) and written every
    ``plan.checkpoint_every`` steps, at once or not at all; it is removed by whoever keeps the result.
    """
    plan.check()
    _check_data(config, vocabulary, images, codes)
    run = _Run(config, vocabulary, plan, fingerprint(config, vocabulary, images, codes, plan, teacher))
    if checkpoint is not None and checkpoint.exists():
        run.load(checkpoint)
    started, first, smooth = time.monotonic(), run.step, 0.0
    while run.step < plan.steps:
        x, condition, target = batch_at(run.step, images, codes, plan, run.rng, teacher)
        loss = run.advance(x, condition, target)
        smooth = loss if run.step == first + 1 else 0.98 * smooth + 0.02 * loss
        if report is not None:
            eta_s = (time.monotonic() - started) / (run.step - first) * (plan.steps - run.step)
            report(Progress(run.step, plan.steps, smooth, eta_s))
        if checkpoint is not None and (run.step % plan.checkpoint_every == 0 or run.step == plan.steps):
            run.save(checkpoint)
    return run.averaged()


def batch_at(
    step: int,
    images: NDArray[np.uint8],
    codes: NDArray[np.int16],
    plan: TrainPlan,
    rng: torch.Generator,
    teacher: nn.Module | None,
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor, Tensor]:
    """One batch: (x_t, t, w(t)), the condition with labels dropped, and the target for x̂."""
    chosen = stream(plan.seed, "base", "batch", step).integers(len(images), size=plan.batch)
    x = to_float(images[chosen])
    condition = flow.drop_labels(to_condition(codes[chosen]), plan.label_drop, rng)
    t = flow.draw_t(len(x), rng)
    x_t = flow.mix(x, torch.randn(x.shape, generator=rng), t)
    target = x
    n_distilled = round(plan.distil * len(x)) if step >= plan.distil_from * plan.steps else 0
    if teacher is not None and n_distilled:
        with torch.no_grad():
            taught = teacher(x_t[:n_distilled], t[:n_distilled], condition[:n_distilled])
        target = torch.cat((taught.clamp(-1.0, 1.0), x[n_distilled:]))
    return (x_t, t, flow.weight(t)), condition, target


def learning_rate(step: int, plan: TrainPlan) -> float:
    """The rate of step 0, 1, …: linear warm-up, a plateau, linear fall to zero."""
    rise = min(1.0, (step + 1) / max(1, plan.warmup))
    left = (plan.steps - step) / max(1.0, plan.cooldown * plan.steps)
    return plan.lr * min(rise, left, 1.0)


def fingerprint(
    config: DiTConfig,
    vocabulary: Vocabulary,
    images: NDArray[np.uint8],
    codes: NDArray[np.int16],
    plan: TrainPlan,
    teacher: nn.Module | None,
) -> str:
    """A hash of all that a training consists of: a checkpoint goes on only where it is the same."""
    digest = hashlib.sha256(msgspec.json.encode([config, vocabulary, plan, list(images.shape)]))
    digest.update(codes.tobytes())
    digest.update(images[:: max(1, len(images) // 256)].tobytes())
    for weight in teacher.parameters() if teacher is not None else ():
        digest.update(weight.detach().numpy().tobytes())
    return digest.hexdigest()


class _Run:
    """All state of a training: weights, their average, the optimiser's moments, the random state, the step."""

    def __init__(self, config: DiTConfig, vocabulary: Vocabulary, plan: TrainPlan, identity: str) -> None:
        self.plan = plan
        self.identity = identity
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(plan.seed, "base", "init"))
            self.model = DiT(config, vocabulary)
        self.average = [p.detach().clone() for p in self.model.parameters()]
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=plan.lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True
        )
        self.rng = torch.Generator().manual_seed(seed_of(plan.seed, "base", "noise"))
        self.step = 0

    def advance(self, x: tuple[Tensor, Tensor, Tensor], condition: Tensor, target: Tensor) -> float:
        """One optimiser step; returns the loss."""
        x_t, t, weight = x
        loss: Tensor = (weight * (self.model(x_t, t, condition) - target).square().mean(dim=(1, 2, 3))).mean()
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, self.plan)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), self.plan.clip)
        self.optimiser.step()
        self.step += 1
        decay = min(self.plan.ema, self.step / (self.step + 10))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.model.parameters()], 1 - decay)
        return float(loss.item())

    def averaged(self) -> DiT:
        """The network with its averaged weights."""
        with torch.no_grad():
            for p, mean in zip(self.model.parameters(), self.average, strict=True):
                p.copy_(mean)
        return self.model.requires_grad_(False).eval()

    def save(self, path: Path) -> None:
        """Writes the state beside ``path``, flushes it to the disk and renames it: a kill leaves the old one."""
        tensors = {"rng": self.rng.get_state()}
        for i, (p, mean) in enumerate(zip(self.model.parameters(), self.average, strict=True)):
            state = self.optimiser.state[p]
            tensors |= {f"{i}.weight": p.detach(), f"{i}.mean": mean}
            tensors |= {f"{i}.m": state["exp_avg"], f"{i}.v": state["exp_avg_sq"]}
        metadata = {"identity": self.identity, "step": str(self.step)}
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            file.write(safetensors.torch.save(tensors, metadata))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)

    def load(self, path: Path) -> None:
        """Goes on from a checkpoint."""
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise InvalidArtefact(f"'{path}' is no checkpoint ({error}); delete it to start anew") from error
        if metadata.get("identity") != self.identity:
            raise InvalidArtefact(f"'{path}' belongs to another training; delete it, or use its data and settings")
        self.step = int(metadata["step"])
        self.rng.set_state(tensors["rng"])
        with torch.no_grad():
            for i, p in enumerate(self.model.parameters()):
                p.copy_(tensors[f"{i}.weight"])
                self.average[i].copy_(tensors[f"{i}.mean"])
                self.optimiser.state[p] = {
                    "step": torch.tensor(float(self.step)),
                    "exp_avg": tensors[f"{i}.m"].clone(),
                    "exp_avg_sq": tensors[f"{i}.v"].clone(),
                }


def _check_data(config: DiTConfig, vocabulary: Vocabulary, images: NDArray[np.uint8], codes: NDArray[np.int16]) -> None:
    shape = (len(codes), config.image_px, config.image_px, config.channels)
    if images.dtype != np.uint8 or images.shape != shape or not len(images):
        raise UsageError(f"pictures are {images.dtype} {images.shape}; this network needs uint8 {shape}")
    if codes.shape != (len(images), len(vocabulary.sizes)) or codes.min() < 0 or (codes > vocabulary.sizes).any():
        raise UsageError(f"codes {codes.shape} do not fit a vocabulary of {vocabulary.sizes} values")
