"""``evergrove bench``: what things cost on this machine."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol, TypeVar

import msgspec
import typer

from evergrove.cli import bench_tables as tables
from evergrove.cli import show
from evergrove.cli.common import AsJson
from evergrove.core.errors import UsageError

if TYPE_CHECKING:
    from evergrove.bench.measure import Bar

Release = Annotated[str, typer.Option("--release", metavar="NAME|FOLDER", help="A shipped release or a folder.")]
Quick = Annotated[bool, typer.Option("--quick", help="A little of each: to see that it works, not to quote.")]

app = typer.Typer(no_args_is_help=True, help="Measure what things cost on this machine.")


@app.command("device")
def device(
    release: Release = "avatars",
    quick: Quick = False,
    as_json: AsJson = False,
) -> None:
    """Measure a device: swap, generate, an observation, training, and the agent's start and memory.

    Takes about two minutes on one thread; close other programs first. Exits with 1 where a bar is missed.

    Example: evergrove bench device --json
    """
    from evergrove.bench.device import QUICK, Sizes, run

    with show.Progress("measuring") as progress:
        found = run(release, QUICK if quick else Sizes(), lambda what, done, total: progress.update(done, total, what))
    deliver(found, tables.tell_device, quick, as_json)


@app.command("simulator")
def simulator(
    quick: Quick = False,
    as_json: AsJson = False,
) -> None:
    """Measure the simulator: virtual device-hours per minute of one process, memory per device, and a profile.

    Takes a few minutes on one core; close other programs first. Exits with 1 where a bar is missed.

    Example: evergrove bench simulator --json
    """
    from evergrove.bench.simulator import QUICK, Sizes, run

    with show.Progress("measuring") as progress:
        found = run(QUICK if quick else Sizes(), lambda what, done, total: progress.update(done, total, what))
    if as_json:
        paces = [{**msgspec.structs.asdict(pace), "met": pace.met} for pace in found.paces]
        show.json({**msgspec.structs.asdict(found), "quick": quick, "paces": paces})
    else:
        tables.tell_simulator(found)
    if not quick and not all(pace.met for pace in found.paces):
        raise typer.Exit(1)


@app.command("latency")
def latency(
    seconds: Annotated[
        float, typer.Option("--seconds", min=1, help="Seconds of streaming alone, and as many while training.")
    ] = 60.0,
    one_core: Annotated[bool, typer.Option("--one-core", help="Confine the app and its trainer to one core.")] = False,
    release: Release = "avatars",
    quick: Quick = False,
    as_json: AsJson = False,
) -> None:
    """Measure what training does to a stream of 30 frames a second: ours, and the two ways that come to mind first.

    Takes about four minutes; close other programs first. Exits with 1 where a bar is missed.

    Example: evergrove bench latency --one-core --json
    """
    from evergrove.bench.latency import QUICK, Sizes, run

    sizes = QUICK if quick else Sizes(own_s=seconds)
    with show.Progress("streaming") as progress:
        found = run(release, sizes, one_core, lambda what, done, total: progress.update(done, total, what))
    deliver(found, tables.tell_latency, quick, as_json)


@app.command("swap")
def swap(
    seconds: Annotated[
        float, typer.Option("--seconds", min=1, help="Seconds of streaming without promotions, and as many with.")
    ] = 60.0,
    release: Release = "avatars",
    quick: Quick = False,
    as_json: AsJson = False,
) -> None:
    """Measure a stream of 30 frames a second while another version goes live every 200 ms.

    Makes every frame again to see that exactly one version made it. Takes about three minutes. Exits with 1 where a
    bar is missed.

    Example: evergrove bench swap --json
    """
    from evergrove.bench.swap import QUICK, Sizes, run

    sizes = QUICK if quick else Sizes(seconds=seconds)
    with show.Progress("streaming") as progress:
        found = run(release, sizes, lambda what, done, total: progress.update(done, total, what))
    deliver(found, tables.tell_swap, quick, as_json)


@app.command("telemetry")
def telemetry(
    quick: Quick = False,
    as_json: AsJson = False,
) -> None:
    """Measure what one look at the device's own body costs: on this machine and on recorded phones and boards.

    Takes half a minute. Exits with 1 where a bar is missed.

    Example: evergrove bench telemetry --json
    """
    from evergrove.bench.telemetry import run

    with show.Progress("measuring") as progress:
        found = run(20 if quick else 300, lambda what, done, total: progress.update(done, total, what))
    deliver(found, tables.tell_telemetry, quick, as_json)


@app.command("agent")
def agent(
    seconds: Annotated[float, typer.Option("--seconds", min=1, help="How long to watch.")] = 300.0,
    release: Release = "avatars",
    quick: Quick = False,
    as_json: AsJson = False,
) -> None:
    """Measure an agent with nothing to do: CPU time and memory over five minutes, with an app attached.

    Exits with 1 where a bar is missed.

    Example: evergrove bench agent --seconds 300 --json
    """
    from evergrove.bench.agent import SECONDS_QUICK, run

    with show.Progress("watching") as progress:
        found = run(
            min(SECONDS_QUICK, seconds) if quick else seconds,
            release,
            lambda what, done, total: progress.update(done, total, what),
        )
    deliver(found, tables.tell_agent, quick, as_json)


@app.command("offload")
def offload(
    release: Release = "avatars",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many pairs of jobs.")] = 3,
    core_w: Annotated[float, typer.Option("--watts", min=0, help="Power of one busy core, for the joules.")] = 2.5,
    quick: Quick = False,
    as_json: AsJson = False,
) -> None:
    """Measure what a fog's assist saves a device: operations, CPU time and joules, and how well it learns with it.

    Takes about ten minutes on one thread.

    Example: evergrove bench offload --seeds 3 --json
    """
    from evergrove.bench.offload import QUICK, Sizes, run

    sizes = QUICK if quick else Sizes(n_seeds=seeds)
    with show.Progress("learning") as progress:
        found = run(release, sizes, core_w, lambda what, done, total: progress.update(done, total, what))
    if as_json:
        show.json({**msgspec.to_builtins(found), "quick": quick})
    else:
        tables.tell_offload(found)


@app.command("placement")
def placement(
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many fleets, each from its own seed.")] = 5,
    first_seed: Annotated[int, typer.Option("--first-seed", min=0, help="Seed of the first; 0 is what is quoted.")] = 0,
    devices: Annotated[int, typer.Option("--devices", min=1, help="Devices of a fleet.")] = 60,
    days: Annotated[int, typer.Option("--days", min=1, help="Days on which jobs come.")] = 3,
    deadline_h: Annotated[
        float | None, typer.Option("--deadline", min=0.1, help="The age D in hours; by default the configuration's.")
    ] = None,
    quick: Quick = False,
    as_json: AsJson = False,
) -> None:
    """Measure when and where jobs run: our price ceiling and its rivals against an optimum that knows the future.

    Takes a few minutes on one core. Exits with 1 where a bar is missed.

    Example: evergrove bench placement --seeds 5 --json
    """
    from evergrove.bench.placement import QUICK, Sizes, ordinary, run

    sizes = Sizes(tuple(range(first_seed, first_seed + seeds)), devices, days)
    with show.Progress("simulating") as progress:
        found = run(
            QUICK if quick else sizes,
            lambda what, done, total: progress.update(done, total, what),
            ordinary(deadline_h),
        )
    deliver(found, tables.tell_placement, quick, as_json)


@app.command("kills")
def kills(
    quick: Annotated[
        bool, typer.Option("--quick", help="Only the kill at each write, and of the worker: about two minutes.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Kill a device at every write of its life, let the power fail there, too, and see that it comes back from each.

    A whole life on the small release, from init over learning and promotion to going back; counts what it tried.
    Takes about a quarter of an hour on one core. Exits with 1 where a kill was not recovered from.

    Example: evergrove bench kills --json
    """
    from evergrove.bench.kills import KINDS, KINDS_QUICK, run

    kinds = KINDS_QUICK if quick else KINDS
    with show.Progress("killing") as progress:
        found = run(lambda what, done, total: progress.update(done, total, what), kinds=kinds)
    if as_json:
        totals = {"kills": found.kills, "recovered": found.recovered, "met": found.met}
        show.json({**totals, **msgspec.to_builtins(found), "quick": quick})
    else:
        tables.tell_kills(found)
    if not found.met:
        raise typer.Exit(1)


@app.command("thermal")
def thermal(
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="FOLDER",
            envvar="EVERGROVE_THERMAL_DATA",
            help="The recorded Raspberry Pi runs; by default shared/data/thermal-pi here or one folder up.",
        ),
    ] = None,
    quick: Quick = False,
    as_json: AsJson = False,
) -> None:
    """Measure the thermal model on recorded boards, and the shield against its rivals on boards that heat up for it.

    Takes about three minutes on one core. Exits with 1 where a bar is missed, with 4 where there are no recordings.

    Example: evergrove bench thermal --json
    """
    from evergrove.bench.thermal import QUICK, Sizes, run
    from evergrove.bench.thermal_runs import find_folder

    folder = find_folder(data)
    with show.Progress("measuring") as progress:
        found = run(folder, QUICK if quick else Sizes(), lambda what, done, total: progress.update(done, total, what))
    deliver(found, tables.tell_thermal, quick, as_json)


@app.command("forgetting")
def forgetting(
    streams: Annotated[
        str,
        typer.Option(
            "--stream", metavar="S1,…", help="S1 digits, S2 Omniglot, S3 avatars, S4 many, T1 tuning, R1 what to keep."
        ),
    ] = "S1",
    strategies: Annotated[
        str, typer.Option("--strategies", metavar="A,B,…", help="Which ones; by default all, or a few with --quick.")
    ] = "",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many orders of the stream.")] = 5,
    first_seed: Annotated[int, typer.Option("--first-seed", min=0, help="Seed of the first.")] = 0,
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="For results, a page, and the bases; runs are resumed.")
    ] = Path("runs/forgetting"),
    data: Annotated[
        Path | None, typer.Option("--data", metavar="FOLDER", help="Data sets; by default shared/data here or one up.")
    ] = None,
    device: Annotated[
        str, typer.Option("--device", metavar="NAME", help="Where networks compute, for example cuda.")
    ] = "cpu",
    quick: Annotated[
        bool, typer.Option("--quick", help="Small digits, few strategies, 3 seeds: the order only, in a minute or two.")
    ] = False,
    tune: Annotated[
        bool, typer.Option("--tune", help="Run each strategy's trials on the tuning stream instead.")
    ] = False,
    cost: Annotated[bool, typer.Option("--cost", help="Measure what our objective costs instead.")] = False,
    as_json: AsJson = False,
) -> None:
    """Race ours against the published ways not to forget: equal steps, equal bytes, the same streams.

    A strategy takes about half a minute for each seed and stream; what is done is not done again. With --quick it exits
    with 1 where the known order of strategies is not found again. Rows, noise and chance are the same on any device.

    Example: evergrove bench forgetting --stream S1 --strategies evergrove,replay,rank1+gd --seeds 3
    """
    from evergrove.bench.forgetting.command import Wanted, race, tuned

    named = strategies.split(",") if strategies else []
    wanted = Wanted(streams.split(","), named, seeds, first_seed, out, data, device)
    if cost:
        from evergrove.bench.forgetting.cost import measure

        if device != "cpu":
            raise UsageError("--cost measures CPU time; leave --device out")
        spent = measure("tiny" if quick else "avatars")
        return show.json(msgspec.to_builtins(spent)) if as_json else tables.tell_cost(spent)
    if tune:
        with show.Progress("tuning") as progress:
            trials = tuned(wanted, lambda what, done, total: progress.update(done, total, what))
        return show.json(msgspec.to_builtins(trials)) if as_json else tables.tell_trials(trials)
    with show.Progress("racing") as progress:
        found = race(wanted, quick, lambda what, done, total: progress.update(done, total, what))
    if as_json:
        shown = [msgspec.to_builtins(table) for table in found.tables]
        show.json({"quick": quick, "in_order": found.in_order, "tables": shown})
    else:
        tables.tell_forgetting(found.tables)
        show.note(f"results: {found.results}; page: {found.page}")
    if not found.in_order:
        show.note("the known order of strategies was not found again: evergrove, replay, naive by average FID")
        raise typer.Exit(1)


class Barred(Protocol):
    """A report with promises; a ``msgspec.Struct``."""

    @property
    def bars(self) -> "tuple[Bar, ...]":
        """Each promise, and what was measured."""


R = TypeVar("R", bound=Barred)


def deliver(found: R, tell: Callable[[R], None], quick: bool, as_json: bool) -> None:
    """Prints a report, as JSON or for people, and exits with 1 where a full run missed a bar."""
    if as_json:
        bars = [{**msgspec.structs.asdict(bar), "met": bar.met} for bar in found.bars]
        show.json({**msgspec.to_builtins(found), "quick": quick, "bars": bars})
    else:
        tell(found)
        tables.verdicts(found.bars)
    if not quick and not all(bar.met for bar in found.bars):
        raise typer.Exit(1)
