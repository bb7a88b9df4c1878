"""Results as JSON lines, one for each (arm, seed), appended when done; what stands there is not run again."""

from pathlib import Path
from typing import Any

import msgspec

from evergrove.bench import json_lines
from evergrove.bench.federated.reading import Reading


class Line(msgspec.Struct, frozen=True):
    """One arm of one seed. ``spec`` is everything that was chosen; ``reading`` is None for tuning, whose emotions the
    oracle does not know: ``loss`` is what it is judged by. ``curve`` has (round, right, kept) on the way.

    ``n_bytes`` is sent by a device in a round, ``uplink`` in the generation. ``gate`` is (outcome, failed questions,
    sentence). ``trigger`` is the share of triggered pictures in which the backdoor shows.
    """

    group: str
    arm: str
    seed: int
    n_devices: int
    epsilon: float | None
    spec: dict[str, Any]
    loss: float
    reading: Reading | None = None
    curve: tuple[tuple[int, float, float], ...] = ()
    n_numbers: int = 0
    n_bytes: int = 0
    uplink: int = 0
    cohort: int = 0
    participations: int = 0
    norm: float = 0.0
    clipped: float = 0.0
    refused: int = 0
    noise_norm: float = 0.0
    moved: float = 0.0
    epsilon_spent: float | None = None
    multiplier: float | None = None
    gate: tuple[str, int, str] | None = None
    trigger: float | None = None
    ceiling: float | None = None
    seconds: float = 0.0
    device: str = ""
    versions: dict[str, str] = {}

    @property
    def key(self) -> tuple[str, int]:
        """What makes it this one."""
        return self.arm, self.seed


def read(path: Path) -> dict[tuple[str, int], Line]:
    """All lines by their keys. Raises ``CorruptState`` that names a damaged line."""
    return {line.key: line for line in json_lines.read(path, Line)}
