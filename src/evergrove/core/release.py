"""What a release consists of: a folder with ``manifest.json`` and the files that it names by hash.

The manifest is all that a device needs to know about a model without loading it: its vocabulary, its files, the frozen
A of its generation, and the sampler settings that it was measured at.
"""

import hashlib
import math

import msgspec

from evergrove.core.conditions import Code, Vocabulary
from evergrove.core.errors import UsageError


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
    """The manifest of a release, schema 1. ``scale`` is s in W' = W + s·B·A; ``rank`` is r.

    ``adapter`` is what the fleet has learnt on top of the base: the release alone is both together (None: the base).
    It holds the row of every value of ``vocabulary`` that the base has none for. ``judged`` is how many values of each
    factor the golden set answers for, the first ones; the others are new to a device that meets them, and are judged
    by its own golden pictures (None: all are judged). ``clip`` is the norm that updates of its generation are
    clipped to (None: what the fogs are told).
    """

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
    adapter: FileRef | None = None
    judged: Code | None = None
    clip: float | None = None

    @property
    def known(self) -> Code:
        """How many values of each factor the golden set answers for."""
        return self.vocabulary.sizes if self.judged is None else self.judged

    @property
    def alone(self) -> str:
        """The SHA-256 that the release alone goes by, as a network: its adapter's, else its base's."""
        return (self.adapter or self.base).sha256

    def files(self) -> list[FileRef]:
        """Every file that the manifest names."""
        refs = [self.base, self.basis, self.golden, self.rehearsal, self.teacher, self.fisher, self.adapter]
        return [r for r in refs if r is not None]


class Publication(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is signed about a release beside its files, when it is published under a ``version``.

    The version only ever grows; ``back_from`` is the one that is given up where an older release comes again (0: none).
    ``release`` is the manifest's SHA-256, ``parent`` that of the release that it was made from (None: the first).
    ``base``, ``basis`` and ``golden`` are the SHA-256 of the base model, of the generation's A and of the golden set,
    ``card`` is the model card. ``epsilon`` is what the release spent of its users' privacy at ``delta``: infinite where
    no noise was added, 0 where no user's data went into it.
    """

    version: int
    release: str
    name: str
    generation: int
    rank: int
    base: str
    basis: str
    golden: str
    epsilon: float = math.inf
    delta: float = 0.0
    parent: str | None = None
    card: FileRef | None = None
    back_from: int = 0

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        release: str,
        version: int,
        *,
        epsilon: float = math.inf,
        delta: float = 0.0,
        parent: str | None = None,
        card: FileRef | None = None,
    ) -> "Publication":
        """The publication of the release whose manifest has the SHA-256 ``release``. Raises ``UsageError``."""
        if version < 1:
            raise UsageError(f"a release cannot be published as version {version}; versions begin with 1")
        if not epsilon >= 0 or not 0 <= delta < 1:
            raise UsageError(f"ε = {epsilon} at δ = {delta}: ε is at least 0, δ at least 0 and below 1")
        hashes = manifest.base.sha256, manifest.basis.sha256, manifest.golden.sha256
        facts = release, manifest.name, manifest.generation, manifest.rank
        return cls(version, *facts, *hashes, epsilon, delta, parent, card)


def sha256_hex(data: bytes) -> str:
    """The SHA-256 of some bytes, as 64 hex digits: the name of everything that is content-addressed here."""
    return hashlib.sha256(data).hexdigest()
