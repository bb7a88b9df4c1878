"""The bench's common ground: how durations are summed up, and the facts of the machine that they were taken on.

Quantiles rather than means: a mean of latencies hides what an app feels. What is compared is measured in interleaved
blocks, and the ratio is the median of the paired ratios, so that a machine that slows down slows both.
"""

import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import numpy as np


class Spread(msgspec.Struct, frozen=True):
    """``n`` measurements of one thing: their median, 99th percentile and greatest, in ``unit``."""

    n: int
    p50: float
    p99: float
    max: float
    unit: str

    @classmethod
    def of(cls, values: Sequence[float], unit: str) -> "Spread":
        """Sum up at least one value. With under 100 values p99 is about their greatest: read it beside ``n``."""
        p50, p99 = np.percentile(values, [50, 99])
        return cls(len(values), _short(p50), _short(p99), _short(max(values)), unit)


class Ratio(msgspec.Struct, frozen=True):
    """``n`` paired comparisons of two rates: their medians and the median, least and greatest of the paired ratios."""

    n: int
    mine: float
    other: float
    ratio: float
    ratio_min: float
    ratio_max: float
    unit: str

    @classmethod
    def of(cls, mine: Sequence[float], other: Sequence[float], unit: str) -> "Ratio":
        """Compare rates that were measured in pairs, block by block; both as long, at least one."""
        pairs = np.asarray(mine) / np.asarray(other)
        return cls(
            n=len(pairs),
            mine=_short(np.median(mine)),
            other=_short(np.median(other)),
            ratio=_short(np.median(pairs)),
            ratio_min=_short(pairs.min()),
            ratio_max=_short(pairs.max()),
            unit=unit,
        )


class Bar(msgspec.Struct, frozen=True):
    """A promise of the design: ``value`` must not be above ``limit``."""

    name: str
    value: float
    limit: float
    unit: str

    @property
    def met(self) -> bool:
        """Whether the promise is kept here."""
        return self.value <= self.limit


class Machine(msgspec.Struct, frozen=True):
    """Where it was measured."""

    cpu: str
    n_cores: int
    memory_mb: int
    load_1min: float
    system: str
    python: str
    torch: str
    numpy: str


def machine(proc: Path = Path("/proc")) -> Machine:
    """The facts of this machine; what the system does not tell is empty or 0."""
    lines = _lines(proc / "cpuinfo")
    cpu = next((value.strip() for key, _, value in lines if key.strip() == "model name"), platform.processor())
    n_kb = next((value.split()[0] for key, _, value in _lines(proc / "meminfo") if key == "MemTotal"), "0")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(
        cpu=cpu,
        n_cores=cores,
        memory_mb=int(n_kb) // 1024,
        load_1min=round(os.getloadavg()[0], 2),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        torch=metadata.version("torch"),
        numpy=np.__version__,
    )


def rss_mb(pid: int | str = "self", proc: Path = Path("/proc")) -> float:
    """Resident memory of a process in MB (10⁶ bytes). Raises ``OSError`` where it cannot be read."""
    for key, _, value in _lines(proc / str(pid) / "status"):
        if key == "VmRSS":
            return int(value.split()[0]) * 1024 / 1e6
    raise OSError(f"no resident size in {proc / str(pid) / 'status'}")


def _lines(path: Path) -> list[tuple[str, str, str]]:
    try:
        return [line.partition(":") for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return []


def _short(value: float | np.floating[Any]) -> float:
    """Four significant digits: more would be noise."""
    return float(f"{value:.4g}")
