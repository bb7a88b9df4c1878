"""Adapter files as people see them: read without torch, and nothing believed."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from evergrove.adapters.headers import read_header
from evergrove.core.conditions import Factor, Vocabulary
from evergrove.core.errors import InvalidArtefact

VOCABULARY = Vocabulary((Factor("emotion", ("happy", "sad", "love")),))


def adapter(path: Path, numbers: list[float], rows: str = "row.0:3", **changed: str) -> Path:
    """A safetensors file made by hand: one tensor B (2, 2) and one row (2,)."""
    body = np.array(numbers, np.float16).tobytes()
    metadata = {
        "format": "evergrove-adapter-1", "base": "b" * 64, "basis": "a" * 64, "rank": "2", "scale": "1.0",
        "vocabulary": msgspec.json.encode(VOCABULARY).decode(), **changed,
    }  # fmt: skip
    header = {
        "__metadata__": metadata,
        "blocks.0.qkv.B": {"dtype": "F16", "shape": [2, 2], "data_offsets": [0, 8]},
        rows: {"dtype": "F16", "shape": [2], "data_offsets": [8, 12]},
    }
    head = json.dumps(header).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + body)
    return path


def test_an_adapter_says_what_it_is(tmp_path: Path, evergrove) -> None:  # type: ignore[no-untyped-def]
    """Its size, what it belongs to, and the conditions that it learnt; six numbers here."""
    path = adapter(tmp_path / "love.safetensors", [0, 1, 2, 3, 4, 5])
    found = read_header(path)
    assert (found.n_numbers, found.rank, found.finite, found.rows) == (6, 2, True, ["emotion=love"])
    assert found.n_bytes == path.stat().st_size
    said = evergrove("adapters", "show", path)
    assert said.code == 0
    assert "emotion=love" in said.out
    assert "all finite" in said.out


def test_numbers_that_are_not_finite_are_seen(tmp_path: Path, evergrove) -> None:  # type: ignore[no-untyped-def]
    """Shown, not raised: looking at a bad file is what the command is for."""
    path = adapter(tmp_path / "bad.safetensors", [0, 1, 2, float("nan"), 4, 5])
    assert not read_header(path).finite
    assert "NOT FINITE" in evergrove("adapters", "show", path).out


@pytest.mark.parametrize(
    "fault",
    [
        {"rows": "row.0:9"},
        {"rows": "row.7:1"},
        {"rank": "two"},
        {"vocabulary": "[]"},
        {"numbers": [0.0]},
    ],
)
def test_a_file_that_contradicts_itself_is_refused(tmp_path: Path, fault) -> None:  # type: ignore[no-untyped-def]
    """A row that its vocabulary does not hold, words for numbers, too little data."""
    words = {"numbers": [0.0] * 6, **fault}
    path = adapter(tmp_path / "odd.safetensors", **words)
    with pytest.raises(InvalidArtefact, match=r"odd\.safetensors"):
        read_header(path)


@pytest.mark.parametrize("data", [b"", b"\x80\x04pickle", b"\xff" * 64, (2).to_bytes(8, "little") + b"[]"])
def test_what_is_no_safetensors_is_refused(tmp_path: Path, data: bytes) -> None:
    """Nothing is unpickled, and no length is believed."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(InvalidArtefact):
        read_header(path)
