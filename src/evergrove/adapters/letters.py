"""Letters: bytes that only the holder of one X25519 key can read, padded so that their size tells little.

    "EGL1" | id of the reader's key (8) | the sender's one-time public key (32) | AES-256-GCM ciphertext and tag

X25519 between a key pair made for this one letter and the reader's key, HKDF-SHA-256 over both public keys and the
purpose, AES-256-GCM with the head as associated data (the construction of HPKE's base mode, RFC 9180). The key is used
once, so the nonce is fixed. A letter says nothing about who wrote it: what needs that is signed (``rules/trust``).
"""

import hashlib

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from evergrove.core.errors import InvalidArtefact, UsageError

MAGIC = b"EGL1"
ID_BYTES, KEY_BYTES, TAG_BYTES, LENGTH_BYTES = 8, 32, 16, 8
HEAD_BYTES = len(MAGIC) + ID_BYTES + KEY_BYTES
PADDED_BYTES_MIN = 1 << 20
"""Smallest size of a content: whatever fits in is as large as everything else that does."""


def new_key_pair() -> tuple[bytes, bytes]:
    """A fresh X25519 key: private and public, 32 bytes each."""
    private = X25519PrivateKey.generate()
    return private.private_bytes_raw(), private.public_key().public_bytes_raw()


def public_of(private: bytes) -> bytes:
    """The public half of a private key. Raises ``UsageError`` for what is no key."""
    return _private(private).public_key().public_bytes_raw()


def seal_letter(reader: bytes, purpose: str, content: bytes) -> bytes:
    """A letter for the holder of ``reader`` (a public key). Raises ``UsageError`` for what is no key."""
    one_time = X25519PrivateKey.generate()
    head = MAGIC + letter_key_id(reader) + one_time.public_key().public_bytes_raw()
    try:
        shared = one_time.exchange(X25519PublicKey.from_public_bytes(reader))
    except ValueError as fault:
        raise UsageError(f"the reader's key is no X25519 public key of {KEY_BYTES} bytes") from fault
    return head + AESGCM(_derive(shared, reader, head, purpose)).encrypt(bytes(12), pad(content), head)


def open_letter(private: bytes, purpose: str, letter: bytes, n_bytes_max: int) -> bytes:
    """The content of a letter to ``private``'s public key, written for this ``purpose``.

    Raises ``InvalidArtefact`` when it is larger than ``n_bytes_max``, for somebody else or another purpose, or altered.
    """
    if len(letter) > n_bytes_max:
        raise InvalidArtefact(f"a letter of {len(letter)} bytes, at most {n_bytes_max} are allowed")
    key = _private(private)
    reader = key.public_key().public_bytes_raw()
    head, cipher = letter[:HEAD_BYTES], letter[HEAD_BYTES:]
    if len(cipher) < TAG_BYTES or not head.startswith(MAGIC):
        raise InvalidArtefact("no letter of ours, or cut short; send it again")
    if head[len(MAGIC) : len(MAGIC) + ID_BYTES] != letter_key_id(reader):
        raise InvalidArtefact("a letter for another key; ask the fog for its present one and name that in the config")
    try:
        shared = key.exchange(X25519PublicKey.from_public_bytes(head[-KEY_BYTES:]))
        return unpad(AESGCM(_derive(shared, reader, head, purpose)).decrypt(bytes(12), cipher, head))
    except (InvalidTag, ValueError) as fault:
        raise InvalidArtefact("a letter that was altered, or written for another purpose; send it again") from fault


def letter_key_id(public: bytes) -> bytes:
    """Eight bytes that tell public keys apart."""
    return hashlib.blake2b(public, digest_size=ID_BYTES, person=b"evergrove.pub").digest()


def pad(content: bytes) -> bytes:
    """``content`` behind its length, filled up with zeros to a power of two, at least ``PADDED_BYTES_MIN``.

    So the size of a letter tells only the power of two that it falls under: below 1 MiB, nothing at all.
    """
    filling = bytes(padded_size(len(content)) - LENGTH_BYTES - len(content))
    return len(content).to_bytes(LENGTH_BYTES, "little") + content + filling


def padded_size(n_bytes: int) -> int:
    """How large a content of ``n_bytes`` is when it is padded."""
    return max(PADDED_BYTES_MIN, 1 << (n_bytes + LENGTH_BYTES - 1).bit_length())


def unpad(padded: bytes) -> bytes:
    """The way back from ``pad``. Raises ``InvalidArtefact`` unless the filling is exactly that."""
    n_bytes = int.from_bytes(padded[:LENGTH_BYTES], "little")
    if padded_size(n_bytes) != len(padded) or padded[LENGTH_BYTES + n_bytes :].strip(b"\0"):
        raise InvalidArtefact("a letter whose filling is not as we fill letters; send it again")
    return padded[LENGTH_BYTES : LENGTH_BYTES + n_bytes]


def _derive(shared: bytes, reader: bytes, head: bytes, purpose: str) -> bytes:
    info = b"\0".join((b"evergrove.letter.1", purpose.encode())) + b"\0" + head + reader
    return HKDF(hashes.SHA256(), 32, None, info).derive(shared)


def _private(private: bytes) -> X25519PrivateKey:
    try:
        return X25519PrivateKey.from_private_bytes(private)
    except ValueError as fault:
        raise UsageError(f"an X25519 private key has {KEY_BYTES} bytes, not {len(private)}") from fault
