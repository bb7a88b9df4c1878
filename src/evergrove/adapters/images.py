"""Media from outside, decoded with care: bytes to uint8 pixels, or a refusal with one short reason.

Formats are PNG, JPEG, WebP and BMP; the size in bytes and in pixels is checked before anything is decoded, so that a
decompression bomb costs nothing. Transparency is laid over white, grey becomes RGB, 16 bits become 8, the EXIF rotation
is applied, and of an animation the first frame counts.
"""

import io
import struct
import warnings
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError, WebPImagePlugin  # noqa: F401  (importing the plugin keeps Pillow from loading all of them)

from evergrove.adapters.files import read_bounded
from evergrove.core.config import Media
from evergrove.core.errors import InvalidInput, InvalidMedia

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
BACKDROP = (255, 255, 255, 255)
BLANK_STD_MAX = 1.0
"""Grey levels: below this deviation in every channel a picture shows nothing (JPEG alone adds up to about 0.5)."""

Pixels: TypeAlias = npt.NDArray[np.uint8]


def decode(data: bytes, limits: Media | None = None) -> Pixels:
    """The pixels of an encoded picture, uint8 (H, W, 3).

    Raises ``InvalidMedia`` whose ``reason`` is ``too large``, ``too small``, ``undecodable`` or ``blank``.
    """
    return _pixels(_opened(data, limits or Media()))


def decode_to(data: bytes, n_px: int, limits: Media | None = None) -> Pixels:
    """The same as ``resize(decode(data), n_px)``: uint8 (n_px, n_px, 3), checked for blankness after the crop too."""
    pixels = resize(decode(data, limits), n_px)
    _refuse_blank(pixels)
    return pixels


def resize(pixels: Pixels, n_px: int) -> Pixels:
    """The centre square of a picture, uint8 (H, W, 3), at ``n_px`` a side, antialiased (Lanczos).

    Cropped, not padded: bars would be learnt as part of the picture. One of that size already comes back unchanged.
    """
    height, width, _ = pixels.shape
    if (height, width) == (n_px, n_px):
        return pixels
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    square = Image.fromarray(pixels[top : top + side, left : left + side])
    return np.array(square.resize((n_px, n_px), Image.Resampling.LANCZOS))


def encode_png(pixels: Pixels) -> bytes:
    """A lossless PNG of uint8 (H, W, 3) pixels."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def to_media(picture: object, limits: Media | None = None) -> bytes:
    """Whatever an app holds a picture in, as encoded bytes.

    ``picture`` is encoded bytes (returned as they are), a path, a Pillow image, or an array (H, W), (H, W, 1),
    (H, W, 3) or (H, W, 4): uint8, or floating point in [0, 1]. Anything with ``__array__`` counts as an array.

    Raises ``InvalidMedia``: ``undecodable`` for what is none of these, not finite or not there, ``too large``.
    """
    limits = limits or Media()
    if isinstance(picture, bytes | bytearray | memoryview):
        return bytes(picture)
    if isinstance(picture, str | Path):
        return _file(Path(picture).expanduser(), limits)
    if isinstance(picture, Image.Image):
        _check_size(picture, limits)
        return encode_png(_rgb(picture))
    if hasattr(picture, "__array__"):
        return encode_png(_array(np.asarray(picture), limits))
    raise InvalidMedia(
        "undecodable",
        f"a {type(picture).__name__} is no picture; give encoded bytes, a path, an array or a Pillow image",
    )


# ---- decoding ---------------------------------------------------------------------------------------------------


def _opened(data: bytes, limits: Media) -> Image.Image:
    """The picture with its header read and its size checked, but not yet decoded."""
    if len(data) > limits.n_bytes_max:
        raise InvalidMedia("too large", f"a picture of {len(data)} bytes; at most {limits.n_bytes_max} are allowed")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own, on sizes and metadata: the size is checked right below
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as fault:
        raise InvalidMedia("too large", f"a picture of too many pixels: {fault}") from fault
    except Exception as fault:
        raise _undecodable(fault) from fault
    _check_size(picture, limits)
    return picture


def _pixels(picture: Image.Image) -> Pixels:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture.seek(0)
            picture.load()
            pixels = _rgb(_upright(picture))
    except Exception as fault:
        raise _undecodable(fault) from fault
    _refuse_blank(pixels)
    return pixels


def _upright(picture: Image.Image) -> Image.Image:
    """EXIF rotation applied; metadata that cannot be read says nothing about the pixels, which are whole."""
    try:
        return ImageOps.exif_transpose(picture)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error):
        return picture


def _rgb(picture: Image.Image) -> Pixels:
    """uint8 (H, W, 3) of a Pillow image in any mode."""
    if picture.mode.startswith(("I", "F")):
        deep = np.nan_to_num(np.asarray(picture, dtype=np.float64))
        grey = deep / 257 if deep.max(initial=0) > 255 else deep
        return np.repeat(np.clip(np.rint(grey), 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)
    if picture.has_transparency_data:
        over = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", over.size, BACKDROP), over)
    return np.array(picture.convert("RGB"))


def _check_size(picture: Image.Image, limits: Media) -> None:
    width, height = picture.size
    if width * height > limits.pixels_max:
        raise InvalidMedia(
            "too large", f"a picture of {width}×{height}; at most {limits.pixels_max} pixels are allowed"
        )
    if min(width, height) < limits.side_px_min:
        raise InvalidMedia("too small", f"a picture of {width}×{height}; at least {limits.side_px_min} px a side")


def _refuse_blank(pixels: Pixels) -> None:
    if float(pixels.std(axis=(0, 1), dtype=np.float32).max()) < BLANK_STD_MAX:
        raise InvalidMedia("blank", "the picture shows nothing: every pixel has the same colour")


def _undecodable(fault: Exception) -> InvalidMedia:
    kinds = ", ".join(FORMATS)
    if isinstance(fault, UnidentifiedImageError):
        return InvalidMedia("undecodable", f"not a picture in a known format ({kinds})")
    return InvalidMedia("undecodable", f"the picture is damaged or cut off: {fault}")


# ---- other holders of pictures ------------------------------------------------------------------------------------


def _file(path: Path, limits: Media) -> bytes:
    try:
        return read_bounded(path.resolve(), limits.n_bytes_max)
    except FileNotFoundError as fault:
        raise InvalidMedia("undecodable", f"{path}: there is no such file") from fault
    except InvalidInput as fault:
        large = path.is_file() and path.stat().st_size > limits.n_bytes_max
        raise InvalidMedia("too large" if large else "undecodable", str(fault)) from fault


def _array(array: npt.NDArray[np.generic], limits: Media) -> Pixels:
    """uint8 (H, W, 3) of an array in any of the shapes that ``to_media`` takes."""
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise InvalidMedia("undecodable", f"an array of shape {array.shape}; a picture is (H, W), or (H, W, 1, 3 or 4)")
    if array.shape[0] * array.shape[1] > limits.pixels_max:
        raise InvalidMedia(
            "too large", f"an array of shape {array.shape}; at most {limits.pixels_max} pixels are allowed"
        )
    if array.dtype == np.bool_ or np.issubdtype(array.dtype, np.floating):
        scaled = array.astype(np.float64)
        if not np.isfinite(scaled).all() or scaled.min() < 0 or scaled.max() > 1:
            raise InvalidMedia("undecodable", "an array of floating point numbers must be finite and in [0, 1]")
        array = np.rint(scaled * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise InvalidMedia("undecodable", f"an array of {array.dtype}; pixels are uint8, or floating point in [0, 1]")
    mode_array = array[:, :, 0] if array.shape[2] == 1 else array
    return _rgb(Image.fromarray(np.ascontiguousarray(mode_array)))
