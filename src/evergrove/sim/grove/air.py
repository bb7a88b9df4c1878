"""What lies between a device and its fog: requests that are lost, come twice or too late, answers that never arrive,
bytes that change on their way, and somebody who answers in the repository's place.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
from tuf.ngclient.fetcher import FetcherInterface

from evergrove.adapters.tuf_client import FOLDER_URL, FolderFetcher, Source
from evergrove.core import transport
from evergrove.core.errors import EvergroveError, Unreachable
from evergrove.core.fog import Receipt, Terms
from evergrove.sim.engine import Engine
from evergrove.sim.faults import Channel
from evergrove.sim.grove.fog import FogProcess
from evergrove.sim.grove.witness import Witness

T = TypeVar("T")
STOLEN_S = 900.0
"""How long a thief stays in the line."""


class Weather(msgspec.Struct):
    """What has gone wrong: requests lost, of these only late, doubled; answers lost; files damaged; looks at a thief's
    repository in place of the cloud's."""

    lost: int = 0
    late: int = 0
    doubled: int = 0
    unheard: int = 0
    tampered: int = 0
    stolen: int = 0


class Air:
    """The channel, and the chance in it; ``channel`` may change. ``tampered_share`` of what is fetched is damaged."""

    def __init__(
        self, engine: Engine, channel: Channel, rng: np.random.Generator, tampered_share: float, thief: Path | None
    ) -> None:
        """``thief``: a repository that is not the cloud's, and is shown now and then in its place."""
        self.engine, self.channel, self.rng = engine, channel, rng
        self.tampered_share, self.thief = tampered_share, thief
        self.seen = Weather()
        self._stolen_until_s = 0.0

    def ask(self, act: Callable[[], T]) -> T:
        """Asks, and gives the answer. Raises ``Unreachable`` where one of the two is lost, and what ``act`` does."""
        # All chance is drawn whatever comes of it, so that one knob does not change the meaning of another.
        lost, late, twice, unheard = self.rng.random(4).tolist()
        slow_s = float(self.rng.exponential(1.0)) * self.channel.jitter_s
        channel = self.channel

        def again() -> None:
            with contextlib.suppress(EvergroveError):
                act()

        if lost < channel.drop_share:
            self.seen.lost += 1
            if late < 0.5:  # not lost but slow: it arrives when nobody waits for it any more
                self.seen.late += 1
                self.engine.after(slow_s, again)
            raise Unreachable("no answer in time")
        if twice < channel.duplicate_share:
            self.seen.doubled += 1
            self.engine.after(slow_s, again)
        found = act()
        if unheard < channel.drop_share:
            self.seen.unheard += 1
            raise Unreachable("the answer was lost")
        return found

    def fetcher(self, repository: Path) -> FetcherInterface:
        """Who answers for the repository this time."""
        now_s = self.engine.now_s
        if float(self.rng.random()) < self.tampered_share:
            self._stolen_until_s = now_s + STOLEN_S
        if self.thief is not None and self.tampered_share and now_s < self._stolen_until_s:
            self.seen.stolen += 1
            return AirFetcher(self, self.thief)
        return AirFetcher(self, repository)


class AirFetcher(FetcherInterface):
    """Reads a repository through the air."""

    def __init__(self, air: Air, repository: Path) -> None:
        self._air, self._folder = air, FolderFetcher(repository)

    def _fetch(self, url: str) -> Iterator[bytes]:
        air = self._air
        data = b"".join(self._folder.fetch(url))
        lost, tampered, where = air.rng.random(3).tolist()
        if lost < air.channel.drop_share / 4:
            air.seen.lost += 1
            data = data[: int(where * len(data))]
        elif tampered < air.tampered_share / 3 and data:
            air.seen.tampered += 1
            at = int(where * len(data))
            data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        yield data


class AirLine:
    """A device's line to its home fog: ``runtime.fleet.HomeFog`` over the air."""

    def __init__(self, air: Air, fog: FogProcess, device: str, repository: Path, witness: Witness) -> None:
        self._air, self._fog, self._device = air, fog, device
        self._repository, self._witness = repository, witness

    @property
    def peer(self) -> str:
        """The name that stands in the byte ledger."""
        return self._fog.name

    def terms(self) -> Terms:
        """By what terms it gathers."""
        return self._ask(self._fog.terms)

    def submit(self, frame: bytes) -> Receipt:
        """Sends an update."""
        self._witness.sent(self._device, self._fog.name, frame)
        receipt = self._ask(lambda: self._fog.take(self._device, frame))
        self._witness.told(self._device, self._fog.name, receipt)
        return receipt

    def news(self, seen: str = "", wait_s: float = 0.0) -> str:
        """The tag of the newest release; in virtual time nobody waits for another."""
        return self._ask(lambda: self._fog.tag)

    def report(self, report: transport.Report) -> None:
        """Says how a release fared."""
        self._ask(lambda: self._fog.hear(self._device, report))

    def source(self) -> Source:
        """Where releases are read from."""
        return Source(self._air.fetcher(self._repository), FOLDER_URL)

    def close(self) -> None:
        """There is nothing to close."""

    def _ask(self, act: Callable[[], T]) -> T:
        return self._air.ask(lambda: self._fog.run(act))
