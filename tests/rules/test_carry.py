"""What a device takes along to a new release: by name, exact within a generation, measured across one."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evergrove.adapters.release import open_release
from evergrove.core.conditions import Factor, Vocabulary
from evergrove.core.errors import InvalidArtefact, UsageError
from evergrove.rules import carry, params
from evergrove.rules.carry import Ground, across, on_release, renumbered, renumbering, since, vocabulary_on
from evergrove.rules.learnt import Array, Learnt

BASE = ("happy", "sad")
"""What the base's table has rows for."""
OUT, IN, RANK, WIDTH = 3, 6, 2, 4


def words(*values: str, hair: tuple[str, ...] = ("bob",)) -> Vocabulary:
    """A vocabulary of emotions, the base's before ``values``, and of one hair."""
    return Vocabulary((Factor("emotion", (*BASE, *values)), Factor("hair", hair)))


def adapter(vocabulary: Vocabulary, b: float, rows: dict[str, float], rank: int = RANK) -> Learnt:
    """B all ``b``; each emotion's row all that number."""
    emotions = vocabulary.factors[0].values
    tensors: dict[str, Array] = {"a.B": np.full((OUT, rank), b, np.float32)}
    for value, number in rows.items():
        tensors[f"row.0:{emotions.index(value) + 1}"] = np.full(WIDTH, number, np.float32)
    return Learnt("ab" * 32, "cd" * 32, rank, 1.0, vocabulary, tensors)


def rows_of(one: Learnt) -> dict[str, float]:
    """The first number of each row, by the emotion's name."""
    values = one.vocabulary.factors[0].values
    return {values[int(k[6:]) - 1]: float(t[0]) for k, t in one.tensors.items() if k.startswith("row.")}


R0 = adapter(words("love"), 1.0, {"love": 10.0})
P = adapter(words("love", "secret", "dizzy"), 3.0, {"love": 14.0, "secret": 7.0, "dizzy": 8.0})
R1 = adapter(words("love", "shy", "dizzy"), 5.0, {"love": 20.0, "shy": 30.0, "dizzy": 40.0})


# ---- names and numbers -----------------------------------------------------------------------------------------------


def test_a_value_keeps_its_name_and_changes_its_number() -> None:
    """The fleet gains shy and dizzy; the device called dizzy 5 and secret 4, now they are 5 and 6."""
    wider = vocabulary_on(R1.vocabulary, P.vocabulary)
    assert wider.factors[0].values == ("happy", "sad", "love", "shy", "dizzy", "secret")
    table = renumbering(P.vocabulary, wider)
    assert table == ((0, 1, 2, 3, 6, 5), (0, 1))
    assert renumbered((4, 1), table) == (6, 1)
    assert renumbered((5, 0), table) == (5, 0)
    with pytest.raises(UsageError, match="secret"):
        renumbering(P.vocabulary, R1.vocabulary)
    with pytest.raises(UsageError, match="another model"):
        vocabulary_on(Vocabulary((Factor("digit", ("1",)),)), P.vocabulary)


names = st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=6)


@given(names, names, names)
def test_words_mean_the_same_after_renumbering(before: list[str], own: list[str], after: list[str]) -> None:
    """For every value: the word behind its new number is the word behind its old one; the release's come first."""
    mine = vocabulary_on(words(*before), words(*before, *(v for v in own if v not in before)))
    released = words(*after)
    wider = vocabulary_on(released, mine)
    table = renumbering(mine, wider)
    assert wider.factors[0].values[: len(released.factors[0].values)] == released.factors[0].values
    for n in range(1, mine.sizes[0] + 1):
        assert wider.decode(renumbered((n, 0), table)) == mine.decode((n, 0))
    assert len(set(wider.factors[0].values)) == wider.sizes[0]


# ---- within a generation ---------------------------------------------------------------------------------------------


def test_the_personal_part_stands_on_the_new_release() -> None:
    """B: 5 + γ·(3 − 1). love: 20 + γ·(14 − 10). secret: γ·7. dizzy: from the fleet's 40 to the device's 8. shy: 30."""
    for gamma in carry.GAMMAS:
        got = on_release(P, R0, R1, R1.vocabulary, gamma)
        assert got.tensors["a.B"].tolist() == np.full((OUT, RANK), 5 + 2 * gamma).tolist()
        assert rows_of(got) == {
            "love": 20 + 4 * gamma,
            "secret": 7 * gamma,
            "dizzy": 40 - 32 * gamma,
            "shy": 30.0,
        }
        assert got.vocabulary == vocabulary_on(R1.vocabulary, P.vocabulary)
        assert (got.base, got.basis, got.rank) == (P.base, P.basis, RANK)


def test_a_release_without_an_adapter_is_one_of_zeros() -> None:
    """From the base alone: all of P is the device's. To it: P − R0 remains, and love is the device's own."""
    plain = words()
    assert on_release(P, None, R1, R1.vocabulary, 0.5).tensors["a.B"][0, 0] == 6.5
    back = on_release(P, R0, None, plain, 0.5)
    assert back.tensors["a.B"][0, 0] == 1.0
    assert rows_of(back) == {"love": 7.0, "secret": 3.5, "dizzy": 4.0}
    assert back.vocabulary.factors[0].values == (*BASE, "love", "secret", "dizzy")


def test_what_was_never_trained_does_not_wipe_the_fleets_row() -> None:
    """A row of zeros, for a name that the fleet has meanwhile learnt; a value whose row the device lacks."""
    blank = adapter(words("dizzy"), 3.0, {"dizzy": 0.0})
    assert rows_of(on_release(blank, None, R1, R1.vocabulary, 1.0)) == {"love": 20.0, "shy": 30.0, "dizzy": 40.0}


def test_smaller_ranks_are_padded() -> None:
    """P of rank 1 on releases of rank 2, and the other way round."""
    small = adapter(P.vocabulary, 3.0, rows_of(P), rank=1)
    assert on_release(small, R0, R1, R1.vocabulary, 1.0).tensors["a.B"].tolist() == [[7.0, 4.0]] * OUT
    low = adapter(R1.vocabulary, 5.0, rows_of(R1), rank=1)
    assert on_release(P, R0, low, R1.vocabulary, 1.0).tensors["a.B"].tolist() == [[7.0, 2.0]] * OUT


def test_what_does_not_add_is_refused() -> None:
    """Another generation, ordinary LoRA, another network, a γ outside."""
    lora = replace(P, tensors={**P.tensors, "a.A": np.zeros((RANK, IN), np.float32)})
    other = replace(P, tensors={"a.B": np.zeros((OUT + 1, RANK), np.float32)})
    for bad, match in (
        (lambda: on_release(P, replace(R0, basis="ef" * 32), R1, R1.vocabulary, 1.0), "two generations"),
        (lambda: on_release(P, R0, replace(R1, base="ef" * 32), R1.vocabulary, 1.0), "two generations"),
        (lambda: on_release(lora, R0, R1, R1.vocabulary, 1.0), "its own|of its own"),
        (lambda: on_release(other, R0, R1, R1.vocabulary, 1.0), "not of this base"),
        (lambda: on_release(P, R0, R1, R1.vocabulary, 1.5), "gamma"),
    ):
        with pytest.raises(UsageError, match=match):
            bad()


def some(vocabulary: Vocabulary, seed: int) -> Learnt:
    """An adapter of small whole numbers, which add without rounding."""
    rng = np.random.default_rng(seed)
    tensors = {"a.B": rng.integers(-9, 9, (OUT, RANK)).astype(np.float32)}
    for n in range(len(BASE) + 1, vocabulary.sizes[0] + 1):
        tensors[f"row.0:{n}"] = rng.integers(1, 9, WIDTH).astype(np.float32)
    return Learnt("ab" * 32, "cd" * 32, RANK, 1.0, vocabulary, tensors)


@settings(max_examples=60, deadline=None)
@given(names, names, names, st.sampled_from(carry.GAMMAS), st.integers(0, 99))
def test_laws(before: list[str], own: list[str], after: list[str], gamma: float, seed: int) -> None:
    """The same release, γ = 1: P itself. γ = 0: the release. Not sent yet: γ times what it was before."""
    r0, r1 = some(words(*before), seed), some(words(*after), seed + 1)
    mine = vocabulary_on(r0.vocabulary, words(*own))
    p, sent = some(mine, seed + 2), some(mine, seed + 3)
    same = on_release(p, r0, r0, r0.vocabulary, 1.0)
    assert same.vocabulary == p.vocabulary
    assert all(np.array_equal(same.tensors[k], p.tensors[k]) for k in p.tensors)
    alone = on_release(p, r0, r1, r1.vocabulary, 0.0)
    assert all(np.array_equal(alone.tensors[k], r1.tensors[k]) for k in r1.tensors)
    got, reference = (on_release(one, r0, r1, r1.vocabulary, gamma) for one in (p, sent))
    assert np.array_equal(
        got.tensors["a.B"] - reference.tensors["a.B"], gamma * (p.tensors["a.B"] - sent.tensors["a.B"])
    )
    assert len(since(got, reference, layout_for(r1.vocabulary))) == layout_for(r1.vocabulary).n_numbers


def test_it_is_what_rescaling_does_in_the_learning_code() -> None:
    """On one release, both are R + γ·(P − R)."""
    from evergrove.learn.adapter import rescale
    from evergrove.learn.adapter_file import adapter_bytes, adapter_of_bytes
    from evergrove.rules.learnt import decode, encode

    for gamma in (0.5, 0.25):
        ours = on_release(P, R0, R0, R0.vocabulary, gamma)
        theirs = rescale(adapter_of_bytes(encode(P)), gamma, adapter_of_bytes(encode(R0)))
        again = decode(adapter_bytes(theirs))
        assert rows_of(again) == rows_of(ours)
        assert np.array_equal(again.tensors["a.B"], ours.tensors["a.B"])


# ---- updates ---------------------------------------------------------------------------------------------------------


def layout_for(vocabulary: Vocabulary) -> params.Layout:
    """The layout of a release of that vocabulary: B, and the rows that the base has none for."""
    rows = [params.Slot(f"row.0:{n}", (WIDTH,)) for n in range(len(BASE) + 1, vocabulary.sizes[0] + 1)]
    return params.Layout("ab" * 32, "cd" * 32, 1, vocabulary, (params.Slot("a.B", (OUT, RANK)), *rows))


def test_an_update_is_what_was_learnt_since() -> None:
    """P − R0 in the fleet's layout: 6 numbers of B, 4 of love; the device's own names have no place in it."""
    layout = layout_for(R0.vocabulary)
    assert since(P, R0, layout).tolist() == [2.0] * 6 + [4.0] * 4
    assert since(P, None, layout).tolist() == [3.0] * 6 + [14.0] * 4
    assert since(R0, R0, layout).tolist() == [0.0] * 10
    with pytest.raises(UsageError, match="this release has others"):
        since(replace(P, basis="ef" * 32), R0, layout)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from(["love", "shy", "dizzy"]), unique=True),
    st.permutations(["love", "shy", "geheim-7", "mon ami", "dizzy"]),
    st.integers(0, 99),
)
def test_what_a_user_invented_never_enters_an_update(fleet: list[str], own: list[str], seed: int) -> None:
    """Whatever the numbers: the bytes hold the fleet's rows under the fleet's numbers, and no trace of the others."""
    layout, vocabulary = layout_for(words(*fleet)), words(*own)
    p = some(vocabulary, seed)
    vector = since(p, None, layout)
    data = params.encode(vector, layout)
    parts = params.named(vector, layout)
    assert set(parts) == {slot.name for slot in layout.slots}
    for i, value in enumerate(fleet):
        theirs = p.tensors[f"row.0:{vocabulary.factors[0].values.index(value) + 1}"]
        assert np.array_equal(parts[f"row.0:{len(BASE) + 1 + i}"], theirs)
    private = [value for value in own if value not in fleet]
    assert not any(value.encode() in data for value in own)
    changed = dict(p.tensors)
    for value in private:
        changed[f"row.0:{vocabulary.factors[0].values.index(value) + 1}"] = np.full(WIDTH, 77.0, np.float32)
    renamed = words(*(f"other {value}" if value in private else value for value in own))
    assert params.encode(since(replace(p, tensors=changed, vocabulary=renamed), None, layout), layout) == data


# ---- across generations ----------------------------------------------------------------------------------------------


def orthonormal(rank: int, seed: int) -> Array:
    """Random orthonormal rows (rank, IN)."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((IN, rank)))
    return np.ascontiguousarray(q.T, np.float32)


def ground(a: Array, vocabulary: Vocabulary, start: float, scale: float = 1.0, name: str = "cd") -> Ground:
    """A base whose emotions' rows have the mean ``start``, and its A."""
    starts = {0: np.full(WIDTH, start, np.float32), 1: np.zeros(WIDTH, np.float32)}
    return Ground("ab" * 32, name * 32, scale, {"a": a}, starts, vocabulary)


BEFORE = ground(orthonormal(RANK, 0), R0.vocabulary, 1.0)


def test_what_the_new_a_can_say_comes_along_whole() -> None:
    """A' spans A's rows and one more, s' = 2: ΔW is the same to 1e-6, and the error is nothing."""
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((RANK, RANK)))[0]
    full, _ = np.linalg.qr(np.concatenate([(turn @ BEFORE.a["a"]).T, orthonormal(1, 9).T], axis=1))
    after = ground(np.ascontiguousarray(full.T, np.float32), R1.vocabulary, 1.0, 2.0, "ef")
    new = Learnt("ab" * 32, "ef" * 32, 3, 2.0, R1.vocabulary, {**R1.tensors, "a.B": np.ones((OUT, 3), np.float32)})
    p = some(P.vocabulary, 4)
    got = across(p, R0, BEFORE, new, after, 1.0)
    mine = (p.tensors["a.B"] - R0.tensors["a.B"]) @ BEFORE.a["a"]
    there = 2.0 * (got.adapter.tensors["a.B"] - 1.0) @ after.a["a"]
    np.testing.assert_allclose(there, mine, atol=1e-5)
    assert got.error < 1e-6
    assert (got.adapter.rank, got.adapter.basis, got.adapter.scale) == (3, "ef" * 32, 2.0)


def test_the_error_is_the_part_that_the_new_a_cannot_say() -> None:
    """Of two directions of equal weight the new A has one: √½ is lost; of none: all. Of nothing learnt: nothing."""
    axes = np.eye(IN, dtype=np.float32)
    before = replace(BEFORE, a={"a": axes[:2]})
    p = adapter(P.vocabulary, 1.0, rows_of(P))
    for chosen, lost in (([0, 2], 0.5**0.5), ([3, 4], 1.0), ([1, 0], 0.0)):
        after = ground(axes[chosen], R1.vocabulary, 1.0, name="ef")
        new = replace(R1, basis="ef" * 32)
        got = across(p, None, before, new, after, 1.0)
        assert got.error == pytest.approx(lost, abs=1e-6)
        kept = (got.adapter.tensors["a.B"] - 5.0) @ after.a["a"]
        known = [i for i in (0, 1) if i in chosen]
        assert np.allclose(kept[:, known], 1.0)
        assert np.allclose(np.delete(kept, known, axis=1), 0.0)
    assert across(R0, R0, before, new, after, 1.0).error == 0.0


def test_rows_stay_where_they_were_though_their_start_has_moved() -> None:
    """Starts 1 and 4: secret's row of 7 becomes 4, at 8 both times; love goes on from the fleet's 20."""
    after = ground(orthonormal(RANK, 3), R1.vocabulary, 4.0, name="ef")
    new = replace(R1, basis="ef" * 32)
    got = across(P, R0, BEFORE, new, after, 1.0)
    assert rows_of(got.adapter) == {"love": 24.0, "shy": 30.0, "secret": 4.0, "dizzy": 5.0}
    assert got.left == ()
    half = across(P, R0, BEFORE, new, after, 0.5).adapter
    assert rows_of(half)["dizzy"] == 22.5
    nothing = across(P, R0, BEFORE, new, after, 0.0).adapter
    assert np.array_equal(nothing.tensors["a.B"], R1.tensors["a.B"])


def test_a_row_that_the_new_base_has_itself_is_left_behind_and_named() -> None:
    """The base has learnt love and dizzy: their values have no row in an adapter any more; secret's comes along."""
    after = ground(orthonormal(RANK, 3), words("love", "dizzy"), 1.0, name="ef")
    got = across(P, R0, BEFORE, None, after, 1.0)
    assert rows_of(got.adapter) == {"secret": 7.0}
    assert got.adapter.vocabulary.factors[0].values == (*BASE, "love", "dizzy", "secret")
    assert set(got.left) == {(0, "love"), (0, "dizzy")}


def test_another_network_is_refused() -> None:
    """Other layers, other widths, another generation's adapter."""
    after = ground(orthonormal(RANK, 3), R1.vocabulary, 1.0, name="ef")
    new = replace(R1, basis="ef" * 32)
    for ground_after in (
        replace(after, a={"b": after.a["a"]}),
        replace(after, a={"a": np.ones((2, IN + 1), np.float32)}),
        replace(after, starts={0: np.zeros(WIDTH + 1, np.float32)}),
    ):
        with pytest.raises(UsageError, match="another network"):
            across(P, R0, BEFORE, new, ground_after, 1.0)
    with pytest.raises(UsageError, match="another generation"):
        across(replace(P, basis="01" * 32), R0, BEFORE, new, after, 1.0)


def test_the_ground_of_a_release_is_read_without_torch() -> None:
    """The tiny release: 20 layers of orthonormal rows, five tables; the start row is the learning code's."""
    from evergrove.learn.base import load_base
    from evergrove.learn.layers import start_row

    release = open_release("tiny")
    manifest = release.manifest
    base, basis = release.read(manifest.base), release.read(manifest.basis)
    found = carry.ground_of(manifest, base, basis)
    tables = load_base(release.folder).tables
    assert set(found.starts) == set(range(len(tables)))
    for f, table in enumerate(tables):
        np.testing.assert_allclose(found.starts[f], start_row(table.weight).numpy(), atol=1e-6)  # type: ignore[arg-type]
    for rows in found.a.values():
        np.testing.assert_allclose(rows @ rows.T, np.eye(manifest.rank), atol=1e-2)
    with pytest.raises(InvalidArtefact, match="the base"):
        carry.ground_of(manifest, base[:50], basis)
