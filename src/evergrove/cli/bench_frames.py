"""``evergrove bench latency`` and ``evergrove bench swap`` for people."""

from typing import TYPE_CHECKING

from evergrove.cli import show

if TYPE_CHECKING:
    from evergrove.bench.latency import Arm
    from evergrove.bench.latency import Report as LatencyReport
    from evergrove.bench.measure import Ratio
    from evergrove.bench.swap import Report as SwapReport

HEADS = ("training in", "alone p50", "p99", "training p50", "p99", "p99 ratio", "missed alone", "training", "trained")


def tell_latency(found: "LatencyReport") -> None:
    """A line for each way to train, then what the noise is, and what the trainer gets."""
    on = found.machine
    show.line(
        f"{on.cpu}, {found.cores} of its cores; Python {on.python}, torch {on.torch}; release '{found.release}', "
        f"{found.fps:g} frames/s of {found.steps} steps, blocks of {found.sizes.block_s:g} s\n"
    )
    show.table([arm(one) for one in (found.own, *found.rivals)], HEADS, right=tuple(range(1, len(HEADS))))
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


def ratio(found: "Ratio") -> str:
    """``1.02 (0.97 to 1.1)``."""
    return f"{found.ratio:g} ({found.ratio_min:g} to {found.ratio_max:g})"
