"""An app that never stops: it asks one device for a picture, four times a second, whatever happens around it.

Each picture's latency is kept with what was going on at that moment, so that the worst one can be blamed.
"""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from evergrove.bootstrap import Device
from evergrove.core.errors import EvergroveError


@dataclass(frozen=True)
class Frame:
    """One picture: seconds since the screen began, what it took, and what was going on."""

    at_s: float
    latency_ms: float
    during: str


class Screen:
    """Runs in a thread between ``with`` and its end. ``during`` names what goes on, for the frames to come."""

    def __init__(self, device: Device, condition: Mapping[str, str], every_s: float) -> None:
        self._device, self._condition, self._every_s = device, dict(condition), every_s
        self.during = ""
        self.frames: list[Frame] = []
        self.faults: list[str] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="screen", daemon=True)

    def __enter__(self) -> Self:
        self._device.warm_up()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join(10.0)

    def _run(self) -> None:
        began_s = time.monotonic()
        number = 0
        while not self._ended.is_set():
            start_s, during = time.monotonic(), self.during
            try:
                self._device.generate(self._condition, seed=number)
                took_ms = (time.monotonic() - start_s) * 1000
                self.frames.append(Frame(start_s - began_s, took_ms, during))
            except EvergroveError as fault:
                self.faults.append(f"{during}: {fault}")
            number += 1
            self._ended.wait(max(0.0, self._every_s - (time.monotonic() - start_s)))

    def latencies_ms(self, during: str | None = None) -> list[float]:
        """Of the pictures made while that went on (None: all)."""
        return [frame.latency_ms for frame in self.frames if during is None or frame.during == during]
