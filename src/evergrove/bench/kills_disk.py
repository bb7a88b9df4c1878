"""What a kill leaves on the disk: the whole folder before each step of a life, and what a power cut makes of it.

At SIGKILL everything that was written is there, because the system's own cache outlives the process. A power cut may
take what was not synced yet: a file that is torn or empty, a rename that never came to the medium, half a commit.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from evergrove.bench.kills_life import Life, Setting, Told

Tree = dict[str, bytes | None]
"""Everything below a folder: files by their relative path, None for folders."""
WAL_HEADER, PAGE = 32, 4096
WAL_FRAME = 24 + PAGE
TORN_MAX = 6
"""Places at which one commit of the log is torn."""
LOG = "device/log.sqlite"
WAL = f"{LOG}-wal"
OWNER = ("device/agent.lock", "device/agent.json")
TEMP = re.compile(r"\.[0-9a-f]{8}\.tmp")


@dataclass(frozen=True)
class Instant:
    """A place to be killed at: what is on the disk, and in which act. ``told`` numbers what apps knew by then."""

    kind: str
    act: int
    tree: Tree
    setting: Setting
    told: int


class Recorder:
    """Notes an instant before each step while ``life`` is set, and with it (``power``) what a power cut could leave."""

    def __init__(self, home: Path, power: bool = False) -> None:
        self.home = home
        self.instants: list[Instant] = []
        self.cuts: list[Instant] = []
        self.tellings: list[Told] = [Told()]
        self.act = 0
        self.life: Life | None = None
        self._power = power
        self._before: Tree = {}
        self._unnamed: dict[str, bytes | None] = {}
        self._blobs: dict[bytes, bytes] = {}

    def at(self, step: str, path: Path) -> None:
        """The whole disk as it is now."""
        if self.life is None:
            return
        if self.life.told != self.tellings[-1]:
            self.tellings.append(self.life.told)
        tree = {
            name: data and self._blobs.setdefault(hashlib.blake2b(data, digest_size=16).digest(), data)
            for name, data in read_tree(self.home).items()
        }
        setting, told = msgspec.structs.replace(self.life.setting), len(self.tellings) - 1
        name = path.relative_to(self.home).as_posix() if path.is_relative_to(self.home) else path.name
        kind = f"{area(name)}: {step}"
        self.instants.append(Instant(kind, self.act, tree, setting, told))
        if self._power:
            self.cuts += [Instant(kind, self.act, cut, setting, told) for cut in self._power_cuts(step, name, tree)]
        self._before = tree

    def told(self, instant: Instant) -> tuple[Told, Told]:
        """What apps knew at an instant, and what they are told next: what was under way may be done, or not."""
        return self.tellings[instant.told], self.tellings[min(instant.told + 1, len(self.tellings) - 1)]

    def _power_cuts(self, step: str, name: str, tree: Tree) -> Iterator[Tree]:
        data = tree.get(name)
        if step == "fsync" and data:
            for torn in (data[: len(data) // 2], bytes(len(data)), data[:1]):
                yield tree | {name: torn}
        if step in ("rename", "unlink") and (name not in tree or tree[name] is not None):
            self._unnamed.setdefault(name, self._before.get(name, tree.get(name)))
        if step == "fsync_dir":
            here = {n: old for n, old in self._unnamed.items() if n.rpartition("/")[0] == name and tree.get(n) != old}
            for undone in (list(here), list(here)[:1], list(here)[-1:], list(here)[::2]) if here else ():
                yield _with(tree, {n: here[n] for n in undone})
            self._unnamed = {n: old for n, old in self._unnamed.items() if n.rpartition("/")[0] != name}
        if name == LOG:
            yield from _torn_log(self._before, tree)


def area(name: str) -> str:
    """What a path belongs to, for people."""
    file, parts = name.rpartition("/")[2], name.split("/")
    stem = file.removeprefix(".").split(".")[0]
    if file.startswith(("log.sqlite", ".log.sqlite")):
        return "log"
    if "vault" in parts:
        return {"names": "names", "vault": "vault marker"}.get(stem, "record" if stem != "vault" else "vault folder")
    if "versions" in parts:
        return "pointer" if stem == "active" else "version"
    if "jobs" in parts:
        return stem if stem in ("checkpoint", "memory", "candidate", "outcome") else "job"
    if "run" in parts or stem == "agent":
        return "ownership"
    if stem == "device":
        return "device folder" if "." not in file.strip(".") else "key"
    return stem or "device folder"


def read_tree(folder: Path) -> Tree:
    """Everything below a folder."""
    tree: Tree = {}
    for place, folders, files in os.walk(folder):
        below = os.path.relpath(place, folder)
        prefix = "" if below == "." else f"{below}/"
        for name in folders:
            tree[prefix + name] = None
        for name in files:
            with open(f"{place}/{name}", "rb") as file:
                tree[prefix + name] = file.read()
    return tree


def write_tree(tree: Tree, folder: Path) -> None:
    """Puts it into a new folder, with modes as a device has them."""
    folder.mkdir(mode=0o700)
    for name in sorted(tree):
        data, path = tree[name], folder / name
        if data is None:
            path.mkdir(mode=0o700, exist_ok=True)
        else:
            path.touch(mode=0o600)
            path.write_bytes(data)


def digest(tree: Tree) -> bytes:
    """Equal for equal disks, whatever the temporary names and whoever owned the device.

    Without sqlite's shared memory, which is made anew at every opening, and without what an owner writes about itself:
    the next owner writes it anew, too.
    """
    found = hashlib.blake2b(digest_size=16)
    for name, data in sorted((TEMP.sub(".tmp", name), data) for name, data in tree.items()):
        if not name.endswith("-shm") and name not in OWNER and not name.startswith("run"):
            found.update(repr((name, None if data is None else len(data))).encode() + (data or b""))
    return found.digest()


def _with(tree: Tree, changes: dict[str, bytes | None]) -> Tree:
    """The tree with other contents; None takes a file away."""
    kept = {name: data for name, data in tree.items() if name not in changes}
    return kept | {name: data for name, data in changes.items() if data is not None}


def _first_difference(old: bytes, new: bytes) -> int:
    """The first byte in which they differ; the length of the shorter one where it begins the other."""
    end = min(len(old), len(new))
    block = next((i for i in range(0, end, PAGE) if old[i : min(i + PAGE, end)] != new[i : min(i + PAGE, end)]), end)
    return next((i for i in range(block, end) if old[i] != new[i]), end)


def _torn_log(before: Tree, after: Tree) -> Iterator[Tree]:
    """What a power cut in the middle of a commit, or of a checkpoint, leaves of the log."""
    old, new = before.get(WAL) or b"", after.get(WAL) or b""
    if old != new and new:
        first = _first_difference(old, new)
        ends = [cut for cut in range(WAL_HEADER, len(new), WAL_FRAME) if cut > first]
        cuts = sorted({first + 1, *ends, *(end - WAL_FRAME // 2 for end in ends), len(new) - 1} - {0})
        for cut in cuts[:: max(1, len(cuts) // TORN_MAX)]:
            yield after | {WAL: new[:cut] + old[cut:]}
        if len(new) - first > WAL_FRAME:  # the later part came to the medium first
            yield after | {WAL: new[:first] + bytes(WAL_FRAME) + new[first + WAL_FRAME :]}
    pages_old, pages_new = before.get(LOG) or b"", after.get(LOG) or b""
    if pages_old != pages_new and old:
        starts = range(0, max(len(pages_old), len(pages_new)), PAGE)
        changed = [i for i in starts if pages_old[i : i + PAGE] != pages_new[i : i + PAGE]]
        for n in sorted({1, len(changed) // 2, len(changed) - 1}):
            mixed = bytearray(pages_old.ljust(len(pages_new), b"\0"))
            for i in changed[:n]:
                mixed[i : i + PAGE] = pages_new[i : i + PAGE]
            yield after | {LOG: bytes(mixed), WAL: old}
