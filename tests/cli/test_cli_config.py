"""``evergrove config``: what is in force, and who said so."""

import tomllib
from pathlib import Path


def test_every_value_says_where_it_comes_from(evergrove, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Flag before environment before file before default."""
    (tmp_path / "device.toml").write_text("[learn]\nsteps = 10\nbatch = 4\nmin_new = 5\n")
    monkeypatch.setenv("EVERGROVE_LEARN__STEPS", "20")
    monkeypatch.setenv("EVERGROVE_LEARN__BATCH", "8")
    found = evergrove("config", "--device", tmp_path, "--set", "learn.steps=30", "--json").json
    assert found["learn.steps"] == {"value": 30, "from": "--set"}
    assert found["learn.batch"] == {"value": 8, "from": "EVERGROVE_LEARN__BATCH"}
    assert found["learn.min_new"] == {"value": 5, "from": str(tmp_path / "device.toml")}
    assert found["learn.threads"] == {"value": 1, "from": "default"}
    assert found["seed"]["from"] == "default"


def test_the_output_is_toml_that_says_the_same(evergrove, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """So it can be written to a file and given to ``init --config``."""
    monkeypatch.chdir(tmp_path)
    text = evergrove("config", "--set", "learn.steps=30").out
    values = evergrove("config", "--set", "learn.steps=30", "--json").json
    tree = tomllib.loads(text)
    assert tree.pop("seed") == values.pop("seed")["value"]
    assert {f"{s}.{k}": v for s, section in tree.items() for k, v in section.items()} == {
        key: entry["value"] for key, entry in values.items()
    }


def test_an_unknown_key_is_refused_with_the_nearest_right_one(evergrove, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Exit code 3, from a flag and from a file alike."""
    monkeypatch.chdir(tmp_path)
    said = evergrove("config", "--set", "learn.setps=30")
    assert (said.code, "steps" in said.err) == (3, True)
    (tmp_path / "device.toml").write_text("[lern]\n")
    said = evergrove("config")
    assert (said.code, "learn" in said.err, "device.toml" in said.err) == (3, True, True)
