"""What was interrupted, and what became of it: every job's starts, interruptions and end.

A fold over the log; ``of(lines)`` gives one ``Course`` per job, in the order in which they began.
"""

from collections.abc import Iterable

import msgspec

from evergrove.core import events


class Course(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One job's course. ``ended`` is finished, failed or empty while it runs."""

    job: str
    starts: int = 0
    interruptions: int = 0
    ended: str = ""

    @property
    def recovered(self) -> bool:
        """Whether it was interrupted, started again, and finished."""
        return self.starts > 1 and self.ended == "finished"


def of(lines: Iterable[events.Stamped]) -> tuple[Course, ...]:
    """The course of every training job."""
    courses: dict[str, Course] = {}
    for line in lines:
        match line.event:
            case events.TrainingStarted(job=job):
                before = courses.get(job, Course(job))
                courses[job] = msgspec.structs.replace(before, starts=before.starts + 1)
            case events.JobInterrupted(job=job) if job in courses:
                before = courses[job]
                courses[job] = msgspec.structs.replace(before, interruptions=before.interruptions + 1)
            case events.TrainingFinished(job=job) if job in courses:
                courses[job] = msgspec.structs.replace(courses[job], ended="finished")
            case events.JobFailed(job=job) if job in courses:
                courses[job] = msgspec.structs.replace(courses[job], ended="failed")
            case _:
                pass
    return tuple(courses.values())
