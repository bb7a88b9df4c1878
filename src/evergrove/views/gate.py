"""The history of the golden gate: every look at a candidate, from where it came, what was measured, what was said.

A fold over the log; ``of(lines)`` gives the looks in order. An adapter that was refused before it was measured is a
look too (without comparisons): what never came to the gate's scales was stopped all the same.
"""

from collections.abc import Iterable
from typing import Literal

import msgspec

from evergrove.core import events
from evergrove.core.conditions import Code, Vocabulary
from evergrove.core.measures import Comparison
from evergrove.views.sentences import judgement

Origin = Literal["trained", "offered", "recheck"]


class Look(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One look: ``verdict`` is accept, rescale, reject, alarm or refused; ``at_s`` seconds since 1970.

    ``detail`` is what the rule itself said, ``why`` the reason of a refusal; ``seconds`` what the measuring took.
    """

    at_s: float
    job: str
    origin: Origin
    source: str
    candidate: str | None
    gamma: float
    verdict: str
    failed: tuple[tuple[str, Code], ...] = ()
    why: str = ""
    detail: str = ""
    comparisons: tuple[Comparison, ...] = ()
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether the candidate went through."""
        return self.verdict in ("accept", "passed")

    def said(self, vocabulary: Vocabulary | None = None) -> str:
        """The verdict in words, with the names of what failed."""
        if self.verdict == "refused":
            return f"refused before it was measured: {self.why.removeprefix(f'{self.source}: ')}"
        return judgement(self.verdict, self.gamma, self.failed, vocabulary)


def of(lines: Iterable[events.Stamped]) -> tuple[Look, ...]:
    """All looks of a log, in order.

    A log does not name the job that an offer or a re-check became: they are taken up in the order of their asking, but
    for those that are put off at once.
    """
    looks: list[Look] = []
    asked: list[tuple[Origin, str]] = []
    origins: dict[str, tuple[Origin, str]] = {}
    measured: dict[str, events.CandidateMeasured] = {}
    just_asked = False
    for line in lines:
        if just_asked and isinstance(line.event, events.LearningDeferred):
            asked.pop()
        just_asked = isinstance(line.event, events.AdapterOffered | events.RecheckRequested)
        match line.event:
            case events.TrainingStarted(job=job):
                origins[job] = ("trained", "this device")
            case events.AdapterOffered(source=source):
                asked.append(("offered", source))
            case events.RecheckRequested(by=by):
                asked.append(("recheck", by))
            case events.CandidateMeasured(job=job) as event:
                measured[job] = event
            case events.CandidateRefused(job=job, reason=reason):
                origin, source = _origin(job, origins, asked)
                looks.append(Look(line.at_s, job, origin, source, None, 0.0, "refused", why=reason))
            case events.GateJudged(job=job) as event:
                looks.append(_look(line.at_s, event, _origin(job, origins, asked), measured.pop(job, None)))
            case _:
                pass
    return tuple(looks)


def _origin(job: str, origins: dict[str, tuple[Origin, str]], asked: list[tuple[Origin, str]]) -> tuple[Origin, str]:
    if job not in origins:
        origins[job] = asked.pop(0) if asked else ("recheck", "the schedule")
    return origins[job]


def _look(
    at_s: float, event: events.GateJudged, origin: tuple[Origin, str], measured: events.CandidateMeasured | None
) -> Look:
    return Look(
        at_s,
        event.job,
        *origin,
        measured.candidate if measured else None,
        measured.gamma if measured else event.gamma,
        event.verdict,
        event.failed,
        detail=event.sentence,
        comparisons=measured.comparisons if measured else (),
        seconds=measured.seconds if measured else 0.0,
    )
