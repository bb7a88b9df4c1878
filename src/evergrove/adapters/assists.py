"""Assists on disk: signed files named by the SHA-256 of their body, and labels that say which is for what.

A fog labels one by its recipe (release and settings), so that it is computed once; a device by its release, so that it
is fetched once. Only the newest few are kept.
"""

from pathlib import Path

from evergrove.adapters.files import Files, read_bounded
from evergrove.core.errors import InvalidArtefact, InvalidInput, UsageError
from evergrove.core.release import sha256_hex
from evergrove.rules import trust

SUFFIX, LABEL = ".assist", ".label"
N_BYTES_MAX = (64 << 20) + trust.STATEMENT_BYTES_MAX + 128


class Assists:
    """A folder of assists; ``n_kept`` labels at most. One process writes, any number read."""

    def __init__(self, folder: Path, n_kept: int = 4, files: Files | None = None) -> None:
        self.folder = folder
        self._n_kept = n_kept
        self._files = files or Files()

    def put(self, label: str, data: bytes) -> str:
        """Stores a signed assist, durably, under its body's SHA-256, and labels it. The caller has verified it.

        Raises ``DiskFull``, ``UsageError`` for a label that is no SHA-256, ``InvalidArtefact`` for no signed file.
        """
        sha256 = sha256_hex(trust.body_of(data))
        self._files.make_folder(self.folder)
        self._files.sweep(self.folder)
        self._files.write(self._path(sha256, SUFFIX), data)
        self._files.write(self._path(label, LABEL), sha256.encode())
        self._collect(keep=label)
        return sha256

    def find(self, label: str) -> str | None:
        """The name of the assist with that label, None where there is none that is whole."""
        try:
            sha256 = read_bounded(self._path(label, LABEL), 64).decode("ascii", "replace")
            self.load(sha256)
        except (FileNotFoundError, InvalidInput, UsageError):
            return None
        return sha256

    def load(self, sha256: str) -> bytes:
        """A signed assist. Raises ``InvalidArtefact`` when it is missing, altered or too large."""
        path = self._path(sha256, SUFFIX)
        try:
            data = read_bounded(path, N_BYTES_MAX)
        except FileNotFoundError as fault:
            raise InvalidArtefact(f"{path}: this assist is missing; it is fetched again with the next job") from fault
        if sha256_hex(trust.body_of(data)) != sha256:
            raise InvalidArtefact(f"{path}: this assist was altered (its SHA-256 is not its name)")
        return data

    def body(self, sha256: str) -> bytes:
        """What ``learn.assist.read`` takes: the bytes that the name is the hash of. Raises ``InvalidArtefact``."""
        return trust.body_of(self.load(sha256))

    def _collect(self, keep: str) -> None:
        """Deletes the oldest labels past the limit, and every assist that has no label any more."""
        labels = sorted(self.folder.glob(f"*{LABEL}"), key=lambda p: (p.stem == keep, p.lstat().st_mtime_ns))
        for path in labels[: max(0, len(labels) - self._n_kept)]:
            self._files.remove(path)
        named = {path.read_text("ascii", "replace") for path in labels[-self._n_kept :]}
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            if path.stem not in named:
                self._files.remove(path)

    def _path(self, name: str, suffix: str) -> Path:
        if len(name) != 64 or not set(name) <= set("0123456789abcdef"):
            raise UsageError(f"'{name[:80]}' is not the name of an assist or of a release (64 hex digits)")
        return self.folder / f"{name}{suffix}"
