"""``evergrove up all``: cloud, fogs and devices of one machine, as the very processes that run apart elsewhere."""

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evergrove.cli import show
from evergrove.cli.common import AsJson
from evergrove.core.errors import UsageError

if TYPE_CHECKING:
    from evergrove.core.grove import Grove
    from evergrove.runtime.supervisor import Program

FILE, FILE_BYTES_MAX = "grove.toml", 1 << 20
READY_S, GRACE_S = 180.0, 30.0
"""Flower's programs take long to start on a small machine; cloud and fogs end programs of their own first."""


def all_(
    place: Annotated[Path, typer.Argument(metavar="FILE|FOLDER", help="grove.toml, or the folder that it lies in.")],
    as_json: AsJson = False,
) -> None:
    """Run a whole grove on this machine, for trying out, until SIGTERM or Ctrl+C.

    grove.toml has a table `cloud` (folder, port) and lists of tables `fog` (folder, name, releases, port, epsilon: 0 is
    no noise, settings) and `device` (folder, port). Fogs keep mirrors of the cloud's releases, and their keys are given
    to the cloud.

    Example: evergrove up all ~/grove
    """
    import signal

    from evergrove.adapters.files import read_bounded
    from evergrove.core import grove as groves
    from evergrove.runtime.supervisor import Patience, Supervisor

    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(message)s", level=logging.WARNING)
    path = (place / FILE if place.is_dir() else place).expanduser().absolute()
    try:
        text = read_bounded(path, FILE_BYTES_MAX).decode("utf-8", "replace")
    except FileNotFoundError as fault:
        raise UsageError(f"there is no '{path}': it names the folders of cloud, fogs and devices") from fault
    grove, logs = groves.load(text, str(path)), path.parent / "logs"
    keeper = Supervisor(programs(grove, path.parent), logs, Patience(ready_s=READY_S, grace_s=GRACE_S))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: keeper.stop())
    facts = {
        "cloud": f"127.0.0.1:{grove.cloud.port}",
        "fogs": {one.name: f"https://127.0.0.1:{one.port}" for one in grove.fog},
        "devices": {one.folder: f"http://127.0.0.1:{one.port}" for one in grove.device},
        "logs": str(logs),
        "pid": os.getpid(),
    }
    keeper.run(lambda: announce(facts, as_json))


def programs(grove: "Grove", home: Path) -> "list[Program]":
    """What runs, in the order of its start. Raises ``UsageError`` for a cloud without keys or a folder of no device."""
    from evergrove.adapters.files import Files
    from evergrove.adapters.tuf_repository import Repository
    from evergrove.cli.common import find_device
    from evergrove.runtime import flower, following
    from evergrove.runtime.supervisor import Program, answers
    from evergrove.runtime.workers import environment

    files, env = Files(), environment(1)
    cloud = home / grove.cloud.folder
    if not Repository(cloud / "repository").exists:
        raise UsageError(f"'{cloud}' has no keys yet: `evergrove keys create KEYS --cloud {cloud}` makes them")
    authority, registered = cloud / "flower" / "tls" / "authority.crt", cloud / "flower" / "fogs"

    def run(name: str, port: int, *words: object) -> Program:
        command = (sys.executable, "-m", "evergrove.cli.main", "up", *map(str, words), "--port", str(port))
        return Program(name, command, env, lambda: answers("127.0.0.1", port))

    made = [run("cloud", grove.cloud.port, "cloud", cloud)]
    files.make_folder(registered)
    for fog in grove.fog:
        folder = home / fog.folder
        files.make_folder(folder / "flower")
        key = flower.public_key(folder / "flower", files)
        files.write(registered / f"{fog.name}.pub", key.read_bytes(), mode=0o644)
        releases = [word for one in fog.releases for word in ("--release", _release(home, one))]
        noise = ["--epsilon", str(fog.epsilon)] if fog.epsilon else ["--no-noise"]
        settings = [word for one in fog.settings for word in ("--set", one)]
        made.append(
            run(
                f"fog-{fog.name}", fog.port, "fog", folder, "--name", fog.name, *releases, *noise, *settings,
                "--root", cloud / "repository" / following.FIRST_ROOT, "--authority", authority,
                "--cloud", f"127.0.0.1:{grove.cloud.port}",
            )
        )  # fmt: skip
    for device in grove.device:
        folder = find_device(home / device.folder)
        made.append(run(f"device-{folder.name}", device.port, "device", "--device", folder))
    return made


def _release(home: Path, name: str) -> str:
    """A folder beside the file, or the name of a packaged release."""
    return str(home / name) if (home / name).is_dir() else name


def announce(facts: dict[str, object], as_json: bool) -> None:
    """Say where everything is, once all of it answers."""
    if as_json:
        show.json(facts)
        sys.stdout.flush()
        return
    for kind in ("fogs", "devices"):
        found = facts[kind]
        assert isinstance(found, dict)
        for name, url in found.items():
            show.note(f"{kind[:-1]} {name}: {url}")
    show.note(f"cloud: {facts['cloud']}; what everything says: {facts['logs']}")
