"""The device's side of The Update Framework, around the real ``tuf.ngclient``: releases fetched, verified, handed over.

What comes in is believed only down the chain of signatures that begins with the root that the device was made with. A
release is put together under a name of its own, checked file by file, and renamed into place, so what stands in
``releases/`` is whole; a fetch that was cut off goes on where it was. Who answers (a folder, a fog, a thief) makes no
difference.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tuf.api import exceptions as tuf
from tuf.ngclient.config import UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface
from tuf.ngclient.updater import Updater

from evergrove.adapters.files import FULL, DiskFull, Files, read_bounded
from evergrove.adapters.release import (
    FILE_BYTES_MAX,
    MANIFEST,
    MANIFEST_BYTES_MAX,
    Release,
    open_release,
    read_manifest,
)
from evergrove.adapters.tuf_metadata import (
    DIRECTIVE,
    METADATA_BYTES_MAX,
    Metadata,
    Root,
    TargetFile,
    Targets,
    decode_directive,
    publication_of,
)
from evergrove.core.errors import CorruptState, EvergroveError, InvalidArtefact, InvalidInput, Unreachable
from evergrove.core.release import FileRef, Manifest, Publication
from evergrove.core.rollout import Directive

if TYPE_CHECKING:
    import httpx

CHUNK_BYTES = 1 << 20
FOLDER_URL, INCOMING, CONTENT = "folder:", ".incoming", "content"


@dataclass(frozen=True)
class Source:
    """Where a repository is read from: a fetcher, and the address that ``metadata/`` and ``targets/`` stand under."""

    fetcher: FetcherInterface
    url: str


@dataclass(frozen=True)
class Fetched:
    """A verified release on this device's disk, and what is signed about it."""

    release: Release
    publication: Publication


@dataclass(frozen=True)
class Survey:
    """What is signed in a repository now: the directive (None: none yet), and every publication, oldest first.

    ``manifests``: of the newest ones, by release.
    """

    directive: Directive | None
    publications: tuple[Publication, ...]
    manifests: Mapping[str, Manifest]


def from_folder(folder: Path) -> Source:
    """A repository on this machine's disk."""
    return Source(FolderFetcher(folder), FOLDER_URL)


def from_http(client: "httpx.Client", url: str, seconds_max: float = 3600.0) -> Source:
    """A repository behind HTTP, through the caller's client (its certificates, its time-outs, its proxy).

    One file may take ``seconds_max``: who drips byte by byte is cut off.
    """
    return Source(HttpFetcher(client, seconds_max), url.rstrip("/"))


class FolderFetcher(FetcherInterface):
    """Reads what a web server would serve from ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = (self._folder / url.removeprefix(f"{FOLDER_URL}/")).resolve()
        if not path.is_relative_to(self._folder) or not path.is_file():
            raise tuf.DownloadHTTPError(f"{path}: not there", 404)
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk


class HttpFetcher(FetcherInterface):
    """Reads over HTTP; redirects are not followed."""

    def __init__(self, client: "httpx.Client", seconds_max: float) -> None:
        self._client, self._seconds_max = client, seconds_max

    def _fetch(self, url: str) -> Iterator[bytes]:
        import httpx

        until_s = time.monotonic() + self._seconds_max
        try:
            with self._client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as answer:
                if answer.status_code != 200:
                    raise tuf.DownloadHTTPError(f"{url}: HTTP {answer.status_code}", answer.status_code)
                for chunk in answer.iter_bytes():  # as it comes: a chunk that fills slowly would hide the time
                    if time.monotonic() > until_s:
                        raise tuf.SlowRetrievalError(f"{url}: not done after {self._seconds_max:g} s")
                    yield chunk
        except httpx.HTTPError as fault:
            raise tuf.DownloadError(f"{url}: {fault or type(fault).__name__}") from fault


class ReleaseClient:
    """What a device knows of a repository, in ``folder``; ``root`` is the signed root that it was made with.

    ``now_s`` (None: the machine's clock) is what expiry is told by. One at a time may use the folder. Every method
    raises ``Unreachable`` where nobody answers, ``InvalidArtefact`` for what is not to be believed, in one line that
    says which attack or fault it looks like, and ``DiskFull``.
    """

    def __init__(
        self, folder: Path, source: Source, root: bytes, files: Files | None = None,
        now_s: Callable[[], float] | None = None,
    ) -> None:  # fmt: skip
        self.folder, self._source, self._root, self._now_s = folder, source, root, now_s
        self._files = files or Files()
        self._trusted, self._releases = folder / "trusted", folder / "releases"
        self._incoming = folder / INCOMING

    def look(self) -> Directive | None:
        """What the rollout says now; None before the first one."""
        with refused("the rollout's directive"):
            return self._directive(self._updater())

    def survey(self, n_max: int) -> Survey:
        """What is signed, with the manifests of the ``n_max`` newest releases and of those that the directive names."""
        with refused("what is published"):
            updater = self._updater()
            self._files.make_folder(self._incoming)
            told = self._directive(updater)
            signed = read_bounded(self._trusted / "targets.json", METADATA_BYTES_MAX)  # verified just now
            targets = Metadata[Targets].from_bytes(signed).signed.targets
            known = [publication_of(target) for path, target in targets.items() if path.startswith("releases/")]
            known.sort(key=lambda one: one.version)
            named = {told.version, told.before_version} if told is not None else set()
            wanted = [one for n, one in enumerate(known) if n >= len(known) - n_max or one.version in named]
            return Survey(told, tuple(known), {one.release: self._manifest(updater, one) for one in wanted})

    def contents(self, refs: Sequence[FileRef]) -> list[bytes]:
        """The bytes of some files of signed releases; they do not stay on the disk."""
        with refused("a release's files"):
            updater = self._updater()
            self._files.make_folder(self._incoming)
            return [self._bytes(updater, _signed_file(updater, ref)) for ref in refs]

    def fetch(self, version: int) -> Fetched:
        """The release that was published under ``version``: verified, durable, in a folder of its own."""
        with refused(f"release version {version}"):
            updater = self._updater()
            target = updater.get_targetinfo(f"releases/{version}/{MANIFEST}")
            if target is None:
                raise InvalidArtefact(f"version {version} was never published: nobody who may sign releases knows it")
            publication = publication_of(target)
            if publication.version != version:
                raise InvalidArtefact(f"version {version} is signed as version {publication.version}; it was refused")
            place = self._releases / publication.release
            if place.is_dir():
                with contextlib.suppress(InvalidArtefact):
                    return Fetched(open_release(place), publication)
                self._files.remove_tree(place)  # damaged since: get it again
            return Fetched(self._assemble(updater, target, publication, place), publication)

    def _directive(self, updater: Updater) -> Directive | None:
        target = updater.get_targetinfo(DIRECTIVE)
        if target is None:
            return None
        if target.length > METADATA_BYTES_MAX:
            raise InvalidArtefact(f"{DIRECTIVE}: {target.length} bytes; at most {METADATA_BYTES_MAX} are read")
        path = Path(updater.download_target(target, str(self._trusted / DIRECTIVE)))
        return decode_directive(read_bounded(path, METADATA_BYTES_MAX))

    def _manifest(self, updater: Updater, publication: Publication) -> Manifest:
        target = updater.get_targetinfo(f"releases/{publication.version}/{MANIFEST}")
        assert target is not None, "read among the same targets"
        if target.length > MANIFEST_BYTES_MAX:
            raise InvalidArtefact(f"a manifest of {target.length} bytes; at most {MANIFEST_BYTES_MAX} are read")
        updater.download_target(target, str(self._incoming / MANIFEST))
        return read_manifest(self._incoming).manifest

    def _bytes(self, updater: Updater, target: TargetFile) -> bytes:
        """A target's bytes, verified on their way to the disk and read back; not kept."""
        path = self._incoming / CONTENT
        updater.download_target(target, str(path))
        data = read_bounded(path, target.length)
        self._files.remove(path)
        return data

    def _assemble(self, updater: Updater, manifest: TargetFile, publication: Publication, place: Path) -> Release:
        """Every file under a name that no one looks at; renamed when all are there and right."""
        incoming = place.with_name(f".{place.name}.incoming")
        self._files.make_folder(incoming)
        if manifest.length > MANIFEST_BYTES_MAX:
            raise InvalidArtefact(f"a manifest of {manifest.length} bytes; at most {MANIFEST_BYTES_MAX} are read")
        self._get(updater, manifest, incoming / MANIFEST)
        draft = read_manifest(incoming)
        card = [publication.card] if publication.card else []
        for ref in (*draft.manifest.files(), *card):
            target = _signed_file(updater, ref)
            self._reuse(draft.path_of(ref), ref)
            self._get(updater, target, draft.path_of(ref))
        self._files.sync_folder(incoming)
        release = open_release(incoming)
        if release.manifest_hash != publication.release:
            raise InvalidArtefact("the manifest is not the one that was signed; it was refused")
        self._files.move(incoming, place)
        return open_release(place)

    def _get(self, updater: Updater, target: TargetFile, path: Path) -> None:
        """One file, verified and durable; not asked for again where a fetch that was cut off has left it whole."""
        if updater.find_cached_target(target, str(path)) is None:
            self._files.step("write", path)
            updater.download_target(target, str(path))
        self._files.step("fsync", path)
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def _reuse(self, path: Path, ref: FileRef) -> None:
        """Most releases share most of their files: one of the same content is copied, not fetched."""
        if path.exists():
            return
        for folder in sorted(self._releases.glob("*/")):
            with contextlib.suppress(OSError, InvalidInput):
                if ref in read_manifest(folder).manifest.files():
                    self._files.step("write", path)
                    shutil.copyfile(folder / ref.name, path)
                    return

    def _updater(self) -> Updater:
        """A fresh look at the repository: root, timestamp, snapshot and targets, in this order."""
        for folder in (self._trusted, self._releases):
            self._files.make_folder(folder)
        config = UpdaterConfig(app_user_agent="evergrove")
        updater = Updater(
            str(self._trusted),
            f"{self._source.url}/metadata/",
            None,
            f"{self._source.url}/targets/",
            self._source.fetcher,
            config,
            bootstrap=self._root,
        )
        if self._now_s is not None:  # tuf has no public way to be told the time
            updater._trusted_set.reference_time = datetime.fromtimestamp(self._now_s(), UTC)
        updater.refresh()
        self._settle()
        return updater

    def _settle(self) -> None:
        """What is trusted outlives a power cut: else an old repository could be shown again after one."""
        for path in (*self._trusted.glob("*.json"), *self._trusted.glob("root_history/*.json")):
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        for folder in (self._trusted, self._trusted / "root_history"):
            self._files.sync_folder(folder)


def check_root(data: bytes) -> None:
    """Raises ``InvalidArtefact`` unless ``data`` is a TUF root that its own keys have signed."""
    try:
        root = Metadata[Root].from_bytes(data)
        root.verify_delegate(Root.type, root)
    except (tuf.RepositoryError, ValueError, TypeError, KeyError) as fault:
        raise InvalidArtefact(f"this is no signed root of releases: {fault}; get root.json from the cloud") from fault


def _signed_file(updater: Updater, ref: FileRef) -> TargetFile:
    target = updater.get_targetinfo(f"files/{ref.sha256}")
    if target is None or target.hashes.get("sha256") != ref.sha256 or target.length > FILE_BYTES_MAX:
        raise InvalidArtefact(f"{ref.name}: its manifest names it, but it is not among what was signed")
    return target


@contextlib.contextmanager
def refused(what: str) -> Iterator[None]:
    """Turns TUF's errors into ours: who did not answer, and what was not believed of ``what``."""
    try:
        yield
    except CorruptState as fault:
        raise InvalidArtefact(f"{what} was refused: {fault}") from fault
    except tuf.DownloadLengthMismatchError as fault:
        raise InvalidArtefact(f"{what} was refused: more bytes came than were signed for ({fault})") from fault
    except tuf.DownloadError as fault:
        raise Unreachable(f"{what} could not be fetched: {fault}; try again later") from fault
    except tuf.ExpiredMetadataError as fault:
        clock = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        raise InvalidArtefact(
            f"{what} was refused: {fault}: the repository is frozen or its cloud asleep, or this device's clock is "
            f"wrong (it says {clock})"
        ) from fault
    except tuf.BadVersionNumberError as fault:
        raise InvalidArtefact(f"{what} was refused: it goes back behind what this device has seen ({fault})") from fault
    except tuf.UnsignedMetadataError as fault:
        raise InvalidArtefact(f"{what} was refused: not signed by the keys that count ({fault})") from fault
    except tuf.LengthOrHashMismatchError as fault:
        raise InvalidArtefact(f"{what} was refused: altered, or mixed from two publications ({fault})") from fault
    except (tuf.RepositoryError, ValueError) as fault:
        raise InvalidArtefact(f"{what} was refused: {fault}") from fault
    except OSError as fault:
        if fault.errno in FULL:
            raise DiskFull(f"no room left on the disk while fetching {what}; free some space") from fault
        raise EvergroveError(f"fetching {what} failed: {fault}; check the disk and its permissions") from fault
