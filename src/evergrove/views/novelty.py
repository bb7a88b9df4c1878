"""What became of the observations: how many were kept, for what, and why the others were not.

A fold over the log; ``of(lines)`` gives a ``Tally``. Lost records are counted apart: they were kept once.
"""

from collections.abc import Iterable
from functools import reduce

import msgspec

from evergrove.core import events
from evergrove.core.conditions import Code


class Count(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The observations of one condition: kept for training, kept as golden items, dropped."""

    train: int = 0
    golden: int = 0
    dropped: int = 0


class Tally(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Counts of observations. ``kept_why``, ``dropped_why``, ``refused_why`` count by reason."""

    train: int = 0
    golden: int = 0
    lost: int = 0
    kept_why: dict[str, int] = {}
    dropped_why: dict[str, int] = {}
    refused_why: dict[str, int] = {}
    conditions: dict[Code, Count] = {}

    @property
    def kept(self) -> int:
        """Everything that was written to the replay buffer, golden items included."""
        return self.train + self.golden

    @property
    def dropped(self) -> int:
        """Good pictures that brought nothing new."""
        return sum(self.dropped_why.values())

    @property
    def refused(self) -> int:
        """What could not be used at all."""
        return sum(self.refused_why.values())

    @property
    def observed(self) -> int:
        """Everything that was handed over."""
        return self.kept + self.dropped + self.refused


def of(lines: Iterable[events.Stamped]) -> Tally:
    """The tally of a log."""
    return reduce(lambda tally, line: step(tally, line.event), lines, Tally())


def step(tally: Tally, event: events.Event) -> Tally:
    """The tally after one more event."""
    match event:
        case events.ObservationKept(split="golden"):
            count = msgspec.structs.replace(_count(tally, event.code), golden=_count(tally, event.code).golden + 1)
            return _with(
                tally, event.code, count, golden=tally.golden + 1, kept_why=_more(tally.kept_why, event.reason)
            )
        case events.ObservationKept():
            count = msgspec.structs.replace(_count(tally, event.code), train=_count(tally, event.code).train + 1)
            return _with(tally, event.code, count, train=tally.train + 1, kept_why=_more(tally.kept_why, event.reason))
        case events.ObservationDropped():
            count = msgspec.structs.replace(_count(tally, event.code), dropped=_count(tally, event.code).dropped + 1)
            return _with(tally, event.code, count, dropped_why=_more(tally.dropped_why, event.reason))
        case events.ObservationRefused():
            return msgspec.structs.replace(tally, refused_why=_more(tally.refused_why, event.reason))
        case events.ObservationLost():
            return msgspec.structs.replace(tally, lost=tally.lost + 1)
        case _:
            return tally


def _count(tally: Tally, code: Code) -> Count:
    return tally.conditions.get(code, Count())


def _with(tally: Tally, code: Code, count: Count, **changes: object) -> Tally:
    return msgspec.structs.replace(tally, conditions={**tally.conditions, code: count}, **changes)


def _more(counts: dict[str, int], reason: str) -> dict[str, int]:
    return {**counts, reason: counts.get(reason, 0) + 1}
