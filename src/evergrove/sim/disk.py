"""What survives a power cut: a device's log, its records, its versions and its checkpoints, in memory.

The same ports as ``adapters.log``, ``runtime.keeper`` and ``adapters.versions``, so that the production driver runs on
them as it is. A write can be where the power fails: before it (nothing is there) or right after it (the writer never
learns that it is).
"""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import BinaryIO, Literal, Protocol

import msgspec

from evergrove.adapters.log import Row
from evergrove.core import events as ev
from evergrove.core.conditions import Code, group
from evergrove.core.measures import Facts
from evergrove.sim.engine import PowerCut
from evergrove.tiers.device import Pending

Moment = Literal["before", "after"] | None
"""Where the power fails at a write, or None."""


def never() -> Moment:
    """Power that does not fail."""
    return None


class Recorder:
    """Everything that any device logged, in the order of virtual time: counted, hashed, and written where asked.

    ``telemetry`` says whether readings go to the file too; they are hashed either way, so that two runs with one
    digest agree in every event.
    """

    def __init__(self, file: BinaryIO | None = None, telemetry: bool = False) -> None:
        self.n_events = 0
        self._file = file
        self._telemetry = telemetry
        self._hash = hashlib.blake2b(digest_size=32, person=b"evergrove.sim")

    @property
    def digest(self) -> str:
        """BLAKE2b-256 of every line so far."""
        return self._hash.hexdigest()

    def note(self, device: bytes, at_s: float, event: ev.Event, payload: bytes) -> None:
        """One logged event: ``{"device": …, "at_s": …, "event": …}``."""
        line = b'{"device":"%b","at_s":%b,"event":%b}\n' % (device, repr(at_s).encode(), payload)
        self._hash.update(line)
        self.n_events += 1
        if self._file is not None and (self._telemetry or not isinstance(event, ev.TelemetryRead)):
            self._file.write(line)


class MemoryLog:
    """A device's log in memory: the part of ``adapters.log.EventLog`` that a driver uses."""

    def __init__(self, device: str, recorder: Recorder, power: Callable[[], Moment] = never) -> None:
        self.last_seq = 0
        self._device = device.encode()
        self._recorder = recorder
        self._power = power
        self._rows: list[tuple[float, bytes]] = []
        self.first_seq = 1
        self._snapshot: tuple[int, bytes] | None = None

    def append(self, events: Sequence[ev.Event], at_s: float) -> int:
        """Logs events, all or none. Raises ``PowerCut`` where the power fails at this write."""
        moment = self._power()
        if moment == "before":
            raise PowerCut(f"the power failed before event {self.last_seq + 1} was written")
        note, device = self._recorder.note, self._device
        for event in events:
            payload = ev.encode(event)
            self._rows.append((at_s, payload))
            note(device, at_s, event, payload)
        self.last_seq += len(events)
        if moment == "after":
            raise PowerCut(f"the power failed after event {self.last_seq} was written")
        return self.last_seq

    def secure(self) -> None:
        """From now on the power does not fail at its writes."""
        self._power = never

    def replay(self, after_seq: int) -> Iterator[Row[ev.Event]]:
        """The events after ``after_seq``, oldest first, decoded from what was written."""
        start = after_seq + 1 - self.first_seq
        assert start >= 0, f"events {after_seq + 1}-{self.first_seq - 1} are gone, and no snapshot covers them"
        for i, (at_s, payload) in enumerate(self._rows[start:]):
            yield Row(after_seq + 1 + i, at_s, ev.decode(payload))

    def snapshot(self, seq: int, state: bytes) -> None:
        """Keeps the state after event ``seq``."""
        self._snapshot = seq, state

    def latest_snapshot(self) -> tuple[int, bytes] | None:
        """The newest snapshot and its event number."""
        return self._snapshot

    def compact(self, keep_newest: int = 0) -> int:
        """Drops events that the snapshot covers, except the newest ``keep_newest``; returns how many."""
        floor = min(self._snapshot[0] if self._snapshot else 0, self.last_seq - keep_newest)
        n = max(floor + 1 - self.first_seq, 0)
        del self._rows[:n]
        self.first_seq += n
        return n

    def purge(self, state: bytes) -> None:
        """Keeps nothing but the state after the newest event."""
        self._snapshot = self.last_seq, state
        self._rows.clear()
        self.first_seq = self.last_seq + 1

    @property
    def n_bytes(self) -> int:
        """Bytes of what is held."""
        return sum(len(payload) for _, payload in self._rows) + (len(self._snapshot[1]) if self._snapshot else 0)


class Picture(msgspec.Struct, frozen=True):
    """An observation without its pixels: its condition, its size, and how it compares with what is kept."""

    code: Code
    n_bytes: int
    facts: Facts
    image: int = 0
    """Which picture of the release's stream it is, where there are real ones."""


class Records(Protocol):
    """A device's records, with pictures (``sim.real``) or without (``Shelf``): the part of a keeper that orders use."""

    @property
    def records(self) -> Mapping[str, str]:
        """The records on disk and their splits."""

    def receive(self, picture: Picture) -> tuple[str, Facts]:
        """Takes an observation in: gives it a name and says how it compares with what is kept."""

    def store(self, observation: str, split: str, reason: str) -> ev.Event:
        """Writes what was chosen."""

    def drop(self, observation: str) -> None:
        """Forgets what was not chosen."""

    def evict(self, records: Collection[str]) -> None:
        """Deletes what the reservoir gave up."""

    def destroy(self, records: Collection[str] | None) -> None:
        """Deletes records, all of them for None, so that no leftover of them can be read."""

    def reconcile(self, known: set[str], pending: Mapping[str, Pending]) -> list[ev.Event]:
        """After a start: no record without its event, no event without its record."""

    def lose_power(self) -> None:
        """What had not been written is gone."""


class Shelf:
    """The records of a device that has no pictures: ``runtime.keeper.Keeper`` with declared facts."""

    def __init__(self, known: Code) -> None:
        """``known`` are the release's numbers of values."""
        self._known = known
        self._arriving: dict[str, Picture] = {}
        self._kept: dict[str, tuple[Code, str]] = {}
        self._n_received = 0

    @property
    def records(self) -> Mapping[str, str]:
        """The records on disk and their splits."""
        return {name: split for name, (_, split) in self._kept.items()}

    def golden(self) -> dict[Code, int]:
        """Golden items per new condition."""
        counts: dict[Code, int] = {}
        for code, split in self._kept.values():
            if split == "golden":
                condition = group(code, self._known)
                counts[condition] = counts.get(condition, 0) + 1
        return counts

    def receive(self, picture: Picture) -> tuple[str, Facts]:
        """Takes an observation in; gives it a name. The first of a condition has nothing to be compared with."""
        self._n_received += 1
        name = f"o{self._n_received:06d}"
        self._arriving[name] = picture
        condition = group(picture.code, self._known)
        alone = all(group(code, self._known) != condition for code, _ in self._kept.values())
        return name, Facts(False, None, None) if alone else picture.facts

    def store(self, observation: str, split: str, reason: str) -> ev.Event:
        """Writes what was chosen."""
        picture = self._arriving.pop(observation, None)
        if picture is None:
            return ev.ObservationLost(observation, "cut off before it was written")
        self._kept[observation] = picture.code, split
        return ev.ObservationKept(observation, picture.code, split, reason)

    def drop(self, observation: str) -> None:
        """Forgets what was not chosen."""
        self._arriving.pop(observation, None)

    def evict(self, records: Collection[str]) -> None:
        """Deletes what the reservoir gave up."""
        for record in records:
            self._kept.pop(record, None)

    def destroy(self, records: Collection[str] | None) -> None:
        """Deletes records, all of them for None: here nothing leaves a leftover."""
        self.evict(tuple(self._kept) if records is None else records)

    def reconcile(self, known: set[str], pending: Mapping[str, Pending]) -> list[ev.Event]:
        """After a start: no record without its event, no event without its record."""
        self.evict([record for record in self._kept if record not in known])
        facts: list[ev.Event] = []
        for record in sorted(known):
            if record not in self._kept:
                facts.append(ev.ObservationLost(record, "not in the replay buffer after a restart"))
            elif record in pending:
                code, split = self._kept[record]
                facts.append(ev.ObservationKept(record, code, split, "kept: finished after a restart"))
        return facts

    def lose_power(self) -> None:
        """What had not been written is gone."""
        self._arriving.clear()


class Disk(msgspec.Struct):
    """The rest of what survives: the pointer to what serves, the training steps of a job's last checkpoint, the outbox.

    ``update`` is the token of the update that waits in it ("": none), ``fate`` the token and number of the last one
    that was counted, ``n_updates`` how many were made.
    """

    current: str | None = None
    previous: str | None = None
    sequence: int = 0
    probation: bool = False
    checkpoints: dict[str, int] = {}
    update: str = ""
    fate: tuple[str, int] | None = None
    n_updates: int = 0
