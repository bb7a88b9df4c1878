"""A cloud's folder: what is decided there is what devices are told, also after a kill between the two."""

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from evergrove.adapters.files import Files
from evergrove.adapters.tuf_client import ReleaseClient, from_folder
from evergrove.adapters.tuf_keys import OFFLINE, ONLINE, Signers, new_signers, save_keys
from evergrove.adapters.tuf_metadata import THRESHOLDS
from evergrove.adapters.tuf_repository import Repository
from evergrove.core import cloud_events as ev
from evergrove.core.errors import AgentBusy, UsageError
from evergrove.core.rollout import FULL, Policy, offer
from evergrove.runtime.rollouts import Rollouts, opened, read_devices
from evergrove.views import rollout as views

NOW_S = 1_800_000_000.0
DEVICES = [f"d{i}" for i in range(6)]
ONE_STAGE = Policy(percents=(100.0,), shadow=0.0)


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.fixture
def offline(tmp_path: Path) -> Signers:
    """A cloud in ``tmp_path/cloud``; its offline keys."""
    signers = new_signers(THRESHOLDS)
    Repository(tmp_path / "cloud" / "repository").create(signers, NOW_S)
    save_keys(tmp_path / "cloud" / "keys", {role: signers[role] for role in ONLINE}, None)
    return {role: signers[role] for role in OFFLINE}


@pytest.fixture
def cloud(tmp_path: Path, offline: Signers) -> Iterator[Rollouts]:
    """That cloud, opened."""
    with opened(tmp_path / "cloud") as rollouts:
        yield rollouts


def reports(cloud: Rollouts, devices: list[str], mark: str) -> None:
    """They say so, as long as anybody counts it."""
    for device in devices:
        if cloud.state.status == "running":
            cloud.order(ev.ReleaseReported(cloud.state.rollout, device, mark), NOW_S)  # type: ignore[arg-type]


def test_a_release_goes_out_and_comes_back(cloud: Rollouts, offline: Signers) -> None:
    """Started, reported on, completed; the next is bad and stops by itself; back is version 3 with the first hash."""
    first = cloud.start("tiny", offline, NOW_S, ONE_STAGE, DEVICES, epsilon=0.0, trained_on="Public pictures.")
    told = cloud.repository.directive()
    assert told is not None
    assert (told.reach, told.version, told.before_version) == (FULL, 1, 0)
    assert first.card is not None
    card = (cloud.folder / "repository" / "targets" / "files").glob(f"{first.card.sha256}.*")
    assert "Public pictures." in next(card).read_text()
    reports(cloud, DEVICES, "accepted")
    assert cloud.state.status == "running"
    reports(cloud, DEVICES, "confirmed")
    assert cloud.state.status == "complete"
    second = cloud.start("avatars", offline, NOW_S, ONE_STAGE, DEVICES, epsilon=float("inf"))
    assert (second.version, second.parent) == (2, first.release)
    reports(cloud, DEVICES, "rejected")
    assert cloud.state.status == "stopped"
    told = cloud.repository.directive()
    assert told is not None
    assert [offer(told, d, 1) for d in DEVICES] == [None] * 6
    done = cloud.back(offline, NOW_S)
    assert (done.version, done.release, done.back_from) == (3, first.release, 2)
    told = cloud.repository.directive()
    assert told is not None
    assert all(offer(told, d, 2) == offer(told, d, 1) for d in DEVICES)
    assert [p.version for p in cloud.repository.publications()] == [1, 2, 3]


def test_nothing_is_signed_where_the_rollout_cannot_start(cloud: Rollouts, offline: Signers) -> None:
    """Two at a time, no devices, or too few keys: refused before the repository has changed."""
    cloud.start("tiny", offline, NOW_S, ONE_STAGE, DEVICES, epsilon=0.0)
    with pytest.raises(UsageError, match="abort it, or go back"):
        cloud.start("tiny", offline, NOW_S, ONE_STAGE, DEVICES, epsilon=0.0)
    with pytest.raises(UsageError, match="none to go back to"):
        cloud.back(offline, NOW_S)
    cloud.order(ev.RolloutAborted(cloud.state.rollout, "me"), NOW_S)
    with pytest.raises(UsageError, match="no devices are known"):
        cloud.start("tiny", offline, NOW_S, ONE_STAGE, [], epsilon=0.0)
    with pytest.raises(UsageError, match="targets role needs 2 of its 2 keys, 0 at hand"):
        cloud.start("tiny", {}, NOW_S, ONE_STAGE, DEVICES, epsilon=0.0)
    assert [p.version for p in cloud.repository.publications()] == [1]
    assert cloud.state.status == "aborted"


def test_what_is_logged_is_what_devices_are_told_after_any_kill(tmp_path: Path, offline: Signers) -> None:
    """Killed at every write of a pause: once it is logged, the next one to open it tells the devices."""
    folder = tmp_path / "cloud"
    with opened(folder) as cloud:
        cloud.start("tiny", offline, NOW_S, ONE_STAGE, DEVICES, epsilon=0.0)
    steps: list[str] = []
    paused = 0
    for n in range(200):
        with opened(folder) as cloud:
            name, was = cloud.state.rollout, cloud.state.status
            if was == "paused":
                cloud.order(ev.RolloutResumed(name, "me"), NOW_S)

        def at(step: str, path: Path, n: int = n) -> None:
            steps.append(step)
            if len(steps) > n:
                raise Killed

        steps.clear()
        try:
            with opened(folder, Files(at)) as cloud:
                cloud.order(ev.RolloutPaused(name, "me"), NOW_S)
        except Killed:
            pass
        else:
            break
        with opened(folder) as cloud:
            cloud.tick(NOW_S)
            told = cloud.repository.directive()
            assert told is not None
            assert (told.reach == 0) == (cloud.state.status == "paused")
            paused += cloud.state.status == "paused"
    assert n > 15
    assert paused > 10


def test_time_ends_a_stage_and_keeps_signatures_fresh(cloud: Rollouts, offline: Signers) -> None:
    """Two days later nobody has reported: paused. A tick within the first half of a day signs nothing."""
    cloud.start("tiny", offline, NOW_S, ONE_STAGE, DEVICES, epsilon=0.0)
    before = cloud.repository.current().timestamp.signed.version
    cloud.tick(NOW_S + 3600)
    assert cloud.repository.current().timestamp.signed.version == before
    cloud.tick(NOW_S + 13 * 3600)
    assert cloud.repository.current().timestamp.signed.version == before + 1
    cloud.tick(NOW_S + 49 * 3600)
    assert cloud.state.status == "paused"
    assert cloud.repository.expires_s()["timestamp"] == NOW_S + 73 * 3600


def test_a_view_shows_counts_bounds_and_time(cloud: Rollouts, offline: Signers) -> None:
    """Of a rollout under way, and of none."""
    assert views.of(cloud.state, NOW_S).status == "none"
    cloud.start("tiny", offline, NOW_S, Policy(), DEVICES, epsilon=0.0)
    view = views.of(cloud.state, NOW_S + 3600)
    assert [(s.name, s.progress, s.members) for s in view.stages] == [
        ("shadow", "under way", 1),
        ("5 %", "to come", 1),
        ("25 %", "to come", 1),
        ("100 %", "to come", 4),
    ]
    assert (view.left_s, view.good_version, view.stages[-1].share) == (47 * 3600, 0, 1.0)
    assert view.stages[0].error_rate == (0.0, 1.0)
    cloud.order(ev.RolloutAborted(cloud.state.rollout, "me"), NOW_S)
    cloud.start("avatars", offline, NOW_S, ONE_STAGE, DEVICES, epsilon=0.0, at_once=True)
    view = views.of(cloud.state, NOW_S)
    assert (view.status, view.left_s, view.good_version, view.says) == ("complete", None, 2, "to everybody, at once")


def test_one_at_a_time_and_only_where_there_is_a_cloud(cloud: Rollouts, tmp_path: Path) -> None:
    """The second is told so, as is who names another folder."""
    with pytest.raises(AgentBusy, match="held by another process"), opened(cloud.folder):
        pass
    with pytest.raises(UsageError, match="evergrove keys create KEYS --cloud"), opened(tmp_path / "elsewhere"):
        pass


def test_a_list_of_devices(tmp_path: Path) -> None:
    """One a line, comments and blanks passed over; what is no text is refused."""
    path = tmp_path / "devices.txt"
    path.write_text("kitchen\n\n# the old one\n  hall \n")
    assert read_devices(path) == ["kitchen", "hall"]
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not a list of names"):
        read_devices(path)
    os.unlink(path)
    with pytest.raises(UsageError, match="no list of devices"):
        read_devices(path)


def test_the_log_can_be_read_by_whoever_folds_it(cloud: Rollouts, offline: Signers) -> None:
    """A second fold of the same log gives the same state, to the bit."""
    cloud.start("tiny", offline, NOW_S, Policy(), DEVICES, epsilon=0.0)
    cloud.order(ev.RolloutPaused(cloud.state.rollout, "me"), NOW_S + 5)
    again = Rollouts(cloud.folder)
    assert msgspec.json.encode(again.state) == msgspec.json.encode(cloud.state)
    again.close()


def test_a_device_gets_it(cloud: Rollouts, offline: Signers, tmp_path: Path) -> None:
    """From the folder, by the real client, whole: the packaged release itself."""
    import time

    done = cloud.start("tiny", offline, time.time(), ONE_STAGE, DEVICES, epsilon=0.0, at_once=True)
    device = ReleaseClient(tmp_path / "device", from_folder(cloud.folder / "repository"), cloud.repository.root())
    told = device.look()
    assert told is not None
    mine = offer(told, "d1", 0)
    assert mine is not None
    assert device.fetch(mine.version).release.manifest_hash == done.release
