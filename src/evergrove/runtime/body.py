"""A device's body as its agent knows it: the sensors, what apps and trainer say in the frame gate, and the share."""

from typing import Protocol

from evergrove.adapters.telemetry import Reader
from evergrove.core.telemetry import Telemetry
from evergrove.runtime.frame_gate import FrameGate, Meter


class Body(Protocol):
    """What the agent reads before it decides, and the one lever that it has on a worker."""

    def read(self) -> Telemetry:
        """One whole reading; what a sensor fails to say is missing in it, with the reason."""

    def set_share(self, share: float) -> None:
        """Lets the worker, the present one or the next, use this part of one core; 0 pauses it."""


class LocalBody:
    """This machine's sensors, and the frame gate of this device's apps."""

    def __init__(self, reader: Reader, gate: FrameGate) -> None:
        self._reader = reader
        self._gate = gate
        self._meter = Meter(gate)

    def read(self) -> Telemetry:
        """Sensors, frames and the trainer's own share in one reading."""
        return self._meter.complete(self._reader.read())

    def set_share(self, share: float) -> None:
        """Obeyed from the next micro-batch on."""
        self._gate.set_share(share)
