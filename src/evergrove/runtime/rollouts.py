"""A cloud's folder: all that it decided in its log, releases and the directive in its signed repository.

::

    keys/         what the cloud may sign by itself: snapshot, timestamp, rollout
    repository/   what devices read, see ``adapters/tuf_repository``
    log           every fact; folding it by ``tiers/cloud`` gives the state
    devices.txt   devices that are known beside those that have reported, one name a line

A decision is logged first and signed then; whoever opens the folder next makes up for a kill in between. A release is
signed before its rollout is logged, since only somebody with the offline keys can do that; a version that was signed
and never rolled out is left unused. One process at a time has the folder, for as long as one thing takes: so a person's
commands and the running cloud (``runtime/cloud``) take turns, and each reads first what the other has logged.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from evergrove.adapters.files import Files, read_bounded
from evergrove.adapters.log import Codec, EventLog
from evergrove.adapters.release import open_release, read_manifest
from evergrove.adapters.tuf_keys import ONLINE, Signers, load_keys
from evergrove.adapters.tuf_metadata import CARD, LIFE
from evergrove.adapters.tuf_repository import Repository
from evergrove.core import cloud_effects as do
from evergrove.core import cloud_events as ev
from evergrove.core.cloud_settings import CloudSettings, Gather
from evergrove.core.errors import AgentBusy, CorruptState, UsageError
from evergrove.core.release import Publication
from evergrove.core.rollout import Policy, Stage
from evergrove.media.packs import pack_bytes
from evergrove.rules import gate, rollout
from evergrove.rules.privacy.quantile import Proposal, proposal
from evergrove.runtime import cloud_golden
from evergrove.runtime.cloud_folder import CloudFolder
from evergrove.tiers import cloud as tier
from evergrove.views.model_card import About, model_card

CODEC = Codec(ev.encode, ev.decode)
DEVICES = "devices.txt"
DEVICES_BYTES_MAX = 16 << 20
SNAPSHOT_EVERY, EVENTS_KEPT = 1000, 20_000
POLL_S = 0.05


class Rollouts:
    """A cloud's folder, opened by ``opened``; ``state`` is the rollout as it stands, ``cloud`` all of the cloud."""

    def __init__(self, folder: Path, files: Files | None = None) -> None:
        self.folder = folder
        self.files = CloudFolder(folder, files)
        self.settings = self.files.settings()
        self.policy = policy_of(self.settings)
        self.repository = Repository(folder / "repository", files)
        self._log = EventLog(folder / "log", CODEC, files=files)
        self.cloud, self._seq = tier.State(), 0
        self._gather: tuple[str, Gather] | None = None
        self._snapshot_seq = 0
        self.catch_up()

    @property
    def state(self) -> rollout.State:
        """The rollout as it stands."""
        return self.cloud.rollout

    # ---- facts -----------------------------------------------------------------------------------------------------

    def catch_up(self) -> bool:
        """Folds what is in the log and not in the state yet, by whoever logged it; whether there was any."""
        if self._seq == 0 or self._log.first_seq > self._seq + 1:
            saved = self._log.latest_snapshot()
            if saved is not None:
                self._seq, self.cloud = saved[0], _state(saved[1])
                self._snapshot_seq = saved[0]
        before = self._seq
        for row in self._log.replay(self._seq):
            self.cloud, _ = tier.step(self.policy, self.cloud, row.event, row.at_s)
            self._seq = row.seq
        return self._seq != before

    def feed(self, event: ev.CloudEvent, now_s: float) -> list[do.Effect]:
        """Logs a fact with all that follows from it, durably; gives the effects that are left to be carried out."""
        cloud, facts, effects = tier.settle(self.policy, self.cloud, event, now_s)
        if facts:
            self._seq = self._log.append(facts, now_s)
        self.cloud = cloud
        if self._seq - self._snapshot_seq >= SNAPSHOT_EVERY:
            self._log.snapshot(self._seq, msgspec.json.encode(self.cloud))
            self._log.compact(EVENTS_KEPT)
            self._snapshot_seq = self._seq
        return effects

    def order(self, fact: ev.RolloutEvent, now_s: float) -> None:
        """Logs a fact and what the rule makes of it, and tells the devices. Raises ``UsageError`` for a refused one."""
        self._check(fact)
        self.feed(fact, now_s)
        self.tick(now_s)

    def tick(self, now_s: float) -> None:
        """Does what time asks for by now, and keeps what is signed online as it was decided, and fresh."""
        while tier.next_due(self.policy, self.cloud, now_s):
            self.feed(ev.TimePassed(), now_s)
        told = rollout.directive(self.state)
        if told is not None and told != self.repository.directive():
            self.repository.direct(told, self._online(), now_s)
        elif self.repository.expires_s()["timestamp"] - now_s < LIFE["timestamp"].total_seconds() / 2:
            self.repository.refresh(self._online(), now_s)

    # ---- the generation --------------------------------------------------------------------------------------------

    def gather(self) -> Gather:
        """What sums of the present generation must be of: the settings, and the clip that it is signed with."""
        if not self.cloud.release:
            return self.settings.gather
        if self._gather is None or self._gather[0] != self.cloud.release:
            folder = self.files.unpacked(self.cloud.release, self.repository.folder / "targets")
            clip = read_manifest(folder).manifest.clip
            self._gather = (self.cloud.release, self.settings.gather.signed(clip))
        return self._gather[1]

    def proposed(self) -> Proposal:
        """The next generation's clip, by the private quantile of this one's norms."""
        gather = self.gather()
        return proposal(gather.clip, self.cloud.norms.values(), gather.quantile)

    # ---- releases --------------------------------------------------------------------------------------------------

    def start(
        self,
        release: str | Path,
        signers: Signers,
        now_s: float,
        policy: Policy,
        devices: Iterable[str],
        *,
        epsilon: float,
        delta: float = 0.0,
        trained_on: str = "",
        at_once: bool = False,
    ) -> Publication:
        """Signs the release in a folder (or a packaged one) and starts its rollout; ``signers`` are the offline keys.

        A release without a ``README.md`` gets a card from its manifest. Nothing is signed where the rollout could not
        start, or a candidate of the fleet's is under way. Raises ``UsageError``.
        """
        if self.cloud.work is not None:
            raise UsageError(
                f"{self.cloud.work.job} is under way with what the fleet has learnt: sign it by `evergrove rollout "
                "sign`, or give it up by `evergrove rollout refuse`, before another release"
            )
        opened, version = open_release(release), self._next_version()
        parent = self.state.good.release if self.state.good else None
        name = f"{opened.manifest_hash[:8]}-v{version}"
        fact = ev.RolloutStarted(
            name, opened.manifest_hash, version, () if at_once else self._stages(policy, name, version, devices), policy
        )
        self._check(fact)
        asked = cloud_golden.asked(opened, self.files.golden)
        card = None
        if not (opened.folder / CARD).exists():
            about = About(trained_on or "Not stated.", epsilon=epsilon, delta=delta, parent=parent)
            card = model_card(opened.manifest, about).encode()
        done = self.repository.publish(
            opened.folder, {**self._online(), **signers}, now_s,
            version=version, epsilon=epsilon, delta=delta, parent=parent, card=card,
        )  # fmt: skip
        self.feed(asked, now_s)
        self.order(fact, now_s)
        return done

    def back(self, signers: Signers, now_s: float) -> Publication:
        """Gives the present release up for the one before it, under a new and higher version, everywhere at once."""
        version = self._next_version()
        fact = rollout.back(self.state, f"back-v{version}", version)
        self._check(fact)
        old = max(p.version for p in self.repository.publications() if p.release == fact.release)
        keys = {**self._online(), **signers}
        done = self.repository.republish(version, old, keys, now_s, back_from=fact.back_from)
        self.order(fact, now_s)
        return done

    def waiting(self) -> do.SignRelease | None:
        """What waits for a person's signature."""
        asked = tier.under_way(self.cloud)
        return asked if isinstance(asked, do.SignRelease) else None

    def sign(
        self, signers: Signers, now_s: float, devices: Iterable[str], *, delta: float = 0.0, at_once: bool = False
    ) -> Publication:
        """Signs the candidate that waits, and starts its rollout by the cloud's settings.

        Nothing is signed where the rollout could not start. Raises ``UsageError``, also where nothing waits or its
        folder is not whole yet.
        """
        asked = self.waiting()
        if asked is None:
            raise UsageError("nothing waits for a signature; `evergrove rollout status` shows where the fleet stands")
        folder, version = self.files.candidate(asked.job), self._next_version()
        if not folder.is_dir():
            raise UsageError(f"{asked.job} is not made up as a release yet; start `evergrove up cloud`, then sign it")
        opened = open_release(folder)
        fact = self.planned(opened.manifest_hash, version, devices, at_once=at_once)
        self._check(fact)
        epsilon = float("inf") if asked.epsilon is None else asked.epsilon
        done = self.repository.publish(
            folder, {**self._online(), **signers}, now_s,
            version=version, epsilon=epsilon, delta=delta, parent=asked.parent,
        )  # fmt: skip
        signed = ev.ReleaseSigned(asked.job, done.release, version, opened.manifest.generation)
        self.feed(signed, now_s)
        self.order(fact, now_s)
        return done

    def planned(
        self, release: str, version: int, devices: Iterable[str], *, at_once: bool = False
    ) -> ev.RolloutStarted:
        """The start of a rollout by the cloud's settings. Raises ``UsageError`` where no device is known."""
        policy, name = self.settings.rollout.policy(), f"{release[:8]}-v{version}"
        return ev.RolloutStarted(
            name, release, version, () if at_once else self._stages(policy, name, version, devices), policy
        )

    def take_golden(self, pictures: Path, now_s: float) -> ev.GenerationOpened:
        """Makes the fleet's golden set of labelled pictures in a folder, in place of the one before; what is asked now.

        Raises ``UsageError`` where no release is out yet, or a job is under way that the old one judges.
        """
        if not self.cloud.release or self.cloud.work is not None:
            raise UsageError(
                "no release is out yet whose conditions these could be" if not self.cloud.release
                else f"{self.cloud.work.job if self.cloud.work else ''} is under way: sign it or give it up first"
            )  # fmt: skip
        release = open_release(self.files.unpacked(self.cloud.release, self.repository.folder / "targets"))
        pack = cloud_golden.pack_of(pictures, release)
        self.files.write_golden(pack_bytes(pack))
        asked = cloud_golden.asked(release, self.files.golden)
        self.feed(asked, now_s)
        return asked

    def hold(self, device: str, version: int | None, now_s: float) -> None:
        """Holds a device at a version, or lets it go (None), and tells the devices."""
        self.feed(ev.DeviceHeld(device, version, "a person"), now_s)
        self.tick(now_s)

    def known_devices(self) -> list[str]:
        """The devices that are known: those that were written down, and those that have said something."""
        path = self.folder / DEVICES
        return sorted({*(read_devices(path) if path.exists() else ()), *self.files.heard()})

    def close(self) -> None:
        """Closes the log."""
        self._log.close()

    def _stages(self, policy: Policy, name: str, version: int, devices: Iterable[str]) -> tuple[Stage, ...]:
        return rollout.plan(policy, name, rollout.free(self.state, devices, version))

    def _check(self, fact: ev.RolloutEvent) -> None:
        why = rollout.refusal(self.state, fact)
        if why is not None:
            raise UsageError(f"{why}; `evergrove rollout status` shows where it stands")

    def _next_version(self) -> int:
        published = [p.version for p in self.repository.publications()]
        return max([self.state.highest, *published]) + 1

    def _online(self) -> Signers:
        return load_keys(self.folder / "keys", None, ONLINE)


def policy_of(settings: CloudSettings) -> tier.Policy:
    """What the reducer decides by. Raises ``UsageError`` where the numbers make no sense together."""
    asked, how, work = settings.gate, settings.consolidate, settings.work
    policy = tier.Policy(
        gate=gate.Policy(
            asked.delta, asked.cumulative, asked.tau, asked.own, alpha=asked.alpha, updates_max=asked.candidates_max,
            n_min=asked.items_min,
        ),
        cohorts=how.cohorts, cohorts_min=how.cohorts_min, wait_s=how.wait_s,
        attempts_max=work.attempts_max, compute_s=work.compute_s, measure_s=work.measure_s,
        needs_gain=asked.needs_gain,
    )  # fmt: skip
    policy.check()
    return policy


@contextlib.contextmanager
def opened(folder: Path, files: Files | None = None, wait_s: float = 0.0) -> Iterator[Rollouts]:
    """The cloud's folder, for one at a time; whoever has it is waited for up to ``wait_s``.

    Raises ``UsageError`` where there is no repository, ``AgentBusy`` where somebody else holds it.
    """
    with held(folder, wait_s):
        rollouts = Rollouts(folder, files)
        try:
            yield rollouts
        finally:
            rollouts.close()


@contextlib.contextmanager
def held(folder: Path, wait_s: float = 0.0, lock: str = ".lock") -> Iterator[None]:
    """The folder's lock, which dies with its holder. Raises as ``opened``."""
    if not Repository(folder / "repository").exists:
        raise UsageError(
            f"'{folder}' is not a cloud's folder: `evergrove keys create KEYS --cloud {folder}` makes it one"
        )
    handle = os.open(folder / lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    until_s = time.monotonic() + wait_s
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as fault:
                if time.monotonic() >= until_s:
                    raise AgentBusy(f"'{folder}' is held by another process; try again when it is done") from fault
            time.sleep(POLL_S)
        yield
    finally:
        os.close(handle)


def read_devices(path: Path) -> list[str]:
    """The devices that are known: one name a line; empty lines and those that begin with # are passed over."""
    try:
        text = read_bounded(path, DEVICES_BYTES_MAX).decode("utf-8", "strict")
    except FileNotFoundError as fault:
        raise UsageError(
            f"there is no list of devices '{path}': one name a line, or name another by --devices"
        ) from fault
    except UnicodeDecodeError as fault:
        raise UsageError(f"{path}: not a list of names: {fault}") from fault
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _state(data: bytes) -> tier.State:
    try:
        return msgspec.json.decode(data, type=tier.State)
    except msgspec.MsgspecError as fault:
        raise CorruptState(
            f"the cloud's snapshot was not understood ({fault}): was it made by a newer Evergrove?"
        ) from fault
