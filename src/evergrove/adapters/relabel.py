"""Names out of an adapter file, and in again: a fog learns by numbers and need not know what a user calls things.

Only the header's vocabulary changes, so this needs no torch; the form is that of ``learn/tensor_file``, byte for byte.
"""

import json
from typing import Any

import msgspec

from evergrove.core.conditions import Factor, Vocabulary
from evergrove.core.errors import InvalidArtefact

HEADER_BYTES_MAX = 1 << 20


def nameless(vocabulary: Vocabulary, released: Vocabulary) -> Vocabulary:
    """The vocabulary with '#7' in place of the user's own name of value 7; the release's names stay."""
    return Vocabulary(
        tuple(
            Factor(f.name, tuple(v if n <= size else f"#{n}" for n, v in enumerate(f.values, 1)))
            for f, size in zip(vocabulary.factors, released.sizes, strict=True)
        )
    )


def vocabulary_of(data: bytes) -> Vocabulary:
    """What an adapter file says that it understands. Raises ``InvalidArtefact`` for what is no adapter file."""
    return _parsed(data)[1]


def relabel(data: bytes, vocabulary: Vocabulary) -> bytes:
    """The adapter file with other names for the same numbers. Raises ``InvalidArtefact`` for what is none."""
    header, found, body = _parsed(data)
    if found.sizes != vocabulary.sizes:
        raise InvalidArtefact(f"an adapter of {found.sizes} values cannot be given names for {vocabulary.sizes}")
    header["__metadata__"]["vocabulary"] = msgspec.json.encode(vocabulary).decode()
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


def _parsed(data: bytes) -> tuple[dict[str, Any], Vocabulary, bytes]:
    """Header, vocabulary and what follows the header."""
    n_header = int.from_bytes(data[:8], "little")
    if not 2 <= n_header <= min(HEADER_BYTES_MAX, len(data) - 8):
        raise InvalidArtefact("not a safetensors file, or cut short; no adapter of ours")
    try:
        header = json.loads(data[8 : 8 + n_header])
        vocabulary = msgspec.json.decode(header["__metadata__"]["vocabulary"], type=Vocabulary)
    except (ValueError, KeyError, TypeError, msgspec.MsgspecError) as fault:
        raise InvalidArtefact(f"no adapter of ours: its header is not understood ({fault})") from fault
    return header, vocabulary, data[8 + n_header :]
