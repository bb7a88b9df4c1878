"""The oracle: an independent judge of pictures, used to measure and for nothing else.

A small convolutional network with one head per factor, trained on real renderings (slightly blurred, shifted and noised
so that it judges what is shown and not how it was drawn). No generator, gate or training ever sees what it says.
"""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional

from evergrove.core.conditions import Vocabulary
from evergrove.core.errors import InvalidArtefact, UsageError
from evergrove.core.rng import seed_of
from evergrove.learn.generator import to_condition, to_float
from evergrove.learn.place import place_of
from evergrove.learn.tensor_file import tensor_bytes

FORMAT = "evergrove-oracle-1"
WIDTHS = (24, 48, 64, 64)


class Oracle(nn.Module):
    """Pictures float32 (N, C, H, W) in [-1, 1] → one tensor of logits (N, values) per factor."""

    def __init__(self, vocabulary: Vocabulary, image_px: int, channels: int = 3) -> None:
        super().__init__()
        if image_px % 2 ** len(WIDTHS):
            raise UsageError(f"an oracle needs pictures of a multiple of {2 ** len(WIDTHS)} pixels, not {image_px}")
        self.vocabulary = vocabulary
        self.image_px = image_px
        self.channels = channels
        layers: list[nn.Module] = []
        for before, after in zip((channels, *WIDTHS), WIDTHS, strict=False):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.GroupNorm(8, after), nn.GELU(), nn.AvgPool2d(2)]
        self.features = nn.Sequential(*layers)
        n_features = WIDTHS[-1] * (image_px // 2 ** len(WIDTHS)) ** 2
        self.heads = nn.ModuleList(nn.Linear(n_features, size) for size in vocabulary.sizes)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The logits of every factor, in the vocabulary's order."""
        features = self.features(x).flatten(1)
        return [head(features) for head in self.heads]

    @torch.no_grad()
    def read(self, images: NDArray[np.uint8], batch: int = 128) -> NDArray[np.int16]:
        """What the pictures uint8 (N, H, W, C) show, as codes int16 (N, F)."""
        parts = (to_float(images[i : i + batch]).to(place_of(self)) for i in range(0, len(images), batch))
        codes = [torch.stack([logits.argmax(1) + 1 for logits in self(part)], dim=1) for part in parts]
        return cast(NDArray[np.int16], torch.cat(codes).cpu().numpy().astype(np.int16))

    def accuracy(self, images: NDArray[np.uint8], codes: NDArray[np.int16]) -> dict[str, float]:
        """Per factor, the share of pictures that show what their code says; NaN where no code says anything."""
        right, said = self.read(images) == codes, codes > 0
        return {
            name: float(right[said[:, f], f].mean()) if said[:, f].any() else float("nan")
            for f, name in enumerate(self.vocabulary.names)
        }

    def accuracy_by_value(self, images: NDArray[np.uint8], codes: NDArray[np.int16], factor: str) -> dict[str, float]:
        """The same for one factor, for each of its values that occurs in ``codes``."""
        f = self.vocabulary.names.index(factor)
        right = self.read(images)[:, f] == codes[:, f]
        values = self.vocabulary.factors[f].values
        return {values[n - 1]: float(right[codes[:, f] == n].mean()) for n in sorted(set(codes[:, f].tolist()) - {0})}


def train_oracle(
    vocabulary: Vocabulary,
    images: NDArray[np.uint8],
    codes: NDArray[np.int16],
    steps: int = 1500,
    seed: int = 0,
    batch: int = 48,
    report: Callable[[int, float], None] | None = None,
) -> Oracle:
    """An oracle for pictures uint8 (N, H, W, C) and codes int16 (N, F); null entries teach nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "oracle", "init"))
        oracle = Oracle(vocabulary, images.shape[1], images.shape[3])
    rng = torch.Generator().manual_seed(seed_of(seed, "oracle", "data"))
    optimiser = torch.optim.AdamW(oracle.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    for step in range(steps):
        chosen = torch.randint(len(images), (batch,), generator=rng).numpy()
        target = to_condition(codes[chosen]) - 1
        logits = oracle(disturb(to_float(images[chosen]), rng))
        losses = [
            functional.cross_entropy(logit, target[:, f], ignore_index=-1, reduction="sum") / batch
            for f, logit in enumerate(logits)
        ]
        loss = torch.stack(losses).sum()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if report is not None and (step + 1) % 50 == 0:
            report(step + 1, loss.item())
    return oracle.requires_grad_(False).eval()


def disturb(x: Tensor, rng: torch.Generator) -> Tensor:
    """Light augmentation: a shift by up to 2 pixels, blur in half of the pictures, noise, a little brightness."""
    shift = torch.randint(-2, 3, (2,), generator=rng)
    n_rows, n_columns = int(shift[0]), int(shift[1])
    padded = functional.pad(x, (2, 2, 2, 2), mode="replicate")
    x = padded[..., 2 + n_rows : 2 + n_rows + x.shape[2], 2 + n_columns : 2 + n_columns + x.shape[3]]
    blurred = functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    share = torch.rand(len(x), 1, 1, 1, generator=rng).sub(0.5).clamp_min(0.0) * 1.4
    x = torch.lerp(x, blurred, share)
    noise = torch.randn(x.shape, generator=rng) * torch.rand(len(x), 1, 1, 1, generator=rng) * 0.12
    bright = torch.rand(len(x), 1, 1, 1, generator=rng).sub(0.5) * 0.1
    return (x + noise + bright).clamp(-1.0, 1.0)


def save_oracle(oracle: Oracle, path: Path) -> None:
    """Writes the oracle as safetensors, fp16."""
    metadata = {
        "format": FORMAT,
        "image_px": str(oracle.image_px),
        "channels": str(oracle.channels),
        "vocabulary": msgspec.json.encode(oracle.vocabulary).decode(),
    }
    tensors = {name: tensor.half().contiguous() for name, tensor in oracle.state_dict().items()}
    path.write_bytes(tensor_bytes(tensors, metadata))


def load_oracle(path: Path) -> Oracle:
    """The oracle in a file. Raises ``InvalidArtefact`` that names the file and the fault."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        if metadata.get("format") != FORMAT:
            raise InvalidArtefact(f"'{path}' is no oracle of format {FORMAT}")
        vocabulary = msgspec.json.decode(metadata["vocabulary"], type=Vocabulary)
        oracle = Oracle(vocabulary, int(metadata["image_px"]), int(metadata["channels"]))
        oracle.load_state_dict(tensors)
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError, msgspec.MsgspecError) as error:
        raise InvalidArtefact(f"'{path}' is no readable oracle ({error})") from error
    return oracle.requires_grad_(False).eval()
