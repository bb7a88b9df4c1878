"""The table of ``evergrove bench placement`` for people: each rule beside the optimum, then its delays and why."""

from typing import TYPE_CHECKING

from evergrove.cli import show

if TYPE_CHECKING:
    from evergrove.bench.placement import Report, Row

HEADS = (
    "", "price a job", "÷ optimum", "worst seed", "÷ no D", "÷ patient", "mean h", "p95 h", "worst h",
    "forbidden", "at work", "unwilling h", "undone", "changes",
)  # fmt: skip


def tell(report: "Report") -> None:
    """Ratios to the optimum first, then the delays; under it, what the columns mean."""
    show.line(f"{report.n_jobs:,} jobs; past the age D = {report.deadline_h:g} h any safe choice is to be taken\n")
    show.table([cells(row) for row in report.rows], HEADS, right=tuple(range(1, len(HEADS))))
    show.line(
        "\n÷ optimum: over the least price at the same mean delay, with no job past D but for what physics forbids"
        "\n÷ no D: the same, but single jobs may wait for ever; ÷ patient: within D, at any mean delay"
        "\nforbidden, at work: hours past D of the latest job in which nothing was safe, or the device learnt"
        "\nunwilling: hours past D, over all jobs, in which something was safe and not taken"
        "\na rule that leaves jobs undone pays nothing for them: its ratios say little"
    )


def cells(row: "Row") -> tuple[str, ...]:
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
