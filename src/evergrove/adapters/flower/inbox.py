"""The cloud's inbox: a consolidator that keeps every sum, once, until the cloud has counted it. One SQLite file.

The ServerApp writes, the cloud's own process reads: so what consolidates need not live in Flower's process, and the
ServerApp needs no torch. The name of a sum stays when its content is gone, so a late repetition is still known.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from evergrove.adapters.files import DiskFull
from evergrove.core import sums
from evergrove.core.errors import CorruptState, EvergroveError
from evergrove.core.sums import NoisedSum

NAME = "inbox.db"
BUSY_S = 30.0
SCHEMA = """
CREATE TABLE IF NOT EXISTS sums (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    fog TEXT NOT NULL,
    id TEXT NOT NULL,
    content BLOB,
    UNIQUE (fog, id)
) STRICT
"""


@dataclass(frozen=True)
class Arrival:
    """One sum in the inbox: its position (greater is later), the fog that it came from, and itself."""

    position: int
    fog: str
    sum: NoisedSum


class Inbox:
    """A durable ``Consolidator``. Several processes may open the same file; one of them takes."""

    def __init__(self, path: Path) -> None:
        """Opens or makes the file; its folder is there. Raises ``CorruptState``, ``EvergroveError``."""
        self._path = path
        with self._guard():
            self._db = sqlite3.connect(path, isolation_level=None, timeout=BUSY_S, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")  # NORMAL may lose the last transactions in a power cut
            self._db.execute(SCHEMA)

    def taken(self, fog: str, id: str) -> bool:
        """Whether this sum was ever taken, counted since or not."""
        with self._guard():
            return self._db.execute("SELECT 1 FROM sums WHERE fog = ? AND id = ?", (fog, id)).fetchone() is not None

    def take(self, fog: str, one: NoisedSum) -> None:
        """Keeps one sum, durable on return. A second time is our own mistake, and the file refuses it."""
        with self._guard():
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
        with self._guard():
            self._db.execute("UPDATE sums SET content = NULL WHERE position = ?", (position,))

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

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
