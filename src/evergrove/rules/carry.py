"""What a device has learnt, taken along when it takes a new release (DESIGN §4): pure, numpy alone.

A device's adapter is one whole file P, the released part included; what it learnt itself is P − R0, R0 being the
release that it was learnt on. On the new release R1 its candidates are R1 + γ·(P − R0), of which its own gate chooses.
Values go by *name*: the fleet's vocabulary may have gained some, the device's own names (which it never sends) come
behind them, and so under other numbers. Across a generation, ΔW = s·B·A of what was learnt is expressed in the new A,
by least squares: an approximation, whose relative error is given.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evergrove.core.conditions import Code, Factor, Vocabulary
from evergrove.core.errors import UsageError
from evergrove.core.release import Manifest
from evergrove.rules.consolidate import carry_over
from evergrove.rules.learnt import Array, Learnt, branch_of, tensors_of
from evergrove.rules.params import BRANCH, Layout, Vector, flat

GAMMAS = (1.0, 0.5, 0.25, 0.0)
Word = tuple[int, str]
"""A value by name: the index of its factor, and what it is called."""


@dataclass(frozen=True)
class Ground:
    """What adapters of a release stand on: hashes of base and A, s, A[layer] (r, in), the width and start row (the
    mean of the base table's own values) of each factor, and the release's vocabulary."""

    base: str
    basis: str
    scale: float
    a: Mapping[str, Array]
    starts: Mapping[int, Array]
    vocabulary: Vocabulary


class Carried(NamedTuple):
    """A candidate, and what it could not take along: ``error`` is the part of ‖ΔW‖ that the new A cannot say (0-1),
    ``left`` are the values whose rows the new base has taken over, so that a device's own have no place."""

    adapter: Learnt
    error: float
    left: tuple[Word, ...]


# ---- names and numbers -----------------------------------------------------------------------------------------------


def vocabulary_on(released: Vocabulary, own: Vocabulary) -> Vocabulary:
    """What a device understands on a release: the release's values, then its own that are not among them, in order.

    Raises ``UsageError`` where the factors are others: then nothing can be taken along.
    """
    if released.names != own.names:
        raise UsageError(f"the release's factors are {released.names}, this device's {own.names}: it is another model")
    return Vocabulary(
        tuple(
            Factor(theirs.name, (*theirs.values, *(v for v in mine.values if v not in theirs.values)))
            for theirs, mine in zip(released.factors, own.factors, strict=True)
        )
    )


def renumbering(before: Vocabulary, after: Vocabulary) -> tuple[Code, ...]:
    """``table[f][n]``: the number in ``after`` of value n of factor f in ``before``; 0 stays 0.

    ``after`` must know every value of ``before``, as that of ``vocabulary_on`` does. Raises ``UsageError``.
    """
    tables = []
    for mine, theirs in zip(before.factors, after.factors, strict=True):
        lost = [value for value in mine.values if value not in theirs.values]
        if lost or mine.name != theirs.name:
            raise UsageError(f"{mine.name}={lost[0] if lost else '?'} has no number there")
        tables.append((0, *(theirs.values.index(value) + 1 for value in mine.values)))
    return tuple(tables)


def renumbered(code: Code, table: Sequence[Code]) -> Code:
    """A condition's numbers by a ``renumbering``; a value that the table does not hold keeps its own."""
    return tuple(numbers[n] if n < len(numbers) else n for n, numbers in zip(code, table, strict=True))


# ---- within a generation: exact --------------------------------------------------------------------------------------


def on_release(own: Learnt, old: Learnt | None, new: Learnt | None, released: Vocabulary, gamma: float) -> Learnt:
    """R1 + γ·(P − R0), exactly: ``own`` is P, ``old`` and ``new`` the two releases' adapters (None: the base alone).

    ``released`` is the new release's vocabulary. Rows, by name: a value of both releases as above. One that the device
    invented keeps γ times its row; where the fleet now knows that name, from the fleet's row at γ = 0 to the device's
    at 1. What was never trained counts as nothing. The same is right for the adapter that an update was last made of:
    what is not sent yet stays the difference of the two. Branches, which no release has, keep γ times theirs, by name.
    Raises ``UsageError`` for ordinary LoRA (its A is its own) and for adapters of two generations.
    """
    if not 0.0 <= gamma <= 1.0:
        raise UsageError(f"gamma={gamma} is not in 0 to 1")
    for one in (old, new):
        if one is not None and (one.base, one.basis, one.scale) != (own.base, own.basis, own.scale):
            raise UsageError("adapters of two generations do not add: carry this one across")
    given = [one for one in (own, old, new) if one is not None]
    if any(name.endswith(".A") for one in given for name in one.tensors):
        raise UsageError("ordinary LoRA has an A of its own and is not taken along: learn anew on this release")
    rank, vocabulary = max(one.rank for one in given), vocabulary_on(released, own.vocabulary)
    tensors: dict[str, Array] = {}
    for name in (name for name in own.tensors if name.endswith(".B") and branch_of(name) is None):
        p, r0, r1 = (_padded(one, name, rank, own.tensors[name]) for one in (own, old, new))
        tensors[name] = (r1 + gamma * (p - r0)).astype(np.float32)
    rows = _rows_on(_rows(own), _rows(old), _rows(new), released, gamma)
    for (f, value), row in rows.items():
        tensors[f"row.{f}:{vocabulary.factors[f].values.index(value) + 1}"] = row.astype(np.float32)
    for name, b in own.tensors.items() if gamma else ():
        if (branch := branch_of(name)) is not None:
            f, n, layer = branch
            number = vocabulary.factors[f].values.index(own.vocabulary.factors[f].values[n - 1]) + 1
            tensors[f"{BRANCH}{f}:{number}.{layer}"] = (gamma * b).astype(np.float32)
    return Learnt(own.base, own.basis, rank, own.scale, vocabulary, tensors)


def since(now: Learnt, before: Learnt | None, layout: Layout) -> Vector:
    """What was learnt between two adapters (None: the base alone), as the vector that may leave the device: of the
    fleet's vocabulary only. Raises ``UsageError`` for adapters of another base or A than the layout's."""
    for one in (now, before):
        if one is not None and (one.base, one.basis) != (layout.base, layout.basis):
            raise UsageError("an update is for the base and the A that it was learnt on; this release has others")
    vector = flat(now.tensors, now.vocabulary, layout)
    return vector if before is None else vector - flat(before.tensors, before.vocabulary, layout)


# ---- across generations: an approximation ----------------------------------------------------------------------------


def ground_of(manifest: Manifest, base: bytes, basis: bytes) -> Ground:
    """The ground of a release, from the verified bytes of its base and its A. Raises ``InvalidArtefact``."""
    tables = {
        int(name.split(".")[1]): table
        for name, table in tensors_of(base, "the base", lambda name: name.startswith("tables.")).items()
    }
    starts = {f: (table[1:] if len(table) > 1 else table).mean(axis=0) for f, table in tables.items()}
    a = {name.removesuffix(".A"): rows for name, rows in tensors_of(basis, "A").items()}
    return Ground(manifest.base.sha256, manifest.basis.sha256, manifest.scale, a, starts, manifest.vocabulary)


def across(own: Learnt, old: Learnt | None, before: Ground, new: Learnt | None, after: Ground, gamma: float) -> Carried:
    """``on_release`` where base and A are others: what was learnt, s·(B_P − B_R0)·A, in the words of the new A.

    B' = argmin ‖s'·B'·A' − s·B·A‖ layer by layer (``consolidate.carry_over``; with orthonormal rows B' is
    (s/s')·B·A·A'ᵀ). A row stays where it was in the table's space, though its start, the mean of the base's rows, has
    moved. The change of the base itself beneath is not made up for: the gate says whether it is worth keeping, or is
    better learnt anew from the replay buffer. Raises ``UsageError`` for another network, and as ``on_release`` does.
    """
    if (own.base, own.basis) != (before.base, before.basis):
        raise UsageError("an adapter of another generation than the one that it is to be carried from")
    part = on_release(own, old, None, before.vocabulary, 1.0)
    moved: dict[str, Array] = {}
    missed, whole = 0.0, 0.0
    for name in (name for name in part.tensors if name.endswith(".B")):
        branch = branch_of(name)
        b, layer = part.tensors[name].astype(np.float64), (branch[2] if branch else name).removesuffix(".B")
        if layer not in after.a or layer not in before.a or after.a[layer].shape[1] != before.a[layer].shape[1]:
            raise UsageError(f"'{layer}' is not adapted in the new release: it is another network; learn anew on it")
        a = before.a[layer][: b.shape[1]].astype(np.float64)
        found = carry_over(b, a, after.a[layer][: b.shape[1] if branch else None].astype(np.float64))
        size = math.sqrt(max(0.0, float(((b @ (a @ a.T)) * b).sum())))  # ‖B·A‖
        missed, whole = missed + (found.lost * size) ** 2, whole + size**2
        moved[name] = (before.scale / after.scale * found.B).astype(np.float32)
    rank = max(len(rows) for rows in after.a.values())
    nothing = {name: np.zeros_like(b) for name, b in moved.items() if branch_of(name) is None}
    moved_own = _regrounded(own, moved, before, after, rank)
    moved_old = None if old is None else _regrounded(old, nothing, before, after, rank)
    adapter = on_release(moved_own, moved_old, new, after.vocabulary, gamma)
    left = [word for word, row in _rows(own).items() if _taken_over(word, new, after.vocabulary) and row.any()]
    return Carried(adapter, math.sqrt(missed / whole) if whole else 0.0, tuple(left))


def _regrounded(one: Learnt, b: Mapping[str, Array], before: Ground, after: Ground, rank: int) -> Learnt:
    """An adapter's rows on another base, with another B."""
    tensors = dict(b)
    for name, row in one.tensors.items():
        if name.startswith("row."):
            f = int(name[4:].partition(":")[0])
            if f not in after.starts or after.starts[f].shape != row.shape:
                raise UsageError("the new release's conditions have rows of another width: it is another network")
            tensors[name] = row + before.starts[f] - after.starts[f] if row.any() else row
    return replace(one, base=after.base, basis=after.basis, scale=after.scale, rank=rank, tensors=tensors)


# ---- helpers ---------------------------------------------------------------------------------------------------------


def _padded(one: Learnt | None, name: str, rank: int, like: Array) -> NDArray[np.float64]:
    """B in float64, zeros in the columns that a smaller rank does not have."""
    whole = np.zeros((len(like), rank))
    if one is not None:
        b = one.tensors.get(name)
        if b is None or len(b) != len(like):
            raise UsageError(f"'{name}' is not of this base; an adapter belongs to the base that it was learnt on")
        whole[:, : one.rank] = b
    return whole


def _rows(one: Learnt | None) -> dict[Word, Array]:
    """The rows by name."""
    found = {}
    for name, row in () if one is None else one.tensors.items():
        if one is not None and name.startswith("row."):
            f, _, n = name[4:].partition(":")
            found[int(f), one.vocabulary.factors[int(f)].values[int(n) - 1]] = row
    return found


def _rows_on(
    own: Mapping[Word, Array], old: Mapping[Word, Array], new: Mapping[Word, Array], released: Vocabulary, gamma: float
) -> dict[Word, NDArray[np.float64]]:
    """The rows of the candidate: of every value that the new base has none for."""
    rows = {word: row.astype(np.float64) for word, row in new.items()}
    for word, row in own.items():
        if word in new:
            start = old.get(word, new[word]).astype(np.float64)
            rows[word] = rows[word] + (gamma * (row - start) if row.any() else 0.0)
        elif word[1] not in released.factors[word[0]].values:
            rows[word] = gamma * row.astype(np.float64)
    return rows


def _taken_over(word: Word, new: Learnt | None, released: Vocabulary) -> bool:
    """Whether the new base itself has the row of this value."""
    return word not in _rows(new) and word[1] in released.factors[word[0]].values
