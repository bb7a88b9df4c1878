"""``evergrove bench``: what things cost on this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from evergrove.cli import bench_frames, bench_kills, bench_placement, show
from evergrove.cli.common import AsJson

if TYPE_CHECKING:
    from collections.abc import Iterable

    from evergrove.bench.device import Report
    from evergrove.bench.measure import Bar, Ratio, Spread
    from evergrove.bench.thermal import Report as ThermalReport

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
    verdicts(report.bars)


def spread(name: str, found: "Spread") -> tuple[str, str, str, str]:
    """A row of the first table."""
    return name, f"{found.p50:g} {found.unit}", f"{found.p99:g} {found.unit}", str(found.n)


def ratio(name: str, found: "Ratio") -> tuple[str, str, str, str, str]:
    """A row of the second table."""
    mine, other = f"{found.mine:g} {found.unit}", f"{found.other:g} {found.unit}"
    return name, mine, other, f"{found.ratio:g} ({found.ratio_min:g} to {found.ratio_max:g})", str(found.n)


@app.command("simulator")
def simulator(
    quick: Annotated[
        bool, typer.Option("--quick", help="A little of each: to see that it works, not to quote.")
    ] = False,
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
        show.line(f"{found.machine.cpu}, Python {found.machine.python}; one process, surrogate trainer\n")
        rows = [
            (
                f"readings every {pace.period_s:g} s",
                f"{pace.device_hours:,.0f}",
                f"{pace.at_least:,.0f}",
                "met" if pace.met else "MISSED",
                f"{pace.step_us:g} µs",
                f"{pace.n_accepted} of {pace.n_trained}",
            )
            for pace in found.paces
        ]
        show.table(rows, ("", "device-hours/min", "at least", "", "a reading", "accepted"), right=(1, 2, 4, 5))
        show.line(f"\nmemory of a virtual device: {found.kb_per_device:g} kB\n")
        lines = [(x.function, f"{x.calls:,}", f"{x.own_share:.1%}", f"{x.whole_share:.1%}") for x in found.profile]
        show.table(lines, ("where the time goes", "calls", "itself", "with calls"), right=(1, 2, 3))
    if not quick and not all(pace.met for pace in found.paces):
        raise typer.Exit(1)


@app.command("latency")
def latency(
    seconds: Annotated[
        float, typer.Option("--seconds", min=1, help="Seconds of streaming alone, and as many while training.")
    ] = 60.0,
    one_core: Annotated[bool, typer.Option("--one-core", help="Confine the app and its trainer to one core.")] = False,
    release: Annotated[
        str, typer.Option("--release", metavar="NAME|FOLDER", help="A shipped release or a folder.")
    ] = "avatars",
    quick: Annotated[bool, typer.Option("--quick", help="A few seconds: to see that it works, not to quote.")] = False,
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
    if as_json:
        bars = [{**msgspec.structs.asdict(bar), "met": bar.met} for bar in found.bars]
        show.json({**msgspec.structs.asdict(found), "quick": quick, "bars": bars})
    else:
        bench_frames.tell_latency(found)
        verdicts(found.bars)
    if not quick and not all(bar.met for bar in found.bars):
        raise typer.Exit(1)


@app.command("swap")
def swap(
    seconds: Annotated[
        float, typer.Option("--seconds", min=1, help="Seconds of streaming without promotions, and as many with.")
    ] = 60.0,
    release: Annotated[
        str, typer.Option("--release", metavar="NAME|FOLDER", help="A shipped release or a folder.")
    ] = "avatars",
    quick: Annotated[bool, typer.Option("--quick", help="A few seconds: to see that it works, not to quote.")] = False,
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
    if as_json:
        bars = [{**msgspec.structs.asdict(bar), "met": bar.met} for bar in found.bars]
        show.json({**msgspec.structs.asdict(found), "quick": quick, "bars": bars})
    else:
        bench_frames.tell_swap(found)
        verdicts(found.bars)
    if not quick and not all(bar.met for bar in found.bars):
        raise typer.Exit(1)


@app.command("telemetry")
def telemetry(
    quick: Annotated[bool, typer.Option("--quick", help="A few readings: to see that it works, not to quote.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure what one look at the device's own body costs: on this machine and on recorded phones and boards.

    Takes half a minute. Exits with 1 where a bar is missed.

    Example: evergrove bench telemetry --json
    """
    from evergrove.bench.telemetry import run

    with show.Progress("measuring") as progress:
        found = run(20 if quick else 300, lambda what, done, total: progress.update(done, total, what))
    if as_json:
        bars = [{**msgspec.structs.asdict(bar), "met": bar.met} for bar in found.bars]
        show.json({**msgspec.structs.asdict(found), "quick": quick, "bars": bars})
    else:
        rows = [
            (
                *spread(one.name, one.reading),
                f"{one.cpu_ms:g} ms",
                f"{one.scan_ms:g} ms",
                f"{one.n_values + one.n_zones}",
            )
            for one in found.costs
        ]
        show.line(f"{found.machine.cpu}, {found.machine.n_cores} cores, load {found.machine.load_1min}\n")
        show.table(rows, ("one reading", "p50", "p99", "n", "CPU", "a scan", "values"), right=(1, 2, 3, 4, 5, 6))
        show.line()
        verdicts(found.bars)
    if not quick and not all(bar.met for bar in found.bars):
        raise typer.Exit(1)


@app.command("agent")
def agent(
    seconds: Annotated[float, typer.Option("--seconds", min=1, help="How long to watch.")] = 300.0,
    release: Annotated[
        str, typer.Option("--release", metavar="NAME|FOLDER", help="A shipped release or a folder.")
    ] = "avatars",
    quick: Annotated[bool, typer.Option("--quick", help="20 seconds: to see that it works, not to quote.")] = False,
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
    if as_json:
        bars = [{**msgspec.structs.asdict(bar), "met": bar.met} for bar in found.bars]
        show.json({**msgspec.structs.asdict(found), "quick": quick, "bars": bars})
    else:
        on = found.machine
        show.line(f"{on.cpu}, {on.n_cores} cores, load {on.load_1min}; {found.seconds:g} s, release '{found.release}'")
        show.line(f"{found.cpu_s:g} s of CPU time, woken {found.wakeups_per_s:g} times a second\n")
        verdicts(found.bars)
    if not quick and not all(bar.met for bar in found.bars):
        raise typer.Exit(1)


@app.command("offload")
def offload(
    release: Annotated[
        str, typer.Option("--release", metavar="NAME|FOLDER", help="A shipped release, or a folder like one.")
    ] = "avatars",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many pairs of jobs.")] = 3,
    core_w: Annotated[float, typer.Option("--watts", min=0, help="Power of one busy core, for the joules.")] = 2.5,
    quick: Annotated[bool, typer.Option("--quick", help="One short job each: to see that it works.")] = False,
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
        return
    show.line(f"{found.machine.cpu}; release '{found.release}', {found.sizes.steps} steps, one thread\n")
    rows = [
        (
            name,
            f"{arm.prepare_cpu_s.p50 + arm.read_cpu_s.p50:.4g} s",
            f"{arm.steps_cpu_s.p50:.4g} s",
            f"{arm.prepare_gflop:,.0f}",
            f"{arm.steps_gflop:,.0f}",
            f"{arm.joules:.4g} J",
            f"{arm.held_mb:g} MB",
            f"{arm.old:.3f}",
            f"{arm.new:.3f}",
        )
        for name, arm in (("alone", found.alone), ("assisted", found.assisted))
    ]
    head = ("", "prepare", "steps", "GFLOP before", "GFLOP steps", "energy", "held before", "old", "new")
    show.table(rows, head, right=tuple(range(1, 9)))
    show.line(
        f"\nsaved: {found.saved_cpu_share:.1%} of the CPU time ({found.saved_cpu_share_min:.1%} to "
        f"{found.saved_cpu_share_max:.1%}), {found.saved_gflop_share:.1%} of the operations, {found.saved_joules:g} J"
    )
    show.line(
        f"the assist: {found.assist_bytes / 1e6:.2f} MB and {found.assist_cpu_s:g} s of a fog, once for a release; "
        f"to receive it, about {found.download_joules:g} J: repaid after {found.jobs_to_repay:g} jobs"
    )


@app.command("placement")
def placement(
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many fleets, each from its own seed.")] = 5,
    first_seed: Annotated[int, typer.Option("--first-seed", min=0, help="Seed of the first; 0 is what is quoted.")] = 0,
    devices: Annotated[int, typer.Option("--devices", min=1, help="Devices of a fleet.")] = 60,
    days: Annotated[int, typer.Option("--days", min=1, help="Days on which jobs come.")] = 3,
    deadline_h: Annotated[
        float | None, typer.Option("--deadline", min=0.1, help="The age D in hours; by default the configuration's.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="One small fleet: to see that it works, not to quote.")
    ] = False,
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
    if as_json:
        bars = [{**msgspec.structs.asdict(bar), "met": bar.met} for bar in found.bars]
        show.json({**msgspec.to_builtins(found), "quick": quick, "bars": bars})
    else:
        bench_placement.tell(found)
        show.line()
        verdicts(found.bars)
    if not quick and not all(bar.met for bar in found.bars):
        raise typer.Exit(1)


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
        bench_kills.tell(found)
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
    quick: Annotated[
        bool, typer.Option("--quick", help="A little of each: to see that it works, not to quote.")
    ] = False,
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
    if as_json:
        bars = [{**msgspec.structs.asdict(bar), "met": bar.met} for bar in found.bars]
        show.json({**msgspec.structs.asdict(found), "quick": quick, "bars": bars})
    else:
        tell_thermal(found)
    if not quick and not all(bar.met for bar in found.bars):
        raise typer.Exit(1)


def tell_thermal(found: "ThermalReport") -> None:
    """The two loops for people."""
    on = found.machine
    show.line(f"{on.cpu}, {on.n_cores} cores, load {on.load_1min}; Python {on.python}")
    show.line(
        f"one update {found.update.p50:g} µs (p99 {found.update.p99:g}), one decision {found.safe_share.p50:g} µs\n"
    )
    show.line("60 s ahead on runs that R was not learned from: mean error in °C\n")
    rows = [
        (
            f"{one.run}, every {one.period_s} s",
            f"{one.given_c:.2f}",
            f"{one.own_c:.2f}",
            f"{one.persistence_c:.2f}",
            f"{one.violated:.2%}",
            f"{one.margin_c:.2f}",
        )
        for one in found.ahead
    ]
    heads = ("run", "load given", "own forecast", "stays as it is", "margin violated", "margin °C")
    show.table(rows, heads, right=(1, 2, 3, 4, 5))
    for title, lives in (("apps in bursts", found.loop), ("apps in sessions", found.loop_sessions)):
        show.line(f"\n{title}: {found.n_boards} boards of {found.sizes.hours:g} h, R guessed 40 % wrong\n")
        free = lives[0].work
        lines = [
            (
                life.name,
                f"{life.work:.3f}",
                f"{life.work / free:.3f}" if free else "",
                str(life.throttled),
                str(life.worse),
                f"{life.worse_s:.0f} s",
                f"{life.apps_lost:.3%}",
            )
            for life in lives
        ]
        columns = ("", "training work", "of no control", "throttled", "beyond no training", "by", "apps' work lost")
        show.table(lines, columns, right=(1, 2, 3, 4, 5, 6))
    show.line()
    verdicts(found.bars)


def verdicts(bars: "Iterable[Bar]") -> None:
    """A line for each promise."""
    for bar in bars:
        show.line(f"{'met' if bar.met else 'MISSED'}: {bar.name} {bar.value:g} {bar.unit}, at most {bar.limit:g}")
