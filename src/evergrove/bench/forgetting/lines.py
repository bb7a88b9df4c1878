"""Results as JSON lines: one for each (stream, strategy, seed) and its settings; appended when done, never changed.

What a race reads back decides what it still has to do, so it can be killed at any time and goes on. Of two lines with
the same key the later one counts.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
import numpy as np

from evergrove.bench import json_lines
from evergrove.bench.forgetting.summary import Matrix

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
    that on what the release knew; None where the stream has none. ``frequency_kl`` has one number a row. ``device`` is
    what computed (empty in lines from before there was a choice: a CPU).
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
    device: str = ""

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
    """All lines of a file by their keys. Raises ``CorruptState`` that names a damaged line."""
    return {line.key: line for line in json_lines.read(path, Line)}


def write(path: Path, lines: Iterable[Line]) -> None:
    """All lines anew, in the order of their keys."""
    text = b"".join(msgspec.json.encode(line) + b"\n" for line in sorted(lines, key=lambda line: line.key))
    temporary = path.with_suffix(".partial")
    temporary.write_bytes(text)
    temporary.replace(path)
