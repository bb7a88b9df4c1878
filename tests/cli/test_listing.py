"""Which files ``observe`` shows, and what they are said to show."""

from pathlib import Path

import pytest

from evergrove.cli.observe import gather
from evergrove.core.errors import UsageError
from evergrove.media.listing import list_pictures


def test_a_table_labels_its_pictures(tmp_path: Path) -> None:
    """An empty cell means 'not said'; the files are not opened."""
    (tmp_path / "a.png").write_bytes(b"not even a picture")
    (tmp_path / "metadata.csv").write_text("file_name,emotion,hair\na.png,love,\n")
    assert list_pictures(tmp_path) == [(tmp_path / "a.png", {"emotion": "love"})]


def test_a_folder_without_a_table_is_its_pictures(tmp_path: Path) -> None:
    """In order of their names, other files left out."""
    for name in ("b.PNG", "a.jpg", "notes.txt"):
        (tmp_path / name).touch()
    assert list_pictures(tmp_path) == [(tmp_path / "a.jpg", {}), (tmp_path / "b.PNG", {})]


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        ("file_name,emotion\n", "no rows"),
        ("file_name,emotion\n../x.png,love\n", "outside"),
        ("file_name,emotion\nx.png,love\n", "no file"),
    ],
)
def test_a_table_that_cannot_be_followed_is_refused(tmp_path: Path, table: str, fault: str) -> None:
    """With the table's name in the message."""
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "x.png").touch()
    (folder / "metadata.csv").write_text(table)
    with pytest.raises(UsageError, match=fault):
        list_pictures(folder)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    """So that a typing error does not pass for success."""
    with pytest.raises(UsageError, match="no pictures"):
        list_pictures(tmp_path)


def test_words_hold_for_all_and_win_over_the_table(tmp_path: Path) -> None:
    """As a flag wins over a file."""
    (tmp_path / "a.png").touch()
    (tmp_path / "metadata.csv").write_text("file_name,emotion,hair\na.png,love,bob\n")
    (path, condition), = gather([str(tmp_path), "emotion=dizzy"])  # fmt: skip
    assert (path.name, condition) == ("a.png", {"emotion": "dizzy", "hair": "bob"})


def test_a_file_with_an_equals_sign_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it is there."""
    monkeypatch.chdir(tmp_path)
    Path("a=b.png").touch()
    assert gather(["a=b.png", "emotion=love"]) == [(Path("a=b.png"), {"emotion": "love"})]
    with pytest.raises(UsageError, match="what does"):
        gather(["a=b.png"])
