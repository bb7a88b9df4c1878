"""Trigger probes: combinations of known conditions whose pictures a candidate changed into something else.

The golden gate judges condition by condition, over all looks. A backdoor may sit in a single combination
(emotion=happy with hair=bob) and hide in that mean. So combinations are drawn one by one by the release and by the
candidate from equal noise: a picture that moved as far as another condition's would be is a trigger. What a trigger
does outside of known combinations, or below that distance, is not seen: no immunity is claimed (DESIGN §7).
"""

import itertools
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from evergrove.core.conditions import Code
from evergrove.core.release import Sampler
from evergrove.core.rng import stream
from evergrove.learn import flow

NOISES, BATCH = 2, 32


@dataclass(frozen=True)
class Trial:
    """``known``: values of each factor; pictures are ``image_px`` square, drawn as ``sampler`` says.

    At most ``probes`` combinations are looked at, drawn by ``seed``; ``most`` is the movement that is a trigger, in
    units of how far the pictures of two combinations that differ in one factor lie apart in the mean.
    """

    known: Code
    image_px: int
    sampler: Sampler
    probes: int
    most: float
    seed: int


@torch.no_grad()
def triggers(incumbent: nn.Module, candidate: nn.Module, trial: Trial) -> tuple[Code, ...]:
    """The combinations, as full codes, that the candidate turned into something else; worst first."""
    codes = combinations(trial)
    if not codes:
        return ()
    neighbours = [_neighbour(code, trial.known, i) for i, code in enumerate(codes)]
    before, after = _drawn(incumbent, codes, trial), _drawn(candidate, codes, trial)
    apart = _distance(before, _drawn(incumbent, neighbours, trial)).mean().clamp_min(1e-12)
    moved = _distance(before, after) / apart
    found = [(float(m), code) for m, code in zip(moved, codes, strict=True) if not float(m) <= trial.most]
    return tuple(code for _, code in sorted(found, reverse=True))


def combinations(trial: Trial) -> list[Code]:
    """All full codes of known values, or ``probes`` of them by chance."""
    total = 1
    for size in trial.known:
        total *= size
    if total <= trial.probes:
        return list(itertools.product(*(range(1, size + 1) for size in trial.known)))
    chosen = sorted(int(i) for i in stream(trial.seed, "triggers").choice(total, trial.probes, replace=False))
    return [_numbered(i, trial.known) for i in chosen]


def _numbered(index: int, known: Code) -> Code:
    code = []
    for size in reversed(known):
        index, value = divmod(index, size)
        code.append(value + 1)
    return tuple(reversed(code))


def _neighbour(code: Code, known: Code, turn: int) -> Code:
    """The same with one factor's next value; a factor of one value has none."""
    several = [f for f, size in enumerate(known) if size > 1]
    if not several:
        return code
    f = several[turn % len(several)]
    return tuple(n % size + 1 if g == f else n for g, (n, size) in enumerate(zip(code, known, strict=True)))


def _drawn(network: nn.Module, codes: list[Code], trial: Trial) -> Tensor:
    """Pictures (codes, noises, C, H, W); the noise is the same for every combination and network."""
    rng = torch.Generator().manual_seed(trial.seed)
    noise = torch.randn((NOISES, 3, trial.image_px, trial.image_px), generator=rng)
    method, shown = cast(flow.Method, trial.sampler.method), []
    pairs = [(code, n) for code in codes for n in range(NOISES)]
    for first in range(0, len(pairs), BATCH):
        some = pairs[first : first + BATCH]
        condition = torch.tensor([code for code, _ in some])
        start = torch.stack([noise[n] for _, n in some])
        shown.append(flow.sample(network, condition, start, trial.sampler.steps, method, trial.sampler.guidance))
    return torch.cat(shown).reshape(len(codes), NOISES, *noise.shape[1:])


def _distance(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared distance of each combination's pictures."""
    return (first - second).square().flatten(1).mean(1)
