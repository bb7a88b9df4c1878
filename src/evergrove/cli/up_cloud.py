"""``evergrove up cloud``: keeps the cloud running: what collects the fogs' sums, and what makes releases of them."""

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
    from evergrove.runtime.supervisor import Program

CLOUD_PORT = 8473


def cloud(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The cloud's folder, with its keys.")],
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="0 takes any free one.")] = CLOUD_PORT,
    listen: Annotated[str, typer.Option("--listen", help="The address to bind; 0.0.0.0 for all.")] = "127.0.0.1",
    host: Annotated[
        list[str] | None,
        typer.Option("--host", metavar="NAME", help="A name or address that fogs reach it by. Repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Collect the noised sums of all fogs and make releases of them, until SIGTERM or Ctrl+C.

    Starts, watches and ends a SuperLink, its SuperExec, a run of our app, and the cloud's driver. Put each fog's public
    key into FOLDER/flower/fogs/NAME.pub, now or later; take the file away to shut it out. What passes the fleet's
    gate waits in FOLDER/candidates for `evergrove rollout sign`. Settings stand in FOLDER/cloud.toml, held-back
    pictures of what the fleet is to learn in FOLDER/fleet-golden.npz.

    Example: evergrove up cloud ~/grove --port 8473 --listen 0.0.0.0 --host cloud.example
    """
    import datetime
    import signal

    from evergrove.adapters.files import Files
    from evergrove.adapters.tuf_repository import Repository
    from evergrove.runtime import flower, supervisor
    from evergrove.runtime.cloud_folder import CloudFolder
    from evergrove.runtime.collecting import KeepCollecting

    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(message)s", level=logging.WARNING)
    folder = folder.expanduser().absolute()
    if not Repository(folder / "repository").exists:
        raise UsageError(f"'{folder}' has no keys yet: `evergrove keys create KEYS --cloud {folder}` makes them")
    CloudFolder(folder).settings()  # a fault in them is said here, once
    hosts = tuple(dict.fromkeys(("127.0.0.1", "localhost", *(host or ()))))
    place = flower.Cloud(folder / "flower", port or supervisor.free_port(), listen, hosts)
    programs = flower.cloud_programs(place, Files(), datetime.datetime.now(datetime.UTC))
    keeper = supervisor.Supervisor([*programs, driver(folder)], place.logs)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: keeper.stop())
    facts: dict[str, str | int | None] = {
        "cloud": str(folder),
        "listening": f"{listen}:{place.port}",
        "authority": str(place.folder / "tls" / "authority.crt"),
        "fogs": str(place.fogs),
        "inbox": str(place.state / "inbox.db"),
        "logs": str(place.logs),
        "pid": os.getpid(),
    }
    keeper.run(lambda: announce(facts, as_json), (KeepCollecting(place),))


def driver(folder: Path) -> "Program":
    """The cloud's driver as a program to keep running."""
    from evergrove.runtime import supervisor, workers

    command = (sys.executable, "-m", "evergrove.runtime.cloud", str(folder))
    return supervisor.Program("driver", command, workers.environment(1))


def announce(facts: dict[str, str | int | None], as_json: bool) -> None:
    """Say where the cloud listens and what a fog needs, once it can be reached."""
    if as_json:
        show.json(facts)
        sys.stdout.flush()
        return
    show.note(f"cloud {facts['cloud']} is up: {facts['listening']}; what its processes say: {facts['logs']}")
    show.note(f"give each fog {facts['authority']}, and put its public key into {facts['fogs']}/NAME.pub")
    show.note(f"how it stands: evergrove status {facts['cloud']}")
