"""Sealed boxes: bytes under a key of their own, and that key wrapped by the device key.

    magic (4) | device key's id (8) | nonce (12) | wrapped key (48) | nonce (12) | ciphertext and tag

Both layers are AES-256-GCM with the device's and the box's names as associated data, so that a box moved to another
device, or renamed, does not open. Destroying the device key makes every box under it unreadable, copies included.
"""

import hashlib
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from evergrove.core.errors import CorruptState

MAGIC = b"EGR1"
ID_BYTES, NONCE_BYTES, WRAPPED_BYTES, TAG_BYTES = 8, 12, 48, 16
HEAD_BYTES = len(MAGIC) + ID_BYTES + NONCE_BYTES + WRAPPED_BYTES
OVERHEAD_BYTES = HEAD_BYTES + NONCE_BYTES + TAG_BYTES


def key_id(key: bytes) -> bytes:
    """Eight bytes that tell device keys apart and say nothing about them."""
    return hashlib.blake2b(key, digest_size=ID_BYTES, person=b"evergrove.key").digest()


def seal(key: bytes, device: str, name: str, content: bytes) -> bytes:
    """A box called ``name`` that only ``key`` opens, and only on ``device``."""
    own_key, nonce = AESGCM.generate_key(256), os.urandom(NONCE_BYTES)
    return _wrap(key, device, name, own_key) + nonce + AESGCM(own_key).encrypt(nonce, content, _bound(device, name))


def unseal(keys: tuple[bytes, ...], device: str, name: str, box: bytes) -> bytes:
    """The content of a box. Raises ``CorruptState`` with a short reason; damage at any byte is noticed."""
    _, own_key = _unwrap(keys, device, name, box)
    nonce, cipher = box[HEAD_BYTES : HEAD_BYTES + NONCE_BYTES], box[HEAD_BYTES + NONCE_BYTES :]
    try:
        return AESGCM(own_key).decrypt(nonce, cipher, _bound(device, name))
    except InvalidTag as fault:
        raise CorruptState("its content was altered or cut off") from fault


def rewrap(keys: tuple[bytes, ...], device: str, name: str, box: bytes) -> bytes | None:
    """The same box under ``keys[0]``; None when it is already. Raises ``CorruptState``."""
    opener, own_key = _unwrap(keys, device, name, box)
    return None if opener == keys[0] else _wrap(keys[0], device, name, own_key) + box[HEAD_BYTES:]


def _wrap(key: bytes, device: str, name: str, own_key: bytes) -> bytes:
    nonce = os.urandom(NONCE_BYTES)
    return MAGIC + key_id(key) + nonce + AESGCM(key).encrypt(nonce, own_key, b"key\0" + _bound(device, name))


def _unwrap(keys: tuple[bytes, ...], device: str, name: str, box: bytes) -> tuple[bytes, bytes]:
    """The device key that opens the box, and the box's own key."""
    if len(box) < OVERHEAD_BYTES:
        raise CorruptState(f"it was cut off at {len(box)} bytes")
    if not box.startswith(MAGIC):
        raise CorruptState("it is not a sealed box of Evergrove")
    wanted, rest = box[len(MAGIC) : len(MAGIC) + ID_BYTES], box[len(MAGIC) + ID_BYTES : HEAD_BYTES]
    for key in keys:
        if key_id(key) == wanted:
            try:
                own_key = AESGCM(key).decrypt(rest[:NONCE_BYTES], rest[NONCE_BYTES:], b"key\0" + _bound(device, name))
            except InvalidTag as fault:
                raise CorruptState("its key was altered, or it belongs to another device or name") from fault
            return key, own_key
    raise CorruptState("it is sealed by a device key that is gone")


def _bound(device: str, name: str) -> bytes:
    return b"\0".join((b"evergrove.1", device.encode(), name.encode()))
