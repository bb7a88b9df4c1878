"""What a fog remembers between two events, and which part of it one event can be about.

A fog has many devices and may have many workers over one database. So ``touches`` names the few devices and tokens that
a decision can read or change: a store loads those alone, locked, and ``step`` gives the same as over the whole.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from evergrove.core import fog
from evergrove.core.fog import Cohort, Plan
from evergrove.rules.privacy.participation import Record

CLOSED_MAX = 16
"""Cohorts that may wait to be summed; past it updates are put off."""
READY_MAX = 4096
"""Sums that may wait for the cloud."""


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An enrolled device: whether it was revoked, and how often it took part."""

    revoked: bool = False
    record: Record = Record()


class Counted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A token that has been counted: whose, which bytes, and where."""

    device: str
    digest: str
    cohort: Cohort


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that a fog remembers, besides the updates' bytes, the noise and the ledger.

    ``number`` is the open cohort's, ``n_updates`` how many are in it, ``since_s`` when the first came. ``closed`` waits
    to be summed, in order; ``ready`` is summed and waits for the cloud. ``tokens`` are those of this generation.
    ``spent``: the budget of this generation is.
    """

    plan: Plan | None = None
    number: int = 0
    n_updates: int = 0
    since_s: float = 0.0
    closed: tuple[Cohort, ...] = ()
    ready: tuple[Cohort, ...] = ()
    devices: dict[str, Member] = {}
    tokens: dict[str, Counted] = {}
    spent: bool = False

    @property
    def open(self) -> Cohort:
        """The cohort that is being gathered."""
        assert self.plan is not None, "asked only once there is a plan"
        return Cohort(self.plan.generation, self.number)


def touches(events: Iterable[fog.FogEvent]) -> tuple[set[str], set[str]]:
    """The devices and the tokens that decisions about these events can read or change, whatever follows from them."""
    devices, tokens = set(), set()
    for event in events:
        match event:
            case fog.UpdateOffered() | fog.UpdateMeasured():
                devices.add(event.device)
                tokens.add(event.head.token)
            case fog.UpdateCounted() | fog.UpdateRepeated():
                devices.add(event.device)
                tokens.add(event.token)
            case fog.DeviceEnrolled() | fog.DeviceRevoked() | fog.UpdateRefused():
                devices.add(event.device)
            case _:
                pass
    return devices, tokens


def change(state: State, **changes: Any) -> State:
    return msgspec.structs.replace(state, **changes)
