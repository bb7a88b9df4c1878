"""From lines to what is quoted: one row a strategy with intervals over seeds, and ours against each rival, paired."""

import math
from collections.abc import Callable, Mapping, Sequence

import msgspec

from evergrove.bench.forgetting import summary
from evergrove.bench.forgetting.lines import Line
from evergrove.bench.forgetting.scores import LESS_IS_BETTER
from evergrove.bench.forgetting.summary import Interval

OURS = "evergrove"


class Row(msgspec.Struct, frozen=True):
    """One strategy on one stream. ``fid`` and the like are averages over lessons at the end; ``lost_*`` is forgetting
    (points of FID, share of accuracy), ``bwt`` and ``fwt`` are of accuracy. ``against`` is ours minus this strategy in
    average FID and ``against_accuracy`` in accuracy, paired by seed (None for ours)."""

    strategy: str
    n_seeds: int
    fid: Interval
    lost_fid: Interval
    kid: Interval
    fid_random: Interval
    coverage: Interval
    density: Interval
    accuracy: Interval
    lost_accuracy: Interval
    bwt: Interval
    fwt: Interval | None
    drift: Interval | None
    frequency_kl: Interval | None
    unseen: Interval | None
    kept: Interval | None
    against: Interval | None
    against_accuracy: Interval | None
    n_bytes: int
    over: float
    n_observations: int
    passes: int
    declared: int
    cpu_s: float


class Table(msgspec.Struct, frozen=True):
    """All strategies on one stream, in the order of the race."""

    stream: str
    rows: tuple[Row, ...]


def table_of(lines: Sequence[Line]) -> Table:
    """The table of one stream's lines."""
    names = list(dict.fromkeys(line.strategy for line in lines))
    by_name = {name: {line.seed: line for line in lines if line.strategy == name} for name in names}
    return Table(lines[0].stream, tuple(_row(name, by_name) for name in names))


def in_order(table: Table, names: Sequence[str]) -> bool:
    """Whether the mean FIDs of these strategies rise in this order; names that were not raced are passed over."""
    fid = {row.strategy: row.fid.mean for row in table.rows}
    raced = [fid[name] for name in names if name in fid]
    return raced == sorted(raced)


def average(line: Line, metric: str) -> float:
    """The mean over lessons at the end."""
    return summary.average(line.matrix(metric))


def lost(line: Line, metric: str) -> float:
    """Forgetting; NaN for who learns all at once."""
    r = line.matrix(metric)
    return math.nan if line.strategy == "joint" else summary.forgetting(r, metric in LESS_IS_BETTER)


def _row(name: str, by_name: Mapping[str, Mapping[int, Line]]) -> Row:
    lines = list(by_name[name].values())
    first = lines[0]

    def over(value: Callable[[Line], float | None]) -> Interval:
        return summary.interval([math.nan if (v := value(line)) is None else v for line in lines])

    def known(value: Callable[[Line], float | None]) -> Interval | None:
        found = over(value)
        return None if math.isnan(found.mean) else found

    return Row(
        strategy=name,
        n_seeds=len(lines),
        fid=over(lambda line: average(line, "fid")),
        lost_fid=over(lambda line: lost(line, "fid")),
        kid=over(lambda line: average(line, "kid")),
        fid_random=over(lambda line: average(line, "fid_random")),
        coverage=over(lambda line: average(line, "coverage")),
        density=over(lambda line: average(line, "density")),
        accuracy=over(lambda line: average(line, "accuracy")),
        lost_accuracy=over(lambda line: lost(line, "accuracy")),
        bwt=over(lambda line: _transfer(line, summary.backward_transfer)),
        fwt=known(lambda line: _transfer(line, summary.forward_transfer)),
        drift=known(_drift),
        frequency_kl=known(lambda line: line.frequency_kl[-1]),
        unseen=known(lambda line: line.unseen),
        kept=known(lambda line: line.kept),
        against=_against(name, by_name, "fid"),
        against_accuracy=_against(name, by_name, "accuracy"),
        n_bytes=max(line.n_bytes for line in lines),
        over=max(line.over for line in lines),
        n_observations=max(line.n_observations for line in lines),
        passes=first.rows_counted,
        declared=first.rows_declared,
        cpu_s=round(sum(line.cpu_s for line in lines) / len(lines), 1),
    )


def _against(name: str, by_name: Mapping[str, Mapping[int, Line]], metric: str) -> Interval | None:
    if name == OURS or OURS not in by_name:
        return None
    ours, theirs = by_name[OURS], by_name[name]
    seeds = sorted(set(ours) & set(theirs))
    if not seeds:
        return None
    return summary.paired([average(ours[s], metric) for s in seeds], [average(theirs[s], metric) for s in seeds])


def _transfer(line: Line, measure: Callable[[summary.Matrix], float]) -> float:
    return math.nan if line.strategy == "joint" else measure(line.matrix("accuracy"))


def _drift(line: Line) -> float | None:
    end = [value for value in line.cells["drift"][-1] if value is not None]
    return sum(end) / len(end) if end else None
