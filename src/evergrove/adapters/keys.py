"""Where the secret lies that wraps the key of every replay record: a file, or the keyring of the operating system.

A source holds one key, or two while a rotation is under way (the newest first). ``kind`` and ``describe`` let `doctor`
say how well the key is kept.
"""

import importlib
import os
import stat
from pathlib import Path
from typing import Any, Protocol

from evergrove.adapters.files import Files, read_bounded
from evergrove.core.errors import CorruptState, EvergroveError, MissingDependency

KEY_BYTES = 32
SERVICE = "evergrove"


class KeySource(Protocol):
    """Keeps 32-byte keys; ``store`` is durable and destroys what it replaces."""

    kind: str

    def load(self) -> tuple[bytes, ...]:
        """The keys, newest first; none before the first ``store``. Raises ``CorruptState``."""

    def store(self, keys: tuple[bytes, ...]) -> None:
        """Replaces all keys."""

    def tidy(self) -> list[str]:
        """Deletes what an interrupted ``store`` left; returns the names. For the owner of the keys only."""

    def describe(self) -> str:
        """One sentence for a person: where the key lies, and who can read it."""


class FileKey:
    """Keys in a file that only its owner can read: as safe as the disk it lies on."""

    kind = "file"

    def __init__(self, path: Path, *, files: Files | None = None) -> None:
        self.path = path
        self._files = files or Files()

    def load(self) -> tuple[bytes, ...]:
        """The keys. Raises ``CorruptState`` when others may read or write the file, or its content is no key."""
        try:
            facts = os.lstat(self.path)
        except FileNotFoundError:
            return ()
        if facts.st_mode & 0o077 or facts.st_uid != os.geteuid():
            raise CorruptState(
                f"{self.path}: the device key has mode {stat.S_IMODE(facts.st_mode):o} and owner {facts.st_uid}; "
                f"it must be yours alone: `chmod 600 {self.path}`, and rotate it if others could read it"
            )
        return _parse(read_bounded(self.path, 4096).decode("ascii", "replace"), str(self.path))

    def store(self, keys: tuple[bytes, ...]) -> None:
        """Replaces the file, overwrites the old content in place, and deletes leftovers of interrupted writes."""
        self._files.make_folder(self.path.parent)
        self.tidy()
        self._files.write(self.path, _format(keys).encode(), mode=0o600, scrub=True)

    def tidy(self) -> list[str]:
        """Half-written key files go: they may hold key material."""
        return self._files.sweep(self.path.parent, of=self.path.name)

    def describe(self) -> str:
        """Where the key lies."""
        return f"the device key is a file ({self.path}, mode 600): whoever copies the whole disk can read the records"


class KeyringKey:
    """Keys in the operating system's keyring, through the optional package ``keyring``."""

    kind = "keyring"

    def __init__(self, device_id: str) -> None:
        try:
            self._ring: Any = importlib.import_module("keyring")
        except ImportError as fault:
            raise MissingDependency("the OS keyring needs the package 'keyring': pip install keyring") from fault
        self._user = f"device-key:{device_id}"

    def load(self) -> tuple[bytes, ...]:
        """The keys. Raises ``MissingDependency`` when no keyring is running or it is locked."""
        text = self._ask("get_password", SERVICE, self._user)
        return () if text is None else _parse(str(text), f"keyring entry {self._user}")

    def store(self, keys: tuple[bytes, ...]) -> None:
        """Replaces the entry."""
        self._ask("set_password", SERVICE, self._user, _format(keys))

    def tidy(self) -> list[str]:
        """A keyring has no leftovers."""
        return []

    def describe(self) -> str:
        """Which keyring holds the key."""
        return f"the device key lies in the keyring of the operating system ({type(self._ring.get_keyring()).__name__})"

    def _ask(self, method: str, *arguments: str) -> object:
        try:
            answer: object = getattr(self._ring, method)(*arguments)
        except Exception as fault:  # keyring backends raise errors of their own, and of D-Bus, without a common base
            raise MissingDependency(
                f"the OS keyring did not answer ({type(fault).__name__}: {fault}); unlock it, or use a key file"
            ) from fault
        return answer


def new_key() -> bytes:
    """A fresh key from the operating system's randomness."""
    return os.urandom(KEY_BYTES)


def _format(keys: tuple[bytes, ...]) -> str:
    if not 1 <= len(keys) <= 2 or any(len(key) != KEY_BYTES for key in keys):
        raise EvergroveError(f"a key source holds one or two keys of {KEY_BYTES} bytes")
    return "".join(f"{key.hex()}\n" for key in keys)


def _parse(text: str, where: str) -> tuple[bytes, ...]:
    try:
        keys = tuple(bytes.fromhex(line) for line in text.split())
    except ValueError:
        keys = ()
    if not 1 <= len(keys) <= 2 or any(len(key) != KEY_BYTES for key in keys):
        raise CorruptState(
            f"{where}: holds no device key; restore it from a backup (records cannot be read without it), "
            "or make the device anew with `evergrove init`"
        )
    return keys
