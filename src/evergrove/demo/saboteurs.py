"""Four adapters that no device should ever serve, made from the one that it does serve, each wrong in its own way.

Broken numbers and a wrong base fail the checks of the file; a poisoned one is well-formed, finite and of ordinary norm,
really trained, and only the golden set can tell; the last one does nothing at all.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from safetensors import safe_open

from evergrove.core.release import sha256_hex
from evergrove.demo.judge import Judge
from evergrove.demo.script import FACTOR
from evergrove.learn.adapter import Adapter, rescale
from evergrove.learn.adapter_file import adapter_bytes, adapter_of_bytes
from evergrove.learn.strategies import Recipe, Samples, Task, strategy_named
from evergrove.learn.trainer import Hooks, Progress, train
from evergrove.media.packs import Pack


@dataclass(frozen=True)
class Saboteur:
    """A bad adapter: a short name, what it is in words, and its file."""

    name: str
    what: str
    path: Path


def broken_numbers(good: Path, path: Path) -> Saboteur:
    """One NaN among tens of thousands of numbers."""
    tensors, metadata = _read(good)
    first = next(name for name in sorted(tensors) if name.endswith(".B"))
    tensors[first].view(-1)[0] = float("nan")
    path.write_bytes(safetensors.torch.save(tensors, metadata))
    return Saboteur("nan", "a single NaN among sound numbers", path)


def wrong_base(good: Path, path: Path) -> Saboteur:
    """The very same numbers, said to be learnt on another base."""
    tensors, metadata = _read(good)
    path.write_bytes(safetensors.torch.save(tensors, {**metadata, "base": sha256_hex(b"another base")}))
    return Saboteur("wrong-base", "the right numbers for another base", path)


def poisoned(
    good: Path,
    path: Path,
    judge: Judge,
    material: Pack,
    disguise: str,
    victim: str,
    steps: int,
    tell: Callable[[Progress], None],
) -> Saboteur:
    """Trained on from the good one until ``victim`` (an old emotion) looks like ``disguise`` (a new one).

    ``material`` are pictures of the new emotions with codes of the good adapter's vocabulary; they and everything else
    that is known are rehearsed, so that nothing but the victim changes much.
    """
    adapter = adapter_of_bytes(good.read_bytes())
    factor = adapter.vocabulary.names.index(FACTOR)
    values = adapter.vocabulary.factors[factor].values
    number = values.index(victim) + 1
    false = material.codes[:, factor] == values.index(disguise) + 1
    lies = material.codes[false]
    lies[:, factor] = number
    rehearsal = judge.rehearsal()
    others = rehearsal.codes[:, factor] != number
    task = Task(
        model=judge.model,
        basis=judge.basis,
        vocabulary=adapter.vocabulary,
        new=Samples(material.images[false], lies),
        replay=Samples(
            np.concatenate([rehearsal.images[others], material.images]),
            np.concatenate([rehearsal.codes[others], material.codes]),
        ),
        strategy=strategy_named("replay"),
        recipe=Recipe(steps=steps, checkpoint_every=steps),
        seed=judge.seed,
        start=adapter,
    )
    with tempfile.TemporaryDirectory() as folder:
        outcome = train(task, Path(folder), Hooks(progress=tell))
        assert outcome.candidate is not None
        path.write_bytes(outcome.candidate.read_bytes())
    return Saboteur("poisoned", f"trained to draw {disguise} when asked for {victim}, otherwise sound", path)


def no_op(good: Path, path: Path, serves: bool) -> Saboteur:
    """What serves already, handed in once more as news: the good adapter, or an empty one where none ``serves``."""
    adapter = adapter_of_bytes(good.read_bytes())
    path.write_bytes(adapter_bytes(adapter if serves else rescale(adapter, 0.0)))
    return Saboteur("no-op", "what serves already, handed in as an improvement", path)


def norm_ratio(adapter: Adapter, other: Adapter) -> float:
    """The norm of one adapter's B over that of another: how ordinary it looks from outside."""

    def norm(a: Adapter) -> float:
        return float(torch.cat([b.flatten() for b in a.b.values()]).norm())

    return norm(adapter) / norm(other)


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        return tensors, dict(file.metadata() or {})
