"""Many devices' local steps in one pass, on any torch device: each with its own B, rows, pictures and optimiser.

The released vector comes in; out goes what each device learnt from there. The layers are those of ``learn/together``;
what differs is that pictures, chance and numbers stay on the accelerator and are drawn for all devices at once.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from evergrove.bench.federated.world import World
from evergrove.learn.adapter import Adapter, Basis, attach
from evergrove.learn.layers import AdaptedLinear, GrownTable
from evergrove.learn.objective import data_loss, flow_rows
from evergrove.learn.together import clip_each
from evergrove.rules.params import Layout

CHUNK_ROWS = 512
"""Pictures in one pass; devices beyond are trained after it. Nothing else depends on it but the order of chance."""
CHUNK_PATCHES = 2048 * 64
"""The same on an accelerator, in patches of pictures: small ones go many at a time there."""


@dataclass(frozen=True)
class Local:
    """A device's steps of one round. With ``replay`` half of a batch is its own, half of the release's public pack."""

    steps: int = 4
    batch: int = 8
    lr: float = 1e-2
    optimiser: Literal["adamw", "sgd"] = "adamw"
    label_drop: float = 0.05
    clip: float = 1.0
    replay: bool = True


@dataclass(frozen=True)
class Pictures:
    """``images`` uint8 (D, n, H, W, C) and ``codes`` int64 (D, n, F), on the computing device."""

    images: Tensor
    codes: Tensor

    def of(self, who: Tensor) -> "Pictures":
        """The pictures of some devices."""
        return Pictures(self.images[who], self.codes[who])

    def draw(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """``n`` a device with replacement: fp32 (D, n, C, H, W) in [-1, 1] and int64 (D, n, F)."""
        size = (len(self.images), n)
        chosen = torch.randint(self.images.shape[1], size, generator=rng, device=rng.device)
        device = torch.arange(size[0], device=rng.device)[:, None]
        x = self.images[device, chosen].permute(0, 1, 4, 2, 3).float().div_(127.5).sub_(1.0)
        return x, self.codes[device, chosen]


class Crowd:
    """The devices of a generation: one frozen network, and where each number of an update goes."""

    def __init__(self, world: World, basis: Basis, layout: Layout) -> None:
        self.world, self.basis, self.layout = world, basis, layout
        self._base_sizes = [len(table.weight) for table in world.model.tables]  # type: ignore[arg-type]
        zero = torch.zeros(layout.n_numbers, device=world.device)
        attached = attach(world.model, basis, self.adapter(zero))
        self._module = attached.module.requires_grad_(False)
        self._names = list(attached.parameters)
        self._rehearsal = Pictures(*on(world.device, world.rehearsal.images[None], world.rehearsal.codes[None]))

    def adapter(self, vector: Tensor) -> Adapter:
        """The adapter behind a vector (d,)."""
        parts = self._parts(vector[None])
        b = {name.removesuffix(".B"): part[0] for name, part in parts.items() if name.endswith(".B")}
        rows = {name.removeprefix("row."): part[0] for name, part in parts.items() if name.startswith("row.")}
        basis = self.basis
        rank = max((len(a) for a in basis.a.values()), default=1)
        return Adapter(basis.base_hash, basis.basis_hash, rank, basis.scale, self.layout.vocabulary, b, rows)

    def start(self, rng: torch.Generator) -> Tensor:
        """The first release (d,): B = 0, and each new row off the mean row by chance, the same for all devices."""
        vector = torch.zeros(self.layout.n_numbers)
        at = 0
        for slot in self.layout.slots:
            if slot.name.startswith("row."):
                vector[at : at + slot.size] = torch.randn(slot.size, generator=rng)
            at += slot.size
        return vector.to(self.world.device)

    def learn(
        self, release: Tensor, pictures: Pictures, local: Local, rng: torch.Generator, rate: float = 1.0
    ) -> Tensor:
        """What each device learnt from the ``release`` (d,): (D, d), unclipped. ``rate`` scales the learning rate."""
        each = max(1, self._rows_in_one_pass() // local.batch)
        parts = [
            self._learn(release, Pictures(images, codes), local, rng, rate)
            for images, codes in zip(torch.split(pictures.images, each), torch.split(pictures.codes, each), strict=True)
        ]
        return torch.cat(parts)

    def _rows_in_one_pass(self) -> int:
        config = self.world.model.config
        on_cpu = self.world.device.type == "cpu"
        return CHUNK_ROWS if on_cpu else CHUNK_PATCHES // (config.image_px // config.patch_px) ** 2

    def _learn(self, release: Tensor, pictures: Pictures, local: Local, rng: torch.Generator, rate: float) -> Tensor:
        n = len(pictures.images)
        stacked = self._stack(release, n)
        values = list(stacked.values())
        optimiser: torch.optim.Optimizer = (
            torch.optim.AdamW(values, lr=local.lr * rate, weight_decay=0.0)
            if local.optimiser == "adamw"
            else torch.optim.SGD(values, lr=local.lr * rate)
        )
        for _ in range(local.steps):
            optimiser.zero_grad(set_to_none=True)
            self._loss(pictures, local, rng).backward()  # type: ignore[no-untyped-call]
            clip_each(stacked, local.clip)
            optimiser.step()
        return self._flat(stacked) - release

    def train(
        self, vector: Tensor, pictures: Pictures, local: Local, rng: torch.Generator, warm_up: int = 20
    ) -> Tensor:
        """Training on one heap of pictures (1, n, …) with the production schedule: the trained vector (d,)."""
        stacked = self._stack(vector, 1)
        optimiser = torch.optim.AdamW(list(stacked.values()), lr=local.lr, weight_decay=0.0)
        for step in range(local.steps):
            for group in optimiser.param_groups:
                group["lr"] = (
                    local.lr * min(1.0, (step + 1) / warm_up) * min(1.0, (local.steps - step) / (local.steps / 2))
                )
            optimiser.zero_grad(set_to_none=True)
            self._loss(pictures, local, rng).backward()  # type: ignore[no-untyped-call]
            clip_each(stacked, local.clip)
            optimiser.step()
        return self._flat(stacked)[0]

    def rehearse(self, vector: Tensor, steps: int, lr: float, rng: torch.Generator) -> Tensor:
        """The vector (d,) after some steps on the release's public pack alone, which the cloud may make at any time."""
        if not steps:
            return vector
        local = Local(steps=steps, batch=32, lr=lr, replay=False)
        return self.train(vector, self._rehearsal, local, rng, warm_up=1)

    def _loss(self, pictures: Pictures, local: Local, rng: torch.Generator) -> Tensor:
        """Σ over devices of FM(new) + FM(replay), each a mean over its half of the batch."""
        x, code = self.rows_of(pictures, local, rng)
        parts = 2 if local.replay else 1
        return data_loss(self._module, flow_rows(x, code, float(parts * len(pictures.images)), rng, local.label_drop))

    def rows_of(self, pictures: Pictures, local: Local, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """A batch of every device, one device after the other: fp32 (D·batch, C, H, W) and int64 (D·batch, F)."""
        if not local.replay:
            own = pictures.draw(local.batch, rng)
            return own[0].flatten(0, 1), own[1].flatten(0, 1)
        n, half = len(pictures.images), local.batch // 2
        own, replay = pictures.draw(half, rng), self._rehearsal_of(n, half, rng)
        x, code = (torch.cat(pair, dim=1).flatten(0, 1) for pair in zip(own, replay, strict=True))
        return x, code

    def _rehearsal_of(self, n: int, half: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        x, code = self._rehearsal.draw(n * half, rng)
        return x.reshape(n, half, *x.shape[2:]), code.reshape(n, half, -1)

    def _stack(self, vector: Tensor, n: int) -> dict[str, nn.Parameter]:
        """Every trained parameter as (n, …), all at the released values, put into the network."""
        parts = self._parts(vector[None])
        stacked: dict[str, nn.Parameter] = {}
        for name in self._names:
            value = parts[name] if name.endswith(".B") else torch.stack([parts[key] for key in self._rows(name)], dim=1)
            stacked[name] = nn.Parameter(value.expand(n, *value.shape[1:]).clone())
        for name, layer in self._module.named_modules():
            if isinstance(layer, AdaptedLinear):
                layer.b_per_group = stacked[f"{name}.B"]
            elif isinstance(layer, GrownTable):
                layer.rows_per_group = stacked[f"rows.{name.rpartition('.')[2]}"]
        return stacked

    def _flat(self, stacked: dict[str, nn.Parameter]) -> Tensor:
        parts: dict[str, Tensor] = {}
        for name, value in stacked.items():
            if name.endswith(".B"):
                parts[name] = value.detach().flatten(1)
            else:
                parts.update(zip(self._rows(name), value.detach().unbind(1), strict=True))
        return torch.cat([parts[slot.name] for slot in self.layout.slots], dim=1)

    def _rows(self, name: str) -> list[str]:
        """The slots behind ``rows.f``, in the order of their numbers."""
        f = int(name.removeprefix("rows."))
        first, end = self._base_sizes[f], self.layout.vocabulary.sizes[f] + 1
        return [f"row.{f}:{n}" for n in range(first, end)]

    def _parts(self, vectors: Tensor) -> dict[str, Tensor]:
        """(n, d) → every slot as (n, *shape)."""
        pieces = torch.split(vectors, [slot.size for slot in self.layout.slots], dim=1)
        return {
            s.name: piece.reshape(len(vectors), *s.shape) for s, piece in zip(self.layout.slots, pieces, strict=True)
        }


def on(device: torch.device, images: object, codes: object) -> tuple[Tensor, Tensor]:
    """numpy pictures and codes as tensors on a device."""
    return torch.as_tensor(images, device=device), torch.as_tensor(codes, device=device).long()
