"""The streams: what comes when, what is held out, and that a seed is a stream."""

from pathlib import Path

import numpy as np
import pytest

from evergrove.bench.forgetting import glyphs, looks
from evergrove.bench.forgetting.streams import (
    Classes,
    Sizes,
    Stream,
    class_incremental,
    classes_of,
    groups_of,
    translated,
)
from evergrove.bench.forgetting.worlds import World
from evergrove.core.conditions import Factor, Vocabulary
from evergrove.core.errors import InvalidInput, MissingDependency
from evergrove.core.rng import stream as named
from evergrove.learn.strategies import Samples
from evergrove.media import avatars


def test_lessons_come_one_after_the_other(stream: Stream, classes: Classes, world: World) -> None:
    """Values are numbered as they come; pictures to learn and to judge by are of the right classes and disjoint."""
    first = world.model.vocabulary.sizes[0]
    assert stream.vocabulary.factors[0].values[first:] == ("new-0", "new-1", "new-4", "new-2", "new-5", "new-3")
    assert [sorted(set(lesson.new.codes[:, 0].tolist())) for lesson in stream.lessons] == [
        [first + 1, first + 2],
        [first + 3, first + 4],
        [first + 5, first + 6],
    ]
    lesson = stream.lessons[1]
    assert (len(lesson.new), len(lesson.real), len(lesson.asked)) == (20, 16, 12)
    assert not lesson.unseen.any()
    learnt = {picture.tobytes() for picture in lesson.new.images}
    assert learnt <= {picture.tobytes() for c in (4, 2) for picture in classes.train[c]}
    assert not learnt & {picture.tobytes() for picture in lesson.real.images}
    assert stream.rows == (1, 2, 3)


def test_a_seed_is_an_order(classes: Classes) -> None:
    """S1 gives every class once; the same seed the same order, another one another; S4 has one class a lesson."""
    orders = [groups_of("S1", classes, 3, seed) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(c for group in orders[0] for c in group) == list(range(6))
    assert [len(group) for group in groups_of("S4", classes, 4, 0)] == [1, 1, 1, 1]


def test_alphabets_stay_together() -> None:
    """S2: up to four characters of one alphabet a lesson."""
    names = tuple(f"{alphabet}-{i}" for alphabet in ("a", "b", "c") for i in range(6))
    nothing = tuple(np.zeros((0, 4, 4, 1), np.uint8) for _ in names)
    groups = groups_of("S2", Classes(names, nothing, nothing), 2, 3)
    assert [len(group) for group in groups] == [4, 4]
    assert [len({names[c][0] for c in group}) for group in groups] == [1, 1]


def test_long_streams_are_measured_now_and_then(classes: Classes, world: World) -> None:
    """Of more than ten lessons every fifth part is measured whole."""
    many = Classes(tuple(f"c{i}" for i in range(20)), classes.train[:1] * 20, classes.test[:1] * 20)
    found = class_incremental("S4", many, world.model.vocabulary, [[c] for c in range(20)], Sizes(n_train=2), 0)
    assert found.rows == (4, 8, 12, 16, 20)


def test_codes_are_translated_by_name() -> None:
    """The second value of one vocabulary is the first of another."""
    mine = Vocabulary((Factor("sign", ("x", "y")),))
    theirs = Vocabulary((Factor("sign", ("y", "z", "x")),))
    assert translated(np.array([[2], [1]], np.int16), mine, theirs).tolist() == [[1], [3]]


def test_data_that_is_not_there_says_where_it_was_looked_for(tmp_path: Path) -> None:
    """Absent: the way out. Without its arrays: the array."""
    with pytest.raises(MissingDependency, match="--data"):
        classes_of("S1", tmp_path, small=False)
    (tmp_path / "mnist").mkdir()
    np.savez(tmp_path / "mnist" / "mnist.npz", images=np.zeros((1, 28, 28), np.uint8))
    with pytest.raises(InvalidInput, match="labels"):
        classes_of("S1", tmp_path, small=False)


def test_digits_of_the_shared_form_are_split_by_position(tmp_path: Path) -> None:
    """The first three quarters of every class are learnt from; pictures stand in the middle, at half the size."""
    images = np.arange(40, dtype=np.uint8)[:, None, None] * np.ones((1, 28, 28), np.uint8)
    (tmp_path / "mnist").mkdir()
    np.savez(tmp_path / "mnist" / "mnist.npz", images=images, labels=np.arange(40, dtype=np.uint8) % 10)
    found = classes_of("S1", tmp_path, small=False)
    assert [part[:, 8, 8, 0].tolist() for part in (found.train[3], found.test[3])] == [[3, 13, 23], [33]]
    assert found.train[3].shape == (3, 16, 16, 1)
    assert found.train[9][:, 0].max() == 0


def test_the_small_form_is_scikit_learns() -> None:
    """1797 digits at 16 px, 70 % of each class to learn from."""
    pytest.importorskip("sklearn")
    found = classes_of("S1", None, small=True)
    assert sum(len(part) for part in (*found.train, *found.test)) == 1797
    assert found.train[0].shape[1:] == (16, 16, 1)


def test_signs_are_drawn_by_rule() -> None:
    """The same seed the same picture; pictures of one sign are nearer to each other than to another sign's."""
    known, vocabulary = glyphs.known_signs(3, 6, 16, seed=5)
    again, _ = glyphs.known_signs(3, 6, 16, seed=5)
    assert np.array_equal(known.images, again.images)
    assert vocabulary.sizes == (3,)
    means = [known.images[known.codes[:, 0] == i + 1].astype(float).mean(0) for i in range(3)]
    own = np.mean([np.abs(known.images[i] - means[known.codes[i, 0] - 1]).mean() for i in range(18)])
    other = np.mean([np.abs(known.images[i] - means[known.codes[i, 0] % 3]).mean() for i in range(18)])
    assert own < other
    task = glyphs.pseudo_task(known, vocabulary, 8, named(1, "task"))
    assert task.codes[:, 0].tolist() == [4] * 4 + [5] * 4
    assert task.vocabulary.sizes == (5,)


def test_looks_change_five_times_and_most_emotions_stay_unseen() -> None:
    """Five held-back things in a row; two emotions shown of six; what was shown is not marked as unseen."""
    pytest.importorskip("resvg_py")
    atelier = avatars.Atelier(16)
    known = looks.base_pictures(atelier, 12, 0)
    found = looks.avatar_stream(atelier, known, known, seed=3)
    assert len(found.lessons) == 5
    for lesson in found.lessons:
        assert len(set(lesson.new.codes[:, 0].tolist())) == 2
        assert set(lesson.real.codes[:, 0].tolist()) == {1, 2, 3, 4, 5, 6}
        assert lesson.unseen.mean() == pytest.approx(4 / 6)
        seen = set(lesson.new.codes[:, 0].tolist())
        assert set(lesson.asked[~lesson.unseen, 0].tolist()) == seen
        added = lesson.vocabulary.added(looks.BASE)
        assert any((lesson.new.codes[:, f] == n).all() for f, n in added)
    names = {value for factor in found.vocabulary.factors for value in factor.values}
    assert len(names & {value for values in looks.HELD_BACK.values() for value in values}) == 5
    assert found.base == looks.BASE


def test_the_base_and_its_rehearsal_hold_nothing_back() -> None:
    """Every picture of the base has no accessory and no beard: code 1, which is 'none'."""
    pytest.importorskip("resvg_py")
    known = looks.base_pictures(avatars.Atelier(16), 12, 0)
    assert (known.codes[:, 6:] == 1).all()
    assert (known.codes <= looks.BASE.sizes).all()
    oracle, vocabulary = looks.judge_pictures(avatars.Atelier(16), 24, 0)
    assert (oracle.codes <= vocabulary.sizes).all()
    assert isinstance(oracle, Samples)
    assert (oracle.codes[:, 6] > 1).any()
