"""``evergrove init``: make a device from a release."""

from pathlib import Path
from typing import Annotated

import typer

from evergrove.cli import show
from evergrove.cli.common import AsJson, Settings, parse_settings
from evergrove.core.config import dump, load
from evergrove.core.errors import ConfigError


def init(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The new device's folder; must be empty or not there.")],
    release: Annotated[
        str,
        typer.Option("--release", metavar="NAME|FOLDER", help="What it starts from: a shipped release or a folder."),
    ] = "avatars",
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Settings as TOML; see `evergrove config`.")
    ] = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Make a device: a folder with a model, its settings, its log and an encrypted store.

    Settings given with --set or --config are written into the device and stay.

    Example: evergrove init kitchen-display --set learn.steps=300
    """
    flags = parse_settings(settings)
    text = ""
    if config is not None:
        try:
            text = config.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as fault:
            raise ConfigError(f"--config {config}: cannot be read ({fault})") from fault
    if flags:
        text = dump(load(text, flags=flags, where=str(config or "config")))

    from evergrove import Device

    with Device.create(path, release=release, config_text=text) as device:
        vocabulary = device.vocabulary
    if as_json:
        factors = {factor.name: factor.values for factor in vocabulary.factors}
        show.json({"device": str(path), "release": release, "vocabulary": factors})
        return
    show.line(f"Made the device {path} from the release '{release}'. It understands:")
    show.table((f"  {factor.name}", ", ".join(factor.values)) for factor in vocabulary.factors)
    first = " ".join(f"{factor.name}={factor.values[0]}" for factor in vocabulary.factors[:2])
    show.line(f"\nNext: evergrove generate {first} --device {path} --out first.png")
