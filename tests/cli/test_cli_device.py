"""One device from ``init`` to ``rollback``, by the command line alone, on a small real release."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
import typer

from evergrove import Device
from evergrove.adapters.images import decode, encode_png
from evergrove.adapters.release import open_release
from evergrove.cli.learn import finish
from evergrove.core.messages import JobResult
from evergrove.media.packs import read_pack
from evergrove.media.provenance import read_provenance


def pictures(folder: Path, picture) -> Path:  # type: ignore[no-untyped-def]
    """An imagefolder: five new pictures of ``love``, a copy of one, a blank one and a broken one."""
    folder.mkdir()
    rows = ["file_name,emotion,hair"]
    for i in range(5):
        (folder / f"{i}.png").write_bytes(encode_png(picture(i % 3, i % 2, 50 + 7 * i)))
        rows.append(f"{i}.png,love,{'curly' if i % 2 else 'bob'}")
    (folder / "copy.png").write_bytes((folder / "0.png").read_bytes())
    (folder / "blank.png").write_bytes(encode_png(np.zeros((16, 16, 3), np.uint8)))
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:40])
    rows += ["copy.png,love,bob", "blank.png,love,bob", "broken.png,love,bob"]
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def device(release: Path, evergrove, tmp_path: Path):  # type: ignore[no-untyped-def]
    """A new device that learns only when told to; its agent ends with the test."""
    path = tmp_path / "device"
    said = evergrove("init", path, "--release", release, "--set", "learn.auto=false", "--set", "learn.steps=3")
    assert said.code == 0, said.err
    assert "emotion" in said.out
    assert f"evergrove generate emotion=neutral hair=bob --device {path}" in said.out
    yield path
    Device.open(path).close(stop_agent=True)


def test_init_refuses_what_is_not_empty_and_keeps_its_settings(device: Path, evergrove, release: Path) -> None:  # type: ignore[no-untyped-def]
    """Settings given to ``init`` are the device's own from then on."""
    assert evergrove("config", "--device", device, "--json").json["learn.steps"]["value"] == 3
    said = evergrove("init", device, "--release", release)
    assert (said.code, "not an empty folder" in said.err) == (2, True)
    assert evergrove("init", device.parent / "other", "--release", "avatarz").code == 1
    assert not (device.parent / "other").exists()


def test_pictures_are_written_with_their_seed_version_and_latency(device: Path, evergrove, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """The same seed gives the same picture; several become numbered files or one sheet."""
    out = tmp_path / "face.png"
    words = ("generate", "emotion=happy", "--device", device, "--seed", 7)
    one = evergrove(*words, "--out", out, "--json")
    assert one.code == 0, one.err
    (image,) = one.json["images"]
    assert (image["path"], image["seed"], image["version"]) == (str(out), 7, None)
    assert image["latency_ms"] > 0
    first = decode(out.read_bytes())
    assert '"seed": 7' in read_provenance(out.read_bytes())["evergrove"]

    three = evergrove(*words, "--out", out, "--count", 3)
    assert three.code == 0
    assert [path.name for path in sorted(tmp_path.glob("face-*.png"))] == ["face-1.png", "face-2.png", "face-3.png"]
    assert (decode((tmp_path / "face-1.png").read_bytes()) == first).all()
    assert "release" in three.out

    sheet = evergrove(*words, "--out", tmp_path / "sheet.png", "--count", 4, "--sheet", "--json")
    assert {image["path"] for image in sheet.json["images"]} == {str(tmp_path / "sheet.png")}
    assert decode((tmp_path / "sheet.png").read_bytes()).shape[1] > 2 * first.shape[1]
    assert evergrove("generate", "emotion=hapy", "--device", device).err.count("happy") == 1


def test_a_folder_is_observed_and_every_reason_is_said(device: Path, evergrove, picture, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Kept, dropped and refused in one table; a value that is new is named."""
    folder = pictures(tmp_path / "party", picture)
    said = evergrove("observe", folder, "--device", device, "--json")
    assert said.code == 0, said.err
    found = said.json
    assert (found["observed"], found["kept"] + found["dropped"], found["refused"]) == (8, 6, 2)
    assert found["new_values"] == ["emotion=love"]
    assert found["reasons"]["dropped: exact duplicate"] == 1
    outcomes = {Path(item["path"]).name: item["outcome"] for item in found["items"]}
    assert (outcomes["copy.png"], outcomes["blank.png"], outcomes["broken.png"]) == ("dropped", "refused", "refused")

    again = evergrove("observe", folder, "--device", device)
    assert again.code == 0
    assert "exact duplicate" in again.out
    assert "broken.png" in again.out

    one = evergrove("observe", folder / "broken.png", "emotion=love", "--device", device, "--json")
    assert (one.code, one.json["error"]["reason"]) == (1, "undecodable")
    assert (
        evergrove("observe", folder / "0.png", "emotion=love", "--device", device).out == "Dropped: exact duplicate.\n"
    )
    typo = evergrove("observe", folder / "1.png", "emotion=hapy", "--device", device)
    assert "emotion=happy" in typo.err
    unknown = evergrove("observe", folder, "mood=love", "--device", device)
    assert (unknown.code, "emotion" in unknown.err) == (1, True)

    status = evergrove("status", "--device", device, "--json").json
    assert status["observed"] == 8 + 8 + 3
    text = evergrove("status", "--device", device)
    assert "emotion=love" in text.out
    assert "Latest decisions" in text.out


def test_golden_sets_are_shown_and_checked_again(device: Path, evergrove) -> None:  # type: ignore[no-untyped-def]
    """The release alone cannot have drifted from itself."""
    found = evergrove("golden", "show", "--device", device, "--json").json
    assert found["release"]["counts"]["emotion"] == {"neutral": 40, "happy": 40, "sad": 40}
    assert found["device"] == {}
    assert "neutral, happy, sad: 40 each" in evergrove("golden", "show", "--device", device).out
    checked = evergrove("golden", "check", "--device", device)
    assert (checked.code, checked.out.endswith(".\n")) == (0, True)


def test_rollback_from_the_release_alone_says_that_there_is_nothing_before(device: Path, evergrove) -> None:  # type: ignore[no-untyped-def]
    """And changes nothing."""
    said = evergrove("rollback", "--yes", "--device", device)
    assert (said.code, "no version before" in said.err) == (2, True)
    assert evergrove("status", "--device", device, "--json").json["active"] is None


def test_a_png_can_be_read_back(device: Path, evergrove, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """What ``generate`` writes, ``observe`` understands."""
    out = tmp_path / "face.png"
    assert evergrove("generate", "emotion=sad", "--device", device, "--out", out).code == 0
    assert decode(out.read_bytes()).shape == (16, 16, 3)
    assert evergrove("observe", out, "emotion=sad", "--device", device).code == 0


def test_the_shipped_tiny_release_learns_a_new_condition(evergrove, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Inverted pictures are a new emotion: whatever the gate thinks of it, it is a sentence and an exit code."""
    release = open_release("tiny")
    factor = release.manifest.vocabulary.names[0]
    pack = read_pack(release.path_of(release.manifest.rehearsal))
    party, device = tmp_path / "party", tmp_path / "device"
    party.mkdir()
    for i, image in enumerate(pack.images[:24]):
        (party / f"{i:02}.png").write_bytes(encode_png(255 - image))
    settings = ("--set", "learn.auto=false", "--set", "learn.steps=20", "--set", "learn.batch=8")
    assert evergrove("init", device, "--release", "tiny", *settings).code == 0
    try:
        nothing = evergrove("learn", "--device", device)
        assert (nothing.code, nothing.out[-2:]) == (1, ".\n")
        seen = evergrove("observe", party, f"{factor}=inverted", "--device", device, "--json").json
        assert seen["new_values"] == [f"{factor}=inverted"]
        assert seen["kept"] > 8

        learnt = evergrove("learn", "--device", device)
        assert learnt.code in (0, 5), learnt
        assert learnt.out.startswith("The gate ")
        assert "20 steps" in learnt.out
        drawn = evergrove("generate", f"{factor}=inverted", "--device", device, "--out", tmp_path / "new.png")
        assert drawn.code == (0 if learnt.code == 0 else 1)

        listed = evergrove("adapters", "list", "--device", device, "--json").json
        sha256 = listed["adapters"][0]["sha256"]
        assert listed["adapters"][0]["learnt"] == [f"{factor}=inverted"]
        shown = evergrove("adapters", "show", sha256[:6], "--device", device, "--json").json
        assert (shown["sha256"], shown["finite"]) == (sha256, True)
        assert evergrove("adapters", "show", "ffffffffff", "--device", device).code == 2
        assert evergrove("adapters", "offer", tmp_path / "none.safetensors", "--device", device).code == 2
    finally:
        Device.open(device).close(stop_agent=True)


@pytest.mark.parametrize(
    ("verdict", "code"),
    [("accepted", 0), ("started", 0), ("rejected", 5), ("refused", 1), ("failed", 1), ("deferred", 1)],
)
def test_a_verdict_is_an_exit_code(verdict: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    """And its sentence ends with a full stop; with --json it is the one document."""
    result = JobResult("job-1", verdict, "it would lose emotion=sad", failed=("emotion=sad",), steps=1, seconds=61)
    for as_json in (False, True):
        try:
            finish(result, as_json)
            found = 0
        except typer.Exit as end:
            found = end.exit_code
        assert found == code
        out = capsys.readouterr().out
        if as_json:
            assert msgspec.json.decode(out, type=JobResult) == result
        elif verdict != "started":
            assert out == "It would lose emotion=sad.\n1 step, 1 min 1 s\n"
