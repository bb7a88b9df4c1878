"""A labelled stream of observations, as a device would see it: mostly repetition, a little news, some junk.

In come distinct pictures with their conditions; out go encoded observations in the order in which they arrive, each
with what it really is. Novelty filters are measured on it, so its profile was fixed before any of them was tuned.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from evergrove.core.errors import UsageError

Image = NDArray[np.uint8]
Label = Literal["new", "exact duplicate", "near duplicate", "junk"]


@dataclass(frozen=True)
class Profile:
    """What a stream of ``n`` observations consists of; the rest of the shares is new.

    Every copy is of an earlier observation: half of the time of one of the last ``burst`` new ones (a camera that stays
    on), else of any (a picture that comes back). ``two_changes`` of the near duplicates are changed in two ways.
    """

    n: int = 400
    exact: float = 0.30
    near: float = 0.35
    junk: float = 0.10
    burst: int = 8
    two_changes: float = 0.25


@dataclass(frozen=True)
class Seen:
    """One observation: encoded ``media``, its ``condition``, what it really is, the picture that it shows (its row in
    the input; None for junk), and how it was made from it."""

    media: bytes
    condition: Mapping[str, str]
    label: Label
    source: int | None
    how: str


def stream(
    pictures: NDArray[np.uint8],
    conditions: Sequence[Mapping[str, str]],
    rng: np.random.Generator,
    profile: Profile | None = None,
) -> list[Seen]:
    """Observations of distinct ``pictures`` (N, H, W, 3), of which the first ``n·(1 − exact − near − junk)`` are used.

    Raises ``UsageError`` if there are too few pictures for the profile.
    """
    profile = profile or Profile()
    labels = _labels(profile, rng)
    n_new = labels.count("new")
    if len(pictures) < n_new or len(conditions) != len(pictures):
        raise UsageError(f"{len(pictures)} pictures, {len(conditions)} conditions; {n_new} distinct ones are needed")
    seen: list[Seen] = []
    first: list[Seen] = []
    for label in labels:
        if label == "junk":
            source = int(rng.integers(len(conditions)))
            seen.append(_junk(pictures[source], conditions[source], rng))
            continue
        if label == "new":
            seen.append(Seen(png(pictures[len(first)]), conditions[len(first)], "new", len(first), "PNG"))
            first.append(seen[-1])
            continue
        recent = first[-profile.burst :] if rng.random() < 0.5 else first
        original = recent[int(rng.integers(len(recent)))]
        if label == "exact duplicate":
            seen.append(Seen(original.media, original.condition, label, original.source, "sent again"))
        else:
            assert original.source is not None
            seen.append(_near(pictures[original.source], original, rng, profile))
    return seen


def png(image: Image) -> bytes:
    """The picture uint8 (H, W, 3) as PNG."""
    buffer = io.BytesIO()
    Pillow.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def jpeg(image: Image, quality: int) -> bytes:
    """The picture as JPEG, 4:2:0, ``quality`` 1-95."""
    buffer = io.BytesIO()
    Pillow.fromarray(image).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def noisy(image: Image, rng: np.random.Generator) -> tuple[Image, str]:
    """Camera noise of 2 to 5 levels of 255."""
    sigma = float(rng.uniform(2, 5))
    return _bytes(image + rng.normal(0, sigma, image.shape)), f"noise {sigma:.1f}"


def shifted(image: Image, rng: np.random.Generator) -> tuple[Image, str]:
    """Moved by one pixel in one or both directions; the edge is repeated."""
    steps = [(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1) if (x, y) != (0, 0)]
    x, y = steps[int(rng.integers(len(steps)))]
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), "edge")
    return padded[1 + y : 1 + y + image.shape[0], 1 + x : 1 + x + image.shape[1]], f"moved {x:+d}, {y:+d}"


def lit(image: Image, rng: np.random.Generator) -> tuple[Image, str]:
    """Up to ten per cent brighter or darker."""
    gain = float(rng.uniform(0.9, 1.1))
    return _bytes(image * gain), f"brightness ×{gain:.2f}"


_CHANGES = (noisy, shifted, lit)


def _labels(profile: Profile, rng: np.random.Generator) -> list[Label]:
    """The kinds in a random order that starts with something new."""
    counts: dict[Label, int] = {
        "exact duplicate": round(profile.exact * profile.n),
        "near duplicate": round(profile.near * profile.n),
        "junk": round(profile.junk * profile.n),
    }
    rest: list[Label] = [label for label, count in counts.items() for _ in range(count)]
    n_new = profile.n - len(rest)
    if n_new < 1:
        raise UsageError(f"a profile that leaves {n_new} of {profile.n} observations new")
    rest += ["new"] * (n_new - 1)
    return ["new", *(rest[i] for i in rng.permutation(len(rest)))]


def _near(picture: Image, original: Seen, rng: np.random.Generator, profile: Profile) -> Seen:
    """A copy that differs: re-encoded, noisy, moved or lit, or two of these."""
    n_changes = 2 if rng.random() < profile.two_changes else 1
    chosen = rng.permutation(len(_CHANGES) + 1)[:n_changes]
    words: list[str] = []
    for i in chosen:
        if i < len(_CHANGES):
            picture, word = _CHANGES[i](picture, rng)
            words.append(word)
    if len(_CHANGES) not in chosen:
        return Seen(png(picture), original.condition, "near duplicate", original.source, ", ".join(words))
    quality = int(rng.integers(50, 91))
    words.append(f"JPEG {quality}")
    return Seen(jpeg(picture, quality), original.condition, "near duplicate", original.source, ", ".join(words))


def _junk(picture: Image, condition: Mapping[str, str], rng: np.random.Generator) -> Seen:
    """What no model should learn: cut off, blank, or a single pixel."""
    kind = int(rng.integers(3))
    if kind == 0:
        whole = png(picture)
        return Seen(whole[: int(len(whole) * rng.uniform(0.2, 0.8))], condition, "junk", None, "truncated")
    if kind == 1:
        grey = np.full(picture.shape, rng.integers(0, 256, 3), np.int64)
        return Seen(png(_bytes(grey + rng.normal(0, 2, picture.shape))), condition, "junk", None, "blank")
    return Seen(png(picture[:1, :1]), condition, "junk", None, "one pixel")


def _bytes(image: NDArray[np.floating]) -> Image:
    rounded: Image = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    return rounded
