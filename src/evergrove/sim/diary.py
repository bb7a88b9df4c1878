"""What became of one virtual device: counts, delays and curves, taken from its facts as they are logged.

A fold beside the reducer, in true time; nothing of it flows back into the device.
"""

import msgspec

from evergrove.core import effects as do
from evergrove.core import events as ev

PHASES = ("idle", "deferred", "paused", "fog", "measuring", "training", "off")
"""What a device can be seen doing; later ones win where several hold."""


class Point(msgspec.Struct, frozen=True, array_like=True):
    """One moment of a curve: hours since the start, °C, training share, charge 0-1, core-hours trained, phase."""

    hour: float
    temp_c: float
    share: float
    charge: float
    work_h: float
    phase: str


class Said(msgspec.Struct, frozen=True, array_like=True):
    """A placement that was decided: hours since the start, where, with which share, and why."""

    hour: float
    choice: str
    share: float
    sentence: str


class Diary:
    """Counts of one device. Times are true seconds, ``delays_s`` from kept until served by an accepted version."""

    def __init__(self, start_s: float) -> None:
        self.start_s = start_s
        self.points: list[Point] = []
        self.said: list[Said] = []
        self.n_said: dict[str, int] = {}
        self.n_kept = self.n_dropped = self.n_lost = 0
        self.kept_s: dict[str, float] = {}
        self.learnt: set[str] = set()
        self.delays_s: list[float] = []
        self.waits_s: list[float] = []
        self.jobs: dict[str, int] = {}
        self.sent: dict[str, int] = {}
        self.n_hot = 0
        self.phase_s: dict[str, float] = {}
        self._asked_s: dict[str, float] = {}
        self._wanted_s: float | None = None
        self._fresh: dict[str, tuple[str, ...]] = {}
        self._accepted: str | None = None
        self._began: set[str] = set()

    def order(self, order: do.Effect) -> None:
        """Remembers which observations a job is about."""
        if isinstance(order, do.StartTraining | do.SendTrusted):
            self._fresh[order.job] = order.fresh

    def fact(self, fact: ev.Event, now_s: float) -> None:
        """One logged fact."""
        match fact:
            case ev.ObservationKept():
                self.n_kept += 1
                if fact.split == "train":
                    self.kept_s[fact.observation] = now_s
            case ev.ObservationDropped():
                self.n_dropped += 1
            case ev.ObservationLost():
                self.n_lost += 1
            case ev.LearningRequested():
                self._wanted_s = now_s if self._wanted_s is None else self._wanted_s
            case ev.PlacementDecided():
                self.n_said[fact.choice] = self.n_said.get(fact.choice, 0) + 1
                self.said.append(Said((now_s - self.start_s) / 3600, fact.choice, fact.share, fact.sentence))
            case ev.TrainingStarted():
                if fact.job not in self._began and self._wanted_s is not None:
                    self.waits_s.append(now_s - self._wanted_s)
                    self._wanted_s = None
                self._began.add(fact.job)
            case ev.TrainingFinished():
                self._count("trained")
            case ev.GateJudged(verdict="accept"):
                self._accepted = fact.job
                self._count("accepted")
            case ev.GateJudged():
                self._count(fact.verdict)
            case ev.VersionActivated():
                self._serve(now_s)
            case ev.VersionRolledBack():
                self._count("rolled back")
            case ev.JobInterrupted():
                self._count("interrupted")
            case ev.JobFailed():
                self._count("failed")
            case ev.OffloadFailed():
                self._count("fog failed")
            case ev.AssistReceived():
                self._count("assisted")
            case ev.BytesSent():
                self.sent[fact.category] = self.sent.get(fact.category, 0) + fact.n_bytes
            case _:
                pass

    def _serve(self, now_s: float) -> None:
        """A version that was accepted serves: what it has learnt has waited until now."""
        if self._accepted is None:
            return
        for record in self._fresh.get(self._accepted, ()):
            if record not in self.learnt and record in self.kept_s:
                self.learnt.add(record)
                self.delays_s.append(now_s - self.kept_s[record])
        self._fresh.clear()
        self._accepted = None

    def _count(self, what: str) -> None:
        self.jobs[what] = self.jobs.get(what, 0) + 1
