"""Frames on a schedule: each on its beat, late ones counted and delivered, beats without a frame counted as missed."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest

from evergrove.core.errors import UsageError
from evergrove.runtime.picture import Frame, Picture
from evergrove.runtime.stream import FPS_MAX, Stream

PICTURE = Picture("p", np.zeros((2, 2, 3), np.uint8), {"emotion": "happy"}, 7, None, 1.0)


class World:
    """A clock, a picture maker whose times are told beforehand, and a frame gate that writes down what it hears."""

    def __init__(self, *took_s: float) -> None:
        self.now_s = 100.0
        self.heard: list[tuple[object, ...]] = []
        self._took_s: Iterator[float] = iter(took_s)

    def make(self, index: int) -> Picture:
        self.now_s += next(self._took_s)
        return PICTURE

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def begin(self) -> None:
        self.heard.append(("begin", round(self.now_s, 6)))

    def end(self, budget_s: float = 0.0, late: bool = False, took_s: float = 0.0) -> None:
        self.heard.append(("end", late, round(took_s, 6)))

    def schedule(self, next_s: float, period_s: float) -> None:
        self.heard.append(("next", round(next_s, 6)))

    def close(self) -> None:
        self.heard.append(("close",))

    def stream(self, fps: float = 10.0) -> Stream:
        return Stream(self.make, fps, self, lambda: self.now_s, self.sleep)


def test_frames_begin_on_their_beats() -> None:
    """At 10 a second frames begin at 100.0, 100.1 and 100.2 whatever the one before took, and none is late."""
    world = World(0.03, 0.09, 0.01)
    frames = list(islice(world.stream(), 3))
    assert [what for what in world.heard if what[0] == "begin"] == [
        ("begin", 100.0),
        ("begin", 100.1),
        ("begin", 100.2),
    ]
    assert [(frame.index, frame.late_s) for frame in frames] == [(0, 0.0), (1, 0.0), (2, 0.0)]
    assert frames[1].due_s == pytest.approx(100.2)


def test_a_late_frame_is_delivered_and_says_so() -> None:
    """130 ms for a beat of 100 ms is 30 ms late; the next frame starts at once, at its own beat and no later."""
    world = World(0.13, 0.02)
    stream = world.stream()
    first, second = islice(stream, 2)
    assert isinstance(first, Frame)
    assert first.late_s == pytest.approx(0.03)
    assert second.late_s == 0.0
    assert ("begin", 100.13) in world.heard
    stats = stream.stats
    assert (stats.frames, stats.late, stats.missed) == (2, 1, 0)
    assert stats.late_ms_max == pytest.approx(30.0)


def test_a_stream_that_falls_behind_does_not_hurry_after_the_clock() -> None:
    """350 ms: two beats (100.1 and 100.2) have no frame; they are missed, no index is left out."""
    world = World(0.35, 0.02, 0.02)
    stream = world.stream()
    frames = list(islice(stream, 3))
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert stream.stats.missed == 2
    begins = [what[1] for what in world.heard if what[0] == "begin"]
    assert begins == [100.0, 100.35, 100.4]


def test_the_next_beat_is_announced_before_a_frame_ends() -> None:
    """Between the end of a frame and its successor's announcement a trainer would think that nobody is there."""
    world = World(0.03)
    next(world.stream())
    assert [what[0] for what in world.heard][:3] == ["begin", "next", "end"]


def test_a_picture_that_fails_ends_its_frame_in_the_gate() -> None:
    """The error reaches the app, and the gate does not wait for a frame that nobody makes."""
    world = World()
    stream = world.stream()
    with pytest.raises(StopIteration):  # the maker has run out of times
        next(stream)
    assert [what[0] for what in world.heard][-1] == "end"
    assert stream.stats.frames == 0


def test_a_closed_stream_ends_a_loop_and_tells_the_gate_once() -> None:
    """``close`` twice, and leaving a ``with`` block, are fine."""
    world = World(0.01, 0.01)
    with world.stream() as stream:
        for frame in stream:
            if frame.index == 1:
                stream.close()
    stream.close()
    assert [what for what in world.heard if what == ("close",)] == [("close",)]
    assert list(stream) == []


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), FPS_MAX + 1])
def test_a_rate_that_no_clock_keeps_is_refused(fps: float) -> None:
    """And named."""
    with pytest.raises(UsageError, match="fps = "):
        World().stream(fps)
