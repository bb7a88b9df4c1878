"""Packs: some pictures with their codes in one compressed npz file (golden sets, rehearsal, a demo's stream).

Arrays ``images`` uint8 (N, H, W, C) and ``codes`` int16 (N, F). Equal packs give equal bytes, so a pack can be frozen
by its hash. Nothing is unpickled, and sizes are checked before anything is decompressed.
"""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evergrove.core.conditions import Vocabulary
from evergrove.core.errors import InvalidArtefact, UsageError

N_BYTES_MAX = 512 << 20
"""Of one array, decompressed."""


@dataclass(frozen=True)
class Pack:
    """Pictures uint8 (N, H, W, C) and codes int16 (N, F)."""

    images: NDArray[np.uint8]
    codes: NDArray[np.int16]

    def __len__(self) -> int:
        return len(self.images)

    def among(self, factor: int, values: Sequence[int]) -> "Pack":
        """The items whose ``factor`` (its index) has one of the numbers ``values``."""
        chosen = np.isin(self.codes[:, factor], values)
        return Pack(self.images[chosen], self.codes[chosen])

    def check(self, vocabulary: Vocabulary, where: str = "the pack") -> None:
        """Raise ``InvalidArtefact`` unless every code means something in ``vocabulary``."""
        if self.codes.shape[1] != len(vocabulary.factors):
            raise InvalidArtefact(
                f"{where}: codes of {self.codes.shape[1]} factors, the vocabulary has {len(vocabulary.factors)}"
            )
        if len(self.codes) and ((self.codes < 0) | (self.codes > np.array(vocabulary.sizes))).any():
            raise InvalidArtefact(f"{where}: a code is outside of the vocabulary; it belongs to another release")


def pack_bytes(pack: Pack) -> bytes:
    """The bytes of the file."""
    _check(pack.images, pack.codes, "the pack to be written", UsageError)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=pack.images, codes=pack.codes)
    return buffer.getvalue()


def write_pack(path: Path, pack: Pack) -> bytes:
    """Writes the file and returns its bytes (for their hash)."""
    data = pack_bytes(pack)
    path.write_bytes(data)
    return data


def read_pack(path: Path) -> Pack:
    """The pack in a file. Raises ``InvalidArtefact`` that names the file and the fault."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidArtefact(f"'{path}' cannot be read: {error.strerror}") from error
    return pack_of_bytes(data, f"'{path}'")


def pack_of_bytes(data: bytes, where: str = "the pack") -> Pack:
    """The pack in some bytes. Raises ``InvalidArtefact`` that names ``where`` and the fault."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            sizes = {info.filename: info.file_size for info in archive.infolist()}
        if set(sizes) != {"images.npy", "codes.npy"}:
            raise InvalidArtefact(f"{where}: a pack holds 'images' and 'codes', this holds {sorted(sizes)}")
        if max(sizes.values()) > N_BYTES_MAX:
            raise InvalidArtefact(f"{where}: {max(sizes.values())} bytes unpacked, at most {N_BYTES_MAX} are read")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            images, codes = arrays["images"], arrays["codes"]
    except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
        raise InvalidArtefact(f"{where}: no readable pack ({error})") from error
    _check(images, codes, where, InvalidArtefact)
    return Pack(images, codes)


def _check(images: NDArray[np.uint8], codes: NDArray[np.int16], where: str, error: type[Exception]) -> None:
    if images.dtype != np.uint8 or images.ndim != 4:
        raise error(f"{where}: images are uint8 (N, H, W, C), not {images.dtype} {images.shape}")
    if codes.dtype != np.int16 or codes.ndim != 2 or len(codes) != len(images):
        raise error(f"{where}: codes are int16 ({len(images)}, F), not {codes.dtype} {codes.shape}")
