"""``evergrove config``: every setting in force, and where its value comes from."""

import os
import tomllib
from typing import Any

import msgspec

from evergrove.cli import show
from evergrove.cli.common import DEVICE_FILE, AsJson, DeviceOption, Settings, find_device, parse_settings
from evergrove.core.config import ENV_PREFIX, Config, load
from evergrove.core.errors import UsageError


def config(device: DeviceOption = None, settings: Settings = None, as_json: AsJson = False) -> None:
    """Show every setting in force and where it comes from: flag, environment, the device's file, or default.

    Without a device it shows what a new one would get.

    The output is TOML: write it to a file, change it, and give it to `evergrove init --config FILE`.

    Example: EVERGROVE_LEARN__STEPS=300 evergrove config --set gate.alpha=0.01
    """
    flags = parse_settings(settings)
    text, where = "", "config"
    try:
        path = find_device(device) / DEVICE_FILE
    except UsageError:
        if device is not None:
            raise
    else:
        text, where = path.read_text(encoding="utf-8"), str(path)
    values = flatten(load(text, os.environ, flags, where))
    origins = {key: origin(key, flags, flatten(tomllib.loads(text)), where) for key in values}
    if as_json:
        show.json({key: {"value": value, "from": origins[key]} for key, value in values.items()})
        return
    section = ""
    for key, value in values.items():
        head, _, name = key.rpartition(".")
        if head != section:
            section = head
            show.line(f"\n[{section}]")
        show.line(f"{name} = {toml(value)}".ljust(40) + f"  # {origins[key]}")


def origin(key: str, flags: dict[str, str], file: dict[str, Any], where: str) -> str:
    """Where a setting's value comes from: the strongest of flag, environment, file and default that names it."""
    variable = ENV_PREFIX + key.upper().replace(".", "__")
    if key in flags:
        return "--set"
    if variable in os.environ and "__" in variable:
        return variable
    return where if key in file else "default"


def flatten(tree: Config | dict[str, Any]) -> dict[str, Any]:
    """``{"learn": {"steps": 250}}`` → ``{"learn.steps": 250}``."""
    flat: dict[str, Any] = {}
    for key, value in (msgspec.to_builtins(tree) if isinstance(tree, Config) else tree).items():
        if isinstance(value, dict):
            flat |= {f"{key}.{name}": inner for name, inner in value.items()}
        else:
            flat[key] = value
    return flat


def toml(value: object) -> str:
    """A setting's value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return msgspec.json.encode(value).decode() if isinstance(value, str) else str(value)
