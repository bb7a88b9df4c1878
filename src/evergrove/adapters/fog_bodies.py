"""The single updates that wait to be summed: one file each, streamed to disk, durable before the row that names it.

A file is named by the SHA-256 of its content and some chance, so that nobody's file is ever another one's too. A file
that no row names is what a killed worker left, and is swept away.
"""

import hashlib
import os
import secrets
import time
from collections.abc import Collection
from pathlib import Path

from evergrove.adapters.files import Files, read_bounded
from evergrove.core.errors import UpdateRefused

ORPHAN_S = 3600.0
"""Age from which a file that no row names is not being received any more."""


class Upload:
    """One body on its way to disk: ``write`` its parts, then ``finish``, or ``drop`` it."""

    def __init__(self, folder: Path, files: Files, digest: str, n_bytes: int) -> None:
        self.path = folder / f"{digest}.{secrets.token_hex(6)}"
        self._files, self._digest, self._left = files, digest, n_bytes
        self._hash = hashlib.sha256()
        files.step("create", self.path)
        self._handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    def write(self, part: bytes) -> None:
        """The next bytes. Raises ``UpdateRefused`` past what the head said."""
        self._left -= len(part)
        if self._left < 0:
            raise UpdateRefused("wrong size", "the body is longer than its head says")
        self._hash.update(part)
        view = memoryview(part)
        while view:
            view = view[os.write(self._handle, view) :]

    def finish(self) -> str:
        """Makes the content durable; the file's name. Raises ``UpdateRefused`` where it is not what the head said.

        The name becomes durable with ``Bodies.sync``, once for many.
        """
        if self._left:
            raise UpdateRefused("wrong size", "the body is shorter than its head says")
        if self._hash.hexdigest() != self._digest:
            raise UpdateRefused("wrong digest", "the body is not what its head says: it was damaged on the way")
        self._files.step("fsync", self.path)
        os.fsync(self._handle)
        self._close()
        return self.path.name

    def drop(self) -> None:
        """Deletes it; durable or not, no row will name it."""
        self._close()
        self._files.step("unlink", self.path)
        self.path.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


class Bodies:
    """The folder of them."""

    def __init__(self, folder: Path, files: Files) -> None:
        self._folder, self._files = folder, files
        files.make_folder(folder)

    def begin(self, digest: str, n_bytes: int) -> Upload:
        """A place for a body of this SHA-256 and size."""
        return Upload(self._folder, self._files, digest, n_bytes)

    def sync(self) -> None:
        """Makes the names of all finished files durable."""
        self._files.sync_folder(self._folder)

    def read(self, name: str, n_bytes_max: int) -> bytes:
        """The bytes of a file. Raises ``FileNotFoundError``, and ``InvalidInput`` for what is no such file."""
        return read_bounded(self._folder / name, n_bytes_max)

    def delete(self, names: Collection[str]) -> None:
        """Deletes files durably; those that are gone are fine."""
        for name in names:
            self._files.step("unlink", self._folder / name)
            (self._folder / name).unlink(missing_ok=True)
        if names:
            self._files.sync_folder(self._folder)

    def sweep(self, named: Collection[str], older_s: float = ORPHAN_S) -> list[str]:
        """Deletes files that no row names and that nobody has written to for a while; their names."""
        now_s, gone = time.time(), []
        for path in self._folder.iterdir():
            if path.name not in named and now_s - path.stat().st_mtime >= older_s:
                gone.append(path.name)
        self.delete(gone)
        return gone
