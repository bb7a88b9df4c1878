"""Durable writes: whole or not at all, at every step that a kill or a full disk can fall into."""

import os
import resource
import stat
from pathlib import Path

import pytest
from faults import Killed, count_steps, full_at, killed_at

from evergrove.adapters.files import DiskFull, Files, read_bounded
from evergrove.core.errors import EvergroveError, InvalidInput


def test_write_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    """The new content is there, private, and the temporary file is gone."""
    path = tmp_path / "a"
    for content in (b"one", b"two" * 100_000, b""):
        Files().write(path, content)
        assert path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_killed_at_every_step_leaves_old_or_new(tmp_path: Path) -> None:
    """Whatever step a kill falls into, the file is whole, and a sweep removes the leftovers."""
    path, files = tmp_path / "a", Files()
    files.write(path, b"old")
    n = count_steps(lambda f: f.write(path, b"old"))
    assert n == 5
    for step in range(n):
        files.write(path, b"old")
        with pytest.raises(Killed):
            killed_at(step).write(path, b"new")
        assert path.read_bytes() == (b"old" if step < 4 else b"new")
        files.sweep(tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_full_disk_at_every_step_is_a_clear_error(tmp_path: Path) -> None:
    """A full disk raises ``DiskFull`` that names the file, leaves it whole, and cleans up after itself."""
    path = tmp_path / "a"
    Files().write(path, b"old")
    for step in range(4):
        with pytest.raises(DiskFull, match=r"no room left .*/a; free some space"):
            full_at(step).write(path, b"new")
        assert path.read_bytes() == b"old"
        assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_really_full_disk(tmp_path: Path) -> None:
    """The kernel itself refuses the write (a limit on file size stands for the end of the disk)."""
    path = tmp_path / "a"
    Files().write(path, b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(DiskFull):
            Files().write(path, bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_scrub_overwrites_the_old_content(tmp_path: Path) -> None:
    """A second name for the old content shows that it was overwritten in place."""
    path = tmp_path / "key"
    Files().write(path, b"secret")
    os.link(path, tmp_path / "other-name")
    Files().write(path, b"newkey", scrub=True)
    assert path.read_bytes() == b"newkey"
    assert (tmp_path / "other-name").read_bytes() == bytes(6)


def test_remove_and_move_and_folders(tmp_path: Path) -> None:
    """Deleting twice is fine; new folders are private; a move replaces its target."""
    files, deep = Files(), tmp_path / "x" / "y"
    files.make_folder(deep)
    files.make_folder(deep)
    assert stat.S_IMODE(deep.stat().st_mode) == stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o700
    files.write(deep / "a", b"1")
    files.write(tmp_path / "b", b"2")
    files.move(deep / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"1"
    files.remove(tmp_path / "b")
    files.remove(tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_other_faults_are_named(tmp_path: Path) -> None:
    """A missing folder is an ``EvergroveError`` that says what was being done."""
    with pytest.raises(EvergroveError, match=r"writing 1 bytes to .*nowhere"):
        Files().write(tmp_path / "nowhere" / "a", b"x")


def test_read_bounded_takes_plain_files_only(tmp_path: Path) -> None:
    """Links, folders, pipes and large files are refused; a missing one is ``FileNotFoundError``."""
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    os.mkfifo(tmp_path / "pipe")
    assert read_bounded(tmp_path / "a", 5) == b"12345"
    for name in ("link", "pipe", "."):
        with pytest.raises(InvalidInput):
            read_bounded(tmp_path / name, 5)
    with pytest.raises(InvalidInput, match="5 bytes, at most 4"):
        read_bounded(tmp_path / "a", 4)
    with pytest.raises(FileNotFoundError):
        read_bounded(tmp_path / "none", 5)
