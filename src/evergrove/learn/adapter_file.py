"""Adapters as bytes: safetensors, fp16, with what they belong to in the metadata; everything is checked on the way in.

An adapter comes from a trainer that may have been killed, or from somewhere else altogether. So nothing is believed:
size, format, keys, dtypes, finiteness and limits are checked before a tensor is made, and never is anything unpickled.
Whether it belongs to this base and this A is ``adapter.check_fit``'s question, asked by ``load_adapter``.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import safetensors.torch
import torch
from torch import Tensor, nn

from evergrove.core.conditions import Vocabulary
from evergrove.core.errors import InvalidArtefact
from evergrove.learn.adapter import Adapter, Basis, check_fit
from evergrove.learn.tensor_file import tensor_bytes
from evergrove.rules.params import BRANCH

FORMAT, BRANCHED = "evergrove-adapter-1", "evergrove-adapter-2"
"""The second one holds branches, and is of the first one's form in all else."""
N_BYTES_MAX = 64 << 20
_HEADER_MAX = 1 << 20
_KEYS = {"format", "base", "basis", "rank", "scale", "vocabulary"}


def adapter_bytes(adapter: Adapter) -> bytes:
    """The adapter as the bytes of a safetensors file, fp16; equal adapters give equal bytes.

    Raises ``InvalidArtefact`` where a number is not finite or does not fit into fp16.
    """
    tensors = {f"{name}.B": b for name, b in adapter.b.items()}
    tensors |= {f"{name}.A": a for name, a in (adapter.a or {}).items()}
    tensors |= {f"row.{key}": row for key, row in adapter.rows.items()}
    for key, branch in adapter.branches.items():
        tensors |= {f"{BRANCH}{key}.{name}.B": b for name, b in branch.items()}
    halves = {name: tensors[name].detach().to(torch.float16).contiguous() for name in sorted(tensors)}
    _check_finite(halves, "the adapter to be saved")
    metadata = {
        "format": BRANCHED if adapter.branches else FORMAT,
        "base": adapter.base_hash,
        "basis": adapter.basis_hash,
        "rank": str(adapter.rank),
        "scale": repr(adapter.scale),
        "vocabulary": msgspec.json.encode(adapter.vocabulary).decode(),
    }
    return tensor_bytes(halves, metadata)


def adapter_of_bytes(data: bytes, where: str = "the adapter") -> Adapter:
    """The adapter in some bytes, in fp32, checked by itself: size, format, keys, dtypes, shapes, finite.

    Raises ``InvalidArtefact`` that names ``where``, the fault and the way out.
    """
    if len(data) > N_BYTES_MAX:
        raise InvalidArtefact(f"{where}: {len(data)} bytes, more than the {N_BYTES_MAX} an adapter may have")
    header = read_header(data, where)
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or metadata.get("format") not in (FORMAT, BRANCHED) or set(metadata) != _KEYS:
        raise InvalidArtefact(
            f"{where}: a safetensors file, but not of format {FORMAT}; export it from Evergrove again"
        )
    for name, entry in header.items():
        if not isinstance(entry, dict) or entry.get("dtype") != "F16":
            raise InvalidArtefact(f"{where}: '{name}' has dtype {_word(entry)}, adapters are F16; save it again")
        if not (name.endswith((".A", ".B")) or name.startswith("row.")):
            raise InvalidArtefact(f"{where}: unknown tensor '{name}'; an adapter holds '<layer>.B' and 'row.<f>:<n>'")
    try:
        tensors = safetensors.torch.load(data)
        rank, scale = int(metadata["rank"]), float(metadata["scale"])
        vocabulary = msgspec.json.decode(metadata["vocabulary"], type=Vocabulary)
        rows = {name[4:]: row.float() for name, row in tensors.items() if name.startswith("row.")}
        _check_row_names(rows)
        branches = _branches(tensors)
        if bool(branches) != (metadata["format"] == BRANCHED):
            raise ValueError(f"format {metadata['format']} with {len(branches)} branches")
    except (safetensors.SafetensorError, ValueError, msgspec.MsgspecError) as fault:
        raise InvalidArtefact(f"{where}: damaged safetensors file ({fault}); fetch or train it again") from fault
    _check_finite(tensors, where)
    b = {n[:-2]: t.float() for n, t in tensors.items() if n.endswith(".B") and not n.startswith(BRANCH)}
    a = {name[:-2]: t.float() for name, t in tensors.items() if name.endswith(".A")}
    odd = [name for name, t in b.items() if t.ndim != 2 or t.shape[1] != rank]
    odd += [name for name, t in a.items() if t.ndim != 2 or t.shape[0] != rank]
    if odd or not b or (a and set(a) != set(b)):
        raise InvalidArtefact(f"{where}: {odd[0] if odd else 'the layers'} does not match rank {rank}; fetch it again")
    return Adapter(metadata["base"], metadata["basis"], rank, scale, vocabulary, b, rows, a or None, branches)


def save_adapter(adapter: Adapter, path: Path) -> int:
    """Writes the adapter, not atomically (who needs that writes ``adapter_bytes`` its own way); the bytes written."""
    return path.write_bytes(adapter_bytes(adapter))


def load_adapter(path: Path, model: nn.Module, basis: Basis) -> Adapter:
    """The adapter in a file, if it is whole and belongs to this base and this A.

    Raises ``InvalidArtefact``; nothing is changed and nothing is unpickled.
    """
    try:
        with path.open("rb") as file:
            data = file.read(N_BYTES_MAX + 1)
    except OSError as fault:
        raise InvalidArtefact(f"{path}: cannot be read ({fault.strerror}); check the path") from fault
    adapter = adapter_of_bytes(data, str(path))
    try:
        check_fit(model, basis, adapter)
    except InvalidArtefact as fault:
        raise InvalidArtefact(f"{path}: {fault}") from fault
    return adapter


def read_header(data: bytes, where: str) -> dict[str, Any]:
    """The header of a safetensors file, by name, before anything is believed. Raises ``InvalidArtefact``."""
    # A header of 128, 384, … bytes begins with a pickle's first byte as well: the brace behind the length tells.
    if (data[:1] == b"\x80" and data[8:9] != b"{") or data[:2] == b"PK":
        raise InvalidArtefact(
            f"{where}: a pickle or zip file; only safetensors is ever loaded, convert it at its source"
        )
    n_header = int.from_bytes(data[:8], "little")
    if len(data) < 8 or not 2 <= n_header <= min(_HEADER_MAX, len(data) - 8):
        raise InvalidArtefact(f"{where}: not a safetensors file, or cut short; fetch it again")
    try:
        header = json.loads(data[8 : 8 + n_header])
    except ValueError as fault:
        raise InvalidArtefact(f"{where}: its header is not JSON ({fault}); fetch it again") from fault
    if not isinstance(header, dict):
        raise InvalidArtefact(f"{where}: its header is not a JSON object; fetch it again")
    return header


def _check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    for name, tensor in tensors.items():
        # A sum of halves cannot overflow in fp32, and keeps NaN and Inf; asking each half takes ten times as long.
        if not math.isfinite(tensor.sum(dtype=torch.float32)):
            raise InvalidArtefact(f"{where}: '{name}' holds NaN or infinite numbers; it is unusable, train it again")


def _check_row_names(rows: Mapping[str, Tensor]) -> None:
    for key, row in rows.items():
        f, colon, n = key.partition(":")
        if not (colon and f.isdigit() and n.isdigit()) or row.ndim != 1:
            raise ValueError(f"'row.{key}' is no row of a condition")


def _branches(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The branches by value and layer. Raises ``ValueError`` where a name or shape is none of a branch's."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(BRANCH):
            key, _, layer = name[len(BRANCH) : -2].partition(".")
            f, colon, n = key.partition(":")
            digits = colon and f.isdecimal() and n.isdecimal() and key == f"{int(f)}:{int(n)}"
            if not (digits and layer and name.endswith(".B")) or tensor.ndim != 2:
                raise ValueError(f"'{name}' is no B of a branch")
            found.setdefault(key, {})[layer] = tensor.float()
    return found


def _word(entry: object) -> str:
    return str(entry.get("dtype")) if isinstance(entry, dict) else "none"
