"""How jobs ended, as apps are told: one entry a job, the last word counts."""

from functools import reduce

from evergrove.core import events as ev
from evergrove.core.measures import Comparison
from evergrove.views.jobbook import RESULTS_KEPT, Book, fold

GAIN = (Comparison("gain", (3,), 9, -0.2, 0.1),)


def book(*events: ev.Event) -> Book:
    """The book after some events."""
    return reduce(fold, events, Book())


def test_an_accepted_job_carries_its_cost_and_its_adapter() -> None:
    """train, measure, rescale, measure, accept: one entry with γ = ½ and the scaled adapter."""
    ended = book(
        ev.TrainingStarted("j1", 1),
        ev.TrainingFinished("j1", "c1", 250, 60.0, 0.1, 1000),
        ev.CandidateMeasured("j1", "c1", 1.0, GAIN, 1.0),
        ev.GateJudged("j1", "rescale", 1.0, (("release", (1,)),), "weaker"),
        ev.CandidateMeasured("j1", "c2", 0.5, GAIN, 1.0),
        ev.GateJudged("j1", "accept", 0.5, (), "fine"),
    ).ended
    assert [(e.job, e.verdict, e.gamma, e.adapter, e.steps, e.n_bytes) for e in ended] == [
        ("j1", "accepted", 0.5, "c2", 250, 1000)
    ]


def test_a_retry_replaces_the_word_of_the_attempt_before() -> None:
    """Interrupted, resumed, rejected: rejected is what remains."""
    ended = book(
        ev.TrainingStarted("j1", 1),
        ev.JobInterrupted("j1", "killed"),
        ev.TrainingStarted("j1", 2),
        ev.TrainingFinished("j1", "c1", 250, 60.0, 0.1, 1000),
        ev.CandidateMeasured("j1", "c1", 1.0, GAIN, 1.0),
        ev.GateJudged("j1", "reject", 1.0, (("release", (1,)),), "lost"),
    ).ended
    assert [(e.verdict, e.failed) for e in ended] == [("rejected", (("release", (1,)),))]


def test_refused_failed_and_alarmed_jobs_are_told_apart() -> None:
    """Each with its reason; a verdict of its own stays as it is."""
    ended = book(
        ev.CandidateRefused("j1", "NaN"),
        ev.JobFailed("j2", "diverged"),
        ev.GateJudged("j3", "alarm", 1.0, (), "drifted"),
        ev.TimePassed(),
    ).ended
    assert [(e.job, e.verdict, e.sentence) for e in ended] == [
        ("j1", "refused", "NaN"),
        ("j2", "failed", "diverged"),
        ("j3", "alarm", "drifted"),
    ]


def test_the_book_is_bounded_and_its_latest_candidates_are_worth_keeping() -> None:
    """Old results go; the adapters of the latest jobs are named, so that they are not collected."""
    events: list[ev.Event] = []
    for n in range(RESULTS_KEPT + 5):
        events.append(ev.CandidateMeasured(f"j{n}", f"c{n}", 1.0, GAIN, 1.0))
        events.append(ev.GateJudged(f"j{n}", "reject", 1.0, (), "lost"))
    full = book(*events)
    assert len(full.ended) == RESULTS_KEPT
    assert full.candidates[-1] == f"c{RESULTS_KEPT + 4}"
    assert len(full.candidates) == 9
