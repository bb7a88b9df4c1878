"""The one place where durable files are written: whole or not at all, and still there after a power cut.

Everything on a device's disk except its sqlite log goes through ``Files``. Each step that a crash could fall into is
announced to ``at`` first, so that a test can kill the process, or fill the disk, at every one of them in turn.
"""

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from evergrove.core.errors import EvergroveError, InvalidInput

TEMP_SUFFIX = ".tmp"
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class DiskFull(EvergroveError):
    """There is no room for a write. What was on disk before is still there, whole."""


class Files:
    """Durable writes. ``at(step, path)`` is called before each system call that changes the disk; it may raise.

    The steps are ``create``, ``write``, ``fsync``, ``rename``, ``fsync_dir``, ``scrub`` and ``unlink``.
    """

    def __init__(self, at: Callable[[str, Path], None] | None = None) -> None:
        self._at = at

    def write(self, path: Path, data: bytes, *, mode: int = 0o600, scrub: bool = False, named: bool = True) -> None:
        """Replaces ``path`` by ``data`` in one step; durable on return.

        After an error, or a kill at any instant, ``path`` holds the old content or the new one, never a mixture.
        ``scrub`` overwrites the old content in place afterwards (for keys; flash may still hold a copy). ``named``
        False leaves the folder for the caller to sync: until then a power cut may bring the old content back.

        Raises ``DiskFull``, and ``EvergroveError`` for every other fault of the disk.
        """
        temp = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMP_SUFFIX}")
        with _named(f"writing {len(data)} bytes to {path}"):
            try:
                self._fill(temp, data, mode)
                old = self._open_old(path) if scrub else None
                try:
                    self.step("rename", path)
                    os.rename(temp, path)
                    if named:
                        self.sync_folder(path.parent)
                    if old is not None:
                        self._scrub(old, path)
                finally:
                    if old is not None:
                        os.close(old)
            except Exception:
                with contextlib.suppress(OSError):
                    os.unlink(temp)
                raise

    def remove(self, path: Path) -> None:
        """Deletes ``path`` durably; one that is not there is fine."""
        with _named(f"deleting {path}"):
            self.step("unlink", path)
            try:
                os.unlink(path)
            except FileNotFoundError:
                return
            self.sync_folder(path.parent)

    def remove_tree(self, folder: Path) -> None:
        """Deletes a folder with all that is in it, not through symbolic links; one that is not there is fine.

        Not at once: killed half-way, some of it is left. Call it again then.
        """
        with _named(f"deleting {folder}"):
            if not os.path.lexists(folder):
                return
            for place, folders, names in os.walk(folder, topdown=False):
                for name in sorted(names):
                    self.step("unlink", Path(place, name))
                    os.unlink(Path(place, name))
                for name in sorted(folders):
                    inner = Path(place, name)
                    self.step("unlink", inner)
                    os.unlink(inner) if inner.is_symlink() else os.rmdir(inner)
            self.step("unlink", folder)
            os.rmdir(folder)
            self.sync_folder(folder.parent)

    def move(self, source: Path, target: Path) -> None:
        """Renames durably; ``target`` is replaced."""
        with _named(f"moving {source} to {target}"):
            self.step("rename", target)
            os.rename(source, target)
            self.sync_folder(target.parent)
            self.sync_folder(source.parent)

    def make_folder(self, path: Path) -> None:
        """Makes ``path`` and its parents, readable by their owner only; one that is there is left as it is."""
        with _named(f"making the folder {path}"):
            missing = [p for p in (path, *path.parents) if not p.exists()]
            for folder in reversed(missing):
                self.step("create", folder)
                folder.mkdir(mode=0o700, exist_ok=True)
                self.sync_folder(folder.parent)

    def sweep(self, folder: Path, of: str = "") -> list[str]:
        """Deletes what a killed process left of its writes in ``folder`` (to the file called ``of``); returns names."""
        names = sorted(p.name for p in folder.glob(f".{of}*{TEMP_SUFFIX}"))
        for name in names:
            self.remove(folder / name)
        return names

    def sync_folder(self, folder: Path) -> None:
        """Makes the names in ``folder`` durable."""
        self.step("fsync_dir", folder)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _sync(handle)
        finally:
            os.close(handle)

    def _fill(self, temp: Path, data: bytes, mode: int) -> None:
        self.step("create", temp)
        handle = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        try:
            self.step("write", temp)
            _write_all(handle, data)
            self.step("fsync", temp)
            _sync(handle)
        finally:
            os.close(handle)

    def _open_old(self, path: Path) -> int | None:
        try:
            return os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None

    def _scrub(self, handle: int, path: Path) -> None:
        self.step("scrub", path)
        _write_all(handle, bytes(os.fstat(handle).st_size))
        _sync(handle)

    def step(self, step: str, path: Path) -> None:
        """Announces one step; for writers of their own, such as the event log."""
        if self._at is not None:
            self._at(step, path)


def read_bounded(path: Path, n_bytes_max: int) -> bytes:
    """The content of a regular file of at most ``n_bytes_max`` bytes; symbolic links are not followed.

    Raises ``FileNotFoundError``, and ``InvalidInput`` for anything that is not such a file.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as fault:
        raise InvalidInput(f"{path}: cannot be read: {fault.strerror}") from fault
    try:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            raise InvalidInput(f"{path}: not a regular file")
        if facts.st_size > n_bytes_max:
            raise InvalidInput(f"{path}: {facts.st_size} bytes, at most {n_bytes_max} are allowed")
        with os.fdopen(handle, "rb", closefd=False) as file:
            return file.read(n_bytes_max)
    except OSError as fault:
        raise InvalidInput(f"{path}: cannot be read: {fault.strerror}") from fault
    finally:
        os.close(handle)


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    """Turns the operating system's errors into ours, with what was being done."""
    try:
        yield
    except OSError as fault:
        if fault.errno in FULL:
            raise DiskFull(f"no room left on the disk while {what}; free some space, or lower the limits") from fault
        raise EvergroveError(f"{what} failed: {fault.strerror or fault}; check the disk and its permissions") from fault


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def _sync(handle: int) -> None:
    """fsync that reaches the medium: macOS needs its own call for that."""
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is None:
        os.fsync(handle)
    else:
        fcntl.fcntl(handle, full)
