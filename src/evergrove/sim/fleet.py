"""A fleet in virtual time: puts devices together from a scenario, lets the hours pass, and says what became of them."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np

from evergrove.core.config import Config
from evergrove.core.errors import UsageError
from evergrove.core.rng import seed_of, stream
from evergrove.sim import plants, plants_thermal
from evergrove.sim.device import VirtualDevice, show_all
from evergrove.sim.disk import MemoryLog, Moment, Picture, Recorder, Shelf, never
from evergrove.sim.engine import Courier, Engine, SkewedClock, every_so_often
from evergrove.sim.faults import Clock, Faults
from evergrove.sim.parts import Mind, Parts
from evergrove.sim.scenario import Fleet, Network, Scenario
from evergrove.sim.trainers import Surrogate
from evergrove.sim.worker import Gateway
from evergrove.tiers import device as tier

MONDAY_S = 1_767_571_200.0
"""Monday, 5 January 2026, 00:00 UTC: when the scenarios' clocks begin."""
SENSORS = ("zones", "load_share", "battery_share", "on_mains")
"""What can vanish in a fault of the sensors."""

Watch = Callable[[float, float], None]
"""Told the hours that have passed, and how many there are in all."""


@dataclass(frozen=True)
class Outcome:
    """A finished run: the scenario with its seed, its devices, and the digest of every event that they logged."""

    scenario: Scenario
    devices: Sequence[VirtualDevice]
    fleets: dict[str, str]
    digest: str
    n_events: int
    n_actions: int


class World:
    """Everything of one scenario in one virtual time; ``run`` lets it pass, in one go or in several."""

    def __init__(self, scenario: Scenario, recorder: Recorder | None = None, folder: Path | None = None) -> None:
        """``folder`` is where devices that really learn keep their files; only those need one."""
        self.scenario = scenario
        self._folder = folder
        self.recorder = recorder or Recorder()
        self.engine = Engine(MONDAY_S + scenario.start_hour * 3600)
        self.devices: list[VirtualDevice] = []
        self.fleets: dict[str, str] = {}
        self.gateway = _gateway(scenario, self.engine)
        self._furnish()
        for fleet in scenario.fleet:
            for number in range(fleet.count):
                name = f"{fleet.name}-{number + 1:0{len(str(fleet.count))}d}"
                self.fleets[name] = fleet.name
                self.devices.append(self._make(fleet, name))

    def run(self, hours: float | None = None, watch: Watch | None = None) -> "World":
        """Lets the scenario's hours pass, or the first ``hours`` of them."""
        total_h = self.scenario.hours if hours is None else hours
        end_s = self.engine.start_s + total_h * 3600
        told = None if watch is None else lambda now_s: watch((now_s - self.engine.start_s) / 3600, total_h)
        self.engine.run(end_s, told)
        return self

    def outcome(self) -> Outcome:
        """What became of it so far."""
        recorder = self.recorder
        return Outcome(self.scenario, self.devices, self.fleets, recorder.digest, recorder.n_events, self.engine.n_done)

    def _make(self, fleet: Fleet, name: str) -> VirtualDevice:
        """One device, its habits and its bad luck, each from a random stream with the device's name."""
        scenario, engine, faults = self.scenario, self.engine, self.scenario.faults
        start_s, day = engine.start_s, fleet.usage.day

        def chance(what: str) -> np.random.Generator:
            return stream(scenario.seed, name, what)

        # 1. What it lives in.
        body = plants.Body(
            plants.Track(plants.usage_pieces(fleet.usage, chance("usage"), start_s), start_s),
            plants.Track(plants.mains_pieces(fleet.power, chance("mains"), start_s), start_s),
            plants.Track(plants.network_pieces(fleet.network, chance("network"), start_s), start_s),
            _heat(fleet, chance("heat"), start_s),
            fleet,
            fleet.heat.trip_c,
            start_s,
        )
        # 2. What it is: the production reducer with the production configuration.
        config = msgspec.structs.replace(fleet.device_config(scenario.fog), seed=seed_of(scenario.seed, name, "device"))
        shown = plants.pictures(fleet.stream, day, chance("stream"), start_s)
        mind = self._mind(fleet, name, config, shown, chance("gallery"))
        device = self._born(
            Parts(
                name=name,
                fleet=fleet,
                config=config,
                step=partial(tier.step, config),
                body=body,
                log=MemoryLog(name, self.recorder, _power(faults, chance("power"))),
                mind=mind,
                clock=clock_of(engine, faults.clock, chance("clock")),
                to_fog=Courier(engine, faults.network, chance("channel")),
                from_worker=Courier(engine, faults.worker, chance("worker")),
                gateway=self.gateway if fleet.trainer.kind == "surrogate" else None,
                fog=scenario.fog,
                down_s=faults.crash.down_s,
                point_every_s=scenario.record.every_s,
            ),
        )
        # 3. What happens to it. Devices do not wake in step.
        period_s = config.telemetry.period_s
        engine.after(float(chance("phase").random()) * min(period_s, 60.0), device.boot)
        engine.after(float(chance("tick").random()) * period_s, partial(_tick, engine, device, period_s))
        show_all(engine, device, mind.shown)
        every_so_often(engine, chance("crash"), faults.crash.per_day, device.crash)
        every_so_often(engine, chance("kill"), faults.crash.kills_per_day, device.kill_worker)
        _break_sensors(engine, faults, chance("sensors"), body)
        return device

    def _furnish(self) -> None:
        """What is there before the devices are: nothing here."""

    def _born(self, parts: Parts) -> VirtualDevice:
        return VirtualDevice(self.engine, parts)

    def _mind(
        self, fleet: Fleet, name: str, config: Config, shown: Iterator[tuple[float, Picture]], rng: np.random.Generator
    ) -> Mind:
        """What it learns with and from: declared numbers, or torch and pictures."""
        seed, spec, known = self.scenario.seed, fleet.trainer, fleet.stream.known
        if spec.kind == "surrogate":
            shelf = Shelf(known)
            return Mind("simulated", known, True, shelf, Surrogate(spec, known, seed, name, shelf.golden), shown)
        if self._folder is None:
            raise UsageError(f"fleet '{fleet.name}' really learns and needs a folder for its devices; give --out")
        from evergrove.adapters.release import open_release
        from evergrove.sim.real import Cabinet, Gallery, Learner

        folder, release = self._folder / name, open_release(spec.release)
        gallery = Gallery(release)
        cabinet = Cabinet(folder, gallery, name, seed)
        learner = Learner(folder, release, spec, config, seed)
        teacher = release.manifest.teacher is not None
        pictures = gallery.shown(shown, rng)
        return Mind(release.manifest_hash, gallery.known, teacher, cabinet, learner, pictures)


def simulate(
    scenario: Scenario, file: BinaryIO | None = None, watch: Watch | None = None, folder: Path | None = None
) -> Outcome:
    """Runs a scenario to its end; its events go to ``file`` as they happen, one JSON line each.

    ``folder`` is for the files of devices that really learn.
    """
    return World(scenario, Recorder(file, scenario.record.telemetry), folder).run(watch=watch).outcome()


def metrics(outcome: Outcome) -> dict[str, Any]:
    """The run in numbers: of the whole, and of each fleet."""
    scenario = outcome.scenario
    names = [fleet.name for fleet in scenario.fleet]
    return {
        "scenario": scenario.name,
        "seed": scenario.seed,
        "hours": scenario.hours,
        "devices": len(outcome.devices),
        "events": outcome.n_events,
        "actions": outcome.n_actions,
        "digest": outcome.digest,
        "total": summary(outcome.devices),
        "fleets": {name: summary([d for d in outcome.devices if outcome.fleets[d.name] == name]) for name in names},
    }


def summary(devices: Sequence[VirtualDevice]) -> dict[str, Any]:
    """Some devices in numbers. Times are hours unless the name says otherwise."""
    diaries = [device.diary for device in devices]
    delays_h = [s / 3600 for d in diaries for s in d.delays_s]
    waits_h = [s / 3600 for d in diaries for s in d.waits_s]
    waiting = sum(len(device.state.fresh) for device in devices)
    return {
        "devices": len(devices),
        "work_core_h": round(sum(d.work_h for d in devices), 3),
        "train_kj": round(sum(d.body.trained_j for d in devices) / 1000, 2),
        "jobs": _added(d.jobs for d in diaries),
        "placements": _added(d.n_said for d in diaries),
        "kept": sum(d.n_kept for d in diaries),
        "dropped": sum(d.n_dropped for d in diaries),
        "lost": sum(d.n_lost for d in diaries),
        "learnt": len(delays_h),
        "waiting": waiting,
        "replaced_unlearnt": sum(len(d.kept_s) - len(d.learnt) for d in diaries) - waiting,
        "delay_h": _spread(delays_h),
        "wait_h": _spread(waits_h),
        "throttled_h": round(sum(d.body.throttled_s for d in devices) / 3600, 3),
        "throttled_devices": sum(d.body.n_throttled > 0 for d in devices),
        "temp_c_max": max((p.temp_c for d in diaries for p in d.points), default=None),
        "battery_share_min": min((p.charge for d in diaries for p in d.points), default=None),
        "bytes_sent": _added(d.sent for d in diaries),
        "crashes": sum(d.n_crashes for d in devices),
        "recoveries_checked": sum(d.n_checked for d in devices),
        "recoveries_unequal": sum(d.n_unequal for d in devices),
        "phase_share": _shares(_added(d.phase_s for d in diaries)),
    }


def _added(parts: Any) -> dict[str, Any]:
    total: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            total[key] = total.get(key, 0) + value
    return dict(sorted(total.items()))


def _shares(parts: dict[str, float]) -> dict[str, float]:
    whole = sum(parts.values()) or 1.0
    return {key: round(value / whole, 4) for key, value in parts.items()}


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    p50, p90 = np.percentile(values, [50, 90]).tolist()
    return {
        "n": len(values),
        "mean": round(statistics.fmean(values), 3),
        "p50": round(p50, 3),
        "p90": round(p90, 3),
        "max": round(max(values), 3),
    }


def _tick(engine: Engine, device: VirtualDevice, period_s: float) -> None:
    engine.after(period_s, partial(_tick, engine, device, period_s))
    device.tick()


def _gateway(scenario: Scenario, engine: Engine) -> Gateway | None:
    """The one fog of all devices, with its own outages."""
    fog = scenario.fog
    if not fog.present:
        return None
    habits = Network(0.0, 3600.0, fog.outages_per_day, fog.outage_s)
    pieces = plants.network_pieces(habits, stream(scenario.seed, "fog", "outages"), engine.start_s)
    return Gateway(engine, fog.assist_s, plants.Track(pieces, engine.start_s).at)


def _heat(fleet: Fleet, rng: np.random.Generator, start_s: float) -> plants.ThermalPlant:
    """A plant of three poles, or a recorded board: each device's own, around what the scenario says."""
    heat = fleet.heat
    if not heat.plant:
        return plants.ThreePoles(heat, rng, start_s)
    board = plants_thermal.by_name(heat.plant)
    scale = float(np.exp(rng.normal(0.0, heat.spread)))
    gains_c, room_c = tuple(g * scale for g in board.gains_c), board.room_c + heat.ambient_c - plants.RECORDED_ROOM_C
    return plants_thermal.Board(msgspec.structs.replace(board, gains_c=gains_c, room_c=room_c), rng)


def clock_of(engine: Engine, lies: Clock, rng: np.random.Generator) -> SkewedClock:
    """A clock that is off as the scenario says, and is set now and then."""
    off, drift = rng.uniform(-1, 1, 2).tolist()
    clock = SkewedClock(engine, lies.offset_s * off, lies.drift_ppm * drift)

    def jump() -> None:
        clock.jump(float(rng.uniform(-1, 1)) * lies.jump_s)

    every_so_often(engine, rng, lies.jumps_per_day, jump)
    return clock


def _power(faults: Faults, rng: np.random.Generator) -> Callable[[], Moment]:
    """Whether the power fails at a write, and when exactly."""
    share = faults.crash.at_write_share
    if share <= 0:
        return never

    def moment() -> Moment:
        if rng.random() >= share:
            return None
        return "before" if rng.random() < 0.5 else "after"

    return moment


def _break_sensors(engine: Engine, faults: Faults, rng: np.random.Generator, body: plants.Body) -> None:
    """Now and then a sensor vanishes for a while."""

    def mend() -> None:
        body.broken = ()

    def fail() -> None:
        body.broken = (SENSORS[int(rng.integers(len(SENSORS)))],)
        engine.after(float(rng.exponential(faults.sensors.seconds)), mend)

    every_so_often(engine, rng, faults.sensors.per_day, fail)
