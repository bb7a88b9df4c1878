"""``evergrove base`` from a folder of pictures to a release with a learnt A, in a few steps."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evergrove.adapters.release import open_release
from evergrove.cli.main import run
from evergrove.learn.base import load_base
from evergrove.learn.basis import load_basis


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sixteen grey pictures of two kinds, 12 pixels a side."""
    lines = ["file_name,kind"]
    (tmp_path / "pictures").mkdir()
    for i in range(16):
        kind = ("dark", "bright")[i % 2]
        pixels = np.full((12, 12), 60 if kind == "dark" else 220, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{i}.png")
        lines.append(f"{i}.png,{kind}")
    (tmp_path / "pictures" / "metadata.csv").write_text("\n".join(lines))
    return tmp_path / "pictures"


def test_from_a_folder_to_a_release(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Train, learn A, show, draw a sheet: each prints one JSON document, and the release verifies."""
    out = tmp_path / "base"
    train = ["base", "train", str(out), "--data", str(folder), "--steps", "2", "--threads", "1", "--json"]
    assert run(train) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["conditions"] == {"kind": ["bright", "dark"]}
    assert "resized 16 of 16 pictures (mostly 12×12) to 16×16" in said.err
    release = open_release(out)
    assert not (out / ".training").exists()
    first = (release.manifest.basis.sha256, release.manifest.base.sha256)

    adapt = ["base", "adapt-basis", str(out), "--data", str(folder), "--tasks", "1", "--steps", "2", "--threads", "1"]
    assert run([*adapt, "--rank", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rank"] == 3
    learnt = open_release(out).manifest
    assert learnt.base.sha256 == first[1]
    assert learnt.basis.sha256 != first[0]
    assert learnt.version == 2
    assert load_basis(out / learnt.basis.name, learnt.base.sha256, learnt.scale).rank == 3

    assert run(["base", "show", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["generate_ms"]["p50"] > 0
    picture = tmp_path / "sheet.png"
    assert run(["base", "sheet", str(out), "-o", str(picture), "--columns", "2", "--threads", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pictures"] == 4
    with Image.open(picture) as drawn:
        assert drawn.size[0] > 2 * 96
    assert load_base(out).config.image_px == 16


def test_a_release_grows_for_what_a_fleet_is_to_learn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two values more: a release of its own that opens, shows what is not judged, and can be drawn from."""
    out = tmp_path / "fleet"
    grow = ["base", "grow", "tiny", str(out), "--add", "emotion=love", "--add", "hair=mohawk", "--json"]
    assert run(grow) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["not_judged"] == {"emotion": ["love"], "hair": ["mohawk"]}
    assert said["version"] == open_release("tiny").manifest.version + 1
    assert "adapter.safetensors" in said["files"]
    picture = tmp_path / "sheet.png"
    assert run(["base", "sheet", str(out), "-o", str(picture), "--columns", "2", "--steps", "1", "--threads", "1"]) == 0
    assert picture.exists()
    assert run(["base", "adapt-basis", str(out), "--tasks", "1", "--steps", "1"]) == 2
    assert "belongs to its A" in capsys.readouterr().err
    assert run(grow) == 2
    assert "not an empty folder" in capsys.readouterr().err
    assert run(["base", "grow", "tiny", str(tmp_path / "other"), "--add", "love"]) == 2
    assert "factor=value" in capsys.readouterr().err


def test_faults_are_one_line_and_change_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unknown preset, other pictures than the release's, a folder without a table, no release at all."""
    out = tmp_path / "base"
    assert run(["base", "train", str(out), "--preset", "cats"]) == 2
    assert "known: avatars, tiny" in capsys.readouterr().err
    assert run(["base", "train", str(out), "--data", str(tmp_path)]) == 2
    assert "metadata.csv" in capsys.readouterr().err
    assert not out.exists()
    assert run(["base", "show", str(out)]) == 1
    assert "neither a release folder nor a packaged name" in capsys.readouterr().err
    assert run(["base", "train", str(out), "--data", str(folder), "--steps", "1", "--threads", "1"]) == 0
    before = (out / "manifest.json").read_bytes()
    (folder / "metadata.csv").write_text("file_name,digit\n0.png,1\n1.png,2\n2.png,2\n")
    assert run(["base", "adapt-basis", str(out), "--data", str(folder)]) == 2
    assert "their factors differ" in capsys.readouterr().err
    assert (out / "manifest.json").read_bytes() == before
