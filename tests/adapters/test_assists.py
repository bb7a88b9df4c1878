"""Assists on disk: named by hash, found by label, bounded in number; what was altered is never given out."""

from pathlib import Path

import pytest

from evergrove.adapters.assists import Assists
from evergrove.adapters.files import Files
from evergrove.core.errors import InvalidArtefact, UsageError
from evergrove.core.release import sha256_hex
from evergrove.rules import trust

KEY = bytes(range(32))


def label(n: int) -> str:
    """The SHA-256 of a number: what a release is called."""
    return sha256_hex(bytes([n]))


def signed(body: bytes) -> bytes:
    """A signed assist."""
    return trust.sign(KEY, "assist", label(0), body, 1.0)


def test_an_assist_is_found_by_its_label_and_named_by_its_hash(tmp_path: Path) -> None:
    """Stored durably, read back whole; a label that nobody gave leads nowhere."""
    assists = Assists(tmp_path / "assists")
    assert assists.find(label(1)) is None
    name = assists.put(label(1), signed(b"body"))
    assert name == sha256_hex(b"body")
    again = Assists(tmp_path / "assists")
    assert again.find(label(1)) == name
    assert again.load(name) == signed(b"body")
    assert again.body(name) == b"body"


def test_a_fresh_signature_replaces_the_old_one(tmp_path: Path) -> None:
    """The same body signed anew keeps its name."""
    assists = Assists(tmp_path)
    name = assists.put(label(1), signed(b"body"))
    fresh = trust.sign(KEY, "assist", label(0), b"body", 99.0)
    assert assists.put(label(1), fresh) == name
    assert assists.load(name) == fresh


def test_damage_is_noticed(tmp_path: Path) -> None:
    """An altered or missing file is neither found nor loaded; a damaged label leads nowhere."""
    assists = Assists(tmp_path)
    name = assists.put(label(1), signed(b"body"))
    path = tmp_path / f"{name}.assist"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert assists.find(label(1)) is None
    with pytest.raises(InvalidArtefact, match="altered"):
        assists.load(name)
    path.unlink()
    with pytest.raises(InvalidArtefact, match="missing"):
        assists.body(name)
    (tmp_path / f"{label(1)}.label").write_bytes(b"../../etc/passwd")
    assert assists.find(label(1)) is None
    with pytest.raises(UsageError, match="64 hex digits"):
        assists.load("../secret")


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    """Past the limit the oldest label goes, and with it every assist that no label names."""
    assists = Assists(tmp_path, n_kept=2)
    names = [assists.put(label(n), signed(bytes([n]))) for n in range(4)]
    found = [assists.find(label(n)) for n in range(4)]
    assert found == [None, None, *names[2:]]
    assert sorted(p.stem for p in tmp_path.glob("*.assist")) == sorted(names[2:])


def test_a_crash_at_any_write_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    """Killed before every step in turn: afterwards the label is unknown or leads to a whole assist."""

    class Cut(Exception):
        """The power."""

    n_steps = 0
    for cut_at in range(200):
        seen = 0

        def at(step: str, path: Path, cut_at: int = cut_at) -> None:
            nonlocal seen
            seen += 1
            if seen == cut_at + 1:
                raise Cut

        folder = tmp_path / str(cut_at)
        old = Assists(folder).put(label(1), signed(b"old"))
        try:
            new = Assists(folder, files=Files(at)).put(label(1), signed(b"new"))
        except Cut:
            found = Assists(folder).find(label(1))
            assert found in (old, sha256_hex(b"new"))
            continue
        assert new == sha256_hex(b"new")
        n_steps = cut_at
        break
    assert n_steps > 8
