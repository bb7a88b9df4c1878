"""What a virtual device is made of: production pieces, and the adapters of virtual time around them."""

from collections.abc import Iterator
from dataclasses import dataclass

from evergrove.core.conditions import Code
from evergrove.core.config import Config
from evergrove.runtime.driver import Step
from evergrove.sim.disk import MemoryLog, Picture, Records
from evergrove.sim.engine import Courier, SkewedClock
from evergrove.sim.plants import Body
from evergrove.sim.scenario import Fleet, Fog
from evergrove.sim.trainers import Trainer
from evergrove.sim.worker import Gateway


@dataclass(frozen=True)
class Mind:
    """What a device learns with and from: its release, records, trainer, and the pictures that it is shown, and when.

    ``release`` is a manifest's hash, ``known`` are its numbers of values, ``teacher`` says whether it brings one.
    """

    release: str
    known: Code
    teacher: bool
    records: Records
    trainer: Trainer
    shown: Iterator[tuple[float, Picture]]


class Parts:
    """What one device is made of; ``sim.fleet`` puts it together."""

    def __init__(
        self,
        *,
        name: str,
        fleet: Fleet,
        config: Config,
        step: Step,
        body: Body,
        log: MemoryLog,
        mind: Mind,
        clock: SkewedClock,
        to_fog: Courier,
        from_worker: Courier,
        gateway: Gateway | None,
        fog: Fog,
        down_s: float,
        point_every_s: float,
    ) -> None:
        self.name, self.fleet, self.config, self.step = name, fleet, config, step
        self.body, self.log, self.mind, self.clock = body, log, mind, clock
        self.to_fog, self.from_worker, self.gateway, self.fog = to_fog, from_worker, gateway, fog
        self.down_s, self.point_every_s = down_s, point_every_s
