"""What a cloud keeps beside its log: sums until they are consolidated, candidates, releases unpacked, jobs.

::

    sums/<id>                 one cohort's noised sum, named by its content, until its job has ended
    store/<sha256>            candidates (adapters) and states of the server optimiser
    releases/<manifest>/      releases as folders, unpacked from the signed repository
    candidates/<job>/         a whole release that waits for the offline keys
    work/<job>/               what a worker is told, says and leaves
    fleet-golden.npz          pictures of what the fleet is to learn, never trained on (optional)
    cloud.toml                settings (optional)

Everything is written whole or not at all; what no longer belongs to anything is swept.
"""

from collections.abc import Collection
from pathlib import Path

import msgspec

from evergrove.adapters.files import Files, read_bounded
from evergrove.adapters.flower.inbox import Heard, Inbox
from evergrove.adapters.release import MANIFEST, MANIFEST_BYTES_MAX, Release
from evergrove.core import cloud_settings, sums
from evergrove.core.cloud_settings import CloudSettings
from evergrove.core.errors import CorruptState, InvalidInput
from evergrove.core.release import Manifest, sha256_hex
from evergrove.core.sums import NoisedSum

SETTINGS, GOLDEN, INBOX = "cloud.toml", "fleet-golden.npz", "flower/collected/inbox.db"
SETTINGS_BYTES_MAX = 1 << 20
SUM_BYTES_MAX = sums.VECTOR_BYTES_MAX + (1 << 20)
STORED_BYTES_MAX = 1 << 30


class CloudFolder:
    """The files of the cloud in ``folder``. Workers read and write the store; everything else is the driver's."""

    def __init__(self, folder: Path, files: Files | None = None) -> None:
        self.folder, self.files = folder, files or Files()

    def settings(self) -> CloudSettings:
        """What ``cloud.toml`` says; the defaults where there is none. Raises ``ConfigError``."""
        try:
            text = read_bounded(self.folder / SETTINGS, SETTINGS_BYTES_MAX).decode("utf-8", "replace")
        except FileNotFoundError:
            text = ""
        return cloud_settings.load(text, str(self.folder / SETTINGS))

    @property
    def golden(self) -> Path | None:
        """The fleet's own golden set, None where there is none."""
        path = self.folder / GOLDEN
        return path if path.is_file() else None

    def write_golden(self, data: bytes) -> None:
        """Another golden set of the fleet's own."""
        self.files.write(self.folder / GOLDEN, data)

    @property
    def inbox(self) -> Path:
        """Where the ServerApp puts the fogs' sums."""
        return self.folder / INBOX

    def heard(self) -> dict[str, Heard]:
        """The devices that have said something of a release, by name."""
        if not self.inbox.is_file():
            return {}
        inbox = Inbox(self.inbox)
        try:
            return inbox.devices()
        finally:
            inbox.close()

    def work(self, job: str) -> Path:
        """The folder of a job."""
        return self.folder / "work" / job

    def candidate(self, job: str) -> Path:
        """Where the release that a job made waits."""
        return self.folder / "candidates" / job

    # ---- sums and the store ----------------------------------------------------------------------------------------

    def keep_sum(self, one: NoisedSum) -> None:
        """Durable on return; a second time changes nothing."""
        path = self.folder / "sums" / one.id
        if not path.exists():
            self.files.make_folder(path.parent)
            self.files.write(path, sums.encode([one]))

    def read_sum(self, id_: str) -> NoisedSum:
        """A sum that was kept. Raises ``CorruptState`` where it is gone or damaged."""
        try:
            (one,) = sums.decode(read_bounded(self.folder / "sums" / id_, SUM_BYTES_MAX))
            sums.check(one)
        except (FileNotFoundError, ValueError, InvalidInput) as fault:
            raise CorruptState(f"{self.folder / 'sums' / id_}: gone or damaged: {fault}") from fault
        if one.id != id_:
            raise CorruptState(f"{self.folder / 'sums' / id_}: holds another sum")
        return one

    def put(self, data: bytes) -> str:
        """Stores bytes under their SHA-256; durable on return."""
        name = sha256_hex(data)
        path = self.folder / "store" / name
        if not path.exists():
            self.files.make_folder(path.parent)
            self.files.write(path, data)
        return name

    def get(self, name: str) -> bytes:
        """Stored bytes. Raises ``CorruptState`` where they are gone, or are not what their name says."""
        try:
            data = read_bounded(self.folder / "store" / name, STORED_BYTES_MAX)
        except FileNotFoundError as fault:
            raise CorruptState(f"{self.folder / 'store' / name} is gone; restore it from a backup") from fault
        if sha256_hex(data) != name:
            raise CorruptState(f"{self.folder / 'store' / name}: not what its name says; restore it from a backup")
        return data

    # ---- releases --------------------------------------------------------------------------------------------------

    def unpacked(self, name: str, targets: Path) -> Path:
        """The folder of a published release, its manifest's SHA-256; made from the repository's ``targets`` once.

        The manifest is written last, so a folder with one is whole. Raises ``CorruptState``.
        """
        place = self.folder / "releases" / name
        if (place / MANIFEST).exists():
            return place
        found = sorted((targets / "releases").glob(f"*/{name}.{MANIFEST}"))
        if not found:
            raise CorruptState(f"{targets}: no release {name[:12]} was published here; restore it from a backup")
        data = read_bounded(found[0], MANIFEST_BYTES_MAX)
        try:
            manifest = msgspec.json.decode(data, type=Manifest)
        except msgspec.MsgspecError as fault:
            raise CorruptState(f"{found[0]}: not a manifest: {fault}; restore it from a backup") from fault
        release = Release(manifest, place, name)
        self.files.make_folder(place)
        self.files.sweep(place)
        for ref in manifest.files():
            stored = targets / "files" / f"{ref.sha256}.{ref.sha256}"
            content = read_bounded(stored, STORED_BYTES_MAX)
            if sha256_hex(content) != ref.sha256:
                raise CorruptState(f"{stored}: not what its name says; restore it from a backup")
            self.files.write(release.path_of(ref), content)
        self.files.write(place / MANIFEST, data)
        return place

    # ---- what is over ----------------------------------------------------------------------------------------------

    def sweep(
        self, job: str | None, sums_kept: Collection[str], stored_kept: Collection[str], releases_kept: Collection[str]
    ) -> None:
        """Removes what belongs to no waiting sum, no release gone on from and not to ``job``; leftovers of kills too.

        While a job runs its worker writes to the store, so the store is swept at rest only.
        """
        for name in ("work", "candidates"):
            for path in self._inside(name):
                if path.name != job:
                    self.files.remove_tree(path)
        for path in self._inside("releases"):
            if path.name not in releases_kept:
                self.files.remove_tree(path)
        for path in self._inside("sums"):
            if path.name not in sums_kept:
                self.files.remove(path)
        if job is None:
            for path in self._inside("store"):
                if path.name not in stored_kept:
                    self.files.remove(path)

    def _inside(self, name: str) -> list[Path]:
        place = self.folder / name
        return sorted(place.iterdir()) if place.is_dir() else []
