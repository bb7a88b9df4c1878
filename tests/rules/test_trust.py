"""Trust: what was signed by the named key, for this release, in time, is given out; everything else is refused."""

from collections.abc import Callable

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from evergrove.core.errors import InvalidArtefact, UsageError
from evergrove.core.release import sha256_hex
from evergrove.rules import trust

# Test 1 of RFC 8032, 7.1.
PRIVATE = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
OTHER = bytes(range(32))
RELEASE = "ab" * 32
BODY = b"what a fog has computed"
SIGNED = trust.sign(PRIVATE, "assist", RELEASE, BODY, 1000.0)
EXPECTED = trust.Expected("assist", RELEASE, PUBLIC, 100)


def expected(**changes: object) -> trust.Expected:
    """The reader's expectation, changed."""
    return msgspec.structs.replace(EXPECTED, **changes)


def signed_as(text: bytes, body: bytes = BODY) -> bytes:
    """A file whose statement is any text at all, rightly signed by the right key."""
    signature = Ed25519PrivateKey.from_private_bytes(PRIVATE).sign(trust.DOMAIN + text)
    return trust.MAGIC + len(text).to_bytes(4, "little") + text + signature + body


def statement(**changes: object) -> bytes:
    """The statement of SIGNED with other fields, as JSON."""
    good = trust.Statement("assist", RELEASE, sha256_hex(BODY), len(BODY), trust.key_id(PUBLIC), 1000.0)
    return msgspec.json.encode(msgspec.structs.replace(good, **changes))


def test_the_public_key_is_the_standard_s() -> None:
    """The key pair of RFC 8032's first test vector."""
    assert trust.public_key(PRIVATE) == PUBLIC


def test_a_signed_file_is_the_same_bytes_for_ever() -> None:
    """A vector: whoever changes the form breaks every file that was ever signed."""
    assert SIGNED[:8] == b"EGS1" + (251).to_bytes(4, "little")
    assert sha256_hex(SIGNED) == "654e88f174b0fa7913dac25f45d846d4441b647c72374460031ed72591da3344"
    assert signed_as(statement()) == SIGNED


def test_what_was_signed_is_given_out() -> None:
    """The body comes back, up to the last second."""
    assert trust.verify(SIGNED, EXPECTED, 999.9) == BODY
    assert trust.body_of(SIGNED) == BODY


@pytest.mark.parametrize(
    ("wanted", "now_s", "reason"),
    [
        (expected(key=trust.public_key(OTHER)), 0.0, "not signed by the key"),
        (expected(release="cd" * 32), 0.0, "for release abababababab"),
        (expected(kind="candidate"), 0.0, "signed assist"),
        (expected(about="11"), 0.0, "another request"),
        (expected(n_bytes_max=len(BODY) - 1), 0.0, "at most 22 are allowed"),
        (EXPECTED, 1000.0, "expired 0 s ago"),
        (EXPECTED, float("nan"), "expired"),
    ],
)
def test_what_was_not_asked_for_is_refused(wanted: trust.Expected, now_s: float, reason: str) -> None:
    """Wrong key, release, kind, request, size or time, each with its reason."""
    with pytest.raises(InvalidArtefact, match=reason):
        trust.verify(SIGNED, wanted, now_s)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: signed_as(statement(version=2)), "version 2"),
        (lambda: signed_as(statement(key="00" * 8)), "another one signed it"),
        (lambda: signed_as(statement(payload=sha256_hex(b"else"))), "not what was signed"),
        (lambda: signed_as(statement(), BODY + b"!"), "not what was signed"),
        (lambda: signed_as(statement()[:-1] + b',"more":1}'), "unknown field `more`"),
        (lambda: signed_as(statement().replace(b'"kind"', b' "kind"')), "canonical"),
        (lambda: signed_as(statement()[:-1] + b',"kind":"assist"}'), "canonical"),
        (lambda: signed_as(b"{}"), "required field"),
        (lambda: signed_as(b"[1"), "not understood"),
        (lambda: b"PK\x03\x04" + SIGNED, "no signed file"),
        (lambda: b"", "no signed file"),
        (lambda: trust.MAGIC + (1 << 30).to_bytes(4, "little") + SIGNED, "no signed file"),
        (lambda: SIGNED[: -len(BODY) - 1], "cut short"),
    ],
)
def test_a_bad_file_is_refused_even_with_a_good_signature(make: Callable[[], bytes], reason: str) -> None:
    """Unknown fields, another version or spelling, a body of other content, or no file of ours."""
    with pytest.raises(InvalidArtefact, match=reason):
        trust.verify(make(), EXPECTED, 0.0)


@given(at=st.integers(0, len(SIGNED) - 1), bit=st.integers(0, 7))
def test_no_bit_can_be_turned(at: int, bit: int) -> None:
    """Wherever one bit of a signed file is flipped, it is refused."""
    data = bytearray(SIGNED)
    data[at] ^= 1 << bit
    with pytest.raises(InvalidArtefact):
        trust.verify(bytes(data), EXPECTED, 0.0)


@given(body=st.binary(max_size=200), about=st.text("0123456789abcdef", max_size=64))
def test_signing_and_verifying_are_one(body: bytes, about: str) -> None:
    """Whatever is signed verifies, and only for the request that it is about."""
    data = trust.sign(OTHER, "candidate", RELEASE, body, 1.0, about)
    wanted = trust.Expected("candidate", RELEASE, trust.public_key(OTHER), 200, about)
    assert trust.verify(data, wanted, 0.0) == body


def test_a_caller_s_mistakes_are_named() -> None:
    """A key of the wrong size, and a statement that is beyond the limit, are usage errors."""
    with pytest.raises(UsageError, match="32 bytes, not 3"):
        trust.public_key(b"key")
    with pytest.raises(UsageError, match="no Ed25519 key"):
        trust.verify(SIGNED, expected(key=b"short"), 0.0)
    with pytest.raises(UsageError, match="at most 4096"):
        trust.sign(PRIVATE, "assist", "r" * 5000, BODY, 1.0)
