"""A mirror of a repository of signed releases: what a reader verified, put out again for others to read.

::

    metadata -> .<state>/     targets/files/<sha256>.<sha256>     targets/releases/7/<sha256>.manifest.json

A state is all of one publication's metadata in a folder of its own, made whole before the link ``metadata`` turns to
it, in one rename. So a reader finds the publication of before or of now, roots included, whenever this is cut off.
"""

import os
from pathlib import Path

from tuf.ngclient.updater import Updater

from evergrove.adapters.files import read_bounded
from evergrove.adapters.release import FILE_BYTES_MAX
from evergrove.adapters.tuf_client import CONTENT, ReleaseClient, refused
from evergrove.adapters.tuf_metadata import DIRECTIVE, METADATA_BYTES_MAX, Metadata, TargetFile, Targets
from evergrove.core.errors import InvalidArtefact
from evergrove.core.release import sha256_hex

HEAD, LINK = "timestamp", "metadata"
SIGNED = ("snapshot", "targets", "rollout")


class ReleaseMirror(ReleaseClient):
    """A reader of a repository that keeps a copy of it, and nothing in the copy that did not verify."""

    def mirror(self, place: Path) -> bool:
        """Brings ``place`` to what is signed now; whether anything was new. Raises as every method of its class."""
        with refused("what is published"):
            # 1. What is signed, down the chain from the root.
            updater = self._updater()
            known = self._verified(updater)
            state = f".{sha256_hex(b''.join(data for _, data in sorted(known.items())))[:32]}"
            link, targets = place / LINK, place / "targets"
            before = os.readlink(link) if link.is_symlink() else ""
            if before == state:
                return False
            # 2. Its files, under the names by which they are asked for; then its metadata, aside.
            for folder in (self._incoming, targets):
                self._files.make_folder(folder)
            self._fill(updater, known, targets)
            self._files.remove_tree(place / state)
            self._files.make_folder(place / state)
            for name, data in known.items():
                self._files.write(place / state / name, data)
            # 3. Readers are turned to it; what nobody is led to any more goes.
            self._turn(link, state)
            self._tidy(place, {before, state} - {""})
            return True

    def _verified(self, updater: Updater) -> dict[str, bytes]:
        """The metadata that has just been verified, by the names that a repository has it under."""
        updater.get_targetinfo(DIRECTIVE)  # reads the role that signs it, too
        found = {f"{HEAD}.json": self._trusted_bytes(HEAD)}
        for name in SIGNED:
            data = self._trusted_bytes(name)
            found[f"{Metadata.from_bytes(data).signed.version}.{name}.json"] = data
        newest = Metadata.from_bytes(self._trusted_bytes("root")).signed.version
        for path in (self._trusted / "root_history").glob("*.root.json"):
            if int(path.name.split(".")[0]) <= newest:
                found[path.name] = read_bounded(path, METADATA_BYTES_MAX)
        return found

    def _trusted_bytes(self, name: str) -> bytes:
        return read_bounded((self._trusted / f"{name}.json").resolve(), METADATA_BYTES_MAX)

    def _fill(self, updater: Updater, known: dict[str, bytes], place: Path) -> None:
        """Every target that is signed, whole; one that is there and damaged is fetched anew."""
        (signed,) = (data for name, data in known.items() if name.endswith(".targets.json"))
        paths = [*Metadata[Targets].from_bytes(signed).signed.targets, DIRECTIVE]
        for target in filter(None, map(updater.get_targetinfo, paths)):
            path = _place_of(target, place)
            if target.length > (METADATA_BYTES_MAX if target.path == DIRECTIVE else FILE_BYTES_MAX):
                raise InvalidArtefact(f"{target.path}: {target.length} bytes are more than are read of it")
            if updater.find_cached_target(target, str(path)) is None:
                content = self._incoming / CONTENT
                self._files.make_folder(path.parent)
                self._get(updater, target, content)
                self._files.move(content, path)

    def _turn(self, link: Path, state: str) -> None:
        fresh = link.with_name(f".{LINK}.link")
        self._files.remove(fresh)
        self._files.step("create", fresh)
        os.symlink(state, fresh)
        if link.is_dir() and not link.is_symlink():  # a copy of a mirror that followed its link
            self._files.remove_tree(link)
        self._files.move(fresh, link)

    def _tidy(self, place: Path, states: set[str]) -> None:
        """Keeps this state and the one before, at which a reader may be, and no targets but theirs."""
        kept = set()
        for state in states:
            for path in (place / state).glob("*.json"):
                if path.name.endswith((".targets.json", ".rollout.json")):
                    signed = Metadata[Targets].from_bytes(read_bounded(path, METADATA_BYTES_MAX)).signed
                    kept |= {_place_of(target, place / "targets") for target in signed.targets.values()}
        for folder in place.glob(".*/"):
            if folder.name not in states and not folder.is_symlink():
                self._files.remove_tree(folder)
        for path in (place / "targets").rglob("*"):
            if path.is_file() and path not in kept:
                self._files.remove(path)


def _place_of(target: TargetFile, place: Path) -> Path:
    """Where a target lies. Raises ``InvalidArtefact`` for a path that leads elsewhere."""
    folder, _, name = target.path.rpartition("/")
    path = place / folder / f"{target.hashes.get('sha256', '')}.{name}"
    if not path.resolve().is_relative_to(place.resolve()):
        raise InvalidArtefact(f"{target.path} leads out of the repository")
    return path
