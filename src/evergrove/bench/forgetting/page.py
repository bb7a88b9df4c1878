"""One HTML page from the lines: accuracy over the lessons for the best known strategies, and the table of all."""

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

COLUMNS = ("fid", "lost_fid", "fid_random", "coverage", "accuracy", "unseen", "kept", "against")
TONES = {OURS: "good", "naive": "bad", "replay": "warm", "rank1+gd": "cool", "isolated": "plain"}
"""Who is drawn, and how: a chart of sixteen curves tells nothing. All stand in the table below it."""
SELECTED = {"ours": "good", "random": "bad", "herding": "cool", "k-centre": "warm", "surprise": "plain"}
NOTES = {
    "S1": "digits, five lessons of two",
    "S2": "Omniglot, alphabets as lessons",
    "S3": "five looks of a user, two emotions shown of six",
    "S4": "fifty lessons",
    "T1": "Fashion, for tuning alone",
    "R1": "digits, each lesson seen through what a selection keeps of it",
}


def page(tables: Sequence[Table], lines: Sequence[Line], command: str) -> str:
    """The page's text; ``command`` is what made the lines."""
    css = resources.files("evergrove.media").joinpath("report.css").read_text(encoding="utf-8")
    parts = [f"<h1>Forgetting</h1><p><code>{escape(command)}</code></p>"]
    for table in tables:
        mine = [line for line in lines if line.stream == table.stream]
        drawn = retained(mine) if table.stream == "R1" else _chart(mine)
        note = NOTES.get(table.stream, "")
        if any(row.against for row in table.rows):
            note += "; against: ours minus the strategy in FID, paired by seed"
        parts.append(f"<section><h2>{escape(table.stream)}</h2><p>{escape(note)}</p>{drawn}{_rows(table)}</section>")
    head = f"<meta charset='utf-8'><title>Evergrove: forgetting</title><style>{css}</style>"
    body = f"<body><main>{''.join(parts)}</main></body>"
    return f"<!doctype html><html lang='en'><head>{head}</head>{body}</html>\n"


def _chart(lines: Sequence[Line]) -> str:
    """What the oracle recognises of all that was learnt so far, lesson by lesson, the mean over seeds."""
    drawn = []
    for name in dict.fromkeys(line.strategy for line in lines):
        if name not in TONES:
            continue
        r = np.stack([line.matrix("accuracy") for line in lines if line.strategy == name])
        points = []
        for row in range(1, r.shape[1]):
            seen = r[:, row, :row]
            if not np.isnan(seen).any():
                points.append((float(row), float(seen.mean())))
        if points:
            drawn.append(Curve(name, tuple(points), TONES[name]))
    highest = max((y for curve in drawn for _, y in curve.points), default=0.0)
    top = next(y for y in (0.2, 0.4, 1.0) if highest <= y)
    return curves(drawn, "lessons learnt", "right, of all learnt so far", top) if drawn else ""


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
        if points:
            drawn.append(Curve(name, tuple(points), SELECTED.get(name, "plain"), dashed=name not in SELECTED))
    if whole and drawn:
        level = float(np.mean(whole))
        ends = ((float(PERCENTS[0]), level), (float(PERCENTS[-1]), level))
        drawn.append(Curve("all of it", ends, "good", dashed=True))
    return curves(drawn, "% of the stream kept", "right at the end") if drawn else ""


def _rows(table: Table) -> str:
    """The table, without columns in which nobody has anything."""
    columns = [name for name in COLUMNS if any(told(getattr(row, name)) for row in table.rows)]
    names = ("strategy", *columns, "bytes", "seeds")
    heads = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in names)
    body = "".join(f"<tr>{_cells(row, columns)}</tr>" for row in table.rows)
    rows = f"<table class='numbers'><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
    return f"<div class='wide'>{rows}</div>"


def _cells(row: Row, columns: Sequence[str]) -> str:
    words = [row.strategy, *(told(getattr(row, name)) for name in columns), f"{row.n_bytes:,}", str(row.n_seeds)]
    # A value and its interval stay on one line.
    return "".join(f"<td>{escape(word).replace(' ', '&nbsp;')}</td>" for word in words)


def told(value: Interval | None, digits: int = 3) -> str:
    """``1.23 ±.05``: the mean and half of the interval; empty for None or what was not measured."""
    if value is None or math.isnan(value.mean):
        return ""
    text = f"{value.mean:.{digits}g}"
    return text if math.isnan(value.low) else f"{text} ±{(value.high - value.low) / 2:.2g}"
