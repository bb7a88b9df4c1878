"""Which observations a device holds: one reservoir per condition, balanced, bounded in records and in bytes.

In come records that passed the duplicate filter, with three uniforms of chance; out go the buffer and what to evict.
Each condition's training records are 80 % a uniform sample of all that was offered (Algorithm R, Vitter 1985) and 20 %
a sample weighted by surprise (Algorithm A-Res, Efraimidis & Spirakis 2006; the caller caps the weight). Drawing by
weight, instead of keeping the most surprising ones, is what makes an outlier no treasure: it never has more than the
chance that its capped weight gives it. A new condition's first records are split off as golden: never evicted for
others, never trained on.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np

from evergrove.core.conditions import Code

Split = Literal["train", "golden"]


class Chance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Three independent uniforms in [0, 1): all the chance that one observation needs."""

    slot: float
    weight: float
    spare: float


def draw(rng: np.random.Generator) -> Chance:
    """The chance for one observation from a named stream."""
    slot, weight, spare = rng.random(3).tolist()
    return Chance(slot, weight, spare)


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds of a buffer. ``capacity`` counts training records of one condition; golden ones come on top.

    Of a condition's distinct observations one in every ``golden_every`` is golden, up to ``golden_capacity``.
    """

    capacity: int = 24
    surprise_share: float = 0.2
    golden_every: int = 5
    golden_capacity: int = 12
    n_records_max: int = 2000
    n_bytes_max: int = 64 << 20
    conditions_max: int = 256


class Held(msgspec.Struct, frozen=True, array_like=True):
    """One record that is held. ``key`` is its draw in the weighted sample, larger stays longer."""

    record: str
    n_bytes: int
    key: float


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is held of one condition.

    ``n_distinct`` observations passed the duplicate filter, ``n_offered`` of them went to the reservoir (the others
    are golden). ``room`` is the capacity that the buffer's bounds have left this condition (None: all of it).
    ``turn`` says which of the current block of distinct observations is golden.
    """

    condition: Code
    n_distinct: int = 0
    n_offered: int = 0
    uniform: tuple[Held, ...] = ()
    surprising: tuple[Held, ...] = ()
    golden: tuple[Held, ...] = ()
    room: int | None = None
    turn: int = 0

    @property
    def n_train(self) -> int:
        """Training records held."""
        return len(self.uniform) + len(self.surprising)

    @property
    def train_bytes(self) -> int:
        """Bytes of the training records held."""
        return sum([h.n_bytes for h in self.uniform]) + sum([h.n_bytes for h in self.surprising])

    @property
    def n_bytes(self) -> int:
        """Bytes of everything held."""
        return self.train_bytes + sum([h.n_bytes for h in self.golden])

    @property
    def n_records(self) -> int:
        """Records held, golden ones included."""
        return self.n_train + len(self.golden)


class Buffer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All conditions, in the order in which they were first met, with the sums over them."""

    parts: tuple[Part, ...] = ()
    n_bytes: int = 0
    n_records: int = 0

    def part(self, condition: Code) -> Part | None:
        """What is held of a condition, None if it was never met."""
        return next((p for p in self.parts if p.condition == condition), None)

    def records(self, split: Split | None = None) -> tuple[str, ...]:
        """The records held, of one split or of both."""
        return tuple(h.record for p in self.parts for h in _held(p, split))

    def counts(self, split: Split) -> dict[Code, int]:
        """How many records of each condition are held in a split."""
        return {p.condition: len(_held(p, split)) for p in self.parts}


class Offered(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What became of an offer: ``split`` None if it is not held; ``evicted`` records make room for it."""

    why: Literal["golden", "room", "drawn", "surprising", "not drawn", "no room"]
    split: Split | None = None
    evicted: tuple[str, ...] = ()


def offer(
    buffer: Buffer,
    limits: Limits,
    record: str,
    condition: Code,
    n_bytes: int,
    weight: float,
    chance: Chance,
    *,
    golden: bool,
) -> tuple[Buffer, Offered]:
    """Offers one distinct observation of ``n_bytes``; ``weight`` > 0 is its capped surprise.

    ``golden`` asks for a golden set to be split off. The buffer's
    bounds hold afterwards; when they bind, the condition that holds most bytes gives way.
    """
    part = buffer.part(condition) or Part(condition)
    if part.n_distinct % limits.golden_every == 0:
        part = msgspec.structs.replace(part, turn=int(chance.spare * limits.golden_every))
    is_golden = (
        golden and len(part.golden) < limits.golden_capacity and part.n_distinct % limits.golden_every == part.turn
    )
    part = msgspec.structs.replace(part, n_distinct=part.n_distinct + 1)
    held = Held(record, n_bytes, math.log(max(chance.weight, 1e-300)) / max(weight, 1e-9))

    # 1. Golden records only need the others to make room.
    if is_golden:
        fitted = _fit(_put(buffer, msgspec.structs.replace(part, golden=(*part.golden, held))), limits, chance, record)
        if fitted is None:
            return _put(buffer, part), Offered("no room")
        return fitted[0], Offered("golden", "golden", fitted[1])

    # 2. A full buffer lets a condition grow only at the expense of a larger one.
    part = msgspec.structs.replace(part, n_offered=part.n_offered + 1)
    if not _has_space(buffer, limits, n_bytes) and _is_largest(buffer, part):
        part = msgspec.structs.replace(part, room=part.n_train)

    # 3. Draw, then fit the bounds.
    after, displaced = _admit(part, limits, held, chance.slot)
    if displaced is held:
        return _put(buffer, part), Offered("not drawn" if part.n_train else "no room")
    fitted = _fit(_put(buffer, after), limits, chance, record)
    if fitted is None:
        return _put(buffer, part), Offered("no room")
    evicted = (*((displaced.record,) if displaced else ()), *fitted[1])
    why: Literal["room", "drawn", "surprising"] = "drawn" if displaced else "room"
    if displaced and held in after.surprising:
        why = "surprising"
    return fitted[0], Offered(why, "train", evicted)


def forget(buffer: Buffer, records: Collection[str]) -> Buffer:
    """The buffer without some records, golden ones too: lost, damaged, or to be forgotten. Freed room may be used."""
    gone = frozenset(records)

    def without(held: tuple[Held, ...]) -> tuple[Held, ...]:
        return tuple(h for h in held if h.record not in gone)

    parts = tuple(
        msgspec.structs.replace(
            p, uniform=without(p.uniform), surprising=without(p.surprising), golden=without(p.golden), room=None
        )
        for p in buffer.parts
    )
    return Buffer(parts, sum(p.n_bytes for p in parts), sum(p.n_records for p in parts))


def draw_batch(held: Mapping[Code, Sequence[str]], n: int, rng: np.random.Generator) -> list[str]:
    """``n`` records for a training batch, every condition with the same chance however many records it holds.

    Conditions are taken in turn from a random start, so that counts differ by one at most; records within a condition
    are drawn with replacement. Raises ``ValueError`` if nothing is held.
    """
    conditions = [c for c in sorted(held) if held[c]]
    if not conditions:
        raise ValueError("no record to draw from")
    order = rng.permutation(len(conditions))
    chosen = [held[conditions[order[i % len(order)]]] for i in range(n)]
    return [records[int(rng.integers(len(records)))] for records in chosen]


def _held(part: Part, split: Split | None) -> tuple[Held, ...]:
    if split == "golden":
        return part.golden
    train = (*part.uniform, *part.surprising)
    return train if split == "train" else (*train, *part.golden)


def _put(buffer: Buffer, part: Part) -> Buffer:
    """The buffer with this part in its place."""
    parts, n_bytes, n_records = buffer.parts, buffer.n_bytes + part.n_bytes, buffer.n_records + part.n_records
    for i, old in enumerate(parts):
        if old.condition == part.condition:
            return Buffer((*parts[:i], part, *parts[i + 1 :]), n_bytes - old.n_bytes, n_records - old.n_records)
    return Buffer((*parts, part), n_bytes, n_records)


def _room(part: Part, limits: Limits) -> int:
    return limits.capacity if part.room is None else min(part.room, limits.capacity)


def _surprise_slots(room: int, limits: Limits) -> int:
    return round(limits.surprise_share * room)


def _has_space(buffer: Buffer, limits: Limits, n_bytes: int) -> bool:
    return buffer.n_records < limits.n_records_max and buffer.n_bytes + n_bytes <= limits.n_bytes_max


def _is_largest(buffer: Buffer, part: Part) -> bool:
    mine = part.train_bytes
    return all(p.train_bytes <= mine for p in buffer.parts)


def _admit(part: Part, limits: Limits, held: Held, slot: float) -> tuple[Part, Held | None]:
    """Algorithm R on the uniform sample; whoever it leaves out competes for the weighted one. Also who is displaced."""
    room = _room(part, limits)
    uniform, surprising = part.uniform, part.surprising
    free = room - part.n_train
    if free > 0 and len(uniform) < room - _surprise_slots(room, limits):
        return msgspec.structs.replace(part, uniform=(*uniform, held)), None
    left_out, displaced = held, None
    if (j := int(slot * part.n_offered)) < len(uniform):
        left_out = uniform[j]
        uniform = (*uniform[:j], held, *uniform[j + 1 :])
    surprising = (*surprising, left_out)
    if free <= 0:
        displaced = min(surprising, key=lambda h: h.key) if len(surprising) > 1 else left_out
        surprising = tuple(h for h in surprising if h is not displaced)
    return msgspec.structs.replace(part, uniform=uniform, surprising=surprising), displaced


def _fit(buffer: Buffer, limits: Limits, chance: Chance, newest: str) -> tuple[Buffer, tuple[str, ...]] | None:
    """Evicts training records, but not ``newest``, from the largest condition until the bounds hold; None: no way."""
    evicted: list[str] = []
    while buffer.n_records > limits.n_records_max or buffer.n_bytes > limits.n_bytes_max:
        candidates = [p for p in buffer.parts if any(h.record != newest for h in _held(p, "train"))]
        if not candidates:
            return None
        part = max(candidates, key=lambda p: p.train_bytes)
        victim = _victim(part, limits, chance.spare, newest)
        evicted.append(victim.record)
        part = msgspec.structs.replace(
            part,
            uniform=tuple(h for h in part.uniform if h is not victim),
            surprising=tuple(h for h in part.surprising if h is not victim),
            room=part.n_train - 1,
        )
        buffer = _put(buffer, part)
    return buffer, tuple(evicted)


def _victim(part: Part, limits: Limits, spare: float, newest: str) -> Held:
    """Whom a condition gives up: at random from the uniform sample, or the lowest key where that one is over-full."""
    surprising = [h for h in part.surprising if h.record != newest]
    uniform = [h for h in part.uniform if h.record != newest]
    if surprising and (not uniform or len(part.surprising) > _surprise_slots(part.n_train - 1, limits)):
        return min(surprising, key=lambda h: h.key)
    return uniform[int(spare * len(uniform))]
