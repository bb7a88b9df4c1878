"""How much of a stream must be kept? A lesson is seen through what a selection keeps of it, and learnt from that alone.

A selection takes a lesson's observations once, in the order in which they come, and a number to keep; what it drops is
neither learnt nor replayed. Raced are 2, 5 and 10 % by each selection, and all of the stream (``R1``, digits), by
experience replay with room for whatever was kept. Distances are between the blurred thumbnails that a device's novelty
filter compares (``rules/features``), the same for all:

- *random*, over all conditions together; *reservoir*, of each condition the same number (Vitter 1985, Algorithm R);
- *k-centre*: the picture that is farthest from all kept ones, again and again (Gonzalez 1985; Sener & Savarese 2018);
- *herding*: the picture that brings the mean of the kept ones nearest to that of all (Welling 2009; iCaRL, 2017);
- *surprise*: what was farthest from the kept ones when it came, the less surprising ones giving way;
- *ours*: the filter of a device (``rules/novelty``), with its duplicates, its reservoir and its capped surprise.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from evergrove.bench.forgetting.streams import Stream
from evergrove.core.rng import stream as named
from evergrove.learn.rivals import RIVALS, Rival
from evergrove.learn.strategies import Samples
from evergrove.rules import features, novelty
from evergrove.rules.kept import KeptIndex, measure
from evergrove.rules.replay import Limits

Looks = NDArray[np.uint8]
Rows = NDArray[np.intp]
Select = Callable[[Samples, Looks, int, np.random.Generator], Rows]
"""(observations in the order in which they come, their features (N, L), how many to keep in all, chance) → rows."""
PERCENTS = (2, 5, 10)
ALL = "all-100"


@dataclass(frozen=True)
class Keep:
    """One point of the curve: which selection, and the share of a lesson that it may keep."""

    selection: str
    percent: int

    @property
    def name(self) -> str:
        """As it stands in a line: ``herding-5``."""
        return f"{self.selection}-{self.percent}"


def keeps() -> list[Keep]:
    """Every point of the curve; all of the stream comes first and once."""
    return [Keep("all", 100), *(Keep(name, percent) for percent in PERCENTS for name in SELECTIONS)]


def kept_named(name: str) -> Keep | None:
    """The point of that name, or None."""
    return next((keep for keep in keeps() if keep.name == name), None)


def rival_of(keep: Keep) -> Rival:
    """Experience replay under the point's name."""
    return replace(RIVALS["replay"], name=keep.name)


def thinned(stream: Stream, keep: Keep, seed: int) -> Stream:
    """The stream with what is kept of each lesson in place of what came."""
    if keep.percent == 100:
        return stream
    lessons = []
    for i, lesson in enumerate(stream.lessons):
        order = named(seed, stream.name, "came", i).permutation(len(lesson.new))
        came = Samples(lesson.new.images[order], lesson.new.codes[order])
        n = max(len(np.unique(came.codes, axis=0)), round(keep.percent / 100 * len(came)))
        rows = SELECTIONS[keep.selection](came, looks_of(came), n, named(seed, stream.name, keep.name, i))
        assert len(rows) <= n
        lessons.append(replace(lesson, new=Samples(came.images[rows], came.codes[rows])))
    return replace(stream, lessons=tuple(lessons))


def looks_of(samples: Samples) -> Looks:
    """The features (N, L) of pictures of one or three channels."""
    images = np.broadcast_to(samples.images, (*samples.images.shape[:3], 3))
    return np.stack([features.describe(np.ascontiguousarray(image)) for image in images])


# The selections.


def at_random(came: Samples, looks: Looks, n: int, rng: np.random.Generator) -> Rows:
    """``n`` of all, whatever they are of; but one of each condition, without which a lesson could not be learnt."""
    _, first = np.unique(came.codes, axis=0, return_index=True)
    rest = np.setdiff1d(rng.permutation(len(came)), first, assume_unique=True)
    return np.concatenate((first, rng.permutation(rest)[: max(0, n - len(first))])).astype(np.intp)


def by_reservoir(came: Samples, looks: Looks, n: int, rng: np.random.Generator) -> Rows:
    """Algorithm R for each condition."""
    kept: list[int] = []
    for rows, room in _shared_out(came, n):
        held: list[int] = []
        for seen, row in enumerate(rows.tolist()):
            slot = seen if seen < room else int(rng.integers(seen + 1))
            if slot < room:
                held[slot : slot + 1] = [row]
        kept += held
    return np.array(kept, np.intp)


def by_k_centre(came: Samples, looks: Looks, n: int, rng: np.random.Generator) -> Rows:
    """Greedy k-centre for each condition, from the picture nearest to the mean."""
    kept: list[int] = []
    for rows, room in _shared_out(came, n):
        x = looks[rows].astype(np.float64)
        held = [int(np.argmin(((x - x.mean(0)) ** 2).sum(1)))]
        far = ((x - x[held[0]]) ** 2).sum(1)
        while len(held) < min(room, len(rows)):
            held.append(int(np.argmax(far)))
            far = np.minimum(far, ((x - x[held[-1]]) ** 2).sum(1))
        kept += rows[held].tolist()
    return np.array(kept, np.intp)


def by_herding(came: Samples, looks: Looks, n: int, rng: np.random.Generator) -> Rows:
    """Greedy herding for each condition, no picture twice."""
    kept: list[int] = []
    for rows, room in _shared_out(came, n):
        x = looks[rows].astype(np.float64)
        total, held = np.zeros(x.shape[1]), list[int]()
        while len(held) < min(room, len(rows)):
            off = (((total + x) / (len(held) + 1) - x.mean(0)) ** 2).sum(1)
            off[held] = np.inf
            held.append(int(np.argmin(off)))
            total += x[held[-1]]
        kept += rows[held].tolist()
    return np.array(kept, np.intp)


def by_surprise(came: Samples, looks: Looks, n: int, rng: np.random.Generator) -> Rows:
    """In one pass: a picture's surprise is its distance to the nearest kept one when it comes; the least one goes."""
    kept: list[int] = []
    for rows, room in _shared_out(came, n):
        held: list[tuple[float, int]] = []
        for row in rows.tolist():
            others = looks[[r for _, r in held]].astype(np.float64)
            surprise = float(((others - looks[row]) ** 2).sum(1).min()) if held else np.inf
            held.append((surprise, row))
            if len(held) > room:
                held.remove(min(held))
        kept += [row for _, row in held]
    return np.array(kept, np.intp)


def by_novelty(came: Samples, looks: Looks, n: int, rng: np.random.Generator) -> Rows:
    """A device's filter, condition by condition; it may keep fewer, where what came was there already."""
    kept: list[int] = []
    for rows, room in _shared_out(came, n):
        policy = novelty.Policy(Limits(capacity=room))
        state, index = novelty.State(), KeptIndex()
        for row in rows.tolist():
            pixels = np.ascontiguousarray(np.broadcast_to(came.images[row], (*came.images.shape[1:3], 3)))
            facts = measure(features.digest(pixels), features.perceptual_hash(pixels), looks[row], index)
            chance = novelty.draw(rng)
            state, found = novelty.decide(state, policy, str(row), (1,), 1, facts, chance, golden=False)
            for gone in found.evict:
                index = index.retire(gone)
            if found.keep:
                index = index.add(str(row), features.digest(pixels), features.perceptual_hash(pixels), looks[row])
        kept += [int(record) for record in state.buffer.records("train")]
    return np.array(kept, np.intp)


SELECTIONS: Mapping[str, Select] = {
    "ours": by_novelty,
    "random": at_random,
    "reservoir": by_reservoir,
    "k-centre": by_k_centre,
    "herding": by_herding,
    "surprise": by_surprise,
}


def _shared_out(came: Samples, n: int) -> list[tuple[Rows, int]]:
    """For each condition its rows in the order in which they came, and how many of them may be kept."""
    _, condition = np.unique(came.codes, axis=0, return_inverse=True)
    groups = [np.flatnonzero(condition.ravel() == c) for c in range(int(condition.max()) + 1)]
    return [(rows, n // len(groups) + (i < n % len(groups))) for i, rows in enumerate(groups)]
