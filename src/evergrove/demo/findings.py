"""What the demo found out, chapter by chapter, before anything is summed up or drawn."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evergrove.adapters.doctor import Check
from evergrove.core import events
from evergrove.core.conditions import Vocabulary
from evergrove.core.messages import JobResult
from evergrove.demo.judge import Judged
from evergrove.demo.race import Kill, Runner
from evergrove.demo.saboteurs import Saboteur
from evergrove.demo.script import Script
from evergrove.views.novelty import Tally


@dataclass(frozen=True)
class First:
    """The first picture: how long the model took to load, and the picture to make."""

    load_ms: float
    latency_ms: float
    pixels: NDArray[np.uint8]
    condition: dict[str, str]


@dataclass(frozen=True)
class Shown:
    """One observation of the stream: its picture (None where it could not be decoded), and what became of it."""

    pixels: NDArray[np.uint8] | None
    condition: dict[str, str]
    kind: str
    outcome: str
    reason: str


@dataclass(frozen=True)
class Offer:
    """A bad adapter, how its job ended, and what the device ``said`` at its first look, at full strength."""

    saboteur: Saboteur
    result: JobResult
    said: str

    @property
    def refused(self) -> bool:
        """Whether it was kept out."""
        return self.result.verdict in ("refused", "rejected")


@dataclass(frozen=True)
class Rival:
    """One way to learn: its job, its candidate at full strength, and what the oracle saw on the way and at its end."""

    runner: Runner
    result: JobResult
    candidate: Path
    glimpses: tuple[tuple[int, Judged], ...]
    final: Judged
    gate: str
    lost: tuple[str, ...]


@dataclass
class Findings:
    """Everything; filled in the order of the chapters."""

    script: Script
    quick: bool
    seed: int
    folder: Path
    checks: Sequence[Check] = ()
    first: First | None = None
    shown: list[Shown] = field(default_factory=list)
    same_kept: bool = False
    tally: Tally = field(default_factory=Tally)
    vocabulary: Vocabulary = field(default_factory=lambda: Vocabulary(()))
    old: tuple[str, ...] = ()
    base: Judged = field(default_factory=lambda: Judged({}, {}, {}))
    rivals: dict[str, Rival] = field(default_factory=dict)
    offers: list[Offer] = field(default_factory=list)
    poison_norm: float = 0.0
    idle_ms: Sequence[float] = ()
    learning_ms: Sequence[float] = ()
    logs: dict[str, list[events.Stamped]] = field(default_factory=dict)
    records_lost: int = 0
    seconds: float = 0.0

    @property
    def sockets(self) -> int | None:
        """The most network sockets seen in any process of the story; None where that cannot be known."""
        seen = [rival.runner.sockets for rival in self.rivals.values() if rival.runner.sockets is not None]
        return max(seen, default=None)

    @property
    def kills(self) -> list[Kill]:
        """Every process that was killed on the way."""
        return [kill for rival in self.rivals.values() for kill in rival.runner.killed]
