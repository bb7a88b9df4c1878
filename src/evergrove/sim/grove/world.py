"""A grove in virtual time: ``sim.fleet``'s world with fogs, a link and a cloud in place of the one gateway.

Everything decided is decided by production: the three reducers, their drivers, the fogs' stores and noise, the
collector, the cloud's folder, its signed repository and the devices' own verification of it. This room only puts them
together, lets time pass, and breaks things: the same scenario and seed break the same things at the same instants.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import takewhile
from pathlib import Path

import numpy as np

from evergrove.adapters.release import Release
from evergrove.adapters.release_write import write_release
from evergrove.adapters.tuf_keys import OFFLINE, ONLINE, new_signers, save_keys
from evergrove.adapters.tuf_metadata import THRESHOLDS
from evergrove.adapters.tuf_repository import Repository
from evergrove.core.config import Config
from evergrove.core.rng import seed_of, stream
from evergrove.core.rollout import FULL, Directive, Policy
from evergrove.rules.learnt import encode
from evergrove.runtime.fleet import FOLDER, ROOT
from evergrove.runtime.fleet_consolidate import released
from evergrove.runtime.fog_noise import FogNoise, budget_of
from evergrove.runtime.rollouts import opened
from evergrove.sim.device import VirtualDevice
from evergrove.sim.disk import Picture, Recorder, Shelf
from evergrove.sim.engine import Courier, SkewedClock, every_so_often
from evergrove.sim.faults import Channel
from evergrove.sim.fleet import Watch, World, clock_of
from evergrove.sim.grove.air import Air, AirLine, Weather
from evergrove.sim.grove.cloud import CloudProcess, Person, VirtualWorkers
from evergrove.sim.grove.device import GroveDevice, Home
from evergrove.sim.grove.fog import FogProcess
from evergrove.sim.grove.link import CollectorProcess, SuperLink
from evergrove.sim.grove.process import Process
from evergrove.sim.grove.spec import FOGS_MAX
from evergrove.sim.grove.trainer import Gardener
from evergrove.sim.grove.witness import Witness
from evergrove.sim.parts import Mind, Parts
from evergrove.sim.scenario import Fleet, Scenario

FOGS = ("north", "south", "east", "west")
assert len(FOGS) == FOGS_MAX
AT_ONCE_SHARE = 0.15
"""Part of the kills that come between two steps, and not at a write."""
LEARNT_PART = 0.5
"""What one job learns, in parts of the clip."""
Noise = Callable[[str], FogNoise]
"""Makes a fog's noise, anew at each of its starts."""


class GroveWorld(World):
    """The world of one scenario with a grove; its files are in ``folder``, which is empty."""

    devices: list[GroveDevice]  # type: ignore[assignment]

    def __init__(
        self, scenario: Scenario, release: Release, folder: Path, witness: Witness | None = None,
        recorder: Recorder | None = None, noise: Noise | None = None,
    ) -> None:  # fmt: skip
        """``release`` is the first one, which every device is made with. ``noise`` None: as the grove's ε says."""
        self.grove, self.release, self.witness = scenario.grove, release, witness or Witness()
        self.home, self._noise = folder, noise or self.own_noise
        self._begun = False
        super().__init__(scenario, recorder, folder)

    def run(self, hours: float | None = None, watch: Watch | None = None) -> "GroveWorld":
        """Lets time pass, as in any world; at the first call everything starts."""
        if not self._begun:
            self._begun = True
            for process in self.processes:
                process.boot()
            self._begin_kills()
        super().run(hours, watch)
        return self

    @property
    def processes(self) -> Sequence[Process]:
        """Everything that runs beside the devices."""
        return (*self.fogs.values(), self.superlink, self.collector, self.cloud, self.person)

    @property
    def mortals(self) -> Sequence[Process | GroveDevice]:
        """Whatever can be killed."""
        return [*self.processes, *self.devices]

    @property
    def kills(self) -> dict[str, int]:
        """Kills by kind so far."""
        counts: dict[str, int] = {}
        for one in self.mortals:
            counts[one.kind] = counts.get(one.kind, 0) + one.n_killed
        return counts

    @property
    def faults(self) -> dict[str, int]:
        """What else went wrong so far, by kind."""
        counts = {name: sum(getattr(air.seen, name) for air in self.airs) for name in Weather.__struct_fields__}
        link = self.courier.carried
        return {**counts, "link_dropped": link.dropped, "link_doubled": link.duplicated}

    def calm(self) -> None:
        """From now on nothing goes wrong any more; only clocks stay as they are."""
        self._stormy = False
        quiet = Channel(delay_s=1.0)
        for air in self.airs:
            air.channel, air.tampered_share = quiet, 0.0
        self.courier.change(quiet)
        self.superlink.calm = True
        self.workers.lost_share = 0.0
        for one in self.mortals:
            one.spare()

    def close(self) -> None:
        """Everything lets go of its files."""
        for process in self.processes:
            process.end()

    # ---- what there is -----------------------------------------------------------------------------------------------

    def _furnish(self) -> None:
        """The cloud with its first release everywhere, the fogs that follow it, and the link between them."""
        grove, down_s = self.grove, self.grove.kills.down_s
        cloud, now_s = self.home / "cloud", self.engine.now_s
        self.names = [
            f"{fleet.name}-{n + 1:0{len(str(fleet.count))}d}"
            for fleet in self.scenario.fleet
            for n in range(fleet.count)
        ]
        # 1. Keys, a repository, the first release.
        signers = new_signers(THRESHOLDS)
        self.repository = Repository(cloud / "repository")
        self.repository.create(signers, now_s)
        save_keys(cloud / "keys", {role: signers[role] for role in ONLINE}, None)
        (cloud / "cloud.toml").write_text(grove.cloud_toml())
        (cloud / "devices.txt").write_text("\n".join(self.names) + "\n")
        offline = {role: signers[role] for role in OFFLINE}
        with opened(cloud) as rollouts:
            rollouts.start(self.release.folder, offline, now_s, Policy(), (), epsilon=0.0, at_once=True)
        self.root = self.repository.root()
        (self.home / ROOT).write_bytes(self.root)
        # 2. Processes.
        self.fogs = {name: self._fog(name) for name in FOGS[: grove.fogs]}
        self.courier = Courier(self.engine, grove.link, self._chance("link"))
        self.superlink = SuperLink(
            self.engine, down_s, self.fogs, self.courier, self._chance("superlink"), self.witness
        )
        collected = cloud / "flower" / "collected"
        self.collector = CollectorProcess(self.engine, down_s, collected, self.superlink, grove.look_s)
        how = grove.consolidating
        self.workers = VirtualWorkers(
            self.engine, self._chance("workers"), how.work_s, how.lost_share, how.harm_share, self.witness
        )
        clock = self._clock("cloud")
        self.cloud = CloudProcess(self.engine, down_s, cloud, clock.now_s, self.workers, grove.look_s)
        self.person = Person(self.engine, down_s, cloud, clock.now_s, offline, grove.look_s * 3, self.names)
        # 3. A repository that nobody should believe.
        self._thief = self._rob()
        self.airs: list[Air] = []
        self._stormy = True

    def _fog(self, name: str) -> FogProcess:
        grove = self.grove
        return FogProcess(
            self.engine, name, grove.kills.down_s, self.home / name, self.repository.folder, self.home / ROOT,
            grove.gathering, self._noise, self._clock(name).now_s, grove.look_s, self.witness,
        )  # fmt: skip

    def _rob(self) -> Path:
        """Somebody else's repository: a release of their own for everybody, signed by keys that do not count."""
        thief, signers, now_s = Repository(self.home / "thief"), new_signers(THRESHOLDS), self.engine.now_s
        thief.create(signers, now_s)
        held, _ = released(self.release)
        bad = replace(held, tensors={name: tensor + 1.0 for name, tensor in held.tensors.items()})
        forged = write_release(self.release, encode(bad), self.home / "forged", self.release.manifest.version + 1)
        thief.publish(forged.folder, signers, now_s, version=1000, epsilon=0.0)
        thief.direct(Directive("stolen", forged.manifest_hash, 1000, FULL, True), signers, now_s)
        return thief.folder

    def _mind(
        self, fleet: Fleet, name: str, config: Config, shown: Iterator[tuple[float, Picture]], rng: np.random.Generator
    ) -> Mind:
        known, manifest = fleet.stream.known, self.release.manifest
        shelf = Shelf(known)
        size = LEARNT_PART * self.grove.gathering.clip
        learner = Gardener(fleet.trainer, known, self.scenario.seed, name, shelf.golden, size)
        end_s = self.engine.start_s + self.scenario.hours * 3600
        until = takewhile(lambda one: one[0] < end_s, shown)  # what comes after is to be quiet
        return Mind(self.release.manifest_hash, known, manifest.teacher is not None, shelf, learner, until)

    def _born(self, parts: Parts) -> VirtualDevice:
        """A device and its home fog; they take turns."""
        grove, name = self.grove, parts.name
        fog = list(self.fogs.values())[len(self.devices) % len(self.fogs)]
        fog.members.append(name)
        folder = self.home / "devices" / name
        (folder / FOLDER).mkdir(parents=True)
        (folder / FOLDER / ROOT).write_bytes(self.root)
        air = Air(self.engine, grove.air, self._chance(name, "air"), grove.tampered_share, self._thief)
        self.airs.append(air)
        line = AirLine(air, fog, name, self.repository.folder, self.witness)
        learner = parts.mind.trainer
        assert isinstance(learner, Gardener), "made by _mind"
        home = Home(
            folder, self.release, lambda ledger: (name, line), learner, self._chance(name, "errands"), grove.poll_s,
            self.witness,
        )  # fmt: skip
        return GroveDevice(self.engine, parts, home)

    # ---- what goes wrong ---------------------------------------------------------------------------------------------

    def _begin_kills(self) -> None:
        kills = self.grove.kills
        per_day = {
            "device": kills.device_per_day, "fog": kills.fog_per_day, "cloud": kills.cloud_per_day,
            "superlink": kills.superlink_per_day, "person": kills.cloud_per_day / 4,
        }  # fmt: skip
        for one in self.mortals:
            rng = self._chance(one.name, "kills")
            every_so_often(self.engine, rng, per_day[one.kind], partial(self._kill, one, rng))

    def _kill(self, one: Process | GroveDevice, rng: np.random.Generator) -> None:
        at_write, (at_once, with_run) = int(rng.integers(self.grove.kills.writes_max)) + 1, rng.random(2).tolist()
        if not self._stormy:
            return
        if one is self.superlink:
            one.kill()
            if with_run < 0.5:  # its run often ends with it
                self.collector.restart()
        else:
            one.kill(0 if at_once < AT_ONCE_SHARE else at_write)

    def _clock(self, name: str) -> SkewedClock:
        return clock_of(self.engine, self.grove.clock, self._chance(name, "clock"))

    def _chance(self, *names: str) -> np.random.Generator:
        return stream(self.scenario.seed, "grove", *names)

    def own_noise(self, fog: str) -> FogNoise:
        """Seeded, as nothing is outside of a simulation."""
        epsilon = self.grove.epsilon
        if not epsilon:
            return FogNoise(fog)
        rng = self._chance(fog, "noise", str(self.fogs[fog].n_killed) if hasattr(self, "fogs") else "0")
        key = seed_of(self.scenario.seed, fog, "key").to_bytes(32, "little")
        return FogNoise(fog, budget_of(epsilon, 1e-6, None), key, rng.bytes)
