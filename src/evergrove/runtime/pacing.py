"""The trainer's side of the frame gate: when the next piece of work may run, how large it may be, and how much in all.

A *piece* is what runs between two looks at the gate: one block of the network for one micro-batch, forward or back.
Where the apps leave a core free, pieces only have to keep to the share d of one core. Where trainer and frames share
cores, a piece starts between two frames alone, and the micro-batch is the largest whose longest piece fits into the
slack that the streams leave. The rest of a step's rows follows in further micro-batches; their gradients add up. The
pieces of a micro-batch are told apart by their *place* in it: one pass is like the next, but its first piece, which
also prepares the rows, takes twice as long as a block.
"""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from evergrove.runtime.frame_gate import FrameGate, Moment, Training

POLL_S = 0.0005
"""Between two looks during a frame, and the shortest wait of all. In the idle class such a look runs only when the
core is free anyhow."""
PAUSED_S = 0.05
"""Between two looks at a share of 0, and the longest sleep at any share: what a change of the share may wait for."""
CREDIT_S_MAX = 0.25
"""CPU time that may be caught up after a wait: without a limit a trainer that starved would run on at full speed."""
DEBT_S_MAX = 2.0
FITS = 1 / 3
"""Part of the slack that a piece may take when a micro-batch is sized: one as long as the slack would mostly wait.

Where the system yields, nothing waits for a gap that is long enough, and a piece may take all of it. Measured on one
core at 30 frames a second: 76 % of the throughput that the frames leave, instead of 37 %, at the same p99.
"""
PLACES = 64
"""Pieces of a micro-batch that are told apart; what comes after these is taken for one. The built-in network has 9."""
FADE_S = 5.0
"""How fast the longest slack, and the longest piece of a size, are forgotten."""


@dataclass(frozen=True)
class Clock:
    """Where a pace takes time from: the wall, this process's CPU time, and sleep; all in seconds."""

    now_s: Callable[[], float] = time.monotonic
    cpu_s: Callable[[], float] = time.process_time
    sleep: Callable[[float], None] = time.sleep


@dataclass
class Longest:
    """The longest of recent durations: at once when one is longer, slowly down when they are shorter."""

    value_s: float = 0.0
    at_s: float = -math.inf

    def add(self, value_s: float, now_s: float) -> None:
        """Takes in one more."""
        kept = math.exp(-max(0.0, now_s - self.at_s) / FADE_S)
        self.value_s = max(value_s, value_s + (self.value_s - value_s) * kept)
        self.at_s = now_s


class Pace:
    """One trainer's pace. ``cores`` is on how many the trainer and the apps may run together.

    ``yields`` says that the system itself gives a core to an app that wants it at once (the idle class): then a piece
    starts between any two frames, and a frame that is due interrupts it. Without, it waits for a gap that is as long
    as the longest of its kind, and one that is longer than any slack never starts while a stream runs. ``alive`` is
    asked at every look; once it says no, nothing waits any more and training is told to pause.
    """

    def __init__(
        self,
        gate: FrameGate,
        cores: int,
        yields: bool,
        alive: Callable[[], bool] = lambda: True,
        clock: Clock | None = None,
    ) -> None:
        self._gate, self._cores, self._yields, self._alive = gate, cores, yields, alive
        self._fits = 1.0 if yields else FITS
        self._clock = clock or Clock()
        self._pieces: dict[tuple[int, int], Longest] = {}
        self._slack = Longest()
        self._rows = self._place = 0
        self._piece_slack_s = math.inf
        self._piece_wall_s = self._settled_s = self._clock.now_s()
        self._piece_cpu_s = self._settled_cpu_s = self._start_cpu_s = self._clock.cpu_s()
        self._credit_s = 0.0
        self._n_pieces = self._n_rows = self._overruns = self._starved = 0
        self._starving = False

    def micro_batch(self, rows: int) -> int:
        """Waits until a micro-batch may begin; how many of ``rows`` it may have, or 0 where training is to pause."""
        self._end_piece()
        self._place = 0
        while self._alive():
            self._rows = self._fitting(rows)
            self._wait()
            if self._rows <= self._fitting(rows):  # no stream began meanwhile
                break
        if not self._alive():
            return 0
        self._n_rows += self._rows
        return self._rows

    def within(self) -> None:
        """Ends a piece and waits until the next one may run; some microseconds where nothing is to be waited for."""
        self._end_piece()
        self._wait()

    def aside(self) -> None:
        """The same before work whose length has nothing to do with the rows of a micro-batch."""
        self._end_piece()
        self._rows = 0
        self._wait()

    def longest_piece_s(self, rows: int) -> float:
        """The longest recent piece of a micro-batch of ``rows``, as measured or scaled from the nearest smaller one."""
        known = rows if (rows, 0) in self._pieces else max((n for n, _ in self._pieces if 0 < n < rows), default=0)
        longest_s = max((piece.value_s for (n, _), piece in self._pieces.items() if n == known), default=0.0)
        return longest_s * rows / known if known else longest_s

    def _end_piece(self) -> None:
        now_s = self._clock.now_s()
        took_s = self._clock.cpu_s() - self._piece_cpu_s
        self._pieces.setdefault((self._rows, self._place), Longest()).add(took_s, now_s)
        self._place = min(self._place + 1, PLACES - 1)
        self._n_pieces += 1
        self._overruns += now_s - self._piece_wall_s > self._piece_slack_s

    def _wait(self) -> None:
        while self._alive():
            wait_s = self._wait_s()
            self._report()
            if wait_s <= 0.0:
                break
            self._clock.sleep(wait_s)
        self._piece_wall_s, self._piece_cpu_s = self._clock.now_s(), self._clock.cpu_s()

    def _wait_s(self) -> float:
        """How long to wait before looking again; 0: go."""
        share = self._gate.share
        self._settle(share)
        if share == 0.0:
            return PAUSED_S
        if share < 1.0 and self._credit_s < 0.0:
            # Never less than a look's time: a debt of 1e-17 s, by rounding, would be waited for without end.
            return min(max(-self._credit_s / share, POLL_S), PAUSED_S)
        moment = self._gate.moment()
        if not self._crowded(moment):
            self._piece_slack_s = math.inf
            return 0.0
        if moment.making:
            return POLL_S
        if moment.slack_s < math.inf:
            self._slack.add(moment.slack_s, self._clock.now_s())
        here = self._pieces.get((self._rows, self._place))
        piece_s = here.value_s if here else self.longest_piece_s(self._rows)
        starving = piece_s > max(moment.slack_s, self._slack.value_s)
        self._starved += starving and not self._starving
        self._starving, self._piece_slack_s = starving, math.inf if starving else moment.slack_s
        return 0.0 if self._yields or piece_s <= moment.slack_s else POLL_S  # the next gap will do

    def _settle(self, share: float) -> None:
        """Books the CPU time that was used against what the share has allowed since the last time."""
        now_s, cpu_s = self._clock.now_s(), self._clock.cpu_s()
        self._credit_s += share * (now_s - self._settled_s) - (cpu_s - self._settled_cpu_s)
        self._credit_s = min(max(self._credit_s, -DEBT_S_MAX), CREDIT_S_MAX)
        self._settled_s, self._settled_cpu_s = now_s, cpu_s

    def _crowded(self, moment: Moment) -> bool:
        """Whether frames may need the core that the trainer runs on."""
        return moment.threads > 0 and moment.threads + 1 > self._cores

    def _fitting(self, rows: int) -> int:
        """The largest micro-batch, of 1, 2, 4, … rows or all, whose pieces fit well into the slack."""
        moment = self._gate.moment()
        if not self._crowded(moment):
            return rows
        fitting = 1
        while fitting * 2 <= rows and 0.0 < self.longest_piece_s(fitting * 2) <= self._fits * self._slack.value_s:
            fitting *= 2
        return fitting

    def _report(self) -> None:
        self._gate.report(
            Training(
                os.getpid(),
                self._clock.now_s(),
                self._clock.cpu_s() - self._start_cpu_s,
                self._n_pieces,
                self._n_rows,
                self._overruns,
                self._starved,
            )
        )
