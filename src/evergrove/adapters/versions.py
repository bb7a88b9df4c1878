"""The versions of a device's adapter: files named by their hash, and one atomic pointer to what serves.

Two slots, current and previous, are always kept; None in a slot is the release alone. A file is never served
unverified: its SHA-256 is checked at every load. The agent writes (``recover``, ``add``, ``activate``, ``collect``),
apps read.
"""

import hashlib
import os
import threading
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import msgspec

from evergrove.adapters.files import Files, read_bounded
from evergrove.core.errors import InvalidArtefact, InvalidInput, UsageError
from evergrove.core.release import sha256_hex

POINTER = "active.json"
BACKUP = "active.backup.json"
POINTER_BYTES_MAX = 4096
ADAPTER_BYTES_MAX = 256 << 20
SUFFIX = ".safetensors"


class Pointer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What serves. ``current`` and ``previous`` are SHA-256 names, None for the release alone; ``seq`` only grows.

    Each belongs to a release, by its manifest's SHA-256: ``release`` and ``previous_release`` ("": the device's own
    first one).
    """

    seq: int = 0
    current: str | None = None
    previous: str | None = None
    probation: bool = False
    schema: int = 1
    release: str = ""
    previous_release: str = ""


class Active(NamedTuple):
    """What to serve now: a verified adapter's name and bytes, None and None for the release alone, and what failed.

    ``release`` is the release that it belongs to ("": the device's own first one).
    """

    sha256: str | None
    data: bytes | None
    problem: str | None
    release: str = ""


class _Sealed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The pointer on disk; ``check`` is the BLAKE2b of its JSON, so that a flipped bit is noticed."""

    pointer: Pointer
    check: str


class Versions:
    """The folder ``versions/`` of a device. Thread-safe. One process writes, any number read."""

    def __init__(self, folder: Path, *, files: Files | None = None) -> None:
        self.folder = folder
        self._files = files or Files()
        self._lock = threading.RLock()
        self._seen: tuple[int, int, int] | None = None
        self._pointer = Pointer()

    # ---- for apps -------------------------------------------------------------------------------------------------

    def read_pointer(self) -> Pointer:
        """The pointer; one ``stat`` when it has not changed.

        One that is missing or damaged is answered by its backup, then by the release alone: never an error.
        """
        with self._lock:
            try:
                facts = os.stat(self.folder / POINTER)
                seen = (facts.st_ino, facts.st_mtime_ns, facts.st_size)
            except OSError:
                return self._read_whole(BACKUP) or Pointer()
            if seen != self._seen:
                self._pointer = self._read_whole(POINTER) or self._read_whole(BACKUP) or Pointer()
                self._seen = seen
            return self._pointer

    def load(self, sha256: str) -> bytes:
        """The bytes of a version. Raises ``InvalidArtefact`` when the file is missing, altered or too large."""
        path = self.path_of(sha256)
        try:
            data = read_bounded(path, ADAPTER_BYTES_MAX)
        except FileNotFoundError as fault:
            raise InvalidArtefact(f"{path}: this version is missing") from fault
        except InvalidInput as fault:
            raise InvalidArtefact(str(fault)) from fault
        if sha256_hex(data) != sha256:
            raise InvalidArtefact(f"{path}: this version was altered (its SHA-256 differs from its name)")
        return data

    def active(self) -> Active:
        """What to serve now, verified: the current version, else the previous one, else the release alone."""
        for _ in range(2):  # a promotion between the two reads may have collected what the first one named
            pointer = self.read_pointer()
            problems: list[str] = []
            slots = ((pointer.current, pointer.release), (pointer.previous, pointer.previous_release))
            for sha256, release in slots:
                if sha256 is None:
                    return Active(None, None, "; ".join(problems) or None, release)
                try:
                    return Active(sha256, self.load(sha256), "; ".join(problems) or None, release)
                except InvalidArtefact as fault:
                    problems.append(str(fault))
            if self.read_pointer() == pointer:
                break
        return Active(None, None, "; ".join(problems), pointer.release)

    def path_of(self, sha256: str) -> Path:
        """Where a version lies. Raises ``UsageError`` for what is not a SHA-256 in hex."""
        if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
            raise UsageError(f"'{sha256[:80]}' is not the name of a version (64 hex digits)")
        return self.folder / f"{sha256}{SUFFIX}"

    # ---- for the agent --------------------------------------------------------------------------------------------

    def recover(self) -> list[str]:
        """Brings the folder into order at the agent's start; returns what it had to do, in sentences.

        Afterwards the pointer is whole and names verified files only. Fallbacks: the pointer's backup, then the
        previous version, then the release alone.
        """
        self._files.make_folder(self.folder)
        said = [f"removed {name}, left by an interrupted write" for name in self._files.sweep(self.folder)]
        with self._lock:
            self._seen = None
            pointer, fresh = self._read_whole(POINTER), not (self.folder / POINTER).exists()
            if pointer is None:
                pointer = self._read_whole(BACKUP)
                if pointer is not None:
                    said.append(f"{POINTER} was {'missing' if fresh else 'damaged'}; restored from its backup")
                else:
                    pointer = Pointer()
                    if not fresh or any(self.folder.glob(f"*{SUFFIX}")):
                        said.append(f"{POINTER} was {'missing' if fresh else 'damaged'}; the release alone serves")
            pointer = self._only_verified(pointer, said)
            if pointer != self._read_whole(POINTER) or pointer != self._read_whole(BACKUP):
                self._write(pointer)
        return said

    def add(self, data: bytes) -> str:
        """Stores an adapter, durably, without serving it; returns its SHA-256. Raises ``DiskFull``, ``UsageError``."""
        if len(data) > ADAPTER_BYTES_MAX:
            raise UsageError(f"an adapter of {len(data)} bytes; at most {ADAPTER_BYTES_MAX} are allowed")
        sha256 = sha256_hex(data)
        try:
            self.load(sha256)
        except InvalidArtefact:
            self._files.make_folder(self.folder)
            self._files.write(self.path_of(sha256), data)
        return sha256

    def activate(
        self, current: str | None, previous: str | None, seq: int, *, probation: bool, release: str | None = None,
        previous_release: str | None = None,
    ) -> Pointer:  # fmt: skip
        """Turns the pointer, durably: promoting, confirming and rolling back are all this one step.

        ``release`` and ``previous_release`` None: as they are now.

        The same again changes nothing. Raises ``InvalidArtefact`` (a file is missing or altered), ``UsageError``
        (``seq`` is not newer than the pointer's, yet asks for something else) or ``DiskFull``; the pointer stays.
        """
        with self._lock:
            now = self.read_pointer()
            on = now.release if release is None else release
            before = now.previous_release if previous_release is None else previous_release
            wanted = Pointer(seq, current, previous, probation, release=on, previous_release=before)
            for sha256 in (current, previous):
                if sha256 is not None:
                    self.load(sha256)
            if wanted == now:
                return now
            confirms = msgspec.structs.replace(now, probation=False) == wanted
            if seq <= now.seq and not confirms:
                raise UsageError(
                    f"version sequence {seq} does not follow {now.seq}, which serves {_short(now.current)}"
                )
            self._write(wanted)
            return wanted

    def collect(self, keep: Collection[str] = ()) -> list[str]:
        """Deletes every version except current, previous and ``keep``; returns the names of what went.

        What a killed worker left half-written goes, too: call it when no worker runs.
        """
        with self._lock:
            self._files.sweep(self.folder)
            pointer = self.read_pointer()
            wanted = {pointer.current, pointer.previous, *keep}
            gone = [p for p in sorted(self.folder.glob(f"*{SUFFIX}")) if p.name.removesuffix(SUFFIX) not in wanted]
            for path in gone:
                self._files.remove(path)
        return [p.name.removesuffix(SUFFIX) for p in gone]

    # ---- helpers --------------------------------------------------------------------------------------------------

    def _only_verified(self, pointer: Pointer, said: list[str]) -> Pointer:
        """The pointer with what cannot be verified replaced by the next fallback."""
        bad = set()
        for sha256 in {pointer.current, pointer.previous} - {None}:
            try:
                self.load(str(sha256))
            except InvalidArtefact as fault:
                bad.add(sha256)
                said.append(str(fault))
        if pointer.current in bad:
            good = None if pointer.previous in bad else pointer.previous
            said.append(f"{_short(pointer.current)} cannot serve; {_short(good)} serves instead")
            on = pointer.previous_release
            return msgspec.structs.replace(pointer, current=good, previous=None, probation=False, release=on)
        if pointer.previous in bad:
            return msgspec.structs.replace(pointer, previous=None)
        return pointer

    def _read_whole(self, name: str) -> Pointer | None:
        """The pointer in a file; None when it is missing, torn or altered."""
        try:
            sealed = msgspec.json.decode(read_bounded(self.folder / name, POINTER_BYTES_MAX), type=_Sealed)
        except (OSError, InvalidInput, msgspec.MsgspecError):
            return None
        return sealed.pointer if sealed.check == _check(sealed.pointer) else None

    def _write(self, pointer: Pointer) -> None:
        data = msgspec.json.encode(_Sealed(pointer, _check(pointer)))
        self._files.write(self.folder / POINTER, data)
        self._seen = None
        self._files.write(self.folder / BACKUP, data)


def _check(pointer: Pointer) -> str:
    """Over what the pointer says; a device without a fleet has pointers as they were before there were fleets."""
    tree = {key: value for key, value in msgspec.to_builtins(pointer).items() if value or "release" not in key}
    return hashlib.blake2b(msgspec.json.encode(tree), digest_size=16, person=b"evergrove.ptr").hexdigest()


def _short(sha256: str | None) -> str:
    return "the release alone" if sha256 is None else f"version {sha256[:12]}"
