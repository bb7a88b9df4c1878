"""What the replay buffer keeps of one observation, its encoding, and what is known of it without opening it."""

import math
import secrets
from typing import Literal

import msgspec

from evergrove.adapters.sealed import OVERHEAD_BYTES
from evergrove.core.conditions import Code
from evergrove.core.errors import CorruptState, UsageError
from evergrove.core.release import sha256_hex

RECORD_BYTES_MAX = 17 << 20
"""Largest record file: the default limit on media and 1 MiB for everything else."""

Split = Literal["train", "golden"]


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One kept observation. ``phash`` is 0 ≤ n < 2⁶⁴, ``sha256`` that of ``media``, ``feature`` the filter's own."""

    id: str
    media: bytes
    condition: dict[str, str]
    code: Code
    split: Split
    feature: bytes
    phash: int
    kept_at_s: float
    sha256: str


class IndexEntry(msgspec.Struct, frozen=True):
    """What is known of a record without opening it; ``n_bytes`` is its size on disk.

    ``code`` is by the numbers of the day that it was written; a release may have brought others since (``condition``).
    """

    id: str
    code: Code
    split: Split
    feature: bytes
    phash: int
    kept_at_s: float
    sha256: str
    n_bytes: int
    condition: dict[str, str]


def new_id() -> str:
    """A random name for a record: 32 hex digits."""
    return secrets.token_hex(16)


def is_record_id(text: str) -> bool:
    """Whether a text is the name of a record; anything else never becomes a path."""
    return len(text) == 32 and set(text) <= set("0123456789abcdef")


def encode_record(record: Record) -> bytes:
    """The record as it will be stored, checked before anything touches the disk. Raises ``UsageError``."""
    if not is_record_id(record.id):
        raise UsageError(f"'{record.id[:40]}' is not a record id (32 hex digits)")
    if sha256_hex(record.media) != record.sha256 or not math.isfinite(record.kept_at_s):
        raise UsageError(f"the record {record.id} has a hash that is not its media's, or no finite time")
    try:
        content = msgspec.msgpack.encode(record)
        msgspec.msgpack.decode(content, type=Record)
    except (msgspec.MsgspecError, OverflowError) as fault:
        raise UsageError(f"the record {record.id} is malformed: {fault}") from fault
    if len(content) + OVERHEAD_BYTES > RECORD_BYTES_MAX:
        raise UsageError(f"the record {record.id} has {len(content)} bytes; at most {RECORD_BYTES_MAX} fit")
    return content


def decode_record(record_id: str, content: bytes) -> Record:
    """The record behind some bytes. Raises ``CorruptState`` unless it is the one called ``record_id``."""
    try:
        record = msgspec.msgpack.decode(content, type=Record)
    except msgspec.MsgspecError as fault:
        raise CorruptState(f"its content is not understood: {fault}") from fault
    if record.id != record_id:
        raise CorruptState("it holds another record than its name says")
    return record


def index_entry(record: Record, n_bytes: int) -> IndexEntry:
    """The index entry of a record that takes ``n_bytes`` on disk."""
    return IndexEntry(
        id=record.id,
        code=tuple(record.code),
        split=record.split,
        feature=record.feature,
        phash=record.phash,
        kept_at_s=record.kept_at_s,
        sha256=record.sha256,
        n_bytes=n_bytes,
        condition=dict(record.condition),
    )
