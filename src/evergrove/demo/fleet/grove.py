"""The grove of the demo as real processes: a cloud with its SuperLink and driver, two fogs, and a line that can be cut.

Everything is started by the commands that a person would type (``evergrove up cloud``, ``evergrove up fog``), kept
running by the supervisor, and ends with this process. What they say goes to ``logs``.
"""

import contextlib
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import evergrove
from evergrove.adapters.authority import CA, Authority
from evergrove.adapters.files import Files
from evergrove.adapters.release import Release
from evergrove.adapters.tuf_keys import OFFLINE, ONLINE, Signers, new_signers, save_keys
from evergrove.adapters.tuf_metadata import THRESHOLDS
from evergrove.adapters.tuf_repository import Repository
from evergrove.core.errors import EvergroveError, Unreachable
from evergrove.demo.fleet.cable import Cable
from evergrove.demo.fleet.cast import FOGS
from evergrove.demo.fleet.script import Script
from evergrove.media.packs import Pack, write_pack
from evergrove.runtime import flower
from evergrove.runtime.cloud_folder import GOLDEN
from evergrove.runtime.rollouts import opened
from evergrove.runtime.supervisor import Patience, Program, Supervisor, answers, free_port

HOST = "127.0.0.1"
START_S = 180.0
WAIT_LOCK_S = 30.0


@dataclass
class Grove:
    """The processes' folders and addresses. ``signers`` are the offline keys: a person's, not the cloud's."""

    folder: Path
    script: Script
    release: Release
    signers: Signers
    cable: Cable
    cloud_port: int
    ports: dict[str, int]
    supervisors: dict[str, Supervisor] = field(default_factory=dict)
    threads: list[threading.Thread] = field(default_factory=list)
    faults: list[BaseException] = field(default_factory=list)

    @property
    def cloud(self) -> Path:
        """The cloud's folder."""
        return self.folder / "cloud"

    @property
    def root(self) -> bytes:
        """The signed root by which devices believe releases."""
        return (self.cloud / "repository" / "metadata" / "1.root.json").read_bytes()

    def fog(self, name: str) -> Path:
        """A fog's folder."""
        return self.folder / f"fog-{name}"

    def url(self, fog: str) -> str:
        """Where devices reach a fog."""
        return f"https://{HOST}:{self.ports[fog]}"

    def authority(self, fog: str) -> Authority:
        """Who says which devices are a fog's."""
        return Authority(self.fog(fog) / "authority")

    def ca(self, fog: str) -> bytes:
        """By which devices know a fog."""
        return (self.fog(fog) / "authority" / CA).read_bytes()

    def pid(self, name: str) -> int | None:
        """The process of ``cloud`` or a fog, while it runs."""
        return self.supervisors[name].pids().get(name)

    def kill(self, name: str) -> int:
        """SIGKILL, to it and all its children; the pid. The supervisor starts it again after a while."""
        pid = self.pid(name)
        if pid is None:
            raise EvergroveError(f"{name} does not run; see {self.folder / 'logs'}")
        os.killpg(pid, signal.SIGKILL)
        return pid

    def wait(self, what: str, until: Callable[[], object], within_s: float, tick: Callable[[], None]) -> None:
        """Waits for other processes, and says what they said where it takes too long. Raises ``Unreachable``."""
        end_s = time.monotonic() + within_s
        while not until():
            if self.faults:
                raise EvergroveError(f"while waiting until {what}: {self.faults[0]}")
            if time.monotonic() > end_s:
                raise Unreachable(f"{what}: not within {within_s:g} s; what everything says: {self.folder / 'logs'}")
            tick()
            time.sleep(0.2)

    def start(self, name: str, program: Program, patience: Patience) -> None:
        """Runs one program in a supervisor's thread."""
        supervisor = Supervisor([program], self.folder / "logs", patience)
        self.supervisors[name] = supervisor

        def run() -> None:
            try:
                supervisor.run()
            except EvergroveError as fault:
                self.faults.append(fault)

        thread = threading.Thread(target=run, name=f"keeps-{name}", daemon=True)
        self.threads.append(thread)
        thread.start()

    def stop(self) -> None:
        """Ends everything."""
        for name in reversed(self.supervisors):
            self.supervisors[name].stop()
        for thread in self.threads:
            thread.join(30.0)


@contextlib.contextmanager
def planted(
    folder: Path, script: Script, release: Release, golden: Pack, settings: str, tick: Callable[[], None]
) -> Iterator[Grove]:
    """A grove that answers, with ``release`` as the fleet's first one; ended with the block.

    ``golden`` are held-back pictures of what the fleet is to learn; ``settings`` the cloud's TOML.
    """
    files = Files()
    (folder / "logs").mkdir(parents=True)
    # 1. The keys, the repository, the first release: a person's doing, before anything runs.
    signers = make_cloud(folder / "cloud", release, golden, settings)
    cloud_port = free_port()
    with Cable(cloud_port) as cable:
        grove = Grove(folder, script, release, signers, cable, cloud_port, {name: free_port() for name in FOGS})
        # 2. The fogs' public keys lie at the cloud before it starts.
        registered = grove.cloud / "flower" / "fogs"
        files.make_folder(registered)
        for name in FOGS:
            files.make_folder(grove.fog(name) / "flower")
            shutil.copy(flower.public_key(grove.fog(name) / "flower", files), registered / f"{name}.pub")
        # 3. The cloud, then the fogs, by their commands.
        try:
            grove.start("cloud", _cloud(grove), Patience(ready_s=START_S))
            certificate = grove.cloud / "flower" / "tls" / "authority.crt"
            grove.wait("the cloud has its certificate", certificate.exists, START_S, tick)
            for name in FOGS:
                grove.start(name, _fog(grove, name, certificate), Patience(backoff_s=script.away_s, ready_s=START_S))
            up = [grove.cloud_port, *grove.ports.values()]
            grove.wait("cloud and fogs answer", lambda: all(answers(HOST, port) for port in up), START_S, tick)
            marks = [registered / f"{name}.registered" for name in FOGS]
            grove.wait("the cloud knows its fogs", lambda: all(mark.exists() for mark in marks), START_S, tick)
            yield grove
        finally:
            grove.stop()


def make_cloud(cloud: Path, release: Release, golden: Pack, settings: str) -> Signers:
    """A cloud's folder with keys, settings, golden set, and the release everywhere; the offline keys."""
    signers = new_signers(THRESHOLDS)
    Repository(cloud / "repository").create(signers, time.time())
    save_keys(cloud / "keys", {role: signers[role] for role in ONLINE}, None)
    (cloud / "cloud.toml").write_text(settings, encoding="utf-8")
    write_pack(cloud / GOLDEN, golden)
    offline: Signers = {role: signers[role] for role in OFFLINE}
    with opened(cloud) as rollouts:
        policy = rollouts.settings.rollout.policy()
        rollouts.start(release.folder, offline, time.time(), policy, (), epsilon=0.0, at_once=True)
    return offline


def environment() -> dict[str, str]:
    """Of our own programs: this very package, one thread."""
    path = os.pathsep.join(filter(None, (str(Path(evergrove.__file__).parents[1]), os.environ.get("PYTHONPATH", ""))))
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return {**os.environ, **threads, "PYTHONPATH": path}


def _cloud(grove: Grove) -> Program:
    words = ("cloud", str(grove.cloud), "--port", str(grove.cloud_port))
    return _program("cloud", words, grove.cloud_port)


def _fog(grove: Grove, name: str, certificate: Path) -> Program:
    settings = [word for one in grove.script.gathering for word in ("--set", one)]
    words = (
        "fog", str(grove.fog(name)), "--name", name, "--port", str(grove.ports[name]), "--no-noise",
        "--release", str(grove.release.folder), *settings, "--releases", str(grove.cloud / "repository"),
        "--cloud", f"{HOST}:{grove.cable.port}", "--authority", str(certificate),
    )  # fmt: skip
    return _program(name, words, grove.ports[name])


def _program(name: str, words: Sequence[str], port: int) -> Program:
    command = (sys.executable, "-m", "evergrove.cli.main", "up", *words)
    return Program(name, command, environment(), lambda: answers(HOST, port))
