"""What ``evergrove bench`` tells people: one ``tell_*`` for each report, in the order of the commands."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from evergrove.cli import show

if TYPE_CHECKING:
    from evergrove.bench.agent import Report as AgentReport
    from evergrove.bench.device import Report as DeviceReport
    from evergrove.bench.forgetting.cost import Cost
    from evergrove.bench.forgetting.tables import Table as ForgettingTable
    from evergrove.bench.forgetting.tuning import Trial
    from evergrove.bench.kills import Report as KillsReport
    from evergrove.bench.latency import Arm
    from evergrove.bench.latency import Report as LatencyReport
    from evergrove.bench.measure import Bar, Ratio, Spread
    from evergrove.bench.offload import Report as OffloadReport
    from evergrove.bench.placement import Report as PlacementReport
    from evergrove.bench.placement import Row
    from evergrove.bench.simulator import Found as SimulatorReport
    from evergrove.bench.swap import Report as SwapReport
    from evergrove.bench.telemetry import Report as TelemetryReport
    from evergrove.bench.thermal import Report as ThermalReport

LATENCY_HEADS = (
    "training in",
    "alone p50",
    "p99",
    "training p50",
    "p99",
    "p99 ratio",
    "missed alone",
    "training",
    "trained",
)
PLACEMENT_HEADS = (
    "", "price a job", "÷ optimum", "worst seed", "÷ no D", "÷ patient", "mean h", "p95 h", "worst h",
    "forbidden", "at work", "unwilling h", "undone", "changes",
)  # fmt: skip
FORGETTING_HEADS = (
    "", "FID", "lost", "FID random", "coverage", "right", "lost", "unseen", "kept", "ours − this, FID", "bytes",
    "÷ budget", "kept n", "passes", "CPU s", "seeds",
)  # fmt: skip
FAULTS_MAX = 20


def tell_device(report: "DeviceReport") -> None:
    """What single things cost, then what is compared."""
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
    pairs = [
        compared("adapter / full fine-tune", report.training["adapter"]),
        compared("whole objective / full fine-tune", report.training["objective"]),
        compared("picture after a swap / before", report.after_swap),
    ]
    show.table(pairs, ("", "this", "that", "ratio", "n"), right=(1, 2, 3, 4))
    show.line()


def tell_simulator(found: "SimulatorReport") -> None:
    """Pace, memory, and where the time goes."""
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


def tell_latency(found: "LatencyReport") -> None:
    """A line for each way to train, then what the noise is, and what the trainer gets."""
    on = found.machine
    show.line(
        f"{on.cpu}, {found.cores} of its cores; Python {on.python}, torch {on.torch}; release '{found.release}', "
        f"{found.fps:g} frames/s of {found.steps} steps, blocks of {found.sizes.block_s:g} s\n"
    )
    show.table(
        [arm(one) for one in (found.own, *found.rivals)], LATENCY_HEADS, right=tuple(range(1, len(LATENCY_HEADS)))
    )
    show.line("\nmissed: late frames and beats without one, per 1000 beats; ratio: median of the pairs of blocks")
    show.line(f"noise floor: p99 of a block alone over that of the one before it: {ratio(found.noise)}")
    show.line(
        f"trainer: {found.own.rows_per_s:g} rows/s beside the stream, {found.solo_rows_per_s:g} with the machine to "
        f"itself; frames take {found.inference_share:.1%} of a core and leave it {found.attainable:.1%} of one: "
        f"it gets {found.attained:.1%} of that\n"
    )


def arm(one: "Arm") -> tuple[str, ...]:
    """One way to train."""
    return (
        one.name,
        f"{one.alone.p50:g} ms",
        f"{one.alone.p99:g} ms",
        f"{one.training.p50:g} ms",
        f"{one.training.p99:g} ms",
        ratio(one.p99),
        f"{one.alone_missed:g} ‰",
        f"{one.training_missed:g} ‰",
        f"{one.rows_per_s:g} rows/s",
    )


def tell_swap(found: "SwapReport") -> None:
    """Both kinds of blocks, then what became of the frames."""
    on = found.machine
    show.line(
        f"{on.cpu}, {on.n_cores} cores; release '{found.release}', {found.fps:g} frames/s of {found.steps} steps\n"
    )
    rows = [
        (name, str(one.n), f"{one.p50:g} ms", f"{one.p99:g} ms", f"{one.max:g} ms", str(late))
        for name, one, late in (
            ("no swaps", found.still, found.late_still),
            (f"a promotion every {1000 * found.every_s:g} ms", found.swapping, found.late_swapping),
        )
    ]
    show.table(rows, ("", "frames", "p50", "p99", "max", "late"), right=(1, 2, 3, 4, 5))
    show.line(f"\np99 with promotions over without: {ratio(found.p99)}; noise floor: {ratio(found.noise)}")
    show.line(
        f"{found.promotions} promotions, {found.swaps} changes of version from one frame to the next; "
        f"{found.compared} frames made again, {found.torn} differ, {found.telling} could have told\n"
    )


def tell_telemetry(found: "TelemetryReport") -> None:
    """One reading of each body."""
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


def tell_agent(found: "AgentReport") -> None:
    """What it took to do nothing."""
    on = found.machine
    show.line(f"{on.cpu}, {on.n_cores} cores, load {on.load_1min}; {found.seconds:g} s, release '{found.release}'")
    show.line(f"{found.cpu_s:g} s of CPU time, woken {found.wakeups_per_s:g} times a second\n")


def tell_offload(found: "OffloadReport") -> None:
    """Alone and assisted, then what was saved and what it cost."""
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


def tell_placement(report: "PlacementReport") -> None:
    """Ratios to the optimum first, then the delays; under it, what the columns mean."""
    show.line(f"{report.n_jobs:,} jobs; past the age D = {report.deadline_h:g} h any safe choice is to be taken\n")
    show.table(
        [placement_cells(row) for row in report.rows], PLACEMENT_HEADS, right=tuple(range(1, len(PLACEMENT_HEADS)))
    )
    show.line(
        "\n÷ optimum: over the least price at the same mean delay, with no job past D but for what physics forbids"
        "\n÷ no D: the same, but single jobs may wait for ever; ÷ patient: within D, at any mean delay"
        "\nforbidden, at work: hours past D of the latest job in which nothing was safe, or the device learnt"
        "\nunwilling: hours past D, over all jobs, in which something was safe and not taken"
        "\na rule that leaves jobs undone pays nothing for them: its ratios say little"
    )
    show.line()


def placement_cells(row: "Row") -> tuple[str, ...]:
    """One rule's line."""
    return (
        row.rule,
        f"{row.cost:.3f}",
        f"{row.equal_delay:.3f}",
        f"{row.equal_delay_worst:.3f}",
        f"{row.unlimited:.3f}",
        f"{row.patient:.3f}",
        f"{row.mean_h:.2f}",
        f"{row.p95_h:.1f}",
        f"{row.worst_h:.1f}",
        f"{row.forbidden_h_max:.1f}",
        f"{row.busy_h_max:.1f}",
        f"{row.unwilling_h:.1f}",
        f"{row.undone_share:.1%}",
        f"{row.changes:.1f}",
    )


def tell_kills(found: "KillsReport") -> None:
    """How often it was killed, where, and what did not come back."""
    show.line(f"a life of {len(found.acts)} acts: {', '.join(found.acts)}\n")
    heads = ("", "kills", "recovered")
    show.table([(kind.name, f"{kind.kills:,}", f"{kind.recovered:,}") for kind in found.kinds], heads, right=(1, 2))
    show.line()
    rows = [(step.name, f"{step.kills:,}", f"{step.recovered:,}") for step in found.steps]
    show.table(rows, ("killed before", "kills", "recovered"), right=(1, 2))
    show.line()
    for fault in found.faults[:FAULTS_MAX]:
        show.line(f"{fault.kind}, {fault.act}, {fault.write}: {fault.what}")
    if len(found.faults) > FAULTS_MAX:
        show.line(f"and {len(found.faults) - FAULTS_MAX} more; all of them with --json")
    show.line(
        f"{'met' if found.met else 'MISSED'}: {found.recovered:,} of {found.kills:,} kills recovered from "
        f"({found.states:,} different disks, {found.seconds:g} s)"
    )


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


def verdicts(bars: "Iterable[Bar]") -> None:
    """A line for each promise."""
    for bar in bars:
        show.line(f"{'met' if bar.met else 'MISSED'}: {bar.name} {bar.value:g} {bar.unit}, at most {bar.limit:g}")


def spread(name: str, found: "Spread") -> tuple[str, str, str, str]:
    """A row of the first table."""
    return name, f"{found.p50:g} {found.unit}", f"{found.p99:g} {found.unit}", str(found.n)


def compared(name: str, found: "Ratio") -> tuple[str, str, str, str, str]:
    """A row of the second table."""
    mine, other = f"{found.mine:g} {found.unit}", f"{found.other:g} {found.unit}"
    return name, mine, other, f"{found.ratio:g} ({found.ratio_min:g} to {found.ratio_max:g})", str(found.n)


def ratio(found: "Ratio") -> str:
    """``1.02 (0.97 to 1.1)``."""
    return f"{found.ratio:g} ({found.ratio_min:g} to {found.ratio_max:g})"


def tell_forgetting(found: "Iterable[ForgettingTable]") -> None:
    """One row a strategy: means at the end with half of the 95 % interval over seeds."""
    from evergrove.bench.forgetting.page import told

    for one in found:
        show.line(f"{one.stream}: after the last lesson; an interval that excludes 0 is marked with *\n")
        rows = []
        for row in one.rows:
            mark = " *" if row.against is not None and row.against.excludes_zero else ""
            measured = (row.fid, row.lost_fid, row.fid_random, row.coverage, row.accuracy, row.lost_accuracy)
            rows.append(
                (
                    row.strategy,
                    *(told(value) for value in (*measured, row.unseen, row.kept)),
                    told(row.against) + mark,
                    show.size(row.n_bytes),
                    f"{row.over:.2f}",
                    str(row.n_observations),
                    f"{row.passes:,}",
                    f"{row.cpu_s:.0f}",
                    str(row.n_seeds),
                )
            )
        show.table(rows, FORGETTING_HEADS, right=tuple(range(1, len(FORGETTING_HEADS))))
        show.line()


def tell_trials(found: "Iterable[Trial]") -> None:
    """One row a trial; the best of each strategy is marked."""
    rows = [(trial.strategy, trial.words, f"{trial.fid:.4g}", "best" if trial.best else "") for trial in found]
    show.table(rows, ("", "settings", "average FID", ""), right=(2,))


def tell_cost(found: "Cost") -> None:
    """Ours over plain adapter training, in CPU time."""
    show.line(f"{found.machine.cpu}, release '{found.release}', a job of {found.steps} steps\n")
    words = f"{found.prepare_s:g} s before the first step, {found.step_s * 1000:.3g} ms a step"
    show.line(f"ours: {words}; plain: {found.plain_step_s * 1000:.3g} ms a step\n")
    pairs = [
        compared("ours / plain on its new rows", found.local),
        compared("the same with an assist", found.assisted),
        compared("ours / plain on as many rows", found.same_batch),
    ]
    show.table(pairs, ("", "this", "that", "ratio", "n"), right=(1, 2, 3, 4))
