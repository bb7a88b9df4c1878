"""The one composition root: here the parts of a device are chosen and put together, and nowhere else.

``python -m evergrove.bootstrap DEVICE [section.key=value …]`` is the agent's process.
"""

import asyncio
import contextlib
import fcntl
import glob
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import IO

import msgspec

from evergrove.adapters import clock
from evergrove.adapters.files import Files
from evergrove.adapters.keys import FileKey
from evergrove.adapters.log import Codec, EventLog
from evergrove.adapters.ownership import Ownership, find_agent
from evergrove.adapters.release import Release, open_release
from evergrove.adapters.telemetry import Reader
from evergrove.adapters.vault import Vault
from evergrove.adapters.versions import Versions
from evergrove.adapters.wire import Client, WireLimits
from evergrove.core import config as configuration
from evergrove.core import errors
from evergrove.core import events as ev
from evergrove.core import messages as msg
from evergrove.core.config import Config
from evergrove.core.errors import (
    AgentBusy,
    CorruptState,
    EvergroveError,
    InvalidArtefact,
    InvalidInput,
    MissingDependency,
    Unreachable,
    UsageError,
)
from evergrove.runtime.agent import Agent
from evergrove.runtime.app import LocalDevice, Studio
from evergrove.runtime.body import LocalBody
from evergrove.runtime.driver import Driver, recover
from evergrove.runtime.fleet import FOLDER as FLEET
from evergrove.runtime.fleet import RELEASES, ROOT, Connect, HomeFog, Ledger
from evergrove.runtime.frame_gate import FrameGate, path_of
from evergrove.runtime.offload import Fogs
from evergrove.runtime.serve import serve
from evergrove.tiers import device as tier

IDENTITY = "identity.json"
CONFIG = "device.toml"
LOG = "agent.log"
LOG_BYTES_MAX = 1 << 20
UNFINISHED = ".new"
START_TIMEOUT_S = 30.0
CODEC = Codec(ev.encode, ev.decode)


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who a device is: its random id, and the release (packaged name or folder, manifest's SHA-256) that it runs."""

    device: str
    release: str
    manifest: str
    schema: int = 1


# Making and opening a device


class Device(LocalDevice):
    """One device: ``Device.open(folder)``, ``Device.create(folder)``. Thread-safe; a context manager."""

    @classmethod
    def open(cls, path: str | Path, flags: Mapping[str, str] | None = None) -> "Device":
        """Opens a device that ``create`` (or ``evergrove init``) made; starts its agent or attaches to it.

        ``flags`` are ``section.key`` settings for an agent that this call starts. Raises ``UsageError`` for a
        folder that holds no device, ``ConfigError``, ``Unreachable``.
        """
        root, flags = Path(path).expanduser().absolute(), flags or {}
        read_identity(root)
        config = read_config(root, flags)
        return cls(root, config, partial(_connect, root, flags, config), partial(_studio, root, config))

    @classmethod
    def create(
        cls,
        path: str | Path,
        release: str | Path = "avatars",
        config_text: str = "",
        flags: Mapping[str, str] | None = None,
    ) -> "Device":
        """Makes a device in a new or empty folder from a release (a packaged one's name, or a folder) and opens it.

        ``config_text`` is TOML. Raises ``UsageError`` for a folder with something in it, ``InvalidArtefact`` for a
        release that fails its checks, ``ConfigError``; nothing half-made stays behind.
        """
        make_device(Path(path).expanduser().absolute(), release, config_text)
        return cls.open(path, flags)


def make_device(root: Path, place: str | Path, config_text: str, files: Files | None = None) -> Identity:
    """The folder of a new device: identity, configuration, key, vault, and the first event of its log."""
    files = files or Files()
    config = configuration.load(config_text, os.environ, where=CONFIG)
    release = open_release(place)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UsageError(f"{root}: not an empty folder; choose another one for the new device")
    if root.exists() and Path.cwd().samefile(root):  # a new folder takes its place: who stands in the old one is lost
        raise UsageError(f"{root} is the folder that you are in; `cd ..`, then `evergrove init {root.name}`")
    packaged = isinstance(place, str) and release.folder.name == place
    identity = Identity(secrets.token_hex(16), str(place) if packaged else str(release.folder), release.manifest_hash)
    _sweep_unfinished(root, files)
    made = root.with_name(f".{root.name}.{secrets.token_hex(4)}{UNFINISHED}")
    files.make_folder(made)
    lock = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # held as long as somebody works on it
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        files.write(made / CONFIG, (config_text or configuration.dump(Config())).encode())
        Vault(made / "vault", identity.device, FileKey(made / "device.key", files=files), files=files)
        log = EventLog(made / "log.sqlite", CODEC, files=files)
        manifest = release.manifest
        log.append(
            [
                ev.DeviceInitialised(
                    identity.device,
                    release.manifest_hash,
                    manifest.vocabulary.sizes,
                    manifest.teacher is not None,
                    config.seed,
                    manifest.known,
                )
            ],
            clock.now_s(),
        )
        log.close()
        files.write(made / IDENTITY, msgspec.json.encode(identity))
        if root.exists():
            files.step("unlink", root)
            root.rmdir()
        files.move(made, root)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    finally:
        os.close(lock)
    return identity


def _sweep_unfinished(root: Path, files: Files) -> None:
    """Removes what a killed making of this device left beside it; one that is still at work keeps its folder locked."""
    for made in root.parent.glob(f".{glob.escape(root.name)}.*{UNFINISHED}"):
        with contextlib.suppress(OSError):
            lock = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                files.remove_tree(made)
            finally:
                os.close(lock)


def read_identity(root: Path) -> Identity:
    """Who lives in a folder. Raises ``UsageError`` where no device does."""
    try:
        return msgspec.json.decode((root / IDENTITY).read_bytes(), type=Identity)
    except (FileNotFoundError, NotADirectoryError) as fault:
        raise UsageError(f"{root}: there is no device here; make one with `evergrove init {root}`") from fault
    except msgspec.MsgspecError as fault:
        raise CorruptState(f"{root / IDENTITY}: not understood: {fault}; restore it from a backup") from fault


def read_config(root: Path, flags: Mapping[str, str] | None = None) -> Config:
    """A device's configuration: flag > environment > file > default."""
    path = root / CONFIG
    text = path.read_text() if path.exists() else ""
    return configuration.load(text, os.environ, flags, where=str(path))


def read_release(root: Path, identity: Identity) -> Release:
    """The release that a device runs. Raises ``InvalidArtefact``, or ``CorruptState`` if it is another one by now."""
    release = open_release(identity.release)
    if release.manifest_hash != identity.manifest:
        raise CorruptState(
            f"{release.folder}: release '{release.manifest.name}' is not the one that {root.name} was made from "
            f"({release.manifest_hash[:12]}, not {identity.manifest[:12]}); put that one back, or make a new device"
        )
    return release


def release_finder(root: Path, identity: Identity) -> Callable[[str], Release]:
    """Opens a release of a device by its manifest's SHA-256 ("": its first one): made with it, or fetched since."""

    def find(name: str) -> Release:
        if name in ("", identity.manifest):
            return read_release(root, identity)
        release = open_release(root / FLEET / RELEASES / "releases" / name)
        if release.manifest_hash != name:
            raise InvalidArtefact(f"{release.folder}: this is another release than its name says; remove the folder")
        return release

    return find


def read_log(root: Path) -> list[ev.Stamped]:
    """Everything that a device's log still holds, oldest first; the agent may be at work meanwhile."""
    log = EventLog(root / "log.sqlite", CODEC, read_only=True)
    try:
        return [ev.Stamped(row.at_s, row.event) for row in log.replay(log.first_seq - 1)]
    finally:
        log.close()


# Joining a fleet


def enrol(root: Path, url: str, ca: bytes, token: str, releases: bytes | None, files: Files | None = None) -> str:
    """Makes a device a member of the fleet that the fog at ``url`` belongs to; the name that the fleet gave it.

    ``ca`` is the authority's certificate (PEM), ``releases`` the signed root that releases are believed by (None: none
    are taken). The last write is the configuration's: until then the device is as it was. Killed, or not answered, it
    is done again with the same token. Raises ``AgentBusy`` while an agent runs, ``UsageError`` for a member of another
    fleet, ``InvalidInput`` for what the fog refuses, ``Unreachable``.
    """
    fog_client, files = _fog_client(), files or Files()
    read_identity(root)
    now, place = read_config(root).fleet.fog, root / FLEET
    url = url.rstrip("/")
    if now not in ("", url):
        raise UsageError(f"{root.name} is a member at {now} already; empty fleet.fog in its {CONFIG} to leave that one")
    text = configuration.with_key((root / CONFIG).read_text(), "fleet", "fog", url)
    configuration.load(text, where=CONFIG)
    if releases is not None:
        from evergrove.adapters.tuf_client import check_root

        check_root(releases)
    with Ownership.acquire(root, files=files):
        log = EventLog(root / "log.sqlite", CODEC, files=files)
        try:
            # 1. Aside, so that a refusal leaves nothing. A key that was made is kept until its certificate is here.
            made = place / "enrolling"
            for folder, of in ((root, CONFIG), (place, ""), (made, "")):
                files.sweep(folder, of=of)
            over = now == url and made.exists() and not (made / fog_client.KEY).exists()  # killed while it tidied up
            if not over and not (made / fog_client.IDENTITY).exists():
                log.append([ev.BytesSent("enrolment", len(token) + fog_client.REQUEST_BYTES, url)], clock.now_s())
                try:
                    fog_client.enrol(url, ca, token, made, files)
                except InvalidInput:
                    files.remove_tree(made)
                    with contextlib.suppress(OSError):
                        place.rmdir()  # where nothing else is in it
                    raise
            # 2. Into its place; the configuration comes last.
            if not over:
                files.write(place / fog_client.CA, ca)
                files.write(place / fog_client.IDENTITY, (made / fog_client.IDENTITY).read_bytes())
            if releases is not None:
                files.write(place / ROOT, releases)
            files.write(root / CONFIG, text.encode())
            files.remove_tree(made)
        finally:
            log.close()
    return str(fog_client.member(place))


def read_state(root: Path) -> tier.State:
    """A device's state, folded from its log; the agent may be at work meanwhile."""
    log = EventLog(root / "log.sqlite", CODEC, read_only=True)
    try:
        return recover(partial(tier.step, read_config(root)), log)[0]
    finally:
        log.close()


# The agent's side


@contextlib.contextmanager
def own_device(root: Path, flags: Mapping[str, str]) -> Iterator[tuple[Agent, Ownership, Config]]:
    """Takes a device over: its lock, log, vault and versions. Raises ``AgentBusy`` where another agent owns it."""
    identity, config, files = read_identity(root), read_config(root, flags), Files()
    with Ownership.acquire(root, files=files) as owner:
        log = EventLog(root / "log.sqlite", CODEC, files=files)
        try:
            driver = Driver(
                partial(tier.step, config), log, clock.now_s, config.agent.snapshot_every, config.agent.events_kept
            )
            find = release_finder(root, identity)
            release = find(driver.state.release)
            key = FileKey(root / "device.key", files=files)
            vault = Vault(root / "vault", identity.device, key, config.replay, files=files)
            versions = Versions(root / "versions", files=files)
            past = [row.event for row in log.tail(config.agent.snapshot_every)]
            gate = FrameGate(path_of(root))
            body = LocalBody(Reader.of(config.telemetry, root), gate)
            try:
                parts = root, config, release, driver, vault, versions, files, clock.now_s
                agent = Agent(*parts, body, Fogs(), past, _home_fog(root, config), find, identity.manifest)
                yield agent, owner, config
            finally:
                gate.close(remove=True)
        finally:
            log.close()


def _home_fog(root: Path, config: Config) -> Connect | None:
    """How the agent reaches its home fog, by the certificate that enrolling gave it; None where it is in no fleet."""
    if not config.fleet.fog:
        return None

    def connect(ledger: Ledger) -> tuple[str, HomeFog]:
        fog_client = _fog_client()
        name, client = fog_client.join(config.fleet.fog, root / FLEET, clock.now_s(), ledger)
        return name, client

    return connect


def _fog_client() -> ModuleType:
    """The HTTP side of a fleet, which a device on its own does not need. Raises ``MissingDependency``."""
    try:
        from evergrove.adapters import fog_client
    except ModuleNotFoundError as fault:
        raise MissingDependency(f"{fault.name} is missing: pip install 'evergrove[fleet]'") from fault
    return fog_client


def _connect(root: Path, flags: Mapping[str, str], config: Config) -> Client[msg.Request, msg.Reply]:
    """A line to the device's agent, which is started if it is not there."""
    limits = WireLimits(timeout_s=config.agent.reply_timeout_s)
    deadline_s = clock.elapsed_s() + START_TIMEOUT_S
    while clock.elapsed_s() < deadline_s:
        info = find_agent(root)
        if info is None:
            _start_agent(root, flags)
            continue
        client: Client[msg.Request, msg.Reply] = Client(Path(info.socket), msg.Reply, limits)
        try:
            client.ask(msg.Hello(msg.PROTOCOL))
            return client
        except Unreachable:
            client.close()  # it is starting or ending: look again
            time.sleep(0.02)
    raise Unreachable(f"{root}: no agent answered within {START_TIMEOUT_S:g} s; see {root / LOG}")


def _start_agent(root: Path, flags: Mapping[str, str]) -> None:
    """Starts the agent, which outlives the app that needed it first; returns when it is ready.

    Another app may have been quicker: that is as good. Raises what kept the agent from starting.
    """
    words = [f"{key}={value}" for key, value in flags.items()]
    try:
        started = subprocess.run(
            [sys.executable, "-m", "evergrove.bootstrap", str(root), *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            timeout=START_TIMEOUT_S,
            start_new_session=True,  # what a terminal or a supervisor tells the app's group is for the app to hear
        )
    except subprocess.TimeoutExpired as fault:
        raise Unreachable(f"{root}: the agent was not ready within {START_TIMEOUT_S:g} s; see {root / LOG}") from fault
    if started.returncode in (0, AgentBusy.exit_code):
        return
    lines = started.stderr.strip().splitlines()
    name, _, text = (lines[-1] if lines else f"exit code {started.returncode}").partition(": ")
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, EvergroveError) and kind is not errors.InvalidMedia:
        raise kind(text)
    raise Unreachable(f"{root}: the agent did not start: {name}: {text}; see {root / LOG}")


def _studio(root: Path, config: Config) -> Studio:
    """The generator, loaded in the app's own process: the only place here that needs torch."""
    from evergrove.runtime.studio import LocalStudio

    identity = read_identity(root)
    release, find = read_release(root, identity), release_finder(root, identity)
    return LocalStudio(release, Versions(root / "versions"), config.generate.threads, find)


def main(arguments: list[str]) -> int:
    """Starts an agent and returns when it is ready (0), or why it is not: the error's exit code, its words on stderr.

    The agent itself goes on as a process of its own session, with ``agent.log`` for what it prints.
    """
    root, flags = Path(arguments[0]), dict(word.split("=", 1) for word in arguments[1:])
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        with os.fdopen(reader) as pipe:
            code, _, text = pipe.read().partition(" ")
        if text:
            print(text, file=sys.stderr, flush=True)
        return int(code) if code else EvergroveError.exit_code
    os.close(reader)
    os.setsid()
    with os.fdopen(writer, "w") as pipe:
        _live(root, flags, pipe)
    return 0


def _live(root: Path, flags: Mapping[str, str], parent: IO[str]) -> None:
    """The agent's life; ``parent`` is told once, ready or not."""

    def ready() -> None:
        parent.write("0 ")
        parent.close()

    try:
        read_identity(root)
        with (root / LOG).open("ab", buffering=0) as log:
            if log.tell() > LOG_BYTES_MAX:
                log.truncate(0)
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        with own_device(root, flags) as (agent, owner, config):
            asyncio.run(serve(agent, owner, config, ready))
    except EvergroveError as fault:
        line = f"{type(fault).__name__}: {fault}"
        print(line, file=sys.stderr, flush=True)
        if not parent.closed:
            parent.write(f"{fault.exit_code} {line}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
