"""Virtual time: a heap of (time, sequence number), and what goes wrong in it.

An action runs at its time and may plan others; nothing here waits, reads a clock or draws chance but from a named
stream, so the same scenario and seed run in the same order (DESIGN §3; the model is TigerBeetle's simulation testing).
Faults are first class: ``Courier`` delays, drops and duplicates messages, ``SkewedClock`` lies about the time, and
``PowerCut`` is what a disk raises when the device loses its memory at a write.
"""

import heapq
import math
from collections.abc import Callable

import msgspec
import numpy as np

from evergrove.core.errors import UsageError
from evergrove.sim.faults import Channel

Action = Callable[[], None]

DAY_S = 86_400.0


class PowerCut(BaseException):
    """A process lost its memory at this write; what was written before is on its disk. Not to be caught on the way."""


class Engine:
    """The clock of a simulated world and what is planned in it. Actions of one time run in the order of planning."""

    def __init__(self, start_s: float = 0.0) -> None:
        self.start_s = start_s
        self.now_s = start_s
        self.n_done = 0
        self._heap: list[tuple[float, int, Action]] = []
        self._seq = 0
        self._cancelled: set[int] = set()

    def at(self, when_s: float, action: Action) -> int:
        """Plans an action; gives a ticket for ``cancel``.

        Raises ``UsageError`` for a time that is past or not finite: effects never come before their causes.
        """
        if not math.isfinite(when_s) or when_s < self.now_s:
            raise UsageError(f"an action was planned for {when_s}, but it is {self.now_s} already")
        self._seq += 1
        heapq.heappush(self._heap, (when_s, self._seq, action))
        return self._seq

    def after(self, delay_s: float, action: Action) -> int:
        """Plans an action some seconds from now; gives a ticket for ``cancel``."""
        return self.at(self.now_s + delay_s, action)

    def cancel(self, ticket: int) -> None:
        """Takes an action back that has not run yet."""
        self._cancelled.add(ticket)

    def run(self, until_s: float, watch: Callable[[float], None] | None = None, watch_every: int = 2000) -> int:
        """Runs everything that is due up to and including ``until_s``, then sets the clock there.

        ``watch`` is told the time now and then (every ``watch_every`` actions). Gives the number of actions run.
        """
        heap, before = self._heap, self.n_done
        while heap and heap[0][0] <= until_s:
            when_s, ticket, action = heapq.heappop(heap)
            if self._cancelled and ticket in self._cancelled:
                self._cancelled.discard(ticket)
                continue
            self.now_s = when_s
            self.n_done += 1
            action()
            if watch is not None and self.n_done % watch_every == 0:
                watch(when_s)
        self.now_s = max(self.now_s, until_s)
        return self.n_done - before


class Carried(msgspec.Struct):
    """What a courier has done so far."""

    sent: int = 0
    dropped: int = 0
    duplicated: int = 0


class Courier:
    """Carries messages over a channel: late, twice, in another order, or not at all."""

    def __init__(self, engine: Engine, channel: Channel, rng: np.random.Generator) -> None:
        self.carried = Carried()
        self._engine = engine
        self._channel = channel
        self._rng = rng

    def change(self, channel: Channel) -> None:
        """Messages from now on go over this channel."""
        self._channel = channel

    def send(self, deliver: Action, takes_s: float = 0.0) -> None:
        """Sends a message that takes ``takes_s`` more than the channel's own delay; ``deliver`` runs on arrival."""
        channel = self._channel
        self.carried.sent += 1
        # All chance is drawn whatever comes of it, so that one knob does not change the meaning of another.
        lost, twice = self._rng.random(2).tolist()
        first_s, second_s = self._rng.exponential(1.0, 2).tolist()
        if lost < channel.drop_share:
            self.carried.dropped += 1
            return
        takes_s += channel.delay_s
        self._engine.after(takes_s + channel.jitter_s * first_s, deliver)
        if twice < channel.duplicate_share:
            self.carried.duplicated += 1
            self._engine.after(takes_s + channel.jitter_s * (first_s + second_s), deliver)


class SkewedClock:
    """What a device takes for the time: offset, drift, and jumps when somebody sets it."""

    def __init__(self, engine: Engine, offset_s: float = 0.0, drift_ppm: float = 0.0) -> None:
        self._engine = engine
        self._offset_s = offset_s
        self._drift = drift_ppm * 1e-6

    def now_s(self) -> float:
        """Seconds since 1970, as this clock has it; a jump can take it back."""
        true_s = self._engine.now_s
        return true_s + self._offset_s + (true_s - self._engine.start_s) * self._drift

    def jump(self, by_s: float) -> None:
        """Somebody sets the clock."""
        self._offset_s += by_s


def every_so_often(engine: Engine, rng: np.random.Generator, per_day: float, action: Action) -> None:
    """Runs an action at random moments, ``per_day`` times a day on average (a Poisson process); never for 0."""
    if per_day <= 0:
        return

    def happen() -> None:
        action()
        engine.after(float(rng.exponential(DAY_S / per_day)), happen)

    engine.after(float(rng.exponential(DAY_S / per_day)), happen)
