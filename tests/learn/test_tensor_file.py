"""Equal contents, equal bytes: what is named by its hash needs no less."""

import safetensors.torch
import torch

from evergrove.learn.tensor_file import tensor_bytes


def test_equal_contents_give_equal_bytes_in_whatever_order_they_come() -> None:
    """Twenty files of the same eight metadata keys: one hash. What is read back is what was written."""
    tensors = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones(2)}
    keys = [f"key{i}" for i in range(8)]
    files = {tensor_bytes(tensors, dict.fromkeys(keys[i % 8 :] + keys[: i % 8], "value")) for i in range(20)}
    assert len(files) == 1
    back = safetensors.torch.load(files.pop())
    assert set(back) == {"a", "b"}
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())
