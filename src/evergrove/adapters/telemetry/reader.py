"""Puts one reading together: each group of sensors in turn, the ones that are asked in the background last.

A scan finds out what there is (hundreds of small files on a phone); a reading then opens only what counts. Scans come
rarely, or soon after something vanished, and in the background, so that no reading waits for one.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Self

from evergrove.adapters import clock
from evergrove.adapters.telemetry.foreign import Foreign
from evergrove.adapters.telemetry.heat import Frozen, Heat
from evergrove.adapters.telemetry.host import Host, LocalHost
from evergrove.adapters.telemetry.network import Network
from evergrove.adapters.telemetry.power import Rails, Supplies
from evergrove.adapters.telemetry.probe import Probe, Sheet
from evergrove.adapters.telemetry.processor import Clocks, Cores, Throttles
from evergrove.adapters.telemetry.room import Room
from evergrove.adapters.telemetry.slow import Background, Start
from evergrove.core import config
from evergrove.core.telemetry import Telemetry

VANISHED_RESCAN_S = 30.0
"""Soonest new scan after something vanished: a loose plug must not make the device scan all the time."""


class Reader:
    """Reads telemetry; not thread-safe. What it leaves out (trainer and frames) the agent adds."""

    def __init__(
        self,
        host: Host | None = None,
        *,
        metered: str = "auto",
        rescan_s: float = 300.0,
        elapsed_s: Callable[[], float] = clock.elapsed_s,
        start: Start | None = None,
    ) -> None:
        """Scans, which takes some milliseconds. ``start`` does what is slow; by default in the background."""
        self._elapsed_s = elapsed_s
        self._rescan_s = rescan_s
        self._start = start or Background()
        self._host = host or LocalHost()
        self._probe = Probe(self._host, elapsed_s, self._start)
        self.foreign = Foreign(self._probe)
        self.cores = Cores(self._probe)
        self.clocks = Clocks(self._probe)
        self.throttles = Throttles(self._probe, self.foreign.counts)
        self.supplies = Supplies(self._probe)
        self.rails = Rails(self._probe)
        self.heat = Heat(self._probe, Frozen())
        self.network = Network(self._probe, metered)
        self._room = Room(self._probe)
        self._scanning = False
        self._scan()

    @classmethod
    def of(cls, settings: config.Telemetry, folder: str | Path) -> Self:
        """The reader that a device's configuration asks for; ``folder`` is the device's."""
        return cls(LocalHost(settings.root, folder), metered=settings.metered, rescan_s=settings.rescan_s)

    def read(self) -> Telemetry:
        """One reading. Never raises for anything that a sensor says, or fails to say."""
        self._look_again()
        sheet = Sheet()
        self.cores.read(sheet)
        self.clocks.read(sheet)
        self.throttles.read(sheet)
        self.supplies.read(sheet)
        self.rails.read(sheet)
        self.heat.read(sheet)
        self._room.read(sheet)
        self.network.read(sheet)
        self.foreign.read(sheet)
        return sheet.telemetry(self.cores.n_cores)

    def close(self) -> None:
        """Lets go of the files that it holds open."""
        self._host.close()

    def _look_again(self) -> None:
        """Has a scan made, where the last one is old or something is gone."""
        age_s = self._elapsed_s() - self._scanned_s
        due = age_s >= self._rescan_s or (self._probe.vanished and age_s >= VANISHED_RESCAN_S)
        if due and not self._scanning:
            self._scanning = True
            self._start(self._scan)

    def _scan(self) -> None:
        self._scanning = True
        try:
            self._probe.vanished = False
            self._probe.forgive()
            for part in (
                self.foreign,
                self.cores,
                self.clocks,
                self.throttles,
                self.supplies,
                self.rails,
                self.heat,
                self.network,
            ):
                part.scan()
        finally:
            self._scanned_s = self._elapsed_s()
            self._scanning = False
