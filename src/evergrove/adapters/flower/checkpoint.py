"""What the cloud's side of the link remembers: for each fog the last sum taken, and what is still to be acknowledged.

Written whole after every step. It is a convenience and never the truth about what was counted: that is the
consolidator's, so a lost or older checkpoint costs a repeated question and nothing else.
"""

import fcntl
import os
from pathlib import Path

import msgspec

from evergrove.adapters.files import Files, read_bounded
from evergrove.core.errors import AgentBusy, CorruptState, EvergroveError, InvalidInput

VERSION = 1
NAME, LOCK = "collector.json", "collector.lock"
N_BYTES_MAX = 64 << 20


class FogMark(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where one fog stands: its own name, the last id taken, ids to acknowledge, sums counted, answers refused.

    ``reports_after`` is the position of the last report that is durable.
    """

    name: str = ""
    after: str = ""
    pending: tuple[str, ...] = ()
    n_taken: int = 0
    n_failed: int = 0
    reports_after: int = 0


class Checkpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All fogs by the link's name for them, and the number of steps so far."""

    step: int = 0
    fogs: dict[str, FogMark] = {}
    version: int = VERSION


class CheckpointFile:
    """The checkpoint in ``folder``. Held by one process at a time, from ``acquire`` until its end."""

    def __init__(self, folder: Path, files: Files | None = None) -> None:
        self._folder, self._files = folder, files or Files()
        self._handle: int | None = None

    def acquire(self) -> None:
        """Takes the folder; the lock dies with the process. Raises ``AgentBusy`` where another one has it."""
        self._files.make_folder(self._folder)
        self._handle = lock(self._folder)
        if self._handle is None:
            raise AgentBusy(f"{self._folder}: another run collects here; stop it first with `flwr stop`")
        self._files.sweep(self._folder, of=NAME)

    def load(self) -> Checkpoint:
        """What was last saved; a new one where there is none. Raises ``CorruptState``."""
        try:
            data = read_bounded(self._folder / NAME, N_BYTES_MAX)
        except FileNotFoundError:
            return Checkpoint()
        except InvalidInput as fault:
            raise CorruptState(str(fault)) from fault
        try:
            found = msgspec.json.decode(data, type=Checkpoint)
        except msgspec.MsgspecError as fault:
            raise CorruptState(
                f"{self._folder / NAME}: {fault}; delete it: fogs are then asked from the start, none counts twice"
            ) from fault
        if found.version != VERSION:
            raise CorruptState(f"{self._folder / NAME}: version {found.version}, this program reads {VERSION}")
        return found

    def save(self, checkpoint: Checkpoint) -> None:
        """Durable on return."""
        self._files.write(self._folder / NAME, msgspec.json.encode(checkpoint))

    def release(self) -> None:
        """Gives the folder up."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def lock(folder: Path) -> int | None:
    """The folder's lock as an open handle; None where a living process has it. Raises ``EvergroveError``."""
    try:
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as fault:
        raise EvergroveError(f"{folder / LOCK}: cannot be opened: {fault.strerror}") from fault
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)  # for people and tests: that it is locked counts
    return handle
