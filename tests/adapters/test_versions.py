"""The pointer to what serves: turned in one step, never to anything unverified, and repaired when it is damaged."""

import os
from pathlib import Path

import pytest
from faults import Killed, count_steps, full_at, killed_at

from evergrove.adapters.files import DiskFull, Files
from evergrove.adapters.versions import BACKUP, POINTER, Active, Pointer, Versions
from evergrove.core.errors import InvalidArtefact, UsageError
from evergrove.core.release import sha256_hex

A, B, C = (letter * 1000 for letter in (b"a", b"b", b"c"))


def two_active(folder: Path, files: Files | None = None) -> tuple[Versions, str, str]:
    """B serves on probation, A is the one before."""
    versions = Versions(folder, files=files)
    assert versions.recover() == []
    a, b = versions.add(A), versions.add(B)
    versions.activate(a, None, 1, probation=False)
    versions.activate(b, a, 2, probation=True)
    return versions, a, b


def test_promote_confirm_roll_back(tmp_path: Path) -> None:
    """The three movements of the pointer, as an app and a restarted agent see them."""
    versions, a, b = two_active(tmp_path)
    app = Versions(tmp_path)
    assert app.read_pointer() == Pointer(2, b, a, probation=True)
    assert app.active() == Active(b, B, None)
    versions.activate(b, a, 2, probation=False)
    assert app.read_pointer() == Pointer(2, b, a, probation=False)
    versions.activate(a, None, 3, probation=False)
    assert app.active() == Active(a, A, None)
    versions.activate(None, None, 4, probation=False)
    assert app.active() == Active(None, None, None)
    assert Versions(tmp_path).recover() == []
    assert Versions(tmp_path).read_pointer() == Pointer(4)


def test_a_new_device_serves_the_release_alone(tmp_path: Path) -> None:
    """No folder, no pointer: nothing to complain about."""
    versions = Versions(tmp_path / "versions")
    assert versions.read_pointer() == Pointer()
    assert versions.active() == Active(None, None, None)
    assert versions.recover() == []
    assert not (tmp_path / "versions" / POINTER).exists() or versions.read_pointer() == Pointer()


def test_the_same_again_is_a_no_op_and_going_back_in_sequence_is_refused(tmp_path: Path) -> None:
    """A driver may repeat itself after a crash; an old order that comes late changes nothing."""
    versions, a, b = two_active(tmp_path)
    n_steps = count_steps(lambda files: Versions(tmp_path, files=files).activate(b, a, 2, probation=True))
    assert n_steps == 0
    for late in ((a, None, 1), (a, b, 2), (b, None, 2)):
        with pytest.raises(UsageError, match="does not follow 2"):
            versions.activate(*late, probation=False)
    assert versions.read_pointer() == Pointer(2, b, a, probation=True)


def test_unverified_files_are_never_activated(tmp_path: Path) -> None:
    """Missing, altered, truncated, or not even a name: refused, and the pointer stays."""
    versions, a, b = two_active(tmp_path)
    c = versions.add(C)
    versions.path_of(c).write_bytes(C[:-1])
    before = versions.read_pointer()
    with pytest.raises(InvalidArtefact, match="altered"):
        versions.activate(c, b, 3, probation=True)
    with pytest.raises(InvalidArtefact, match="missing"):
        versions.activate("0" * 64, b, 3, probation=True)
    with pytest.raises(UsageError, match="not the name of a version"):
        versions.activate("../../etc/passwd", a, 3, probation=True)
    assert versions.read_pointer() == before
    assert versions.add(C) == c
    assert versions.load(c) == C, "adding it again mends an altered file"


def test_fall_back_when_a_file_is_altered(tmp_path: Path) -> None:
    """Current altered → previous; both altered → the release alone; each time it is said, and mended at recovery."""
    versions, a, b = two_active(tmp_path)
    app = Versions(tmp_path)
    versions.path_of(b).write_bytes(B[:-1] + b"x")
    assert app.active()[:2] == (a, A)
    assert "altered" in (app.active().problem or "")
    said = Versions(tmp_path).recover()
    assert any(f"version {b[:12]} cannot serve; version {a[:12]} serves instead" in line for line in said)
    assert app.read_pointer() == Pointer(2, a, None, probation=False)
    versions.path_of(a).unlink()
    assert app.active()[:2] == (None, None)
    assert any("the release alone serves instead" in line for line in Versions(tmp_path).recover())
    assert app.read_pointer() == Pointer(2)


@pytest.mark.parametrize("harm", ["cut", "flip", "gone", "empty", "newer"])
def test_a_damaged_pointer_is_restored_from_its_backup(tmp_path: Path, harm: str) -> None:
    """Whatever is wrong with the pointer, what served goes on serving, and recovery says what it did."""
    _, _, b = two_active(tmp_path)
    path = tmp_path / POINTER
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        data = {
            "cut": whole[:position],
            "flip": whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :],
            "empty": b"",
            "newer": b'{"pointer":{"seq":9,"mood":1},"check":""}',
        }
        path.unlink()
        if harm != "gone":
            path.write_bytes(data[harm])
        app = Versions(tmp_path)
        assert app.active() == Active(b, B, None)
        assert "restored from its backup" in Versions(tmp_path).recover()[0]
        assert path.read_bytes() == whole


def test_without_pointer_and_backup_the_release_serves(tmp_path: Path) -> None:
    """Both gone or damaged: the release alone, said in words."""
    two_active(tmp_path)
    for content in (None, b"junk"):
        for name in (POINTER, BACKUP):
            (tmp_path / name).unlink()
            if content is not None:
                (tmp_path / name).write_bytes(content)
        assert Versions(tmp_path).active() == Active(None, None, None)
        assert "the release alone serves" in Versions(tmp_path).recover()[0]


def test_killed_or_full_at_every_step_of_a_promotion(tmp_path: Path) -> None:
    """What serves afterwards is the old version or the new one, verified; never anything else."""
    _, _, b = two_active(tmp_path / "count")
    c = sha256_hex(C)

    def promote(files: Files, folder: Path) -> None:
        versions = Versions(folder, files=files)
        versions.add(C)
        versions.activate(c, b, 3, probation=True)

    n_steps = count_steps(lambda files: promote(files, tmp_path / "count"))
    assert n_steps == 15
    for make in (killed_at, full_at):
        for step in range(n_steps):
            folder = tmp_path / f"{make.__name__}-{step}"
            two_active(folder)
            with pytest.raises((Killed, DiskFull)):
                promote(make(step), folder)
            app = Versions(folder)
            served = app.active()
            assert served in (Active(b, B, None), Active(c, C, None))
            said = Versions(folder).recover()
            assert all("left by an interrupted write" in line for line in said)
            assert app.active() == served
            assert not list(folder.glob(".*"))


def test_reading_the_pointer_is_one_stat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An app polls: nothing is opened unless the file changed."""
    versions, a, b = two_active(tmp_path)
    app = Versions(tmp_path)
    app.read_pointer()
    monkeypatch.setattr(os, "open", None)
    for _ in range(3):
        assert app.read_pointer().current == b
    monkeypatch.undo()
    versions.activate(a, None, 3, probation=False)
    assert app.read_pointer().current == a


def test_collection_keeps_both_slots_and_what_is_asked(tmp_path: Path) -> None:
    """Candidates that came to nothing go; current, previous and a candidate under way stay."""
    versions, a, b = two_active(tmp_path)
    c, d = versions.add(C), versions.add(b"d")
    assert versions.collect(keep=[c]) == [d]
    assert versions.collect() == [c]
    assert {p.stem for p in tmp_path.glob("*.safetensors")} == {a, b}


def test_collection_takes_what_a_killed_worker_left(tmp_path: Path) -> None:
    """Half a version does not lie about until the agent's next start."""
    versions, a, b = two_active(tmp_path)
    (tmp_path / f".{a}.safetensors.0011aabb.tmp").write_bytes(b"half")
    assert versions.collect() == []
    assert {p.name for p in tmp_path.iterdir() if p.suffix != ".json"} == {f"{a}.safetensors", f"{b}.safetensors"}


def test_large_adapters_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit holds on the way in and on the way out."""
    versions, _, b = two_active(tmp_path)
    monkeypatch.setattr("evergrove.adapters.versions.ADAPTER_BYTES_MAX", 500)
    with pytest.raises(UsageError, match="at most 500"):
        versions.add(C)
    with pytest.raises(InvalidArtefact, match="at most 500"):
        versions.load(b)
