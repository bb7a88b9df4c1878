"""Pictures as an answer holds them: PNG bytes, and the facts about where each came from."""

import base64
from dataclasses import replace
from typing import Self

import msgspec

from evergrove.adapters.images import resize
from evergrove.runtime.picture import Picture


class Drawn(msgspec.Struct, frozen=True):
    """One picture: OpenAI's ``b64_json`` (a PNG that carries the same facts inside), and where it came from."""

    b64_json: str
    id: str
    condition: dict[str, str]
    seed: int
    version: str | None
    latency_ms: float

    @classmethod
    def of(cls, picture: Picture, png: bytes) -> Self:
        """A picture and its bytes."""
        text = base64.b64encode(png).decode("ascii")
        return cls(text, picture.id, picture.condition, picture.seed, picture.version, round(picture.latency_ms, 3))


def scaled_png(picture: Picture, side_px: int | None) -> bytes:
    """The PNG of a picture, at ``side_px`` a side (Lanczos); None: as it was drawn."""
    if side_px is not None:
        picture = replace(picture, array=resize(picture.array, side_px))
    return picture.png()
