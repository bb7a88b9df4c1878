"""A next generation as a candidate: its base and its A in the store, and the release that they make. No torch here."""

from pathlib import Path

import msgspec

from evergrove.adapters.release import MANIFEST, Release, open_release
from evergrove.core.errors import CorruptState
from evergrove.core.release import FileRef
from evergrove.runtime.cloud_folder import CloudFolder


class Merged(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A candidate of a merge: the new base and A, by their names in the store, with their sizes."""

    base: str
    base_bytes: int
    basis: str
    basis_bytes: int


def write(cloud: CloudFolder, candidate: str, source: Release, folder: Path, clip: float | None) -> None:
    """The candidate as a whole release in ``folder``, of the next generation; the manifest goes last.

    ``clip`` is what updates of that generation are clipped to; None: as those of the one before.
    """
    merged, old, files = read(cloud, candidate), source.manifest, cloud.files
    manifest = msgspec.structs.replace(
        old,
        generation=old.generation + 1,
        version=old.version + 1,
        base=FileRef(old.base.name, merged.base, merged.base_bytes),
        basis=FileRef(old.basis.name, merged.basis, merged.basis_bytes),
        adapter=None,
        judged=old.known,
        fisher=None,
        clip=old.clip if clip is None else clip,
    )
    files.make_folder(folder)
    files.sweep(folder)
    for ref in manifest.files():
        data = cloud.get(ref.sha256) if ref in (manifest.base, manifest.basis) else source.read(ref)
        files.write(folder / ref.name, data, mode=0o644)
    files.write(folder / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=1), mode=0o644)
    open_release(folder)


def read(cloud: CloudFolder, candidate: str) -> Merged:
    """The candidate of a merge. Raises ``CorruptState`` where it is none."""
    try:
        return msgspec.json.decode(cloud.get(candidate), type=Merged)
    except msgspec.MsgspecError as fault:
        raise CorruptState(f"candidate {candidate[:12]} is no merge: {fault}") from fault
