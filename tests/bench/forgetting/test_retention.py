"""What a selection keeps, against cases that can be worked out by hand; and what a thinned stream is."""

from dataclasses import replace

import numpy as np
import pytest

from evergrove.bench.forgetting import retention
from evergrove.bench.forgetting.retention import SELECTIONS, Keep
from evergrove.bench.forgetting.streams import Stream
from evergrove.core.rng import stream as named
from evergrove.learn.strategies import Samples


def on_a_line(
    *values: int, condition: tuple[int, ...] = ()
) -> tuple[Samples, "np.ndarray[tuple[int, int], np.dtype[np.uint8]]"]:
    """Observations whose feature is one number each; all of one condition unless told otherwise."""
    codes = np.array(condition or (1,) * len(values), np.int16)[:, None]
    return Samples(np.zeros((len(values), 16, 16, 1), np.uint8), codes), np.array(values, np.uint8)[:, None]


def keep(name: str, n: int, *values: int, seed: int = 0) -> list[int]:
    """The numbers that a selection keeps."""
    samples, looks = on_a_line(*values)
    return sorted(values[row] for row in SELECTIONS[name](samples, looks, n, named(seed, "test")))


def test_k_centre_goes_to_the_far_ends() -> None:
    """Mean 22: first 20, then 100 (80 off), then 0 (20 off); what lies between is never taken."""
    assert keep("k-centre", 3, 0, 3, 7, 20, 2, 100) == [0, 20, 100]


def test_herding_keeps_the_mean() -> None:
    """Mean 5: 5 itself, then 4 and 6, whose means with the kept ones stay nearest to 5."""
    assert keep("herding", 1, 0, 4, 5, 6, 10) == [5]
    assert np.mean(keep("herding", 3, 0, 4, 5, 6, 10)) == 5


def test_surprise_keeps_what_was_far_when_it_came() -> None:
    """0 comes first; 1 is 1 off and goes when 50 comes; 90 is 40 off from 50, so 50 (49 off) and 90 stay beside 0."""
    assert keep("surprise", 3, 0, 1, 50, 90) == [0, 50, 90]


def test_a_reservoir_gives_everything_the_same_chance() -> None:
    """Of ten in two places each is kept in a fifth of 2000 draws, within five standard errors."""
    counts = np.zeros(10)
    for seed in range(2000):
        for value in keep("reservoir", 2, *range(10), seed=seed):
            counts[value] += 1
    assert np.abs(counts / 2000 - 0.2).max() < 5 * (0.2 * 0.8 / 2000) ** 0.5


@pytest.mark.parametrize("name", list(SELECTIONS))
def test_no_selection_keeps_more_than_it_may(name: str) -> None:
    """Rows are different ones, at most as many as asked for, and every condition is among them."""
    rng = named(1, "pictures")
    images = rng.integers(0, 256, size=(30, 16, 16, 1), dtype=np.uint8)
    came = Samples(images, np.repeat(np.array([4, 5, 6], np.int16), 10)[:, None])
    rows = SELECTIONS[name](came, retention.looks_of(came), 7, named(2, "chance"))
    assert len(set(rows.tolist())) == len(rows) <= 7
    assert set(came.codes[rows, 0].tolist()) == {4, 5, 6}
    if name != "ours":
        assert len(rows) == 7


def test_ours_drops_what_is_there_already() -> None:
    """Ten copies of one picture and one other: two are kept where five might be."""
    rng = named(1, "pictures")
    one, other = rng.integers(0, 256, size=(2, 16, 16, 1), dtype=np.uint8)
    came = Samples(np.stack([one] * 10 + [other]), np.ones((11, 1), np.int16))
    rows = SELECTIONS["ours"](came, retention.looks_of(came), 5, named(2, "chance"))
    assert sorted(rows.tolist()) == [0, 10]


def test_a_thinned_stream_is_the_same_but_for_what_is_learnt(stream: Stream) -> None:
    """Ten of twenty at half, two of twenty (one a condition) at 1 %; what it is judged by stays; a seed repeats."""
    for percent, expected in ((50, 10), (1, 2)):
        found = retention.thinned(stream, Keep("random", percent), seed=3)
        again = retention.thinned(stream, Keep("random", percent), seed=3)
        for lesson, before, same in zip(found.lessons, stream.lessons, again.lessons, strict=True):
            assert len(lesson.new) == expected
            assert np.array_equal(lesson.new.images, same.new.images)
            assert replace(lesson, new=before.new) == before
    assert retention.thinned(stream, Keep("all", 100), seed=3) is stream


def test_points_of_the_curve_have_names() -> None:
    """All of the stream once, and each selection at 2, 5 and 10 %."""
    assert len(retention.keeps()) == 1 + 3 * len(SELECTIONS)
    assert retention.kept_named("herding-5") == Keep("herding", 5)
    assert retention.kept_named("replay") is None
    assert retention.rival_of(Keep("ours", 2)).name == "ours-2"
