"""The linear adapter with a learnt, frozen A against ordinary LoRA at the same trained numbers, objective and steps.

    python benchmarks/adapter.py --seeds 5            # about a minute a row on one core
    python benchmarks/adapter.py --seeds 5 --rows "ordinary LoRA" "learnt A, frozen" "A of 160 tasks" --out FILE

Each seed draws 60 observations of the two emotions that the base does not know from the release's demo pack. All rows
train by the strategy ``evergrove`` (replay, teacher, and the Fisher penalty where A is frozen) from the same base and
the same batches; the oracle reads the emotion off generated pictures in looks of the golden set. Prints one JSON line a
run, then means with 95 % intervals of the paired differences (Student's t over seeds).

Further rows ask where A comes from: learnt on that many pseudo-tasks (10 s a task and core), of all kinds or of some;
the principal directions of each layer's inputs; and those of the gradient of the new pictures themselves.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from msgspec.structs import replace
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

import evergrove
from evergrove.cli.presets import avatars_source
from evergrove.core.conditions import Vocabulary
from evergrove.core.release import Manifest
from evergrove.core.rng import stream as named
from evergrove.learn import flow
from evergrove.learn.adapter import Basis, fuse
from evergrove.learn.adapter_file import adapter_of_bytes
from evergrove.learn.base import load_base, load_teacher, read_manifest
from evergrove.learn.basis import basis_bytes, learn_basis, load_basis, orthonormal, random_rows
from evergrove.learn.dit import DiT, adapted_layers
from evergrove.learn.flow import Method, sample
from evergrove.learn.generator import to_condition, to_float, to_uint8
from evergrove.learn.oracle import load_oracle
from evergrove.learn.pseudo_tasks import KINDS, draw_task
from evergrove.learn.strategies import Recipe, Samples, Task, strategy_named
from evergrove.learn.trainer import train
from evergrove.media.packs import read_pack

RELEASE = Path(evergrove.__file__).parent / "assets" / "avatars"
N_NEW, PER_NEW, PER_OLD = 60, 96, 24
LORA_RANK = 8
"""A and B of rank 8 hold as many numbers as B alone of rank 12 (both counts are printed)."""


@dataclass(frozen=True)
class Given:
    """What an A may be made from: the base, its release, a seed's observations, and where learnt ones are kept."""

    model: DiT
    manifest: Manifest
    new: Samples
    vocabulary: Vocabulary
    seed: int
    made: Path


Make = Callable[[Given], Mapping[str, Tensor]]


def shipped(of: Given) -> Mapping[str, Tensor]:
    """The release's own A."""
    return load_basis(RELEASE / of.manifest.basis.name, of.manifest.base.sha256, of.manifest.scale).a


def random(rank: int) -> Make:
    """Random orthonormal rows, another draw for each seed."""
    return lambda of: random_rows(of.model, rank, of.seed)


def learnt(tasks: int, kinds: Sequence[str] = KINDS) -> Make:
    """By the release's own recipe on that many pseudo-tasks, of those kinds; learnt once, then read."""

    def make(of: Given) -> Mapping[str, Tensor]:
        file = of.made / f"basis-{tasks}-{'-'.join(kinds)}.safetensors"
        if not file.exists():
            source = avatars_source(0)
            images, codes = source.train.images, source.train.codes
            a = learn_basis(
                of.model,
                images,
                codes,
                replace(source.basis, tasks=tasks),
                checkpoint=file.with_suffix(".checkpoint"),
                draw=lambda n_new, rng: draw_task(images, codes, of.model.vocabulary, n_new, rng, kinds),
            )
            file.write_bytes(basis_bytes(a, of.manifest.base.sha256))
        return load_basis(file, of.manifest.base.sha256, of.manifest.scale).a

    return make


def of_inputs(of: Given) -> Mapping[str, Tensor]:
    """The principal directions of what goes into each layer, over known pictures."""
    pack = read_pack(RELEASE / of.manifest.rehearsal.name)
    seen: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            rows = inputs[0].detach().flatten(0, -2)
            seen[name] = seen.get(name, torch.zeros(rows.shape[1], rows.shape[1])) + rows.T @ rows

        return hook

    watched = [layer.register_forward_hook(watch(name)) for name, layer in adapted_layers(of.model).items()]
    _losses(of.model, pack.images[:256], pack.codes[:256], of.seed)
    for hook in watched:
        hook.remove()
    return {name: orthonormal(second)[: of.manifest.rank].contiguous() for name, second in seen.items()}


def of_gradients(of: Given) -> Mapping[str, Tensor]:
    """The principal directions of each weight's gradient on the new pictures, their new rows still at zero."""
    layers = adapted_layers(of.model)
    for layer in layers.values():
        layer.weight.requires_grad_(True)
    codes = np.where(of.new.codes > np.array(of.manifest.vocabulary.sizes), 0, of.new.codes).astype(np.int16)
    _losses(of.model, of.new.images, codes, of.seed).mean().backward()  # type: ignore[no-untyped-call]
    found = {}
    for name, layer in layers.items():
        slope = cast(Tensor, layer.weight.grad)
        found[name] = orthonormal(slope.T @ slope)[: of.manifest.rank].contiguous()
        layer.weight.grad = None
        layer.weight.requires_grad_(False)
    return found


def _losses(model: DiT, images: NDArray[np.uint8], codes: NDArray[np.int16], seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    x = to_float(images)
    t, noise = flow.draw_t(len(x), rng), torch.randn(x.shape, generator=rng)
    return flow.loss_per_sample(model, x, to_condition(codes), t, noise)


ROWS: dict[str, tuple[str, Make]] = {
    "learnt A, frozen": ("evergrove", shipped),
    "ordinary LoRA": ("lora", random(LORA_RANK)),
    "random A, frozen": ("evergrove", random(12)),
}
MORE: dict[str, tuple[str, Make]] = {
    "A of 10 tasks": ("evergrove", learnt(10)),
    "A of 160 tasks": ("evergrove", learnt(160)),
    "A of 40 stamps": ("evergrove", learnt(40, ("stamp",))),
    "A of 40 without stamps": ("evergrove", learnt(40, ("flip", "shift", "recolour", "warp"))),
    "A of inputs": ("evergrove", of_inputs),
    "A of gradients": ("evergrove", of_gradients),
}


def run(name: str, seed: int, steps: int, made: Path) -> dict[str, Any]:
    """One training and its reading."""
    strategy, make = {**ROWS, **MORE}[name]
    manifest, model = read_manifest(RELEASE), load_base(RELEASE)
    rehearsal, demo = read_pack(RELEASE / manifest.rehearsal.name), read_pack(RELEASE / "demo.npz")
    factor = manifest.vocabulary.factors[0].name
    vocabulary = manifest.vocabulary.extend({factor: "love"}).extend({factor: "dizzy"})
    chosen = named(seed, "pictures").permutation(len(demo))[:N_NEW]
    new = Samples(demo.images[chosen], demo.codes[chosen])
    rows = make(Given(model, manifest, new, vocabulary, seed, made))
    basis = Basis(manifest.base.sha256, "0" * 64, manifest.scale, rows)
    task = Task(
        model,
        basis,
        vocabulary,
        new,
        Samples(rehearsal.images, rehearsal.codes),
        strategy_named(strategy),
        Recipe(steps=steps),
        seed,
        teacher=load_teacher(RELEASE),
    )
    with tempfile.TemporaryDirectory() as folder:
        outcome = train(task, Path(folder))
        assert outcome.candidate is not None
        data = outcome.candidate.read_bytes()
    adapter = adapter_of_bytes(data)
    asked = conditions(vocabulary, manifest, seed)
    read = load_oracle(RELEASE / "oracle.safetensors").read(
        pictures(fuse(model, basis, adapter), asked, manifest, seed)
    )
    right, old = read[:, 0] == asked[:, 0], asked[:, 0] <= manifest.vocabulary.sizes[0]
    return {
        "row": name,
        "seed": seed,
        "numbers": adapter.n_numbers,
        "bytes": len(data),
        "seconds": round(outcome.seconds, 1),
        "new": float(right[~old].mean()),
        "old": float(right[old].mean()),
    }


def conditions(vocabulary: Vocabulary, manifest: Manifest, seed: int) -> NDArray[np.int16]:
    """Every emotion in looks of the golden set, the same looks for each."""
    codes = read_pack(RELEASE / manifest.golden.name).codes
    looks = codes[named(seed, "asked").choice(len(codes), PER_NEW, replace=False)]
    asked = []
    for value in range(1, vocabulary.sizes[0] + 1):
        some = looks[: PER_OLD if value <= manifest.vocabulary.sizes[0] else PER_NEW].copy()
        some[:, 0] = value
        asked.append(some)
    return np.concatenate(asked)


def pictures(network: torch.nn.Module, asked: NDArray[np.int16], manifest: Manifest, seed: int) -> NDArray[np.uint8]:
    """One picture for every condition, by the release's sampler; the same noise for every row of a seed."""
    rng = torch.Generator().manual_seed(seed)
    noise = torch.randn((len(asked), 3, manifest.image_px, manifest.image_px), generator=rng)
    method = cast(Method, manifest.sampler.method)
    steps, guidance = manifest.sampler.steps, manifest.sampler.guidance
    parts = [
        to_uint8(sample(network, to_condition(asked[i : i + 32]), noise[i : i + 32], steps, method, guidance))
        for i in range(0, len(asked), 32)
    ]
    return np.concatenate(parts)


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Means per row, and the paired difference of the first row to every other with its 95 % interval."""
    first, *others = dict.fromkeys(r["row"] for r in results)
    values = {(r["row"], r["seed"], key): r[key] for r in results for key in ("new", "old")}
    seeds = sorted({r["seed"] for r in results})
    out: dict[str, Any] = {}
    for key in ("new", "old"):
        for row in (first, *others):
            out[f"{row}: {key}"] = round(float(np.mean([values[row, s, key] for s in seeds])), 3)
        for row in others:
            gap = np.array([values[first, s, key] - values[row, s, key] for s in seeds])
            half = stats.t.ppf(0.975, len(gap) - 1) * gap.std(ddof=1) / len(gap) ** 0.5 if len(gap) > 1 else np.nan
            out[f"{first} − {row}: {key}"] = [
                round(float(v), 3) for v in (gap.mean(), gap.mean() - half, gap.mean() + half)
            ]
    return out


def main() -> None:
    """Runs every row for every seed and prints the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=[*ROWS, *MORE])
    parser.add_argument("--made", type=Path, default=Path("runs/adapter"), help="where A's learnt here are kept")
    parser.add_argument("--out", type=Path, help="also append the JSON lines to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.made.mkdir(parents=True, exist_ok=True)
    results = []
    for seed in range(options.seeds):
        for row in options.rows:
            results.append(run(row, seed, options.steps, options.made))
            print(json.dumps(results[-1]), flush=True)
    text = json.dumps({"steps": options.steps, "seeds": options.seeds, **summary(results)}, ensure_ascii=False)
    print(text)
    if options.out:
        with options.out.open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in (*results, json.loads(text)))


if __name__ == "__main__":
    main()
