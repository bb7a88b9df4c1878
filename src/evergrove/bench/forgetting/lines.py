"""Results as JSON lines: one for each (stream, strategy, seed) and its settings; appended when done, never changed.

What a race reads back decides what it still has to do, so it can be killed at any time and goes on. Of two lines with
the same key the later one counts.
"""

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
import numpy as np

from evergrove.bench.forgetting.summary import Matrix
from evergrove.core.errors import CorruptState

Cells = tuple[tuple[float | None, ...], ...]


class Settings(msgspec.Struct, frozen=True):
    """All that decides a result besides code: ``world`` names base, A and judges; ``steps`` is a lesson's budget,
    ``strategy`` the words of its weights."""

    world: str
    steps: int
    batch: int
    sampler_steps: int
    strategy: str


class Line(msgspec.Struct, frozen=True):
    """One stream learnt by one strategy. ``cells[metric]`` is R (n + 1, n), None where nothing was measured.

    ``rows_declared`` and ``rows_counted`` are network passes of one row (forward 1, backward 2), preparation included;
    ``n_bytes`` is stored at the end beyond the release, observations included; ``over`` is by how much that is above
    the budget, as a ratio (1 or less: within). ``unseen`` is the accuracy on held-out combinations at the end, ``kept``
    that on what the release knew; None where the stream has none. ``frequency_kl`` has one number a row.
    """

    stream: str
    strategy: str
    seed: int
    settings: Settings
    lessons: tuple[str, ...]
    steps: tuple[int, ...]
    rows_declared: int
    rows_counted: int
    n_bytes: int
    over: float
    n_observations: int
    cpu_s: float
    cells: dict[str, Cells]
    frequency_kl: tuple[float | None, ...]
    unseen: float | None
    kept: float | None
    versions: dict[str, str]

    @property
    def key(self) -> tuple[str, str, int]:
        """What makes it this one."""
        return self.stream, self.strategy, self.seed

    def matrix(self, metric: str) -> Matrix:
        """R of a metric, NaN where nothing was measured."""
        return np.array([[math.nan if v is None else v for v in row] for row in self.cells[metric]], np.float64)


def cells_of(matrices: Mapping[str, Matrix]) -> dict[str, Cells]:
    """Matrices as they stand in a line: six significant digits."""
    return {
        name: tuple(tuple(None if math.isnan(v) else float(f"{v:.6g}") for v in row) for row in r)
        for name, r in matrices.items()
    }


def read(path: Path) -> dict[tuple[str, str, int], Line]:
    """All lines of a file by their keys; a last line that a kill has cut short is passed over.

    Raises ``CorruptState`` that names the line for any other damage.
    """
    if not path.exists():
        return {}
    found: dict[tuple[str, str, int], Line] = {}
    rows = path.read_bytes().split(b"\n")
    for n, row in enumerate(rows, start=1):
        if not row.strip():
            continue
        try:
            line = msgspec.json.decode(row, type=Line)
        except msgspec.MsgspecError as fault:
            if n == len(rows):
                continue
            raise CorruptState(f"{path}, line {n}: {fault}; delete this line") from fault
        found[line.key] = line
    return found


def append(path: Path, line: Line) -> None:
    """Adds a line and flushes it to the disk; one that was cut short before it is ended first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        file.seek(0, os.SEEK_END)
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                _cut_last(path)
        file.write(msgspec.json.encode(line) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def write(path: Path, lines: Iterable[Line]) -> None:
    """All lines anew, in the order of their keys."""
    text = b"".join(msgspec.json.encode(line) + b"\n" for line in sorted(lines, key=lambda line: line.key))
    temporary = path.with_suffix(".partial")
    temporary.write_bytes(text)
    temporary.replace(path)


def _cut_last(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: data.rfind(b"\n") + 1])
