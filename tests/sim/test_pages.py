"""A run's report is one page that says what happened; its charts show what they are given."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from evergrove.cli.main import run as evergrove
from evergrove.core.errors import UsageError
from evergrove.media import timelines
from evergrove.media.timelines import Band, Span
from evergrove.sim import fleet, pages, run, scenario

BUSY = """
name = "busy"
title = "Busy & <hot>"
hours = 30
start_hour = 20
[[fleet]]
name = "phone"
count = 3
[fleet.stream]
per_day = 300
n_new = 2
[fleet.config.telemetry]
period_s = 60
[fleet.config.learn]
min_new = 20
[[fleet]]
name = "board"
count = 23
[fleet.power]
capacity_wh = 0
[fleet.stream]
per_day = 0
[fleet.config.telemetry]
period_s = 600
[faults.crash]
per_day = 3
"""


class Checker(HTMLParser):
    """Tags that are opened and closed in order."""

    VOID = ("meta", "br", "img")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        assert not any(name in ("src", "href") and value and value.startswith("http") for name, value in attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        return

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["h2"]:
            self.headings.append(data)


def test_the_report_has_every_section_and_is_well_formed() -> None:
    """All tags close, nothing is asked of the network, the title is escaped, and a part of many devices is shown."""
    outcome = fleet.simulate(scenario.parse(BUSY))
    numbers = fleet.metrics(outcome)
    html = pages.page(outcome, numbers)
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    assert checker.headings == [
        "In numbers",
        "Decisions over time",
        "Temperatures",
        "Work done",
        "How long learning takes",
        "Batteries",
        "Why",
        "One device's decisions",
        "The fleets",
        "What went wrong",
    ]
    assert "Busy &amp; &lt;hot&gt;" in html
    assert "Shown are 24 of 26" in html
    assert numbers["digest"] in html
    assert all(claim.holds for claim in pages.claims(outcome, numbers))
    assert len(pages.claims(outcome, numbers)) == 3


def test_a_fleet_that_has_nothing_to_learn_still_gives_a_report(tmp_path: Path) -> None:
    """No delays, no batteries: the sections are left out, and no division fails."""
    text = BUSY[BUSY.index('[[fleet]]\nname = "board"') : BUSY.index("[faults")]
    numbers = run.execute(scenario.parse('name = "still"\nhours = 1\n' + text), tmp_path / "run")
    assert numbers["total"]["delay_h"] is None
    html = (tmp_path / "run" / "report.html").read_text()
    assert "How long learning takes" not in html
    assert "Batteries" not in html
    assert [line for line in run.lines(numbers, 1.0) if "crashes" in line or "from kept" in line] == []


def test_a_run_never_writes_over_another_one(tmp_path: Path) -> None:
    """A folder with something in it is refused; so is a place where none can be made."""
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UsageError, match="not an empty folder"):
        run.execute(scenario.parse(BUSY), tmp_path)
    from evergrove.core.errors import EvergroveError

    with pytest.raises(EvergroveError, match="choose another --out"):
        run.execute(scenario.parse(BUSY), tmp_path / "note.txt" / "run")


def test_the_command_runs_a_scenario_with_another_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """JSON on stdout, or sentences; the folder is named, and without --out it is a new one in runs/."""
    import json

    monkeypatch.chdir(tmp_path)
    Path("s.toml").write_text('name = "s"\nhours = 1\n[[fleet]]\nname = "phone"\n')
    assert evergrove(["simulate", "s.toml", "--seed", "4", "--out", "here", "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["seed"] == 4
    assert numbers["folder"] == "here"
    assert "seed = 4" in Path("here/config.resolved.toml").read_text()
    assert evergrove(["simulate", "s.toml"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"Report: runs/\d{8}-\d{6}-s/report.html", out)
    assert (Path("runs") / "latest" / "metrics.json").is_file()
    assert evergrove(["simulate", "t.toml"]) == 3
    assert "did you mean 's.toml'" in capsys.readouterr().err


def test_a_band_is_drawn_between_its_edges_with_its_limit() -> None:
    """Two points of 20-40 °C and a limit at 80; the night from 22:00 on is shaded."""
    line = Band("boards", [0.0, 4.0], [20.0, 20.0], [30.0, 30.0], [40.0, 40.0], "warm")
    svg = timelines.bands([line], 20.0, "°C", "°", [(80.0, "trip")])
    assert svg.count('class="night"') == 1
    assert 'class="band warm"' in svg
    assert ">trip<" in svg
    assert ">80°<" in svg
    assert ">22:00<" in svg


def test_strips_name_their_rows_and_draw_their_spans() -> None:
    """A paler span for a smaller share; the legend has every kind."""
    rows = [("d-1", [Span(0, 2, "training", 0.5), Span(2, 3, "paused")]), ("d<2", [Span(1, 48, "off")])]
    svg = timelines.strips(rows, 0.0, (("training", "trains"), ("off", "off")))
    assert 'fill-opacity="0.50"' in svg
    assert "d&lt;2" in svg
    assert ">day 2<" in svg
    assert ">trains<" in svg


def test_a_distribution_counts_and_marks() -> None:
    """Ten values: the bars hold all of them."""
    svg = timelines.distribution([1.0] * 9 + [10.0], "h", "hours", "things")
    assert sum(int(n) for n in re.findall(r"<title>(\d+)</title>", svg)) == 10
    assert "half within 1.0 h, 9 of 10 within 1.9 h, the slowest 10.0 h (n = 10)" in svg
    assert "bar good" in timelines.distribution([0.0], "h", "hours", "things")


def test_charts_of_nothing_are_refused() -> None:
    """Each says what it needs."""
    with pytest.raises(UsageError, match="beyond its start"):
        timelines.bands([], 0.0, "°C")
    with pytest.raises(UsageError, match="one span"):
        timelines.strips([("d", [])], 0.0, ())
    with pytest.raises(UsageError, match="one value"):
        timelines.distribution([], "h", "hours", "things")
