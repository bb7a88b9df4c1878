"""``evergrove device``: a device and its fleet."""

import typer

from evergrove.cli import fleet_devices

app = typer.Typer(no_args_is_help=True, help="A device and its fleet: list, pin, revoke.")
app.command("list")(fleet_devices.list_)
app.command("pin")(fleet_devices.pin)
app.command("revoke")(fleet_devices.revoke)
