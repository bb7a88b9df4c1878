"""Packs: what goes in comes out, equal packs are equal bytes, and nothing strange is read."""

import io
from pathlib import Path

import numpy as np
import pytest

from evergrove.core.conditions import Factor, Vocabulary
from evergrove.core.errors import InvalidArtefact, UsageError
from evergrove.media.packs import Pack, pack_bytes, pack_of_bytes, read_pack, write_pack

PACK = Pack(np.arange(3 * 4 * 4 * 3, dtype=np.uint8).reshape(3, 4, 4, 3), np.array([[1, 2], [2, 0], [1, 1]], np.int16))


def saved(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    """And the bytes are the same each time, so that a hash can freeze a golden set."""
    data = write_pack(tmp_path / "golden.npz", PACK)
    again = read_pack(tmp_path / "golden.npz")
    assert np.array_equal(again.images, PACK.images)
    assert np.array_equal(again.codes, PACK.codes)
    assert pack_bytes(again) == data
    assert len(again.among(0, [1])) == 2


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"no zip", "no readable pack"),
        (pack_bytes(PACK)[:-30], "no readable pack"),
        (saved(images=PACK.images), "holds"),
        (saved(images=PACK.images.astype(np.float32), codes=PACK.codes), "uint8"),
        (saved(images=PACK.images, codes=PACK.codes[:2]), "codes are int16"),
        (saved(images=PACK.images, codes=PACK.codes.astype(np.int64)), "codes are int16"),
        (saved(images=np.array([{"a": 1}], dtype=object), codes=PACK.codes), "no readable pack"),
    ],
)
def test_what_is_no_pack_is_refused(data: bytes, word: str) -> None:
    """Cut, pickled, of another kind: one clear line each."""
    with pytest.raises(InvalidArtefact, match=word):
        pack_of_bytes(data, "golden.npz")


def test_a_missing_file_and_a_wrong_pack_are_named(tmp_path: Path) -> None:
    """Reading names the file, writing is the caller's mistake."""
    with pytest.raises(InvalidArtefact, match=r"gone\.npz"):
        read_pack(tmp_path / "gone.npz")
    with pytest.raises(UsageError, match="uint8"):
        pack_bytes(Pack(PACK.images[0], PACK.codes))


def test_codes_are_checked_against_a_vocabulary() -> None:
    """A pack of another release has codes that mean nothing here."""
    PACK.check(Vocabulary((Factor("a", ("x", "y")), Factor("b", ("u", "v")))))
    with pytest.raises(InvalidArtefact, match="outside"):
        PACK.check(Vocabulary((Factor("a", ("x",)), Factor("b", ("u", "v")))))
    with pytest.raises(InvalidArtefact, match="2 factors"):
        PACK.check(Vocabulary((Factor("a", ("x",)),)))
