"""Pictures to observe, without opening them: the files that are named, and what each one shows.

A folder is read by the imagefolder convention of ``media/folders.py``; without a table it is all pictures in it. Unlike
there, a file that cannot be decoded is no error here: the device refuses it with a reason and goes on.
"""

from pathlib import Path

from evergrove.core.errors import UsageError
from evergrove.media.folders import _rows, find_table

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
TABLES = ("metadata.csv", "metadata.jsonl")


def list_pictures(place: Path) -> list[tuple[Path, dict[str, str]]]:
    """The pictures at a path, each with the condition that its folder's table gives it (empty without a table).

    ``place`` is a file, or a folder. Raises ``UsageError`` where there is nothing, or the table cannot be read.
    """
    if place.is_file():
        return [(place, {})]
    if not place.is_dir():
        raise UsageError(f"there is no file or folder '{place}'")
    if any((place / name).is_file() for name in TABLES):
        return _labelled(place)
    found = sorted(path for path in place.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise UsageError(f"'{place}' holds no pictures ({', '.join(sorted(SUFFIXES))}) and no metadata.csv")
    return [(path, {}) for path in found]


def _labelled(folder: Path) -> list[tuple[Path, dict[str, str]]]:
    table = find_table(folder)
    pictures = []
    for line, row in _rows(table):
        name = row["file_name"]
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise UsageError(f"{table}:{line}: '{name}' lies outside of the folder")
        if not path.is_file():
            raise UsageError(f"{table}:{line}: there is no file '{name}'")
        pictures.append((path, {factor: value for factor, value in row.items() if factor != "file_name" and value}))
    if not pictures:
        raise UsageError(f"{table} has no rows; it needs one per picture")
    return pictures
