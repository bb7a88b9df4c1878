"""The cloud killed at every write, from sums to a release that is everywhere: nothing counts twice or is lost."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import fleets
import numpy as np
import pytest
from fleets import DEVICES, NOW_S, Fleet, Here, cohort, hand_up, vector_of

from evergrove.adapters.files import Files
from evergrove.adapters.flower.inbox import Inbox
from evergrove.adapters.release import open_release
from evergrove.adapters.tuf_keys import OFFLINE, load_keys
from evergrove.core.rollout import DeviceReport
from evergrove.runtime import cloud_workers
from evergrove.runtime.cloud import CloudDriver
from evergrove.runtime.cloud_folder import CloudFolder
from evergrove.runtime.rollouts import Rollouts, opened


class Killed(BaseException):
    """Stands for SIGKILL: nobody catches it, so nothing is cleaned up."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """These kills end a process, not the power, so nothing here depends on the disk's own memory."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


class Remembering(Here):
    """Workers whose outcomes are remembered by what was asked: the same job gives the same files, quicker."""

    def __init__(self, home: Path) -> None:
        super().__init__()
        self.home = home

    def start(self, folder: Path, threads: int) -> cloud_workers.Running:
        job = (folder / "job.json").read_bytes().replace(str(folder.parents[1]).encode(), b"CLOUD")
        kept = self.home / str(abs(hash(job)))
        store = folder.parents[1] / "store"
        if kept.exists():
            shutil.copytree(kept / "store", store, dirs_exist_ok=True)
            shutil.copy(kept / "outcome.json", folder)
            self.n_started += 1
            return fleets.Done("the worker exited with 0")
        done = super().start(folder, threads)
        shutil.copytree(store, kept / "store")
        shutil.copy(folder / "outcome.json", kept)
        return done


def life(cloud: Path, fleet: Fleet, files: Files, workers: Here) -> None:
    """All that happens, as far as it has not happened yet: sums, candidate, signature, words of devices, the end."""
    with CloudDriver(cloud, lambda: NOW_S + 10, files, workers) as driver:
        for _ in range(5):
            driver.tick()
    with opened(cloud, files) as rollouts:
        if rollouts.waiting() is not None:
            keys = load_keys(cloud.with_name("offline"), None, OFFLINE)
            rollouts.sign(keys, NOW_S + 20, DEVICES)
        name = rollouts.state.rollout
    if rollouts.state.version > 1:
        inbox = Inbox(cloud / "flower" / "collected" / "inbox.db")
        inbox.hear("north", [DeviceReport(n, device, name, "confirmed") for n, device in enumerate(DEVICES)])
        inbox.close()
    with CloudDriver(cloud, lambda: NOW_S + 30, files, workers) as driver:
        driver.tick()


def at(n: int, steps: list[str]) -> Callable[[str, Path], None]:
    """Killed before the ``n``-th step."""

    def step(name: str, path: Path) -> None:
        steps.append(f"{name} {path.name}")
        if len(steps) > n:
            raise Killed

    return step


def test_killed_at_every_write_every_cohort_counts_once_and_the_release_is_the_same(
    made: Path, fleet: Fleet, tmp_path: Path
) -> None:
    """After each kill it lives on to the end: one job, one release, the exact mean, and nothing left behind."""
    workers = Remembering(tmp_path / "outcomes")
    sums = [cohort(fleet, list(fleet.learnt), 0), cohort(fleet, list(fleet.learnt), 1)]
    steps: list[str] = []
    ends = set()
    n = tried = 0
    while True:
        home = tmp_path / f"home-{n}"
        shutil.copytree(made, home)
        cloud = home / "cloud"
        hand_up(cloud, *sums)
        steps.clear()
        try:
            life(cloud, fleet, Files(at(n, steps)), workers)
        except Killed:
            pass
        else:
            break
        life(cloud, fleet, Files(), workers)
        ends.add(check(cloud, fleet))
        shutil.rmtree(home)
        tried += 1
        n += 1 if n < 40 else 3  # a write has five steps, so every kind of step has its turn
    assert len(steps) > 150
    assert tried > 80
    assert len(ends) == 1, "the same release, wherever it was killed"


def check(cloud: Path, fleet: Fleet) -> str:
    """What must hold at the end; gives the release's adapter."""
    rollouts = Rollouts(cloud)
    state, published = rollouts.cloud, rollouts.repository.publications()
    told = rollouts.repository.directive()
    rollouts.close()
    assert (state.n_counted, state.n_spent, state.n_dropped, state.waiting) == (2, 2, 0, ())
    assert (state.work, state.n_jobs, state.rollout.status) == (None, 1, "complete")
    assert state.release != fleet.release.manifest_hash
    assert told is not None
    assert (told.release, told.version) == (state.release, state.rollout.version)
    # a release that was signed and not logged before the kill is signed again, under the next version
    assert {p.release for p in published[1:]} == {state.release}
    inbox = Inbox(cloud / "flower" / "collected" / "inbox.db")
    assert (inbox.waiting(), inbox.reports()) == ([], [])
    inbox.close()
    for gone in ("candidates", "work", "sums"):
        assert list((cloud / gone).iterdir()) == []
    assert not list(cloud.rglob("*.tmp"))
    release = open_release(CloudFolder(cloud).unpacked(state.release, cloud / "repository" / "targets"))
    mean = np.mean([v.astype(np.float64) for v in fleet.learnt], axis=0)
    moved = vector_of(release, fleet.layout) - fleet.start
    gamma = float(moved @ mean / (mean @ mean))
    np.testing.assert_allclose(moved, gamma * mean, atol=2e-3)
    assert release.manifest.adapter is not None
    return release.manifest.adapter.sha256


def test_a_worker_process_dies_with_its_driver_and_the_next_one_goes_on(cloud: Path, fleet: Fleet) -> None:
    """Real processes: the driver's is killed by SIGKILL while its worker runs; the next driver finishes the job."""
    import signal
    import subprocess
    import sys
    import time

    hand_up(cloud, cohort(fleet, list(fleet.learnt), 0), cohort(fleet, list(fleet.learnt), 1))

    def run() -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.Popen(
            [sys.executable, "-m", "evergrove.runtime.cloud", str(cloud)], env=environment, stderr=subprocess.DEVNULL
        )

    def until(what: Callable[[], object]) -> None:
        end_s = time.monotonic() + 120
        while not what():
            assert time.monotonic() < end_s
            time.sleep(0.1)

    first = run()
    until(lambda: list(cloud.glob("work/*/job.json")))
    first.send_signal(signal.SIGKILL)
    first.wait()
    second = run()
    until(lambda: list(cloud.glob("candidates/cloud-00001/README.md")))
    second.send_signal(signal.SIGTERM)
    assert second.wait(timeout=60) == 0
    with opened(cloud, wait_s=5.0) as rollouts:
        asked = rollouts.waiting()
        assert asked is not None
        assert (asked.job, asked.cohorts, rollouts.cloud.n_counted) == ("cloud-00001", 2, 2)
