"""How often does the drift alarm cry wolf, and how soon does it notice? Real pictures through the agent's own path.

    python benchmarks/drift.py                # 10 seeds, about two minutes
    python benchmarks/drift.py --seeds 2      # to see that it works

A device meets avatars of one new condition (love) through a camera: each picture a little noisy, moved or lit. Two
worlds: *anybody* (3840 looks) and a *household* of three people who change their clothes and rooms. Pictures are
measured and kept or dropped as an agent does it; `rules/drift` sees the surprises. Stationary: alarms per 1000.
Change of look: after ``--before`` arrivals everybody looks new (glasses, hair, hat, beard, clothes, or the light goes),
and the delay is counted in arrivals until the alarm. Needs the extra ``demo``.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evergrove.core.config import Config
from evergrove.core.rng import stream as named
from evergrove.media import avatars, streams
from evergrove.rules import drift, features, novelty
from evergrove.rules.kept import KeptIndex, measure

Image = NDArray[np.uint8]
Change = Callable[[avatars.Look], avatars.Look]
LOVE = avatars.HELD_BACK_FACES["love"]
CONDITION = (7, 0, 0, 0, 0, 0)
CHANGES: dict[str, Change] = {
    "glasses": lambda look: replace(look, accessory="glasses"),
    "sunglasses": lambda look: replace(look, accessory="sunglasses"),
    "beard": lambda look: replace(look, facial_hair="full_beard"),
    "hair": lambda look: replace(look, hair="wild"),
    "hat": lambda look: replace(look, hair="beanie"),
    "clothes": lambda look: replace(look, clothes="astronaut"),
    "half the light": lambda look: look,
}


class World:
    """Endless pictures of one condition. ``people`` None: anybody."""

    def __init__(self, atelier: avatars.Atelier, rng: np.random.Generator, people: int | None) -> None:
        self._atelier, self._rng = atelier, rng
        looks = avatars.all_looks()
        if people is not None:
            heads = [looks[int(i)] for i in rng.choice(len(looks), people, replace=False)]
            looks = [
                look
                for look in looks
                if any((look.hair, look.skin, look.hair_color) == (one.hair, one.skin, one.hair_color) for one in heads)
            ]
        self._looks = looks

    def show(self, change: str | None = None) -> Iterator[tuple[Image, avatars.Look]]:
        """Picture after picture, and whom it shows."""
        while True:
            look = self._looks[int(self._rng.integers(len(self._looks)))]
            shown = self._atelier.draw(LOVE, look if change is None else CHANGES[change](look))
            if change == "half the light":
                shown = (shown * 0.5).astype(np.uint8)
            for by in self._rng.permutation(3)[: int(self._rng.integers(1, 3))]:
                shown, _ = (streams.noisy, streams.shifted, streams.lit)[int(by)](shown, self._rng)
            yield shown, look


class Device:
    """Novelty and drift of one condition, as an agent runs them."""

    def __init__(self, seed: int, policy: drift.Policy) -> None:
        config = Config()
        self._policy, self._drift = novelty.Policy.of(config.novelty, config.replay), policy
        self._novelty, self._kept, self._seed = novelty.State(), KeptIndex.empty(), seed
        self.watches: tuple[drift.Watch, ...] = ()
        self.n_told = 0

    def observe(self, pixels: Image, look: avatars.Look) -> float | None:
        """One arrival; the statistic of an alarm."""
        code = (7, *(hash_of(value) for value in look.values()))
        described = features.digest(pixels), features.perceptual_hash(pixels), features.describe(pixels)
        facts = measure(*described, self._kept, code)
        near = novelty.is_near(self._policy, facts)
        told = not (facts.exact_duplicate or near or facts.distance is None)
        self.n_told += told
        self.watches, alarm = drift.notice(self._drift, self.watches, CONDITION, facts, near=near, n_max=256)
        name = str(self._novelty.n_decided)
        chance = novelty.draw(named(self._seed, "novelty", self._novelty.n_decided))
        self._novelty, decision = novelty.decide(
            self._novelty, self._policy, name, CONDITION, 3000, facts, chance, golden=True
        )
        if decision.keep:
            self._kept = self._kept.add(name, *described, code)
        for record in decision.evict:
            self._kept = self._kept.retire(record)
        return alarm


def hash_of(value: str) -> int:
    """A number for a label, the same in every run."""
    return int.from_bytes(value.encode()[:6].ljust(6, b"_"), "big")


def stationary(world: World, seed: int, n: int, policy: drift.Policy) -> tuple[int, int]:
    """Alarms in ``n`` arrivals without a change, and how many of the arrivals were no copies."""
    device = Device(seed, policy)
    shown = world.show()
    alarms = sum(device.observe(*next(shown)) is not None for _ in range(n))
    return alarms, device.n_told


def delay(world: World, seed: int, change: str, before: int, n_max: int, policy: drift.Policy) -> int | None:
    """Arrivals from the change of look to the alarm; None where it does not come within ``n_max``."""
    device = Device(seed, policy)
    shown, changed = world.show(), world.show(change)
    for _ in range(before):
        device.observe(*next(shown))
    for i in range(n_max):
        if device.observe(*next(changed)) is not None:
            return i + 1
    return None


def main() -> None:
    """Prints one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--arrivals", type=int, default=1000)
    parser.add_argument("--before", type=int, default=150)
    parser.add_argument("--after", type=int, default=150)
    for field, default in zip(drift.Policy.__struct_fields__, drift.Policy.__struct_defaults__, strict=True):
        parser.add_argument(f"--{field.replace('_', '-')}", type=type(default), default=default)
    options = vars(parser.parse_args())
    policy = drift.Policy(**{field: options[field] for field in drift.Policy.__struct_fields__})
    atelier, report = avatars.Atelier(), dict[str, Any]()
    for name, people in (("anybody", None), ("household", 3)):
        worlds = [(s, named(s, "drift", name)) for s in range(options["seeds"])]
        quiet = [stationary(World(atelier, rng, people), s, options["arrivals"], policy) for s, rng in worlds]
        n_alarms, n_told = (sum(column) for column in zip(*quiet, strict=True))
        n = options["arrivals"] * len(worlds)
        report[name] = {"false_alarms": n_alarms, "per_1000": 1000 * n_alarms / n, "no_copies_share": n_told / n}
        for change in CHANGES:
            waits = [
                delay(World(atelier, named(s, "drift", name, change), people), s, change, options["before"],
                      options["after"], policy)
                for s, _ in worlds
            ]  # fmt: skip
            found = sorted(wait for wait in waits if wait is not None)
            report[name][change] = {
                "median_delay": median(found) if found else None,
                "worst": found[-1] if found else None,
                "missed": len(waits) - len(found),
            }
    print(json.dumps({"seeds": options["seeds"], "policy": policy.__class__.__name__} | report, indent=1))


if __name__ == "__main__":
    main()
