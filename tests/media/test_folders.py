"""Image folders: what is read, what is said about it, and errors that name file and line."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evergrove.core.errors import InvalidMedia, UsageError
from evergrove.media.folders import read_folder


def picture(path: Path, size: tuple[int, int] = (20, 20), mode: str = "RGB", color: object = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color if color is not None else 128).save(path)


def table(folder: Path, text: str, name: str = "metadata.csv") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_reads_a_csv_in_natural_order(tmp_path: Path) -> None:
    """Numbers are values by size, an empty cell says nothing, and a byte-order mark does no harm."""
    for name in ("a.png", "b.png", "sub/c.png"):
        picture(tmp_path / name)
    table(tmp_path, "\ufefffile_name,digit,hand\na.png,10,left\nb.png,9,\nsub/c.png,2,right\n")
    found = read_folder(tmp_path)
    assert [f.values for f in found.vocabulary.factors] == [("2", "9", "10"), ("left", "right")]
    assert found.codes.tolist() == [[3, 1], [2, 0], [1, 2]]
    assert found.images.shape == (3, 24, 24, 3)
    assert found.images.dtype == np.uint8
    assert found.notes == ("resized 3 of 3 pictures (mostly 20×20) to 24×24",)


def test_reads_jsonl_and_says_what_it_did(tmp_path: Path) -> None:
    """Grey, transparent, oblong: all become square RGB, and the notes say so."""
    picture(tmp_path / "grey.png", (16, 16), "L", 200)
    picture(tmp_path / "clear.png", (16, 16), "RGBA", (0, 0, 0, 0))
    picture(tmp_path / "wide.png", (32, 16), "RGB", (250, 0, 0))
    lines = [{"file_name": f"{n}.png", "kind": n} for n in ("grey", "clear", "wide")]
    table(tmp_path, "\n".join(map(json.dumps, lines)) + "\n\n", "metadata.jsonl")
    found = read_folder(tmp_path, image_px=16)
    assert found.images.mean(axis=(1, 2)).tolist() == [[200.0] * 3, [255.0] * 3, [250.0, 0.0, 0.0]]
    assert len(found.notes) == 4
    assert any("cropped 1" in note for note in found.notes)
    assert any("1 grey" in note for note in found.notes)
    assert any("1 transparent" in note for note in found.notes)


def test_sixteen_bit_grey_keeps_its_brightness(tmp_path: Path) -> None:
    """32768 of 65535 is 128 of 255, not white."""
    Image.fromarray(np.full((16, 16), 32768, np.uint16)).save(tmp_path / "a.png")
    found = read_folder(table(tmp_path, "file_name,kind\na.png,x\n"))
    assert found.images.max() == found.images.min() == 128


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,digit\na.png,1\n", r"metadata\.csv:1: no column file_name"),
        ("file_name,digit\na.png,1\na.png,2\n", r"metadata\.csv:3: 'a.png' stands on line 2 already"),
        ("file_name,digit\na.png,1,left\n", r"metadata\.csv:2: 3 cells for 2 columns"),
        ("file_name,digit,digit\na.png,1,1\n", r"metadata\.csv:1: .* same"),
        ("file_name,digit\n,1\n", r"metadata\.csv:2: no file_name"),
        ("file_name\na.png\n", "no column beside file_name"),
        ("file_name,digit\na.png,\n", "column 'digit' is empty"),
        ("file_name,digit\n", "has no rows"),
        ("file_name,digit\n../a.png,1\n", r"metadata\.csv:2: '\.\./a\.png' lies outside"),
    ],
)
def test_faults_of_a_table_name_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    """One clear line each, and the way out."""
    picture(tmp_path / "data/a.png")
    with pytest.raises(UsageError, match=message):
        read_folder(table(tmp_path / "data", text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"file_name": "a.png", "kind": "x"}\n{oops\n', r"metadata\.jsonl:2: not JSON"),
        ("[1]\n", r"metadata\.jsonl:1: a row is an object"),
        ('{"file_name": "a.png", "kind": ["x"]}\n', r"metadata\.jsonl:1: 'kind' is \['x'\]"),
        ('{"file_name": "a.png", "kind": true}\n', r"metadata\.jsonl:1: 'kind' is True"),
    ],
)
def test_faults_of_json_lines_name_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    """As for CSV."""
    picture(tmp_path / "a.png")
    with pytest.raises(UsageError, match=message):
        read_folder(table(tmp_path, text, "metadata.jsonl"))


def test_faults_of_pictures_name_file_and_line(tmp_path: Path) -> None:
    """A missing one, and bytes that are no picture."""
    table(tmp_path, "file_name,kind\na.png,x\n")
    with pytest.raises(InvalidMedia, match=r"metadata\.csv:2: there is no file 'a\.png'"):
        read_folder(tmp_path)
    (tmp_path / "a.png").write_bytes(b"GIF89a nothing")
    with pytest.raises(InvalidMedia, match=r"metadata\.csv:2: 'a\.png' is no readable picture"):
        read_folder(tmp_path)


def test_a_folder_without_a_table_or_with_two_is_refused(tmp_path: Path) -> None:
    """The message says how to write one."""
    with pytest.raises(UsageError, match=r"no metadata\.csv or metadata\.jsonl; write one"):
        read_folder(tmp_path)
    table(tmp_path, "file_name,a\n")
    table(tmp_path, "", "metadata.jsonl")
    with pytest.raises(UsageError, match="keep one"):
        read_folder(tmp_path)
    with pytest.raises(UsageError, match="not a folder"):
        read_folder(tmp_path / "nowhere")
