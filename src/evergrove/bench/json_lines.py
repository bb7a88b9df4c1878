"""Results as JSON lines: one appended when it is done, flushed to the disk, and read back by who goes on.

A last line that a kill has cut short is passed over when it is read, and goes when the next one is appended.
"""

import os
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from evergrove.core.errors import CorruptState

T = TypeVar("T")


def read(path: Path, kind: type[T]) -> list[T]:
    """All lines of a file (none: no lines), in their order.

    Raises ``CorruptState`` that names the line for any damage but a last line that was cut short.
    """
    if not path.exists():
        return []
    found: list[T] = []
    *rows, _ = path.read_bytes().split(b"\n")  # what follows the last end of a line was cut short
    for n, row in enumerate(rows, start=1):
        try:
            if row.strip():
                found.append(msgspec.json.decode(row, type=kind))
        except msgspec.MsgspecError as fault:
            raise CorruptState(f"{path}, line {n}: {fault}; delete this line") from fault
    return found


def append(path: Path, line: Any) -> None:
    """Adds a line and flushes it to the disk; one that was cut short before it goes first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        file.seek(0)
        data = file.read()
        if data and not data.endswith(b"\n"):
            file.truncate(data.rfind(b"\n") + 1)
        file.write(msgspec.json.encode(line) + b"\n")
        file.flush()
        os.fsync(file.fileno())
