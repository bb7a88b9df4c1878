"""What was learnt, as arrays: an adapter's file read and written without torch, for who only adds and compares.

The bytes are those of ``learn/adapter_file``, to the bit: safetensors, fp16, header in order. What comes in is believed
step by step (size, header, format, names, dtypes, offsets, finite), as an update's is in ``rules/params``.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from evergrove.core.conditions import Vocabulary
from evergrove.core.errors import InvalidArtefact
from evergrove.core.release import Manifest
from evergrove.core.rng import stream
from evergrove.rules.params import BRANCH, DTYPES, HEADER_BYTES_MAX, Layout, layout_of

FORMAT, BRANCHED = "evergrove-adapter-1", "evergrove-adapter-2"
"""The second one holds branches."""
N_BYTES_MAX = 64 << 20
HALF = np.dtype("<f2")
Array = NDArray[np.float32]


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


class _Metadata(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: str
    base: str
    basis: str
    rank: str
    scale: str
    vocabulary: str


@dataclass(frozen=True)
class Learnt:
    """An adapter. ``tensors`` are fp32 by their names in the file: ``<layer>.B`` (out, rank), ``row.<f>:<n>`` (width,)
    of ordinary LoRA alone, ``<layer>.A`` (rank, in), and of branches ``branch.<f>:<n>.<layer>.B`` (out, r_n). The other
    fields are those of ``learn.adapter.Adapter``."""

    base: str
    basis: str
    rank: int
    scale: float
    vocabulary: Vocabulary
    tensors: Mapping[str, Array]

    @property
    def has_branches(self) -> bool:
        """Whether some conditions have a B of their own."""
        return any(name.startswith(BRANCH) for name in self.tensors)


def encode(learnt: Learnt) -> bytes:
    """The bytes of an adapter's file. Raises ``InvalidArtefact`` where a number is not finite in fp16."""
    names = sorted(learnt.tensors)
    metadata = _Metadata(
        BRANCHED if learnt.has_branches else FORMAT,
        learnt.base,
        learnt.basis,
        str(learnt.rank),
        repr(learnt.scale),
        msgspec.json.encode(learnt.vocabulary).decode(),
    )
    entries: dict[str, object] = {"__metadata__": msgspec.to_builtins(metadata)}
    parts, at = [], 0
    for name in names:
        with np.errstate(over="ignore"):
            half = np.ascontiguousarray(learnt.tensors[name], HALF)
        if not np.isfinite(half).all():
            raise InvalidArtefact(f"'{name}' holds numbers that are not finite in fp16; it is not written")
        entries[name] = {"dtype": "F16", "shape": list(half.shape), "data_offsets": [at, at + half.nbytes]}
        parts.append(half.tobytes())
        at += half.nbytes
    header = json.dumps(entries, sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + b"".join(parts)


def decode(data: bytes, where: str = "the adapter") -> Learnt:
    """The adapter in some bytes. Raises ``InvalidArtefact`` that names ``where``, the fault and the way out."""
    n_header = int.from_bytes(data[:8], "little")
    if len(data) > N_BYTES_MAX or not 2 <= n_header <= min(HEADER_BYTES_MAX, len(data) - 8):
        raise InvalidArtefact(f"{where}: not a safetensors file, cut short or too large; fetch it again")
    try:
        header = msgspec.json.decode(data[8 : 8 + n_header], type=dict[str, msgspec.Raw])
        metadata = msgspec.json.decode(header.pop("__metadata__", msgspec.Raw(b"{}")), type=_Metadata)
        entries = {name: msgspec.json.decode(entry, type=_Entry) for name, entry in header.items()}
        vocabulary = msgspec.json.decode(metadata.vocabulary, type=Vocabulary)
        rank, scale = int(metadata.rank), float(metadata.scale)
    except (msgspec.MsgspecError, ValueError, RecursionError) as fault:
        raise InvalidArtefact(f"{where}: no adapter of ours: its header is not understood ({fault})") from fault
    branched = any(name.startswith(BRANCH) for name in entries)
    wanted = BRANCHED if branched else FORMAT
    if metadata.format != wanted or not entries or not math.isfinite(scale) or rank < 1:
        raise InvalidArtefact(f"{where}: a safetensors file, but no adapter of format {wanted}")
    body = memoryview(data)[8 + n_header :]
    tensors = {name: _tensor(body, name, entry, rank, where) for name, entry in sorted(entries.items())}
    return Learnt(metadata.base, metadata.basis, rank, scale, vocabulary, tensors)


def check_released(learnt: Learnt, manifest: Manifest, base: bytes, basis: bytes) -> Layout:
    """Whether this is an adapter that ``manifest`` may name; ``base`` and ``basis`` are the bytes of its files.

    It must be of this base, A and scale, know exactly the release's vocabulary, and hold B of every adapted layer and
    the row of every value that the base has none for. Gives the release's layout; raises ``InvalidArtefact``.
    """
    if (learnt.base, learnt.basis) != (manifest.base.sha256, manifest.basis.sha256):
        raise InvalidArtefact("the released adapter was learnt for another base or another A than this release's")
    if not math.isclose(learnt.scale, manifest.scale):
        raise InvalidArtefact(f"the released adapter's scale is {learnt.scale}, the release's {manifest.scale}")
    if learnt.vocabulary != manifest.vocabulary:
        raise InvalidArtefact("the released adapter and the manifest do not name the same conditions")
    layout = layout_of(manifest, base, basis)
    wanted = {slot.name: slot.shape for slot in layout.slots}
    if set(learnt.tensors) != set(wanted):
        odd = min(set(learnt.tensors) ^ set(wanted))
        raise InvalidArtefact(f"the released adapter does not fit its base: '{odd}' stands on one side only")
    for name, shape in wanted.items():
        found = learnt.tensors[name].shape
        fits = found == shape if name.startswith("row.") else found[0] == shape[0] and learnt.rank <= shape[1]
        if not fits:
            raise InvalidArtefact(f"'{name}' of the released adapter has shape {found}, the release's is {shape}")
    return layout


def branch_of(name: str) -> tuple[int, int, str] | None:
    """(factor, value number, ``<layer>.B``) of a branch's tensor; None for any other."""
    if not name.startswith(BRANCH) or not name.endswith(".B"):
        return None
    key, _, layer = name[len(BRANCH) :].partition(".")
    f, _, n = key.partition(":")
    if not (f.isdecimal() and n.isdecimal() and key == f"{int(f)}:{int(n)}" and layer != "B"):
        return None
    return int(f), int(n), layer


def first_row(factor: str, value: str, width: int) -> Array:
    """The row (width,) that a value of the fleet's starts from, the same for whoever draws it: N(0, 1) around the mean
    of the base's rows, as a device draws that of a value of its own."""
    return stream(0, "released row", factor, value).standard_normal(width).astype(np.float32)


def tensors_of(data: bytes, where: str, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, Array]:
    """The ``wanted`` tensors of a safetensors file of the release, fp32. Raises ``InvalidArtefact``."""
    n_header = int.from_bytes(data[:8], "little")
    tensors = {}
    try:
        if not 2 <= n_header <= min(HEADER_BYTES_MAX, len(data) - 8):
            raise ValueError("cut short")
        header = msgspec.json.decode(data[8 : 8 + n_header], type=dict[str, msgspec.Raw])
        for name in sorted(header):
            if name == "__metadata__" or not wanted(name):
                continue
            entry = msgspec.json.decode(header[name], type=_Entry)
            numbers = np.frombuffer(memoryview(data)[8 + n_header :][slice(*entry.data_offsets)], DTYPES[entry.dtype])
            tensors[name] = numbers.astype(np.float32).reshape(entry.shape)
    except (ValueError, KeyError) as fault:  # msgspec's errors are ValueErrors
        raise InvalidArtefact(f"{where} of the release is not understood ({fault}); get the release again") from fault
    return tensors


def _tensor(body: memoryview, name: str, entry: _Entry, rank: int, where: str) -> Array:
    if entry.dtype != "F16":
        raise InvalidArtefact(f"{where}: '{name}' has dtype {entry.dtype}, adapters are F16; save it again")
    first, end = entry.data_offsets
    row, branch = name.startswith("row."), branch_of(name)
    shaped = len(entry.shape) == 1 if row else len(entry.shape) == 2
    shaped = shaped and (row or branch is not None or rank == entry.shape[name.endswith(".B")])
    if name.startswith(BRANCH) and branch is None:
        raise InvalidArtefact(f"{where}: '{name}' is no B of a branch; fetch it again")
    if not (row or name.endswith((".A", ".B"))) or not shaped or min(entry.shape) < 1:
        raise InvalidArtefact(f"{where}: '{name}' {entry.shape} is no tensor of an adapter of rank {rank}")
    if not 0 <= first <= end <= len(body) or end - first != math.prod(entry.shape) * HALF.itemsize:
        raise InvalidArtefact(f"{where}: '{name}' has another size than its shape; fetch it again")
    tensor = np.frombuffer(body[first:end], HALF).astype(np.float32).reshape(entry.shape)
    if not np.isfinite(tensor).all():
        raise InvalidArtefact(f"{where}: '{name}' holds NaN or infinite numbers; it is unusable")
    return tensor
