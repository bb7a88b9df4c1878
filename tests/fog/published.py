"""A cloud's repository on this disk, for tests: the tiny release again and again, as other versions and generations."""

import json
import shutil
import time
from pathlib import Path

from evergrove.adapters.release import Release, open_release
from evergrove.adapters.tuf_keys import new_signers
from evergrove.adapters.tuf_metadata import THRESHOLDS
from evergrove.adapters.tuf_repository import Repository
from evergrove.core.release import sha256_hex
from evergrove.core.rollout import FULL, Directive
from evergrove.rules import params


class Cloud:
    """``folder`` is the repository's; nothing is published yet."""

    def __init__(self, home: Path) -> None:
        self.folder, self._shelf = home / "repository", home / "shelf"
        self.repository, self._signers = Repository(self.folder), new_signers(THRESHOLDS)
        self.repository.create(self._signers, time.time())

    def release(self, version: int, generation: int = 0, **changes: object) -> Release:
        """The tiny release under a version; another generation has another base."""
        folder = self._shelf / f"{generation}-{version}"
        if not folder.exists():
            shutil.copytree(open_release("tiny").folder, folder)
            text = json.loads((folder / "manifest.json").read_text()) | {"version": version, "generation": generation}
            if generation:
                base = folder / text["base"]["name"]
                data = bytearray(base.read_bytes())
                data[-4] ^= generation
                base.write_bytes(data)
                text["base"]["sha256"] = sha256_hex(bytes(data))
            (folder / "manifest.json").write_text(json.dumps(text | changes))
        return open_release(folder)

    def publish(self, version: int, generation: int = 0, **changes: object) -> str:
        """Signed; its hash."""
        folder = self.release(version, generation, **changes).folder
        done = self.repository.publish(folder, self._signers, time.time(), version=version, epsilon=0.0)
        return done.release

    def direct(self, version: int, release: str, reach: int = FULL, before: tuple[str, int] = ("", 0)) -> None:
        """Tells devices."""
        told = Directive(f"r{version}", release, version, reach, True, *before)
        self.repository.direct(told, self._signers, time.time())

    @property
    def tag(self) -> str:
        """What a fog notices a change by."""
        return sha256_hex((self.folder / "metadata" / "timestamp.json").read_bytes())


def layout_of(release: Release) -> params.Layout:
    """What updates of its devices look like."""
    manifest = release.manifest
    return params.layout_of(manifest, release.read(manifest.base), release.read(manifest.basis))
