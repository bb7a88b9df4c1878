"""How often, how soon and where a device may take part: conditions of the proof, kept by fog *and* device (DESIGN §7).

b and k count the rounds of one noise stream, so a device keeps one home fog for a whole generation. A device does not
rely on its fog: it holds the same record of itself and obeys the same rule. A record never goes back.
"""

from typing import Literal

import msgspec

from evergrove.core.fog import Plan

NO_MORE = 2**31
"""More often than any plan allows."""
Obstacle = Literal["another fog", "old generation", "too often", "too soon", "over"]
"""Why a device may not be in a round. Only ``too soon`` passes by waiting."""


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is public of a noise stream and concerns taking part (``NoisePlan`` has the same fields)."""

    generation: int
    fog: str
    rounds: int
    separation: int
    participations: int


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One device's past in its latest generation: its home fog, the last round that it was in (-1: none), how many."""

    generation: int = -1
    fog: str = ""
    last: int = -1
    n: int = 0


def limits_of(plan: Plan, fog: str) -> Limits:
    """The limits of a fog's plan. At the fog itself all records are its own: ``fog`` is "" there."""
    return Limits(plan.generation, fog, plan.rounds, plan.separation, plan.participations)


def obstacle(record: Record, limits: Limits, round_: int) -> Obstacle | None:
    """Why the device may not be in round ``round_`` (from 0), or None where it may. The hardest reason first."""
    if limits.generation < record.generation:
        return "old generation"
    if not 0 <= round_ < limits.rounds:
        return "over"
    if limits.generation > record.generation:
        return None
    if limits.fog != record.fog:
        return "another fog"
    if record.n >= limits.participations:
        return "too often"
    if record.last >= 0 and round_ - record.last < limits.separation:
        return "too soon"
    return None


def withdrawn(record: Record) -> Record:
    """The record of a device that wants no further part in the generation that it was last in."""
    return msgspec.structs.replace(record, n=max(record.n, NO_MORE))


def taken(record: Record, limits: Limits, round_: int) -> Record:
    """The record after taking part. It is written before the update leaves a device, and with it at a fog."""
    assert obstacle(record, limits, round_) is None, "ask first"
    n = record.n if record.generation == limits.generation else 0
    return Record(limits.generation, limits.fog, round_, n + 1)
