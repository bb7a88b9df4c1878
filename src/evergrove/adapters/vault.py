"""The replay buffer on disk: one encrypted file per record, bounded, and an index in memory.

What a device saw, the names of its personal conditions, and every hash or feature of an observation live here and
nowhere else on disk. Which record stays is decided by the reducer; this room stores, serves and destroys. A record that
cannot be read is set aside with a reason: it is never served and never stops an opening.
"""

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from evergrove.adapters.files import DiskFull, Files, read_bounded
from evergrove.adapters.keys import KeySource, new_key
from evergrove.adapters.records import (
    RECORD_BYTES_MAX,
    IndexEntry,
    Record,
    Split,
    decode_record,
    encode_record,
    index_entry,
    is_record_id,
    new_id,
)
from evergrove.adapters.sealed import OVERHEAD_BYTES, key_id, rewrap, seal, unseal
from evergrove.core.conditions import Vocabulary
from evergrove.core.config import Replay
from evergrove.core.errors import CorruptState, EvergroveError, InvalidInput, UsageError

__all__ = ["IndexEntry", "Quarantined", "Record", "Vault", "new_id"]

SUFFIX = ".rec"
MARKER = "vault.json"
NAMES = ("names.enc", "names.backup.enc")
NEXT_NAMES = "names.next.enc"
QUARANTINE = "quarantine"
QUARANTINE_FILES_MAX = 32
NAMES_BYTES_MAX = 4 << 20


class Quarantined(NamedTuple):
    """A file that was set aside: its name without suffix, and why."""

    id: str
    reason: str


class _NextNames(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A vocabulary, and the version from which on it holds."""

    sequence: int
    vocabulary: Vocabulary


class _Marker(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose vault this is, and under which key: a wrong key is noticed before anything is set aside."""

    device: str
    key_id: str
    schema: int = 1


class Vault:
    """The folder ``vault/`` of a device. Thread-safe; one process writes, a trainer may read (``read_only``).

    Opening deletes leftovers of interrupted writes, finishes an interrupted key rotation and builds the index by
    decrypting every record once. ``quarantined`` and ``notices`` say what was found wrong.

    Raises ``CorruptState`` when the device key is missing, is another one, or the vault is another device's: nothing is
    touched then.
    """

    def __init__(
        self,
        folder: Path,
        device_id: str,
        keys: KeySource,
        limits: Replay | None = None,
        *,
        read_only: bool = False,
        files: Files | None = None,
    ) -> None:
        self.folder = folder
        self.quarantined: list[Quarantined] = []
        self.notices: list[str] = []
        self._device, self._source, self._limits = device_id, keys, limits or Replay()
        self._read_only = read_only
        self._files = files or Files()
        self._lock = threading.RLock()
        self._index: dict[str, IndexEntry] = {}
        self._keys = self._open_keys()
        if not read_only:
            self._tidy()
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            self._enter(path)

    # ---- what the agent asks for ----------------------------------------------------------------------------------

    def put(self, record: Record) -> None:
        """Stores a record, durably on return. The same record again changes nothing.

        Raises ``UsageError`` for a record that is malformed, too large, beyond the limits, or whose id is taken by
        another; ``DiskFull``. Nothing is stored then.
        """
        content = encode_record(record)
        size = len(content) + OVERHEAD_BYTES
        with self._lock:
            self._refuse_read_only()
            entry, held = index_entry(record, size), self._index.get(record.id)
            if held == entry:
                return
            if held is not None:
                raise UsageError(f"the record {record.id} is there already, with other content")
            if len(self._index) >= self._limits.n_records_max or self.n_bytes + size > self._limits.n_bytes_max:
                raise UsageError(
                    f"the replay buffer is full ({len(self._index)} of {self._limits.n_records_max} records, "
                    f"{self.n_bytes} of {self._limits.n_bytes_max} bytes); evict before putting {size} bytes"
                )
            self._files.write(self._path(record.id), seal(self._keys[0], self._device, record.id, content))
            self._index[record.id] = entry

    def get(self, record_id: str) -> Record:
        """A record. Raises ``UsageError`` (unknown id) or ``CorruptState`` (damaged: it is set aside then)."""
        with self._lock:
            if record_id not in self._index:
                raise UsageError(f"there is no record {record_id[:40]} in the replay buffer")
            path = self._path(record_id)
            try:
                return self._read(path)[0]
            except CorruptState as fault:
                self._set_aside(path, str(fault))
                raise CorruptState(f"{path}: {fault}; it was set aside and is not used any more") from fault

    def all(self, split: Split | None = None) -> Iterator[Record]:
        """The records (of one split), oldest first; one that turns out to be damaged is set aside and left out."""
        for entry in sorted(self.entries, key=lambda e: (e.kept_at_s, e.id)):
            if split is None or entry.split == split:
                with contextlib.suppress(CorruptState, UsageError):
                    yield self.get(entry.id)

    def evict(self, record_id: str) -> None:
        """Deletes a record; one that is not there is fine."""
        self._refuse_read_only()
        with self._lock:
            self._files.remove(self._path(record_id))
            self._index.pop(record_id, None)

    def ids(self) -> list[str]:
        """The ids of all readable records, sorted."""
        with self._lock:
            return sorted(self._index)

    @property
    def entries(self) -> list[IndexEntry]:
        """The index, sorted by id."""
        with self._lock:
            return [self._index[i] for i in sorted(self._index)]

    @property
    def n_bytes(self) -> int:
        """Bytes of all readable records on disk."""
        with self._lock:
            return sum(entry.n_bytes for entry in self._index.values())

    # ---- forgetting -----------------------------------------------------------------------------------------------

    def destroy(self, record_ids: Iterable[str]) -> None:
        """Deletes records and the device key that could have opened a leftover of them. Doing it again is fine."""
        for record_id in record_ids:
            self.evict(record_id)
        self.rotate()

    def rotate(self) -> None:
        """Wraps every record's key under a new device key, then destroys the old one; what was set aside goes too.

        Killed in the middle, it is finished at the next opening: until then both keys are kept. Raises ``DiskFull``.
        """
        self._refuse_read_only()
        with self._lock:
            if len(self._keys) == 1:
                keys = (new_key(), self._keys[0])
                self._source.store(keys)
                self._keys = keys
            self._finish_rotation()

    # ---- the names of personal conditions -------------------------------------------------------------------------

    def save_names(self, vocabulary: Vocabulary) -> None:
        """Stores the vocabulary with its personal values, encrypted, twice. Raises ``DiskFull``."""
        self._refuse_read_only()
        with self._lock:
            for name in NAMES:
                box = seal(self._keys[0], self._device, name, msgspec.msgpack.encode(vocabulary))
                self._files.write(self.folder / name, box)

    def prepare_names(self, vocabulary: Vocabulary, sequence: int) -> None:
        """Stores the vocabulary that is to hold from version ``sequence`` on, beside the present one."""
        self._refuse_read_only()
        with self._lock:
            content = msgspec.msgpack.encode(_NextNames(sequence, vocabulary))
            box = seal(self._keys[0], self._device, NEXT_NAMES, content)
            self._files.write(self.folder / NEXT_NAMES, box)

    def settle_names(self, sequence: int) -> None:
        """What was prepared holds from now on if it was for version ``sequence`` or one before it; else it goes.

        Call it with the sequence that is logged: after a switch, and at every start. Raises ``CorruptState``.
        """
        path = self.folder / NEXT_NAMES
        with self._lock:
            try:
                content = unseal(self._keys, self._device, NEXT_NAMES, read_bounded(path, NAMES_BYTES_MAX))
                prepared = msgspec.msgpack.decode(content, type=_NextNames)
            except FileNotFoundError:
                return
            except msgspec.MsgspecError as fault:
                raise CorruptState(f"{path}: not understood: {fault}; restore the folder from a backup") from fault
            if prepared.sequence <= sequence:
                self.save_names(prepared.vocabulary)
            self._files.remove(path)

    def names(self) -> Vocabulary | None:
        """The stored vocabulary, None when none was stored. Raises ``CorruptState`` when both copies are damaged."""
        reasons = []
        with self._lock:
            for name in NAMES:
                try:
                    box = read_bounded(self.folder / name, NAMES_BYTES_MAX)
                    content = unseal(self._keys, self._device, name, box)
                    return msgspec.msgpack.decode(content, type=Vocabulary)
                except FileNotFoundError:
                    continue
                except (InvalidInput, msgspec.MsgspecError) as fault:
                    reasons.append(f"{name}: {fault}")
        if reasons:
            raise CorruptState(
                f"{self.folder}: the names of this device's own conditions cannot be read ({'; '.join(reasons)}); "
                "restore the folder from a backup: their numbers must not change"
            )
        return None

    # ---- opening --------------------------------------------------------------------------------------------------

    def _open_keys(self) -> tuple[bytes, ...]:
        """The device's keys, checked against the marker; made at the first opening."""
        keys, marker = self._source.load(), self._read_marker()
        has_records = any(self.folder.glob(f"*{SUFFIX}"))
        if marker is not None and marker.device != self._device:
            raise CorruptState(f"{self.folder}: this is the vault of '{marker.device}', not of '{self._device}'")
        if not keys and (marker is not None or has_records):
            raise CorruptState(
                f"{self.folder}: the device key is missing, and records cannot be read without it; restore it from a "
                "backup, or make the device anew with `evergrove init`"
            )
        if self._read_only:
            if not keys:
                raise UsageError(f"{self.folder}: there is no vault; make a device with `evergrove init`")
        else:
            self._files.make_folder(self.folder)
        if not keys:
            keys = (new_key(),)
            self._source.store(keys)
        known = {key_id(key).hex() for key in keys}
        seen = {marker.key_id} if marker is not None else self._key_ids_on_disk()
        if seen and not seen & known:
            raise CorruptState(
                f"{self.folder}: the device key ({self._source.kind}) is not the one that these records were written "
                "under; nothing was touched: bring the right key back"
            )
        if marker is None and not self._read_only:
            self._write_marker(keys[0])
        return keys

    def _tidy(self) -> None:
        """Removes leftovers and finishes a rotation; a full disk leaves that for later."""
        for name in (*self._files.sweep(self.folder), *self._source.tidy()):
            self.notices.append(f"removed {name}, left by an interrupted write")
        if len(self._keys) == 2:
            try:
                self._finish_rotation()
                self.notices.append("finished an interrupted change of the device key")
            except DiskFull as fault:
                self.notices.append(f"the change of the device key is not finished: {fault}")

    def _finish_rotation(self) -> None:
        paths = sorted(self.folder.glob(f"*{SUFFIX}")) + [self.folder / name for name in (*NAMES, NEXT_NAMES)]
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                try:
                    limit = RECORD_BYTES_MAX if path.suffix == SUFFIX else NAMES_BYTES_MAX
                    name = path.stem if path.suffix == SUFFIX else path.name
                    box = rewrap(self._keys, self._device, name, read_bounded(path, limit))
                except InvalidInput as fault:
                    self._set_aside(path, str(fault))
                    continue
                if box is not None:
                    self._files.write(path, box, named=False)
        self._files.sync_folder(self.folder)
        self._write_marker(self._keys[0])
        self._empty_quarantine(keep=0)
        self._source.store(self._keys[:1])
        self._keys = self._keys[:1]

    def _enter(self, path: Path) -> None:
        """Puts one file into the index, or aside."""
        try:
            record, size = self._read(path)
        except CorruptState as fault:
            self._set_aside(path, str(fault))
        else:
            self._index[record.id] = index_entry(record, size)

    def _read(self, path: Path) -> tuple[Record, int]:
        """A record and its size on disk. Raises ``CorruptState`` with a short reason."""
        if not is_record_id(path.stem):
            raise CorruptState("its name is not that of a record")
        try:
            box = read_bounded(path, RECORD_BYTES_MAX)
        except FileNotFoundError as fault:
            raise CorruptState("it is missing") from fault
        except InvalidInput as fault:
            raise CorruptState(str(fault)) from fault
        try:
            content = unseal(self._keys, self._device, path.stem, box)
        except CorruptState:
            if not self._read_only:
                raise
            self._keys = self._source.load()  # the agent may have changed the device key beside this reader
            content = unseal(self._keys, self._device, path.stem, box)
        return decode_record(path.stem, content), len(box)

    def _set_aside(self, path: Path, reason: str) -> None:
        self._index.pop(path.stem, None)
        self.quarantined.append(Quarantined(path.stem, reason))
        if self._read_only or not os.path.lexists(path):
            return
        with contextlib.suppress(EvergroveError):  # it stays where it is, out of the index, when it cannot be moved
            folder = self.folder / QUARANTINE
            self._files.make_folder(folder)
            self._files.move(path, folder / path.name)
            self._empty_quarantine(keep=QUARANTINE_FILES_MAX)

    def _empty_quarantine(self, keep: int) -> None:
        folder = self.folder / QUARANTINE
        if folder.is_dir():
            paths = sorted((p for p in folder.iterdir() if not p.is_dir()), key=lambda p: p.lstat().st_mtime_ns)
            for path in paths[: max(0, len(paths) - keep)]:
                self._files.remove(path)

    # ---- helpers --------------------------------------------------------------------------------------------------

    def _path(self, record_id: str) -> Path:
        if not is_record_id(record_id):
            raise UsageError(f"'{record_id[:40]}' is not a record id (32 hex digits)")
        return self.folder / f"{record_id}{SUFFIX}"

    def _key_ids_on_disk(self) -> set[str]:
        """The key ids in the heads of the records, for a vault whose marker is gone."""
        found = set()
        for path in self.folder.glob(f"*{SUFFIX}"):
            with contextlib.suppress(OSError, InvalidInput):
                found.add(read_bounded(path, RECORD_BYTES_MAX)[4:12].hex())
        return found

    def _read_marker(self) -> _Marker | None:
        try:
            return msgspec.json.decode(read_bounded(self.folder / MARKER, 4096), type=_Marker)
        except (OSError, InvalidInput, msgspec.MsgspecError):
            return None

    def _write_marker(self, key: bytes) -> None:
        self._files.write(self.folder / MARKER, msgspec.json.encode(_Marker(self._device, key_id(key).hex())))

    def _refuse_read_only(self) -> None:
        if self._read_only:
            raise UsageError(f"{self.folder}: opened for reading only")
