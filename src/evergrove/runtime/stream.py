"""Frames on a schedule: one picture each 1/fps seconds, for as long as somebody asks for the next one.

Frame i may begin at its beat and is due one period later. A frame that comes later is *late*: it is counted, says so
itself, and is delivered all the same. When a stream falls behind by more than a period it does not hurry after the
clock: it goes on at the next beat, and the beats without a frame are counted as *missed*. No index is ever left out.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from evergrove.core.errors import UsageError
from evergrove.runtime.picture import Frame, Picture

FPS_MAX = 240.0
LATENESS_KEPT = 4096
"""Latest frames whose duration stays in the statistics."""


class Announcer(Protocol):
    """Who is told of the frames: an app's slot in the frame gate."""

    def begin(self) -> None:
        """A frame begins."""

    def end(self, budget_s: float = 0.0, late: bool = False, took_s: float = 0.0) -> None:
        """It has ended."""

    def schedule(self, next_s: float, period_s: float) -> None:
        """When the next one begins."""

    def close(self) -> None:
        """No more frames."""


@dataclass(frozen=True)
class StreamStats:
    """A stream so far. ``late_ms_max`` is how far the latest frame was behind; ``made_ms_p99`` is of recent frames."""

    frames: int
    late: int
    missed: int
    late_ms_max: float
    made_ms_p99: float


class Stream:
    """An iterator of ``Frame``; ``close`` (or the end of a ``with`` block, or of the last reference) ends it.

    For one thread at a time. The first beat is when the first frame is asked for.
    """

    def __init__(
        self,
        make: Callable[[int], Picture],
        fps: float,
        announcer: Announcer | None,
        now_s: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        """``make(index)`` makes a picture. Raises ``UsageError`` for a rate that no clock keeps."""
        self._closed = True
        if not 0.0 < fps <= FPS_MAX:
            raise UsageError(f"fps = {fps}; a stream runs at more than 0 and up to {FPS_MAX:g} frames a second")
        self._make, self._announcer, self._now_s, self._sleep = make, announcer, now_s, sleep
        self.period_s = 1.0 / fps
        self._first_s: float | None = None
        self._beat = 0  # the number of the beat at which the next frame begins
        self._index = self._late = self._missed = 0
        self._late_s_max = 0.0
        self._took_s: list[float] = []
        self._closed = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Frame:
        """Waits for the frame's beat, makes it, and says whether it is late."""
        if self._closed:
            raise StopIteration
        # 1. Its beat; at once where that has passed already.
        if self._first_s is None:
            self._first_s = self._now_s()
        beat_s = self._first_s + self._beat * self.period_s
        while (early_s := beat_s - self._now_s()) > 0.0:
            self._sleep(early_s)
        # 2. The picture.
        due_s = beat_s + self.period_s
        if self._announcer is not None:
            self._announcer.begin()
        began_s = ready_s = self._now_s()
        late_s = 0.0
        try:
            picture = self._make(self._index)
            ready_s = self._now_s()
            late_s = max(0.0, ready_s - due_s)
        finally:
            # 3. The next beat is announced before the end of this frame: between the two, nobody may think it is calm.
            self._beat += 1 + math.floor(late_s / self.period_s)
            if self._announcer is not None:
                self._announcer.schedule(self._first_s + self._beat * self.period_s, self.period_s)
                self._announcer.end(self.period_s, late_s > 0.0, ready_s - began_s)
        # 4. The books.
        frame = Frame.of(picture, self._index, due_s, late_s)
        self._index += 1
        self._late += late_s > 0.0
        self._missed = self._beat - self._index
        self._late_s_max = max(self._late_s_max, late_s)
        self._took_s.append(ready_s - began_s)
        del self._took_s[:-LATENESS_KEPT]
        return frame

    @property
    def stats(self) -> StreamStats:
        """How the stream has done so far."""
        p99_s = float(np.percentile(self._took_s, 99)) if self._took_s else 0.0
        return StreamStats(self._index, self._late, self._missed, self._late_s_max * 1000, p99_s * 1000)

    def close(self) -> None:
        """Ends the stream; asking for another frame then ends a loop. Doing it twice is fine."""
        if not self._closed:
            self._closed = True
            if self._announcer is not None:
                self._announcer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
