"""A cloud's release repository with its keys, and devices that look at it: real ones, on this disk."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from test_release import write_release

from evergrove.adapters.files import Files
from evergrove.adapters.tuf_client import ReleaseClient, from_folder
from evergrove.adapters.tuf_keys import Signers, new_signers
from evergrove.adapters.tuf_mirror import ReleaseMirror
from evergrove.adapters.tuf_repository import Repository
from evergrove.core.rollout import FULL, Directive

COUNTS = {"root": 3, "targets": 2, "snapshot": 1, "timestamp": 1, "rollout": 1}
NOW_S = time.time()
HOUR_S = 3600.0


@dataclass
class Grove:
    """A folder with a repository, the keys that it was made with, and releases on a shelf."""

    home: Path
    signers: Signers
    root: bytes
    shelf: Path

    def repository(self, files: Files | None = None) -> Repository:
        """The cloud's side."""
        return Repository(self.home / "repository", files)

    def release(self, n: int) -> Path:
        """The folder of a release; the second has another base, the other files are the same."""
        folder = self.shelf / f"release-{n}"
        if not folder.exists():
            write_release(folder, version=n)
            (folder / "README.md").write_text(f"# Release {n}\n")
        return folder

    def publish(self, n: int, files: Files | None = None, now_s: float = NOW_S) -> str:
        """Release ``n`` under version ``n``; returns its hash."""
        done = self.repository(files).publish(
            self.release(n), self.signers, now_s, version=n, epsilon=0.994, delta=1e-6
        )
        return done.release

    def direct(self, version: int, release: str, files: Files | None = None, now_s: float = NOW_S) -> None:
        """Everybody is to take it."""
        told = Directive(f"r{version}", release, version, FULL, True)
        self.repository(files).direct(told, self.signers, now_s)

    def device(self, name: str, files: Files | None = None, repository: Path | None = None) -> ReleaseClient:
        """A device by its name; it remembers what it has seen."""
        source = from_folder(repository or self.home / "repository")
        return ReleaseClient(self.home / name, source, self.root, files)

    def mirror(self, files: Files | None = None) -> ReleaseMirror:
        """A fog's."""
        return ReleaseMirror(self.home / "mirror", from_folder(self.home / "repository"), self.root, files)

    def copy(self, name: str) -> Path:
        """The repository as it is now, for an attacker to keep or change."""
        return Path(shutil.copytree(self.home / "repository", self.home / name))

    def twin(self, home: Path) -> "Grove":
        """Cloud and devices once more, elsewhere; the releases that are not published yet are the same."""
        shutil.copytree(self.home, home, symlinks=True)
        return Grove(home, self.signers, self.root, self.shelf)


def grow(home: Path) -> Grove:
    """A grove with release 1, which everybody is to take."""
    grove = Grove(home, new_signers(COUNTS), b"", home.with_name("shelf"))
    grove.repository().create(grove.signers, NOW_S)
    grove.root = grove.repository().root()
    grove.direct(1, grove.publish(1))
    return grove
