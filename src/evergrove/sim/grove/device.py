"""A device of a simulated grove: ``sim.device`` with production's errands, outbox, versions and signed releases.

Its log is in memory and its learning declared, as in any simulated fleet; what it sends, fetches, verifies and points
to is on a disk, by the rooms that do it on a real device, and every write of theirs can be its last.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evergrove import __version__
from evergrove.adapters.release import Release, open_release
from evergrove.adapters.versions import Versions
from evergrove.core import effects as do
from evergrove.core import events as ev
from evergrove.core.errors import EvergroveError
from evergrove.runtime.agent import pointer_differs
from evergrove.runtime.fleet import Connect, Fleet
from evergrove.sim.device import VirtualDevice
from evergrove.sim.engine import Engine
from evergrove.sim.grove.process import Fuse
from evergrove.sim.grove.trainer import Gardener
from evergrove.sim.grove.witness import Witness
from evergrove.sim.parts import Parts

ERRAND_S = 20.0
"""How long an errand takes on average, each way."""


@dataclass(frozen=True)
class Home:
    """Where a device keeps its files, what it was made with, and how it reaches its fog.

    ``learner`` is its trainer, ``chance`` where its tokens and the times of its errands come from.
    """

    folder: Path
    first: Release
    connect: Connect
    learner: Gardener
    chance: np.random.Generator
    poll_s: float
    witness: Witness


class GroveDevice(VirtualDevice):
    """A member of the grove."""

    kind = "device"

    def __init__(self, engine: Engine, parts: Parts, home: Home) -> None:
        super().__init__(engine, parts)
        self._home, self._fuse = home, Fuse()
        self._seen = ""
        self.n_killed_at_writes = 0

    @property
    def n_killed(self) -> int:
        """How often it lost its memory."""
        return self.n_crashes

    # ---- life --------------------------------------------------------------------------------------------------------

    def kill(self, at_write: int = 0) -> None:
        """Kills it now, or at its n-th write to its files from now on."""
        if not self.up:
            return
        if at_write == 0:
            self.crash()
        elif self._fuse.left is None:
            self._fuse.left = at_write

    def spare(self) -> None:
        """A kill that was to come does not, and the power does not fail at its log any more."""
        self._fuse.left = None
        self._parts.log.secure()

    def _come_up(self) -> None:
        """As ``runtime.agent`` starts: versions, releases and log are brought to one state."""
        home, state = self._home, self.state
        self._fuse.mend()
        self._seen = ""
        self._versions = Versions(home.folder / "versions", files=self._fuse.files)
        self._versions.recover()
        self._fleet = Fleet(
            home.folder, home.first, self._versions, home.connect, self._parts.clock.now_s, self._enter,
            self._fuse.files, chance=home.chance.bytes,
        )  # fmt: skip
        facts: list[ev.Event] = [ev.AgentStarted(__version__)]
        if not state.device:
            mind = self._parts.mind
            seed = self._parts.config.seed
            facts.insert(0, ev.DeviceInitialised(self.name, mind.release, mind.known, mind.teacher, seed))
            self._wear(home.first)
        else:
            self._wear(self._open(state.release))
            differs = pointer_differs(self._versions.read_pointer(), state, self._name(state.release))
            if differs is not None:
                facts.append(differs)
            elif not state.probation:
                self._confirm(state.active)
        self.feed(*facts)
        self._engine.after(float(home.chance.random()) * home.poll_s, self._here(self._watch))

    def _heed(self, fact: ev.Event) -> None:
        super()._heed(fact)
        if isinstance(fact, ev.ReleaseActivated):
            self._wear(self._open(fact.release))
            self._home.witness.serves(self.name, fact.release, self.state.following.version)

    def _wear(self, release: Release) -> None:
        self._fleet.wear(release)
        self._home.learner.wear(release, self._versions, self._open)

    def _open(self, release: str) -> Release:
        first = self._home.first
        return first if release == first.manifest_hash else open_release(self._fleet.place_of(release))

    def _name(self, release: str) -> str:
        """A release as the pointer names it."""
        return "" if release == self._home.first.manifest_hash else release

    # ---- orders ------------------------------------------------------------------------------------------------------

    def _perform(self, order: do.Effect) -> list[ev.Event]:
        match order:
            case do.ActivateVersion():
                return [self._activate(order)]
            case do.ConfirmVersion():
                self._confirm(order.adapter)
                return []
            case do.ShareLearnt():
                terms = self.state.sharing.terms
                return self._errand(lambda: self._fleet.share(order, terms))
            case do.FetchRelease():
                return self._errand(lambda: [self._fleet.fetch(order)])
            case do.SendReport():
                return self._errand(lambda: [self._fleet.report(order)])
            case _:
                return super()._perform(order)

    def _activate(self, order: do.ActivateVersion) -> ev.Event:
        """Turns the pointer; every release of this world numbers its conditions alike."""
        versions, here = self._versions, self._name(self.state.release)
        if order.release in ("", self.state.release):
            pointer = versions.activate(
                order.current, order.previous, order.sequence,
                probation=order.probation, release=here, previous_release=here,
            )  # fmt: skip
            return ev.VersionActivated(order.current, pointer.seq)
        manifest, there = self._open(order.release).manifest, self._name(order.release)
        versions.activate(
            order.current, order.previous, order.sequence,
            probation=order.probation, release=there, previous_release=here if order.probation else there,
        )  # fmt: skip
        sizes = self.state.sizes
        table = tuple(tuple(range(n + 1)) for n in sizes)
        return ev.ReleaseActivated(
            order.release, order.current, order.sequence, sizes, manifest.known, table,
            manifest.teacher is not None, False,
        )  # fmt: skip

    def _confirm(self, adapter: str | None) -> None:
        pointer = self._versions.read_pointer()
        if pointer.current == adapter and pointer.probation:
            self._versions.activate(pointer.current, pointer.previous, pointer.seq, probation=False)

    def _errand(self, act: Callable[[], Sequence[ev.Event]]) -> list[ev.Event]:
        """Goes out a little later, and is heard of a little later still: the device may be another one by then."""
        goes_s, comes_s = self._home.chance.exponential(ERRAND_S, 2).tolist()

        def go() -> None:
            facts = act()
            self._engine.after(comes_s, self._here(lambda: self.feed(*facts)))

        self._engine.after(goes_s, self._here(go))
        return []

    def _enter(self, fact: ev.BytesSent) -> None:
        self.feed(fact)

    def _watch(self) -> None:
        """One look for news of releases, and then the next."""
        self._engine.after(self._home.poll_s, self._here(self._watch))
        try:
            self._seen = self._fleet.look(self._seen, 0.0, lambda: self.state.following.directive, self.feed)
        except EvergroveError:
            return
