"""The token of one participation: by it a fog counts an update once, however often its device sends it (DESIGN §7)."""

import hashlib

from evergrove.core.errors import UsageError

NONCE_BYTES = 16


def token_of(device: str, generation: int, nonce: bytes) -> str:
    """The token of a participation: 16 bytes of chance, and a hash that binds them to device and generation.

    It is no secret: the device proves who it is by its certificate. It only fits nobody else.
    """
    if len(nonce) != NONCE_BYTES:
        raise UsageError(f"a token is made from {NONCE_BYTES} bytes of chance, not {len(nonce)}")
    bound = b"\0".join((device.encode(), str(generation).encode(), nonce))
    return (nonce + hashlib.blake2b(bound, digest_size=16, person=b"evergrove.token").digest()).hex()


def fits(token: str, device: str, generation: int) -> bool:
    """Whether a token (64 hex digits) is one of this device in this generation."""
    return token == token_of(device, generation, bytes.fromhex(token)[:NONCE_BYTES])
