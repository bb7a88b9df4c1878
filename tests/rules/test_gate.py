"""The golden gate's answers, one by one, with numbers that can be checked by hand."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evergrove.core.config import Gate
from evergrove.core.measures import Comparison, Kind
from evergrove.rules.gate import (
    Policy,
    Question,
    State,
    Verdict,
    bound_on_harm,
    code_words,
    examine,
    judge,
    questions,
    recheck,
)

HAPPY, SAD, LOVE = (2, 0), (3, 0), (7, 0)
POLICY = Policy(delta=0.05, cumulative=0.10, tau=0.10, own=0.25)
EXPECTED = questions([HAPPY, SAD], [], [LOVE])


def fine(kind: Kind, condition: tuple[int, ...], mean: float = 0.0, std: float = 0.01, n: int = 150) -> Comparison:
    """A comparison that passes unless it is told otherwise."""
    return Comparison(kind, condition, n, mean, std)


def answers(*changed: Comparison, without: Sequence[Question] = ()) -> list[Comparison]:
    """An answer to every question: no harm anywhere, a clear gain on love; some of them changed or left out."""
    given = {(c.kind, c.condition): c for c in changed}
    out = []
    for q in EXPECTED:
        if q not in without:
            passing = fine(q.kind, q.condition, mean=-0.4 if q.kind == "gain" else 0.0)
            out.append(given.get((q.kind, q.condition), passing))
    return out


def look(comparisons: Sequence[Comparison], gamma: float = 1.0) -> Verdict:
    """One look with a fresh golden set."""
    return judge(State(), POLICY, comparisons, EXPECTED, gamma)[1]


def test_what_is_asked() -> None:
    """Release's conditions against three references, own ones against the incumbent, learnt ones for a gain."""
    asked = questions([HAPPY], [LOVE], [LOVE], teacher=True)
    assert [(q.kind, q.condition, q.own) for q in asked] == [
        ("incumbent", HAPPY, False),
        ("release", HAPPY, False),
        ("teacher", HAPPY, False),
        ("incumbent", LOVE, True),
        ("gain", LOVE, False),
    ]
    assert [q.kind for q in questions([HAPPY], [], [], teacher=False)] == ["incumbent", "release"]


def test_margins_and_levels() -> None:
    """δ, Δ, τ, the wider margin of own conditions, 0 for gains; .05 spread over 600 looks."""
    q = questions([HAPPY], [LOVE], [LOVE])
    assert [POLICY.margin(x) for x in q] == [0.05, 0.10, 0.10, 0.25, 0.0]
    assert POLICY.looks_max == 600
    assert POLICY.alpha_look == pytest.approx(8.333e-5, rel=1e-3)
    of = Policy.of(Gate(delta=0.02, looks_max=10))
    assert (of.delta, of.updates_max, of.looks_max) == (0.02, 10, 30)


def test_bound_by_hand() -> None:
    """Mean .01, std .06, n 36 at .05: .01 + 1.6896·.06/6 = .0269."""
    assert bound_on_harm(0.01, 0.06, 36, 0.05) == pytest.approx(0.0269, abs=5e-5)


def test_no_harm_and_a_gain_is_accepted() -> None:
    """The plain good case, and what the sentence says of it."""
    state, verdict = judge(State(), POLICY, answers(), EXPECTED, 1.0)
    assert (verdict.outcome, verdict.gamma, verdict.failed) == ("accept", 1.0, ())
    assert verdict.sentence == "accepted: 6 questions about harm passed, gain shown on 1 conditions"
    assert state == State(n_updates=1, n_looks=1)
    assert "at scale 0.5" in judge(state, POLICY, answers(), EXPECTED, 0.5)[1].sentence


@pytest.mark.parametrize("kind", ["incumbent", "release", "teacher"])
def test_one_lost_condition_is_enough(kind: Kind) -> None:
    """Intersection-union: harm past the margin on one condition against one reference fails the whole."""
    verdict = look(answers(fine(kind, SAD, mean=0.15)))
    assert verdict.outcome == "rescale"
    assert verdict.gamma == 0.9
    assert [(f.kind, f.condition, f.why) for f in verdict.failed] == [(kind, SAD, "lost")]


def test_rescale_twice_then_reject() -> None:
    """γ goes 1, .9, ½; every step is a look, only the first is an update. The harm shrinks with γ, but not enough."""
    state, gamma, outcomes = State(), 1.0, []
    for _ in range(3):
        bad = answers(fine("incumbent", SAD, mean=0.199 * gamma**2))
        state, verdict = judge(state, POLICY, bad, EXPECTED, gamma)
        outcomes.append((verdict.outcome, verdict.gamma))
        gamma = verdict.gamma
    assert outcomes == [("rescale", 0.9), ("rescale", 0.5), ("reject", 0.5)]
    assert state == State(n_updates=1, n_looks=3)


def test_what_no_scale_can_mend_is_rejected_at_the_first_look() -> None:
    """Harm .21 at γ = 1 leaves .0525 at γ = ½, more than δ = .05: no further look is spent on it."""
    state, verdict = judge(State(), POLICY, answers(fine("incumbent", SAD, mean=0.21)), EXPECTED, 1.0)
    assert (verdict.outcome, verdict.gamma, state.n_looks) == ("reject", 1.0, 1)
    _, verdict = judge(state, POLICY, answers(fine("incumbent", SAD, mean=0.19)), EXPECTED, 1.0)
    assert verdict.outcome == "rescale"
    _, verdict = judge(state, POLICY, answers(fine("incumbent", SAD, mean=0.19)), EXPECTED, 0.9)
    assert verdict.outcome == "reject"


def test_worst_first_and_in_words() -> None:
    """Failures are sorted by how far they are past their margin; the sentence names each condition once."""
    names = {HAPPY: "happy", SAD: "sad", LOVE: "love"}
    bad = answers(
        fine("incumbent", SAD, mean=0.2), fine("release", SAD, mean=0.9), fine("incumbent", HAPPY, mean=0.02, std=0.3)
    )
    _, verdict = judge(State(), POLICY, bad, EXPECTED, 0.5, name=lambda c: names[c])
    assert [f.condition for f in verdict.failed] == [SAD, SAD, HAPPY]
    assert verdict.sentence == "rejected: lost: sad; not shown to be kept: happy"
    assert code_words((7, 0, 2)) == "7.0.2"


def test_gain_must_be_shown() -> None:
    """Harmless but useless does not pass; nor does a gain that could be chance."""
    for mean, std in ((0.0, 0.01), (-0.01, 0.2)):
        verdict = look(answers(fine("gain", LOVE, mean=mean, std=std)), gamma=0.5)
        assert verdict.outcome == "reject"
        assert [f.why for f in verdict.failed] == ["no gain shown"]


def test_a_no_op_is_rejected_at_once() -> None:
    """Rescaling nothing gives nothing: no further looks are spent on it."""
    still = [Comparison(q.kind, q.condition, 150, 0.0, 0.0) for q in EXPECTED]
    verdict = look(still)
    assert (verdict.outcome, verdict.sentence) == ("reject", "rejected: the candidate changes nothing")


@pytest.mark.parametrize(
    ("mean", "std"), [(math.nan, 0.1), (0.0, math.nan), (-math.inf, 0.1), (0.0, math.inf), (-0.4, -0.1)]
)
@pytest.mark.parametrize("kind", ["incumbent", "release", "teacher", "gain"])
def test_what_is_not_a_number_never_passes(kind: Kind, mean: float, std: float) -> None:
    """NaN, infinities and negative deviations: rejected without rescaling, whatever side they are on."""
    condition = LOVE if kind == "gain" else SAD
    verdict = look(answers(Comparison(kind, condition, 150, mean, std)))
    assert verdict.outcome == "reject"
    assert verdict.failed[0].why == "not a number"


@pytest.mark.parametrize("n", [0, 1, 3])
def test_too_few_items_never_pass(n: int) -> None:
    """However good they look."""
    verdict = look(answers(Comparison("gain", LOVE, n, -0.9, 0.0)))
    assert verdict.outcome == "reject"
    assert verdict.failed[0].why == f"only {n} golden items, 4 needed"


def test_missing_and_double_measurements_never_pass() -> None:
    """Every question needs exactly one answer; answers to other questions count for nothing."""
    assert look(answers(without=[EXPECTED[0]])).failed[0].why == "not measured"
    assert look([*answers(), fine("incumbent", SAD)]).failed[0].why == "measured 2 times"
    assert look([*answers(), fine("incumbent", (99, 0), mean=9)]).outcome == "accept"
    assert look([]).outcome == "reject"


def test_nothing_asked_never_passes() -> None:
    """An empty golden set is no licence."""
    verdict = judge(State(), POLICY, answers(), [], 1.0)[1]
    assert (verdict.outcome, verdict.sentence) == ("reject", "rejected: there was no question to answer")


def test_a_worn_out_golden_set_asks_for_a_fresh_one() -> None:
    """After 200 updates a first look is refused, a rescaled one of the 200th is not; after 600 looks all are."""
    worn = State(n_updates=200, n_looks=210)
    state, verdict = judge(worn, POLICY, answers(), EXPECTED, 1.0)
    assert (state, verdict.outcome) == (worn, "refresh")
    assert "fresh golden set" in verdict.sentence
    assert judge(worn, POLICY, answers(), EXPECTED, 0.5)[1].outcome == "accept"
    spent = State(n_updates=199, n_looks=600)
    assert judge(spent, POLICY, answers(), EXPECTED, 0.5)[1].outcome == "refresh"


def test_recheck() -> None:
    """Same questions but the gain, no α spent, an alarm instead of a rejection."""
    no_gain = answers(fine("gain", LOVE, mean=0.0))
    assert recheck(POLICY, no_gain, EXPECTED).outcome == "accept"
    verdict = recheck(POLICY, answers(fine("release", HAPPY, mean=0.5)), EXPECTED)
    assert verdict.outcome == "alarm"
    assert verdict.sentence == "alarm at the scheduled re-check: lost: 2.0"
    assert recheck(POLICY, [], EXPECTED).outcome == "alarm"


@settings(max_examples=60, deadline=None)
@given(
    mean=st.floats(-1, 1), std=st.floats(0, 1), n=st.integers(4, 400), worse=st.floats(0, 1), fewer=st.integers(0, 400)
)
def test_more_harm_more_doubt_or_fewer_items_never_help(
    mean: float, std: float, n: int, worse: float, fewer: int
) -> None:
    """Monotonic: what fails goes on failing when the mean or the deviation grows or items are taken away."""
    question = [Question("release", HAPPY)]

    def passes(mean: float, std: float, n: int) -> bool:
        return not examine(POLICY, [Comparison("release", HAPPY, n, mean, std)], question)

    if not passes(mean, std, n):
        assert not passes(mean + worse, std, n)
        if mean > 0:
            assert not passes(mean, std + worse, n)
            assert not passes(mean, std, max(4, n - fewer))


@settings(max_examples=60, deadline=None)
@given(std=st.floats(0, 1), n=st.integers(4, 400), skew=st.floats(-5, 5))
def test_skew_never_makes_the_bound_smaller(std: float, n: int, skew: float) -> None:
    """The correction only ever asks for more; without skew and without spread it asks for nothing."""
    plain = bound_on_harm(0.1, std, n, 1e-4)
    assert bound_on_harm(0.1, std, n, 1e-4, skew) >= plain
    assert bound_on_harm(0.1, std, n, 1e-4, 0.0) == plain
    assert bound_on_harm(0.1, 0.0, n, 1e-4, skew) == 0.1
