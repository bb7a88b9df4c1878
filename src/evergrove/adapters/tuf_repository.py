"""The cloud's side of The Update Framework: signed releases, so that a device need trust nobody in between.

::

    metadata/  1.root.json 2.root.json …  7.targets.json  4.rollout.json  9.snapshot.json  timestamp.json
    targets/   files/<sha256>.<sha256>    releases/7/<sha256>.manifest.json    <sha256>.directive.json

Consistent snapshots (TUF specification 1.0, §7): nothing that a device may be reading is ever changed, a publication
writes new files and turns ``timestamp.json`` last, in one rename. So one that is killed at any write leaves the one
before it valid. Files are named by their content: a base that many releases share lies there once.

*targets* (offline, by threshold) signs releases and what ``core.release.Publication`` says of them. *rollout* is
delegated one path, the directive that tells devices whose turn it is. Root keys are changed so that a device that has
seen the new root and one that has not both find valid signatures at every instant.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from tuf.api.exceptions import RepositoryError

from evergrove.adapters.files import TEMP_SUFFIX, Files, read_bounded
from evergrove.adapters.release import MANIFEST, open_release
from evergrove.adapters.tuf_keys import ROLES, Signers
from evergrove.adapters.tuf_metadata import (
    CARD,
    DIRECTIVE,
    METADATA_BYTES_MAX,
    THRESHOLDS,
    CryptoSigner,
    DelegatedRole,
    Delegations,
    Metadata,
    Role,
    Root,
    S,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
    custom,
    decode_directive,
    meta_file,
    next_version,
    publication_of,
    replace_keys,
    tired,
    until,
)
from evergrove.core.errors import CorruptState, UsageError
from evergrove.core.release import FileRef, Publication, sha256_hex
from evergrove.core.rollout import Directive


@dataclass(frozen=True)
class Current:
    """What the timestamp points to now, read and decoded; ``root`` is the newest one."""

    root: Metadata[Root]
    targets: Metadata[Targets]
    rollout: Metadata[Targets]
    snapshot: Metadata[Snapshot]
    timestamp: Metadata[Timestamp]

    def of(self, role: str) -> Metadata[Any]:
        """By its role's name."""
        found: Metadata[Any] = getattr(self, role)
        return found


class Repository:
    """A repository in ``folder``. Every method that writes is one publication, and safe against a second writer.

    Raises ``UsageError`` where keys are missing or a version does not grow, ``CorruptState`` for what does not decode,
    ``DiskFull``.
    """

    def __init__(self, folder: Path, files: Files | None = None) -> None:
        self.folder = folder
        self._files = files or Files()
        self._metadata, self._targets = folder / "metadata", folder / "targets"

    # ---- reading ---------------------------------------------------------------------------------------------------

    @property
    def exists(self) -> bool:
        """Whether something was published here."""
        return (self._metadata / "timestamp.json").exists()

    def current(self) -> Current:
        """What stands now."""
        if not self.exists:
            raise UsageError(f"{self.folder}: no release repository; `evergrove keys create` makes one")
        timestamp: Metadata[Timestamp] = self._read("timestamp.json")
        number = timestamp.signed.snapshot_meta.version
        snapshot: Metadata[Snapshot] = self._read(f"{number}.snapshot.json")
        numbers = {name: meta.version for name, meta in snapshot.signed.meta.items()}
        return Current(
            self._read(f"{self._root_number()}.root.json"),
            self._read(f"{numbers['targets.json']}.targets.json"),
            self._read(f"{numbers['rollout.json']}.rollout.json"),
            snapshot,
            timestamp,
        )

    def root(self) -> bytes:
        """The newest root: what a device is given as its trust anchor."""
        return read_bounded(self._metadata / f"{self._root_number()}.root.json", METADATA_BYTES_MAX)

    def publications(self) -> tuple[Publication, ...]:
        """Every publication, oldest first."""
        targets = self.current().targets.signed.targets
        found = [publication_of(target) for path, target in targets.items() if path.startswith("releases/")]
        return tuple(sorted(found, key=lambda one: one.version))

    def directive(self) -> Directive | None:
        """What devices are told now."""
        target = self.current().rollout.signed.targets.get(DIRECTIVE)
        if target is None:
            return None
        path = self._targets / f"{target.hashes['sha256']}.{DIRECTIVE}"
        return decode_directive(read_bounded(path, target.length))

    def expires_s(self) -> dict[str, float]:
        """Until when each role's signature holds, in seconds since 1970."""
        now = self.current()
        return {role: now.of(role).signed.expires.timestamp() for role in ROLES}

    # ---- writing ---------------------------------------------------------------------------------------------------

    def create(self, signers: Signers, now_s: float, thresholds: Mapping[str, int] = THRESHOLDS) -> None:
        """A new repository without releases, signed by these keys. Raises ``UsageError`` where one is there."""
        with self._alone():
            if self.exists:
                raise UsageError(f"{self.folder} is a release repository already")
            for folder in (self._metadata, self._targets / "files"):
                self._files.make_folder(folder)
            root = Root(expires=until("root", now_s), consistent_snapshot=True)
            for role in ("root", "targets", "snapshot", "timestamp"):
                root.roles[role] = Role([], thresholds[role])
                for signer in signers.get(role, ()):
                    root.add_key(signer.public_key, role)
            delegation = DelegatedRole("rollout", [], thresholds["rollout"], True, paths=[DIRECTIVE])
            targets = Targets(expires=until("targets", now_s), delegations=Delegations({}, {"rollout": delegation}))
            for signer in signers.get("rollout", ()):
                targets.add_key(signer.public_key, "rollout")
            signed_root = self._signed(Metadata(root), root, "root", signers)
            self._write_metadata("1.root.json", signed_root)
            changes = {"targets": Metadata(targets), "rollout": Metadata(Targets(expires=until("rollout", now_s)))}
            self._commit(root, targets, changes, None, signers, now_s)

    def publish(
        self,
        folder: Path,
        signers: Signers,
        now_s: float,
        *,
        version: int,
        epsilon: float,
        delta: float = 0.0,
        parent: str | None = None,
        card: bytes | None = None,
    ) -> Publication:
        """Signs the release in ``folder`` under a new, higher version.

        Its model card is ``card``, or the folder's ``README.md``. Raises ``InvalidArtefact`` for a release that is not
        whole.
        """
        release = open_release(folder)
        with self._alone():
            now = self.current()
            card = self._read_card(release.folder) if card is None else card
            card_ref = None if card is None else FileRef(CARD, sha256_hex(card), len(card))
            publication = Publication.of(
                release.manifest,
                release.manifest_hash,
                version,
                epsilon=epsilon,
                delta=delta,
                parent=parent,
                card=card_ref,
            )
            targets = next_version(now.targets, until("targets", now_s))
            for ref in release.manifest.files():
                self._add(targets.signed, ref, release.read(ref))
            if card is not None and card_ref is not None:
                self._add(targets.signed, card_ref, card)
            manifest = read_bounded(release.folder / MANIFEST, METADATA_BYTES_MAX)
            self._add_release(targets.signed, publication, manifest)
            self._commit(now.root.signed, targets.signed, {"targets": targets}, now, signers, now_s)
            return publication

    def republish(self, version: int, old: int, signers: Signers, now_s: float, *, back_from: int) -> Publication:
        """Signs the release of the ``old`` version again under a new, higher one: the way back goes forward."""
        with self._alone():
            now = self.current()
            known = {p.version: p for p in self.publications()}
            if old not in known:
                raise UsageError(f"version {old} was never published; there are {', '.join(map(str, known)) or 'none'}")
            publication = msgspec.structs.replace(known[old], version=version, back_from=back_from)
            targets = next_version(now.targets, until("targets", now_s))
            stored = self._targets / f"releases/{old}/{publication.release}.{MANIFEST}"
            self._add_release(targets.signed, publication, read_bounded(stored, METADATA_BYTES_MAX))
            self._commit(now.root.signed, targets.signed, {"targets": targets}, now, signers, now_s)
            return publication

    def direct(self, directive: Directive, signers: Signers, now_s: float) -> None:
        """Tells the devices whose turn it is. Its version must have been published."""
        with self._alone():
            now = self.current()
            if directive.version not in {p.version for p in self.publications()}:
                raise UsageError(f"version {directive.version} was never published, so no device could take it")
            data = msgspec.json.encode(directive)
            name = sha256_hex(data)
            self._store(DIRECTIVE, name, data)
            rollout = next_version(now.rollout, until("rollout", now_s))
            rollout.signed.targets = {DIRECTIVE: TargetFile(len(data), {"sha256": name}, DIRECTIVE)}
            self._commit(now.root.signed, now.targets.signed, {"rollout": rollout}, now, signers, now_s)

    def refresh(self, signers: Signers, now_s: float) -> None:
        """A new timestamp; what else lies with the cloud is signed anew once half of its time is over."""
        with self._alone():
            now = self.current()
            changes: dict[str, Metadata[Targets]] = {}
            if tired(now.rollout.signed, "rollout", now_s):
                changes["rollout"] = next_version(now.rollout, until("rollout", now_s))
            self._commit(now.root.signed, now.targets.signed, changes, now, signers, now_s)

    def rotate(
        self, role: str, fresh: tuple[CryptoSigner, ...], signers: Signers, now_s: float, threshold: int | None = None
    ) -> None:
        """Other keys for a role, from now on. ``signers`` are the keys so far.

        First the role's metadata is published with old and new signatures, then the root that names the new keys: so a
        device finds enough signatures whichever root it has, and a kill between the two does no harm.
        """
        with self._alone():
            now = self.current()
            both = {**signers, role: (*signers.get(role, ()), *fresh)}
            if role == "rollout":
                targets = next_version(now.targets, until("targets", now_s))
                replace_keys(targets.signed, role, fresh, threshold)
                rollout = next_version(now.rollout, until("rollout", now_s))
                self._commit(
                    now.root.signed, targets.signed, {"targets": targets, "rollout": rollout}, now, both, now_s
                )
                return
            root = next_version(now.root, until("root", now_s))
            replace_keys(root.signed, role, fresh, threshold)
            if role != "root":
                changes = {"targets": next_version(now.targets, until("targets", now_s))} if role == "targets" else {}
                self._commit(now.root.signed, now.targets.signed, changes, now, both, now_s, also=root.signed)
            self._signed(root, now.root.signed, "root", both)
            self._write_metadata(f"{root.signed.version}.root.json", self._signed(root, root.signed, "root", both))

    # ---- one publication -------------------------------------------------------------------------------------------

    def _commit(
        self,
        root: Root,
        targets: Targets,
        changes: Mapping[str, Metadata[Targets]],
        now: Current | None,
        signers: Signers,
        now_s: float,
        also: Root | None = None,
    ) -> None:
        """Writes what has changed, then its snapshot, then turns the timestamp. ``also``: sign for that root too."""
        meta = dict(now.snapshot.signed.meta) if now else {}
        for role, changed in changes.items():
            delegator: Root | Targets = targets if role == "rollout" else root
            data = self._signed(changed, delegator, role, signers, also)
            self._write_metadata(f"{changed.signed.version}.{role}.json", data)
            meta[f"{role}.json"] = meta_file(changed.signed.version, data)
        new_keys = also is not None and also.roles["snapshot"] != root.roles["snapshot"]
        if changes or new_keys or now is None or tired(now.snapshot.signed, "snapshot", now_s):
            snapshot = Metadata(Snapshot((now.snapshot.signed.version if now else 0) + 1, meta=meta))
            snapshot.signed.expires = until("snapshot", now_s)
            data = self._signed(snapshot, root, "snapshot", signers, also)
            self._write_metadata(f"{snapshot.signed.version}.snapshot.json", data)
            newest = meta_file(snapshot.signed.version, data)
        else:
            newest = now.timestamp.signed.snapshot_meta
        timestamp = Metadata(Timestamp((now.timestamp.signed.version if now else 0) + 1, snapshot_meta=newest))
        timestamp.signed.expires = until("timestamp", now_s)
        self._write_metadata("timestamp.json", self._signed(timestamp, root, "timestamp", signers, also))

    def _signed(
        self, metadata: Metadata[S], delegator: Root | Targets, role: str, signers: Signers, also: Root | None = None
    ) -> bytes:
        """The metadata's bytes with every signature at hand that counts. Raises ``UsageError`` for too few."""
        wanted = set(delegator.get_delegated_role(role).keyids)
        if also is not None:
            wanted |= set(also.roles[role].keyids) if role in also.roles else set()
        for signer in signers.get(role, ()):
            if signer.public_key.keyid in wanted:
                metadata.sign(signer, append=True)
        result = delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
        if not result:
            have, all_of = len(result.signed), len(result.signed) + len(result.unsigned)
            raise UsageError(
                f"the {role} role needs {result.threshold} of its {all_of} keys, {have} at hand: "
                "name the folder that holds them"
            )
        return metadata.to_bytes()

    def _store(self, path: str, sha256: str, data: bytes) -> None:
        """A target under its prefixed name; what is there and whole is left alone."""
        assert sha256_hex(data) == sha256, "read against its hash before"
        place = self._targets / path
        place = place.with_name(f"{sha256}.{place.name}")
        if place.exists() and place.stat().st_size == len(data) and sha256_hex(place.read_bytes()) == sha256:
            return
        self._files.make_folder(place.parent)
        self._files.write(place, data, mode=0o644)

    def _add(self, targets: Targets, ref: FileRef, data: bytes) -> None:
        """One file, under the name that its content gives it."""
        path = f"files/{ref.sha256}"
        self._store(path, ref.sha256, data)
        targets.targets[path] = TargetFile(ref.n_bytes, {"sha256": ref.sha256}, path)

    def _add_release(self, targets: Targets, publication: Publication, manifest: bytes) -> None:
        highest = max((p.version for p in self.publications()), default=0)
        if publication.version <= highest:
            raise UsageError(
                f"version {publication.version} cannot be published: {highest} is out, and versions only grow"
            )
        path = f"releases/{publication.version}/{MANIFEST}"
        self._store(path, publication.release, manifest)
        facts = {"custom": custom(publication)}
        targets.targets[path] = TargetFile(len(manifest), {"sha256": publication.release}, path, facts)

    def _read_card(self, folder: Path) -> bytes | None:
        try:
            return read_bounded(folder / CARD, METADATA_BYTES_MAX)
        except FileNotFoundError:
            return None

    def _write_metadata(self, name: str, data: bytes) -> None:
        self._files.write(self._metadata / name, data, mode=0o644)

    def _read(self, name: str) -> Metadata[Any]:
        path = self._metadata / name
        try:
            return Metadata.from_bytes(read_bounded(path, METADATA_BYTES_MAX))
        except FileNotFoundError as fault:
            raise CorruptState(f"{path} is missing; restore the repository from a backup") from fault
        except RepositoryError as fault:
            raise CorruptState(f"{path}: not TUF metadata: {fault}; restore the repository from a backup") from fault

    def _root_number(self) -> int:
        numbers = [int(path.name.split(".")[0]) for path in self._metadata.glob("*.root.json")]
        if not numbers:
            raise CorruptState(f"{self._metadata} holds no root; restore the repository from a backup")
        return max(numbers)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One writer at a time; what a killed one left of its writes is swept up."""
        self._files.make_folder(self.folder)
        handle = os.open(self.folder / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            for folder in {path.parent for path in self.folder.rglob(f".*{TEMP_SUFFIX}")}:
                self._files.sweep(folder)
            yield
        finally:
            os.close(handle)
