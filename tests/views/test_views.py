"""The folds over a log: tallies, gate history, matrices, courses and sentences, on logs that a reader can check."""

import pytest

from evergrove.core import events as ev
from evergrove.core.conditions import Factor, Vocabulary
from evergrove.core.errors import UsageError
from evergrove.core.measures import Comparison, Facts
from evergrove.views import decisions, forgetting, gate, novelty, recovery, sentences

VOCABULARY = Vocabulary((Factor("emotion", ("happy", "sad", "love")), Factor("hair", ("bob",))))
HAPPY, SAD, LOVE = (1, 0), (2, 0), (3, 0)
FACTS = Facts(exact_duplicate=False, hash_bits=None, distance=None)


def log(*events: ev.Event) -> list[ev.Stamped]:
    """Events one second apart."""
    return [ev.Stamped(float(i), event) for i, event in enumerate(events)]


def kept(split: str = "train", reason: str = "new") -> ev.ObservationKept:
    """One kept picture of love with a bob."""
    return ev.ObservationKept("o", (3, 1), split, reason)


# Novelty


def test_tally_counts_by_fate_and_reason():
    """Two kept (one golden), two dropped, one refused, one lost: five observed."""
    tally = novelty.of(
        log(
            ev.ObservationMeasured("o", (3, 1), 100, FACTS),
            kept(),
            kept("golden", "golden item"),
            ev.ObservationDropped("o", (3, 1), "duplicate"),
            ev.ObservationDropped("o", (1, 1), "duplicate"),
            ev.ObservationRefused(9, "blank"),
            ev.ObservationLost("o", "damaged"),
        )
    )
    assert (tally.observed, tally.kept, tally.train, tally.golden) == (5, 2, 1, 1)
    assert (tally.dropped, tally.refused, tally.lost) == (2, 1, 1)
    assert tally.dropped_why == {"duplicate": 2}
    assert tally.kept_why == {"new": 1, "golden item": 1}
    assert tally.conditions[(3, 1)] == novelty.Count(train=1, golden=1, dropped=1)


def test_tally_of_nothing_is_nothing():
    """An empty log, and events that are not about observations."""
    assert novelty.of(log(ev.TimePassed())) == novelty.Tally()


# The gate


def comparison(kind: str, code: tuple[int, ...], mean: float) -> Comparison:
    """A comparison of twelve items."""
    return Comparison(kind, code, 12, mean, 0.1)


def test_gate_history_joins_what_was_measured_with_what_was_said():
    """A candidate is sent back, then rejected; an offer is put off, the next refused; a re-check raises an alarm."""
    lost = (("incumbent", SAD), ("release", SAD), ("gain", LOVE))
    looks = gate.of(
        log(
            ev.TrainingStarted("j1", 1),
            ev.CandidateMeasured("j1", "a" * 64, 1.0, (comparison("incumbent", SAD, 0.4),), 2.5),
            ev.GateJudged("j1", "rescale", 1.0, lost, "detail"),
            ev.CandidateMeasured("j1", "b" * 64, 0.5, (), 2.0),
            ev.GateJudged("j1", "reject", 0.5, lost, "detail"),
            ev.AdapterOffered("too-early.safetensors"),
            ev.LearningDeferred("busy"),
            ev.AdapterOffered("bad.safetensors"),
            ev.TimePassed(),
            ev.CandidateRefused("j2", "NaN"),
            ev.RecheckRequested("the schedule"),
            ev.GateJudged("j3", "alarm", 1.0, (("release", HAPPY),), "detail"),
            ev.GateJudged("j4", "accept", 1.0, (), "detail"),
        )
    )
    assert [(x.origin, x.verdict, x.gamma) for x in looks] == [
        ("trained", "rescale", 1.0),
        ("trained", "reject", 0.5),
        ("offered", "refused", 0.0),
        ("recheck", "alarm", 1.0),
        ("recheck", "accept", 1.0),
    ]
    assert looks[0].candidate == "a" * 64
    assert looks[0].comparisons[0].mean == 0.4
    assert looks[0].seconds == 2.5
    assert looks[2].source == "bad.safetensors"
    assert [x.passed for x in looks] == [False, False, False, False, True]


def test_gate_history_says_each_condition_once_under_its_gravest_fault():
    """Sad failed three checks; it is named as lost, and love as not gained."""
    failed = (("release", SAD), ("incumbent", SAD), ("teacher", SAD), ("gain", LOVE))
    look = gate.Look(0.0, "j", "trained", "this device", None, 0.25, "reject", failed)
    words = (
        "the gate rejected the update at 0.25 of its strength: it would lose emotion=sad; shows no gain on emotion=love"
    )
    assert look.said(VOCABULARY) == words
    refused = gate.Look(0.0, "j", "offered", "a.st", None, 0.0, "refused", why="a.st: NaN in 'blocks.0'")
    assert refused.said() == "refused before it was measured: NaN in 'blocks.0'"


# Forgetting


def test_forgetting_is_the_best_earlier_minus_the_last():
    """Chaudhry et al. 2018 by hand: sad fell from 1.0 to 0.2, happy got better, love was measured once."""
    table = forgetting.matrix(
        [
            ("before", {"happy": 0.8, "sad": 1.0}),
            ("half", {"happy": 0.7, "sad": 0.9}),
            ("end", {"happy": 0.9, "sad": 0.2, "love": 0.5}),
        ]
    )
    assert table.conditions == ("happy", "sad", "love")
    assert table.row("love") == (None, None, 0.5)
    assert forgetting.forgetting(table) == pytest.approx({"happy": -0.1, "sad": 0.8})
    assert forgetting.average_forgetting(table) == pytest.approx(0.35)
    assert table.mean(2) == pytest.approx((0.9 + 0.2 + 0.5) / 3)
    assert table.mean(2, ["happy", "sad"]) == pytest.approx(0.55)
    assert table.mean(0, ["love"]) is None
    assert forgetting.average_forgetting(forgetting.matrix([])) == 0.0


def test_a_matrix_refuses_what_does_not_fit():
    """Ragged values, and a condition that it does not hold."""
    with pytest.raises(UsageError, match="needs as many values"):
        forgetting.Matrix(("a",), ("now",), ((1.0, 2.0),))
    with pytest.raises(UsageError, match="no condition 'x'"):
        forgetting.matrix([("now", {"a": 1.0})]).row("x")


def test_losses_fold_the_release_comparisons_of_every_measured_candidate():
    """Only comparisons with the release count; a weakened candidate says so."""
    table = forgetting.losses(
        log(
            ev.CandidateMeasured(
                "j", "a" * 64, 1.0, (comparison("release", SAD, 0.3), comparison("gain", LOVE, -1)), 1.0
            ),
            ev.CandidateMeasured("j", "b" * 64, 0.5, (comparison("release", SAD, 0.1),), 1.0),
            ev.TimePassed(),
        ),
        VOCABULARY,
    )
    assert table.moments == ("version aaaaaaaa", "version bbbbbbbb at 0.5")
    assert table.values == ((0.3, 0.1),)
    assert table.conditions == ("emotion=sad",)


# Recovery


def test_a_job_that_was_cut_off_and_came_to_its_end_has_recovered():
    """Two starts, one interruption, finished; a second job failed; events of unknown jobs are passed over."""
    courses = recovery.of(
        log(
            ev.TrainingStarted("j1", 1),
            ev.JobInterrupted("j1", "SIGKILL"),
            ev.TrainingStarted("j1", 2),
            ev.TrainingFinished("j1", "a" * 64, 10, 1.0, 0.1, 1000),
            ev.TrainingStarted("j2", 1),
            ev.JobFailed("j2", "diverged"),
            ev.JobFailed("measure-only", "x"),
            ev.JobInterrupted("measure-only", "x"),
        )
    )
    assert courses == (recovery.Course("j1", 2, 1, "finished"), recovery.Course("j2", 1, 0, "failed"))
    assert [c.recovered for c in courses] == [True, False]


# Decisions and sentences


def test_decisions_gather_small_ones_between_larger_ones():
    """Three drops of two kinds before a training make two lines, in the order of their first appearance."""
    said = decisions.of(
        log(
            ev.ObservationDropped("o", (3, 1), "duplicate"),
            kept(),
            ev.ObservationDropped("o", (3, 0), "duplicate"),
            ev.TimePassed(),
            ev.TrainingStarted("j", 1),
            ev.ObservationRefused(9, "blank"),
        ),
        VOCABULARY,
    )
    assert [(s.words, s.n) for s in said] == [
        ("dropped a picture of emotion=love: duplicate", 2),
        ("kept a picture of emotion=love to learn from: new", 1),
        ("started to train", 1),
        ("refused 9 bytes: blank", 1),
    ]
    assert said[0].at_s == 0.0


ALL = [
    (ev.DeviceInitialised("d", "avatars", (3, 1), False, 0), "made from release avatars"),
    (ev.AgentStarted("0.1.0"), "the agent took the device over"),
    (ev.ConditionAdded(0, 3), "met something new: emotion=love"),
    (kept("golden"), "kept a picture of emotion=love, hair=bob as a golden item, never trained on: new"),
    (ev.ObservationLost("o", "damaged"), "lost a record of the replay buffer: damaged"),
    (ev.LearningRequested("the app", 0), "asked to learn by the app"),
    (ev.LearningDeferred("nothing new"), "did not start learning: nothing new"),
    (ev.TrainingStarted("j", 2), "took the training up again, attempt 2"),
    (
        ev.TrainingFinished("j", "a" * 64, 250, 61.4, 0.1, 184_000),
        "trained 250 steps in 61 s; the candidate has 184 kB",
    ),
    (ev.JobInterrupted("j", "SIGKILL"), "a worker ended early: SIGKILL"),
    (ev.JobFailed("j", "diverged"), "a job failed: diverged"),
    (ev.AdapterOffered("a.safetensors"), "was offered an adapter: a.safetensors"),
    (ev.CandidateRefused("j", "NaN"), "refused an adapter unmeasured: NaN"),
    (ev.GateJudged("j", "accept", 0.5, (), ""), "the gate accepted the update at 0.5 of its strength"),
    (
        ev.GateJudged("j", "refresh", 1.0, (), ""),
        "the gate asked for a fresh golden set: this one has served its updates",
    ),
    (ev.GateJudged("j", "reject", 1.0, (), ""), "the gate rejected the update: it could not be judged"),
    (
        ev.GateJudged("j", "rescale", 1.0, (("incumbent", HAPPY), ("own", LOVE)), ""),
        "the gate asked for a weaker update: it would lose emotion=happy and emotion=love",
    ),
    (
        ev.GateJudged("j", "alarm", 1.0, (("release", SAD),), ""),
        "the golden re-check raised an alarm: what serves now has drifted too far from the release on emotion=sad",
    ),
    (ev.VersionActivated("a" * 64, 1), "now serves version aaaaaaaa"),
    (ev.ProbationPassed(None), "the release alone passed its probation"),
    (ev.VersionRolledBack("a" * 64, None, "asked"), "went back from version aaaaaaaa to the release alone: asked"),
    (ev.RollbackRequested("the app"), "asked to go back by the app"),
    (ev.GenerationFailed(None, "NaN"), "the release alone failed to generate: NaN"),
    (ev.RecheckRequested("the schedule"), "asked for a golden re-check by the schedule"),
    (ev.TimePassed(), None),
]


@pytest.mark.parametrize(("event", "words"), ALL, ids=lambda x: type(x).__name__ if isinstance(x, ev.Fact) else "")
def test_every_event_has_its_sentence(event, words):
    """A sentence for every decision, None for what only records."""
    assert sentences.sentence(event, VOCABULARY) == words


def test_names_of_conditions_fall_back_to_numbers():
    """Without a vocabulary, beyond it, and for nothing at all."""
    assert sentences.name((2, 1), VOCABULARY) == "emotion=sad, hair=bob"
    assert sentences.name((9, 0, 4), VOCABULARY) == "emotion=#9, factor 3=#4"
    assert sentences.name((0, 2)) == "factor 2=#2"
    assert sentences.name((0, 0), VOCABULARY) == "anything"


def test_long_lists_end_with_a_count():
    """Two names, one name, and more than are shown."""
    assert sentences.together(["a"]) == "a"
    assert sentences.together(["a", "b", "c"]) == "a, b and c"
    assert sentences.together(["a", "b", "c"], most=2) == "a, b and 1 more"
