"""``evergrove bench kills`` for people."""

from typing import TYPE_CHECKING

from evergrove.cli import show

if TYPE_CHECKING:
    from evergrove.bench.kills import Report

FAULTS_MAX = 20


def tell(found: "Report") -> None:
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
