"""Charts of hours and days as inline SVG: bands of many devices, strips of what each was doing, and distributions.

Like ``charts`` they need no script, no font and no request, and take the page's own colours. In go plain numbers (hours
from the start on the x axis), out comes markup in which every text is escaped. Nights (22-6 h) are shaded.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from evergrove.core.errors import UsageError
from evergrove.media.charts import ticks

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 760, 52, 14, 12, 26
HEIGHT = 260
ROW, GAP = 15, 3


@dataclass(frozen=True)
class Band:
    """Many curves in one: ``hours`` (n,), and per hour the lowest, the middle and the highest value.

    ``tone`` is one of the page's: good, bad, warm, cool or plain.
    """

    label: str
    hours: Sequence[float]
    low: Sequence[float]
    middle: Sequence[float]
    high: Sequence[float]
    tone: str = "good"


@dataclass(frozen=True)
class Span:
    """From when to when (hours) something was going on; ``level`` 0-1 is how strongly it is drawn."""

    from_h: float
    to_h: float
    kind: str
    level: float = 1.0


def bands(
    lines: Sequence[Band], start_hour: float, y_label: str, unit: str = "", limits: Sequence[tuple[float, str]] = ()
) -> str:
    """Bands over the hours. ``limits`` are horizontal lines with their names.

    Raises ``UsageError`` where there is nothing to draw.
    """
    x_max = max((line.hours[-1] for line in lines if len(line.hours)), default=0.0)
    if x_max <= 0:
        raise UsageError("a timeline needs at least one point beyond its start")
    values = [v for line in lines for side in (line.low, line.high) for v in side] + [v for v, _ in limits]
    low, high = _round_range(min(values), max(values))
    box = _Box(x_max, low, high)
    parts = [_nights(box, start_hour), _levels(box, unit), _hours(box, start_hour)]
    for value, name in limits:
        y = box.y(value)
        parts.append(
            f'<line class="limit" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick" x="{WIDTH - RIGHT}" y="{y - 5:.1f}" text-anchor="end">{escape(name)}</text>'
        )
    for line in lines:
        up = " ".join(f"{box.x(h):.1f},{box.y(v):.1f}" for h, v in zip(line.hours, line.high, strict=True))
        back = [f"{box.x(h):.1f},{box.y(v):.1f}" for h, v in zip(line.hours, line.low, strict=True)]
        middle = " ".join(f"{box.x(h):.1f},{box.y(v):.1f}" for h, v in zip(line.hours, line.middle, strict=True))
        parts.append(f'<polygon class="band {line.tone}" points="{up} {" ".join(reversed(back))}"/>')
        parts.append(f'<polyline class="line thin {line.tone}" points="{middle}"/>')
    keys = "".join(f'<span class="key"><i class="{line.tone}"></i>{escape(line.label)}</span>' for line in lines)
    return _figure("".join(parts), HEIGHT, y_label, keys)


def strips(rows: Sequence[tuple[str, Sequence[Span]]], start_hour: float, kinds: Sequence[tuple[str, str]]) -> str:
    """One row for each device, coloured by what it was doing. ``kinds`` are (CSS class, name) for the legend."""
    x_max = max((span.to_h for _, spans in rows for span in spans), default=0.0)
    if x_max <= 0:
        raise UsageError("a timeline needs at least one span of time")
    height = TOP + len(rows) * (ROW + GAP) + BOTTOM
    left = max(LEFT, 14 + 6.6 * max(len(name) for name, _ in rows))
    box = _Box(x_max, 0.0, 1.0, height, left)
    parts = [_hours(box, start_hour)]
    for i, (name, spans) in enumerate(rows):
        y = TOP + i * (ROW + GAP)
        place = f'y="{y}" width="{WIDTH - left - RIGHT:.1f}" height="{ROW}"'
        parts.append(f'<rect class="what rest" x="{left:.1f}" {place}/>')
        place = f'x="{left - 6:.1f}" y="{y + ROW - 3.5}" text-anchor="end"'
        parts.append(f'<text class="tick" {place}>{escape(name)}</text>')
        for span in spans:
            x, width = box.x(span.from_h), max(box.x(span.to_h) - box.x(span.from_h), 0.7)
            shade = "" if span.level >= 1 else f' fill-opacity="{span.level:.2f}"'
            place = f'x="{x:.1f}" y="{y}" width="{width:.1f}" height="{ROW}"'
            parts.append(f'<rect class="what {escape(span.kind)}" {place}{shade}/>')
    keys = "".join(f'<span class="key"><b class="what {escape(k)}"></b>{escape(name)}</span>' for k, name in kinds)
    return _figure("".join(parts), height, "what each device was doing", keys)


def distribution(
    values: Sequence[float], unit: str, x_label: str, y_label: str, tone: str = "good", n_bins: int = 40
) -> str:
    """How often which value occurred, with the median and the ninth decile marked.

    Raises ``UsageError`` where there is no value.
    """
    if not len(values):
        raise UsageError("a distribution needs at least one value")
    data = np.asarray(values, dtype=np.float64)
    high = max(float(data.max()), 1e-3)
    edges = np.linspace(0.0, ticks(high)[-1] if ticks(high)[-1] >= high else high, n_bins + 1)
    counts, _ = np.histogram(data, edges)
    box = _Box(float(edges[-1]), 0.0, float(counts.max()) * 1.12)
    parts = [
        "".join(_level(box, v, f"{v:g}") for v in ticks(box.high, 4)),
        "".join(_tick(box.x(v), box.height, f"{v:g}") for v in ticks(float(edges[-1]), 8)),
    ]
    for count, left, right in zip(counts, edges, edges[1:], strict=False):
        if count:
            x, width, y = box.x(float(left)) + 0.5, box.x(float(right)) - box.x(float(left)) - 1, box.y(float(count))
            parts.append(
                f'<rect class="bar {tone}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" '
                f'height="{box.y(0) - y:.1f}"><title>{int(count)}</title></rect>'
            )
    for q, name in ((50, "half"), (90, "9 of 10")):
        x = box.x(float(np.percentile(data, q)))
        side, anchor = (1, "") if x < 0.85 * WIDTH else (-1, ' text-anchor="end"')
        parts.append(
            f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{box.y(0):.1f}"/>'
            f'<text class="tick" x="{x + side * 4:.1f}" y="{TOP + (9 if q == 50 else 24)}"{anchor}>{name}</text>'
        )
    p50, p90 = np.percentile(data, [50, 90]).tolist()
    key = (
        f'<span class="key"><i class="{tone}"></i>{escape(y_label)}: half within {p50:.1f} {escape(unit)}, 9 of 10 '
        f"within {p90:.1f} {escape(unit)}, the slowest {high:.1f} {escape(unit)} (n = {len(data)})</span>"
    )
    return _figure("".join(parts), HEIGHT + 14, y_label, key, x_label)


class _Box:
    """From values to positions."""

    def __init__(self, x_max: float, low: float, high: float, height: int = HEIGHT, left: float = LEFT) -> None:
        self.x_max, self.low, self.high, self.height, self.left = x_max, low, high, height, left

    def x(self, hour: float) -> float:
        return self.left + (WIDTH - self.left - RIGHT) * hour / self.x_max

    def y(self, value: float) -> float:
        return TOP + (self.height - TOP - BOTTOM) * (1 - (value - self.low) / (self.high - self.low))


def _round_range(low: float, high: float) -> tuple[float, float]:
    """Round numbers around the values; from 0 where they come near it."""
    if 0 <= low < 0.4 * high or high <= 0:
        low = 0.0
    step = ticks(max(high - low, 1e-6), 5)[1]
    return math.floor(low / step) * step, math.ceil(high / step + 0.05) * step


def _levels(box: _Box, unit: str) -> str:
    step = ticks(box.high - box.low, 5)[1]
    n = round((box.high - box.low) / step)
    return "".join(_level(box, box.low + i * step, f"{box.low + i * step:g}{unit}") for i in range(n + 1))


def _level(box: _Box, value: float, text: str) -> str:
    y = box.y(value)
    return (
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="tick" x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{escape(text)}</text>'
    )


def _tick(x: float, height: int, text: str) -> str:
    return f'<text class="tick" x="{x:.1f}" y="{height - BOTTOM + 16}" text-anchor="middle">{escape(text)}</text>'


def _hours(box: _Box, start_hour: float) -> str:
    """Times of day below the axis, and which day it is; the labels get sparser as the days get more."""
    every = next(
        (h for h in (0.5, 1, 2, 3, 6, 12, 24, 48, 96, 168) if box.x_max / h <= 14), 24.0 * math.ceil(box.x_max / 240)
    )
    first = math.ceil(start_hour / every) * every
    parts = []
    for i in range(int((start_hour + box.x_max - first) / every + 1e-9) + 1):
        hour = first + i * every
        day, rest = divmod(hour, 24)
        text = (
            f"day {int(day) + 1}" if rest == 0 and (day or every >= 24) else f"{int(rest)}:{round(rest % 1 * 60):02d}"
        )
        parts.append(_tick(box.x(hour - start_hour), box.height, text))
    return "".join(parts)


def _nights(box: _Box, start_hour: float) -> str:
    parts = []
    for day in range(-1, int((start_hour + box.x_max) // 24) + 1):
        begin, end = day * 24 + 22 - start_hour, day * 24 + 30 - start_hour
        begin, end = max(begin, 0.0), min(end, box.x_max)
        if end > begin:
            parts.append(
                f'<rect class="night" x="{box.x(begin):.1f}" y="{TOP}" width="{box.x(end) - box.x(begin):.1f}" '
                f'height="{box.height - TOP - BOTTOM}"/>'
            )
    return "".join(parts)


def _figure(inside: str, height: int, y_label: str, keys: str, x_label: str = "") -> str:
    axis = (
        f'<text class="tick" x="{WIDTH - RIGHT}" y="{height - 4}" text-anchor="end">{escape(x_label)}</text>'
        if x_label
        else ""
    )
    return (
        f'<figure class="chart timeline"><div class="keys">{keys}</div>'
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(y_label)}">{inside}{axis}</svg></figure>'
    )
