"""How each job ended, as a fold over events: what an app that waits for ``learn()`` is told, also after a restart."""

import msgspec

from evergrove.core import events as ev
from evergrove.core.conditions import Code
from evergrove.views.sentences import forgotten

RESULTS_KEPT = 32


class Entry(msgspec.Struct, frozen=True):
    """One ended job; ``failed`` are (kind, condition) pairs of the gate."""

    job: str
    verdict: str
    sentence: str
    gamma: float = 0.0
    failed: tuple[tuple[str, Code], ...] = ()
    adapter: str | None = None
    steps: int = 0
    seconds: float = 0.0
    n_bytes: int = 0


class Book(msgspec.Struct, frozen=True):
    """Ended jobs, oldest first, and what is known of the one under way."""

    ended: tuple[Entry, ...] = ()
    open: Entry = Entry("", "", "")

    @property
    def candidates(self) -> tuple[str, ...]:
        """Adapters of the latest jobs, also rejected ones: kept for people to look at."""
        return tuple(e.adapter for e in (*self.ended[-8:], self.open) if e.adapter)


def fold(book: Book, event: ev.Event) -> Book:
    """The book after one more event."""
    now = book.open
    match event:
        case ev.TrainingStarted():
            return book if now.job == event.job else _open(book, Entry(event.job, "", ""))
        case ev.TrainingFinished():
            return _open(
                book,
                Entry(
                    event.job,
                    "",
                    "",
                    adapter=event.candidate,
                    steps=event.steps,
                    seconds=event.seconds,
                    n_bytes=event.n_bytes,
                ),
            )
        case ev.CandidateMeasured():
            entry = now if now.job == event.job else Entry(event.job, "", "")
            return _open(book, msgspec.structs.replace(entry, adapter=event.candidate, gamma=event.gamma))
        case ev.CandidateRefused():
            return _end(book, event.job, "refused", event.reason)
        case ev.GateJudged(verdict="rescale"):
            return book
        case ev.GateJudged():
            word = {"accept": "accepted", "reject": "rejected"}.get(event.verdict, event.verdict)
            return _end(book, event.job, word, event.sentence, event.failed)
        case ev.JobFailed() | ev.JobInterrupted():
            return _end(book, event.job, "failed", event.reason)
        case ev.Forgotten():
            return _end(book, event.job, "forgotten", forgotten(event))
        case _:
            return book


def _open(book: Book, entry: Entry) -> Book:
    return msgspec.structs.replace(book, open=entry)


def _end(book: Book, job: str, verdict: str, sentence: str, failed: tuple[tuple[str, Code], ...] = ()) -> Book:
    """Closes a job; a later word about the same job (a retry after an interruption) replaces the earlier one."""
    entry = book.open if book.open.job == job else Entry(job, "", "")
    entry = msgspec.structs.replace(entry, verdict=verdict, sentence=sentence, failed=failed)
    others = tuple(e for e in book.ended if e.job != job)
    return Book((*others, entry)[-RESULTS_KEPT:], entry)
