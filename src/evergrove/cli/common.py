"""What the commands share: their common options, and how words become conditions, settings and devices.

Every fault here is the caller's, and is raised as one of ``core/errors`` with the way out in its message.
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evergrove.core.conditions import of_words
from evergrove.core.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from evergrove import Device

DeviceOption = Annotated[
    Path | None,
    typer.Option(
        "--device",
        "-d",
        metavar="PATH",
        envvar="EVERGROVE_DEVICE",
        help="The device's folder; by default the current one, if it is a device.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before something is lost.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="Change a setting for this command, for instance learn.steps=300. Repeatable.",
    ),
]

DEVICE_FILE = "device.toml"


def find_device(path: Path | None) -> Path:
    """The device's folder: the one named by option or environment, else the current one if it holds a device.

    Raises ``UsageError`` where there is none.
    """
    if path is None:
        here = Path.cwd()
        if (here / DEVICE_FILE).is_file():
            return here
        raise UsageError(
            "which device? Add --device PATH, set EVERGROVE_DEVICE, or work inside a device's folder; "
            "`evergrove init PATH` makes one"
        )
    if (path.expanduser() / DEVICE_FILE).is_file():
        return path.expanduser()
    what = f"has no {DEVICE_FILE}" if path.expanduser().is_dir() else "does not exist"
    raise UsageError(f"'{path}' is not a device: it {what}; make one with `evergrove init {path}`")


def open_device(path: Path | None, settings: Iterable[str] | None = None) -> "Device":
    """The device that the options name, opened (a context manager): its agent is started, or joined where one runs.

    Settings are an agent's from its start. So one that runs already is ended first if it has nothing to do; else
    ``UsageError`` is raised.
    """
    folder, flags = find_device(path), parse_settings(settings)

    from evergrove import Device

    if flags:
        end_agent(folder)
    return Device.open(folder, flags=flags)


def end_agent(folder: Path) -> None:
    """End an idle agent, so that the next one starts with other settings."""
    from evergrove import Device
    from evergrove.adapters.ownership import find_agent

    if find_agent(folder) is None:
        return
    with Device.open(folder) as device:
        if device.status().job is not None:
            raise UsageError("the device is at work; wait until it is done")
        device.close(stop_agent=True)


def parse_settings(words: Iterable[str] | None) -> dict[str, str]:
    """``["learn.steps=300"]`` → ``{"learn.steps": "300"}``. Raises ``ConfigError`` for a word without ``=``."""
    flags: dict[str, str] = {}
    for word in words or ():
        key, equals, value = word.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {word}: write it as section.key=value, for instance --set learn.steps=300")
        flags[key.strip()] = value.strip()
    return flags


def parse_condition(words: Iterable[str]) -> dict[str, str]:
    """``["emotion=happy", "hair=bob"]`` → a condition. Raises ``UsageError`` for any other form."""
    return of_words(words)


def confirm(question: str, yes: bool) -> None:
    """Ask before something is lost. Raises ``UsageError`` where nobody can answer, ``typer.Abort`` for a no."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{question} Nobody is here to answer; add --yes to go ahead")
    typer.confirm(question, abort=True, err=True)
