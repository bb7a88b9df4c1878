"""What the simulator costs: virtual device-hours per minute of one process, memory per device, and where time goes.

Phones with the surrogate trainer, learning, charging and being used, with readings every 10 seconds and every 5
minutes; every reading goes through the production reducer, its thermal models, shield and placement, and into the log.
"""

import cProfile
import gc
import pstats
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from evergrove.bench.measure import Machine, machine, rss_mb
from evergrove.sim import fleet
from evergrove.sim.scenario import Fleet, Scenario, Stream

PACES = ((10.0, 1_000.0), (300.0, 10_000.0))
"""(seconds between two readings, device-hours a minute that are promised)."""
PACKAGE = Path(fleet.__file__).parents[1]

Report = Callable[[str, int, int], None]


class Sizes(msgspec.Struct, frozen=True):
    """How much is measured: devices and hours of each timed run, how often, and devices whose memory is weighed."""

    devices: int = 24
    hours: float = 24.0
    repeats: int = 3
    weighed: int = 150


QUICK = Sizes(devices=4, hours=4.0, repeats=1, weighed=20)


class Pace(msgspec.Struct, frozen=True):
    """One rate: ``device_hours`` of virtual time a minute (the median of the runs), and what a reading costs.

    ``n_accepted`` versions came out of the last run: it is learning that was timed, not sleeping.
    """

    period_s: float
    device_hours: float
    at_least: float
    step_us: float
    n_runs: int
    n_readings: int
    n_trained: int
    n_accepted: int

    @property
    def met(self) -> bool:
        """Whether the promise is kept here."""
        return self.device_hours >= self.at_least


class Line(msgspec.Struct, frozen=True):
    """One function of the profile: parts of all time, by itself and with what it calls."""

    function: str
    calls: int
    own_share: float
    whole_share: float


class Found(msgspec.Struct, frozen=True):
    """Everything that was measured."""

    machine: Machine
    paces: tuple[Pace, ...]
    kb_per_device: float
    profile: tuple[Line, ...]


def run(sizes: Sizes, report: Report = lambda what, done, total: None) -> Found:
    """Measures all of it. ``report`` is told what is measured, and how much of it is done."""
    total = len(PACES) * sizes.repeats + 2
    # 1. Pace. The first hours of a process are slower (imports, caches), so that one short run goes before.
    fleet.simulate(_scenario(10.0, 1, 1.0))
    paces = []
    for i, (period_s, at_least) in enumerate(PACES):
        hours = sizes.hours * (1.0 if period_s < 60 else 7.0)
        report(f"readings every {period_s:g} s", i * sizes.repeats, total)
        paces.append(_pace(_scenario(period_s, sizes.devices, hours), period_s, at_least, sizes.repeats))
    # 2. Memory, then the profile, which slows everything down.
    report("memory", total - 2, total)
    weight = _kb_per_device(sizes)
    report("profile", total - 1, total)
    return Found(machine(), tuple(paces), weight, _profile(_scenario(10.0, max(sizes.devices // 4, 2), sizes.hours)))


def _scenario(period_s: float, devices: int, hours: float) -> Scenario:
    config = {
        "telemetry": {"period_s": period_s, "idle_period_s": period_s},
        "thermal": {"hold_s": max(20.0, 1.5 * period_s)},
    }
    phones = Fleet("phone", devices, stream=Stream(per_day=160.0), config=config)
    return Scenario("bench", (phones,), hours=hours)


def _pace(scenario: Scenario, period_s: float, at_least: float, repeats: int) -> Pace:
    device_h, seconds = scenario.hours * scenario.n_devices, []
    for _ in range(repeats):
        gc.collect()
        started_s = time.perf_counter()
        outcome = fleet.simulate(scenario)
        seconds.append(time.perf_counter() - started_s)
    median_s = sorted(seconds)[len(seconds) // 2]
    readings = round(device_h * 3600 / period_s)
    jobs = fleet.summary(outcome.devices)["jobs"]
    return Pace(
        period_s=period_s,
        device_hours=round(device_h / median_s * 60),
        at_least=at_least,
        step_us=round(median_s / readings * 1e6, 1),
        n_runs=repeats,
        n_readings=readings,
        n_trained=jobs.get("trained", 0),
        n_accepted=jobs.get("accepted", 0),
    )


def _kb_per_device(sizes: Sizes) -> float:
    """What each device adds to this process while it is at work, in kB, after two hours of readings every 10 s."""
    gc.collect()
    before_mb = rss_mb()
    world = fleet.World(_scenario(10.0, sizes.weighed, 2.0)).run()
    gc.collect()
    grown_mb = rss_mb() - before_mb
    assert world.devices
    return round(grown_mb * 1000 / sizes.weighed, 1)


def _profile(scenario: Scenario, most: int = 14) -> tuple[Line, ...]:
    """Where the time goes, by cProfile: functions by what they take themselves."""
    profiler = cProfile.Profile()
    profiler.enable()
    fleet.simulate(scenario)
    profiler.disable()
    stats = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    total_s = sum(own_s for _, _, own_s, _, _ in stats.values()) or 1.0
    ranked = sorted(stats.items(), key=lambda item: -item[1][2])[:most]
    return tuple(
        Line(_name(*where), calls, round(own_s / total_s, 4), round(whole_s / total_s, 4))
        for where, (_, calls, own_s, whole_s, _) in ranked
    )


def _name(file: str, line: int, function: str) -> str:
    """``rules/thermal.py:update``; functions in C stand as they are."""
    path = Path(file)
    if path.is_relative_to(PACKAGE):
        return f"{path.relative_to(PACKAGE)}:{function}"
    return function if file == "~" else f"{path.name}:{function}"
