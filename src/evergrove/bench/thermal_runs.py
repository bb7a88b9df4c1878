"""The recorded Raspberry Pi runs (``thermal-pi``) as series of time, load and temperature."""

import csv
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evergrove.core.errors import InvalidInput, MissingDependency


class Run(NamedTuple):
    """One recorded run: seconds since its first row, load (0 to 1, mean of the last second) and temperature in °C."""

    name: str
    times_s: NDArray[np.float64]
    load: NDArray[np.float64]
    temp_c: NDArray[np.float64]


PLACES = (Path("shared/data/thermal-pi"), Path("../shared/data/thermal-pi"))
"""Where the recorded runs are looked for, from the current folder on."""


def find_folder(folder: Path | None) -> Path:
    """The folder that was named, or else the first of ``PLACES`` that exists. Raises ``MissingDependency``."""
    if folder is not None:
        return folder / "thermal-pi" if (folder / "thermal-pi").is_dir() else folder
    found = next((place for place in PLACES if place.is_dir()), None)
    if found is None:
        raise MissingDependency(
            f"no recorded runs in {' or '.join(map(str, PLACES))}: name their folder with --data FOLDER or "
            "EVERGROVE_THERMAL_DATA (they are from github.com/sjchiass/pitemp)"
        )
    return found


def read_runs(folder: Path) -> list[Run]:
    """All runs of the folder, by name.

    Raises ``MissingDependency`` where there is none, ``InvalidInput`` that names file and line for a broken row.
    """
    paths = sorted(folder.glob("*.csv")) if folder.is_dir() else []
    if not paths:
        raise MissingDependency(
            f"no recorded runs in '{folder}': name their folder with --data FOLDER or EVERGROVE_THERMAL_DATA (they are "
            "from github.com/sjchiass/pitemp)"
        )
    return [read_run(path) for path in paths]


def read_run(path: Path) -> Run:
    """One csv file; marker rows, which have no usage, are passed over. Raises ``InvalidInput``."""
    rows: list[tuple[float, float, float]] = []
    with path.open(newline="", encoding="utf-8") as file:
        for n, row in enumerate(csv.DictReader(file), start=2):
            try:
                if row["usage"]:
                    at = datetime.fromisoformat(row["datetime"]).timestamp()
                    rows.append((at, float(row["usage"]) / 100.0, float(row["temp"])))
            except (KeyError, TypeError, ValueError) as fault:
                raise InvalidInput(f"{path}, line {n}: not a row of datetime, usage and temp ({fault})") from fault
    if len(rows) < 2:
        raise InvalidInput(f"{path}: fewer than two rows of usage and temp")
    times_s, load, temp_c = np.array(rows).T
    if not (np.isfinite(rows).all() and (np.diff(times_s) > 0).all()):
        raise InvalidInput(f"{path}: times must rise and all values be numbers")
    return Run(path.stem, times_s - times_s[0], np.clip(load, 0.0, 1.0), temp_c)
