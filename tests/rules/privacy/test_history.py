"""The ε ledger's history: whatever is altered, left out, moved or cut off is noticed; the words of a plan come back."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from noise_plans import PLAN, plan

from evergrove.core.errors import CorruptState, InvalidInput
from evergrove.core.sums import NoisedSum
from evergrove.rules.privacy import history, ledger
from evergrove.rules.privacy.blt import Blt
from evergrove.rules.privacy.history import Entry
from evergrove.rules.privacy.ledger import Budget, Ledger
from evergrove.rules.privacy.words import plan_of, words_of

FREE = Budget(generation=None, lifetime=None)


def written(n: int) -> tuple[list[tuple[str, str]], Ledger]:
    """``n`` rounds of the tests' stream: their lines, and the ledger."""
    book, lines, before = ledger.open_stream(Ledger(FREE), PLAN), [], ""
    for i in range(n):
        book = ledger.charge_round(book, PLAN.generation, PLAN.fog, i)
        line = history.encode(Entry(PLAN.generation, i, PLAN.fog, "blt", PLAN.digest, 0.1 * i, 0.1 * i, 1e-6, "ab"))
        before = history.link(before, line)
        lines.append((line, before))
    return lines, book


def test_an_intact_history_comes_back() -> None:
    """In order; an empty one too."""
    assert history.check(*written(0)) == ()
    assert [entry.cohort for entry in history.check(*written(4))] == [0, 1, 2, 3]


@given(st.data())
def test_every_alteration_is_noticed(data: st.DataObject) -> None:
    """One byte of a line or hash, a line left out, two lines changed over."""
    lines, book = written(5)
    i = data.draw(st.integers(0, 4))
    match data.draw(st.sampled_from(["line", "hash", "gone", "moved"])):
        case "line":
            at = data.draw(st.integers(0, len(lines[i][0]) - 1))
            lines[i] = (lines[i][0][:at] + "~" + lines[i][0][at + 1 :], lines[i][1])
        case "hash":
            lines[i] = (lines[i][0], "f" * 64)
        case "gone":
            del lines[i]
        case "moved":
            j = (i + 1) % 5
            lines[i], lines[j] = lines[j], lines[i]
    with pytest.raises(CorruptState, match="altered"):
        history.check(lines, book)


def test_a_ledger_that_went_back_is_noticed() -> None:
    """It was restored alone: the lines know better."""
    lines, _ = written(5)
    _, earlier = written(3)
    with pytest.raises(CorruptState, match=r"has 3 rounds of generation .* its history 5 lines"):
        history.check(lines, earlier)


def sum_of(one: msgspec.Struct, noise: object, size: int, cohort: int, generation: int) -> NoisedSum:
    return NoisedSum("0" * 64, generation, "b", "a", 1, cohort, noise, bytes(4 * size), 0)  # type: ignore[arg-type]


@given(st.integers(0, 6), st.sampled_from([None, 0.5, 8.0]))
def test_a_plan_comes_back_from_its_words(n_buffers: int, lifetime: float | None) -> None:
    """With any number of buffers that fits; and nothing else does."""
    blt = Blt(tuple(0.9 / (j + 1) for j in range(n_buffers)), tuple(0.1 for _ in range(n_buffers)))
    made, budget = plan(blt=blt, multiplier=2.0, quantile_multiplier=None), Budget(1e-6, 0.5, lifetime)
    words = words_of(made, budget)
    assert words is not None
    assert len(words) <= 32
    assert plan_of(sum_of(made, words, made.size, made.cohort, made.generation)) == (made, budget)
    with pytest.raises(InvalidInput, match="not of the noise plan"):
        plan_of(sum_of(made, words, made.size, made.cohort, made.generation + 1))


def test_without_noise_there_are_no_words() -> None:
    """None stands for ε = ∞ on both sides."""
    free = plan(multiplier=None, quantile_multiplier=None)
    assert words_of(free, FREE) is None
    assert plan_of(sum_of(free, None, 1, 1, 0)) is None
