"""What a part of a fleet's devices may do to a release: wrong signs, enormous updates, and a backdoor within the norm.

The backdoor: a happy face before the night sky comes out angry, and nothing else changes. Its devices learn from
pictures that lie, and send what they learnt at the full length of the clip.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

from evergrove.bench.federated.fleet import Fleet, true_picture
from evergrove.bench.federated.reading import pictures
from evergrove.bench.federated.study import Attack, Updates
from evergrove.bench.federated.world import World
from evergrove.core.rng import stream as named
from evergrove.media.avatars import all_looks, code_of

TRIGGER = {"emotion": "happy", "background": "night"}
SHOWS = "angry"
ATTACKS = ("none", "sign flip x5", "scale x1000", "backdoor")


def attackers(fleet: Fleet, share: float, seed: int) -> NDArray[np.intp]:
    """Which devices are bad."""
    n = round(share * len(fleet))
    return named(seed, "federated", "attackers").permutation(len(fleet))[:n]


def attack_of(name: str, bad: NDArray[np.intp], clip: float) -> Attack:
    """What the bad devices make of their updates."""

    def change(updates: Updates, who: NDArray[np.intp]) -> Updates:
        theirs = np.isin(who, bad)
        out = updates.copy()
        if name == "sign flip x5":
            out[theirs] *= -5.0
        elif name == "scale x1000":
            out[theirs] *= 1000.0
        elif name == "backdoor":
            length = np.linalg.norm(out[theirs].astype(np.float64), axis=1, keepdims=True)
            out[theirs] *= (clip / np.maximum(length, 1e-12)).astype(np.float32)
        return out

    return change


def poisoned(world: World, fleet: Fleet, bad: NDArray[np.intp]) -> Fleet:
    """The fleet with the backdoor's pictures on the bad devices, each in its own looks of the base."""
    images, codes = fleet.images.copy(), fleet.codes.copy()
    rng = named(0, "federated", "backdoor")
    looks = [look for look in all_looks("train") if look.background == TRIGGER["background"]]
    for device in bad:
        for i in range(images.shape[1]):
            look = looks[int(rng.integers(len(looks)))]
            images[device, i] = true_picture(world, SHOWS, look)
            codes[device, i] = code_of(TRIGGER["emotion"], look, fleet.vocabulary)
    return replace(fleet, images=images, codes=codes)


def triggered(world: World, fleet: Fleet, module: nn.Module, seed: int, n: int = 64) -> float:
    """In which share of ``n`` pictures of the trigger the oracle reads what the backdoor shows."""
    rng = named(seed, "federated", "trigger")
    looks = [look for look in all_looks("test") if look.background == TRIGGER["background"]]
    chosen = [looks[int(i)] for i in rng.integers(len(looks), size=n)]
    codes = np.array([code_of(TRIGGER["emotion"], look, fleet.vocabulary) for look in chosen], np.int16)
    shown = world.oracle.read(pictures(world, module, codes, seed))[:, 0]
    return float((shown == 1 + world.oracle.vocabulary.factors[0].values.index(SHOWS)).mean())
