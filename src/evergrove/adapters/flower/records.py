"""Questions and answers as Flower's records, and back. Numbers travel as an ``ArrayRecord``, in chunks."""

from typing import TypeVar

import msgspec
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from evergrove.adapters.flower.port import SUMS_MAX, WAIT_S_MAX, Answer, Question, check_reports
from evergrove.core import sums
from evergrove.core.errors import InvalidInput
from evergrove.core.sums import VECTOR_BYTES_MAX, NoisedSum

VERSION = 1
HEADS_BYTES_MAX = 1 << 20
WORDS, HEADS, VECTORS = "evergrove", "heads", "vectors"
STYPE = "numpy.ndarray"
_T = TypeVar("_T", Question, Answer)


def question_to_records(question: Question) -> RecordDict:
    """A question, ready for a message."""
    return RecordDict({WORDS: ConfigRecord({"version": VERSION, "question": _encoder.encode(question)})})


def question_of_records(content: RecordDict) -> Question:
    """The way back. Raises ``InvalidInput``."""
    question = _decode(_words(content, "question"), Question, "a question")
    if not (0 <= question.wait_s <= WAIT_S_MAX and 1 <= question.limit <= SUMS_MAX):
        raise InvalidInput(
            f"a question for {question.limit} sums in {question.wait_s:g} s; at most {SUMS_MAX}, {WAIT_S_MAX:g} s"
        )
    return question


def answer_to_records(answer: Answer) -> RecordDict:
    """An answer, ready for a message: heads in one record, vectors in another."""
    heads = _encoder.encode(msgspec.structs.replace(answer, sums=tuple(_head(one) for one in answer.sums)))
    vectors = ArrayRecord({one.id: Array(np.array(one.values)) for one in answer.sums})
    return RecordDict({WORDS: ConfigRecord({"version": VERSION, HEADS: heads}), VECTORS: vectors})


def answer_of_records(content: RecordDict) -> Answer:
    """The way back. Raises ``InvalidInput`` for a form, size or number that is not whole; every sum is checked."""
    heads = _decode(_words(content, HEADS), Answer, "an answer")
    vectors = content.array_records.get(VECTORS, ArrayRecord())
    if len(heads.sums) > SUMS_MAX or {one.id for one in heads.sums} != set(vectors):
        raise InvalidInput(
            f"an answer with {len(heads.sums)} heads and {len(vectors)} vectors; say the same, ≤ {SUMS_MAX}"
        )
    whole = tuple(msgspec.structs.replace(one, vector=_vector(vectors[one.id], one.id)) for one in heads.sums)
    for one in whole:
        sums.check(one)
    check_reports(heads.reports, -1)
    return msgspec.structs.replace(heads, sums=whole)


def _head(one: NoisedSum) -> NoisedSum:
    return msgspec.structs.replace(one, vector=b"")


def _words(content: RecordDict, key: str) -> bytes:
    words = content.config_records.get(WORDS)
    if words is None or words.get("version") != VERSION:
        raise InvalidInput(f"a message without our words in version {VERSION}; update the older side")
    data = words.get(key)
    if not isinstance(data, bytes) or len(data) > HEADS_BYTES_MAX:
        raise InvalidInput(f"a message whose '{key}' is missing or too large")
    return data


def _vector(array: Array, id: str) -> bytes:
    # shape and dtype are what the sender says: what is inside is checked again once it is read
    n_bytes = 4 * int(np.prod(array.shape, dtype=np.int64)) if len(array.shape) == 1 else 0
    if array.dtype != "float32" or array.stype != STYPE or not 0 < n_bytes <= VECTOR_BYTES_MAX:
        raise InvalidInput(f"sum {id[:12]}: {array.dtype} of shape {tuple(array.shape)}; say float32 in one dimension")
    if len(array.data) > n_bytes + 4096:
        raise InvalidInput(f"sum {id[:12]}: {len(array.data)} bytes for {n_bytes} bytes of numbers")
    try:
        values = array.numpy()
    except (ValueError, TypeError, OSError, EOFError) as fault:
        raise InvalidInput(f"sum {id[:12]}: its numbers cannot be read: {fault}") from fault
    if values.dtype != np.dtype("<f4") or values.shape != tuple(array.shape):
        raise InvalidInput(f"sum {id[:12]}: {values.dtype} of shape {values.shape} inside")
    return values.tobytes()


def _decode(data: bytes, kind: type[_T], what: str) -> _T:
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.ValidationError, msgspec.DecodeError) as fault:
        raise InvalidInput(f"{what} was not understood: {fault}; update the older side") from fault


_encoder = msgspec.msgpack.Encoder()
