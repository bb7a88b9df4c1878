"""The cloud of a simulated grove: the production driver over a real folder and a real signed repository, in a process
that can be killed, and a person with the offline keys who signs what waits.

Workers run in virtual time: what they make of sums is production's; what a golden set would say of it is declared.
"""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from evergrove.adapters.files import Files
from evergrove.adapters.release import Release, open_release
from evergrove.adapters.tuf_keys import Signers
from evergrove.core import cloud_events as ev
from evergrove.core.cloud_jobs import (
    CloudFailed,
    CloudJob,
    CloudOutcome,
    ConsolidateJob,
    FleetMeasure,
    MeasureJob,
    MergeJob,
)
from evergrove.core.cloud_settings import Consolidation
from evergrove.core.errors import UsageError
from evergrove.core.measures import Comparison, Kind
from evergrove.rules import learnt, params
from evergrove.rules.carry import on_release
from evergrove.rules.learnt import Learnt
from evergrove.runtime import cloud_golden
from evergrove.runtime.cloud import CloudDriver
from evergrove.runtime.cloud_folder import CloudFolder
from evergrove.runtime.cloud_workers import JOB, Running
from evergrove.runtime.fleet_consolidate import Learning, Vector, consolidate, released
from evergrove.runtime.rollouts import Rollouts, opened
from evergrove.runtime.workers import OUTCOME
from evergrove.sim.engine import Engine
from evergrove.sim.grove.process import Process
from evergrove.sim.grove.witness import Witness

ITEMS, ITEM_STD = 100, 0.05
"""Golden items of a condition, and how much they differ."""
HARM = 0.8
"""What a candidate does to a condition that it loses."""


class CloudProcess(Process):
    """The driver in ``folder``."""

    kind = "cloud"

    def __init__(
        self, engine: Engine, down_s: float, folder: Path, now_s: Callable[[], float], workers: "VirtualWorkers",
        tick_s: float,
    ) -> None:  # fmt: skip
        super().__init__(engine, "cloud", down_s)
        self.folder, self._now_s, self._workers, self._tick_s = folder, now_s, workers, tick_s
        self._driver: CloudDriver | None = None

    @property
    def driver(self) -> CloudDriver:
        """The driver of this life."""
        assert self._driver is not None, "asked only while it is up"
        return self._driver

    def _open(self) -> None:
        driver = CloudDriver(self.folder, self._now_s, self.files, self._workers)
        driver.__enter__()
        self._driver = driver
        self.every(self._tick_s, driver.tick)

    def _close(self) -> None:
        driver, self._driver = self._driver, None
        if driver is not None:
            driver.__exit__(None, None, None)


class Person(Process):
    """Whoever has the offline keys: looks in now and then, signs what waits, and lets a rollout that paused go on."""

    kind = "person"

    def __init__(
        self, engine: Engine, down_s: float, folder: Path, now_s: Callable[[], float], signers: Signers, look_s: float,
        devices: Sequence[str],
    ) -> None:  # fmt: skip
        super().__init__(engine, "person", down_s)
        self._folder, self._now_s, self._signers, self._look_s = folder, now_s, signers, look_s
        self._devices = devices

    def _open(self) -> None:
        self.every(self._look_s, self._look)

    def _close(self) -> None:
        pass

    def _look(self) -> None:
        with contextlib.suppress(UsageError), opened(self._folder, self.files) as rollouts:
            self._act(rollouts)

    def _act(self, rollouts: Rollouts) -> None:
        now_s = self._now_s()
        if rollouts.waiting() is not None:
            rollouts.sign(self._signers, now_s, self._devices)
        elif rollouts.state.status == "paused":
            rollouts.order(ev.RolloutResumed(rollouts.state.rollout, self.name, without_silent=True), now_s)
        elif rollouts.state.status == "stopped":
            rollouts.back(self._signers, now_s)


class VirtualWorkers:
    """Workers in virtual time: done after a while, lost now and then, and ended with their driver."""

    def __init__(
        self, engine: Engine, rng: np.random.Generator, seconds: float, lost_share: float, harm_share: float,
        witness: Witness,
    ) -> None:  # fmt: skip
        """``harm_share`` of the candidates lose a condition."""
        self.engine, self._rng, self._seconds = engine, rng, seconds
        self.lost_share, self._harm_share, self._witness = lost_share, harm_share, witness
        self.harmful: set[str] = set()
        """Candidates that lose a condition: what the gate must not let pass."""

    def start(self, folder: Path, threads: int) -> Running:
        """Begins the job in ``folder``."""
        lost, takes = self._rng.random(2).tolist()
        return _Job(self, folder, self.engine.now_s + self._seconds * (0.5 + takes), lost < self.lost_share)

    def work(self, folder: Path) -> None:
        """What the worker does at its end; its files are its own."""
        job: CloudJob = msgspec.json.decode((folder / JOB).read_bytes(), type=CloudJob)
        outcome: CloudOutcome
        match job:
            case ConsolidateJob():
                made = msgspec.structs.replace(consolidate(job, NO_TORCH), seconds=self._seconds)
                if made.candidate not in self.harmful and float(self._rng.random()) < self._harm_share:
                    self.harmful.add(made.candidate)
                self._witness.made(folder.name, job, made)
                outcome = made
            case MeasureJob():
                outcome = self._measured(job)
            case MergeJob():
                outcome = CloudFailed("a virtual worker makes no generation")
        Files().write(folder / OUTCOME, msgspec.json.encode(outcome))

    def _measured(self, job: MeasureJob) -> FleetMeasure:
        """The candidate at a scale, by real arithmetic; what its golden set says, by declaration."""
        cloud, release = CloudFolder(Path(job.cloud)), open_release(Path(job.release))
        held, _ = released(release)
        whole = learnt.decode(cloud.get(job.candidate), "the candidate")
        scaled = cloud.put(learnt.encode(on_release(whole, held, held, release.manifest.vocabulary, job.gamma)))
        asked = cloud_golden.asked(release, None if job.golden is None else Path(job.golden))
        lost = asked.conditions[0] if job.candidate in self.harmful else None
        kinds: tuple[Kind, ...] = ("incumbent", "release", *(("teacher",) if asked.teacher else ()))
        found = [
            Comparison(kind, condition, ITEMS, HARM if condition == lost else 0.0, ITEM_STD)
            for condition in asked.conditions
            for kind in kinds
        ]
        return FleetMeasure(scaled, None, tuple(found), (), self._seconds)


class _Job:
    """One worker."""

    def __init__(self, workers: VirtualWorkers, folder: Path, done_s: float, lost: bool) -> None:
        self._workers, self._folder, self._done_s, self._lost = workers, folder, done_s, lost
        self._ended: str | None = None

    def ended(self) -> str | None:
        """How it ended; it works in the instant of its end."""
        if self._ended is None and self._workers.engine.now_s >= self._done_s:
            if not self._lost:
                self._workers.work(self._folder)
            self._ended = "the worker was ended by SIGKILL" if self._lost else "the worker exited with 0"
        return self._ended

    def stop(self) -> None:
        """It ends without a word."""
        self._ended = self._ended or "the worker was ended by SIGKILL"


def _fisher_of(release: Release, held: Learnt, layout: params.Layout, how: Consolidation) -> Vector:
    raise UsageError("a virtual worker knows no Fisher: leave consolidate.fisher_precision at 0")


def _reconciled(release: Release, data: bytes, how: Consolidation) -> bytes:
    raise UsageError("a virtual worker reconciles nothing: leave consolidate.reconcile_steps at 0")


NO_TORCH = Learning(_fisher_of, _reconciled)
