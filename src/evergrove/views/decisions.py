"""A device's decisions as a person wants to read them: in order, in sentences, a stream's many small ones counted.

A fold over the log; ``of(lines)`` gives ``Said``. Between two larger events the fates of observations are gathered by
their sentence (which names only the first factor of a condition), so that four hundred pictures make a few lines.
"""

from collections.abc import Iterable

import msgspec

from evergrove.core import events
from evergrove.core.conditions import Vocabulary
from evergrove.views.sentences import sentence


class Said(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One decision: seconds since 1970 of its first time, the sentence, and how often it was taken in a row."""

    at_s: float
    words: str
    n: int = 1


def of(lines: Iterable[events.Stamped], vocabulary: Vocabulary | None = None) -> tuple[Said, ...]:
    """The decisions of a log, oldest first."""
    said: list[Said] = []
    waiting: dict[str, Said] = {}
    for line in lines:
        words = sentence(_short(line.event), vocabulary)
        if words is None:
            continue
        if _small(line.event):
            before = waiting.get(words, Said(line.at_s, words, 0))
            waiting[words] = msgspec.structs.replace(before, n=before.n + 1)
            continue
        said += [*waiting.values(), Said(line.at_s, words)]
        waiting.clear()
    return (*said, *waiting.values())


def _small(event: events.Event) -> bool:
    return isinstance(event, events.ObservationKept | events.ObservationDropped | events.ObservationRefused)


def _short(event: events.Event) -> events.Event:
    """The event with all but the first factor of its condition left out."""
    if isinstance(event, events.ObservationKept | events.ObservationDropped):
        return msgspec.structs.replace(event, code=event.code[:1])
    return event
