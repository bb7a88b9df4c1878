"""How a device's folder is kept tidy, by the agent that owns it: jobs that have ended, and what a kill has left."""

import contextlib
from pathlib import Path

from evergrove.adapters import receipts
from evergrove.adapters.files import Files
from evergrove.adapters.versions import Pointer
from evergrove.core.errors import EvergroveError
from evergrove.runtime.fleet import FOLDER, RELEASES
from evergrove.tiers.device import State

CONFIG = "device.toml"
CACHE, JOBS = "cache", "jobs"


def tidy(root: Path, files: Files, state: State, pointer: Pointer) -> None:
    """Removes halves of writes, folders of jobs that ended while nobody could tidy up, and releases nobody wants."""
    for name in (CACHE, "assists", FOLDER, receipts.FOLDER):
        files.sweep(root / name)
    files.sweep(root, of=CONFIG)
    _tidy_releases(root, files, state, pointer)
    goes_on = {work.job for work in (state.work, state.waiting) if work is not None}
    for path in _inside(root / JOBS):
        if path.name not in goes_on:
            remove(root, files, path)


def remove(root: Path, files: Files, folder: Path) -> None:
    """A job's folder, and what its worker left half-written. What cannot go now (the worker is just dying, say) goes
    at the next start."""
    with contextlib.suppress(EvergroveError):
        files.remove_tree(folder)
        files.sweep(root / CACHE)


def _tidy_releases(root: Path, files: Files, state: State, pointer: Pointer) -> None:
    """Removes what was fetched and is not run, nor gone back to, nor on its way."""
    wanted, following = {state.release, pointer.release, pointer.previous_release}, state.following
    wanted |= {following.before.release} if following.before else set()
    wanted |= {following.taking.offer.release} if following.taking else set()
    for path in _inside(root / FOLDER / RELEASES / "releases"):
        if path.name.removeprefix(".").removesuffix(".incoming") not in wanted:
            remove(root, files, path)


def _inside(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []
