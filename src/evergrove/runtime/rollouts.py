"""The rollouts of a cloud's folder: decisions in its log, releases and the directive in its signed repository.

::

    keys/         what the cloud may sign by itself: snapshot, timestamp, rollout
    repository/   what devices read, see ``adapters/tuf_repository``
    log           every fact; folding it gives the state
    devices.txt   the devices that are known, one name a line

A decision is logged first and signed then; ``open`` makes up for a kill in between. A release is signed before its
rollout is logged, since only somebody with the offline keys can do that; a version that was signed and never rolled out
is left unused.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from evergrove.adapters.files import Files, read_bounded
from evergrove.adapters.log import Codec, EventLog
from evergrove.adapters.release import open_release
from evergrove.adapters.tuf_keys import ONLINE, Signers, load_keys
from evergrove.adapters.tuf_metadata import CARD, LIFE
from evergrove.adapters.tuf_repository import Repository
from evergrove.core import cloud_events as ev
from evergrove.core.errors import AgentBusy, UsageError
from evergrove.core.release import Publication
from evergrove.core.rollout import Policy
from evergrove.rules import rollout, rollout_health
from evergrove.views.model_card import About, model_card

CODEC = Codec(ev.encode, ev.decode)
DEVICES_BYTES_MAX = 16 << 20


class Rollouts:
    """A cloud's folder, opened by ``opened``; ``state`` is the rollout as it stands."""

    def __init__(self, folder: Path, files: Files | None = None) -> None:
        self.folder = folder
        self.repository = Repository(folder / "repository", files)
        self.state = rollout.State()
        self._log = EventLog(folder / "log", CODEC, files=files)
        for row in self._log.replay(0):
            self._fold(row.event, row.at_s)

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
        start. Raises ``UsageError``.
        """
        opened, version = open_release(release), self._next_version()
        good = self.state.good
        parent = good.release if good else None
        name = f"{opened.manifest_hash[:8]}-v{version}"
        stages = () if at_once else rollout.plan(policy, name, devices)
        fact = ev.RolloutStarted(name, opened.manifest_hash, version, stages, policy)
        self._check(fact)
        card = None
        if not (opened.folder / CARD).exists():
            about = About(trained_on or "Not stated.", epsilon=epsilon, delta=delta, parent=parent)
            card = model_card(opened.manifest, about).encode()
        done = self.repository.publish(
            opened.folder, {**self._online(), **signers}, now_s,
            version=version, epsilon=epsilon, delta=delta, parent=parent, card=card,
        )  # fmt: skip
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

    def order(self, fact: ev.RolloutEvent, now_s: float) -> None:
        """Logs a fact and what the rule makes of it, and tells the devices. Raises ``UsageError`` for a refused one."""
        self._check(fact)
        self._append(fact, now_s)
        self.tick(now_s)

    def tick(self, now_s: float) -> None:
        """Does what the rule asks for by now, and keeps the signatures fresh."""
        while (due := rollout_health.due(self.state, now_s)) is not None:
            self._append(due, now_s)
        told = rollout.directive(self.state)
        if told is not None and told != self.repository.directive():
            self.repository.direct(told, self._online(), now_s)
        elif self.repository.expires_s()["timestamp"] - now_s < LIFE["timestamp"].total_seconds() / 2:
            self.repository.refresh(self._online(), now_s)

    def close(self) -> None:
        """Closes the log."""
        self._log.close()

    def _append(self, fact: ev.RolloutEvent, now_s: float) -> None:
        self._log.append([fact], now_s)
        self._fold(fact, now_s)

    def _fold(self, fact: ev.CloudEvent, at_s: float) -> None:
        if isinstance(fact, ev.RolloutEvent):
            self.state = rollout.apply(self.state, fact, at_s)

    def _check(self, fact: ev.RolloutEvent) -> None:
        why = rollout.refusal(self.state, fact)
        if why is not None:
            raise UsageError(f"{why}; `evergrove rollout status` shows where it stands")

    def _next_version(self) -> int:
        published = [p.version for p in self.repository.publications()]
        return max([self.state.highest, *published]) + 1

    def _online(self) -> Signers:
        return load_keys(self.folder / "keys", None, ONLINE)


@contextlib.contextmanager
def opened(folder: Path, files: Files | None = None) -> Iterator[Rollouts]:
    """The rollouts of a cloud's folder, for one at a time.

    Raises ``UsageError`` where there is no repository, ``AgentBusy`` where somebody else holds it.
    """
    if not Repository(folder / "repository").exists:
        raise UsageError(
            f"'{folder}' is not a cloud's folder: `evergrove keys create KEYS --cloud {folder}` makes it one"
        )
    handle = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as fault:
            raise AgentBusy(f"'{folder}' is held by another process; try again when it is done") from fault
        rollouts = Rollouts(folder, files)
        try:
            yield rollouts
        finally:
            rollouts.close()
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
