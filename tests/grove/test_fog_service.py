"""``evergrove up fog --cloud`` with real processes: two noised cohorts land in the cloud's inbox, each once.

The fog is killed after the first one was acknowledged and again before the second could be; its SuperNode dies with it.
"""

import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr", reason="Flower is not installed: pip install 'flwr==1.41.0'")

from evergrove.adapters.files import Files
from evergrove.adapters.flower.inbox import NAME, Inbox
from evergrove.adapters.fog_client import FogClient, connect, enrol
from evergrove.adapters.fog_store import FogStore
from evergrove.adapters.outbox import Outbox
from evergrove.adapters.release import open_release
from evergrove.core.sums import NoisedSum
from evergrove.rules import params
from evergrove.rules.privacy.words import plan_of
from evergrove.runtime import flower
from evergrove.runtime.collecting import KeepCollecting
from evergrove.runtime.supervisor import Supervisor, free_port

pytestmark = pytest.mark.grove
WAIT_S = 300.0
"""A SuperLink takes a killed SuperNode's successor in only after a minute; and others share these cores."""
RUN = {"wait-s": 15.0, "patience-s": 30.0, "ttl-s": 300.0, "poll-s": 0.3}
SETTINGS = ("cohort=1", "cohort_min=1", "rounds=8", "separation=1", "participations=2")


def wait(what: str, until: Callable[[], object], logs: Path) -> None:
    """Waits for other processes."""
    end_s = time.monotonic() + WAIT_S
    while not until():
        if time.monotonic() > end_s:
            tails = "\n".join(f"== {log}\n{log.read_text()[-1500:]}" for log in sorted(logs.rglob("*.log")))
            raise AssertionError(f"{what}: not within {WAIT_S:g} s\n{tails}")
        time.sleep(0.2)


class FogProcess:
    """The command, in a folder; ``kill`` is SIGKILL."""

    def __init__(self, folder: Path, cloud: flower.Cloud, *words: str) -> None:
        command = [
            sys.executable, "-m", "evergrove.cli.main", "up", "fog", str(folder), "--port", "0", "--json",
            "--name", "north", "--release", "tiny", "--epsilon", "1",
            "--cloud", f"127.0.0.1:{cloud.port}", "--authority", str(cloud.folder / "tls" / "authority.crt"),
            *(word for setting in SETTINGS for word in ("--set", setting)), *words,
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        self._said = (folder.parent / "fog.stderr.log").open("ab")
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._said, text=True, env=environment)
        assert self._process.stdout is not None
        lines = [self._process.stdout.readline()]
        while lines[-1] not in ("}\n", ""):
            lines.append(self._process.stdout.readline())
        self.facts: dict[str, Any] = json.loads("".join(lines))

    def end(self, number: signal.Signals) -> int:
        """Its exit status."""
        self._process.send_signal(number)
        self._process.communicate(timeout=60)
        self._said.close()
        return self._process.returncode


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[flower.Cloud]:
    """A SuperLink, its door, and a run of our app."""
    place = flower.Cloud(tmp_path / "cloud", free_port())
    supervisor = Supervisor(flower.cloud_programs(place, Files(), datetime.datetime.now(datetime.UTC)), place.logs)
    thread = threading.Thread(target=supervisor.run, args=(None, (KeepCollecting(place, RUN),)))
    thread.start()
    yield place
    supervisor.stop()
    thread.join(60)


def inbox(cloud: flower.Cloud) -> list[NoisedSum]:
    """What has landed."""
    if not (cloud.state / NAME).exists():
        return []
    opened = Inbox(cloud.state / NAME)
    sums = [one.sum for one in opened.waiting(limit=100)]
    opened.close()
    return sums


def submit(client: FogClient, device: str, folder: Path) -> None:
    """One update by its outbox."""
    release = open_release("tiny")
    manifest = release.manifest
    layout = params.layout_of(manifest, release.read(manifest.base), release.read(manifest.basis))
    box = Outbox(folder / f"outbox-{device}", device)
    box.put(np.ones(layout.n_numbers, np.float32), layout, release.manifest_hash, client.terms(), bytes(16))
    (fate,) = box.deliver(client, time.time(), 0.5)
    assert fate.outcome == "counted"


def test_two_cohorts_of_a_fog_service_land_in_the_clouds_inbox_once(cloud: flower.Cloud, tmp_path: Path) -> None:
    """Noised by the plan that they carry; the bytes are those of the fog's own store, kill or no kill."""
    folder = tmp_path / "fog"
    shutil.copy(flower.public_key(folder / "flower", Files()), cloud.fogs / "north.pub")
    wait("the fog's key is registered", lambda: list(cloud.fogs.glob("*.registered")), tmp_path)
    fog = FogProcess(folder, cloud, "--invite", "a", "--invite", "b")
    assert Path(fog.facts["public_key"]).read_bytes() == (cloud.fogs / "north.pub").read_bytes()
    ca = Path(fog.facts["ca"]).read_bytes()
    for device in "ab":
        enrol(fog.facts["listening"], ca, fog.facts["invitations"][device], tmp_path / device)
    client = connect(fog.facts["listening"], tmp_path / "a")
    submit(client, "a", tmp_path)
    client.close()

    def handed(n: int) -> bool:
        store = FogStore(folder / "fog")
        done = len(store.history()) == n and not store.ready()
        store.close()
        return done

    wait("the first is acknowledged", lambda: handed(1), tmp_path)
    assert fog.end(signal.SIGKILL) == -9
    fog = FogProcess(folder, cloud)
    client = connect(fog.facts["listening"], tmp_path / "b")
    submit(client, "b", tmp_path)
    client.close()
    assert fog.end(signal.SIGKILL) == -9, "before the cloud has heard of the second: its link needs a minute"
    fog = FogProcess(folder, cloud)
    wait("the second is acknowledged", lambda: handed(2), tmp_path)
    assert fog.end(signal.SIGTERM) == 0
    landed = inbox(cloud)
    assert sorted(one.number for one in landed) == [0, 1]
    store = FogStore(folder / "fog")
    assert {(one.number, one.id) for one in landed} == {
        (cohort.number, one.id) for one in landed if (cohort := store.find_sum(one.id)) is not None
    }
    entries = store.history()
    (spent,) = store.ledger().streams
    store.close()
    for one in landed:
        found = plan_of(one)
        assert found is not None
        assert found[0] == spent.plan
    assert [entry.cohort for entry in entries] == [0, 1]
    assert entries[1].epsilon is not None
    assert 0 < entries[1].epsilon <= 1
