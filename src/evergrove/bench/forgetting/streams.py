"""The streams as values: which conditions come in which order, what a device sees of each, and what it is judged by.

- **S1** split digits: 5 lessons of 2 classes. MNIST (``shared/data/mnist``); small form: scikit-learn's digits;
- **S2** Omniglot: an alphabet a lesson, few pictures of each character, drawers that nobody saw as the measure;
- **S3** avatars: a user's look changes five times, and only two emotions are shown in each look (``looks.py``);
- **S4** 50 conditions, one Omniglot character each;
- **T1** clothes (Fashion), 3 lessons of 2 classes: what strategies are tuned on, and no test uses.

Another seed draws another order, other pictures, and for S2 to S4 other conditions. Nothing here trains or measures.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evergrove.core.conditions import Code, Vocabulary
from evergrove.core.errors import InvalidInput, MissingDependency, UsageError
from evergrove.core.rng import stream as named
from evergrove.learn.strategies import Samples

Images = NDArray[np.uint8]
Codes = NDArray[np.int16]

PLACES = (Path("shared/data"), Path("../shared/data"))
"""Where the data sets are looked for, from the current folder on."""
STREAMS = ("S1", "S2", "S3", "S4", "T1")


@dataclass(frozen=True)
class Lesson:
    """One task. ``vocabulary`` is what must be understood from here on; ``new`` is what the device sees.

    ``asked`` (N, F) are the conditions that it is judged by, ``real`` held-out pictures of the same conditions, and
    ``unseen`` (N,) marks asked conditions that were never shown (S3's held-out combinations; elsewhere none).
    """

    name: str
    vocabulary: Vocabulary
    new: Samples
    asked: Codes
    real: Samples
    unseen: NDArray[np.bool_]


@dataclass(frozen=True)
class Stream:
    """``base`` is what the release understands. ``rehearsal`` and ``kept`` (N, F) are of what the
    release knows and must keep: public pictures, and conditions that are asked for; empty where only lessons count.
    ``rows`` are the lessons (from 1) after which all of them are measured; after others only the one just learnt."""

    name: str
    base: Vocabulary
    lessons: tuple[Lesson, ...]
    rehearsal: Samples
    kept: Codes
    rows: tuple[int, ...]

    @property
    def vocabulary(self) -> Vocabulary:
        """What is understood at the end."""
        return self.lessons[-1].vocabulary


@dataclass(frozen=True)
class Sizes:
    """``n_train`` and ``n_real`` pictures a class at most, ``n_asked`` pictures drawn of each class to be judged."""

    n_lessons: int = 5
    n_train: int = 400
    n_real: int = 160
    n_asked: int = 96


@dataclass(frozen=True)
class Classes:
    """A labelled set, split: ``train[c]`` and ``test[c]`` are pictures uint8 (N, H, W, 1) of class ``names[c]``."""

    names: tuple[str, ...]
    train: tuple[Images, ...]
    test: tuple[Images, ...]


def class_incremental(
    name: str, classes: Classes, base: Vocabulary, groups: Sequence[Sequence[int]], sizes: Sizes, seed: int
) -> Stream:
    """A stream in which each group of classes is one lesson."""
    vocabulary, lessons = base, []
    for i, group in enumerate(groups):
        seen, real = [], []
        for c in group:
            vocabulary = vocabulary.extend({"sign": classes.names[c]})
            seen.append(_some(classes.train[c], sizes.n_train, named(seed, name, "train", c)))
            real.append(_some(classes.test[c], sizes.n_real, named(seed, name, "real", c)))
        first = vocabulary.sizes[0] - len(group) + 1
        asked = np.repeat(np.arange(first, first + len(group)), sizes.n_asked).astype(np.int16)[:, None]
        words = ", ".join(classes.names[c] for c in group)
        nothing_unseen = np.zeros(len(asked), np.bool_)
        lessons.append(
            Lesson(f"{i + 1}: {words}", vocabulary, _coded(seen, first), asked, _coded(real, first), nothing_unseen)
        )
    side = classes.train[0].shape[1]
    nothing = Samples(np.zeros((0, side, side, 1), np.uint8), np.zeros((0, 1), np.int16))
    n = len(lessons)
    rows = tuple(range(1, n + 1)) if n <= 10 else tuple(range(n // 5, n + 1, n // 5))
    return Stream(name, base, tuple(lessons), nothing, nothing.codes, rows)


def translated(codes: Codes, mine: Vocabulary, theirs: Vocabulary) -> Codes:
    """Codes of one vocabulary in another one's numbers: every stream counts its new values in its own order."""
    rows: list[Code] = [theirs.encode(mine.decode(tuple(int(n) for n in code))) for code in codes]
    return np.array(rows, np.int16).reshape(len(codes), len(theirs.factors))


def groups_of(name: str, classes: Classes, n_lessons: int, seed: int) -> list[list[int]]:
    """Which classes make a lesson, by the stream's own rule."""
    rng = named(seed, name, "order")
    if name in ("S1", "T1"):
        order = rng.permutation(len(classes.names)).tolist()
        size = min(2, len(order) // n_lessons)
        return [order[i * size : (i + 1) * size] for i in range(n_lessons)]
    if name == "S4":
        return [[c] for c in rng.permutation(len(classes.names))[:n_lessons].tolist()]
    alphabets = sorted({word.rpartition("-")[0] for word in classes.names})
    chosen = rng.permutation(len(alphabets))[:n_lessons]
    members = [[c for c, word in enumerate(classes.names) if word.rpartition("-")[0] == alphabets[a]] for a in chosen]
    return [rng.permutation(some)[:4].tolist() for some in members]


# The data sets.


def find_data(folder: Path | None) -> Path | None:
    """The folder that was named, or the first of ``PLACES`` that exists, or None."""
    if folder is not None:
        return folder
    return next((place for place in PLACES if place.is_dir()), None)


def classes_of(name: str, data: Path | None, small: bool) -> Classes:
    """The labelled set of a stream, at 16 px: what 28 or 32 px show, averaged over squares of four pixels.

    Raises ``MissingDependency`` where it is not there, with how to get it.
    """
    if small and name == "S1":
        return _sklearn_digits()
    place = find_data(data)
    if name == "S1":
        found = _read(place, "mnist", "mnist.npz", ("images", "labels"))
        # MNIST's own order: the last 1600 of these come from other writers than the first ones.
        return _labelled(_padded(found["images"]), found["labels"], [f"digit-{c}" for c in range(10)], share=0.75)
    if name == "T1":
        found = _read(place, "fashion", "fashion.npz", ("images", "labels"))
        return _labelled(_padded(found["images"]), found["labels"], [f"clothes-{c}" for c in range(10)], share=0.6)
    if name in ("S2", "S4"):
        return _omniglot(place)
    raise UsageError(f"there is no stream '{name}' of labelled pictures; known: {', '.join(STREAMS)}")


def _omniglot(place: Path | None) -> Classes:
    wanted = ("images", "alphabet", "character", "drawer", "alphabet_ids", "alphabet_names")
    found = _read(place, "omniglot", "omniglot32.npz", wanted)
    words = dict(zip(found["alphabet_ids"].tolist(), found["alphabet_names"].tolist(), strict=True))
    names, train, test = [], [], []
    for alphabet, character in sorted({*zip(found["alphabet"].tolist(), found["character"].tolist(), strict=True)}):
        rows = (found["alphabet"] == alphabet) & (found["character"] == character)
        names.append(f"{words[alphabet]}-{character}".lower())
        train.append(_halved(found["images"][rows & (found["drawer"] <= 12)]))
        test.append(_halved(found["images"][rows & (found["drawer"] > 12)]))
    return Classes(tuple(names), tuple(train), tuple(test))


def _sklearn_digits() -> Classes:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingDependency("the small form of S1 needs scikit-learn: pip install scikit-learn") from error
    digits = load_digits()
    images = np.rint(digits.images * (255.0 / 16.0)).astype(np.uint8)
    return _labelled(
        images.repeat(2, axis=1).repeat(2, axis=2)[..., None], digits.target, [f"digit-{c}" for c in range(10)], 0.7
    )


def _labelled(images: Images, labels: NDArray[np.integer], names: list[str], share: float) -> Classes:
    """The first ``share`` of every class, in the set's own order, is to learn from; the rest is to judge by."""
    rows = [np.flatnonzero(labels == c) for c in range(len(names))]
    cut = [round(share * len(r)) for r in rows]
    train = tuple(images[r[:n]] for r, n in zip(rows, cut, strict=True))
    return Classes(tuple(names), train, tuple(images[r[n:]] for r, n in zip(rows, cut, strict=True)))


def _padded(images: Images) -> Images:
    """28 px pictures (N, 28, 28) in the middle of 32 px ones, halved: (N, 16, 16, 1)."""
    return _halved(np.pad(images, ((0, 0), (2, 2), (2, 2))))


def _halved(images: Images) -> Images:
    """(N, 32, 32) → (N, 16, 16, 1), the mean of every four pixels."""
    parts = images.reshape(len(images), 16, 2, 16, 2).mean(axis=(2, 4))
    return np.asarray(np.rint(parts), np.uint8)[..., None]


def _read(place: Path | None, folder: str, file: str, wanted: Sequence[str]) -> dict[str, NDArray[Any]]:
    path = None if place is None else place / folder / file
    if path is None or not path.is_file():
        where = path or " or ".join(str(p / folder / file) for p in PLACES)
        raise MissingDependency(f"no data at {where}: name the folder that holds {folder}/{file} with --data FOLDER")
    with np.load(path, allow_pickle=False) as arrays:
        absent = [name for name in wanted if name not in arrays]
        if absent:
            raise InvalidInput(f"{path}: has no array '{absent[0]}'; get the set again")
        return {name: arrays[name] for name in wanted}


def _some(images: Images, n: int, rng: np.random.Generator) -> Images:
    return images[rng.permutation(len(images))[:n]]


def _coded(parts: Sequence[Images], first: int) -> Samples:
    codes = np.concatenate([np.full((len(p), 1), first + i, np.int16) for i, p in enumerate(parts)])
    return Samples(np.concatenate(parts), codes)
