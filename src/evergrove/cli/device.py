"""``evergrove device``: a device and its fleet."""

import typer

from evergrove.cli import enrol, fleet_devices

app = typer.Typer(no_args_is_help=True, help="A device and its fleet: enrol, list, pin, revoke.")
app.command("enrol")(enrol.enrol)
app.command("list")(fleet_devices.list_)
app.command("pin")(fleet_devices.pin)
app.command("revoke")(fleet_devices.revoke)
