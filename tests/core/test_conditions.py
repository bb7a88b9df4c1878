"""Vocabularies: numbers for conditions, errors that help, and numbers that never change their meaning."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergrove.core.conditions import Factor, Vocabulary, group
from evergrove.core.errors import UnknownCondition, UsageError

FACES = Vocabulary((Factor("emotion", ("happy", "sad")), Factor("hair", ("bob", "bun"))))


def test_encode_numbers_values_from_one_and_leaves_the_unsaid_at_zero() -> None:
    """The second emotion without hair is (2, 0)."""
    assert FACES.encode({"emotion": "sad"}) == (2, 0)
    assert FACES.decode((2, 0)) == {"emotion": "sad"}


@pytest.mark.parametrize(
    ("condition", "hint"),
    [
        ({"emotion": "hapy"}, "did you mean 'happy'"),
        ({"emotoin": "sad"}, "did you mean 'emotion'"),
        ({"x": "y"}, "known: emotion, hair"),
    ],
)
def test_an_unknown_word_is_refused_with_the_nearest_known_one(condition: dict[str, str], hint: str) -> None:
    """A newcomer's typing error costs one line of reading."""
    with pytest.raises(UnknownCondition, match=hint):
        FACES.encode(condition)


def test_extend_adds_at_the_end_and_added_names_what_is_new() -> None:
    """love becomes emotion number 3; everything older keeps its number."""
    grown = FACES.extend({"emotion": "love", "hair": "bob"})
    assert grown.sizes == (3, 2)
    assert grown.encode({"emotion": "sad"}) == (2, 0)
    assert grown.added(FACES) == ((0, 3),)
    assert FACES.extend({"hair": "bun"}) == FACES


def test_extend_never_makes_a_new_factor() -> None:
    """A factor has no embedding table until a release brings one."""
    with pytest.raises(UnknownCondition, match="unknown factor 'hat'"):
        FACES.extend({"hat": "fez"})


def test_a_name_goes_and_its_number_stays() -> None:
    """happy is forgotten; sad is still number 2, and a name that somebody gave already is given to nobody else."""
    left = FACES.without_name(0, 1)
    assert left.decode((1, 0)) == {"emotion": "(forgotten 1)"}
    assert left.encode({"emotion": "sad"}) == (2, 0)
    odd = Vocabulary((Factor("emotion", ("happy", "(forgotten 1)")),)).without_name(0, 1)
    assert odd.factors[0].values == ("((forgotten 1))", "(forgotten 1)")


def test_decode_refuses_a_code_of_another_vocabulary() -> None:
    """Three numbers for two factors is a caller's mistake."""
    with pytest.raises(UsageError, match="3 numbers for 2 factors"):
        FACES.decode((1, 1, 1))


@pytest.mark.parametrize(
    ("code", "wanted"),
    [((3, 1), (3, 0)), ((1, 3), (0, 3)), ((1, 2), (1, 0)), ((0, 2), (0, 2)), ((0, 0), (0, 0)), ((3, 3), (3, 3))],
)
def test_group_is_the_new_values_or_else_the_first_factor(code: tuple[int, int], wanted: tuple[int, int]) -> None:
    """With two known values per factor: (love, any hair) counts for love, (happy, bob) for happy."""
    assert group(code, (2, 2)) == wanted


@given(st.lists(st.sampled_from(["joy", "awe", "ire", "woe"]), max_size=6))
def test_extending_in_any_order_keeps_codes_and_round_trips(words: list[str]) -> None:
    """However a vocabulary grows, decode(encode(c)) == c and old codes stay."""
    grown = FACES
    for word in words:
        before = grown
        grown = grown.extend({"emotion": word})
        for value in before.factors[0].values:
            assert grown.encode({"emotion": value}) == before.encode({"emotion": value})
        assert grown.decode(grown.encode({"emotion": word})) == {"emotion": word}
