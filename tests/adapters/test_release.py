"""A release folder opens only when every file is the one that its manifest names."""

from pathlib import Path

import msgspec
import pytest

from evergrove.adapters import release as module
from evergrove.adapters.release import open_release, packaged
from evergrove.core.conditions import Factor, Vocabulary
from evergrove.core.errors import InvalidArtefact
from evergrove.core.release import FileRef, Manifest, sha256_hex

PARTS = ("base", "basis", "golden", "rehearsal")


def write_release(folder: Path, **change: object) -> Manifest:
    """A small release; its files hold their own names many times over."""
    folder.mkdir(parents=True, exist_ok=True)
    refs = {}
    for part in PARTS:
        data = part.encode() * 100
        (folder / f"{part}.bin").write_bytes(data)
        refs[part] = FileRef(f"{part}.bin", sha256_hex(data), len(data))
    manifest = Manifest(
        name="tiny",
        generation=1,
        version=1,
        image_px=16,
        vocabulary=Vocabulary((Factor("emotion", ("happy", "sad")),)),
        rank=4,
        scale=1.0,
        **refs,
    )
    manifest = msgspec.structs.replace(manifest, **change)
    (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return manifest


def test_open_and_read(tmp_path: Path) -> None:
    """The manifest comes back equal; its hash is that of its bytes; files are read by reference."""
    manifest = write_release(tmp_path / "r")
    for place in (tmp_path / "r", str(tmp_path / "r")):
        release = open_release(place)
        assert release.manifest == manifest
        assert release.manifest_hash == sha256_hex((tmp_path / "r" / "manifest.json").read_bytes())
        assert release.read(manifest.base) == b"base" * 100
        assert release.path_of(manifest.base) == (tmp_path / "r" / "base.bin").resolve()


@pytest.mark.parametrize("part", PARTS)
def test_every_file_is_checked(tmp_path: Path, part: str) -> None:
    """Missing, shorter, longer, one bit altered, a link: each refused by the name of the file."""
    write_release(tmp_path)
    path = tmp_path / f"{part}.bin"
    whole = path.read_bytes()
    for data in (whole[:-1], whole + b"x", b"", whole[:50] + b"?" + whole[51:]):
        path.write_bytes(data)
        with pytest.raises(InvalidArtefact, match=f"{part}.bin"):
            open_release(tmp_path)
    path.unlink()
    with pytest.raises(InvalidArtefact, match=f"{part}.bin.*missing"):
        open_release(tmp_path)
    (tmp_path / "elsewhere").write_bytes(whole)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidArtefact, match=f"{part}.bin"):
        open_release(tmp_path)


def test_altered_after_opening_is_found_at_load(tmp_path: Path) -> None:
    """A file that changes later is never handed out."""
    manifest = write_release(tmp_path)
    release = open_release(tmp_path)
    (tmp_path / "base.bin").write_bytes(b"evil" * 100)
    with pytest.raises(InvalidArtefact, match="SHA-256 differs"):
        release.read(manifest.base)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "", ".", "..", "a\\b"])
def test_names_stay_inside_the_folder(tmp_path: Path, name: str) -> None:
    """A manifest cannot point out of its folder."""
    write_release(tmp_path / "r", base=FileRef(name, "0" * 64, 6))
    (tmp_path / "secret").write_bytes(b"secret")
    with pytest.raises(InvalidArtefact, match="plain name"):
        open_release(tmp_path / "r")


def test_manifests_are_strict(tmp_path: Path) -> None:
    """Unknown fields, torn files, other schemas and other types are refused with the path to the fault."""
    write_release(tmp_path)
    path = tmp_path / "manifest.json"
    whole = path.read_bytes()
    for data, match in (
        (whole[:-5], "not a manifest"),
        (whole.replace(b'"rank":4', b'"rank":"4"'), r"\$\.rank"),
        (whole.replace(b'"rank":4', b'"rank":4,"mood":1'), "mood"),
        (whole.replace(b'"schema":1', b'"schema":2'), "schema 2.*update"),
        (b" " * (1 << 21), "at most"),
    ):
        path.write_bytes(data)
        with pytest.raises(InvalidArtefact, match=match):
            open_release(tmp_path)
    path.unlink()
    with pytest.raises(InvalidArtefact, match=r"no manifest\.json"):
        open_release(tmp_path)


def test_packaged_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare name means a packaged release; an unknown one lists what there is."""
    monkeypatch.setattr(module, "_assets", lambda: tmp_path)
    write_release(tmp_path / "tiny")
    (tmp_path / "notes").mkdir()
    assert packaged() == ["tiny"]
    assert open_release("tiny").manifest.name == "tiny"
    with pytest.raises(InvalidArtefact, match=r"'tinny' is neither .* packaged: tiny"):
        open_release("tinny")


def test_what_ships_is_whole() -> None:
    """Every release in the package verifies."""
    for name in packaged():
        assert open_release(name).manifest.files()
