"""The event log: what was appended is there, in order, unaltered, or the log says which row is not."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from faults import Killed, count_steps, killed_at
from hypothesis import given, settings
from hypothesis import strategies as st

from evergrove.adapters.files import DiskFull, Files
from evergrove.adapters.log import Codec, EventLog
from evergrove.core.errors import CorruptState, EvergroveError, UsageError
from evergrove.core.events import AgentStarted, Event, decode, encode

TEXT: Codec[str] = Codec(encode=str.encode, decode=bytes.decode)


def opened(path: Path, n: int = 0) -> EventLog[str]:
    log = EventLog(path, TEXT)
    if n:
        log.append([f"event {i}" for i in range(log.last_seq + 1, log.last_seq + n + 1)], at_s=1.5)
    return log


def damage(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as db:
        db.execute(statement)
    db.close()


def test_append_and_replay(tmp_path: Path) -> None:
    """Numbers start at 1, grow by one, and survive closing and opening."""
    log = opened(tmp_path / "log")
    assert (log.last_seq, log.first_seq, list(log.replay(0))) == (0, 1, [])
    assert log.append(["a", "b"], at_s=10.0) == 2
    assert log.append([], at_s=10.5) == 2
    assert log.append(["c"], at_s=11.0) == 3
    log.close()
    log = opened(tmp_path / "log")
    assert list(log.replay(0)) == [(1, 10.0, "a"), (2, 10.0, "b"), (3, 11.0, "c")]
    assert [row.event for row in log.replay(2)] == ["c"]
    assert [row.event for row in log.tail(2)] == ["b", "c"]
    assert log.verify() == 3
    log.close()


def test_real_events_round_trip(tmp_path: Path) -> None:
    """The union of core events goes in and comes out equal; an unknown kind names its row."""
    log: EventLog[Event] = EventLog(tmp_path / "log", Codec(encode, decode))
    log.append([AgentStarted("0.1"), AgentStarted("0.2")], at_s=1.0)
    assert [row.event for row in log.replay(0)] == [AgentStarted("0.1"), AgentStarted("0.2")]
    log.close()
    future: EventLog[str] = EventLog(tmp_path / "log", TEXT)
    future.append(['{"kind":"teleported"}'], at_s=2.0)
    future.close()
    log = EventLog(tmp_path / "log", Codec(encode, decode))
    with pytest.raises(CorruptState, match=r"event 3: .*teleported"):
        log.verify()
    log.close()


@pytest.mark.parametrize(
    ("statement", "row"),
    [
        ("UPDATE events SET payload = CAST('forged' AS BLOB) WHERE seq = 4", "event 4 was changed"),
        ("UPDATE events SET at_s = 99 WHERE seq = 5", "event 5 was changed"),
        ("DELETE FROM events WHERE seq = 3", "event 3 is missing"),
        ("DELETE FROM events WHERE seq >= 8", "events 8-9 are missing"),
        ("UPDATE events SET digest = zeroblob(32) WHERE seq = 9", "event 9 was changed"),
        ("UPDATE ends SET digest = zeroblob(32) WHERE name = 'head'", "event 9 is not the one"),
        ("DELETE FROM ends WHERE name = 'head'", "the head of the log is missing"),
        ("UPDATE ends SET seq = 10 WHERE name = 'anchor'", "newest event is older"),
    ],
)
def test_a_broken_chain_names_the_row_and_the_way_out(tmp_path: Path, statement: str, row: str) -> None:
    """Changed, removed and cut-off rows are found; the message says where, and what to do."""
    opened(tmp_path / "log", 9).close()
    damage(tmp_path / "log", statement)
    with pytest.raises(CorruptState, match=f"{row}.*restore"), closing(opened(tmp_path / "log")) as log:
        log.verify()


def test_compaction_needs_two_snapshots(tmp_path: Path) -> None:
    """Events go only once two snapshots cover them, and never the newest ones that people read."""
    log = opened(tmp_path / "log", 100)
    assert log.latest_snapshot() is None
    log.snapshot(60, b"at 60")
    assert log.compact(keep_newest=0) == 0
    log.snapshot(90, b"at 90")
    assert log.compact(keep_newest=70) == 30
    assert log.compact(keep_newest=0) == 30
    assert (log.first_seq, log.last_seq, log.verify()) == (61, 100, 40)
    assert log.latest_snapshot() == (90, b"at 90")
    with pytest.raises(CorruptState, match="event 10 is not held"):
        list(log.replay(10))
    log.snapshot(100, b"at 100")
    assert log.compact(keep_newest=0) == 30
    assert [row.seq for row in log.replay(log.first_seq - 1)] == list(range(91, 101))
    log.close()


def test_months_stay_bounded(tmp_path: Path) -> None:
    """With compaction the file stops growing, whatever was logged before."""
    path, sizes = tmp_path / "log", []
    log = opened(path)
    for _ in range(8):
        for _ in range(5):
            log.append(["x" * 200] * 200, at_s=1.0)
            log.snapshot(log.last_seq, b"state" * 100)
            log.compact(keep_newest=400)
        sizes.append(sum(p.stat().st_size for p in tmp_path.iterdir()))
    assert max(sizes[2:]) <= 1.1 * sizes[1] < 2_000_000
    log.close()


def test_a_damaged_snapshot_is_skipped_and_said(tmp_path: Path) -> None:
    """The older one serves; with neither, the log says so when the events are gone, and folds from 1 when not."""
    path = tmp_path / "log"
    log = opened(path, 20)
    log.snapshot(10, b"ten")
    log.snapshot(20, b"twenty")
    log.close()
    damage(path, "UPDATE snapshots SET state = CAST('forged' AS BLOB) WHERE seq = 20")
    log = opened(path)
    assert log.latest_snapshot() == (10, b"ten")
    assert "event 20 is damaged" in log.notices[0]
    assert log.compact(keep_newest=0) == 0, "one intact snapshot is not enough"
    log.snapshot(20, b"twenty")
    assert log.compact(keep_newest=0) == 10
    log.close()
    damage(path, "UPDATE snapshots SET digest = zeroblob(32)")
    log = opened(path)
    with pytest.raises(CorruptState, match="no snapshot is intact and events 1-10 are gone"):
        log.latest_snapshot()
    log.close()


def test_a_full_disk_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    """sqlite's 'database or disk is full' is ``DiskFull``; nothing half-written; it goes on once there is room."""
    log = opened(tmp_path / "log", 10)
    pages = log._db.execute("PRAGMA page_count").fetchone()[0]
    log._db.execute(f"PRAGMA max_page_count = {pages + 2}").fetchall()
    with pytest.raises(DiskFull, match="no room left"):
        log.append(["x" * 5000] * 50, at_s=2.0)
    with pytest.raises(DiskFull, match="no room left"):
        log.snapshot(10, bytes(500_000))
    assert (log.last_seq, log.verify(), log.latest_snapshot()) == (10, 10, None)
    log._db.execute("PRAGMA max_page_count = 100000").fetchall()
    assert log.append(["room again"], at_s=3.0) == 11
    log.close()


def test_killed_at_every_step(tmp_path: Path) -> None:
    """A kill before the commit loses the whole batch, after it nothing of it."""

    def work(files: Files) -> None:
        with closing(EventLog(tmp_path / "count", TEXT, files=files)) as log:
            log.append(["x"], at_s=0.0)

    assert count_steps(work) == 9  # two of them at the end, when it is closed
    for step in (5, 6):
        path = tmp_path / f"log{step}"
        log = EventLog(path, TEXT, files=killed_at(step))
        with pytest.raises(Killed):
            log.append(["a", "b"], at_s=0.0)
        log.close()
        with closing(opened(path)) as log:
            assert log.last_seq == (0 if step == 5 else 2)


def test_a_purged_log_holds_no_byte_of_what_was_in_it(tmp_path: Path) -> None:
    """Neither events nor snapshots, in the file or its journal, also where pages were freed before; it goes on."""
    log = opened(tmp_path / "log")
    log.append([f"secret {i} " * 40 for i in range(300)], at_s=1.0)
    log.snapshot(100, b"secret state" * 1000)
    log.snapshot(200, b"secret state" * 1000)
    log.compact(keep_newest=20)
    log.purge(b"after")
    left = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"secret" not in left
    assert (log.first_seq, log.last_seq, log.latest_snapshot()) == (301, 300, (300, b"after"))
    log.append(["a"], at_s=2.0)
    log.snapshot(301, b"more")
    log.close()
    log = opened(tmp_path / "log")
    assert [row.event for row in log.replay(300)] == ["a"]
    assert log.verify() == 1
    assert log.latest_snapshot() == (301, b"more")
    log.close()


def test_a_purge_says_when_a_reader_is_in_its_way(tmp_path: Path) -> None:
    """The journal cannot be cut off while somebody reads from it; a second time it can."""
    log = opened(tmp_path / "log")
    log.append(["secret " * 40] * 50, at_s=1.0)
    log._db.execute("PRAGMA busy_timeout = 50")
    with closing(sqlite3.connect(tmp_path / "log", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM events").fetchall()
        with pytest.raises(EvergroveError, match="another process is reading the log"):
            log.purge(b"after")
    log.purge(b"after")
    assert b"secret" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())
    log.close()


def test_a_purge_killed_at_any_step_is_done_or_not(tmp_path: Path) -> None:
    """The old log, whole, or the new one; purged again nothing of the old one is left."""

    def work(folder: Path, files: Files) -> None:
        folder.mkdir()
        log = EventLog(folder / "log", TEXT, files=files)
        log.append(["secret " * 40] * 50, at_s=1.0)
        log.purge(b"after")
        log.close()

    for n in range(count_steps(lambda files: work(tmp_path / "whole", files))):
        folder = tmp_path / str(n)
        with pytest.raises(Killed):
            work(folder, killed_at(n))
        log = opened(folder / "log")
        assert log.last_seq in (0, 50)
        assert log.verify() in (0, 50)
        if log.last_seq and log.verify() == 0:
            assert log.latest_snapshot() == (50, b"after")
        log.purge(b"after")
        assert b"secret" not in b"".join(path.read_bytes() for path in folder.iterdir())
        log.close()


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    """Foreign files, foreign databases, newer schemas, missing read-only logs: one clear error each."""
    (tmp_path / "text").write_bytes(b"not a database at all, but long enough to look at" * 50)
    with pytest.raises(CorruptState, match="restore"):
        opened(tmp_path / "text")
    damage(tmp_path / "foreign", "CREATE TABLE t (x)")
    with pytest.raises(CorruptState, match="not an Evergrove event log"):
        opened(tmp_path / "foreign")
    opened(tmp_path / "newer").close()
    damage(tmp_path / "newer", "PRAGMA user_version = 2")
    with pytest.raises(CorruptState, match="schema 2, this program reads 1"):
        opened(tmp_path / "newer")
    with pytest.raises(UsageError, match="there is no event log"):
        EventLog(tmp_path / "none", TEXT, read_only=True)


def test_every_region_of_the_file_flipped_or_cut(tmp_path: Path) -> None:
    """Damage anywhere either does not touch what was logged, or is noticed: never other events, never a crash."""
    path = tmp_path / "log"
    log = opened(path, 200)
    log._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    log.close()
    whole = path.read_bytes()
    expected = [f"event {i}" for i in range(1, 201)]
    noticed = 0
    for position in range(0, len(whole), 509):
        for cut in (False, True):
            data = (
                whole[:position] if cut else whole[:position] + bytes([whole[position] ^ 0x40]) + whole[position + 1 :]
            )
            copy = tmp_path / "copy"
            copy.write_bytes(data)
            try:
                with closing(opened(copy)) as log:
                    events = [row.event for row in log.replay(0)]
            except CorruptState:
                noticed += 1
            else:
                assert events == expected, position
            for leftover in tmp_path.glob("copy*"):
                leftover.unlink()
    assert noticed > 50


def test_a_reader_beside_the_writer(tmp_path: Path) -> None:
    """A read-only log sees what was committed and cannot write."""
    log = opened(tmp_path / "log", 3)
    reader: EventLog[str] = EventLog(tmp_path / "log", TEXT, read_only=True)
    log.append(["four"], at_s=2.0)
    assert [row.event for row in reader.tail(1)] == ["four"]
    with pytest.raises(Exception, match="readonly"):
        reader.append(["five"], at_s=3.0)
    reader.close()
    log.close()


def test_mistakes_of_the_caller(tmp_path: Path) -> None:
    """Oversized events, times that are no times, snapshots of the future: refused before anything is written."""
    log = opened(tmp_path / "log", 3)
    for call in (
        lambda: log.append(["x" * (1 << 21)], at_s=1.0),
        lambda: log.append(["x"], at_s=float("nan")),
        lambda: log.snapshot(4, b""),
        lambda: log.snapshot(1, bytes(65 << 20)),
    ):
        with pytest.raises(UsageError):
            call()
    assert log.last_seq == 3
    log.close()
    with pytest.raises(UsageError):
        log.append(["closed"], at_s=1.0)


@settings(max_examples=10, deadline=None)
@given(batches=st.lists(st.lists(st.text(max_size=20), max_size=5), max_size=6), cut=st.integers(0, 30))
def test_replay_is_append(tmp_path_factory: pytest.TempPathFactory, batches: list[list[str]], cut: int) -> None:
    """Law: replay after k gives exactly what was appended after k, however it was batched."""
    log = opened(tmp_path_factory.mktemp("law") / "log")
    for batch in batches:
        log.append(batch, at_s=0.0)
    flat = [event for batch in batches for event in batch]
    k = min(cut, len(flat))
    assert [row.event for row in log.replay(k)] == flat[k:]
    log.close()
