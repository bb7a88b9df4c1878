"""Two small charts as inline SVG, drawn with the page's own colours: curves over time, and a histogram of latencies.

No script, no font, no request: they follow the reader's light or dark theme by CSS variables and scale to any width.
In go plain numbers, out comes markup in which every text is escaped.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from evergrove.core.errors import UsageError

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 14, 40

Place = Callable[[float, float], tuple[float, float]]
"""From values to positions in the picture."""


@dataclass(frozen=True)
class Curve:
    """One labelled line: ``points`` are (x, y); ``tone`` is good, bad or plain; marks are (x, what happened there)."""

    label: str
    points: tuple[tuple[float, float], ...]
    tone: str = "plain"
    dashed: bool = False
    marks: tuple[tuple[float, str], ...] = ()


def curves(lines: Sequence[Curve], x_label: str, y_label: str, top: float = 1.0) -> str:
    """Shares between 0 and ``top`` over time. Raises ``UsageError`` where there is nothing to draw."""
    x_max = max((x for line in lines for x, _ in line.points), default=0.0)
    if x_max <= 0:
        raise UsageError("a chart needs at least one point beyond x = 0")

    def at(x: float, y: float) -> tuple[float, float]:
        return LEFT + (WIDTH - LEFT - RIGHT) * x / x_max, TOP + (HEIGHT - TOP - BOTTOM) * (1 - y / top)

    parts = [_grid([(f"{y * top:.3g}" if top < 1 else f"{y:.0%}", at(0, y * top)[1]) for y in (0, 0.25, 0.5, 0.75, 1)])]
    parts += [_x_tick(at(x, 0)[0], f"{x:g}") for x in ticks(x_max)]
    for line in lines:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*p) for p in line.points))
        dash = ' stroke-dasharray="2 7"' if line.dashed else ""
        parts.append(f'<polyline class="line {line.tone}" points="{path}"{dash}/>')
        parts += [_mark(line, x, what, at) for x, what in line.marks]
    legend = "".join(_legend(line) for line in lines)
    return _figure("".join(parts), x_label, y_label, legend)


def histogram(series: Mapping[str, Sequence[float]], unit: str = "ms", n_bins: int = 36) -> str:
    """How often which latency occurred, one tone per series, with the median and the 99th percentile in words.

    The axis ends at the 99.5th percentile of everything; what lies beyond is counted in the last bar.
    """
    values = {label: np.asarray(v, dtype=np.float64) for label, v in series.items() if len(v)}
    if not values:
        raise UsageError("a histogram needs at least one value")
    together = np.concatenate(list(values.values()))
    low, high = float(together.min()) * 0.9, max(float(np.percentile(together, 99.5)), float(together.min()) + 1e-3)
    edges = np.linspace(low, high, n_bins + 1)
    shares = {k: np.histogram(np.clip(v, low, high), edges)[0] / len(v) for k, v in values.items()}
    top = max(float(s.max()) for s in shares.values())
    room, floor = (WIDTH - LEFT - RIGHT) / n_bins, HEIGHT - BOTTOM
    parts = [_grid([(f"{top * y:.0%}", TOP + (floor - TOP) * (1 - y)) for y in (0, 0.5, 1)])]
    for i, (label, share) in enumerate(shares.items()):
        tone = ("good", "warm", "plain")[i % 3]
        for j, value in enumerate(share):
            if value:
                height = (floor - TOP) * float(value) / top
                parts.append(
                    f'<rect class="bar {tone}" x="{LEFT + j * room + 0.5:.1f}" y="{floor - height:.1f}" '
                    f'width="{room - 1:.1f}" height="{height:.1f}"><title>{escape(label)}</title></rect>'
                )
    span = high - low
    for x in ticks(high):
        if x >= low:
            parts.append(_x_tick(LEFT + (WIDTH - LEFT - RIGHT) * (x - low) / span, f"{x:g}"))
    legend = "".join(
        f'<span class="key"><i class="{("good", "warm", "plain")[i % 3]}"></i>{escape(label)}: half within '
        f"{np.percentile(v, 50):.1f} {unit}, 99 of 100 within {np.percentile(v, 99):.1f} {unit} (n = {len(v)})</span>"
        for i, (label, v) in enumerate(values.items())
    )
    return _figure("".join(parts), unit, "share of pictures", legend)


def ticks(top: float, most: int = 6) -> list[float]:
    """Round numbers from 0 to ``top``, at most ``most`` + 1 of them, in steps of 1, 2 or 5 times a power of ten."""
    rough = top / most
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * f for f in (1, 2, 5, 10) if size * f >= rough * 0.999)
    return [round(i * step, 10) for i in range(int(top / step * 1.0001) + 1)]


def _grid(levels: Sequence[tuple[str, float]]) -> str:
    return "".join(
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="tick" x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{escape(text)}</text>'
        for text, y in levels
    )


def _x_tick(x: float, text: str) -> str:
    return f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{escape(text)}</text>'


def _mark(line: Curve, x: float, what: str, at: Place) -> str:
    xs, ys = zip(*line.points, strict=True)
    px, py = at(x, float(np.interp(x, xs, ys)))
    return (
        f'<g class="mark {line.tone}"><line x1="{px - 5:.1f}" x2="{px + 5:.1f}" y1="{py - 5:.1f}" y2="{py + 5:.1f}"/>'
        f'<line x1="{px - 5:.1f}" x2="{px + 5:.1f}" y1="{py + 5:.1f}" y2="{py - 5:.1f}"/>'
        f"<title>{escape(what)}</title></g>"
    )


def _legend(line: Curve) -> str:
    dash = " dashed" if line.dashed else ""
    return f'<span class="key"><i class="{line.tone}{dash}"></i>{escape(line.label)}</span>'


def _figure(inside: str, x_label: str, y_label: str, legend: str) -> str:
    return (
        f'<figure class="chart"><div class="keys">{legend}</div>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(y_label)} by {escape(x_label)}">'
        f'{inside}<text class="tick" x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">{escape(x_label)}</text>'
        f'<text class="tick" x="{LEFT}" y="{HEIGHT - 6}">{escape(y_label)}</text></svg></figure>'
    )
