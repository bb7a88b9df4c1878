"""The byte ledger: every byte that left, by kind and peer, as lines that can be taken along and checked anywhere.

Lines that a log does not hold any more come as one sum per kind and peer, without a time. An export is JSON lines: a
head that says how many lines and bytes follow, then the lines; each is bound to all before it by a hash, so that one
that was altered, left out, moved or cut off shows at its place.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from evergrove.core.errors import CorruptState
from evergrove.rules.privacy.history import link

LINES_MAX = 10_000_000


class Sending(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``n`` sendings of ``n_bytes`` in all; ``at_s`` in seconds since 1970, None for the sum of older ones."""

    category: str
    peer: str
    n: int
    n_bytes: int
    at_s: float | None = None


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose ledger this is, and what follows."""

    place: str
    lines: int
    n_bytes: int
    schema: int = 1


class _Headed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    head: Head
    chain: str


class _Chained(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sending: Sending
    chain: str


def book(held: Sequence[Sending], sums: Iterable[Sending]) -> tuple[Sending, ...]:
    """The ledger from the sendings that a log still holds, oldest first, and the sums of all that there ever were.

    Raises ``CorruptState`` where the log holds more than the sums: one of them was altered.
    """
    left = {(one.category, one.peer): (one.n, one.n_bytes) for one in sums}
    for one in held:
        key = (one.category, one.peer) if (one.category, one.peer) in left else (one.category, "others")
        n, n_bytes = left.get(key, (0, 0))
        left[key] = n - one.n, n_bytes - one.n_bytes
    for (category, peer), (n, n_bytes) in left.items():
        if n < 0 or n_bytes < 0 or (n == 0) != (n_bytes == 0):
            raise CorruptState(
                f"the byte ledger does not add up: the log tells of {-n} sendings and {-n_bytes} bytes of "
                f"'{category}' to {peer} more than its sums; restore the folder from a backup"
            )
    older = (Sending(*key, *rest) for key, rest in sorted(left.items()) if rest[0])
    return (*older, *held)


def totals(sendings: Iterable[Sending]) -> tuple[Sending, ...]:
    """One line for each kind and peer."""
    n, n_bytes = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for one in sendings:
        n[one.category, one.peer] += one.n
        n_bytes[one.category, one.peer] += one.n_bytes
    return tuple(Sending(*key, n[key], n_bytes[key]) for key in sorted(n))


def export(place: str, sendings: Sequence[Sending]) -> Iterator[str]:
    """The lines of an export, without line ends."""
    head = Head(place, len(sendings), sum(one.n_bytes for one in sendings))
    chain = link("", _text(head))
    yield _text(_Headed(head, chain))
    for one in sendings:
        chain = link(chain, _text(one))
        yield _text(_Chained(one, chain))


def read(lines: Iterable[str]) -> tuple[Head, tuple[Sending, ...]]:
    """The way back. Raises ``CorruptState`` that names the first line at which the chain is broken."""
    head: Head | None = None
    chain, found = "", []
    for n, line in enumerate(lines, 1):
        if n > LINES_MAX:
            raise CorruptState(f"a byte ledger of more than {LINES_MAX} lines: no export of ours")
        try:
            if head is None:
                headed = msgspec.json.decode(line, type=_Headed)
                head, said, chain = headed.head, headed.chain, link("", _text(headed.head))
            else:
                one = msgspec.json.decode(line, type=_Chained)
                said, chain = one.chain, link(chain, _text(one.sending))
                found.append(one.sending)
        except (msgspec.MsgspecError, UnicodeError) as fault:
            raise CorruptState(f"the chain is broken at line {n}: it was not understood: {fault}") from fault
        if said != chain:
            raise CorruptState(f"the chain is broken at line {n}: it was altered, or a line before it is missing")
    if head is None:
        raise CorruptState("the chain is broken at line 1: there is none")
    if len(found) != head.lines or sum(one.n_bytes for one in found) != head.n_bytes:
        raise CorruptState(
            f"the chain is broken at line {len(found) + 2}: {head.lines} lines were written, {len(found)} are here"
        )
    return head, tuple(found)


def _text(struct: msgspec.Struct) -> str:
    return msgspec.json.encode(struct).decode()
