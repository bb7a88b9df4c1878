"""Media from outside: every format and mode decodes to the same kind of pixels; every fault has its short reason."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from evergrove.adapters.images import decode, decode_to, encode_png, resize, to_media
from evergrove.core.config import Media
from evergrove.core.errors import InvalidMedia

PICTURE = np.random.default_rng(7).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def reason(data: bytes, limits: Media | None = None) -> str:
    with pytest.raises(InvalidMedia) as caught:
        decode(data, limits)
    return caught.value.reason


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing: a decompression bomb's outside."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP"])
def test_lossless_formats_give_the_pixels_back(kind: str) -> None:
    """What goes in comes out, uint8 (H, W, 3), writable."""
    options = {"lossless": True} if kind == "WEBP" else {}
    pixels = decode(encoded(Image.fromarray(PICTURE), kind, **options))
    np.testing.assert_array_equal(pixels, PICTURE)
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable


def test_jpeg_is_near() -> None:
    """A smooth picture survives JPEG within a few grey levels."""
    smooth = np.repeat(np.linspace(0, 255, 32, dtype=np.uint8)[None, :, None], 24, 0).repeat(3, 2)
    assert np.abs(decode(encoded(Image.fromarray(smooth), "JPEG", quality=95)).astype(int) - smooth).max() < 8


def test_every_mode_becomes_rgb() -> None:
    """Grey is repeated, 16 bits become 8, transparency lies over white, palettes are looked up."""
    grey = PICTURE[:, :, 0]
    three = np.repeat(grey[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(grey))), three)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(grey.astype(np.uint16) * 257))), three)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(grey > 127))), np.where(three > 127, 255, 0))
    alpha = np.dstack([PICTURE, np.zeros(PICTURE.shape[:2], np.uint8)])
    alpha[0, 0, 3] = 255
    seen = decode(encoded(Image.fromarray(alpha)))
    assert seen[0, 0].tolist() == PICTURE[0, 0].tolist()
    assert (seen[1:] == 255).all()
    assert decode(encoded(Image.fromarray(np.dstack([grey, grey])))).shape == PICTURE.shape
    palette = Image.fromarray(PICTURE).quantize(8)
    np.testing.assert_array_equal(decode(encoded(palette)), np.asarray(palette.convert("RGB")))
    assert decode(encoded(Image.fromarray(PICTURE).convert("CMYK"), "JPEG")).shape == PICTURE.shape


def test_rotation_of_cameras() -> None:
    """EXIF orientation 6 stands the picture up: 24 × 32 becomes 32 × 24, and its corners move."""
    exif = Image.Exif()
    exif[0x0112] = 6
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(PICTURE), exif=exif.tobytes())), np.rot90(PICTURE, -1))


def test_unreadable_exif_leaves_the_pixels_alone() -> None:
    """Broken metadata is no reason to lose an observation."""
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(PICTURE), exif=b"Exif\0\0MM\0junk" * 9)), PICTURE)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_the_first_frame_of_an_animation(kind: str) -> None:
    """An animation counts as its first frame."""
    frames = [Image.fromarray(PICTURE), Image.fromarray(255 - PICTURE)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    np.testing.assert_array_equal(decode(data), PICTURE)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
def test_cut_off_at_every_length(kind: str) -> None:
    """A truncated picture is undecodable wherever it was cut, and nothing but ``InvalidMedia`` gets out."""
    data = encoded(Image.fromarray(PICTURE), kind)
    for length in range(0, len(data) - 20, max(1, len(data) // 60)):
        assert reason(data[:length]) in ("undecodable", "too small"), length


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "WEBP", "BMP"]), flips=st.lists(st.floats(0, 0.9999), min_size=1, max_size=8)
)
def test_flipped_bits_never_get_past_as_another_error(kind: str, flips: list[float]) -> None:
    """Altered bytes decode to pixels of the right kind or are refused as ``InvalidMedia``."""
    data = bytearray(encoded(Image.fromarray(PICTURE), kind))
    for position in flips:
        data[int(position * len(data))] ^= 0x24
    try:
        pixels = decode(bytes(data))
    except InvalidMedia:
        return
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3


@pytest.mark.parametrize(
    "data",
    [b"", b"GIF89a", b"\x80\x04\x95pickle", bytes(1000), b"<svg/>", encoded(Image.fromarray(PICTURE), "GIF")],
    ids=["empty", "stub", "pickle", "zeros", "svg", "gif"],
)
def test_what_is_no_known_picture(data: bytes) -> None:
    """Other formats are refused by name of the known ones, whole ones too."""
    assert reason(data) == "undecodable"


def test_decompression_bombs_are_refused_unopened() -> None:
    """The size in the header is enough, whether Pillow itself would warn, refuse or let it pass."""
    for side in (6_400, 12_000, 20_000, 2_000_000_000):
        assert reason(png_of_size(side, side)) == "too large", side
    assert reason(encode_png(PICTURE), Media(pixels_max=24 * 32 - 1)) == "too large"
    assert reason(encode_png(PICTURE), Media(n_bytes_max=100)) == "too large"
    assert decode(encode_png(PICTURE), Media(pixels_max=24 * 32)).shape == (24, 32, 3)


def test_too_small_and_blank() -> None:
    """One pixel, a thin strip, one colour, full transparency: nothing to learn from."""
    assert reason(encode_png(PICTURE[:1, :1])) == "too small"
    assert reason(encode_png(PICTURE[:7])) == "too small"
    flat = np.full((24, 32, 3), 200, np.uint8)
    assert reason(encode_png(flat)) == "blank"
    assert reason(encoded(Image.fromarray(flat), "JPEG")) == "blank"
    assert reason(encoded(Image.new("RGBA", (32, 24), (9, 8, 7, 0)))) == "blank"
    edge = np.full((24, 64, 3), 255, np.uint8)
    edge[:, :8] = 0
    with pytest.raises(InvalidMedia) as caught:
        decode_to(encode_png(edge), 16)
    assert caught.value.reason == "blank", "the cropped part shows nothing"


def test_resize_crops_the_centre() -> None:
    """The shorter side counts; the right size is left bit for bit as it is; a flat area stays flat."""
    np.testing.assert_array_equal(decode_to(encode_png(PICTURE[:, 4:28]), 24), PICTURE[:, 4:28])
    np.testing.assert_array_equal(resize(PICTURE, 24), PICTURE[:, 4:28])
    half = np.zeros((64, 96, 3), np.uint8)
    half[:, :48] = 255
    small = resize(half, 16)
    assert small.shape == (16, 16, 3)
    assert (small[:, :6] >= 250).all()
    assert (small[:, 10:] <= 5).all()
    assert resize(PICTURE[:8, :8], 16).shape == (16, 16, 3)


def test_to_media_takes_what_apps_hold(tmp_path: Path) -> None:
    """Bytes pass; paths are read; arrays and Pillow images become lossless PNG."""
    png = encode_png(PICTURE)
    (tmp_path / "a.png").write_bytes(png)
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    assert (
        to_media(png)
        == to_media(bytearray(png))
        == to_media(tmp_path / "a.png")
        == to_media(str(tmp_path / "link.png"))
    )
    grey = PICTURE[:, :, :1]
    for held, expected in (
        (PICTURE, PICTURE),
        (PICTURE[:, ::-1], PICTURE[:, ::-1]),
        (PICTURE / 255, PICTURE),
        ((PICTURE / 255).astype(np.float16), PICTURE),
        (Image.fromarray(PICTURE), PICTURE),
        (grey, grey.repeat(3, 2)),
        (grey[:, :, 0], grey.repeat(3, 2)),
        (np.dstack([PICTURE, np.full((24, 32), 255, np.uint8)]), PICTURE),
    ):
        np.testing.assert_array_equal(decode(to_media(held)), expected)


@pytest.mark.parametrize(
    "bad",
    [
        np.full((24, 32, 3), np.nan),
        np.full((24, 32, 3), 2.0),
        np.zeros((24, 32, 3), np.int32),
        np.zeros((24, 32, 5), np.uint8),
        np.zeros((0, 32, 3), np.uint8),
        np.zeros(10, np.uint8),
        {"emotion": "happy"},
        None,
        "/nowhere/at/all.png",
        Path("/"),
    ],
    ids=["nan", "range", "int32", "5-channels", "empty", "1-d", "dict", "none", "no-file", "folder"],
)
def test_to_media_refuses_the_rest(bad: object) -> None:
    """One clear error; nothing is guessed."""
    with pytest.raises(InvalidMedia) as caught:
        to_media(bad)
    assert caught.value.reason == "undecodable"


def test_to_media_has_limits(tmp_path: Path) -> None:
    """Files and arrays beyond the limits are refused before they are read or encoded."""
    (tmp_path / "a.png").write_bytes(bytes(200))
    for held in (tmp_path / "a.png", PICTURE, Image.fromarray(PICTURE)):
        with pytest.raises(InvalidMedia) as caught:
            to_media(held, Media(n_bytes_max=100, pixels_max=100))
        assert caught.value.reason == "too large"
