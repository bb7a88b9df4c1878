"""Novelty: is an observation worth keeping? (DESIGN §5.)

Two halves, because features of observations are private. *Measuring* runs beside the encrypted store: it compares an
observation's fingerprint and feature with what is kept of its condition and gives three scalars (``Facts``). *Deciding*
is pure and runs in the reducer from those scalars alone, so that a log, which holds no feature and no hash, replays to
the same decisions. Exact and near duplicates are dropped; what is left is offered to the reservoir of its condition,
with its distance to the nearest kept one as surprise, capped at the 95th percentile of the condition's recent ones.
"""

from collections.abc import Collection
from enum import StrEnum

import msgspec

from evergrove.core import config
from evergrove.core.conditions import Code
from evergrove.core.measures import Facts
from evergrove.rules import replay
from evergrove.rules.kept import KeptIndex, measure
from evergrove.rules.replay import Buffer, Chance, Limits, Split, draw

__all__ = [
    "Chance",
    "Decision",
    "KeptIndex",
    "Policy",
    "Reason",
    "State",
    "Window",
    "decide",
    "draw",
    "erase",
    "forget",
    "is_near",
    "measure",
]

RECENT_MAX = 64
"""Surprises per condition that the 95th percentile is taken of: recent enough to follow a drifting stream."""
CAP = 0.95


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Thresholds and bounds.

    An observation is a near duplicate if the nearest kept one of its condition is within ``distance_max`` (1: what
    copies stay below), has the very same code, and the perceptual hashes differ in at most ``hash_bits_max`` bits: a
    veto only, copies of flat avatars differ in up to 13 (measured).
    """

    limits: Limits = Limits()
    distance_max: float = 1.0
    hash_bits_max: int = 20

    @classmethod
    def of(cls, novelty: config.Novelty, buffer: config.Replay) -> "Policy":
        """The policy that a device's configuration asks for."""
        return cls(
            Limits(
                capacity=novelty.capacity_per_condition,
                surprise_share=novelty.surprise_share,
                golden_every=novelty.golden_every,
                golden_capacity=novelty.golden_capacity,
                n_records_max=buffer.n_records_max,
                n_bytes_max=buffer.n_bytes_max,
            ),
            distance_max=novelty.near_duplicate_distance,
        )


class Reason(StrEnum):
    """Why an observation was kept or dropped, in words that people read."""

    FIRST = "kept: first of its condition"
    ROOM = "kept: new, and there is room"
    DRAWN = "kept: drawn by the reservoir"
    SURPRISING = "kept: surprising"
    GOLDEN = "kept: split off for the device's golden set"
    EXACT = "exact duplicate"
    NEAR = "near duplicate"
    NOT_DRAWN = "reservoir full: not drawn"
    NO_ROOM = "buffer full: nothing can give way"
    TOO_MANY = "too many conditions"


_REASONS = {
    "golden": Reason.GOLDEN,
    "room": Reason.ROOM,
    "drawn": Reason.DRAWN,
    "surprising": Reason.SURPRISING,
    "not drawn": Reason.NOT_DRAWN,
    "no room": Reason.NO_ROOM,
}


class Decision(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to do with one observation. ``evict`` names records to delete, whether it is kept or not."""

    keep: bool
    reason: Reason
    split: Split | None = None
    evict: tuple[str, ...] = ()


class Window(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The latest surprises of one condition, oldest first, at most ``RECENT_MAX``."""

    condition: Code
    recent: tuple[float, ...] = ()


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is held, what was recently surprising, and how many observations were decided. Bounded; for snapshots."""

    buffer: Buffer = Buffer()
    windows: tuple[Window, ...] = ()
    n_decided: int = 0


def decide(
    state: State,
    policy: Policy,
    record: str,
    condition: Code,
    n_bytes: int,
    facts: Facts,
    chance: Chance,
    *,
    golden: bool,
) -> tuple[State, Decision]:
    """Keep or drop one observation of the group ``condition``; ``golden`` asks for a golden split of it.

    A pure function of its arguments. Microseconds for tens of conditions; memory is bounded by ``policy.limits``.
    """
    state = msgspec.structs.replace(state, n_decided=state.n_decided + 1)

    # 1. Duplicates, of training and golden records alike.
    if facts.exact_duplicate:
        return state, Decision(False, Reason.EXACT)
    if is_near(policy, facts):
        return state, Decision(False, Reason.NEAR)

    # 2. Bounds that no eviction can mend.
    first = state.buffer.part(condition) is None
    if first and len(state.buffer.parts) >= policy.limits.conditions_max:
        return state, Decision(False, Reason.TOO_MANY)

    # 3. The reservoir, weighted by capped surprise.
    windows, weight = _capped(state.windows, condition, facts.distance)
    buffer, offered = replay.offer(
        state.buffer, policy.limits, record, condition, n_bytes, weight, chance, golden=golden
    )
    reason = Reason.FIRST if first and offered.split == "train" else _REASONS[offered.why]
    return State(buffer, windows, state.n_decided), Decision(
        offered.split is not None, reason, offered.split, offered.evicted
    )


def is_near(policy: Policy, facts: Facts) -> bool:
    """Whether an observation shows nothing that is not kept already."""
    if facts.distance is None or facts.hash_bits is None:
        return False
    return facts.distance <= policy.distance_max and facts.hash_bits <= policy.hash_bits_max


def forget(state: State, records: Collection[str]) -> State:
    """The state without some records: lost, damaged, or to be forgotten."""
    return msgspec.structs.replace(state, buffer=replay.forget(state.buffer, records))


def erase(state: State, records: Collection[str], conditions: Collection[Code]) -> State:
    """The state without some records and without what they have left: the surprises of their ``conditions`` too.

    A condition of which nothing is left was never met.
    """
    buffer = replay.forget(state.buffer, records)
    parts = tuple(p for p in buffer.parts if p.n_records or p.condition not in conditions)
    windows = tuple(w for w in state.windows if w.condition not in conditions)
    return State(msgspec.structs.replace(buffer, parts=parts), windows, state.n_decided)


def _capped(windows: tuple[Window, ...], condition: Code, surprise: float | None) -> tuple[tuple[Window, ...], float]:
    """The windows with this surprise in, and the surprise capped at their 95th percentile (1 if there is none yet)."""
    if surprise is None:
        return windows, 1.0
    at = next((i for i, w in enumerate(windows) if w.condition == condition), len(windows))
    recent = (*windows[at].recent, surprise)[-RECENT_MAX:] if at < len(windows) else (surprise,)
    ranked = sorted(recent)
    cap = ranked[min(int(CAP * len(ranked)), len(ranked) - 1)]
    return (*windows[:at], Window(condition, recent), *windows[at + 1 :]), min(surprise, cap)
