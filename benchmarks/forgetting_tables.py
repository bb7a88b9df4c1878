"""The tables of docs/adr from the lines of ``evergrove bench forgetting``, as Markdown; nothing is run.

    python benchmarks/forgetting_tables.py benchmarks/results/forgetting.jsonl [--page FILE.html]

For each stream a row a strategy, then ours minus each, paired by seed, with 95 % intervals (Student's t); for R1 the
retention curve, and each selection minus random at the same share.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from evergrove.bench.forgetting import lines, retention, summary, tables
from evergrove.bench.forgetting.lines import Line
from evergrove.bench.forgetting.page import page
from evergrove.bench.forgetting.summary import Interval
from evergrove.learn.rivals import ABLATIONS, RIVALS

ORDER = ["joint", *(name for name in RIVALS if name != "joint"), *ABLATIONS]
Lines = dict[tuple[str, str, int], Line]
Value = Callable[[Line], float]


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--against", default="evergrove", help="Who is compared with all others.")
    parser.add_argument("--page", type=Path, default=None, help="Also write the page of all streams to this file.")
    given = parser.parse_args()
    found = lines.read(given.file)
    if given.page is not None:
        given.page.write_text(page_of(found, str(given.file)), encoding="utf-8")
    for stream in sorted({stream for stream, _, _ in found} - {"R1"}):
        print(f"\n## {stream}\n")
        print(table(found, stream))
        print(differences(found, stream, given.against))
    if any(stream == "R1" for stream, _, _ in found):
        print("\n## R1: what is kept of the stream\n")
        print(curve(found))


def page_of(found: Lines, source: str) -> str:
    """The page of every stream, strategies in the order of the tables."""
    every = sorted(found.values(), key=lambda line: (line.stream, place_of(line.strategy), line.seed))
    streams = dict.fromkeys(line.stream for line in every)
    shown = [tables.table_of([line for line in every if line.stream == stream]) for stream in streams]
    return page(shown, every, f"python benchmarks/forgetting_tables.py {source}")


def place_of(strategy: str) -> int:
    """Where a strategy stands in a table; points of the retention curve in their own order, and trials last."""
    names = [*ORDER, *(keep.name for keep in retention.keeps())]
    return names.index(strategy) if strategy in names else len(names)


def fid(line: Line) -> float:
    """Average FID at the end."""
    return tables.average(line, "fid")


def accuracy(line: Line) -> float:
    """Share read right at the end."""
    return tables.average(line, "accuracy")


def unseen(line: Line) -> float:
    """Share read right of combinations that nobody showed."""
    return math.nan if line.unseen is None else line.unseen


def kept(line: Line) -> float:
    """Share read right of what the base knew."""
    return math.nan if line.kept is None else line.kept


def lost(line: Line) -> float:
    """Forgetting in FID."""
    return tables.lost(line, "fid")


def of(found: Lines, stream: str, name: str) -> dict[int, Line]:
    """A strategy's lines by seed."""
    return {seed: line for (s, n, seed), line in found.items() if (s, n) == (stream, name)}


def table(found: Lines, stream: str) -> str:
    """One row a strategy."""
    names = [name for name in ORDER if of(found, stream, name)]
    bound = of(found, stream, "joint")
    heads = ("strategy", "seeds", "FID", "÷ joint", "lost, % of joint's FID", "FID random", "right", "unseen",
             "÷ joint", "kept", "kB", "÷ budget", "observations", "CPU s")  # fmt: skip
    rows = []
    for name in names:
        mine = list(of(found, stream, name).values())
        mean, base = over(mine, fid).mean, over(list(bound.values()), fid).mean
        base_unseen = over(list(bound.values()), unseen).mean
        rows.append(
            (
                name,
                str(len(mine)),
                told(over(mine, fid)),
                f"{mean / base:.2f}",
                f"{100 * over(mine, lost).mean / base:.0f}" if name != "joint" else "",
                told(over(mine, lambda line: tables.average(line, "fid_random"))),
                told(over(mine, accuracy)),
                told(over(mine, unseen)),
                "" if math.isnan(base_unseen) else f"{over(mine, unseen).mean / base_unseen:.2f}",
                told(over(mine, kept)),
                f"{max(line.n_bytes for line in mine) / 1000:.0f}",
                f"{max(line.over for line in mine):.2f}",
                str(max(line.n_observations for line in mine)),
                f"{sum(line.cpu_s for line in mine) / len(mine):.0f}",
            )
        )
    return markdown(heads, rows)


def differences(found: Lines, stream: str, who: str) -> str:
    """``who`` minus each other strategy, paired by seed; * where the interval excludes 0."""
    mine = of(found, stream, who)
    rows = []
    for name in ORDER:
        other = of(found, stream, name)
        seeds = sorted(set(mine) & set(other))
        if name == who or not seeds:
            continue
        cells = []
        for value in (fid, accuracy, unseen, kept):
            pair = summary.paired([value(mine[s]) for s in seeds], [value(other[s]) for s in seeds])
            cells.append(span(pair))
        rows.append((f"{who} − {name}", str(len(seeds)), *cells))
    return markdown(("paired", "seeds", "FID", "right", "unseen", "kept"), rows)


def curve(found: Lines) -> str:
    """FID, coverage and share read right by what was kept, and FID minus random's at the same share."""
    rows = []
    for keep in retention.keeps():
        mine, random = of(found, "R1", keep.name), of(found, "R1", f"random-{keep.percent}")
        if not mine:
            continue
        seeds = sorted(set(mine) & set(random))
        pair = summary.paired([fid(mine[s]) for s in seeds], [fid(random[s]) for s in seeds]) if seeds else None
        some = list(mine.values())
        rows.append(
            (
                keep.selection,
                f"{keep.percent} %",
                str(max(line.n_observations for line in some)),
                str(len(some)),
                told(over(some, fid)),
                told(over(some, lambda line: tables.average(line, "coverage"))),
                told(over(some, accuracy)),
                "" if pair is None or keep.selection == "random" else span(pair),
            )
        )
    return markdown(("selection", "kept", "observations", "seeds", "FID", "coverage", "right", "FID − random's"), rows)


def over(some: Sequence[Line], value: Value) -> Interval:
    """Mean and interval over seeds."""
    return summary.interval([value(line) for line in some]) if some else Interval(math.nan, math.nan, math.nan, 0)


def told(value: Interval) -> str:
    """``1.23 ±.05``, or nothing."""
    if math.isnan(value.mean):
        return ""
    half = (value.high - value.low) / 2
    return f"{value.mean:.3g}" if math.isnan(half) else f"{value.mean:.3g} ±{half:.2g}"


def span(value: Interval) -> str:
    """``-1.2 (-2.0 to -0.4) *``, or nothing."""
    if math.isnan(value.mean):
        return ""
    text = f"{value.mean:+.3g}"
    return (
        text if math.isnan(value.low) else f"{text} ({value.low:.2g} to {value.high:.2g}){' *' * value.excludes_zero}"
    )


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (heads, ["---"] * len(heads), *rows)) + "\n"


if __name__ == "__main__":
    main()
