"""What a release consists of: a folder with ``manifest.json`` and the files that it names by hash.

The manifest is all that a device needs to know about a model without loading it: its vocabulary, its files, the frozen
A of its generation, and the sampler settings that it was measured at.
"""

import hashlib

import msgspec

from evergrove.core.conditions import Vocabulary


class FileRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a release: its name inside the folder, the SHA-256 of its bytes (hex) and its size."""

    name: str
    sha256: str
    n_bytes: int


class Sampler(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Default sampler settings: ``method`` is ``euler`` or ``heun``, 1-32 ``steps``, ``guidance`` 1.0 is none."""

    method: str = "euler"
    steps: int = 4
    guidance: float = 1.0


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The manifest of a release, schema 1. ``scale`` is s in W' = W + s·B·A; ``rank`` is r."""

    name: str
    generation: int
    version: int
    image_px: int
    vocabulary: Vocabulary
    rank: int
    scale: float
    base: FileRef
    basis: FileRef
    golden: FileRef
    rehearsal: FileRef
    teacher: FileRef | None = None
    fisher: FileRef | None = None
    sampler: Sampler = Sampler()
    schema: int = 1

    def files(self) -> list[FileRef]:
        """Every file that the manifest names."""
        refs = [self.base, self.basis, self.golden, self.rehearsal, self.teacher, self.fisher]
        return [r for r in refs if r is not None]


def sha256_hex(data: bytes) -> str:
    """The SHA-256 of some bytes, as 64 hex digits: the name of everything that is content-addressed here."""
    return hashlib.sha256(data).hexdigest()
