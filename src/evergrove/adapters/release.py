"""A release folder, opened and verified: ``manifest.json`` and the files that it names by size and SHA-256.

A released adapter is also held against base and A, so that what could not serve is refused before anything is made of
it.

Names without a path separator are first looked for among the releases shipped in the package (``evergrove/assets``).
"""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import msgspec

from evergrove.adapters.files import read_bounded
from evergrove.core.errors import InvalidArtefact, InvalidInput
from evergrove.core.release import FileRef, Manifest, sha256_hex
from evergrove.rules.learnt import check_released, decode
from evergrove.rules.privacy.clipping import CLIP_MAX, CLIP_MIN

MANIFEST = "manifest.json"
MANIFEST_BYTES_MAX = 1 << 20
FILE_BYTES_MAX = 4 << 30
_ODD = frozenset("\\\0")
"""What no file's name holds: another system's separator, and what no system can open."""


@dataclass(frozen=True)
class Release:
    """A verified release. ``manifest_hash`` is the SHA-256 of ``manifest.json`` as it lies there: its own name."""

    manifest: Manifest
    folder: Path
    manifest_hash: str

    def path_of(self, ref: FileRef) -> Path:
        """Where a file of the release lies. Raises ``InvalidArtefact`` for a name that leaves the folder."""
        if ref.name in ("", ".", "..") or Path(ref.name).name != ref.name or not _ODD.isdisjoint(ref.name):
            raise InvalidArtefact(f"{self.folder}: {ref.name!r} is not the plain name of a file")
        return self.folder / ref.name

    def read(self, ref: FileRef) -> bytes:
        """The bytes of a file. Raises ``InvalidArtefact`` unless its size and SHA-256 are those of the manifest."""
        path = self.path_of(ref)
        try:
            data = read_bounded(path, min(ref.n_bytes, FILE_BYTES_MAX))
        except FileNotFoundError as fault:
            raise InvalidArtefact(
                f"{path}: the manifest names this file, but it is missing; get the release again"
            ) from fault
        except InvalidInput as fault:
            raise InvalidArtefact(f"{fault}; get the release again") from fault
        if len(data) != ref.n_bytes or sha256_hex(data) != ref.sha256:
            raise InvalidArtefact(
                f"{path}: not the file that the manifest names (its SHA-256 differs); get the release again"
            )
        return data


def open_release(place: str | Path) -> Release:
    """The release at a folder, or of a packaged name such as ``avatars``; every file is hashed once.

    Raises ``InvalidArtefact`` that names the file at fault, and for an unknown name the packaged ones.
    """
    release = read_manifest(_folder(place))
    manifest = release.manifest
    fit = () if manifest.adapter is None else (manifest.base, manifest.basis, manifest.adapter)
    read = {}
    for ref in manifest.files():
        data = release.read(ref)
        if ref in fit:
            read[ref.name] = data
    if manifest.adapter is not None:
        where = release.path_of(manifest.adapter)
        try:
            adapter = decode(read[manifest.adapter.name])
            check_released(adapter, manifest, read[manifest.base.name], read[manifest.basis.name])
        except InvalidArtefact as fault:
            raise InvalidArtefact(f"{where}: {fault}; get the release again") from fault
    return release


def read_manifest(folder: Path) -> Release:
    """The release in a folder by its manifest alone: none of its files has been looked at.

    Raises ``InvalidArtefact`` where there is no manifest of this schema.
    """
    try:
        data = read_bounded(folder / MANIFEST, MANIFEST_BYTES_MAX)
        manifest = msgspec.json.decode(data, type=Manifest)
    except FileNotFoundError as fault:
        raise InvalidArtefact(f"{folder}: no {MANIFEST} here; {_known()}") from fault
    except InvalidInput as fault:
        raise InvalidArtefact(str(fault)) from fault
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as fault:  # a stranger's bytes: text too
        raise InvalidArtefact(f"{folder / MANIFEST}: not a manifest: {fault}") from fault
    if manifest.schema != 1:
        raise InvalidArtefact(
            f"{folder / MANIFEST}: of schema {manifest.schema}, this program reads 1; update Evergrove"
        )
    sizes = manifest.vocabulary.sizes
    if len(manifest.known) != len(sizes) or not all(0 <= n <= m for n, m in zip(manifest.known, sizes, strict=True)):
        raise InvalidArtefact(
            f"{folder / MANIFEST}: 'judged' is {list(manifest.known)}, the values are {list(sizes)}; get it again"
        )
    if manifest.clip is not None and not CLIP_MIN <= manifest.clip <= CLIP_MAX:
        raise InvalidArtefact(
            f"{folder / MANIFEST}: 'clip' is {manifest.clip:g}, not from {CLIP_MIN:g} to {CLIP_MAX:g}; get it again"
        )
    return Release(manifest, folder, sha256_hex(data))


def packaged() -> list[str]:
    """The names of the releases that ship with the package, sorted."""
    assets = _assets()
    return sorted(p.parent.name for p in assets.glob(f"*/{MANIFEST}")) if assets.is_dir() else []


def _folder(place: str | Path) -> Path:
    if isinstance(place, str) and place in packaged():
        return _assets() / place
    folder = Path(place).expanduser()
    if not folder.is_dir():
        raise InvalidArtefact(f"'{place}' is neither a release folder nor a packaged name; {_known()}")
    return folder.resolve()


def _assets() -> Path:
    return Path(str(resources.files("evergrove"))) / "assets"


def _known() -> str:
    return "packaged: " + (", ".join(packaged()) or "none")
