"""The event log of a device: an sqlite file that only its agent writes, and whose fold is the device's state.

Rows are chained: each carries the BLAKE2b digest of the previous row's digest and its own content, so that a changed,
missing or swapped row is found. Snapshots make recovery quick; ``compact`` drops old events once *two* snapshots cover
them, so that one damaged snapshot never costs the device its state.
"""

import contextlib
import hashlib
import math
import os
import sqlite3
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from evergrove.adapters.files import TEMP_SUFFIX, DiskFull, Files
from evergrove.core.errors import CorruptState, EvergroveError, UsageError

SCHEMA = 1
APPLICATION_ID = 0x45564752  # 'EVGR': what `file` and sqlite show for a log of ours
EVENT_BYTES_MAX = 1 << 20
SNAPSHOT_BYTES_MAX = 64 << 20
WAY_OUT = "restore the device's folder from a backup, or make the device anew with `evergrove init`"
PAGE = 500

E = TypeVar("E")

TABLES = f"""
CREATE TABLE events (seq INTEGER PRIMARY KEY, at_s REAL NOT NULL, digest BLOB NOT NULL, payload BLOB NOT NULL) STRICT;
CREATE TABLE snapshots (seq INTEGER PRIMARY KEY, digest BLOB NOT NULL, state BLOB NOT NULL) STRICT;
CREATE TABLE ends (name TEXT PRIMARY KEY, seq INTEGER NOT NULL, digest BLOB NOT NULL) STRICT;
INSERT INTO ends VALUES ('anchor', 0, zeroblob(32)), ('head', 0, zeroblob(32));
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA};
"""


@dataclass(frozen=True)
class Codec(Generic[E]):
    """How events become bytes and back; ``decode`` raises ``CorruptState`` for what it does not know."""

    encode: Callable[[E], bytes]
    decode: Callable[[bytes], E]


class Row(NamedTuple, Generic[E]):
    """One logged event: its number (from 1), when it was logged in seconds since 1970, and the event."""

    seq: int
    at_s: float
    event: E


class EventLog(Generic[E]):
    """The log at ``path``; made when it is not there, unless ``read_only``. Thread-safe.

    ``notices`` says what was found wrong and worked around. Opening recovers from an unclean shutdown by itself.

    Raises ``CorruptState`` for a file that is not a log, or is of another version; ``DiskFull``; ``UsageError`` for a
    read-only log that does not exist.
    """

    def __init__(self, path: Path, codec: Codec[E], *, read_only: bool = False, files: Files | None = None) -> None:
        self.path = path
        self.notices: list[str] = []
        self._codec = codec
        self._files = files or Files()
        self._lock = threading.RLock()
        with self._guard("opening the log"):
            self._db = self._open(read_only)
        try:
            if self.last_seq < self.first_seq - 1:
                raise CorruptState(f"{self.path}: its newest event is older than its oldest; {WAY_OUT}")
        except BaseException:
            self._db.close()
            raise

    @property
    def last_seq(self) -> int:
        """Number of the newest event; 0 for an empty log."""
        return self._end("head")[0]

    @property
    def first_seq(self) -> int:
        """Number of the oldest event still held (``last_seq + 1`` when there is none)."""
        return self._end("anchor")[0] + 1

    def append(self, events: Sequence[E], at_s: float) -> int:
        """Logs events in one transaction, durable on return; returns the newest number.

        Raises ``DiskFull``, and ``UsageError`` for an event over 1 MiB or a time that is not finite; nothing is
        logged then.
        """
        payloads = [self._codec.encode(event) for event in events]
        for payload in payloads:
            if len(payload) > EVENT_BYTES_MAX:
                raise UsageError(f"an event of {len(payload)} bytes; at most {EVENT_BYTES_MAX} can be logged")
        if not math.isfinite(at_s):
            raise UsageError(f"events cannot be logged at the time {at_s}")
        with self._transaction(f"logging {len(payloads)} events"):
            seq, digest = self._end("head")
            rows = []
            for payload in payloads:
                seq += 1
                digest = _chained(digest, seq, at_s, payload)
                rows.append((seq, at_s, digest, payload))
            self._db.executemany("INSERT INTO events VALUES (?, ?, ?, ?)", rows)
            self._set_end("head", seq, digest)
            self._files.step("append", self.path)
        self._files.step("appended", self.path)
        return seq

    def replay(self, after_seq: int) -> Iterator[Row[E]]:
        """The events after ``after_seq``, oldest first, up to what is the newest now; every digest is checked.

        Raises ``CorruptState`` that names the row, also when events after ``after_seq`` were compacted away.
        """
        with self._guard("reading the log"):
            last, head = self._end("head")
            digest = self._digest_at(after_seq)
        seq = after_seq
        while seq < last:
            with self._guard("reading the log"):
                page = self._db.execute(
                    "SELECT seq, at_s, digest, payload FROM events WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?",
                    (seq, last, PAGE),
                ).fetchall()
            if not page:
                raise CorruptState(f"{self.path}: events {seq + 1}-{last} are missing; {WAY_OUT}")
            for row_seq, at_s, stored, payload in page:
                seq += 1
                if row_seq != seq:
                    raise CorruptState(f"{self.path}: event {seq} is missing; {WAY_OUT}")
                digest = _chained(digest, seq, at_s, payload)
                if digest != stored:
                    raise CorruptState(
                        f"{self.path}: event {seq} was changed or damaged (its digest differs); {WAY_OUT}"
                    )
                yield Row(seq, at_s, self._decoded(seq, payload))
        if digest != head:
            raise CorruptState(f"{self.path}: event {last} is not the one that was logged last; {WAY_OUT}")

    def tail(self, n: int) -> list[Row[E]]:
        """The newest ``n`` events that are still held, oldest first."""
        return list(self.replay(max(self.first_seq - 1, self.last_seq - n)))

    def verify(self) -> int:
        """Checks every row that is held; returns how many. Raises ``CorruptState`` that names the first bad one."""
        return sum(1 for _ in self.replay(self.first_seq - 1))

    def snapshot(self, seq: int, state: bytes) -> None:
        """Stores the state after event ``seq``, durably. Raises ``DiskFull``, ``UsageError``."""
        if len(state) > SNAPSHOT_BYTES_MAX:
            raise UsageError(f"a snapshot of {len(state)} bytes; at most {SNAPSHOT_BYTES_MAX} can be stored")
        if not self.first_seq - 1 <= seq <= self.last_seq:
            raise UsageError(f"a snapshot at event {seq}; the log holds {self.first_seq}-{self.last_seq}")
        with self._transaction("storing a snapshot"):
            digest = _state_digest(self._digest_at(seq), state)
            self._db.execute("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?)", (seq, digest, state))
            self._files.step("snapshot", self.path)
        self._files.step("snapshotted", self.path)

    def latest_snapshot(self) -> tuple[int, bytes] | None:
        """The newest intact snapshot and its event number; None means: fold from the first event.

        A damaged one is skipped and said in ``notices``. Raises ``CorruptState`` when none is intact but the events
        that they covered are gone.
        """
        with self._guard("reading a snapshot"):
            rows = self._db.execute("SELECT seq, digest, state FROM snapshots ORDER BY seq DESC").fetchall()
            for seq, digest, state in rows:
                if self._intact(seq, digest, state):
                    return int(seq), bytes(state)
                self.notices.append(f"the snapshot at event {seq} is damaged; an older one is used")
            if self.first_seq > 1:
                raise CorruptState(
                    f"{self.path}: no snapshot is intact and events 1-{self.first_seq - 1} are gone; {WAY_OUT}"
                )
        return None

    def compact(self, keep_newest: int = 20_000) -> int:
        """Drops events that two intact snapshots cover, except the newest ``keep_newest``; returns how many."""
        with self._transaction("compacting the log"):
            rows = self._db.execute("SELECT seq, digest, state FROM snapshots ORDER BY seq DESC").fetchall()
            good = [seq for seq, digest, state in rows if self._intact(seq, digest, state)][:2]
            floor = min(good[-1], self.last_seq - keep_newest) if len(good) == 2 else 0
            if floor < self.first_seq:
                return 0
            anchor = self._digest_at(floor)
            dropped = self._db.execute("DELETE FROM events WHERE seq <= ?", (floor,)).rowcount
            self._db.execute("DELETE FROM snapshots WHERE seq NOT IN (?, ?)", good)
            self._set_end("anchor", floor, anchor)
            self._files.step("compact", self.path)
        self._files.step("compacted", self.path)
        with self._guard("compacting the log"):
            self._db.execute("PRAGMA incremental_vacuum").fetchall()
            self._files.step("checkpoint", self.path)
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._files.step("checkpointed", self.path)
        return dropped

    def purge(self, state: bytes) -> None:
        """Begins anew from ``state``, that after the newest event: older events and snapshots are gone from the disk.

        Their pages are overwritten with zeros (``secure_delete``) and the journal is cut off; no claim over remnants in
        flash. Until the next snapshot there is only this one. Raises ``DiskFull``, and ``EvergroveError`` where another
        process reads the log just now: then the journal may still hold them. Purge again.
        """
        if len(state) > SNAPSHOT_BYTES_MAX:
            raise UsageError(f"a snapshot of {len(state)} bytes; at most {SNAPSHOT_BYTES_MAX} can be stored")
        with self._transaction("purging the log"):
            seq, digest = self._end("head")
            self._db.execute("DELETE FROM events")
            self._db.execute("DELETE FROM snapshots")
            self._db.execute("INSERT INTO snapshots VALUES (?, ?, ?)", (seq, _state_digest(digest, state), state))
            self._set_end("anchor", seq, digest)
            self._files.step("purge", self.path)
        self._files.step("purged", self.path)
        with self._guard("purging the log"):
            self._db.execute("PRAGMA incremental_vacuum").fetchall()
            self._files.step("checkpoint", self.path)
            busy, _, _ = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        self._files.step("checkpointed", self.path)
        if busy:
            raise EvergroveError(f"{self.path}: another process is reading the log, so its journal cannot be cut off")

    def close(self) -> None:
        """Closes the file; a log that is not closed recovers at the next opening."""
        with self._lock:
            self._files.step("close", self.path)  # the last one to close writes the journal back and deletes it
            self._db.close()
        self._files.step("closed", self.path)

    # ---- the file -------------------------------------------------------------------------------------------------

    def _open(self, read_only: bool) -> sqlite3.Connection:
        if not self.path.exists():
            if read_only:
                raise UsageError(f"{self.path}: there is no event log; make a device with `evergrove init`")
            self._make()
        db = _connected(self.path, "ro" if read_only else "rw")
        try:
            self._check(db)
        except BaseException:
            db.close()
            raise
        return db

    def _make(self) -> None:
        """A new log under another name, then renamed: a log that is there was once whole, so an empty one is damage."""
        temp = self.path.with_name(f".{self.path.name}{TEMP_SUFFIX}")
        for leftover in self.path.parent.glob(f"{temp.name}*"):
            self._files.step("unlink", leftover)
            leftover.unlink()
        self._files.step("create", temp)
        os.close(os.open(temp, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        db = _connected(temp, "rw")
        try:
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            db.execute("PRAGMA journal_mode = WAL").fetchall()
            self._files.step("write", temp)
            db.executescript(f"BEGIN; {TABLES} COMMIT")
        finally:
            db.close()
        self._files.move(temp, self.path)

    def _check(self, db: sqlite3.Connection) -> None:
        """Refuses a file that is not an event log of this schema."""
        if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise CorruptState(f"{self.path}: not an Evergrove event log; {WAY_OUT}")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version != SCHEMA:
            raise CorruptState(
                f"{self.path}: an event log of schema {version}, this program reads {SCHEMA}; "
                "use the Evergrove version that wrote it"
            )

    # ---- small readers; each is called under the lock or takes it ---------------------------------------------------

    def _end(self, name: str) -> tuple[int, bytes]:
        with self._guard("reading the log"):
            row = self._db.execute("SELECT seq, digest FROM ends WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise CorruptState(f"{self.path}: the {name} of the log is missing; {WAY_OUT}")
        return int(row[0]), bytes(row[1])

    def _set_end(self, name: str, seq: int, digest: bytes) -> None:
        self._db.execute("INSERT OR REPLACE INTO ends VALUES (?, ?, ?)", (name, seq, digest))

    def _digest_at(self, seq: int) -> bytes:
        """The chain's digest after event ``seq``."""
        for end in ("anchor", "head"):
            if self._end(end)[0] == seq:
                return self._end(end)[1]
        row = self._db.execute("SELECT digest FROM events WHERE seq = ?", (seq,)).fetchone()
        if row is None:
            first, last = self.first_seq, self.last_seq
            raise CorruptState(f"{self.path}: event {seq} is not held (there are {first}-{last}); fold from a snapshot")
        return bytes(row[0])

    def _intact(self, seq: int, digest: bytes, state: bytes) -> bool:
        if seq > self.last_seq or seq < self.first_seq - 1:
            return False
        return _state_digest(self._digest_at(seq), state) == digest

    def _decoded(self, seq: int, payload: bytes) -> E:
        try:
            return self._codec.decode(payload)
        except CorruptState as fault:
            raise CorruptState(f"{self.path}: event {seq}: {fault}") from fault

    @contextlib.contextmanager
    def _transaction(self, what: str) -> Iterator[None]:
        """All or nothing: an error inside, or a kill, leaves the log as it was."""
        with self._guard(what):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    with contextlib.suppress(sqlite3.Error):
                        self._db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _guard(self, what: str) -> Iterator[None]:
        """Takes the lock, and turns sqlite's errors into ours."""
        try:
            with self._lock:
                yield
        except sqlite3.ProgrammingError as fault:
            raise UsageError(f"{self.path}: {what}: {fault}") from fault
        except sqlite3.Error as fault:
            code = getattr(fault, "sqlite_errorcode", 0) & 0xFF
            if code == sqlite3.SQLITE_FULL:
                raise DiskFull(f"{self.path}: no room left on the disk while {what}; free some space") from fault
            if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
                raise CorruptState(f"{self.path}: {what}: {fault}; {WAY_OUT}") from fault
            raise EvergroveError(f"{self.path}: {what} failed: {fault}; check the disk and its permissions") from fault


def _connected(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=5.0)
    try:
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA secure_delete = ON").fetchall()  # what is deleted is overwritten, not only let go of
        db.execute("PRAGMA journal_size_limit = 4194304").fetchall()
    except sqlite3.Error:
        db.close()
        raise
    return db


def _chained(previous: bytes, seq: int, at_s: float, payload: bytes) -> bytes:
    """BLAKE2b-256 of (previous digest, number, time, payload)."""
    head = previous + struct.pack(">qd", seq, at_s)
    return hashlib.blake2b(head + payload, digest_size=32, person=b"evergrove.log").digest()


def _state_digest(chain: bytes, state: bytes) -> bytes:
    """BLAKE2b-256 of a snapshot, tied to its place in the chain."""
    return hashlib.blake2b(chain + state, digest_size=32, person=b"evergrove.snap").digest()
