"""The ε ledger's history: one line for each round of a noise stream, each bound to all before it by a hash.

The ledger itself (``ledger``) holds plans and counts; this is what a person or an audit reads afterwards. A line that
was altered, left out or moved breaks the chain at its place. It does not show lines that were cut off at the end: for
that the rounds in the ledger are compared with the lines.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import Literal

import msgspec

from evergrove.core.errors import CorruptState
from evergrove.rules.privacy.ledger import Ledger


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One round: what it added, and what its generation and all generations have spent with it, at ``delta``.

    ``epsilon``, ``epsilon_lifetime``: None stands for infinite. ``plan`` is the noise plan's digest, ``sum`` the
    SHA-256 of what may leave; "" for a round that was withheld, and closed empty.
    """

    generation: int
    cohort: int
    fog: str
    noise: Literal["blt", "none"]
    plan: str
    epsilon: float | None
    epsilon_lifetime: float | None
    delta: float
    sum: str = ""


def encode(entry: Entry) -> str:
    """The line as JSON; ``decode`` gives back an equal one."""
    return msgspec.json.encode(entry).decode()


def decode(line: str) -> Entry:
    """The way back. Raises ``CorruptState``."""
    try:
        return msgspec.json.decode(line, type=Entry)
    except msgspec.MsgspecError as fault:
        raise CorruptState(f"a line of the ε ledger was not understood: {fault}") from fault


def link(before: str, line: str) -> str:
    """The hash that binds a line to all before it; ``before`` is the last one's, "" for the first. SHA-256 in hex."""
    return hashlib.sha256(f"{before}\n{line}".encode()).hexdigest()


def check(lines: Iterable[tuple[str, str]], ledger: Ledger) -> tuple[Entry, ...]:
    """The history behind (line, hash) pairs, oldest first.

    Raises ``CorruptState`` at the first line that is not what was written, and where the ledger has released more or
    fewer rounds of a stream than there are lines: one of the two was altered, and ε may be more than it says.
    """
    before, entries = "", []
    for n, (line, found) in enumerate(lines, 1):
        before = link(before, line)
        if before != found:
            raise CorruptState(f"line {n} of the ε ledger was altered, or one before it is missing: restore a backup")
        entries.append(decode(line))
    told = Counter((entry.generation, entry.fog) for entry in entries)
    spent = {(s.plan.generation, s.plan.fog): s.rounds for s in ledger.streams if s.rounds}
    for key in sorted({*told, *spent}):
        if told[key] != spent.get(key, 0):
            raise CorruptState(
                f"the ε ledger has {spent.get(key, 0)} rounds of generation {key[0]} at '{key[1]}', its history "
                f"{told[key]} lines: one of them was altered; restore a backup"
            )
    return tuple(entries)
