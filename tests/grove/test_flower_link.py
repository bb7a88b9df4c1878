"""The whole link with real processes: a SuperLink, two SuperNodes, two fogs' doors; each of them killed in turn.

One federation lives through all tests of this file; each test closes cohorts of its own and waits until they arrived.
"""

import datetime
import os
import shutil
import signal
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

pytest.importorskip("flwr", reason="Flower is not installed: pip install 'flwr==1.41.0'")

from fog_door import MemoryFog

from evergrove.adapters.files import Files
from evergrove.adapters.flower.inbox import NAME, Inbox
from evergrove.core.sums import NoisedSum, noised_sum
from evergrove.runtime import flower
from evergrove.runtime.collecting import KeepCollecting
from evergrove.runtime.supervisor import Supervisor, free_port

pytestmark = pytest.mark.grove
WAIT_S = 150.0
"""For a machine whose cores are shared by others; alone each step takes 5 to 15 s."""
SIZE = 20_000
RUN = {"wait-s": 15.0, "patience-s": 30.0, "ttl-s": 300.0, "poll-s": 0.3}


class Federation:
    """One cloud and two fogs, as `evergrove up cloud` and `evergrove up fog` run them."""

    def __init__(self, folder: Path) -> None:
        files = Files()
        self.cloud = flower.Cloud(folder / "cloud", free_port())
        now = datetime.datetime.now(datetime.UTC)
        self.cloud_supervisor = Supervisor(flower.cloud_programs(self.cloud, files, now), self.cloud.logs)
        self.keeper = KeepCollecting(self.cloud, RUN)
        self.fogs = {"north": MemoryFog("secret"), "south": MemoryFog()}
        self.fog_supervisors: dict[str, Supervisor] = {}
        self.threads: list[threading.Thread] = []
        (folder / "north.token").write_text("secret\n")
        for name, door in self.fogs.items():
            door.__enter__()
            fog = flower.Fog(
                folder / name,
                name,
                f"127.0.0.1:{self.cloud.port}",
                self.cloud.folder / "tls" / "authority.crt",
                door.url,
                folder / "north.token" if name == "north" else None,
            )
            shutil.copy(flower.public_key(fog.folder, files), self.cloud.fogs / f"{name}.pub")
            self.fog_supervisors[name] = Supervisor(flower.fog_programs(fog, files), folder / name / "logs")
        self.closed: list[NoisedSum] = []

    def start(self) -> None:
        self._run(self.cloud_supervisor, self.keeper)
        self.wait("the fogs' keys are registered", lambda: len(list(self.cloud.fogs.glob("*.registered"))) == 2)
        for supervisor in self.fog_supervisors.values():
            self._run(supervisor)

    def stop(self) -> list[int]:
        """Ends all; gives the processes that ran at the end."""
        supervisors = (self.cloud_supervisor, *self.fog_supervisors.values())
        pids = [pid for supervisor in supervisors for pid in supervisor.pids().values()]
        pids += [int(name) for name in os.listdir("/proc") if name.isdigit() and os.getppid() and _parent(name) in pids]
        for supervisor in supervisors:
            supervisor.stop()
        for thread in self.threads:
            thread.join(30.0)
        for door in self.fogs.values():
            door.__exit__(None, None, None)
        return pids

    def close_cohorts(self, n: int) -> None:
        for door in self.fogs.values():
            for _ in range(n):
                values = np.full(SIZE, 2.0 ** len(self.closed), np.float32)
                one = noised_sum(
                    values, generation=1, base="b", basis="a", n_updates=3, denominator=4, noise={"std": 0.1},
                    number=len(self.closed),
                )  # fmt: skip
                self.closed.append(one)
                door.close_cohort(one)

    def await_fog(self, name: str) -> None:
        """What closed at one fog has been acknowledged to it."""
        door = self.fogs[name]
        self.wait(f"{name} is heard", lambda: len(door.acknowledged) == len(door.closed))

    def await_all(self) -> None:
        """All that closed has been acknowledged; then the inbox holds each of them exactly once."""
        self.wait("all are acknowledged", lambda: len(self.acknowledged()) == len(self.closed))
        inbox = Inbox(self.cloud.state / NAME)
        sums = [one.sum for one in inbox.waiting(limit=1000)]
        inbox.close()
        assert sorted(one.number for one in sums) == list(range(len(self.closed)))
        # powers of two: any other multiset of cohorts has another sum
        total = np.sum([one.values for one in sums], axis=0)
        np.testing.assert_array_equal(total, np.full(SIZE, 2.0 ** len(self.closed) - 1))

    def acknowledged(self) -> list[str]:
        return [id for door in self.fogs.values() for id in door.acknowledged]

    def server_app(self) -> int:
        """The process that holds the collector's lock."""
        return int((self.cloud.state / "collector.lock").read_text())

    def wait(self, what: str, until: Callable[[], object]) -> None:
        end_s = time.monotonic() + WAIT_S
        while not until():
            if time.monotonic() > end_s:
                raise AssertionError(f"{what}: not within {WAIT_S:g} s\n{self._tails()}")
            time.sleep(0.1)

    def _run(self, supervisor: Supervisor, *chores: KeepCollecting) -> None:
        thread = threading.Thread(target=supervisor.run, args=(None, chores))
        thread.start()
        self.threads.append(thread)

    def _tails(self) -> str:
        logs = [*self.cloud.folder.parent.glob("*/logs/*.log"), *self.cloud.state.glob("*.log")]
        return "\n".join(f"== {log.name}\n{log.read_text()[-1500:]}" for log in logs)


def _parent(pid: str) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        return 0


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    one = Federation(tmp_path_factory.mktemp("grove"))
    try:
        one.start()
        yield one
    finally:
        pids = one.stop()
        left = [pid for pid in pids if _lives(pid)]
    assert len(pids) >= 6
    assert not left, f"processes {left} were left behind"


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_each_cohort_arrives_once(federation: Federation) -> None:
    """Two fogs, two cohorts each, TLS and authenticated SuperNodes, tokens at one door."""
    federation.close_cohorts(2)
    federation.await_all()


def test_the_door_that_fogs_reach_has_no_control(federation: Federation) -> None:
    """Who reaches it starts no run: at the SuperLink behind, the same call is answered without asking who calls."""
    context = ssl.create_default_context(cafile=federation.cloud.folder / "tls" / "authority.crt")
    headers = {"content-type": "application/protobuf"}
    with httpx.Client(verify=context, headers=headers, trust_env=False) as outside:
        for port, status in ((federation.cloud.port, 404), (federation.cloud.superlink_port, 200)):
            answer = outside.post(f"https://127.0.0.1:{port}/v1/control/list-runs", content=b"")
            assert answer.status_code == status


def test_the_others_do_not_wait_for_a_killed_supernode(federation: Federation) -> None:
    """A SuperLink believes in a dead node for a minute and refuses its successor for so long; the others go on."""
    os.kill(federation.fog_supervisors["north"].pids()["supernode-north"], signal.SIGKILL)
    federation.close_cohorts(2)
    federation.await_fog("south")


def test_a_killed_superlink_comes_back_and_nothing_is_lost(federation: Federation) -> None:
    """Its state is on disk; fogs and ServerApp go on trying."""
    federation.close_cohorts(1)
    os.kill(federation.cloud_supervisor.pids()["superlink"], signal.SIGKILL)
    federation.await_fog("south")
    assert federation.cloud_supervisor.starts()["superlink"] >= 2


def test_a_killed_server_app_is_followed_by_a_new_run(federation: Federation) -> None:
    """From its checkpoint; a cohort that was taken is not taken again."""
    federation.close_cohorts(1)
    killed = federation.server_app()
    os.kill(killed, signal.SIGKILL)
    federation.await_fog("south")
    assert federation.server_app() != killed
    assert federation.keeper.n_runs >= 2


def test_the_killed_supernode_comes_back_and_all_is_there_once(federation: Federation) -> None:
    """Its memory is all that it had: it is asked again for what it had not sent."""
    federation.await_all()
    assert federation.fog_supervisors["north"].starts()["supernode-north"] >= 2


def test_a_fog_whose_key_is_taken_away_is_let_in_no_more(federation: Federation) -> None:
    """Nothing more of it is collected, while the other fog's is; put back, the key lets it in again."""
    key = federation.cloud.fogs / "north.pub"
    taken = key.read_bytes()
    key.unlink()
    heard = len(federation.fogs["north"].acknowledged)
    for _ in range(2):
        federation.close_cohorts(1)
        federation.await_fog("south")
    assert len(federation.fogs["north"].acknowledged) == heard
    key.write_bytes(taken)
    federation.await_all()
