"""What the oracle reads off a release's pictures, and what the golden gate says of it."""

from dataclasses import dataclass
from typing import cast

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from evergrove.bench.federated.fleet import Fleet
from evergrove.bench.federated.world import World
from evergrove.core.config import Gate
from evergrove.core.rng import seed_of
from evergrove.learn.adapter import Adapter, Basis
from evergrove.learn.evaluate import Golden, Roles, measure, network
from evergrove.learn.flow import Method, sample
from evergrove.learn.generator import to_condition, to_uint8
from evergrove.learn.strategies import Samples
from evergrove.rules import gate

N_KEPT = 96


class Reading(msgspec.Struct, frozen=True):
    """Shares of pictures in which the oracle reads what was asked for: the emotion, and the hair where it is new.

    ``right``: all of a fleet's (look, emotion) pairs; ``seen`` those that the look's own device saw, ``unseen`` the
    others; ``new_seen`` and ``new_unseen`` of these the new emotions. ``emotion`` and ``hair`` are each alone, ``kept``
    the emotion in looks of the base. ``loss`` is the denoising error on true pictures of what was asked.
    """

    right: float
    seen: float
    unseen: float
    new_seen: float
    new_unseen: float
    emotion: float
    hair: float
    kept: float
    loss: float
    by_emotion: dict[str, float]
    by_hair: dict[str, float]


@dataclass(frozen=True)
class Verdict:
    """What the gate said, in a word and a sentence, and how many of its questions failed."""

    outcome: str
    sentence: str
    failed: int


def read(world: World, fleet: Fleet, module: nn.Module, seed: int) -> Reading:
    """Pictures of every asked pair and of the golden set's conditions, read by the oracle."""
    asked = fleet.asked
    shown = world.oracle.read(pictures(world, module, asked, seed))
    ours = _numbers(world, fleet, asked)
    emotion = shown[:, 0] == ours[:, 0]
    hair = shown[:, 1] == ours[:, 1]
    right = emotion & hair if fleet.plan.hairs else emotion
    codes = world.golden.codes[:: max(1, len(world.golden.codes) // N_KEPT)][:N_KEPT]
    kept = world.oracle.read(pictures(world, module, codes, seed))[:, 0] == codes[:, 0]

    def mean(values: NDArray[np.bool_], rows: NDArray[np.bool_]) -> float:
        return round(float(values[rows].mean()), 4) if rows.any() else float("nan")

    every = np.ones(len(asked), np.bool_)
    names, hairs = fleet.vocabulary.factors[0].values, fleet.vocabulary.factors[1].values
    return Reading(
        right=mean(right, every),
        seen=mean(right, fleet.seen),
        unseen=mean(right, ~fleet.seen),
        new_seen=mean(right, fleet.seen & fleet.new),
        new_unseen=mean(right, ~fleet.seen & fleet.new),
        emotion=mean(emotion, every),
        hair=mean(hair, every),
        kept=mean(kept, np.ones(len(codes), np.bool_)),
        loss=round(denoising(world, module, Samples(fleet.real, asked), seed), 6),
        by_emotion={name: mean(right, asked[:, 0] == i + 1) for i, name in enumerate(names)},
        by_hair={
            name: mean(right, asked[:, 1] == i + 1) for i, name in enumerate(hairs) if (asked[:, 1] == i + 1).any()
        },
    )


def ceiling(world: World, fleet: Fleet) -> float:
    """The share of *true* pictures that the oracle reads right."""
    shown, ours = world.oracle.read(fleet.real), _numbers(world, fleet, fleet.asked)
    right = shown[:, 0] == ours[:, 0]
    return float((right & (shown[:, 1] == ours[:, 1]) if fleet.plan.hairs else right).mean())


def pictures(world: World, module: nn.Module, codes: NDArray[np.int16], seed: int) -> NDArray[np.uint8]:
    """One picture a code by the release's sampler; the same noise for every arm of a seed."""
    rng = torch.Generator().manual_seed(seed_of(seed, "federated", "noise"))
    px, sampler = world.manifest.image_px, world.manifest.sampler
    noise = torch.randn((len(codes), 3, px, px), generator=rng).to(world.device)
    condition = to_condition(codes).to(world.device)
    method = cast(Method, sampler.method)
    parts = [
        to_uint8(sample(module, c, z, sampler.steps, method, sampler.guidance).cpu())
        for c, z in zip(torch.split(condition, 128), torch.split(noise, 128), strict=True)
    ]
    return np.concatenate(parts)


@torch.no_grad()
def denoising(world: World, module: nn.Module, samples: Samples, seed: int) -> float:
    """The mean squared error of x̂ at t = .3 to .8, where a lost condition shows (see ``learn/evaluate.Probe``)."""
    rng = torch.Generator().manual_seed(seed_of(seed, "federated", "denoising"))
    x, code = samples.pick()
    t = torch.linspace(0.3, 0.8, len(x))[torch.randperm(len(x), generator=rng)]
    noise = torch.randn(x.shape, generator=rng)
    total = 0.0
    for rows in torch.split(torch.arange(len(x)), 128):
        at = t[rows].reshape(-1, 1, 1, 1)
        x_t = ((1 - at) * noise[rows] + at * x[rows]).to(world.device)
        x_hat = module(x_t, t[rows].to(world.device), code[rows].to(world.device))
        total += float((x_hat - x[rows].to(world.device)).square().mean(dim=(1, 2, 3)).sum())
    return total / len(x)


def gated(world: World, basis: Basis, adapter: Adapter, fleet: Fleet) -> Verdict:
    """The production measurement and rule on a consolidated release, beside the base; no user's picture goes in.

    Questions: harm to every emotion that the release knew, on its golden set, and a gain on every new emotion, on
    public pictures of it in looks of no device's.
    """
    known = world.manifest.vocabulary.sizes[0]
    old = tuple(_masked(fleet, 0, n) for n in range(1, known + 1))
    learnt = tuple(_masked(fleet, 0, n) for n in range(known + 1, fleet.vocabulary.sizes[0] + 1))
    golden = Golden(world.golden, old, seed_of(0, "federated", "golden"), world.manifest.vocabulary.sizes)
    own = Golden(Samples(fleet.real[fleet.new], fleet.asked[fleet.new]), learnt, seed_of(0, "federated", "own"))
    release = network(world.model, basis, None, fleet.vocabulary)
    candidate = network(world.model, basis, adapter, fleet.vocabulary)
    comparisons = measure(Roles(candidate, release, release), golden, own, learnt)
    expected = gate.questions(old, (), learnt, teacher=False)
    _, verdict = gate.judge(gate.State(), gate.Policy.of(Gate()), comparisons, expected, 1.0)
    return Verdict(verdict.outcome, verdict.sentence, len(verdict.failed))


def _masked(fleet: Fleet, factor: int, value: int) -> tuple[int, ...]:
    return tuple(value if f == factor else 0 for f in range(len(fleet.vocabulary.factors)))


def _numbers(world: World, fleet: Fleet, codes: NDArray[np.int16]) -> NDArray[np.int16]:
    """The codes in the oracle's numbers of emotions and hair (0: the oracle does not know it)."""
    out = codes.copy()
    for f in (0, 1):
        theirs = world.oracle.vocabulary.factors[f].values
        table = [0] + [theirs.index(v) + 1 if v in theirs else 0 for v in fleet.vocabulary.factors[f].values]
        out[:, f] = np.array(table)[codes[:, f]]
    return out
