"""Which processes a cloud and a fog run for Flower, and how: stock programs, TLS, authenticated, nothing phones home.

A cloud: ``flower-superlink`` with process isolation, a ``flower-superexec`` beside it, and a run of our app. A fog:
``flower-supernode`` with a ``flower-superexec`` of its own. All state is under one folder of each.
"""

import datetime
import json
import os
import shutil
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import evergrove
from evergrove.adapters.files import Files
from evergrove.adapters.flower import identity
from evergrove.core.errors import MissingDependency, UsageError
from evergrove.runtime.supervisor import Program, answers, free_port

LOOPBACK = "127.0.0.1"
CONNECTION = "evergrove"


@dataclass(frozen=True)
class Cloud:
    """A cloud's side of the link. Fogs reach it as one of ``hosts`` at ``port``, on the address ``listen``.

    The SuperLink itself listens on the loopback address only, at ``superlink_port``.

    ``fogs`` holds one public key file ``NAME.pub`` for each fog that may connect; files may be added and taken away at
    any time. Those fogs may read ``releases``, the cloud's repository, through the same door.
    """

    folder: Path
    port: int
    listen: str = LOOPBACK
    hosts: tuple[str, ...] = (LOOPBACK, "localhost")
    superlink_port: int = field(default_factory=free_port)

    @property
    def reached_as(self) -> str:
        """The address at which this machine itself reaches the door."""
        return {"0.0.0.0": LOOPBACK, "::": "::1"}.get(self.listen, self.listen)

    @property
    def releases(self) -> Path:
        """The repository of signed releases beside this folder."""
        return self.folder.parent / "repository"

    @property
    def fogs(self) -> Path:
        """Where the public keys of fogs are put."""
        return self.folder / "fogs"

    @property
    def state(self) -> Path:
        """Where the ServerApp keeps checkpoint, lock and inbox."""
        return self.folder / "collected"

    @property
    def logs(self) -> Path:
        """Where what the programs say is kept."""
        return self.folder / "logs"


@dataclass(frozen=True)
class Fog:
    """A fog's side: the SuperLink's address (HOST:PORT), its authority's certificate, and the fog's own door."""

    folder: Path
    name: str
    superlink: str
    authority: Path
    door_url: str
    door_token_file: Path | None = None
    runtime_port: int = 0


def cloud_programs(cloud: Cloud, files: Files, now: datetime.datetime) -> list[Program]:
    """What a cloud runs, in the order of their start; keys and certificates are made where there are none.

    Raises ``MissingDependency`` where Flower is not installed.
    """
    need_flower()
    for folder in (cloud.folder, cloud.fogs, cloud.state, cloud.logs, cloud.folder / "home"):
        files.make_folder(folder)
    tls = identity.server_files(cloud.folder / "tls", cloud.hosts, now, files)
    secret = identity.secret_file(cloud.folder / "superexec.secret", files)
    _write_connection(cloud, tls, files)
    environment = flower_environment(cloud.folder / "home")
    superlink = (
        *program("flower-superlink"),
        "--isolation", "process", "--disable-runtime-dependency-installation",
        "--host", LOOPBACK, "--port", str(cloud.superlink_port),
        "--database", str(cloud.folder / "superlink.db"),
        "--ssl-certfile", str(tls.certificate), "--ssl-keyfile", str(tls.key), "--ssl-ca-certfile", str(tls.authority),
        "--enable-supernode-auth", "--superexec-auth-secret-file", str(secret),
    )  # fmt: skip
    superexec = (
        *program("flower-superexec"),
        "--runtime-api-address", f"{LOOPBACK}:{cloud.superlink_port}", "--root-certificates", str(tls.authority),
        "--superexec-auth-secret-file", str(secret),
    )  # fmt: skip
    # by its name: what serves HTTP is above this layer
    door = (
        sys.executable, "-m", "evergrove.web.fleet_door", "--listen", cloud.listen, "--port", str(cloud.port),
        "--superlink-port", str(cloud.superlink_port),
        "--certificate", str(tls.certificate), "--key", str(tls.key), "--authority", str(tls.authority),
        "--releases", str(cloud.releases), "--fogs", str(cloud.fogs),
    )  # fmt: skip
    return [
        Program("superlink", superlink, environment, lambda: answers(LOOPBACK, cloud.superlink_port)),
        Program("superexec", superexec, environment),
        Program("fleet-door", door, environment, lambda: answers(cloud.reached_as, cloud.port)),
    ]


def fog_programs(fog: Fog, files: Files) -> list[Program]:
    """What a fog runs beside its own service. ``public_key`` tells what the cloud must be given first.

    Raises ``MissingDependency`` where Flower is not installed.
    """
    need_flower()
    for folder in (fog.folder, fog.folder / "home"):
        files.make_folder(folder)
    private, _ = identity.fog_key(fog.folder, files)
    secret = identity.secret_file(fog.folder / "superexec.secret", files)
    port = fog.runtime_port or free_port()
    environment = flower_environment(fog.folder / "home")
    words = [f"fog={json.dumps(fog.name)}", f"fog-url={json.dumps(fog.door_url)}"]
    if fog.door_token_file is not None:
        words.append(f"fog-token-file={json.dumps(str(fog.door_token_file))}")
    supernode = (
        *program("flower-supernode"),
        "--isolation", "process", "--superlink", fog.superlink, "--root-certificates", str(fog.authority),
        "--auth-supernode-private-key", str(private), "--node-config", " ".join(words),
        "--host", LOOPBACK, "--port", str(port), "--superexec-auth-secret-file", str(secret),
    )  # fmt: skip
    superexec = (
        *program("flower-superexec"),
        "--insecure", "--runtime-api-address", f"{LOOPBACK}:{port}", "--superexec-auth-secret-file", str(secret),
    )  # fmt: skip
    return [
        Program(f"supernode-{fog.name}", supernode, environment, lambda: answers(LOOPBACK, port)),
        # a new SuperNode knows nothing of the tasks before it, and an old SuperExec is slow to find it
        Program(f"superexec-{fog.name}", superexec, environment, tied_to=f"supernode-{fog.name}"),
    ]


def public_key(folder: Path, files: Files) -> Path:
    """The file that a fog's operator gives to the cloud's, made where there is none."""
    return identity.fog_key(folder, files)[1]


def private_key(folder: Path, files: Files) -> Path:
    """Its other half, which stays with the fog."""
    return identity.fog_key(folder, files)[0]


def app_folder() -> Path:
    """The Flower app: in an installed package among its assets, in a checkout beside ``src``. Raises ``UsageError``."""
    package = Path(evergrove.__file__).parent
    for folder in (package / "assets" / "flower-app", package.parents[1] / "flower-app"):
        if (folder / "pyproject.toml").is_file():
            return folder
    raise UsageError(f"the Flower app is neither in {package / 'assets'} nor beside src; install the package anew")


def need_flower() -> None:
    """Raises ``MissingDependency`` where Flower is not installed."""
    if find_spec("flwr") is None:
        raise MissingDependency("fog and cloud talk over Flower: pip install 'flwr==1.41.0'")


def program(name: str) -> tuple[str, ...]:
    """One of Flower's programs: the one beside this interpreter, else the one on the path."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise MissingDependency(
            f"{name} is neither beside {sys.executable} nor on the path: pip install 'flwr==1.41.0'"
        )
    return (found,)


def flower_environment(home: Path) -> dict[str, str]:
    """The environment of Flower's programs: a home of their own, no telemetry, no look for updates, one thread."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    ours = {
        "PATH": path,  # a superexec starts `flwr-serverapp` and `flwr-clientapp` by their bare names
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "PYTHONUNBUFFERED": "1",
    }
    return {**os.environ, **threads, **ours}


def _write_connection(cloud: Cloud, tls: identity.ServerFiles, files: Files) -> None:
    """How Flower's command line reaches this SuperLink."""
    address = f"{LOOPBACK}:{cloud.superlink_port}"
    text = (
        f"[superlink]\ndefault = {json.dumps(CONNECTION)}\n\n[superlink.{CONNECTION}]\n"
        f"address = {json.dumps(address)}\nroot-certificates = {json.dumps(str(tls.authority))}\n"
    )
    files.write(cloud.folder / "home" / "config.toml", text.encode())
