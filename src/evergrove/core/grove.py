"""A whole grove on one machine, for trying out, from ``grove.toml``: cloud, fogs and devices, by their folders.

Folders are relative to the file. Everything else about a tier stands in its own folder, as where it runs alone.
"""

import tomllib
from typing import Any

import msgspec

from evergrove.core.config import check_keys
from evergrove.core.errors import ConfigError
from evergrove.core.sections import Section


class GroveCloud(Section, frozen=True):
    """``[cloud]``: its folder, and the port that fogs reach it at."""

    folder: str = "cloud"
    port: int = 8473


class GroveFog(Section, frozen=True):
    """``[[fog]]``: ``epsilon`` (0: no noise), ``settings`` as ``--set`` takes them.

    ``releases`` to gather for beside those in the cloud's repository.
    """

    folder: str
    name: str
    releases: tuple[str, ...] = ()
    port: int = 8472
    epsilon: float = 0.0
    settings: tuple[str, ...] = ()


class GroveDevice(Section, frozen=True):
    """``[[device]]``: a folder that `evergrove init` made, and the port of its local API."""

    folder: str
    port: int = 8471


class Grove(Section, frozen=True):
    """The whole file."""

    cloud: GroveCloud = GroveCloud()
    fog: tuple[GroveFog, ...] = ()
    device: tuple[GroveDevice, ...] = ()


def load(text: str, where: str) -> Grove:
    """The grove in some TOML. Raises ``ConfigError`` that names the key, or what has one port or name twice."""
    try:
        tree: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as fault:
        raise ConfigError(f"{where}: not valid TOML: {fault}") from fault
    check_keys(tree, Grove, where)
    try:
        grove = msgspec.convert(tree, Grove)
    except msgspec.ValidationError as fault:
        raise ConfigError(f"{where}: {fault}") from fault
    ports = [grove.cloud.port, *(one.port for one in grove.fog), *(one.port for one in grove.device)]
    names = [one.name for one in grove.fog]
    for what, values in (("port", ports), ("fog's name", names)):
        twice = sorted({str(value) for value in values if values.count(value) > 1})  # type: ignore[arg-type]
        if twice:
            raise ConfigError(f"{where}: a {what} twice: {', '.join(twice)}; each needs its own")
    return grove
