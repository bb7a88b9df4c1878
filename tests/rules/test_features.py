"""Features, hashes and the sanity check, on cartoon faces drawn here by hand: no library, no held-back picture."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow

from evergrove.rules import features

Image = NDArray[np.uint8]


def face(rng: np.random.Generator, px: int = 64, mouth: int = 0) -> Image:
    """A face of three ellipses on a background, with a hair line, two eyes and one of three mouths."""
    y, x = np.mgrid[0:px, 0:px] / px
    colour = lambda: rng.integers(30, 230, 3)  # noqa: E731
    image = np.empty((px, px, 3))
    image[:] = colour()
    width, height, hair = rng.uniform(0.18, 0.34), rng.uniform(0.26, 0.4), rng.uniform(0.1, 0.35)
    image[((x - 0.5) / (width + 0.08)) ** 2 + ((y - 0.42) / (height + 0.06)) ** 2 < 1] = colour()
    image[((x - 0.5) / width) ** 2 + ((y - 0.45 - hair / 4) / height) ** 2 < 1] = colour()
    image[(y > 0.8) & (abs(x - 0.5) < rng.uniform(0.25, 0.45))] = colour()
    for eye in (0.4, 0.6):
        image[(x - eye) ** 2 + (y - 0.42) ** 2 < 0.0012] = 20
    shapes = [(0.10, 0.012), (0.05, 0.05), (0.09, 0.035)]
    wide, high = shapes[mouth]
    image[((x - 0.5) / wide) ** 2 + ((y - 0.62) / high) ** 2 < 1] = (180, 20, 30) if mouth else 20
    return image.astype(np.uint8)


def jpeg(image: Image) -> Image:
    """Through JPEG at quality 60."""
    buffer = io.BytesIO()
    Pillow.fromarray(image).save(buffer, "JPEG", quality=60)
    return np.asarray(Pillow.open(buffer).convert("RGB"))


def moved(image: Image) -> Image:
    """One pixel to the right and down."""
    return np.pad(image, ((1, 0), (1, 0), (0, 0)), "edge")[:-1, :-1]


def noisy(image: Image) -> Image:
    """Noise of 4/255."""
    noise = np.random.default_rng(3).normal(0, 4, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def brighter(image: Image) -> Image:
    """Eight per cent brighter."""
    return np.clip(image * 1.08, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("copy", [jpeg, moved, noisy, brighter, lambda x: jpeg(noisy(x))])
def test_copies_are_near_and_others_are_not(copy: Callable[[Image], Image]) -> None:
    """Of 40 faces every copy is nearer to its original than 1 and than to any other; no two originals are."""
    rng = np.random.default_rng(1)
    faces = [face(rng) for _ in range(40)]
    kept = np.stack([features.describe(f) for f in faces])
    for i, original in enumerate(faces):
        found = features.distances(features.describe(copy(original)), kept)
        assert np.argmin(found) == i
        assert found[i] < 1
        others = features.distances(kept[i], np.delete(kept, i, axis=0), exact=39)
        assert others.min() > 1


def test_a_plain_pixel_distance_would_fail() -> None:
    """Why it is a tangent distance: root mean square, a moved copy is further away than another mouth on this head."""
    one, other = face(np.random.default_rng(2)), face(np.random.default_rng(2), mouth=1)
    a, b, shifted = (features.describe(x).astype(float) for x in (one, other, moved(one)))
    assert np.sqrt(np.mean((a - shifted) ** 2)) > np.sqrt(np.mean((a - b) ** 2))
    found = features.distances(a.astype(np.uint8), np.stack([b, shifted]).astype(np.uint8))
    assert found[1] < found[0] / 2


def test_only_the_nearest_are_compared_in_full() -> None:
    """Beyond ``exact`` candidates the others are infinitely far; the nearest one is the same either way."""
    rng = np.random.default_rng(4)
    kept = np.stack([features.describe(face(rng)) for _ in range(20)])
    query = features.describe(noisy(face(np.random.default_rng(4))))
    few, all_ = features.distances(query, kept, exact=5), features.distances(query, kept, exact=20)
    assert np.isinf(few).sum() == 15
    assert np.isfinite(all_).all()
    assert np.argmin(few) == np.argmin(all_) == 0
    assert len(features.distances(query, kept[:0])) == 0


def test_distance_is_symmetric_and_zero_to_itself() -> None:
    """Tangents are taken half-way, so the order does not matter."""
    rng = np.random.default_rng(5)
    a, b = features.describe(face(rng)), features.describe(face(rng))
    assert features.distances(a, a[None])[0] == 0
    assert features.distances(a, b[None])[0] == pytest.approx(features.distances(b, a[None])[0], rel=1e-4)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (7, 3), (31, 33), (64, 64), (480, 640), (4096, 4096)])
def test_any_size(shape: tuple[int, int]) -> None:
    """From one pixel to 4096: a feature of the same length and a hash of 64 bits, and one colour stays that colour."""
    image = np.full((*shape, 3), (200, 100, 50), np.uint8)
    feature = features.describe(image)
    assert feature.shape == (features.FEATURE_LEN,)
    assert feature.dtype == np.uint8
    assert abs(int(feature[0]) - round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)) <= 1
    assert np.ptp(feature[: features.GRID**2].astype(int)) <= 1
    assert 0 <= features.perceptual_hash(image) < 2**64


def test_size_hardly_matters() -> None:
    """The same face at 64 and at 640 pixels is one face."""
    small, large = face(np.random.default_rng(6), 64), face(np.random.default_rng(6), 640)
    assert features.distances(features.describe(small), features.describe(large)[None])[0] < 1


def test_hash() -> None:
    """Equal for equal pictures, a few bits off for noise; every bit is set on a ramp, none on the ramp turned round."""
    one = face(np.random.default_rng(7))
    assert features.perceptual_hash(one) == features.perceptual_hash(one.copy())
    assert (features.perceptual_hash(one) ^ features.perceptual_hash(noisy(one))).bit_count() <= 20
    ramp = np.tile(np.arange(0, 180, 20, dtype=np.uint8), (9, 1))[:, :, None].repeat(3, axis=2)
    assert features.perceptual_hash(ramp) == 2**64 - 1
    assert features.perceptual_hash(np.ascontiguousarray(ramp[:, ::-1])) == 0


def test_digest_sees_every_pixel_and_the_shape() -> None:
    """One level of one pixel changes it, and so does the same data in another shape; memory order does not."""
    image = face(np.random.default_rng(8))
    other = image.copy()
    other[0, 0, 0] ^= 1
    wide = image.reshape(32, 128, 3)
    assert len({features.digest(x) for x in (image, other, wide)}) == 3
    assert features.digest(np.asfortranarray(image)) == features.digest(image)


def test_sanity() -> None:
    """A face is sane; one colour, with or without noise, and what has hardly any pixels are not."""
    image = face(np.random.default_rng(9))
    assert features.sanity(image) is None
    assert features.sanity(image[:1, :1]) == "too small"
    assert features.sanity(image[:20], side_px_min=24) == "too small"
    blank = np.full((64, 64, 3), 90, np.uint8)
    assert features.sanity(blank) == "blank"
    assert features.sanity(noisy(blank)) == "blank"


@pytest.mark.parametrize("bad", [np.zeros((4, 4)), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_wrong_arrays_are_refused(bad: NDArray[np.generic]) -> None:
    """Grey, float and empty arrays are a caller's mistake, named with shape and dtype."""
    with pytest.raises(ValueError, match="needed \\(H, W, 3\\) of uint8"):
        features.describe(bad)  # type: ignore[arg-type]
