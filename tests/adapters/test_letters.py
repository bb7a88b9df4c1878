"""Letters: only the reader opens them, only for their purpose, and their size says next to nothing."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evergrove.adapters import letters
from evergrove.core.errors import InvalidArtefact, UsageError

PRIVATE, PUBLIC = letters.new_key_pair()
LETTER = letters.seal_letter(PUBLIC, "test", b"what a device has seen")
LIMIT = 4 << 20


def test_only_the_reader_opens_a_letter() -> None:
    """The named key opens it, another does not, and no two letters are alike."""
    assert letters.open_letter(PRIVATE, "test", LETTER, LIMIT) == b"what a device has seen"
    assert letters.public_of(PRIVATE) == PUBLIC
    with pytest.raises(InvalidArtefact, match="another key"):
        letters.open_letter(letters.new_key_pair()[0], "test", LETTER, LIMIT)
    assert letters.seal_letter(PUBLIC, "test", b"what a device has seen")[12:44] != LETTER[12:44]
    assert b"what a device" not in LETTER


def test_a_letter_is_for_one_purpose_and_of_one_piece() -> None:
    """Another purpose, a size over the limit, a cut, or what is no letter: refused with the reason."""
    with pytest.raises(InvalidArtefact, match="another purpose"):
        letters.open_letter(PRIVATE, "answer", LETTER, LIMIT)
    with pytest.raises(InvalidArtefact, match="at most 100"):
        letters.open_letter(PRIVATE, "test", LETTER, 100)
    for bad in (LETTER[:50], b"", b"X" + LETTER[1:]):
        with pytest.raises(InvalidArtefact, match="no letter of ours"):
            letters.open_letter(PRIVATE, "test", bad, LIMIT)


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, len(LETTER) - 1), bit=st.integers(0, 7))
def test_no_bit_can_be_turned(at: int, bit: int) -> None:
    """Head, key, ciphertext or tag: one flipped bit and it does not open.

    Not even the top bit of the X25519 key, which RFC 7748 tells readers to ignore: the head is bound into the key.
    """
    data = bytearray(LETTER)
    data[at] ^= 1 << bit
    with pytest.raises(InvalidArtefact):
        letters.open_letter(PRIVATE, "test", bytes(data), LIMIT)


def test_a_point_of_small_order_is_refused() -> None:
    """A one-time key that makes the shared secret zero for every reader (RFC 7748, 6.1) does not open."""
    forged = LETTER[:12] + bytes(32) + LETTER[44:]
    with pytest.raises(InvalidArtefact, match="altered"):
        letters.open_letter(PRIVATE, "test", forged, LIMIT)


@given(st.integers(0, 3 << 20))
def test_sizes_are_powers_of_two_and_at_least_a_mebibyte(n_bytes: int) -> None:
    """The padded size holds the content and its length, and is the least such power of two from 1 MiB on."""
    size = letters.padded_size(n_bytes)
    assert size >= max(n_bytes + 8, 1 << 20)
    assert size & (size - 1) == 0
    assert size == 1 << 20 or size < 2 * (n_bytes + 8)


def test_padding_is_undone_and_checked() -> None:
    """What is padded comes back; a filling that is not zeros, or of another length, is refused."""
    for content in (b"", b"x", bytes((1 << 20) - 8), bytes((1 << 20) - 7)):
        assert letters.unpad(letters.pad(content)) == content
    assert len(letters.pad(bytes((1 << 20) - 8))) == 1 << 20
    assert len(letters.pad(bytes((1 << 20) - 7))) == 2 << 20
    padded = letters.pad(b"x")
    for bad in (padded[:-1] + b"\1", padded + bytes(8), padded[:-8], bytes([255] * 8) + padded[8:], b""):
        with pytest.raises(InvalidArtefact, match="filling"):
            letters.unpad(bad)


def test_what_is_no_key_is_a_usage_error() -> None:
    """Keys of the wrong size, on either side."""
    with pytest.raises(UsageError, match="public key of 32"):
        letters.seal_letter(b"short", "test", b"")
    with pytest.raises(UsageError, match="32 bytes, not 5"):
        letters.open_letter(b"short", "test", LETTER, LIMIT)
