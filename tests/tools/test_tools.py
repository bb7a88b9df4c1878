"""The repository's own tools: README blocks are found and really run, and a bad metrics file is named bar by bar."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TOOLS = Path(__file__).parents[2] / "tools"

README = """# Title
```bash
echo one > a.txt
```
- a list
  ```python
  if True:
      print(open("a.txt").read(), file=open("b.txt", "w"))
  ```
<!-- no-run: needs a camera -->
```bash
exit 7
```
```toml
not = "run"
```
```bash
test "$HOME" = "$PWD/home"
grep one b.txt
```
<!-- no-run: needs two -->
```bash
exit 8
```
"""


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def good_metrics() -> dict[str, Any]:
    learnt = {"old_accuracy": 0.99, "new_accuracy": 0.9, "steps": 120, "seconds": 30.0, "adapter_bytes": 200_000}
    return {
        "base": {"oracle_accuracy": 0.99},
        "stream": {"observed": 200, "kept": 60},
        "learning": {
            "evergrove": {**learnt, "gate": "accept"},
            "naive": {**learnt, "gate": "reject", "old_accuracy": 0.2},
        },
        "gate": {"injected": 4, "refused": 4},
        "recovery": {"kills": 2, "recovered": 2},
        "inference": {"p50_ms": 20.0, "p99_ms": 30.0},
    }


def test_blocks_run_in_order_in_one_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three blocks run, the marked ones are listed, each with its own reason, other languages are not looked at."""
    readme = tool("readme_blocks")
    (tmp_path / "README.md").write_text(README, encoding="utf-8")
    assert [(b.line, b.language, b.no_run) for b in readme.blocks(README)] == [
        (2, "bash", None),
        (6, "python", None),
        (11, "bash", "needs a camera"),
        (17, "bash", None),
        (22, "bash", "needs two"),
    ]
    assert readme.main([str(tmp_path / "README.md")]) == 0
    said = capsys.readouterr().out
    assert "needs a camera" in said
    assert "3 blocks ran, 2 skipped" in said


@pytest.mark.parametrize("block", ["```bash\nfalse\ntrue\n```\n", "```python\nraise SystemExit(3)\n```\n"])
def test_a_failing_block_fails_and_stops(tmp_path: Path, capsys: pytest.CaptureFixture[str], block: str) -> None:
    """The first failure ends the run; it says which block and what it printed."""
    readme = tool("readme_blocks")
    (tmp_path / "README.md").write_text(block + "```bash\ntouch reached\n```\n", encoding="utf-8")
    assert readme.main([str(tmp_path / "README.md")]) == 1
    said = capsys.readouterr()
    assert "FAILED" in said.out
    assert "exit code" in said.err
    assert "ok" not in said.out


def test_a_picture_that_is_not_there_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Links to the web and within the page are none of its business; files beside it are."""
    readme = tool("readme_blocks")
    page, picture = tmp_path / "README.md", tmp_path / "faces.png"
    page.write_text("![faces](faces.png) [web](https://example.org/x) [below](#below)\n", encoding="utf-8")
    assert readme.main([str(page)]) == 1
    assert "faces.png" in capsys.readouterr().err
    picture.touch()
    assert readme.main([str(page)]) == 0


def test_metrics_are_judged_by_fixed_bars(tmp_path: Path) -> None:
    """Good ones pass; every single bar can fail; a missing number is a failure."""
    check = tool("check_metrics")
    assert check.failures(good_metrics()) == []
    bad = {
        ("learning", "evergrove", "old_accuracy"): 0.9,
        ("learning", "evergrove", "gate"): "reject",
        ("learning", "naive", "old_accuracy"): 0.7,
        ("learning", "naive", "gate"): "accept",
        ("gate", "refused"): 3,
        ("recovery", "recovered"): 1,
        ("stream", "kept"): 200,
        ("inference", "p50_ms"): None,
    }
    for path, value in bad.items():
        metrics = good_metrics()
        branch = metrics
        for part in path[:-1]:
            branch = branch[part]
        branch[path[-1]] = value
        assert len(check.failures(metrics)) == 1, path
    (tmp_path / "m.json").write_text(json.dumps({}), encoding="utf-8")
    assert check.main([str(tmp_path / "m.json")]) == 1
