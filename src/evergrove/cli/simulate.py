"""``evergrove simulate``: a fleet in virtual time, with the decisions that real devices run."""

import time
from pathlib import Path
from typing import Annotated

import typer

from evergrove.cli import show
from evergrove.cli.common import AsJson


def simulate(
    scenario: Annotated[
        Path, typer.Argument(metavar="SCENARIO", help="A scenario in TOML; examples/scenarios has some.")
    ],
    seed: Annotated[int | None, typer.Option(min=0, help="Another seed than the scenario's.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="Where the run is left; by default a new one in runs/."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Let a fleet of virtual devices live through hours or days, and report what it decided and why.

    Every device runs the production decisions; only its body, its disk, its network and its time are simulated. The
    same scenario and seed give the same events, byte for byte.

    Example: evergrove simulate examples/scenarios/phones-two-days.toml
    """
    from evergrove.demo import record
    from evergrove.sim import run

    wanted = run.find(scenario, seed)
    n, started_s = wanted.n_devices, time.monotonic()
    with show.Progress("simulating") as progress:

        def watch(done_h: float, total_h: float) -> None:
            progress.update(round(done_h * n), round(total_h * n), note="device-hours")

        folder = out if out is not None else record.new_run(Path("runs"), wanted.name)
        numbers = run.execute(wanted, folder, watch)
    if out is None:
        record.point_latest(folder)
    seconds = time.monotonic() - started_s
    if as_json:
        show.json({**numbers, "folder": str(folder), "seconds": round(seconds, 2)})
        return
    for line in run.lines(numbers, seconds):
        show.line(show.sentence(line))
    show.line(f"\nReport: {folder / 'report.html'}")
