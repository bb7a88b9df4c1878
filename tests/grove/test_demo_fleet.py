"""``evergrove demo fleet --quick`` as a person runs it: everything that its verdict claims holds."""

import json
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="Flower is not installed: pip install 'flwr==1.41.0'")

from evergrove.cli.main import run

pytestmark = pytest.mark.grove


def test_the_quick_story_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0, a verdict without a missed bar, and the files of a run."""
    code = run(["demo", "fleet", "--quick", "--runs", str(tmp_path), "--json"])
    said = capsys.readouterr()
    assert code == 0, said.err[-4000:]
    numbers = json.loads(said.out)
    assert numbers["ok"]
    assert numbers["bytes"]["raw_media"] == 0
    assert all(one["refused"] for one in numbers["intruders"])
    folder = (tmp_path / "latest").resolve()
    assert json.loads((folder / "metrics.json").read_text()) == numbers
    page = (folder / "report.html").read_text()
    assert "ε = ∞" in page
    assert "MISSED" not in page
    assert (folder / "events.jsonl").stat().st_size > 0
