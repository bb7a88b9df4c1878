"""A run as one self-contained page: verdict, faces, what was remembered and forgotten, every decision with its reason.

In go plain values and uint8 pictures; out comes HTML without a script, a font or a request to anywhere, which follows
the reader's light or dark theme and reads on a phone. Every text is escaped. A page is a list of ``Section``; the
functions below each make the body of one.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from evergrove.core.conditions import Vocabulary
from evergrove.media.plots import Row
from evergrove.views.forgetting import Matrix
from evergrove.views.gate import Look
from evergrove.views.novelty import Tally
from evergrove.views.sentences import name, version


@dataclass(frozen=True)
class Section:
    """A part of the page: its heading, one sentence that says what to look for, and its body (trusted HTML)."""

    heading: str
    lead: str
    body: str


@dataclass(frozen=True)
class Claim:
    """One line of the verdict, and whether it holds."""

    text: str
    holds: bool


@dataclass(frozen=True)
class Specimen:
    """One observation and what became of it: ``outcome`` is kept, golden, dropped or refused.

    ``pixels`` is None where there is no picture to show.
    """

    pixels: NDArray[np.uint8] | None
    outcome: str
    label: str
    reason: str


def page(title: str, lead: str, claims: Sequence[Claim], sections: Sequence[Section]) -> str:
    """The whole document."""
    style = files("evergrove.media").joinpath("report.css").read_text(encoding="utf-8")
    lines = "".join(
        f'<li class="{"yes" if c.holds else "no"}"><b>{"✓" if c.holds else "✗"}</b> {escape(c.text)}</li>'
        for c in claims
    )
    parts = "".join(f"<section><h2>{escape(s.heading)}</h2><p>{escape(s.lead)}</p>{s.body}</section>" for s in sections)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body>"
        f'<header><h1>{escape(title)}</h1><p>{escape(lead)}</p><ul class="verdict">{lines}</ul></header>'
        f"<main>{parts}</main></body></html>\n"
    )


def faces(rows: Sequence[Row], conditions: Sequence[str], missing: str = "not known") -> str:
    """What each model draws for each condition: conditions side by side, or below one another on a phone.

    ``missing`` stands where there is no picture.
    """
    cells = ['<div class="corner"></div>', *(f'<div class="model">{escape(row.label)}</div>' for row in rows)]
    for condition in conditions:
        cells.append(f'<div class="condition">{escape(condition)}</div>')
        for row in rows:
            pictures = list(row.pictures.get(condition, ()))[:4]
            share = row.right.get(condition)
            if not pictures:
                cells.append(
                    f'<figure class="none"><div>{escape(missing)}</div><figcaption>&nbsp;</figcaption></figure>'
                )
                continue
            alt = escape(f"{condition}, {row.label}")
            tone = "" if share is None else "good" if share >= 0.9 else "bad" if share < 0.6 else ""
            said = "" if share is None else f"{share:.0%}"
            cells.append(
                f'<figure class="{tone}"><img src="{png_uri(mosaic(pictures))}" alt="{alt}">'
                f"<figcaption>{said}</figcaption></figure>"
            )
    return f'<div class="faces" style="--rows:{len(rows) + 1};--columns:{len(conditions) + 1}">{"".join(cells)}</div>'


def heat_map(title: str, matrix: Matrix) -> str:
    """Condition by moment; a cell's colour and number say the share of pictures that are right (0-1)."""
    head = "".join(f"<th>{escape(m)}</th>" for m in matrix.moments)
    rows = []
    for condition, values in zip(matrix.conditions, matrix.values, strict=True):
        cells = "".join(
            '<td class="void">·</td>' if v is None else f'<td style="--v:{min(max(v, 0.0), 1.0):.3f}">{v:.0%}</td>'
            for v in values
        )
        rows.append(f"<tr><th>{escape(condition)}</th>{cells}</tr>")
    return (
        f'<div class="wide"><table class="heat"><caption>{escape(title)}</caption>'
        f"<thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def gate_history(looks: Sequence[Look], vocabulary: Vocabulary | None, names: Mapping[str, str]) -> str:
    """Every look of the golden gate: verdict, sentence, and the change of the golden loss per condition as bars.

    ``names`` gives better words for an origin's source or a candidate's hash.
    """
    items = []
    for look in looks:
        known = names.get(look.candidate or "") or names.get(look.source)
        who = known or (version(look.candidate) if look.candidate else look.source)
        share = "" if look.gamma in (0.0, 1.0) else f" at {look.gamma:g} of its strength"
        items.append(
            f'<li class="look {escape(look.verdict)}"><h3><span class="pill">{escape(_past(look.verdict))}</span> '
            f"{escape(who + share)}</h3><p>{escape(look.said(vocabulary))}.</p>{_harms(look, vocabulary)}</li>"
        )
    return f'<ol class="looks">{"".join(items)}</ol>'


def specimens(shown: Sequence[Specimen]) -> str:
    """Some observations with what became of them, as a strip."""
    cells = []
    for s in shown:
        picture = (
            f'<img src="{png_uri(s.pixels)}" alt="{escape(s.label)}">'
            if s.pixels is not None
            else "<div>no picture</div>"
        )
        cells.append(
            f'<figure class="{escape(s.outcome)}">{picture}<figcaption><b>{escape(s.outcome)}</b> '
            f"{escape(s.label)}<br>{escape(s.reason)}</figcaption></figure>"
        )
    return f'<div class="strip">{"".join(cells)}</div>'


def tally_table(tally: Tally) -> str:
    """The stream in numbers: what was kept and what not, by reason."""
    rows = [("kept", why.removeprefix("kept: "), n) for why, n in _sorted(tally.kept_why)]
    rows += [("dropped", why, n) for why, n in _sorted(tally.dropped_why)]
    rows += [("refused", why, n) for why, n in _sorted(tally.refused_why)]
    body = "".join(
        f'<tr class="{kind}"><td>{kind}</td><td>{escape(why)}</td><td class="n">{n}</td>'
        f'<td class="share"><i style="width:{n / max(tally.observed, 1):.1%}"></i></td></tr>'
        for kind, why, n in rows
    )
    return f'<table class="tally"><tbody>{body}</tbody></table>'


def decisions(said: Sequence[tuple[float, str, int]]) -> str:
    """Decisions in order: seconds since the start, the sentence, and how often in a row it was decided."""
    lines = "".join(
        f"<li><time>{at_s:.1f} s</time> <span>{escape(words)}{f' <i>× {n}</i>' if n > 1 else ''}</span></li>"
        for at_s, words, n in said
    )
    return f'<ol class="decisions">{lines}</ol>'


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Small tiles: a number, and what it is."""
    tiles = "".join(f"<div><b>{escape(value)}</b><span>{escape(what)}</span></div>" for what, value in pairs)
    return f'<div class="facts">{tiles}</div>'


def plain(text: str) -> str:
    """Text as it is, in a box of fixed letters."""
    return f'<pre class="wide">{escape(text)}</pre>'


def together(bodies: Sequence[str]) -> str:
    """Several bodies one after the other."""
    return "".join(bodies)


def mosaic(pictures: Sequence[NDArray[np.uint8]], gap_px: int = 2) -> NDArray[np.uint8]:
    """One to four pictures of one size as a square of two by two (or alone), uint8 (H, W, 3)."""
    if len(pictures) < 4:
        return pictures[0]
    height, width, _ = pictures[0].shape
    square = np.full((2 * height + gap_px, 2 * width + gap_px, 3), 255, np.uint8)
    for i, picture in enumerate(pictures[:4]):
        y, x = i // 2 * (height + gap_px), i % 2 * (width + gap_px)
        square[y : y + height, x : x + width] = picture
    return square


def png_uri(pixels: NDArray[np.uint8]) -> str:
    """A picture as a ``data:`` address."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _past(verdict: str) -> str:
    words = {
        "accept": "accepted",
        "reject": "rejected",
        "rescale": "sent back",
        "passed": "passed",
        "refused": "refused",
    }
    return words.get(verdict, verdict)


def _sorted(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda pair: -pair[1])


def _harms(look: Look, vocabulary: Vocabulary | None) -> str:
    """The change of the golden loss per condition against the incumbent: to the right is harm, to the left is gain."""
    shown = [c for c in look.comparisons if c.kind in ("incumbent", "own", "gain")]
    if not shown:
        return ""
    top = max(0.25, *(abs(c.mean) for c in shown))
    rows = []
    for c in shown:
        size = min(abs(c.mean) / top, 1.0) * 50
        left = 50.0 if c.mean >= 0 else 50 - size
        tone = "bad" if (c.kind, c.condition) in look.failed else "good"
        rows.append(
            f'<tr><td>{escape(name(c.condition, vocabulary))}</td><td class="bar"><i class="{tone}" '
            f'style="left:{left:.1f}%;width:{max(size, 0.6):.1f}%"></i></td><td class="n">{c.mean:+.1%}</td></tr>'
        )
    return (
        '<details><summary>what the golden set saw</summary><table class="harms">'
        f"<caption>change of the golden loss; to the right is harm, scale ±{top:.0%}</caption>"
        f"<tbody>{''.join(rows)}</tbody></table></details>"
    )
