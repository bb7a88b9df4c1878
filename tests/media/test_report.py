"""The report and the pictures: self-contained, escaped, and telling what was given to them."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from evergrove.core.conditions import Factor, Vocabulary
from evergrove.core.errors import UsageError
from evergrove.core.measures import Comparison
from evergrove.media import charts, plots, report
from evergrove.media.charts import Curve
from evergrove.media.plots import Row
from evergrove.views import forgetting, gate, novelty

VOCABULARY = Vocabulary((Factor("emotion", ("happy", "sad", "love")),))
GROUPS = (("what it knew", ("happy", "sad")), ("what it met", ("love",)))


def face(level: int) -> np.ndarray:
    """A plain picture of 16 pixels a side."""
    return np.full((16, 16, 3), level, np.uint8)


ROWS = [
    Row("before", {"happy": [face(200)] * 4, "sad": [face(90)]}, {"happy": 1.0, "sad": 1.0}),
    Row(
        "plain <fine-tuning>",
        {"happy": [face(10)] * 4, "sad": [face(20)], "love": [face(30)]},
        {"happy": 0.1, "sad": 0.7},
    ),
]
LINES = [
    Curve("old, Evergrove", ((0, 1.0), (50, 0.99), (100, 0.98)), "good", marks=((30, "kill -9"),)),
    Curve("old, naive", ((0, 1.0), (100, 0.2)), "bad", dashed=True),
]


class Reader(HTMLParser):
    """Collects tags that were left open and every address that a browser would ask for."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action", "poster", "data")]
        if tag not in ("meta", "img", "br", "line", "rect", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            assert self.open.pop() == tag


def whole_page() -> str:
    """A page with every kind of body in it."""
    lost = (("incumbent", (2,)),)
    comparisons = (Comparison("incumbent", (2,), 12, 0.4, 0.1), Comparison("gain", (3,), 12, -0.3, 0.1))
    looks = [
        gate.Look(1.0, "j1", "trained", "this device", "a" * 64, 0.5, "reject", lost, comparisons=comparisons),
        gate.Look(2.0, "j2", "offered", "bad.safetensors", None, 0.0, "refused", why="NaN in <layer>"),
    ]
    tally = novelty.Tally(train=3, kept_why={"first": 3}, dropped_why={"near duplicate": 7}, refused_why={"blank": 1})
    specimens = [report.Specimen(face(1), "kept", "love", "first"), report.Specimen(None, "refused", "love", "blank")]
    matrix = forgetting.matrix([("before", {"happy": 1.0}), ("after", {"happy": 0.25, "love": 0.5})])
    bodies = [
        report.faces(ROWS, ("happy", "sad", "love")),
        report.heat_map("plain", matrix),
        charts.curves(LINES, "steps", "right"),
        charts.histogram({"idle": [20.0, 21.0, 25.0], "learning": [22.0, 30.0], "none": []}),
        report.gate_history(looks, VOCABULARY, {"this device": "naive"}),
        report.together([report.specimens(specimens), report.tally_table(tally)]),
        report.decisions([(0.5, "dropped a picture", 7), (1.5, "started to train", 1)]),
        report.facts([("kept", "3")]),
        report.plain("a < b"),
    ]
    sections = [report.Section(f"Part & {i}", "What to look for.", body) for i, body in enumerate(bodies)]
    return report.page("A <run>", "lead", [report.Claim("it held", True), report.Claim("it did not", False)], sections)


def test_a_page_asks_for_nothing_from_anywhere():
    """No script, no link, no font; pictures are data. Every tag that is opened is closed."""
    html = whole_page()
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    assert reader.addresses
    assert all(address.startswith("data:image/png;base64,") for address in reader.addresses)
    assert not re.search(r"<script|@import|url\(|https?:", html)


def test_a_page_follows_the_readers_theme_and_screen():
    """Light and dark, and a layout for phones."""
    html = whole_page()
    assert "prefers-color-scheme: dark" in html
    assert "max-width: 700px" in html
    assert 'name="viewport"' in html


def test_every_text_is_escaped():
    """Titles, labels and reasons come from outside."""
    html = whole_page()
    assert "A &lt;run&gt;" in html
    assert "plain &lt;fine-tuning&gt;" in html
    assert "NaN in &lt;layer&gt;" in html
    assert "a &lt; b" in html
    assert "<run>" not in html


def test_a_page_says_what_it_was_given():
    """Verdicts, lost emotions, shares and counts can be read in it."""
    html = whole_page()
    assert '<li class="yes">' in html
    assert '<li class="no">' in html
    assert "the gate rejected the update at 0.5 of its strength: it would lose emotion=sad." in html
    assert "+40.0%" in html
    assert ">25%</td>" in html
    assert "not known" in html
    assert "× 7" in html
    assert "half within 21.0 ms, 99 of 100 within" in html


def test_ticks_are_round_numbers():
    """1, 2 or 5 times a power of ten, from 0 to the end."""
    assert charts.ticks(250) == [0, 50, 100, 150, 200, 250]
    assert charts.ticks(1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert charts.ticks(7) == [0, 2, 4, 6]


def test_charts_refuse_to_draw_nothing():
    """No point beyond the start, and no value."""
    with pytest.raises(UsageError, match="beyond x = 0"):
        charts.curves([Curve("x", ((0, 1.0),))], "x", "y")
    with pytest.raises(UsageError, match="at least one value"):
        charts.histogram({"idle": []})


def test_the_pictures_grow_with_their_columns():
    """Sheets are drawn for twice the resolution; the picture of forgetting has its chart below the faces."""
    sheet = plots.samples("Title", ROWS, GROUPS, face_px=20)
    story = plots.forgetting("Title", ROWS, GROUPS, LINES, face_px=20)
    assert sheet.mode == story.mode == "RGB"
    assert story.height > 600
    wider = plots.samples("Title", ROWS, (("all", ("happy", "sad", "love", "joy")),), face_px=20)
    assert wider.width > plots.samples("Title", ROWS, (("all", ("happy",)),), face_px=20).width


def test_wrong_faces_are_framed_in_red():
    """Of the two rows only the second holds red: 10 % of its happy faces are right."""
    red = np.array([0xC8, 0x44, 0x3A])

    def n_red(rows: list[Row]) -> int:
        pixels = np.asarray(plots.samples("", rows, (("", ("happy",)),), face_px=20)).astype(int)
        return int((np.abs(pixels - red).max(axis=-1) < 12).sum())

    assert n_red(ROWS[:1]) == 0
    assert n_red(ROWS[1:]) > 100


def test_sheets_without_rows_or_columns_are_refused():
    """There would be nothing to see."""
    with pytest.raises(UsageError, match="one row and one column"):
        plots.samples("", [], GROUPS)
    with pytest.raises(UsageError, match="one row and one column"):
        plots.samples("", ROWS, ())
    with pytest.raises(UsageError, match="beyond x = 0"):
        plots.forgetting("", ROWS, GROUPS, [])


def test_a_mosaic_holds_four_pictures_or_one():
    """Four corners with a gap between them; fewer than four give the first alone."""
    four = report.mosaic([face(1), face(2), face(3), face(4)])
    assert four.shape == (34, 34, 3)
    assert [int(four[y, x, 0]) for y, x in ((0, 0), (0, 33), (33, 0), (33, 33), (16, 16))] == [1, 2, 3, 4, 255]
    assert report.mosaic([face(1), face(2)]).shape == (16, 16, 3)
