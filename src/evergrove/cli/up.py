"""``evergrove up``: keeps a tier running: a device with its local HTTP API, a fog, the cloud, or all of them."""

import logging
import os
import shlex
import sys
from collections.abc import Callable
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evergrove.cli import show, up_all, up_cloud, up_fog
from evergrove.cli.common import AsJson, DeviceOption, Settings, find_device, open_device
from evergrove.cli.up_fog import url
from evergrove.core.errors import MissingDependency

if TYPE_CHECKING:
    from signal import Signals
    from socket import socket

    from evergrove import Device

PORT = 8471

app = typer.Typer(no_args_is_help=True)
app.command("fog")(up_fog.fog)
app.command("cloud")(up_cloud.cloud)
app.command("all")(up_all.all_)


@app.callback()
def up() -> None:
    """Keep a device, a fog, a cloud or all of them running."""


@app.command("device")
def device(
    device: DeviceOption = None,
    host: Annotated[str, typer.Option("--host", help="127.0.0.1, ::1 or localhost.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="0 takes any free one.")] = PORT,
    unix: Annotated[
        Path | None, typer.Option("--unix", metavar="PATH", help="Listen on a Unix socket instead of a port.")
    ] = None,
    no_token: Annotated[
        bool, typer.Option("--no-token", help="Ask for no token: whoever can reach it may use it.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="A line on stderr for every request.")] = False,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Run a device and its HTTP API on this machine, until SIGTERM or Ctrl+C.

    POST /v1/images/generations (as OpenAI's), POST /v1/observations, GET /v1/status, /v1/stream, /metrics, /healthz.

    Example: evergrove up device --device kitchen-display --port 8471
    """
    missing = [name for name in ("starlette", "uvicorn", "python_multipart") if find_spec(name) is None]
    if missing:
        raise MissingDependency(f"the HTTP API needs {', '.join(missing)}: pip install 'evergrove[web]'")
    folder = find_device(device)
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("evergrove.web").setLevel(logging.INFO if verbose else logging.WARNING)

    from evergrove.adapters.ownership import find_agent
    from evergrove.web import bearer, server

    path = None if unix is None else unix.expanduser().absolute()
    with server.hearing_endings() as heard, closing(listening(host, port, path)) as bound:
        try:
            # One that runs already is ended by ``open_device`` where it is to have other settings.
            ours = bool(settings) or find_agent(folder) is None
            with open_device(device, settings) as opened:
                token_file = folder.absolute() / bearer.TOKEN_FILE
                try:
                    token = None if no_token else bearer.read_or_make(token_file)
                    facts = {
                        "device": str(folder.absolute()),
                        "listening": url(*bound.getsockname()[:2]) if path is None else f"unix:{path}",
                        "token_file": None if token is None else str(token_file),
                        "pid": os.getpid(),
                    }
                    serve(opened, bound, token, path is None, lambda: announce(facts, as_json), heard)
                finally:
                    if ours:  # whoever started the agent sees it out; an app that still needs it starts it again
                        opened.close(stop_agent=True)
        finally:
            if path is not None:
                path.unlink(missing_ok=True)


def listening(host: str, port: int, path: Path | None) -> "socket":
    """A bound socket: at ``path``, or TCP where it is None."""
    from evergrove.web import server

    return server.listen_tcp(host, port) if path is None else server.listen_unix(path)


def serve(
    device: "Device", bound: "socket", token: str | None, tcp: bool, ready: Callable[[], None], heard: "list[Signals]"
) -> None:
    """Answer requests on a bound socket until the process is told to stop."""
    import asyncio

    from evergrove.web import device as web
    from evergrove.web import server
    from evergrove.web.guard import LOOPBACK
    from evergrove.web.metrics import Meter

    api = web.Api(device, device.config, Meter())
    application = web.create_app(api, token, LOOPBACK if tcp else None)
    asyncio.run(server.run(api, application, bound, device.config.web, ready, heard))


def announce(facts: dict[str, str | int | None], as_json: bool) -> None:
    """Say where the API is, once it answers: one JSON document on stdout, or words and a first request to try."""
    if as_json:
        show.json(facts)
        sys.stdout.flush()
        return
    place, token_file = str(facts["listening"]), facts["token_file"]
    unix = place.removeprefix("unix:") if place.startswith("unix:") else None
    show.note(f"device {facts['device']} is up: {place}")
    show.note(f"token: {token_file}" if token_file else "no token: whoever can reach it may use it")
    to = f"--unix-socket {shlex.quote(unix)} http://localhost" if unix else place
    key = f' -H "Authorization: Bearer $(cat {shlex.quote(str(token_file))})"' if token_file else ""
    show.note(f"try: curl{key} {to}/v1/status")
