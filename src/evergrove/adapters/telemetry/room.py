"""What is left to work with: memory, disk, and the pressure on both and on the cores (PSI)."""

import re
from functools import partial

from evergrove.adapters.telemetry.host import Unusable
from evergrove.adapters.telemetry.parse import decimal, quote, reason_of, whole
from evergrove.adapters.telemetry.probe import Probe, Sheet
from evergrove.core.telemetry import Value

PRESSURES = {"psi_cpu_share": "cpu", "psi_memory_share": "memory", "psi_io_share": "io"}
BYTES_MAX = 1 << 60


class Room:
    """Pressure over the last ten seconds, free memory and free disk. Nothing to scan for: the places are fixed."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe

    def read(self, sheet: Sheet) -> None:
        """Three pressures, 0 to 1 (the part of the time in which some task waited), and two sizes in bytes."""
        for field, name in PRESSURES.items():
            sheet.take(field, partial(self._pressure, name))
        sheet.take("memory_free_bytes", self._memory)
        sheet.take("disk_free_bytes", self._disk)

    def _pressure(self, name: str) -> Value:
        text, age_s = self._probe.text(f"/proc/pressure/{name}")
        found = re.match(r"some avg10=(\S{1,30}) ", text, re.ASCII)
        if not found:
            raise Unusable(f"no pressure: {quote(text.strip())}" if text.strip() else "empty")
        return Value(decimal(found[1], 0, 100) / 100, age_s)

    def _memory(self) -> Value:
        """What the kernel says could be had without swapping, not what lies unused."""
        text, age_s = self._probe.text("/proc/meminfo", 512, head=True)
        found = re.search(r"^MemAvailable:\s+(\S{1,24}) kB\n", text, re.ASCII | re.MULTILINE)
        if not found:
            raise Unusable("no MemAvailable in /proc/meminfo" if text.strip() else "empty")
        return Value(float(whole(found[1], 0, BYTES_MAX // 1024) * 1024), age_s)

    def _disk(self) -> Value:
        try:
            n_bytes = self._probe.host.disk_free_bytes()
        except OSError as fault:
            raise Unusable(reason_of(fault)) from fault
        if not 0 <= n_bytes <= BYTES_MAX:
            raise Unusable(f"out of range: {n_bytes}")
        return Value(float(n_bytes))
