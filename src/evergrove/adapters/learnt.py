"""The numbers of an adapter file without torch: what an update is made of.

Bytes come in that the versions folder has verified by their hash; names, float32 arrays and the file's own vocabulary
go out. Nothing is believed all the same: header, dtypes, bounds and shapes are checked.
"""

import json
import math
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from evergrove.core.conditions import Vocabulary
from evergrove.core.errors import InvalidArtefact

HEADER_BYTES_MAX = 1 << 20


class Learnt(NamedTuple):
    """``tensors`` by the names of the file (``<layer>.B``, ``row.<f>:<n>``); ``vocabulary`` numbers its rows."""

    tensors: dict[str, NDArray[np.float32]]
    vocabulary: Vocabulary


class _Tensor(msgspec.Struct, frozen=True):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def read_learnt(data: bytes, where: str) -> Learnt:
    """What stands in an adapter file. Raises ``InvalidArtefact`` that names ``where`` and the fault."""
    n_header = int.from_bytes(data[:8], "little")
    try:
        if not 2 <= n_header <= min(HEADER_BYTES_MAX, len(data) - 8):
            raise ValueError("not a safetensors file, or cut short")
        fields = json.loads(data[8 : 8 + n_header])
        vocabulary = msgspec.json.decode(fields.pop("__metadata__")["vocabulary"], type=Vocabulary)
        body = data[8 + n_header :]
        tensors = {name: _array(body, msgspec.convert(entry, _Tensor)) for name, entry in fields.items()}
    except (KeyError, AttributeError, TypeError, ValueError, msgspec.MsgspecError) as fault:
        raise InvalidArtefact(f"{where}: no adapter of ours can be read from it ({fault}); learn it anew") from fault
    return Learnt(tensors, vocabulary)


def _array(body: bytes, tensor: _Tensor) -> NDArray[np.float32]:
    if tensor.dtype != "F16":
        raise ValueError(f"numbers of type {tensor.dtype}, an adapter's are F16")
    start, end = tensor.data_offsets
    if not 0 <= start <= end <= len(body) or end - start != 2 * math.prod(tensor.shape):
        raise ValueError("a tensor with other data than its shape")
    numbers = np.frombuffer(body[start:end], np.float16).astype(np.float32).reshape(tensor.shape)
    if not np.isfinite(numbers).all():
        raise ValueError("it holds NaN or infinite numbers")
    return numbers
