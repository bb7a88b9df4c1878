"""Whether something from a fog may be believed: a small signed statement in front of the bytes that it speaks of.

    "EGS1" | length of the statement (4, little endian) | statement, JSON | Ed25519 signature (64) | body

The statement binds the body's hash and size, what it is, which release it is for, what it answers, who signed it and
until when that holds. Key, release, limit and time come in from the caller; out comes the body or one refusal.
Ed25519 (RFC 8032) is deterministic, so signing needs no chance either. The chain of releases has its own trust (TUF).
"""

import hashlib

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from evergrove.core.errors import InvalidArtefact, UsageError
from evergrove.core.release import sha256_hex

MAGIC = b"EGS1"
DOMAIN = b"evergrove.statement.1\0"
"""In front of what is signed: a signature made for anything else never fits here."""
KEY_BYTES, SIGNATURE_BYTES, STATEMENT_BYTES_MAX = 32, 64, 4096
HEAD_BYTES = len(MAGIC) + 4


class Statement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a signature says of a body. ``kind``: assist or candidate. ``release``, ``payload``: SHA-256 in hex.

    ``about`` is the SHA-256 of the request that this answers ("" for what answers nobody), ``key`` the id of the
    signer's key, ``expires_s`` seconds since 1970.
    """

    kind: str
    release: str
    payload: str
    n_bytes: int
    key: str
    expires_s: float
    about: str = ""
    version: int = 1


class Expected(msgspec.Struct, frozen=True):
    """What the reader asks for; ``key`` is the 32 bytes of the Ed25519 public key that must have signed."""

    kind: str
    release: str
    key: bytes
    n_bytes_max: int
    about: str = ""


def key_id(public: bytes) -> str:
    """Sixteen hex digits that tell public keys apart."""
    return hashlib.blake2b(public, digest_size=8, person=b"evergrove.pub").hexdigest()


def public_key(private: bytes) -> bytes:
    """The 32 public bytes of an Ed25519 private key. Raises ``UsageError`` for what is no key."""
    return _private(private).public_key().public_bytes_raw()


def sign(private: bytes, kind: str, release: str, body: bytes, expires_s: float, about: str = "") -> bytes:
    """``body`` with a signed statement in front. The same arguments give the same bytes."""
    key = _private(private)
    public = key.public_key().public_bytes_raw()
    statement = msgspec.json.encode(
        Statement(kind, release, sha256_hex(body), len(body), key_id(public), expires_s, about)
    )
    if len(statement) > STATEMENT_BYTES_MAX:
        raise UsageError(f"a statement of {len(statement)} bytes; at most {STATEMENT_BYTES_MAX} are signed")
    head = MAGIC + len(statement).to_bytes(4, "little")
    return head + statement + key.sign(DOMAIN + statement) + body


def verify(data: bytes, expected: Expected, now_s: float) -> bytes:
    """The body, if everything holds: form, limits, key, signature, kind, release, request, time, size and hash.

    Raises ``InvalidArtefact`` that names what did not; nothing of the body has been looked at before the signature.
    """
    text, signature, body = _split(data, expected)
    # The signature first: what a stranger wrote is not worth an answer in detail.
    try:
        Ed25519PublicKey.from_public_bytes(expected.key).verify(signature, DOMAIN + text)
    except ValueError as fault:
        raise UsageError(f"the key to check a {expected.kind} by is no Ed25519 key of {KEY_BYTES} bytes") from fault
    except InvalidSignature as fault:
        raise _refusal(
            expected,
            f"it is not signed by the key {key_id(expected.key)} that the configuration names, or was altered",
        ) from fault
    statement = _statement(text, expected)
    if statement.version != 1:
        raise _refusal(expected, f"it is of version {statement.version}, this program reads 1: update Evergrove")
    if statement.key != key_id(expected.key):
        raise _refusal(expected, f"its statement names the key {statement.key}, another one signed it")
    if statement.kind != expected.kind:
        raise _refusal(expected, f"it is a signed {statement.kind}")
    if statement.release != expected.release:
        raise _refusal(
            expected, f"it is for release {statement.release[:12]}…, this device runs {expected.release[:12]}…"
        )
    if statement.about != expected.about:
        raise _refusal(expected, "it answers another request")
    if not now_s < statement.expires_s:
        raise _refusal(expected, f"it expired {now_s - statement.expires_s:.0f} s ago: ask for a fresh one")
    if len(body) != statement.n_bytes or sha256_hex(body) != statement.payload:
        raise _refusal(expected, "its content is not what was signed: fetch it again")
    return body


def body_of(data: bytes) -> bytes:
    """The body, unverified: to name it by its hash, or for who has just signed it. Raises ``InvalidArtefact``."""
    return _split(data, Expected("signed file", "", b"", len(data)))[2]


def _split(data: bytes, expected: Expected) -> tuple[bytes, bytes, bytes]:
    """Statement, signature and body, by their sizes alone."""
    n_statement = int.from_bytes(data[len(MAGIC) : HEAD_BYTES], "little")
    start = HEAD_BYTES + n_statement + SIGNATURE_BYTES
    if data[: len(MAGIC)] != MAGIC or not 0 < n_statement <= STATEMENT_BYTES_MAX or len(data) < start:
        raise _refusal(expected, "it is no signed file of ours, or was cut short: fetch it again")
    if len(data) - start > expected.n_bytes_max:
        raise _refusal(expected, f"it has {len(data) - start} bytes, at most {expected.n_bytes_max} are allowed")
    return data[HEAD_BYTES : start - SIGNATURE_BYTES], data[start - SIGNATURE_BYTES : start], data[start:]


def _statement(text: bytes, expected: Expected) -> Statement:
    """The statement; unknown fields are refused, and so is any other spelling of the same."""
    try:
        statement = msgspec.json.decode(text, type=Statement)
    except msgspec.MsgspecError as fault:
        reason = f"its statement is not understood ({fault}): was it made by a newer Evergrove?"
        raise _refusal(expected, reason) from fault
    if msgspec.json.encode(statement) != text:
        raise _refusal(expected, "its statement is not in the one canonical form")
    return statement


def _refusal(expected: Expected, reason: str) -> InvalidArtefact:
    return InvalidArtefact(f"a {expected.kind} from the fog was refused: {reason}")


def _private(private: bytes) -> Ed25519PrivateKey:
    try:
        return Ed25519PrivateKey.from_private_bytes(private)
    except ValueError as fault:
        raise UsageError(f"an Ed25519 private key has {KEY_BYTES} bytes, not {len(private)}") from fault
