"""The shell around a reducer: feeds it events, logs them, and hands its orders on. Nothing else changes its state.

Write-ahead: an event and everything that follows from it alone are durable in the log before any effect is carried out;
after a crash the log is folded again and the reducer repeats its orders (DESIGN §3).
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import msgspec

from evergrove.adapters.log import Row
from evergrove.core import effects as do
from evergrove.core.errors import CorruptState
from evergrove.core.events import Event
from evergrove.tiers.device import State

Step = Callable[[State, Event, float], tuple[State, list[do.Effect]]]


class Log(Protocol):
    """Where a driver's events are: ``adapters.log.EventLog`` on a device, memory in the simulator."""

    @property
    def first_seq(self) -> int:
        """Number of the oldest event that is still held."""

    @property
    def last_seq(self) -> int:
        """Number of the newest event; 0 for an empty log."""

    def append(self, events: Sequence[Event], at_s: float) -> int:
        """Logs events, all or none, durable on return; gives the newest number."""

    def replay(self, after_seq: int) -> Iterator[Row[Event]]:
        """The events after ``after_seq``, oldest first."""

    def snapshot(self, seq: int, state: bytes) -> None:
        """Keeps the state after event ``seq``."""

    def latest_snapshot(self) -> tuple[int, bytes] | None:
        """The newest intact snapshot and its event number, or None."""

    def compact(self, keep_newest: int) -> int:
        """Drops events that snapshots cover, except the newest; gives how many."""

    def purge(self, state: bytes) -> None:
        """Keeps nothing but the state after the newest event."""


CASCADE_MAX = 64
"""Facts that may follow from one event alone; a reducer that needs more has a loop in it."""


class Driver:
    """A device's state and its log, kept in step."""

    def __init__(self, step: Step, log: Log, now: Callable[[], float], snapshot_every: int, keep: int):
        """Folds the log (from its newest snapshot on) into the state; carries out nothing yet."""
        self._step = step
        self._log = log
        self._now = now
        self._snapshot_every = snapshot_every
        self._keep = keep
        self._encoder = msgspec.json.Encoder()
        self.state, self._snapshot_seq = recover(step, log)

    def feed(self, *events: Event) -> tuple[list[Event], list[do.Effect]]:
        """Logs events and what follows from them; gives all that was logged, and the orders that are left to carry out.

        Raises what the log raises (a full disk, say); then nothing has changed, neither on disk nor in memory.
        """
        now_s = self._now()
        state, orders = self.state, list[do.Effect]()
        batch: list[Event] = []
        queue = deque(events)
        while queue:
            event = queue.popleft()
            batch.append(event)
            assert len(batch) <= CASCADE_MAX + len(events), f"{type(event).__name__} follows from itself"
            state, effects = self._step(state, event, now_s)
            for effect in effects:
                if isinstance(effect, do.Emit):
                    queue.append(effect.event)
                else:
                    orders.append(effect)
        seq = self._log.append(batch, now_s)
        self.state = state
        if seq - self._snapshot_seq >= self._snapshot_every:
            self.snapshot()
        return batch, orders

    def snapshot(self) -> None:
        """Saves the state beside the log, so that the next start folds only what came after, and drops old events."""
        self._log.snapshot(self._log.last_seq, self._encoder.encode(self.state))
        self._snapshot_seq = self._log.last_seq
        self._log.compact(self._keep)

    def purge(self) -> None:
        """The log begins anew with the state of now: nothing older can be read from the disk any more."""
        self._log.purge(self._encoder.encode(self.state))
        self._snapshot_seq = self._log.last_seq

    def past(self) -> Iterator[Event]:
        """The events that the log still holds, oldest first."""
        return (row.event for row in self._log.replay(self._log.first_seq - 1))


def recover(step: Step, log: Log) -> tuple[State, int]:
    """The state that a log stands for, and the event number of the snapshot that it was folded from (0: none)."""
    state, seq = State(), 0
    saved = log.latest_snapshot()
    if saved is not None:
        seq, data = saved
        try:
            state = msgspec.json.decode(data, type=State)
        except (msgspec.ValidationError, msgspec.DecodeError) as fault:
            raise CorruptState(f"snapshot at event {seq} not understood ({fault}): made by another version?") from fault
    for row in log.replay(seq):
        state, _ = step(state, row.event, row.at_s)
    return state, seq
