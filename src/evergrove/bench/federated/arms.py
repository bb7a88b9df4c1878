"""The arms of the study: what is compared with what, and how one of them is run."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import metadata
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor, nn

from evergrove.bench.federated import attacks, reading
from evergrove.bench.federated.crowd import Crowd
from evergrove.bench.federated.fleet import Fleet, FleetPlan, make_fleet
from evergrove.bench.federated.lines import Line
from evergrove.bench.federated.study import Result, Spec, centralise, federate
from evergrove.bench.federated.whole import federate_whole
from evergrove.bench.federated.world import World, open_world
from evergrove.learn.adapter import fuse
from evergrove.learn.place import described
from evergrove.learn.strategies import Samples

Kind = Literal["fleet", "central", "whole"]
BAD = 0.1
"""The share of attackers."""
LOOKS = 8
"""How often a curve is read on the way."""


@dataclass(frozen=True)
class Arm:
    """One thing to run for a seed. ``world`` names a shipped release."""

    group: str
    name: str
    kind: Kind
    fleet: FleetPlan
    spec: Spec
    world: str = "avatars"
    attack: str = ""
    curve: bool = False
    judged: bool = True

    def settings(self) -> dict[str, Any]:
        """Everything that was chosen, as it stands in a line."""
        spec: dict[str, Any] = msgspec.to_builtins(self.spec)
        return {"kind": self.kind, "world": self.world, "fleet": msgspec.to_builtins(self.fleet), **spec}


def run(arm: Arm, seed: int, device: str) -> Line:
    """The arm, trained and read. The same arguments give the same line but for its times (and a GPU's rounding)."""
    world = opened(arm.world, device)
    fleet = assembled(arm.world, device, arm.fleet, seed)
    line = Line(
        arm.group, arm.name, seed, len(fleet), arm.spec.epsilon, arm.settings(), 0.0, device=described(device),
        versions={name: metadata.version(name) for name in ("torch", "numpy")},
    )  # fmt: skip
    curve: list[tuple[int, float, float]] = []
    every = max(1, arm.spec.rounds // LOOKS)

    def look(done: int, module: Callable[[], nn.Module]) -> None:
        if arm.curve and (done % every == 0 or done == arm.spec.rounds):
            seen = reading.read(world, fleet, module(), seed)
            curve.append((done, seen.right, seen.kept))

    def told(done: int, crowd: Crowd, vector: Tensor) -> None:
        look(done, lambda: fused(world, crowd, vector))

    # 1. Train.
    if arm.kind == "whole":
        module, n_bytes, seconds = federate_whole(world, fleet, arm.spec, seed, lambda r, m: look(r, lambda: m))
        times = -(-arm.spec.rounds // arm.spec.separation)
        line = replaced(line, n_numbers=n_bytes // 2, n_bytes=n_bytes, uplink=n_bytes * times, seconds=seconds)
    else:
        if arm.kind == "central":
            result = centralise(world, fleet, arm.spec, seed)
        else:
            bad = attacks.attackers(fleet, BAD, seed)
            change = attacks.attack_of(arm.attack, bad, arm.spec.clip)
            taught = attacks.poisoned(world, fleet, bad) if arm.attack == "backdoor" else fleet
            result = federate(world, taught, arm.spec, seed, change, told)
        module = fused(world, result.crowd, result.vector)
        line = _with(line, result)
    # 2. Read.
    line = replaced(line, curve=tuple(curve))
    if not arm.judged:
        return replaced(line, loss=reading.denoising(world, module, Samples(fleet.real, fleet.asked), seed))
    seen = reading.read(world, fleet, module, seed)
    line = replaced(line, loss=seen.loss, reading=seen, ceiling=reading.ceiling(world, fleet))
    if arm.attack:
        at = open_world(arm.world, "cpu")
        adapter = result.crowd.adapter(result.vector.cpu())
        said = reading.gated(at, _cpu(result.crowd), adapter, fleet)
        line = replaced(line, gate=(said.outcome, said.failed, said.sentence))
        line = replaced(line, trigger=attacks.triggered(world, fleet, module, seed))
    return line


def fused(world: World, crowd: Crowd, vector: Tensor) -> nn.Module:
    """The network of a vector."""
    return fuse(world.model, crowd.basis, crowd.adapter(vector))


@lru_cache(maxsize=2)
def opened(name: str, device: str) -> World:
    """One for all arms of a process."""
    if device.startswith("cuda"):
        torch.backends.cuda.matmul.allow_tf32 = True
    return open_world(name, device)


@lru_cache(maxsize=4)
def assembled(name: str, device: str, plan: FleetPlan, seed: int) -> Fleet:
    """One for all arms of a seed and size."""
    return make_fleet(opened(name, device), plan, seed)


def replaced(line: Line, **changes: Any) -> Line:
    """The line with other values."""
    return msgspec.structs.replace(line, **changes)


def _with(line: Line, result: Result) -> Line:
    return replaced(
        line,
        n_numbers=result.n_numbers,
        n_bytes=result.n_bytes,
        uplink=result.n_bytes * result.participations,
        cohort=result.cohort,
        participations=result.participations,
        norm=result.norm,
        clipped=result.clipped,
        refused=result.refused,
        noise_norm=result.noise_norm,
        moved=result.moved,
        epsilon_spent=result.epsilon,
        multiplier=result.multiplier,
        seconds=round(result.seconds, 1),
    )


def _cpu(crowd: Crowd) -> Any:
    return replace(crowd.basis, a={name: rows.cpu() for name, rows in crowd.basis.a.items()})
