"""A device's folder with versions in it, for tests of what it sends: the tiny release, no agent, no torch at work."""

from pathlib import Path

import numpy as np
import torch
from fogs import plan

from evergrove.adapters.files import Files
from evergrove.adapters.outbox import waiting_in
from evergrove.adapters.release import Release, open_release
from evergrove.adapters.versions import Versions
from evergrove.bootstrap import make_device
from evergrove.core import events as ev
from evergrove.core.conditions import Vocabulary
from evergrove.core.fog import Plan
from evergrove.learn.adapter import Adapter
from evergrove.learn.adapter_file import adapter_bytes
from evergrove.rules import params
from evergrove.runtime.fleet import FOLDER, OUTBOX, Connect, Fleet

TINY: Release = open_release("tiny")
LAYOUT = params.layout_of(TINY.manifest, TINY.read(TINY.manifest.base), TINY.read(TINY.manifest.basis))
MINE = TINY.manifest.vocabulary.extend({TINY.manifest.vocabulary.names[0]: "auntie Zoë's hat"})
"""The release's words, and one that only this device has."""


def tiny_plan(**changes: object) -> Plan:
    """The tests' plan, for the tiny release."""
    sizes = (LAYOUT.n_bytes("float16"), LAYOUT.n_bytes("float32"))
    return plan(
        **{
            "generation": LAYOUT.generation, "base": LAYOUT.base, "basis": LAYOUT.basis, "layout": LAYOUT.digest,
            "releases": (TINY.manifest_hash,), "n_bytes": sizes, "separation": 1, "participations": 5, **changes,
        }
    )  # fmt: skip


def adapter(seed: int, vocabulary: Vocabulary = MINE, size: float = 1e-3) -> bytes:
    """An adapter file of a device: random B, and a row for each value that the base has none for."""
    rng = torch.Generator().manual_seed(seed)
    manifest = TINY.manifest
    b = {slot.name[:-2]: size * torch.randn(slot.shape, generator=rng) for slot in LAYOUT.slots}
    rows = {f"{f}:{n}": torch.randn(64, generator=rng) for f, n in vocabulary.added(manifest.vocabulary)}
    hashes = manifest.base.sha256, manifest.basis.sha256
    return adapter_bytes(Adapter(*hashes, LAYOUT.slots[0].shape[1], manifest.scale, vocabulary, b, rows))


class Member:
    """A device with its versions and its fleet errands; ``sent`` is its byte ledger."""

    def __init__(self, folder: Path, connect: Connect, files: Files | None = None, eight_bits: bool = False) -> None:
        if not folder.exists():
            make_device(folder, "tiny", "")
        self.sent: list[ev.BytesSent] = []
        self.now_s, self.folder = 0.0, folder
        self.versions = Versions(folder / "versions")
        self.fleet = Fleet(
            folder, TINY, self.versions, connect, lambda: self.now_s, self.sent.append, files, eight_bits
        )

    @property
    def waiting(self) -> int:
        """Updates in its outbox."""
        return len(waiting_in(self.folder / FOLDER / OUTBOX))


def vector_of(data: bytes) -> np.ndarray:
    """The numbers of an update's body."""
    return params.decode(data, LAYOUT)
