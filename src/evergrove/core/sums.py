"""What a fog hands up to the cloud: one cohort's noised sum, named by its content; and who takes it there.

The same words are spoken on a fog's loopback door, in the messages between fog and cloud, and at the cloud's inbox.
"""

import hashlib
from collections.abc import Sequence
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from evergrove.core.cloud_events import Noise
from evergrove.core.errors import InvalidInput
from evergrove.core.rollout import DeviceReport

VERSION = 1
VECTOR_BYTES_MAX = 64 << 20
NOISE_KEYS_MAX = 32
COUNTS_MAX, COUNT_MOST = 64, 1 << 62
WORD_MAX = 256


class NoisedSum(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One cohort's sum of clipped updates with its noise.

    ``id`` is ``content_id`` of all the rest. ``base`` and ``basis`` are digests; ``number`` is the cohort's in its
    generation. ``n_updates`` came, ``denominator`` is the public, fixed one. ``noise`` says what was added, in flat
    words and numbers; None: nothing was, ε = ∞. ``vector`` is little-endian float32. ``counts`` are those of the
    updates' norms, noised in the same round; empty: the fog gives none.
    """

    id: str
    generation: int
    base: str
    basis: str
    n_updates: int
    denominator: int
    noise: Noise | None
    vector: bytes
    number: int = 0
    counts: tuple[int, ...] = ()

    @property
    def values(self) -> NDArray[np.float32]:
        """The vector as numbers, read-only, in one dimension."""
        return np.frombuffer(self.vector, dtype="<f4")


class Consolidator(Protocol):
    """Who takes sums at the cloud: each exactly once, by fog and id; and devices' words, by fog and position."""

    def taken(self, fog: str, id: str) -> bool:
        """Whether ``take`` has returned for this sum, in this process's life or an earlier one."""
        ...

    def take(self, fog: str, one: NoisedSum) -> None:
        """Takes one sum; durable once it returns, and then ``taken``, in one transaction. Never called again for it."""
        ...

    def hear(self, fog: str, reports: Sequence[DeviceReport]) -> None:
        """Takes what devices have said, in the order of positions; durable once it returns. Told again, it is once."""
        ...


def content_id(
    generation: int,
    number: int,
    base: str,
    basis: str,
    n_updates: int,
    denominator: int,
    noise: Noise | None,
    vector: bytes,
    counts: tuple[int, ...] = (),
) -> str:
    """SHA-256 in hex over the msgpack array of a version and these fields in this order, keys of ``noise`` sorted.

    ``counts`` is left out where there are none.
    """
    content: tuple[object, ...] = (VERSION, generation, number, base, basis, n_updates, denominator, noise, vector)
    if counts:
        content = (*content, counts)
    return hashlib.sha256(_content.encode(content)).hexdigest()


def noised_sum(
    vector: NDArray[np.float32],
    *,
    generation: int,
    base: str,
    basis: str,
    n_updates: int,
    denominator: int,
    noise: Noise | None,
    number: int = 0,
    counts: tuple[int, ...] = (),
) -> NoisedSum:
    """A sum, named by its content. Raises ``InvalidInput`` for what ``check`` refuses."""
    data = np.ascontiguousarray(vector, dtype="<f4").tobytes()
    named = content_id(generation, number, base, basis, n_updates, denominator, noise, data, counts)
    one = NoisedSum(named, generation, base, basis, n_updates, denominator, noise, data, number, counts)
    check(one)
    return one


def filled(head: NoisedSum, vector: NDArray[np.float32]) -> NoisedSum:
    """A sum whose vector was kept apart, whole again. Raises as ``check`` does."""
    one = msgspec.structs.replace(head, vector=np.ascontiguousarray(vector, dtype="<f4").tobytes())
    check(one)
    return one


def check(one: NoisedSum) -> None:
    """Raises ``InvalidInput`` unless the sum is whole: sizes, finite numbers, counts that make sense, its own id."""
    name = one.id[:12]
    if not one.vector or len(one.vector) % 4 or len(one.vector) > VECTOR_BYTES_MAX:
        raise InvalidInput(
            f"sum {name}: a vector of {len(one.vector)} bytes; say 4 to {VECTOR_BYTES_MAX}, a multiple of 4"
        )
    if not (one.generation >= 0 and one.number >= 0 and one.n_updates > 0 and one.denominator > 0):
        raise InvalidInput(
            f"sum {name}: generation {one.generation}, number {one.number}, {one.n_updates} updates over "
            f"{one.denominator}; counts are above 0, the others not below"
        )
    if one.noise is not None and len(one.noise) > NOISE_KEYS_MAX:
        raise InvalidInput(f"sum {name}: {len(one.noise)} words about its noise; at most {NOISE_KEYS_MAX} are read")
    words = (one.base, one.basis, *(one.noise or {}), *(v for v in (one.noise or {}).values() if isinstance(v, str)))
    if any(len(word) > WORD_MAX for word in words):
        raise InvalidInput(f"sum {name}: a word of more than {WORD_MAX} characters")
    if len(one.counts) > COUNTS_MAX or not all(-COUNT_MOST < count < COUNT_MOST for count in one.counts):
        raise InvalidInput(f"sum {name}: {len(one.counts)} counts of norms, or one that no cohort can have")
    if not bool(np.isfinite(one.values).all()):
        raise InvalidInput(f"sum {name}: a number in it is not finite")
    content = content_id(
        one.generation, one.number, one.base, one.basis, one.n_updates, one.denominator, one.noise, one.vector,
        one.counts,
    )  # fmt: skip
    if one.id != content:
        raise InvalidInput(f"sum {name}: its content is {content[:12]}; it was damaged on its way, or wrongly named")


def encode(sums: "list[NoisedSum]") -> bytes:
    """Sums as msgpack, a list of maps."""
    return _encoder.encode(sums)


def decode(data: bytes) -> "list[NoisedSum]":
    """The way back; ``check`` is the caller's. Raises ``InvalidInput`` with the path to the fault."""
    try:
        sums: list[NoisedSum] = _decoder.decode(data)
    except (msgspec.ValidationError, msgspec.DecodeError) as fault:
        raise InvalidInput(f"cohorts' sums were not understood: {fault}; update the older side") from fault
    return sums


_content = msgspec.msgpack.Encoder(order="deterministic")
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[NoisedSum])
