"""The cloud's inbox: a consolidator that keeps every sum, once, until the cloud has counted it. One SQLite file.

The ServerApp writes, the cloud's own process reads: so what consolidates need not live in Flower's process, and the
ServerApp needs no torch. The name of a sum stays when its content is gone, so a late repetition is still known. What
devices say of releases waits here too, each word once; of each device the last one stays.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from evergrove.adapters.files import DiskFull, Files
from evergrove.core import sums
from evergrove.core.errors import CorruptState, EvergroveError
from evergrove.core.rollout import DeviceReport, Mark
from evergrove.core.sums import NoisedSum

NAME = "inbox.db"
BUSY_S = 30.0
SCHEMA = (
    """
CREATE TABLE IF NOT EXISTS sums (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    fog TEXT NOT NULL,
    id TEXT NOT NULL,
    content BLOB,
    UNIQUE (fog, id)
) STRICT
""",
    """
CREATE TABLE IF NOT EXISTS reports (
    fog TEXT NOT NULL, position INTEGER NOT NULL, device TEXT NOT NULL, rollout TEXT NOT NULL, mark TEXT NOT NULL,
    shadow INTEGER NOT NULL, PRIMARY KEY (fog, position)
) STRICT
""",
    "CREATE TABLE IF NOT EXISTS heard (fog TEXT PRIMARY KEY, position INTEGER NOT NULL) STRICT",
    """
CREATE TABLE IF NOT EXISTS devices (
    device TEXT PRIMARY KEY, fog TEXT NOT NULL, rollout TEXT NOT NULL, mark TEXT NOT NULL, shadow INTEGER NOT NULL
) STRICT
""",
)
DEVICES_MAX = 1_000_000
"""Devices of which the last word is remembered; a word of one more is counted and then forgotten."""


@dataclass(frozen=True)
class Arrival:
    """One sum in the inbox: its position (greater is later), the fog that it came from, and itself."""

    position: int
    fog: str
    sum: NoisedSum


@dataclass(frozen=True)
class Heard:
    """A device's last word: through which fog, on which rollout, and what."""

    fog: str
    rollout: str
    mark: Mark
    shadow: bool


class Inbox:
    """A durable ``Consolidator``. Several processes may open the same file; one of them takes."""

    def __init__(self, path: Path, files: Files | None = None) -> None:
        """Opens or makes the file; its folder is there. Writes are announced to ``files``.

        Raises ``CorruptState``, ``EvergroveError``.
        """
        self._path, self._files = path, files or Files()
        with self._guard():
            self._db = sqlite3.connect(path, isolation_level=None, timeout=BUSY_S, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")  # NORMAL may lose the last transactions in a power cut
            for table in SCHEMA:
                self._db.execute(table)

    def taken(self, fog: str, id: str) -> bool:
        """Whether this sum was ever taken, counted since or not."""
        with self._guard():
            return self._db.execute("SELECT 1 FROM sums WHERE fog = ? AND id = ?", (fog, id)).fetchone() is not None

    def take(self, fog: str, one: NoisedSum) -> None:
        """Keeps one sum, durable on return. A second time is our own mistake, and the file refuses it."""
        with self._guard(), self._transaction():
            self._db.execute("INSERT INTO sums (fog, id, content) VALUES (?, ?, ?)", (fog, one.id, sums.encode([one])))

    def waiting(self, after: int = 0, limit: int = 64) -> list[Arrival]:
        """Sums that are not counted yet, in the order of arrival, after a position. Raises ``CorruptState``."""
        with self._guard():
            rows = self._db.execute(
                "SELECT position, fog, content FROM sums WHERE position > ? AND content IS NOT NULL "
                "ORDER BY position LIMIT ?",
                (after, limit),
            ).fetchall()
        arrivals = []
        for position, fog, content in rows:
            (one,) = sums.decode(content)
            sums.check(one)
            arrivals.append(Arrival(position, fog, one))
        return arrivals

    def counted(self, position: int) -> None:
        """The cloud has counted the sum at this position, durably: its content is deleted, its name stays."""
        with self._guard(), self._transaction():
            self._db.execute("UPDATE sums SET content = NULL WHERE position = ?", (position,))

    # ---- what devices say ------------------------------------------------------------------------------------------

    def hear(self, fog: str, reports: Sequence[DeviceReport]) -> None:
        """Keeps what is new of a fog's reports, durable on return; what was heard before, counted or not, is not."""
        with self._guard(), self._transaction():
            row = self._db.execute("SELECT position FROM heard WHERE fog = ?", (fog,)).fetchone()
            after = row[0] if row else -1
            for one in reports:
                if one.position > after:
                    after = one.position
                    words = (fog, one.position, one.device, one.rollout, one.mark, int(one.shadow))
                    self._db.execute("INSERT INTO reports VALUES (?, ?, ?, ?, ?, ?)", words)
            self._db.execute("INSERT OR REPLACE INTO heard VALUES (?, ?)", (fog, after))

    def reports(self, limit: int = 1000) -> list[tuple[str, DeviceReport]]:
        """Fogs and reports that the cloud has not counted yet; those of one fog in their order."""
        with self._guard():
            rows = self._db.execute(
                "SELECT fog, position, device, rollout, mark, shadow FROM reports ORDER BY rowid LIMIT ?", (limit,)
            ).fetchall()
        return [(row[0], DeviceReport(row[1], row[2], row[3], row[4], bool(row[5]))) for row in rows]

    def reported(self, counted: Sequence[tuple[str, DeviceReport]]) -> None:
        """The cloud has counted these, durably; of each device its last word stays."""
        with self._guard(), self._transaction():
            full = self._db.execute("SELECT count(*) FROM devices").fetchone()[0] >= DEVICES_MAX
            put = "UPDATE devices SET fog = ?2, rollout = ?3, mark = ?4, shadow = ?5 WHERE device = ?1"
            if not full:
                put = "INSERT OR REPLACE INTO devices VALUES (?1, ?2, ?3, ?4, ?5)"
            for fog, one in counted:
                self._db.execute(put, (one.device, fog, one.rollout, one.mark, int(one.shadow)))
                self._db.execute("DELETE FROM reports WHERE fog = ? AND position = ?", (fog, one.position))

    def devices(self) -> dict[str, Heard]:
        """Every device that has said something, by its name, and its last word."""
        with self._guard():
            rows = self._db.execute("SELECT device, fog, rollout, mark, shadow FROM devices ORDER BY device").fetchall()
        return {row[0]: Heard(row[1], row[2], row[3], bool(row[4])) for row in rows}

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._files.step("commit", self._path)
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")
        self._files.step("committed", self._path)

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError as fault:
            raise AssertionError(f"{self._path}: a sum was taken twice: {fault}") from fault
        except sqlite3.Error as fault:
            code = getattr(fault, "sqlite_errorcode", None)
            if code == sqlite3.SQLITE_FULL:
                raise DiskFull(f"no room left on the disk for {self._path}; free some space") from fault
            if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise CorruptState(f"{self._path}: {fault}; restore it from a backup") from fault
            raise EvergroveError(
                f"{self._path}: {fault}; check the disk, its permissions, and who holds the file"
            ) from fault
