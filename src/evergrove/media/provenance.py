"""Generated media say that they were generated: PNG text chunks with the maker and the facts (DESIGN §9).

Until signed provenance comes with the release chain, this is a label, not a proof: anybody can remove it.
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

SOFTWARE = "Evergrove (generated image)"
DIGITAL_SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's term for media made by a trained model."""


def png_with_provenance(pixels: NDArray[np.uint8], facts: str) -> bytes:
    """``pixels`` uint8 (H, W, 3) as PNG bytes; ``facts`` is JSON text for the chunk ``evergrove``."""
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("Software", SOFTWARE)
    chunks.add_text("DigitalSourceType", DIGITAL_SOURCE)
    chunks.add_text("evergrove", facts)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", pnginfo=chunks)
    return buffer.getvalue()


def read_provenance(png: bytes) -> dict[str, str]:
    """The text chunks of a PNG; empty where there are none."""
    with Image.open(io.BytesIO(png)) as image:
        return {str(k): str(v) for k, v in image.info.items() if isinstance(v, str)}
