"""``evergrove doctor``: what this machine offers, and what to do about what it does not."""

from pathlib import Path

import typer

from evergrove.cli import show
from evergrove.cli.common import AsJson, DeviceOption


def doctor(device: DeviceOption = None, as_json: AsJson = False) -> None:
    """Check that this machine has what a device needs; changes nothing.

    Exits with 4 where something is missing; a warning is fine.

    Example: evergrove doctor
    """
    from evergrove.adapters.doctor import examine

    checks = examine(device or Path.cwd())
    missing = [check for check in checks if check.state == "missing"]
    warnings = [check for check in checks if check.state == "warning"]
    if as_json:
        show.json({"ready": not missing, "checks": checks})
    else:
        signs = {"ok": "ok", "warning": "!", "missing": "MISSING"}
        show.table((signs[check.state], check.name, check.found) for check in checks)
        if missing or warnings:
            show.line()
        for check in (*missing, *warnings):
            show.line(f"{check.name}: {check.way_out}")
        show.line()
        ready = "This machine is ready." if not missing else f"{show.plural(len(missing), 'thing')} missing, see above."
        show.line(ready)
    if missing:
        raise typer.Exit(4)
