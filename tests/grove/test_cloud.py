"""``evergrove up cloud`` with real processes: a fog's sums become a release, and devices' words complete its rollout.

Stock Flower in between; the fog is a door in this process. The driver is killed once on the way.
"""

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

import pytest

pytest.importorskip("flwr", reason="Flower is not installed: pip install 'flwr==1.41.0'")

sys.path.insert(0, str(Path(__file__).parents[1] / "cloud"))

import fleets
from fleets import DEVICES, Fleet
from fog_door import MemoryFog

from evergrove.adapters.files import Files
from evergrove.adapters.release import open_release
from evergrove.runtime import flower
from evergrove.runtime.supervisor import Supervisor

pytestmark = pytest.mark.grove
WAIT_S = 180.0
"""For a machine whose cores are shared by others."""
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def wait(what: str, until: Callable[[], object], logs: Path) -> None:
    """Waits for other processes."""
    end_s = time.monotonic() + WAIT_S
    while not until():
        if time.monotonic() > end_s:
            tails = "\n".join(f"== {log}\n{log.read_text()[-1500:]}" for log in sorted(logs.rglob("*.log")))
            raise AssertionError(f"{what}: not within {WAIT_S:g} s\n{tails}")
        time.sleep(0.2)


def evergrove(*words: object) -> Any:
    """One command with ``--json``; what it says."""
    command = [sys.executable, "-m", "evergrove.cli.main", *map(str, words), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    """Three devices that have learnt; signatures are of today, since other processes look at the clock."""
    monkeypatch.setattr(fleets, "NOW_S", time.time())
    return fleets.fleet(tmp_path / "fleet")


@pytest.fixture
def up(fleet: Fleet, tmp_path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The command at work on a cloud whose first release is everywhere; it must end with 0."""
    folder = tmp_path / "cloud"
    fleets.make_cloud(folder, fleet)
    command = [sys.executable, "-m", "evergrove.cli.main", "up", "cloud", str(folder), "--port", "0", "--json"]
    said = (tmp_path / "up.log").open("ab")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True, env=ENVIRONMENT)
    assert process.stdout is not None
    lines = [process.stdout.readline()]
    while lines[-1] not in ("}\n", ""):
        lines.append(process.stdout.readline())
    yield folder, json.loads("".join(lines))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    said.close()
    assert process.returncode == 0


def test_a_fogs_sums_become_a_release_that_devices_complete(
    fleet: Fleet, up: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """Sums up, candidate, killed driver, signature, words of devices: at last the release is everybody's."""
    cloud, facts = up
    with MemoryFog() as door:
        fog = flower.Fog(tmp_path / "north", "north", facts["listening"], Path(facts["authority"]), door.url)
        shutil.copy(flower.public_key(fog.folder, Files()), Path(facts["fogs"]) / "north.pub")
        wait("the fog's key is registered", lambda: list(Path(facts["fogs"]).glob("*.registered")), tmp_path)
        supervisor = Supervisor(flower.fog_programs(fog, Files()), tmp_path / "north" / "logs")
        thread = threading.Thread(target=supervisor.run)
        thread.start()
        try:
            for number in (0, 1):
                door.close_cohort(fleets.cohort(fleet, list(fleet.learnt), number))
            work = cloud / "work" / "cloud-00001"
            wait("the job has begun", work.exists, tmp_path)
            driver = _child_of(facts["pid"], "evergrove.runtime.cloud")
            os.kill(driver, signal.SIGKILL)
            candidate = cloud / "candidates" / "cloud-00001"
            wait("a candidate waits", (candidate / "README.md").exists, tmp_path)
            assert len(door.acknowledged) == 2
            seen = evergrove("status", cloud)
            assert (seen["counted"], seen["waits_for_signature"]) == (2, "cloud-00001")
            keys = cloud.with_name("offline")
            view = evergrove("rollout", "sign", cloud, "--keys", keys, "--no-passphrase")
            assert (view["status"], view["version"]) == ("running", 2)
            for device in DEVICES:
                door.say(device, rollout=view["rollout"])
            wait("it is everybody's", lambda: evergrove("rollout", "status", cloud)["status"] == "complete", tmp_path)
        finally:
            supervisor.stop()
            thread.join(60)
    seen = evergrove("status", cloud)
    assert [(one["version"], one["epsilon"], one["serves"]) for one in seen["lineage"]] == [
        (1, 0.0, False), (2, None, True),
    ]  # fmt: skip
    assert open_release(fleet.release.folder).manifest_hash == seen["lineage"][1]["parent"]


def _child_of(pid: int, module: str) -> int:
    """The process of a module below another one."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                parent = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
                if parent == pid and module.encode() in Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0"):
                    return int(name)
            except OSError:
                continue
    raise AssertionError(f"{module} does not run below {pid}")
