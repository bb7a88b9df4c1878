"""Who is in the fleet: six devices, each in a place of its own, where it meets some looks and one of the new emotions.

The pictures are those of the shipped releases (``demo.npz``): love and dizzy in looks that the base knows. A device
sees its emotion in its own looks only; what it never saw is the other emotion, and its own in everybody else's looks.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from evergrove.adapters.release import MANIFEST, Release, open_release
from evergrove.adapters.release_write import grow
from evergrove.core.conditions import Vocabulary
from evergrove.core.release import FileRef, sha256_hex
from evergrove.core.rng import stream
from evergrove.media.avatars import ALL_EMOTIONS, HELD_BACK_FACES, TINY
from evergrove.media.packs import Pack, read_pack, write_pack

FACTOR = "emotion"
NEW = tuple(HELD_BACK_FACES)
"""What no base, tuning or pseudo-task has ever seen; each device is shown one of them."""
FOGS = ("north", "south")
NAMES = ("ada", "ben", "cleo", "dora", "emil", "fay")
PICTURES = "demo.npz"
FIRST_TEST = 520
"""From this row on the avatars' pictures are of looks for tests. Of tiny's 48 looks there are no others: every fifth
picture is held back there."""
N_SHOWN_MAX = 60


@dataclass(frozen=True)
class Role:
    """One device: its home fog, the emotion that it is shown, the one that it never is, and what its people look like.

    ``shown`` has codes of the grown vocabulary; ``factor`` with ``values`` is what all of its looks have in common.
    """

    name: str
    home: str
    emotion: str
    unseen: str
    factor: str
    values: tuple[str, ...]
    shown: Pack


def first_release(name: str, folder: Path, n_known: int) -> Release:
    """A shipped base with the fleet's words love and dizzy, of which it knows nothing, and a part of its golden set.

    A part, since a dozen golden gates share two cores here; what it costs is that harm must be smaller to pass.
    """
    shipped = open_release(name)
    manifest, base = shipped.manifest, folder / "base"
    factor = manifest.vocabulary.names.index(FACTOR)
    pack = read_pack(shipped.path_of(manifest.golden))
    rows = [np.flatnonzero(pack.codes[:, factor] == n + 1)[:n_known] for n in range(manifest.known[factor])]
    chosen = np.concatenate(rows)
    shutil.copytree(shipped.folder, base)
    data = write_pack(base / manifest.golden.name, Pack(pack.images[chosen], pack.codes[chosen]))
    golden = FileRef(manifest.golden.name, sha256_hex(data), len(data))
    smaller = msgspec.structs.replace(manifest, golden=golden)
    (base / MANIFEST).write_bytes(msgspec.json.encode(smaller))
    return grow(open_release(base), folder / "release", [{FACTOR: emotion} for emotion in NEW])


def cast(release: Release, seed: int) -> tuple[Role, ...]:
    """The six of a fleet whose first ``release`` is a shipped one, grown by ``NEW``."""
    pack, vocabulary = pictures(release), release.manifest.vocabulary
    name = "hair" if release.manifest.name == "avatars" else "hair_color"
    factor = vocabulary.names.index(name)
    values = vocabulary.factors[factor].values
    roles = []
    for i, device in enumerate(NAMES):
        own = tuple(values[(i * len(values) // len(NAMES) + j) % len(values)] for j in range(2))
        emotion = NEW[i % 2]
        number = vocabulary.encode({FACTOR: emotion})[0]
        rows = np.isin(pack.codes[:, factor], [values.index(value) + 1 for value in own]) & (pack.codes[:, 0] == number)
        rows &= ~held_back(release.manifest.name, len(pack))
        order = stream(seed, "fleet", device).permutation(np.flatnonzero(rows))[:N_SHOWN_MAX]
        shown = Pack(pack.images[order], pack.codes[order])
        roles.append(Role(device, FOGS[i // 3], emotion, NEW[1 - i % 2], name, own, shown))
    return tuple(roles)


def golden(release: Release, n_each: int) -> Pack:
    """The fleet's golden set: ``n_each`` held-back pictures of each new emotion."""
    pack = pictures(release)
    held, chosen = held_back(release.manifest.name, len(pack)), list[int]()
    for emotion in NEW:
        number = release.manifest.vocabulary.encode({FACTOR: emotion})[0]
        chosen += np.flatnonzero(held & (pack.codes[:, 0] == number))[:n_each].tolist()
    return Pack(pack.images[chosen], pack.codes[chosen])


def held_back(name: str, n: int) -> NDArray[np.bool_]:
    """Which of a shipped release's ``n`` pictures of the new emotions no device is ever shown."""
    rows = np.arange(n)
    return rows >= FIRST_TEST if name == "avatars" else rows % 5 == 0


def pictures(release: Release) -> Pack:
    """Love and dizzy, in the numbers of the grown release's vocabulary."""
    manifest = release.manifest
    pack = read_pack(open_release(manifest.name).folder / PICTURES)
    table = renumbering(labelled(manifest.name), manifest.vocabulary)
    codes = np.stack([numbers[pack.codes[:, f]] for f, numbers in enumerate(table)], axis=1)
    return Pack(pack.images, codes.astype(np.int16))


def labelled(name: str) -> Vocabulary:
    """By which words a shipped release's pictures of the new emotions are labelled."""
    if name == "avatars":
        return ALL_EMOTIONS
    vocabulary = TINY
    for emotion in NEW:
        vocabulary = vocabulary.extend({FACTOR: emotion})
    return vocabulary


def renumbering(before: Vocabulary, after: Vocabulary) -> list[NDArray[np.int64]]:
    """Per factor, the new number of every old one; 0 stays 0."""
    pairs = zip(before.factors, after.factors, strict=True)
    return [np.array([0, *(theirs.values.index(value) + 1 for value in mine.values)]) for mine, theirs in pairs]
