"""What the ``base`` commands share: describing a release folder, timing it, and drawing a sheet from it."""

import shutil
import time
from pathlib import Path
from typing import cast

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from evergrove.adapters.release import open_release
from evergrove.cli import show
from evergrove.core.release import Manifest
from evergrove.core.rng import seed_of, stream
from evergrove.learn import flow
from evergrove.learn.base import load_teacher, n_parameters
from evergrove.learn.base_train import TrainPlan
from evergrove.learn.dit import DiT
from evergrove.learn.generator import to_condition, to_uint8
from evergrove.learn.oracle import load_oracle
from evergrove.media.sheets import contact_sheet, png_bytes
from evergrove.runtime.assembly import open_parts

ORACLE = "oracle.safetensors"
MEASURED_PER_VALUE = 80


def with_steps(plan: TrainPlan, steps: int | None) -> TrainPlan:
    """The plan with another number of steps, or as it is."""
    return plan if steps is None else msgspec.structs.replace(plan, steps=steps)


def remove(folder: Path) -> None:
    """Deletes the checkpoints of a training that is done."""
    shutil.rmtree(folder, ignore_errors=True)


def describe(folder: Path, as_json: bool, timed: bool = False) -> None:
    """Prints what a release consists of; ``timed`` adds how long one picture takes."""
    parts = open_parts(open_release(folder))
    manifest, model = parts.release.manifest, cast(DiT, parts.model)
    found: dict[str, object] = {
        "folder": str(folder),
        "name": manifest.name,
        "generation": manifest.generation,
        "version": manifest.version,
        "image_px": manifest.image_px,
        "network": msgspec.to_builtins(model.config),
        "parameters": n_parameters(model),
        "rank": manifest.rank,
        "sampler": msgspec.to_builtins(manifest.sampler),
        "files": {ref.name: ref.n_bytes for ref in manifest.files()},
        "conditions": {factor.name: list(factor.values) for factor in manifest.vocabulary.factors},
    }
    if manifest.known != manifest.vocabulary.sizes:
        found["not_judged"] = {
            factor.name: list(factor.values[n:])
            for factor, n in zip(manifest.vocabulary.factors, manifest.known, strict=True)
            if factor.values[n:]
        }
    if timed:
        found["generate_ms"] = time_ms(parts.network(), manifest)
    if as_json:
        show.json(found)
        return
    rows = [(key.replace("_", " "), _words(value)) for key, value in found.items()]
    show.table(rows)


def time_ms(model: nn.Module, manifest: Manifest, n: int = 30) -> dict[str, float]:
    """Median and 99th percentile of the milliseconds that one picture takes at the release's sampler settings."""
    condition = torch.ones(1, len(manifest.vocabulary.factors), dtype=torch.int64)
    rng = torch.Generator().manual_seed(0)
    seconds = []
    for _ in range(n + 3):
        started = time.perf_counter()
        generate(model, manifest, condition, rng)
        seconds.append(time.perf_counter() - started)
    p50, p99 = np.percentile(np.array(seconds[3:]) * 1000, [50, 99])
    return {"p50": round(float(p50), 2), "p99": round(float(p99), 2)}


def generate(
    model: nn.Module, manifest: Manifest, condition: torch.Tensor, rng: torch.Generator, steps: int | None = None
) -> NDArray[np.uint8]:
    """Pictures uint8 (N, H, W, C) at the release's sampler settings."""
    shape = (len(condition), 3, manifest.image_px, manifest.image_px)
    sampler, denoiser = manifest.sampler, cast(flow.Denoiser, model)
    x = [
        flow.sample(denoiser, c, n, steps or sampler.steps, cast(flow.Method, sampler.method), sampler.guidance)
        for c, n in zip(torch.split(condition, 64), torch.split(torch.randn(shape, generator=rng), 64), strict=True)
    ]
    return to_uint8(torch.cat(x))


def sheet(folder: Path, out: Path, columns: int, steps: int | None, teacher: bool, seed: int, as_json: bool) -> None:
    """Writes the sheet; where the folder has an oracle, prints its verdict on more pictures of every value."""
    parts = open_parts(open_release(folder))
    manifest = parts.release.manifest
    model = load_teacher(folder) if teacher else parts.network()
    # A teacher draws what it was trained on; the rest of a picture is always of what the release is judged on.
    sizes = (manifest.known[0] if teacher else manifest.vocabulary.sizes[0], *manifest.known[1:])
    judge = load_oracle(folder / ORACLE) if (folder / ORACLE).exists() else None
    per_value = max(columns, MEASURED_PER_VALUE) if judge is not None else columns
    rng = stream(seed, "sheet")
    codes = np.stack([rng.integers(1, size + 1, size=sizes[0] * per_value) for size in sizes], axis=1).astype(np.int16)
    codes[:, 0] = np.arange(len(codes)) // per_value + 1
    noise = torch.Generator().manual_seed(seed_of(seed, "sheet", "noise"))
    images = generate(model, manifest, to_condition(codes), noise, steps)
    rows = [list(images[v * per_value : v * per_value + columns]) for v in range(sizes[0])]
    zoom = max(1, 96 // manifest.image_px)
    names = manifest.vocabulary.factors[0].values[: sizes[0]]
    out.write_bytes(png_bytes(contact_sheet(rows, names, zoom=zoom)))
    found: dict[str, object] = {"sheet": str(out), "pictures": len(images)}
    if judge is not None:
        first, known = manifest.vocabulary.names[0], codes[:, 0] <= manifest.known[0]
        images, codes = images[known], codes[known]
        found["oracle_accuracy"] = {k: round(v, 4) for k, v in judge.accuracy(images, codes).items()}
        by_value = judge.accuracy_by_value(images, codes, first)
        found[f"oracle_accuracy_{first}"] = {k: round(v, 4) for k, v in by_value.items()}
    if as_json:
        show.json(found)
    else:
        show.table([(key.replace("_", " "), _words(value)) for key, value in found.items()])


def _words(value: object) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_words(item)}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
