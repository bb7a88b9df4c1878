"""What the fleet's gate asks about: the conditions of a release's golden set, and of the fleet's own pictures.

Two packs: the release's, which no candidate may harm, and the cloud's ``fleet-golden.npz``, held-back pictures of what
the fleet is to learn, in the numbers of the release's vocabulary. Neither is ever trained on. No torch here.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evergrove.adapters.release import Release
from evergrove.core import cloud_events as ev
from evergrove.core.conditions import Code, group
from evergrove.media.folders import read_folder
from evergrove.media.packs import Pack, pack_of_bytes, read_pack


def asked(release: Release, fleet: Path | None) -> ev.GenerationOpened:
    """What is to be kept and what is to be learnt on top of a release.

    Raises ``InvalidArtefact`` for a pack of another vocabulary.
    """
    manifest = release.manifest
    golden = pack_of_bytes(release.read(manifest.golden), manifest.golden.name)
    golden.check(manifest.vocabulary, manifest.golden.name)
    known = manifest.known
    learning: tuple[Code, ...] = ()
    if fleet is not None:
        own = read_pack(fleet)
        own.check(manifest.vocabulary, str(fleet))
        learning = groups(own.codes, known)
    return ev.GenerationOpened(
        manifest.generation, release.manifest_hash, groups(golden.codes, known), learning, manifest.teacher is not None
    )


def pack_of(pictures: Path, release: Release) -> Pack:
    """Labelled pictures of a folder (``media/folders``) in the size and the numbers of a release.

    Raises ``UsageError`` and ``InvalidMedia`` as reading it does, ``UnknownCondition`` for what the release lacks.
    """
    manifest = release.manifest
    shown = read_folder(pictures, manifest.image_px)
    conditions = (shown.vocabulary.decode(tuple(int(n) for n in code)) for code in shown.codes)
    codes = np.array([manifest.vocabulary.encode(condition) for condition in conditions], np.int16)
    return Pack(shown.images, codes)


def groups(codes: NDArray[np.int16], known: Code) -> tuple[Code, ...]:
    """The conditions that stand in some codes, as they are judged (``core.conditions.group``)."""
    return tuple(sorted({group(tuple(int(n) for n in code), known) for code in codes}))
