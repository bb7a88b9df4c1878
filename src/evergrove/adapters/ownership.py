"""One agent owns a device: a lock that dies with its holder, and where to find that holder's socket.

``agent.lock`` is held by ``flock`` as long as the agent lives, so a killed one never leaves a stale lock.
``agent.json`` says which process it is and where its Unix socket lies: in a private folder with a short path, because
an address is limited to 107 bytes.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import socket
import stat
import struct
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from evergrove.adapters.files import Files, read_bounded
from evergrove.core.errors import AgentBusy, EvergroveError, InvalidInput, Unreachable

LOCK = "agent.lock"
INFO = "agent.json"
INFO_BYTES_MAX = 4096
ADDRESS_BYTES_MAX = 103
"""Longest socket path: 103 bytes on macOS and the BSDs, 107 on Linux."""


class AgentInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The owner of a device. ``started_at`` (clock ticks since boot) tells it from a later process with its number."""

    pid: int
    started_at: int
    socket: str


class Ownership:
    """Held from ``acquire`` until ``release``, the end of a ``with`` block, or the end of the process.

    A child made by ``fork`` without ``exec`` would inherit the lock: start workers by ``subprocess`` or ``spawn``.
    """

    def __init__(self, folder: Path, handle: int, info: AgentInfo, files: Files) -> None:
        self.folder = folder
        self._files = files
        self.info = info
        self._handle: int | None = handle

    @classmethod
    def acquire(cls, folder: Path, runtime_dir: Path | None = None, *, files: Files | None = None) -> "Ownership":
        """Takes a device over. ``runtime_dir`` is where sockets go (XDG_RUNTIME_DIR); None is the system's own place.

        Raises ``AgentBusy`` that names the process that owns the device.
        """
        files = files or Files()
        try:
            files.step("create", folder / LOCK)
            handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as fault:
            raise EvergroveError(f"{folder / LOCK}: cannot be opened: {fault.strerror}") from fault
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as fault:
                if fault.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise EvergroveError(f"{folder / LOCK}: cannot be locked: {fault.strerror}") from fault
                owner = os.pread(handle, 64, 0).decode("ascii", "replace").split()
                who = f"process {owner[0]}" if owner else "a process that is just starting"
                raise AgentBusy(f"{folder}: {who} already owns this device; attach to it, or stop it first") from fault
            address = socket_path(folder, runtime_dir, files)
            info = AgentInfo(os.getpid(), started_at(os.getpid()) or 0, str(address))
            files.step("write", folder / LOCK)  # for people: that it is locked counts, not what is in it
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{info.pid} {info.started_at}\n".encode(), 0)
            with contextlib.suppress(FileNotFoundError):
                files.step("unlink", address)
                os.unlink(address)
            files.sweep(folder, of=INFO)
            files.write(folder / INFO, msgspec.json.encode(info))
        except BaseException:
            os.close(handle)
            raise
        return cls(folder, handle, info, files)

    @property
    def socket_path(self) -> Path:
        """Where the agent listens."""
        return Path(self.info.socket)

    def release(self) -> None:
        """Gives the device up; doing it twice is fine."""
        if self._handle is not None:
            for path in (self.socket_path, self.folder / INFO):
                self._files.step("unlink", path)
                with contextlib.suppress(OSError):
                    os.unlink(path)
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def find_agent(folder: Path) -> AgentInfo | None:
    """The living owner of a device; None when there is none. Takes no lock, so it never disturbs a starting agent."""
    try:
        info = msgspec.json.decode(read_bounded(folder / INFO, INFO_BYTES_MAX), type=AgentInfo)
    except (OSError, InvalidInput, msgspec.MsgspecError):
        return None
    return info if is_alive(info) else None


def is_alive(info: AgentInfo) -> bool:
    """Whether that very process still runs; it may have let go of its device already."""
    return started_at(info.pid) == info.started_at


def started_at(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None when there is none. 0 where the system does not tell."""
    try:
        facts = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):  # never there, or gone while it was read
        if Path("/proc/self/stat").exists():
            return None
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            return 0
        return 0
    fields = facts.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def socket_path(folder: Path, runtime_dir: Path | None = None, files: Files | None = None) -> Path:
    """A short address for a device's socket, in a folder that only its owner can enter.

    Raises ``EvergroveError`` when that folder belongs to somebody else or is open to others.
    """
    name = hashlib.blake2b(os.fsencode(folder.resolve()), digest_size=8).hexdigest() + ".sock"
    shared = Path("/tmp") / f"evergrove-{os.geteuid()}"
    place = shared if runtime_dir is None else runtime_dir / "evergrove"
    if len(os.fsencode(place / name)) > ADDRESS_BYTES_MAX:
        place = shared
    (files or Files()).make_folder(place)
    facts = os.lstat(place)
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & 0o077:
        raise EvergroveError(
            f"{place}: not a folder of yours alone (owner {facts.st_uid}, mode {stat.S_IMODE(facts.st_mode):o}); "
            "`chmod 700` it, remove it, or set XDG_RUNTIME_DIR"
        )
    return place / name


def check_peer(connection: socket.socket) -> None:
    """Refuses the other end of a Unix socket unless it runs as the same user. Raises ``Unreachable``.

    Where the system cannot tell (no SO_PEERCRED), the private folder of the socket is the guard.
    """
    option = getattr(socket, "SO_PEERCRED", None)
    if option is not None:
        _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, option, struct.calcsize("3i")))
        if uid != os.geteuid():
            raise Unreachable(f"the other end of the agent's socket runs as user {uid}, not as you; it was refused")
