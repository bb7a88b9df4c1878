"""Named tensors as the bytes of a safetensors file, of which equal contents give equal bytes.

What is named by its hash needs that, and the library alone does not give it: it writes metadata in an order drawn by
chance.
"""

import json
from collections.abc import Mapping

import safetensors.torch
from torch import Tensor


def tensor_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """``tensors`` (contiguous) and ``metadata`` as safetensors, the header's keys in order."""
    data = safetensors.torch.save(dict(tensors), dict(metadata) if metadata else None)
    n_header = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + n_header]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + n_header :]
