"""What the fleet's story found out, chapter by chapter, before anything is summed up or drawn."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evergrove.core import cloud_events, events
from evergrove.core.conditions import Vocabulary
from evergrove.core.messages import JobResult
from evergrove.demo.fleet.cast import Role
from evergrove.demo.fleet.noise import Arm
from evergrove.demo.fleet.rogues import Attempt
from evergrove.demo.fleet.screen import Frame
from evergrove.demo.fleet.script import Script

Pictures = Mapping[str, list[NDArray[np.uint8]]]


@dataclass(frozen=True)
class Seen:
    """A device at one moment: per emotion its pictures and the share that the oracle reads as what was asked; ``look``:
    the share of all of them in which it reads the hair and skin of whom it was asked for."""

    right: Mapping[str, float]
    pictures: Pictures
    look: float

    def mean(self, emotions: tuple[str, ...]) -> float:
        """The mean share over some emotions."""
        return float(np.mean([self.right[emotion] for emotion in emotions]))


@dataclass
class Story:
    """One device's: what it was shown, how its own learning ended, what it chose of the release, and its log."""

    role: Role
    before: Seen | None = None
    alone: Seen | None = None
    after: Seen | None = None
    result: JobResult | None = None
    gamma: float | None = None
    took: str = "not taken"
    observed: int = 0
    kept: int = 0
    log: list[events.Stamped] = field(default_factory=list)


@dataclass(frozen=True)
class Moment:
    """One line of the timeline, in seconds since the story began."""

    at_s: float
    what: str


@dataclass(frozen=True)
class Fault:
    """What was broken on purpose: from when to when, in seconds since the story began."""

    what: str
    from_s: float
    to_s: float


@dataclass
class Findings:
    """Everything; filled in the order of the chapters. ``began_s`` is monotonic."""

    script: Script
    quick: bool
    seed: int
    folder: Path
    old: tuple[str, ...] = ()
    vocabulary: Vocabulary = field(default_factory=lambda: Vocabulary(()))
    began_s: float = field(default_factory=time.monotonic)
    stories: dict[str, Story] = field(default_factory=dict)
    timeline: list[Moment] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    frame_faults: list[str] = field(default_factory=list)
    updates: dict[str, float] = field(default_factory=dict)
    update_bytes: int = 0
    protection: str = ""
    cable: tuple[int, int] = (0, 0)
    cloud: list[tuple[float, cloud_events.CloudEvent]] = field(default_factory=list)
    served_version: int = 0
    arm: Arm | None = None
    processes: int = 0
    seconds: float = 0.0

    def note(self, what: str) -> None:
        """One more line of the timeline, now."""
        self.timeline.append(Moment(self.now_s, what))

    @property
    def now_s(self) -> float:
        """Seconds since the story began."""
        return time.monotonic() - self.began_s

    @property
    def looks(self) -> list[cloud_events.FleetJudged]:
        """Every look of the fleet's gate at what the devices learnt."""
        return [event for _, event in self.cloud if isinstance(event, cloud_events.FleetJudged)]

    def bytes_sent(self) -> dict[str, dict[str, int]]:
        """Per device, by kind, from its own ledger: what left it."""
        found: dict[str, dict[str, int]] = {}
        for name, story in self.stories.items():
            kinds: dict[str, int] = {}
            for line in story.log:
                if isinstance(line.event, events.BytesSent):
                    kinds[line.event.category] = kinds.get(line.event.category, 0) + line.event.n_bytes
            found[name] = kinds
        return found
