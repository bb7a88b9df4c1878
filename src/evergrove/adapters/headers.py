"""What an adapter file says about itself, read without torch: header, hash, sizes, and whether all numbers are finite.

Made for people (`evergrove adapters show`). Loading one into a model is ``learn``'s, which checks more.
"""

import json
from pathlib import Path

import msgspec
import numpy as np

from evergrove.adapters.files import read_bounded
from evergrove.core.conditions import Vocabulary
from evergrove.core.errors import InvalidArtefact
from evergrove.core.release import sha256_hex
from evergrove.rules.params import BRANCH

N_BYTES_MAX = 64 << 20
HEADER_BYTES_MAX = 1 << 20


class AdapterHeader(msgspec.Struct, frozen=True):
    """An adapter file. ``base`` and ``basis`` are the hashes of the model and of the A that it belongs to."""

    sha256: str
    n_bytes: int
    base: str
    basis: str
    rank: int
    scale: float
    vocabulary: Vocabulary
    tensors: dict[str, tuple[int, ...]]
    finite: bool

    @property
    def n_numbers(self) -> int:
        """How many numbers were learnt."""
        return sum(int(np.prod(shape)) for shape in self.tensors.values())

    @property
    def rows(self) -> list[str]:
        """The conditions that it has an embedding row for, or a branch, such as ``emotion=love``."""
        keys = [name[4:] for name in sorted(self.tensors) if name.startswith("row.")]
        branches = (name.removeprefix(BRANCH).partition(".")[0] for name in self.tensors if name.startswith(BRANCH))
        names = []
        for key in dict.fromkeys((*keys, *sorted(branches))):
            factor, _, number = key.partition(":")
            known = self.vocabulary.factors[int(factor)]
            names.append(f"{known.name}={known.values[int(number) - 1]}")
        return names


class _Tensor(msgspec.Struct, frozen=True):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def read_header(path: Path) -> AdapterHeader:
    """What the adapter file at ``path`` says about itself.

    Raises ``FileNotFoundError``, and ``InvalidArtefact`` for anything that is not an adapter in safetensors.
    """
    data = read_bounded(path, N_BYTES_MAX)
    n_header = int.from_bytes(data[:8], "little")
    if not 2 <= n_header <= min(HEADER_BYTES_MAX, len(data) - 8):
        raise InvalidArtefact(f"{path}: not a safetensors file, or cut short; only safetensors is ever read")
    try:
        fields = json.loads(data[8 : 8 + n_header])
        words = fields.pop("__metadata__")
        tensors = {name: msgspec.convert(entry, _Tensor) for name, entry in fields.items()}
        body = data[8 + n_header :]
        header = AdapterHeader(
            sha256=sha256_hex(data),
            n_bytes=len(data),
            base=words["base"],
            basis=words["basis"],
            rank=int(words["rank"]),
            scale=float(words["scale"]),
            vocabulary=msgspec.json.decode(words["vocabulary"], type=Vocabulary),
            tensors={name: tensor.shape for name, tensor in tensors.items()},
            finite=all(_finite(body, tensor) for tensor in tensors.values()),
        )
        assert header.rows is not None  # a row of a condition that its own vocabulary does not hold raises here
    except (KeyError, AttributeError, TypeError, IndexError, ValueError, msgspec.MsgspecError) as fault:
        raise InvalidArtefact(
            f"{path}: a file with no adapter of ours in it ({type(fault).__name__}: {fault})"
        ) from fault
    return header


def _finite(body: bytes, tensor: _Tensor) -> bool:
    if tensor.dtype != "F16":
        raise ValueError(f"numbers of type {tensor.dtype}, an adapter's are F16")
    numbers = np.frombuffer(body[slice(*tensor.data_offsets)], np.float16)
    if numbers.size != int(np.prod(tensor.shape)):
        raise ValueError("a tensor with less data than its shape")
    return bool(np.isfinite(numbers).all())
