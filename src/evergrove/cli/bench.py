"""``evergrove bench``: what things cost on this machine."""

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from evergrove.cli import show
from evergrove.cli.common import AsJson

if TYPE_CHECKING:
    from evergrove.bench.device import Report
    from evergrove.bench.measure import Ratio, Spread

app = typer.Typer(no_args_is_help=True, help="Measure what things cost on this machine.")


@app.callback()
def group() -> None:
    """Keeps `bench device` a command of its own while it is the only one."""


@app.command("device")
def device(
    release: Annotated[
        str, typer.Option("--release", metavar="NAME|FOLDER", help="What to measure: a shipped release or a folder.")
    ] = "avatars",
    quick: Annotated[bool, typer.Option("--quick", help="A few of each: to see that it works, not to quote.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure a device: swap, generate, an observation, training, and the agent's start and memory.

    Takes about two minutes on one thread; close other programs first. Exits with 1 where a bar is missed.

    Example: evergrove bench device --json
    """
    from evergrove.bench.device import QUICK, Sizes, run

    with show.Progress("measuring") as progress:
        report = run(release, QUICK if quick else Sizes(), lambda what, done, total: progress.update(done, total, what))
    missed = [bar for bar in report.bars if not bar.met]
    if as_json:
        bars = [{**msgspec.structs.asdict(bar), "met": bar.met} for bar in report.bars]
        show.json({**msgspec.structs.asdict(report), "quick": quick, "bars": bars})
    else:
        tell(report)
    if missed and not quick:
        raise typer.Exit(1)


def tell(report: "Report") -> None:
    """The report for people."""
    on = report.machine
    show.line(f"{on.cpu}, {on.n_cores} cores, load {on.load_1min}; Python {on.python}, torch {on.torch}; one thread")
    show.line(f"release '{report.release}', {report.n_parameters:,} parameters\n")
    rows = [
        spread("generate one picture", report.generate),
        spread("swap two versions", report.swap),
        spread("  before it: fuse, off the path", report.stage),
        spread("  before that: read and check", report.load),
        *(spread(f"observation: {part}", one) for part, one in report.novelty.items()),
        spread("agent: import", report.agent.import_ms),
        spread("agent: memory after import", report.agent.imported_mb),
        ("agent: memory at work", f"{report.agent.working_mb:g} MB", "", "1"),
    ]
    show.table(rows, ("", "p50", "p99", "n"), right=(1, 2, 3))
    show.line()
    compared = [
        ratio("adapter / full fine-tune", report.training["adapter"]),
        ratio("whole objective / full fine-tune", report.training["objective"]),
        ratio("picture after a swap / before", report.after_swap),
    ]
    show.table(compared, ("", "this", "that", "ratio", "n"), right=(1, 2, 3, 4))
    show.line()
    for bar in report.bars:
        show.line(f"{'met' if bar.met else 'MISSED'}: {bar.name} {bar.value:g} {bar.unit}, at most {bar.limit:g}")


def spread(name: str, found: "Spread") -> tuple[str, str, str, str]:
    """A row of the first table."""
    return name, f"{found.p50:g} {found.unit}", f"{found.p99:g} {found.unit}", str(found.n)


def ratio(name: str, found: "Ratio") -> tuple[str, str, str, str, str]:
    """A row of the second table."""
    mine, other = f"{found.mine:g} {found.unit}", f"{found.other:g} {found.unit}"
    return name, mine, other, f"{found.ratio:g} ({found.ratio_min:g} to {found.ratio_max:g})", str(found.n)
