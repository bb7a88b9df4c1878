"""Everything that may leave a device, as one tagged union, and the only encoder for it (DESIGN §1).

``encode`` takes an ``OutboundMessage``: a fact of the log, which is ``local``, is a type error and a run-time error.
What in these messages may depend on what a device has seen is listed here and nowhere else; a property test holds the
reducer to it (non-interference).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, get_args

import msgspec

from evergrove.core.conditions import Code, Vocabulary
from evergrove.core.effects import FetchAssist
from evergrove.core.errors import InvalidInput, UsageError
from evergrove.core.rollout import Mark

VERSION = 1
REQUEST_BYTES_MAX = 128 << 20
HEAD_BYTES_MAX = 2048
"""Of an update's head."""
LENGTH_BYTES = 4
"""Little-endian, in front of the head: an update goes over the line as length, head, body."""
Sha256 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
"""64 hex digits; a participation token (``rules/participation``) has the same form."""


class Outbound(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """Base of the messages. ``category`` is the word under which their bytes stand in the ledger."""

    scope: ClassVar[Literal["shared"]] = "shared"
    category: ClassVar[str]


class AssistRequest(Outbound, frozen=True, tag="assist_request"):
    """Asks for the assist of a release (its manifest's SHA-256), which covers the whole fleet's vocabulary."""

    category: ClassVar[str] = "assist_request"

    release: str
    version: int = VERSION


class TrustedRequest(Outbound, frozen=True, tag="trusted_request"):
    """Hands a training step to the fog that the user owns; ``letter`` is a ``TrustedWork``, sealed for its key."""

    category: ClassVar[str] = "trusted_request"

    release: str
    letter: bytes
    version: int = VERSION


class Update(Outbound, frozen=True, tag="update"):
    """The head of an update: which release it belongs to, and what the body of ``n_bytes`` behind it must be.

    ``release``, ``base``, ``basis`` are the SHA-256 of manifest, base and A; ``generation`` is theirs. ``token`` stands
    for one participation, however often it is sent; ``digest`` is the body's SHA-256. The body is ``rules/params``.
    """

    category: ClassVar[str] = "update"

    release: Sha256
    base: Sha256
    basis: Sha256
    generation: Annotated[int, msgspec.Meta(ge=0, le=2**31)]
    token: Sha256
    digest: Sha256
    n_bytes: Annotated[int, msgspec.Meta(ge=1, le=REQUEST_BYTES_MAX)]
    version: int = VERSION


class Report(Outbound, frozen=True, tag="report"):
    """How a release fared here: ``mark`` for ``rollout``; ``shadow``: it was measured only. Goes as plain JSON."""

    category: ClassVar[str] = "report"

    rollout: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    mark: Mark
    shadow: bool
    version: int = VERSION


OutboundMessage = AssistRequest | TrustedRequest | Update | Report

VARIABLE: Mapping[type[Outbound], tuple[str, ...]] = {
    AssistRequest: (),
    TrustedRequest: ("letter",),
    Update: ("digest",),
    Report: ("mark",),
}
"""The fields of each message that may depend on observations; all others are the same whatever a device has seen.

``letter`` is ciphertext, and its size is a power of two of at least 1 MiB (``adapters/letters``). ``digest`` is that of
the update's body, and *the whole body* depends on observations: it is what was learnt from them, clipped and not
noised, and the fog that it is sent to sees it (DESIGN §1 says whom ε protects from whom). ``n_bytes`` is the same for
all devices of a release that send the same dtype, and ``token`` is chance. ``mark`` is a health bit: what this device's
golden gate and probation made of a release, by pictures of its own too. A new kind of message must be entered here
before it can be encoded.
"""
TIMING: frozenset[type[Outbound]] = frozenset({AssistRequest, TrustedRequest, Update, Report})
"""Messages whose moment, and whether there has been one yet, may depend on observations: they are sent when a learning
job is placed, and a job begins once enough has been kept; an update, when one has been accepted. So who watches the
line can tell *that* a device learns."""
HEALTH: frozenset[type[Outbound]] = frozenset({Report})
"""Messages that carry health bits: exact ones, and outside of ε (DESIGN §8)."""


class Shown(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One kept observation inside of a ``TrustedWork``: encoded media and the numbers of its condition."""

    media: bytes
    code: Code


class TrustedWork(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The inside of a ``TrustedRequest``: all that the very same training needs.

    ``vocabulary`` has the release's names, and numbers in place of the names that the user gave. ``parent`` is the
    incumbent's adapter file (None: the release alone), ``fresh`` what is to be learnt, ``known`` the older records.
    ``rate`` is the learning rate (0: the strategy's own), ``reply_to`` the X25519 public key to seal the answer for.
    """

    release: str
    vocabulary: Vocabulary
    parent: bytes | None
    fresh: tuple[Shown, ...]
    known: tuple[Shown, ...]
    strategy: str
    steps: int
    batch: int
    seed: int
    reply_to: bytes
    rate: float = 0.0
    version: int = VERSION


class TrustedResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What comes back, signed and sealed: the candidate's file, and what it took."""

    candidate: bytes
    steps: int
    seconds: float
    loss: float
    version: int = VERSION


def encode(message: OutboundMessage) -> bytes:
    """A message as it goes over the line. Raises ``UsageError`` for anything that is not shared and listed."""
    if type(message) not in VARIABLE or message.scope != "shared":
        raise UsageError(
            f"{type(message).__name__} never leaves a device: only {', '.join(m.__name__ for m in VARIABLE)} do"
        )
    return _encoder.encode(message)


def decode(data: bytes, n_bytes_max: int = REQUEST_BYTES_MAX) -> OutboundMessage:
    """The message in some bytes. Raises ``InvalidInput`` with the path to the fault, for size or version too."""
    message: OutboundMessage = _decoded(_decoder, data, n_bytes_max, "a device's message")
    return message


def frame(update: Update, body: bytes) -> bytes:
    """An update as it goes over the line. Raises ``UsageError`` where the head is not the body's."""
    if update.n_bytes != len(body):
        raise UsageError(f"a head that says {update.n_bytes} bytes, and a body of {len(body)}")
    head = encode(update)
    return len(head).to_bytes(LENGTH_BYTES, "little") + head + body


def encode_work(work: TrustedWork | TrustedResult) -> bytes:
    """The inside of a letter."""
    return _encoder.encode(work)


def decode_work(data: bytes) -> TrustedWork:
    """The way back. Raises ``InvalidInput``."""
    work: TrustedWork = _decoded(_work_decoder, data, REQUEST_BYTES_MAX, "trusted work")
    return work


def decode_result(data: bytes) -> TrustedResult:
    """The way back. Raises ``InvalidInput``."""
    result: TrustedResult = _decoded(_result_decoder, data, REQUEST_BYTES_MAX, "a trusted fog's answer")
    return result


def request_of(effect: FetchAssist) -> AssistRequest:
    """What the effect says to the outside: the release alone, no job and no device."""
    return AssistRequest(effect.release)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(OutboundMessage)
_work_decoder = msgspec.msgpack.Decoder(TrustedWork)
_result_decoder = msgspec.msgpack.Decoder(TrustedResult)


def _decoded(decoder: "msgspec.msgpack.Decoder[_T]", data: bytes, n_bytes_max: int, what: str) -> "_T":
    if len(data) > n_bytes_max:
        raise InvalidInput(f"{what} of {len(data)} bytes was refused; at most {n_bytes_max} are allowed")
    try:
        value = decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as fault:  # a stranger's bytes: text too
        raise InvalidInput(f"{what} was not understood: {fault}; was it written by a newer Evergrove?") from fault
    if value.version != VERSION:
        raise InvalidInput(f"{what} is of version {value.version}, this program reads {VERSION}; update the older side")
    return value


assert set(VARIABLE) == set(get_args(OutboundMessage))

if TYPE_CHECKING:
    from typing import TypeVar

    from evergrove.core.events import TimePassed

    _T = TypeVar("_T", OutboundMessage, TrustedWork, TrustedResult)

    # Checked by mypy, which refuses an ignore that is not needed: to encode a local fact *is* a type error.
    encode(TimePassed())  # type: ignore[arg-type]
