"""An adapter's file without torch: the round trip, the very bytes that the learning code writes, and wrong bytes."""

import contextlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evergrove.core.conditions import Factor, Vocabulary
from evergrove.core.errors import InvalidArtefact
from evergrove.rules.learnt import Learnt, decode, encode

VOCABULARY = Vocabulary((Factor("emotion", ("happy", "sad", "très fière")),))


def some(rank: int = 2) -> Learnt:
    """3·rank + 2·rank + 4 numbers, all of which fp16 holds exactly."""
    tensors = {
        "b.B": np.arange(3 * rank, dtype=np.float32).reshape(3, rank) / 8,
        "a.B": -np.arange(2 * rank, dtype=np.float32).reshape(2, rank) / 8,
        "row.0:3": np.arange(4, dtype=np.float32),
    }
    return Learnt("ab" * 32, "cd" * 32, rank, 1.0, VOCABULARY, tensors)


def changed(data: bytes, change: object) -> bytes:
    """The file with its header after ``change(header)``."""
    n = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + n])
    change(header)  # type: ignore[operator]
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + n :]


def test_the_round_trip_gives_everything_back() -> None:
    """Names, numbers, vocabulary; encoding again gives the same bytes."""
    data = encode(some())
    again = decode(data)
    assert (again.base, again.rank, again.scale, again.vocabulary) == ("ab" * 32, 2, 1.0, VOCABULARY)
    assert again.tensors["b.B"].tolist() == [[0, 0.125], [0.25, 0.375], [0.5, 0.625]]
    assert again.tensors.keys() == some().tensors.keys()
    assert encode(again) == data


def test_the_bytes_are_those_of_the_learning_code() -> None:
    """Read by torch and written again: the same to the bit, names beyond ASCII included."""
    from evergrove.learn.adapter_file import adapter_bytes, adapter_of_bytes

    data = encode(some())
    adapter = adapter_of_bytes(data)
    assert adapter_bytes(adapter) == data
    assert adapter.rows["0:3"].tolist() == [0, 1, 2, 3]


def test_what_fp16_cannot_hold_is_not_written() -> None:
    """70,000 is more than 65,504."""
    whole = some()
    wild = Learnt(**{**whole.__dict__, "tensors": {**whole.tensors, "a.B": np.full((2, 2), 7e4, np.float32)}})
    with pytest.raises(InvalidArtefact, match=r"a\.B"):
        encode(wild)


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header["a.B"].update(dtype="F32"),
        lambda header: header["a.B"].update(shape=[4]),
        lambda header: header["a.B"].update(shape=[1, 4]),
        lambda header: header["a.B"].update(shape=[-2, 2]),
        lambda header: header["a.B"].update(data_offsets=[0, 10**6]),
        lambda header: header["a.B"].update(data_offsets=[-8, 0]),
        lambda header: header["__metadata__"].update(format="evergrove-update-1"),
        lambda header: header["__metadata__"].update(rank="many"),
        lambda header: header["__metadata__"].update(scale="nan"),
        lambda header: header["__metadata__"].update(vocabulary="[]"),
        lambda header: header["__metadata__"].pop("base"),
        lambda header: header.pop("__metadata__"),
        lambda header: header.update(other=header.pop("a.B")),
    ],
)
def test_a_header_that_lies_is_refused(change: object) -> None:
    """Dtypes, shapes, offsets, metadata and names: each its own refusal, before any number is used."""
    with pytest.raises(InvalidArtefact):
        decode(changed(encode(some()), change), "it")


def test_numbers_that_are_none_are_refused() -> None:
    """NaN in the last half."""
    with pytest.raises(InvalidArtefact, match="NaN"):
        decode(encode(some())[:-2] + b"\x00\x7e")


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_an_adapter_or_are_refused(data: st.DataObject) -> None:
    """A byte changed, a tail cut off, or no file of ours at all: never another error."""
    whole = bytearray(encode(some()))
    whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    bad = data.draw(st.sampled_from([bytes(whole), bytes(whole[: data.draw(st.integers(0, len(whole)))])]))
    with contextlib.suppress(InvalidArtefact):
        assert decode(bad).tensors
