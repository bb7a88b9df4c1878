"""``evergrove device enrol``: makes a device a member of a fleet."""

from pathlib import Path
from typing import Annotated

import typer

from evergrove.cli import show
from evergrove.cli.common import AsJson, DeviceOption, end_agent, find_device
from evergrove.core.errors import UsageError

FILE_BYTES_MAX = 1 << 20


def enrol(
    fog: Annotated[str, typer.Option("--fog", metavar="URL", help="The home fog's address, https://host:port.")],
    ca: Annotated[
        Path, typer.Option("--ca", metavar="FILE", help="The fleet's authority (ca.pem): it proves the fog.")
    ],
    token: Annotated[
        str, typer.Option("--token", envvar="EVERGROVE_TOKEN", help="The one-time token that the fleet gave for it.")
    ],
    root: Annotated[
        Path | None,
        typer.Option("--root", metavar="FILE", help="The cloud's root.json. Without it no releases are taken."),
    ] = None,
    device: DeviceOption = None,
    as_json: AsJson = False,
) -> None:
    """Make a device a member of a fleet: it sends what it learns, clipped, and takes the fleet's releases.

    Nothing is sent of conditions that only this device knows, and nothing at all with fleet.federate = false.

    Example: evergrove device enrol --fog https://fog.example:8472 --ca ca.pem --token 3f2a… --root root.json
    """
    from evergrove import bootstrap

    folder = find_device(device)
    authority, releases = _read("--ca", ca), None if root is None else _read("--root", root)
    end_agent(folder)
    name = bootstrap.enrol(folder.absolute(), fog, authority, token.strip(), releases)
    if as_json:
        show.json({"device": str(folder), "name": name, "fog": fog, "releases": releases is not None})
        return
    show.line(f"The fleet knows this device as {name}; its home fog is {fog}.")
    if releases is None:
        show.note("note: no releases are taken, for want of --root")
    show.note("The fog's operator sees what this device sends: its learnt numbers, clipped; see `evergrove status`.")


def _read(option: str, path: Path) -> bytes:
    from evergrove.adapters.files import read_bounded
    from evergrove.core.errors import InvalidInput

    try:
        return read_bounded(path.expanduser().resolve(), FILE_BYTES_MAX)
    except (FileNotFoundError, InvalidInput) as fault:
        raise UsageError(f"{option} {path}: cannot be read; where is the file?") from fault
