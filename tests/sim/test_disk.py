"""What survives a power cut, and that the memory log is a log: one contract over it and the one on disk."""

from collections.abc import Callable
from pathlib import Path

import pytest

from evergrove.adapters.log import Codec, EventLog
from evergrove.core import events as ev
from evergrove.core.measures import Facts
from evergrove.runtime.driver import Log
from evergrove.sim.disk import MemoryLog, Moment, Picture, Recorder, Shelf
from evergrove.sim.engine import PowerCut
from evergrove.tiers.device import Pending

NEW = Picture((9,), 100, Facts(False, 30, 2.0))
MakeLog = Callable[[Path], Log]


def in_memory(_: Path) -> Log:
    return MemoryLog("d", Recorder())


def on_disk(folder: Path) -> Log:
    return EventLog(folder / "log.sqlite", Codec(ev.encode, ev.decode))


@pytest.mark.parametrize("make", [in_memory, on_disk])
def test_what_was_logged_is_read_back_in_order(make: MakeLog, tmp_path: Path) -> None:
    """Numbers from 1, times and events as they were; a replay can begin in the middle."""
    log = make(tmp_path)
    assert log.last_seq == 0
    assert log.append([ev.AgentStarted("1"), ev.TimePassed()], 5.0) == 2
    assert log.append([ev.AgentStarted("2")], 6.0) == 3
    assert [(r.seq, r.at_s, r.event) for r in log.replay(1)] == [
        (2, 5.0, ev.TimePassed()),
        (3, 6.0, ev.AgentStarted("2")),
    ]


@pytest.mark.parametrize("make", [in_memory, on_disk])
def test_events_that_snapshots_cover_can_go(make: MakeLog, tmp_path: Path) -> None:
    """After two snapshots and compacting, the newest snapshot and what came after it are still there."""
    log = make(tmp_path)
    for n in range(10):
        log.append([ev.AgentStarted(str(n))], float(n))
        if n in (3, 7):
            log.snapshot(n + 1, b"state %d" % n)
    assert log.latest_snapshot() == (8, b"state 7")
    assert log.compact(0) >= 4
    assert [r.seq for r in log.replay(8)] == [9, 10]


def test_a_memory_log_knows_its_size() -> None:
    """Compacting makes it smaller."""
    log = MemoryLog("d", Recorder())
    assert log.latest_snapshot() is None
    log.append([ev.AgentStarted("1")] * 10, 1.0)
    before = log.n_bytes
    log.snapshot(10, b"s")
    assert log.compact() == 10
    assert log.n_bytes == 1 < before
    assert log.compact() == 0


@pytest.mark.parametrize(("moment", "there"), [("before", 0), ("after", 1)])
def test_power_fails_before_or_after_a_write(moment: Moment, there: int) -> None:
    """Before it nothing is there; after it all is, although the writer never learnt it."""
    log = MemoryLog("d", Recorder(), lambda: moment)
    with pytest.raises(PowerCut, match=str(moment)):
        log.append([ev.TimePassed()], 1.0)
    assert len(list(log.replay(0))) == there


def test_the_recorder_hashes_everything_and_writes_what_was_asked(tmp_path: Path) -> None:
    """Readings are in the digest whether or not they are in the file."""
    from evergrove.core.telemetry import Telemetry

    digests = []
    for telemetry in (False, True):
        with (tmp_path / "events.jsonl").open("wb") as file:
            recorder = Recorder(file, telemetry)
            log = MemoryLog("kitchen", recorder)
            log.append([ev.TelemetryRead(Telemetry()), ev.TimePassed()], 1.5)
        lines = (tmp_path / "events.jsonl").read_text().splitlines()
        assert len(lines) == 1 + telemetry
        assert lines[-1] == '{"device":"kitchen","at_s":1.5,"event":{"kind":"time_passed"}}'
        digests.append(recorder.digest)
    assert digests[0] == digests[1] != Recorder().digest
    assert recorder.n_events == 2


def test_the_first_of_a_condition_has_nothing_to_be_compared_with() -> None:
    """The next one has."""
    shelf = Shelf((8,))
    first, facts = shelf.receive(NEW)
    assert facts == Facts(False, None, None)
    assert shelf.store(first, "golden", "kept") == ev.ObservationKept(first, (9,), "golden", "kept")
    _, facts = shelf.receive(NEW)
    assert facts == NEW.facts
    assert shelf.golden() == {(9,): 1}
    assert shelf.records == {first: "golden"}


def test_what_had_not_been_written_is_lost_with_the_power() -> None:
    """The order to store it comes to nothing, and says so."""
    shelf = Shelf((8,))
    name, _ = shelf.receive(NEW)
    shelf.lose_power()
    assert shelf.store(name, "train", "kept") == ev.ObservationLost(name, "cut off before it was written")
    other, _ = shelf.receive(NEW)
    shelf.drop(other)
    assert other != name
    assert shelf.records == {}


def test_after_a_start_records_and_events_agree() -> None:
    """An unknown record goes, a missing one is reported, one that was being written is finished."""
    shelf = Shelf((8,))
    names = [shelf.receive(NEW)[0] for _ in range(3)]
    for name in names:
        shelf.store(name, "train", "kept")
    facts = shelf.reconcile({names[0], names[1], "gone"}, {names[1]: Pending((9,), "train", ())})
    assert facts == [
        ev.ObservationLost("gone", "not in the replay buffer after a restart"),
        ev.ObservationKept(names[1], (9,), "train", "kept: finished after a restart"),
    ]
    assert set(shelf.records) == {names[0], names[1]}
