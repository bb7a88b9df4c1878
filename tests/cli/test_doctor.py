"""``evergrove doctor``: each probe on its own, and what the command makes of them."""

from pathlib import Path

import pytest

from evergrove.adapters import doctor
from evergrove.adapters.doctor import Check


@pytest.mark.parametrize(
    ("version", "wanted", "fits"),
    [
        ("2.6.0", ">=2.6,<2.14", True),
        ("2.13.0", ">=2.6,<2.14", True),
        ("2.14.1", ">=2.6,<2.14", False),
        ("2.5.1", ">=2.6", False),
        ("2.6", "==2.6.0", True),
        ("2.7", "==2.6", False),
        ("9", "", True),
    ],
)
def test_versions_are_compared_as_numbers(version: str, wanted: str, fits: bool) -> None:
    """2.13 is newer than 2.6."""
    assert doctor.within(version, wanted) is fits


def test_memory_is_what_is_free_not_what_there_is(tmp_path: Path) -> None:
    """A full machine gets a warning, one without /proc an honest 'unknown'."""
    (tmp_path / "meminfo").write_text("MemTotal: 8388608 kB\nMemFree: 0 kB\nMemAvailable: 4194304 kB\n")
    assert doctor.memory(tmp_path) == Check("Memory", "ok", "4.0 GB free of 8.0 GB")
    (tmp_path / "meminfo").write_text("MemTotal: 8388608 kB\nMemAvailable: 524288 kB\n")
    assert doctor.memory(tmp_path).state == "warning"
    assert doctor.memory(tmp_path / "nowhere").found == "unknown"


def test_a_folder_that_is_not_there_yet_is_judged_by_its_parent(tmp_path: Path) -> None:
    """A device's folder is made later, by ``init``."""
    found = doctor.disk(tmp_path / "a" / "b")
    assert found.state == "ok"
    assert str(tmp_path) in found.found


def test_extras_come_from_the_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is named, with the command that installs it."""
    lines = ["torch<2.14,>=2.6", "nosuchthing>=1; extra == 'demo'", "rich>=13; extra == 'pretty'"]
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: lines)
    demo, pretty = doctor.extras()
    assert (demo.state, pretty.state) == ("warning", "ok")
    assert "nosuchthing" in demo.found
    assert "pip install 'evergrove[demo]'" in demo.way_out
    assert doctor.requirement("torch") == "<2.14,>=2.6"


def test_torch_is_looked_up_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing, too new, and right."""
    monkeypatch.setattr(doctor, "requirement", lambda package: ">=2.6,<2.14")
    versions = {"none": None, "new": "2.14.0+cu126", "right": "2.13.0+cpu"}
    found = {}
    for name, version in versions.items():
        monkeypatch.setattr(doctor, "installed", lambda package, version=version: version)
        found[name] = doctor.torch()
    assert [found[name].state for name in versions] == ["missing", "missing", "ok"]
    assert found["right"].found == "2.13.0 (CPU build)"


def test_this_machine_is_examined_whole(evergrove, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Every check has a name of its own, and what is not well has a way out; the text says the same as the JSON."""
    said = evergrove("doctor", "--device", tmp_path, "--json")
    checks = said.json["checks"]
    names = [check["name"] for check in checks]
    assert len(set(names)) == len(names)
    assert {"Python", "PyTorch", "Memory", "Disk", "Key", "Idle priority", "Local sockets"} <= set(names)
    assert all(check["way_out"] for check in checks if check["state"] != "ok")
    assert said.code == (0 if said.json["ready"] else 4)
    plain = evergrove("doctor", "--device", tmp_path)
    assert all(name in plain.out for name in names)


def test_a_missing_piece_exits_with_4(evergrove, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """The way out is printed below the table."""
    monkeypatch.setattr(doctor, "examine", lambda folder: (Check("PyTorch", "missing", "not installed", "pip it"),))
    said = evergrove("doctor")
    assert said.code == 4
    assert "PyTorch: pip it" in said.out
