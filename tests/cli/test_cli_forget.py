"""`evergrove forget`, by the command line alone: what it asks, refuses, says and leaves."""

from pathlib import Path

import pytest

from evergrove import Device
from evergrove.adapters.images import encode_png


@pytest.fixture
def device(release: Path, evergrove, picture, tmp_path: Path):  # type: ignore[no-untyped-def]
    """A device that was shown five pictures of love and one of happy; its agent ends with the test."""
    path = tmp_path / "device"
    assert evergrove("init", path, "--release", release, "--set", "learn.auto=false").code == 0
    with Device.open(path) as opened:
        for i in range(5):
            opened.observe(encode_png(picture(i % 3, i % 2, 50 + 7 * i)), {"emotion": "love", "hair": "bob"})
        opened.observe(encode_png(picture(1, 0, 3)), {"emotion": "happy", "hair": "bob"})
    yield path
    Device.open(path).close(stop_agent=True)


def test_a_condition_is_forgotten_and_the_receipt_says_so(device: Path, evergrove) -> None:  # type: ignore[no-untyped-def]
    """Nobody is there to answer: refused without --yes. Afterwards the name is unknown; the other picture stays."""
    said = evergrove("forget", device, "--condition", "emotion=love")
    assert (said.code, "add --yes" in said.err) == (2, True)
    before = evergrove("status", "--device", device, "--json").json["records"]
    said = evergrove("forget", device, "--condition", "emotion=love", "--yes", "--json")
    assert said.code == 0, said.err
    assert (said.json["what"], said.json["versions"], said.json["withdrawn"]) == ("condition", [], False)
    assert said.json["n_records"] >= before["emotion=love"]
    assert Path(said.json["receipt"]).read_text().count("love") == 0
    assert "emotion=love" not in evergrove("status", "--device", device, "--json").json["records"]
    again = evergrove("forget", device, "--condition", "emotion=love", "--yes")
    assert (again.code, "unknown emotion 'love'" in again.err) == (1, True)
    said = evergrove("forget", device, "--all", "--yes")
    assert said.code == 0
    assert said.out.splitlines()[0] == "Forgotten: 1 observation. Versions deleted: none had learnt from it."
    assert "What cannot be undone:" in said.out


def test_what_lies_in_runs_is_not_of_a_device_and_not_reached(  # type: ignore[no-untyped-def]
    device: Path, evergrove, picture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device's commands write into its folder and where they are told to; demos and benches fill ``runs/``."""
    here = tmp_path / "here"
    (here / "runs" / "latest").mkdir(parents=True)
    monkeypatch.chdir(here)
    (here / "shown").mkdir()
    for i in range(4):
        (here / "shown" / f"{i}.png").write_bytes(encode_png(picture(i % 3, i % 2, 400 + 7 * i)))
    for words in (
        ("observe", "shown", "emotion=love", "--device", device),
        ("generate", "emotion=happy", "--device", device, "--out", "drawn.png", "--seed", 1),
        ("status", "--device", device),
        ("audit", device, "--export", "ledger.jsonl"),
    ):
        said = evergrove(*words)
        assert said.code == 0, (words, said.err)
    said = evergrove("forget", device, "--all", "--yes", "--json")
    found = {str(path.relative_to(here)) for path in here.rglob("*") if path.is_file()}
    assert {name for name in found if not name.startswith("shown")} == {"drawn.png", "ledger.jsonl"}
    unreached = said.json["cannot_be_undone"]
    assert any("adapters, pictures or ledgers that were taken out of it" in one for one in unreached)
    (plain,) = (one for one in unreached if "runs/" in one)
    assert plain.endswith("forgetting does not look there")
    assert f"  - {plain}" in evergrove("forget", device, "--all", "--yes").out.splitlines()


@pytest.mark.parametrize("words", [(), ("--all", "--observation", "x"), ("--condition", "emotion=love", "--all")])
def test_exactly_one_thing_is_to_be_forgotten(tmp_path: Path, evergrove, words: tuple[str, ...]) -> None:  # type: ignore[no-untyped-def]
    """Before any device is opened."""
    said = evergrove("forget", tmp_path, *words, "--yes")
    assert (said.code, "what is to be forgotten?" in said.err) == (2, True)


def test_an_unknown_observation_is_said_and_nothing_is_done(device: Path, evergrove) -> None:  # type: ignore[no-untyped-def]
    """One line with what was wrong and the way out."""
    said = evergrove("forget", device, "--observation", "f" * 32, "--yes")
    assert said.code == 2
    assert f"there is no observation '{'f' * 32}' here; `observe --json` says" in said.err
    assert not (device / "receipts").exists()
