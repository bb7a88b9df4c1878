"""Taking part: the token that stands for one participation, and how often and how soon a device may (DESIGN §7).

The same rule runs at both ends: a fog holds its devices to it, and a device does not rely on that. b and k count
iterations of one noise stream, that is cohorts of one generation; they are conditions of the proof of privacy.
"""

import hashlib

import msgspec

from evergrove.core.errors import UsageError

NONCE_BYTES = 16


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One device's past: its generation, the number of the last cohort that it was in (-1: none), and how many."""

    generation: int = -1
    last: int = -1
    n: int = 0


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


def obstacle(record: Record, generation: int, cohort: int, separation: int, participations: int) -> str | None:
    """Why the device may not be in this cohort: ``too often``, ``too soon``, or None where it may."""
    if record.generation != generation:
        return None
    if record.n >= participations:
        return "too often"
    if record.last >= 0 and cohort - record.last < separation:
        return "too soon"
    return None


def taken(record: Record, generation: int, cohort: int) -> Record:
    """The record after one more participation."""
    n = record.n if record.generation == generation else 0
    return Record(generation, cohort, n + 1)
