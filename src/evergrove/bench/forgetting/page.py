"""One HTML page from the lines: accuracy over the lessons for every strategy, and the table. It needs nothing else."""

import math
from collections.abc import Sequence
from html import escape
from importlib import resources

import numpy as np

from evergrove.bench.forgetting.lines import Line
from evergrove.bench.forgetting.retention import PERCENTS, SELECTIONS, kept_named
from evergrove.bench.forgetting.summary import Interval
from evergrove.bench.forgetting.tables import OURS, Row, Table, average
from evergrove.media.charts import Curve, curves

COLUMNS = ("fid", "lost_fid", "kid", "fid_random", "coverage", "accuracy", "lost_accuracy", "unseen", "kept", "against")


def page(tables: Sequence[Table], lines: Sequence[Line], command: str) -> str:
    """The page's text; ``command`` is what made the lines."""
    css = resources.files("evergrove.media").joinpath("report.css").read_text(encoding="utf-8")
    parts = [f"<h1>Forgetting</h1><p><code>{escape(command)}</code></p>"]
    for table in tables:
        mine = [line for line in lines if line.stream == table.stream]
        drawn = retained(mine) if table.stream == "R1" else _chart(mine)
        parts += [f"<h2>{escape(table.stream)}</h2>", drawn, _rows(table)]
    head = f"<meta charset='utf-8'><title>Evergrove: forgetting</title><style>{css}</style>"
    body = f"<body><main>{''.join(parts)}</main></body>"
    return f"<!doctype html><html lang='en'><head>{head}</head>{body}</html>\n"


def _chart(lines: Sequence[Line]) -> str:
    """What the oracle recognises of all that was learnt so far, lesson by lesson, the mean over seeds."""
    drawn = []
    for name in dict.fromkeys(line.strategy for line in lines):
        if name == "joint":
            continue
        r = np.stack([line.matrix("accuracy") for line in lines if line.strategy == name])
        points = []
        for row in range(1, r.shape[1]):
            seen = r[:, row, :row]
            if not np.isnan(seen).any():
                points.append((float(row), float(seen.mean())))
        tone = "good" if name == OURS else "bad" if name == "naive" else "plain"
        if points:
            drawn.append(Curve(name, tuple(points), tone, dashed=name not in (OURS, "naive")))
    return curves(drawn, "lessons learnt", "right, of all learnt so far") if drawn else ""


def retained(lines: Sequence[Line]) -> str:
    """Share read right at the end by the percentage of the stream that was kept, for each selection."""
    found: dict[tuple[str, int], list[float]] = {}
    for line in lines:
        keep = kept_named(line.strategy)
        if keep is not None:
            found.setdefault((keep.selection, keep.percent), []).append(average(line, "accuracy"))
    whole = found.get(("all", 100))
    drawn = []
    for name in SELECTIONS:
        points = [(float(p), float(np.mean(found[name, p]))) for p in PERCENTS if (name, p) in found]
        tone = "good" if name == "ours" else "bad" if name == "random" else "plain"
        if points:
            drawn.append(Curve(name, tuple(points), tone, dashed=name not in ("ours", "random")))
    if whole and drawn:
        level = float(np.mean(whole))
        ends = ((float(PERCENTS[0]), level), (float(PERCENTS[-1]), level))
        drawn.append(Curve("all of it", ends, "plain", dashed=False))
    return curves(drawn, "% of the stream kept", "right at the end") if drawn else ""


def _rows(table: Table) -> str:
    heads = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in ("strategy", *COLUMNS, "bytes", "seeds"))
    body = "".join(f"<tr>{_cells(row)}</tr>" for row in table.rows)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"


def _cells(row: Row) -> str:
    words = [row.strategy, *(told(getattr(row, name)) for name in COLUMNS), f"{row.n_bytes:,}", str(row.n_seeds)]
    return "".join(f"<td>{escape(word)}</td>" for word in words)


def told(value: Interval | None, digits: int = 3) -> str:
    """``1.23 ±.05``: the mean and half of the interval; empty for None or what was not measured."""
    if value is None or math.isnan(value.mean):
        return ""
    text = f"{value.mean:.{digits}g}"
    return text if math.isnan(value.low) else f"{text} ±{(value.high - value.low) / 2:.2g}"
