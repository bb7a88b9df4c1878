"""An adapter's numbers without torch: the same that torch reads, and nothing that is damaged."""

import json

import numpy as np
import pytest
import torch

from evergrove.adapters.learnt import read_learnt
from evergrove.core.conditions import Factor, Vocabulary
from evergrove.core.errors import InvalidArtefact
from evergrove.learn.adapter import Adapter
from evergrove.learn.adapter_file import adapter_bytes, adapter_of_bytes

WORDS = Vocabulary((Factor("emotion", ("happy", "sad", "mine")),))


def data() -> bytes:
    """Two layers of rank 2, and the row of one personal value."""
    rng = torch.Generator().manual_seed(0)
    b = {name: torch.randn(n, 2, generator=rng) for name, n in (("a", 3), ("b.proj", 5))}
    return adapter_bytes(Adapter("ab" * 32, "cd" * 32, 2, 1.0, WORDS, b, {"0:3": torch.ones(4)}))


def test_it_reads_what_torch_reads() -> None:
    """Names, numbers bit for bit, vocabulary."""
    found, expected = read_learnt(data(), "it"), adapter_of_bytes(data())
    assert found.vocabulary == WORDS
    assert set(found.tensors) == {"a.B", "b.proj.B", "row.0:3"}
    for name, b in expected.b.items():
        assert np.array_equal(found.tensors[f"{name}.B"], b.numpy())
    assert found.tensors["row.0:3"].dtype == np.float32


def changed(**entry: object) -> bytes:
    """The file with another entry for the tensor a.B."""
    whole = data()
    n = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + n])
    header["a.B"] |= entry
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + whole[8 + n :]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (b"", "cut short"),
        (data()[:200], "cut short"),
        (data()[:-4], "other data than its shape"),
        (changed(dtype="F32"), "numbers of type F32"),
        (changed(shape=[3, 3]), "other data than its shape"),
        (changed(data_offsets=[-12, 0]), "other data than its shape"),
        (data()[:-2] + np.array([np.nan], np.float16).tobytes(), "NaN"),
        (b"\x80\x04K\x01." * 9, "cut short"),
    ],
)
def test_what_is_damaged_is_refused(bad: bytes, words: str) -> None:
    """With the fault and the way out."""
    with pytest.raises(InvalidArtefact, match=words) as fault:
        read_learnt(bad, "version 12ab")
    assert str(fault.value).startswith("version 12ab: ")
