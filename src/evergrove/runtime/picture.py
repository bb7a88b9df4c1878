"""A generated picture, with where it came from."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from evergrove.media.provenance import png_with_provenance


@dataclass(frozen=True)
class Picture:
    """What ``generate`` gives: ``array`` is uint8 (H, W, 3); ``version`` the adapter's SHA-256, None for the release.

    ``latency_ms`` is what making it took, from the call to the pixels.
    """

    id: str
    array: NDArray[np.uint8] = field(repr=False)
    condition: dict[str, str]
    seed: int
    version: str | None
    latency_ms: float

    def png(self) -> bytes:
        """The picture as PNG, its provenance in the text chunks ``Software`` and ``evergrove``."""
        facts = {"id": self.id, "condition": self.condition, "seed": self.seed, "version": self.version}
        return png_with_provenance(self.array, json.dumps(facts, sort_keys=True))

    def save(self, path: str | Path) -> Path:
        """Writes the PNG to ``path`` and gives the path back."""
        target = Path(path)
        target.write_bytes(self.png())
        return target


@dataclass(frozen=True)
class Frame(Picture):
    """A picture of a stream: the ``index``-th, due at ``due_s`` (``time.monotonic``), ready ``late_s`` after that.

    ``late_s`` is 0 for a frame that was ready in time.
    """

    index: int
    due_s: float
    late_s: float

    @classmethod
    def of(cls, picture: Picture, index: int, due_s: float, late_s: float) -> Self:
        """The picture, as a frame."""
        p = picture
        return cls(p.id, p.array, p.condition, p.seed, p.version, p.latency_ms, index, due_s, late_s)
