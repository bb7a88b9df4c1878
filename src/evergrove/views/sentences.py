"""Events as plain sentences: what the device decided, and why.

In goes one event and, where the reader may see names, the device's vocabulary (a log holds numbers only); out comes
one sentence without a full stop, or None for an event that is not a decision.
"""

from collections.abc import Sequence
from typing import assert_never

from evergrove.core import events
from evergrove.core.conditions import Code, Vocabulary

SAID = {
    "incumbent": "would lose",
    "own": "would lose",
    "release": "has drifted too far from the release on",
    "teacher": "strays from the teacher on",
    "gain": "shows no gain on",
}
"""How each kind of golden check is said when it fails, before the names of its conditions."""


def name(code: Code, vocabulary: Vocabulary | None = None) -> str:
    """A condition in words, ``emotion=sad, hair=bob``; by numbers where the vocabulary does not reach."""
    parts = []
    for i, number in enumerate(code):
        if not number:
            continue
        factor = vocabulary.factors[i] if vocabulary is not None and i < len(vocabulary.factors) else None
        if factor is None:
            parts.append(f"factor {i + 1}=#{number}")
        elif number > len(factor.values):
            parts.append(f"{factor.name}=#{number}")
        else:
            parts.append(f"{factor.name}={factor.values[number - 1]}")
    return ", ".join(parts) or "anything"


def sentence(event: events.Event, vocabulary: Vocabulary | None = None) -> str | None:
    """What an event says to a person; None for what only records a measurement or the passing of time."""
    match event:
        case events.DeviceInitialised():
            return f"made from release {event.release}"
        case events.AgentStarted():
            return "the agent took the device over"
        case events.ConditionAdded():
            return f"met something new: {_one(event.factor, event.value, vocabulary)}"
        case events.ObservationKept():
            use = "to learn from" if event.split == "train" else "as a golden item, never trained on"
            return f"kept a picture of {name(event.code, vocabulary)} {use}: {event.reason.removeprefix('kept: ')}"
        case events.ObservationDropped():
            return f"dropped a picture of {name(event.code, vocabulary)}: {event.reason}"
        case events.ObservationRefused():
            return f"refused {event.n_bytes} bytes: {event.reason}"
        case events.ObservationLost():
            return f"lost a record of the replay buffer: {event.reason}"
        case events.LearningRequested():
            return f"asked to learn by {event.by}"
        case events.PlacementDecided():
            return event.sentence
        case events.OffloadFailed():
            return f"the fog gave no help ({event.choice}): {event.reason}"
        case events.AssistReceived():
            return f"got a fog's assist of {event.n_bytes / 1e6:.1f} MB"
        case events.BytesSent():
            return f"sent {event.n_bytes} bytes to {event.peer}: {event.category}"
        case events.DriftNoticed():
            return f"what arrives of {name(event.condition, vocabulary)} is no longer like what was kept of it"
        case events.LearningDeferred():
            return f"did not start learning: {event.reason}"
        case events.TrainingStarted():
            again = f"took the training up again, attempt {event.attempt}"
            return "started to train" if event.attempt <= 1 else again
        case events.TrainingFinished():
            size = f"{event.n_bytes / 1000:.0f} kB"
            return f"trained {event.steps} steps in {event.seconds:.0f} s; the candidate has {size}"
        case events.JobInterrupted():
            return f"a worker ended early: {event.reason}"
        case events.JobFailed():
            return f"a job failed: {event.reason}"
        case events.AdapterOffered():
            return f"was offered an adapter: {event.source}"
        case events.CandidateRefused():
            return f"refused an adapter unmeasured: {event.reason}"
        case events.GateJudged():
            return judgement(event.verdict, event.gamma, event.failed, vocabulary)
        case events.VersionActivated():
            return f"now serves {version(event.adapter)}"
        case events.ProbationPassed():
            return f"{version(event.adapter)} passed its probation"
        case events.VersionRolledBack():
            return f"went back from {version(event.bad)} to {version(event.good)}: {event.reason}"
        case events.RollbackRequested():
            return f"asked to go back by {event.by}"
        case events.GenerationFailed():
            return f"{version(event.adapter)} failed to generate: {event.reason}"
        case events.TermsRead():
            epsilon = "∞ (no noise)" if event.epsilon is None else f"{event.epsilon:g}"
            return f"fog {event.fog} gathers generation {event.generation}; it says ε = {epsilon}"
        case events.UpdateCounted():
            where = f"generation {event.generation}, cohort {event.cohort}"
            return f"the fog counted what {version(event.version)} has learnt ({where})"
        case events.UpdateRefused():
            return f"nothing of {version(event.version)} goes to the fleet: {event.reason}"
        case events.UpdateDelayed():
            what = "waits in the outbox" if event.token else "waits to be sent"
            return f"what {version(event.version)} has learnt {what}: {event.reason}"
        case events.DirectiveRead():
            told = event.directive
            return f"the fleet's rollout {told.rollout} is about release {told.release[:8]}, version {told.version}"
        case events.ReleaseFetched():
            return f"fetched release {event.release[:8]}, version {event.version}; its signatures hold"
        case events.FetchFailed():
            return f"did not get release version {event.version}: {event.reason}"
        case events.ReleaseActivated():
            return f"now runs release {event.release[:8]}, with {version(event.adapter)}"
        case events.ReportSent():
            where = ", in the shadow" if event.shadow else ""
            return f"told the fog how {event.rollout} fared: {event.mark.replace('_', ' ')}{where}"
        case events.ReportDelayed():
            return f"a word for the fog waits: {event.reason}"
        case events.RecheckRequested():
            return f"asked for a golden re-check by {event.by}"
        case events.ReleaseMeasured():
            return None
        case events.ForgettingAsked():
            return "asked to forget " + {"all": "everything"}.get(event.what, f"one {event.what}")
        case events.Forgotten():
            return forgotten(event)
        case events.ObservationMeasured() | events.CandidateMeasured() | events.TelemetryRead() | events.TimePassed():
            return None
        case _:
            assert_never(event)


def forgotten(event: events.Forgotten) -> str:
    """What was forgotten, without a word about what it showed."""
    n, gone = event.n_records, len(event.versions)
    said = f"forgot {n} observation{'' if n == 1 else 's'}"
    if gone:
        said += (
            f" and the {'version' if gone == 1 else f'{gone} versions'} that had learnt from what was to be forgotten"
        )
    return f"{said}; {version(event.current)} serves"


def judgement(
    verdict: str, gamma: float, failed: Sequence[tuple[str, Code]], vocabulary: Vocabulary | None = None
) -> str:
    """A verdict of the golden gate with the names of what failed, grouped by the check that they failed."""
    share = "" if gamma >= 1.0 else f" at {gamma:g} of its strength"
    if verdict == "accept":
        return f"the gate accepted the update{share}"
    if verdict == "passed":
        return "the golden re-check passed"
    if verdict == "refresh":
        return "the gate asked for a fresh golden set: this one has served its updates"
    whys = [f"{said} {together(names)}" for said, names in _blame(failed, vocabulary).items()]
    why = "; ".join(whys) or "could not be judged"
    if verdict == "alarm":
        return f"the golden re-check raised an alarm: what serves now {why}"
    if verdict == "rescale":
        return f"the gate asked for a weaker update: it {why}"
    return f"the gate rejected the update{share}: it {why}"


def version(adapter: str | None) -> str:
    """An adapter by the first eight digits of its hash; None is the release alone."""
    return "the release alone" if adapter is None else f"version {adapter[:8]}"


def together(names: Sequence[str], most: int = 8) -> str:
    """Several names as one phrase; a long list ends with how many more there are."""
    shown = list(names[:most])
    if len(names) > most:
        return f"{', '.join(shown)} and {len(names) - most} more"
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _one(factor: int, value: int, vocabulary: Vocabulary | None) -> str:
    code = (0,) * factor + (value,)
    return name(code, vocabulary)


def _blame(failed: Sequence[tuple[str, Code]], vocabulary: Vocabulary | None) -> dict[str, list[str]]:
    """Each failed condition once, under the gravest check that it failed."""
    blame: dict[str, list[str]] = {}
    seen = set()
    for kind, said in SAID.items():
        for code in (c for k, c in failed if k == kind and c not in seen):
            seen.add(code)
            blame.setdefault(said, []).append(name(code, vocabulary))
    return blame
