"""What an agent tells people and apps: status, the latest decisions in sentences, how jobs ended, and warnings."""

from collections import deque
from collections.abc import Mapping, Sequence

from evergrove.adapters.release import Release
from evergrove.core import events as ev
from evergrove.core import messages as msg
from evergrove.core.conditions import Code, Vocabulary
from evergrove.core.config import Config
from evergrove.core.rollout import FULL
from evergrove.tiers.device import State
from evergrove.tiers.device.state import Following
from evergrove.views import jobbook
from evergrove.views.sentences import judgement, name, sentence

DECISIONS_KEPT = 50
WARNINGS_KEPT = 32
JUDGED = {"accepted": "accept", "rejected": "reject", "passed": "passed", "alarm": "alarm", "refresh": "refresh"}
"""Verdicts of the book that the gate gave, in the gate's own words."""


class Teller:
    """A fold over the agent's events, and words for them. ``vocabulary`` is today's: names never enter the log."""

    def __init__(self, config: Config, release: Release, vocabulary: Vocabulary, past: Sequence[ev.Event]) -> None:
        """``past`` are the newest events of earlier lives, so that an app which waits for a job hears of its end."""
        self.vocabulary = vocabulary
        self.book = jobbook.Book()
        self.progress: msg.JobState | None = None
        self._config = config
        self._release = release
        self._decisions: deque[str] = deque(maxlen=DECISIONS_KEPT)
        self._delayed: ev.UpdateDelayed | None = None
        self._warnings: deque[str] = deque(maxlen=WARNINGS_KEPT)
        for fact in past:
            self.note(fact)

    def wear(self, release: Release, vocabulary: Vocabulary) -> None:
        """Another release runs from now on."""
        self._release, self.vocabulary = release, vocabulary

    def forget(self, vocabulary: Vocabulary) -> None:
        """Nothing that was said before is said again; from now on things are called as in ``vocabulary``."""
        self.vocabulary, self.book, self.progress = vocabulary, jobbook.Book(), None
        self._decisions.clear()
        self._warnings.clear()

    def note(self, fact: ev.Event) -> None:
        """Takes in one more event."""
        self.book = jobbook.fold(self.book, fact)
        if isinstance(fact, ev.UpdateDelayed):
            self._delayed = fact
        text = sentence(fact, self.vocabulary)
        if text:
            self._decisions.append(text)

    def report(self, progress: msg.JobState) -> None:
        """Takes in how far a worker is."""
        self.progress = progress

    def warn(self, text: str) -> None:
        """Keeps a warning; the same one twice in a row is one."""
        if not self._warnings or self._warnings[-1] != text:
            self._warnings.append(text)

    def status(self, state: State) -> msg.Status:
        """What the device is, holds and does."""
        held = state.keeping.buffer
        return msg.Status(
            device=state.device,
            release=self._release.manifest.name,
            vocabulary=self.vocabulary,
            active=state.active,
            previous=state.previous,
            on_probation=state.probation,
            sequence=state.sequence,
            observed=state.n_observed,
            kept=state.n_kept,
            dropped=dict(state.dropped),
            records=self._named(held.counts("train")),
            waiting=len(state.fresh),
            golden=self._named(held.counts("golden")),
            job=self._job(state),
            results=tuple(self._result(entry) for entry in self.book.ended),
            gate_looks=state.looking.n_updates,
            gate_looks_max=self._config.gate.looks_max,
            decisions=tuple(self._decisions),
            warnings=tuple(self._warnings),
            fleet=self._fleet(state),
        )

    def _fleet(self, state: State) -> msg.FleetState | None:
        fleet, sharing, terms = self._config.fleet, state.sharing, state.sharing.terms
        if not fleet.fog:
            return None
        told = (terms.fog, terms.generation, terms.epsilon, terms.protection) if terms else ("", -1, None, "")
        version = sharing.asked or sharing.ripe
        waits = "" if not version else "one update is made" if sharing.token else "what was learnt last"
        if waits and self._delayed is not None and self._delayed.version == version:
            waits = f"{waits}: {self._delayed.reason}"
        counts = sharing.n_counted, sharing.n_refused, waits
        return msg.FleetState(
            fleet.fog, fleet.federate, *told, *counts, state.following.version, stage(state.following)
        )

    def _named(self, counts: Mapping[Code, int]) -> dict[str, int]:
        return {name(code, self.vocabulary): n for code, n in counts.items()}

    def _job(self, state: State) -> msg.JobState | None:
        work = state.work or state.waiting
        if work is None:
            return None
        if self.progress is not None and self.progress.job == work.job:
            return self.progress
        return msg.JobState(work.job, work.stage, work.attempt)

    def _result(self, entry: jobbook.Entry) -> msg.JobResult:
        failed = tuple(dict.fromkeys(name(code, self.vocabulary) for _, code in entry.failed))
        said = entry.sentence
        if entry.verdict in JUDGED:
            said = judgement(JUDGED[entry.verdict], entry.gamma, entry.failed, self.vocabulary)
        sizes = entry.steps, entry.seconds, entry.n_bytes
        return msg.JobResult(entry.job, entry.verdict, said, entry.gamma, failed, entry.adapter, *sizes)


def stage(following: Following) -> str:
    """How far the fleet's rollout is, and what this device does about it, in words."""
    told = following.directive
    if told is None:
        return ""
    share = f"{100 * told.reach / FULL:.3g} % of the devices"
    reach = "for nobody now" if not told.reach else "for everybody" if told.reach >= FULL else f"for {share}"
    here = "its turn has not come here"
    if following.trial == told.rollout:
        here = "on probation here"
    elif following.taking is not None:
        here = "being measured here" if following.taking.fetched else "being fetched"
    elif following.version >= told.version:
        here = "it runs here"
    elif following.tried >= told.version:
        here = "it did not stay here"
    elif following.shadowed >= told.version:
        here = "measured here, not served"
    return f"{told.rollout}, version {told.version}: {reach}{'' if told.serves else ', to measure only'}; {here}"
