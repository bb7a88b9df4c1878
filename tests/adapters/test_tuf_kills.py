"""A publication, a change of keys, a fetch: killed at every write, nothing unverified or half is ever served."""

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from faults import Killed, count_steps, full_at, killed_at
from groves import COUNTS, NOW_S, Grove, grow

from evergrove.adapters.files import DiskFull, Files
from evergrove.adapters.tuf_keys import new_signers
from evergrove.adapters.tuf_repository import Repository

FRESH = new_signers(COUNTS)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """These kills end a process, not the power, so nothing here depends on the disk's own memory."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Grove:
    """A grove with release 1, and a device that has seen it."""
    grove = grow(tmp_path_factory.mktemp("grove") / "made")
    grove.release(2)
    grove.device("device").fetch(1)
    return grove


def publish(grove: Grove, files: Files) -> None:
    """Release 2, and everybody is to take it."""
    if 2 not in {p.version for p in grove.repository().publications()}:
        grove.publish(2, files)
    release = {p.version: p.release for p in grove.repository().publications()}[2]
    grove.direct(2, release, files)


def test_a_publication_killed_at_any_write_leaves_the_one_before_valid(made: Grove, tmp_path: Path) -> None:
    """Old and new devices read release 1, or already 2; then the publication is done again, and they read 2."""
    n = count_steps(lambda files: publish(made.twin(tmp_path / "count"), files))
    assert n > 40
    seen = set()
    for step in range(n):
        grove = made.twin(tmp_path / f"at-{step}")
        with pytest.raises(Killed):
            publish(grove, killed_at(step))
        told = grove.device("device").look()
        assert told is not None
        assert grove.device("fresh").fetch(told.version).release.manifest.version == told.version
        seen.add(told.version)
        if step % 3:  # a write has five steps, so every kind of step has its turn
            continue
        publish(grove, Files())
        told = grove.device("device").look()
        assert told is not None
        assert told.version == grove.device("device").fetch(2).publication.version == 2
        assert not list((grove.home / "repository").rglob("*.tmp"))
        shutil.rmtree(grove.home)
    assert seen == {1, 2}


@pytest.mark.parametrize("role", list(COUNTS))
def test_a_change_of_keys_killed_at_any_write_locks_nobody_out(made: Grove, tmp_path: Path, role: str) -> None:
    """Whoever has the old root, and whoever follows to the new one, finds enough signatures at every instant."""

    def rotate(grove: Grove, files: Files) -> None:
        grove.repository(files).rotate(role, FRESH[role], grove.signers, NOW_S)

    n = count_steps(lambda files: rotate(made.twin(tmp_path / "count"), files))
    for step in range(n):
        grove = made.twin(tmp_path / f"at-{step}")
        with pytest.raises(Killed):
            rotate(grove, killed_at(step))
        for name in ("device", "fresh"):
            assert grove.device(name).look() is not None
        both = {**grove.signers, role: (*grove.signers[role], *FRESH[role])}
        grove.repository().refresh(both, NOW_S)
        assert grove.device("device").look() is not None


def test_a_repository_killed_in_its_making_can_be_made_again(tmp_path: Path) -> None:
    """Until its first timestamp there is none."""

    def make(home: Path) -> Callable[[Files], None]:
        return lambda files: Repository(home, files).create(FRESH, NOW_S)

    for step in range(count_steps(make(tmp_path / "count"))):
        home = tmp_path / f"at-{step}"
        with pytest.raises(Killed):
            make(home)(killed_at(step))
        if not Repository(home).exists:
            make(home)(Files())
        assert Repository(home).publications() == ()


def test_a_fetch_killed_at_any_write_leaves_nothing_half(made: Grove, tmp_path: Path) -> None:
    """What stands in ``releases`` is whole or not there; the next fetch goes on."""
    n = count_steps(lambda files: made.twin(tmp_path / "count").device("new", files).fetch(1))
    assert n > 10
    for step in range(n):
        grove = made.twin(tmp_path / f"at-{step}")
        with pytest.raises(Killed):
            grove.device("new", killed_at(step)).fetch(1)
        whole = list((grove.home / "new" / "releases").glob("[!.]*"))
        got = grove.device("new").fetch(1)
        assert whole in ([], [got.release.folder])
        assert [p.name for p in (grove.home / "new" / "releases").iterdir()] == [got.publication.release]


def test_a_full_disk_is_said_and_does_no_harm(made: Grove, tmp_path: Path) -> None:
    """On either side; afterwards it goes on."""
    grove = made.twin(tmp_path / "grove")
    for step in range(0, 40, 7):
        with contextlib.suppress(DiskFull):
            grove.publish(2, full_at(step))
        assert grove.device("device").look() is not None
        if len(grove.repository().publications()) == 2:
            break
    with pytest.raises(DiskFull, match="no room left on the disk"):
        grove.device("new", full_at(9)).fetch(1)
    assert grove.device("new").fetch(1).publication.version == 1


@pytest.mark.parametrize("role", ["", "timestamp", "root"])
def test_a_mirror_killed_at_any_write_serves_before_or_now(made: Grove, tmp_path: Path, role: str) -> None:
    """Whole releases at every instant, also where keys were changed meanwhile; the next look brings it up to date."""
    first = made.twin(tmp_path / "first")
    first.mirror().mirror(first.home / "place")
    if role:
        first.repository().rotate(role, FRESH[role], first.signers, NOW_S)
        first.signers = {**first.signers, role: FRESH[role]}
    publish(first, Files())
    count = first.twin(tmp_path / "count")
    n = count_steps(lambda files: count.mirror(files).mirror(count.home / "place"))
    assert n > 20
    seen = set()
    for step in range(n):
        grove = first.twin(tmp_path / f"at-{step}")
        place = grove.home / "place"
        with pytest.raises(Killed):
            grove.mirror(killed_at(step)).mirror(place)
        told = grove.device("fresh", repository=place).look()
        assert told is not None
        read = grove.device("fresh", repository=place).fetch(told.version)
        assert read.release.manifest.version == told.version
        seen.add(told.version)
        if step % 3 == 0:
            grove.mirror().mirror(place)
            assert grove.device("fresh", repository=place).fetch(2).publication.version == 2
    assert seen == {1, 2}
