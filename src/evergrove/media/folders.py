"""Pictures from a folder, by the Hugging Face ``imagefolder`` convention: the files, and a table that labels them.

``metadata.csv`` or ``metadata.jsonl`` has a column ``file_name`` and one column per condition factor; an empty cell
means 'not said'. Pictures may be grey or colour and of any size; all come out as square RGB, and ``notes`` say what was
done to them. Every error names the file and the line.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from evergrove.core.conditions import Factor, Vocabulary
from evergrove.core.errors import InvalidMedia, UsageError

N_ITEMS_MAX = 1_000_000
PIXELS_MAX = 40_000_000
FACTORS_MAX = 32
VALUES_MAX = 1000


@dataclass(frozen=True)
class Folder:
    """What a folder holds: pictures uint8 (N, H, H, 3), codes int16 (N, F), what they mean, what was done to them."""

    images: NDArray[np.uint8]
    codes: NDArray[np.int16]
    vocabulary: Vocabulary
    notes: tuple[str, ...]


def read_folder(path: Path, image_px: int | None = None) -> Folder:
    """Reads a folder; ``image_px`` is the side that all pictures get, None: that of the commonest, rounded up
    to a multiple of 8 in 16 to 64.

    Raises ``UsageError`` for a folder or table that is not as described above, ``InvalidMedia`` for a picture.
    """
    table = find_table(path)
    rows = list(_rows(table))
    if not rows:
        raise UsageError(f"{table} has no rows; it needs one per picture")
    factors = _factors(table, rows)
    vocabulary = Vocabulary(tuple(factors))
    sizes: Counter[tuple[int, int]] = Counter()
    modes: Counter[str] = Counter()
    opened = []
    for line, row in rows:
        picture, mode = _open(table, line, path, row["file_name"])
        sizes[picture.size] += 1
        modes[mode] += 1
        opened.append(picture)
    side = image_px or _natural_side(sizes)
    images = np.stack([_square(picture, side) for picture in opened])
    conditions = [{k: v for k, v in row.items() if k != "file_name" and v} for _, row in rows]
    codes = np.array([vocabulary.encode(c) for c in conditions], np.int16).reshape(len(rows), len(factors))
    return Folder(images, codes, vocabulary, _notes(sizes, modes, side))


def find_table(path: Path) -> Path:
    """The folder's ``metadata.csv`` or ``metadata.jsonl``. Raises ``UsageError`` where there is none, or both."""
    if not path.is_dir():
        raise UsageError(f"'{path}' is not a folder")
    found = [path / name for name in ("metadata.csv", "metadata.jsonl") if (path / name).is_file()]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"'{path}' has both metadata.csv and metadata.jsonl; keep one")
    raise UsageError(
        f"'{path}' has no metadata.csv or metadata.jsonl; write one with a column file_name and one per factor, "
        "for instance file_name,emotion"
    )


def _rows(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, row) pairs; every value a stripped string, ``file_name`` always there."""
    read = _csv_rows if table.suffix == ".csv" else _jsonl_rows
    seen: dict[str, int] = {}
    for count, (line, row) in enumerate(read(table), start=1):
        if count > N_ITEMS_MAX:
            raise UsageError(f"{table}:{line}: more than {N_ITEMS_MAX} pictures")
        name = row.get("file_name", "")
        if not name:
            raise UsageError(f"{table}:{line}: no file_name")
        if name in seen:
            raise UsageError(f"{table}:{line}: '{name}' stands on line {seen[name]} already")
        seen[name] = line
        yield line, row


def _csv_rows(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    with table.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        try:
            header = [name.strip() for name in next(reader, [])]
            if "file_name" not in header:
                raise UsageError(f"{table}:1: no column file_name; the columns are {', '.join(header) or 'none'}")
            if len(set(header)) != len(header) or "" in header:
                raise UsageError(f"{table}:1: a column has no name, or two have the same: {', '.join(header)}")
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise UsageError(f"{table}:{reader.line_num}: {len(cells)} cells for {len(header)} columns")
                yield reader.line_num, dict(zip(header, (cell.strip() for cell in cells), strict=True))
        except (csv.Error, UnicodeDecodeError) as error:
            raise UsageError(f"{table}:{reader.line_num + 1}: not readable as CSV in UTF-8 ({error})") from error


def _jsonl_rows(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    line = 0
    with table.open("rb") as file:
        for line, raw in enumerate(file, start=1):
            if not raw.strip():
                continue
            try:
                row = json.loads(raw)
            except ValueError as error:
                raise UsageError(f"{table}:{line}: not JSON ({error})") from error
            if not isinstance(row, dict):
                raise UsageError(f'{table}:{line}: a row is an object, such as {{"file_name": "a.png"}}')
            for name, value in row.items():
                if not isinstance(value, str | int | float | None) or isinstance(value, bool):
                    raise UsageError(f"{table}:{line}: '{name}' is {value!r}; a factor's value is a word or a number")
            yield line, {name.strip(): "" if v is None else str(v).strip() for name, v in row.items()}


def _factors(table: Path, rows: list[tuple[int, dict[str, str]]]) -> list[Factor]:
    names = list(dict.fromkeys(name for _, row in rows for name in row if name != "file_name"))
    if not names:
        raise UsageError(f"{table}: no column beside file_name; a generator needs at least one factor")
    if len(names) > FACTORS_MAX:
        raise UsageError(f"{table}: {len(names)} factors, at most {FACTORS_MAX} are read: {', '.join(names[:40])}…")
    factors = []
    for name in names:
        values = sorted({row[name] for _, row in rows if row.get(name)}, key=_natural)
        if not values:
            raise UsageError(f"{table}: column '{name}' is empty; fill it or leave it out")
        if len(values) > VALUES_MAX:
            raise UsageError(
                f"{table}: column '{name}' has {len(values)} different values, at most {VALUES_MAX} make a factor; "
                "leave out columns that are no category"
            )
        factors.append(Factor(name, tuple(values)))
    return factors


def _natural(value: str) -> tuple[int, float, str]:
    """Numbers first and by size, then words."""
    try:
        return (0, float(value), value)
    except ValueError:
        return (1, 0.0, value)


def _open(table: Path, line: int, folder: Path, name: str) -> tuple[Image.Image, str]:
    """The picture as RGB, and the mode it had."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"{table}:{line}: '{name}' lies outside of the folder")
    if not path.is_file():
        raise InvalidMedia("missing", f"{table}:{line}: there is no file '{name}'")
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > PIXELS_MAX:
                size = f"{picture.width}×{picture.height}"
                raise InvalidMedia("too_large", f"{table}:{line}: '{name}' is {size}, more than {PIXELS_MAX} pixels")
            mode = picture.mode
            upright = ImageOps.exif_transpose(picture)
            if "A" in upright.getbands() or "transparency" in upright.info:
                rgba = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
            elif mode.startswith("I;16"):
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            return upright.convert("RGB"), mode
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise InvalidMedia("undecodable", f"{table}:{line}: '{name}' is no readable picture ({error})") from error


def _natural_side(sizes: Counter[tuple[int, int]]) -> int:
    side = min(sizes.most_common(1)[0][0])
    return min(64, max(16, -(-side // 8) * 8))


def _square(picture: Image.Image, side: int) -> NDArray[np.uint8]:
    if picture.size != (side, side):
        picture = ImageOps.fit(picture, (side, side), Image.Resampling.LANCZOS)
    return np.asarray(picture, np.uint8)


def _notes(sizes: Counter[tuple[int, int]], modes: Counter[str], side: int) -> tuple[str, ...]:
    notes = []
    other = {size: n for size, n in sizes.items() if size != (side, side)}
    if other:
        (w, h), _ = Counter(other).most_common(1)[0]
        notes.append(f"resized {sum(other.values())} of {sizes.total()} pictures (mostly {w}×{h}) to {side}×{side}")
    cut = sum(n for (w, h), n in sizes.items() if w != h)
    if cut:
        notes.append(f"cropped {cut} pictures that were not square to their middle")
    grey = sum(n for mode, n in modes.items() if mode in ("1", "L", "LA") or mode.startswith("I"))
    if grey:
        notes.append(f"{grey} grey pictures became three equal channels")
    clear = sum(n for mode, n in modes.items() if mode.endswith("A"))
    if clear:
        notes.append(f"laid {clear} transparent pictures on white")
    return tuple(notes)
