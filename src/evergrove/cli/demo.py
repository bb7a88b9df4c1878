"""``evergrove demo``: the whole story of one device, or of a fleet; the stories stand in ``evergrove.demo``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from evergrove.cli import show
from evergrove.cli.common import AsJson


def demo(
    story: Annotated[
        Literal["device", "fleet"],
        typer.Argument(metavar="[device|fleet]", help="One device, or six with fogs and a cloud."),
    ] = "device",
    quick: Annotated[bool, typer.Option("--quick", help="A smaller run: two minutes, a fleet four.")] = False,
    runs: Annotated[Path, typer.Option("--runs", metavar="FOLDER", help="Where the run's folder is made.")] = Path(
        "runs"
    ),
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed tells the same story.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Tell the whole story: a device meets new faces, learns them, and forgets none; beside it, naive fine-tuning.

    Takes a few minutes on two cores and needs no network. It leaves a folder with report.html. `demo fleet` starts a
    cloud, two fogs and six devices as real processes: each learns alone, and a release teaches all of them.

    Example: evergrove demo --quick
    """
    from evergrove.demo import fleet, run

    outcome = fleet.run(quick, runs, seed) if story == "fleet" else run(quick=quick, runs=runs, seed=seed)
    if as_json:
        show.json(outcome.metrics)
    else:
        for line in outcome.verdict:
            show.line(line)
        show.line(f"\nReport: {outcome.folder / 'report.html'}")
    if not outcome.ok:
        raise typer.Exit(1)
