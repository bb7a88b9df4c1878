"""News of releases: a folder of files, one of which names the newest release; devices wait until it changes.

The folder is a TUF repository or anything like it: this room reads one file's bytes for their hash, and serves files.
"""

import asyncio
import logging
import re
from pathlib import Path

from evergrove.adapters.files import read_bounded
from evergrove.core.errors import InvalidInput
from evergrove.core.release import sha256_hex

HEAD_BYTES_MAX = 1 << 20
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}(?:/[A-Za-z0-9_][A-Za-z0-9._-]{0,199}){0,7}")
"""A file's path in the folder: plain names, none of them hidden."""
log = logging.getLogger("evergrove.fog")


class News:
    """Of one folder; ``look`` is called now and then, from the event loop that the waiting happens in."""

    def __init__(self, folder: Path | None, head: str) -> None:
        """``head``: the file in the folder whose change is news. ``folder`` None: there never is any."""
        self._folder, self._head = folder, head
        self._stamp: tuple[int, int, int] | None = None
        self._changed = asyncio.Event()
        self.tag = ""
        """The SHA-256 of the head file; "" while there is none."""
        self.n_waiting = 0

    def look(self) -> None:
        """Wakes whoever waits if the head file has changed."""
        if self._folder is None:
            return
        path = self._folder / self._head
        try:
            facts = path.stat()
            stamp = (facts.st_mtime_ns, facts.st_ino, facts.st_size)
            if stamp == self._stamp:
                return
            tag = sha256_hex(read_bounded(path, HEAD_BYTES_MAX))
        except FileNotFoundError:
            return
        except (OSError, InvalidInput) as fault:
            log.warning("releases: %s", fault)
            return
        self._stamp = stamp
        if tag != self.tag:
            self.tag = tag
            self.wake()

    def wake(self) -> None:
        """Ends all waiting."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait(self, seen: str, wait_s: float, gone: "asyncio.Task[None]") -> str:
        """The tag, as soon as it is another than ``seen``, ``wait_s`` are over, or ``gone`` is done."""
        if seen != self.tag:
            return self.tag
        self.n_waiting += 1
        changed = asyncio.create_task(_over(self._changed))
        try:
            await asyncio.wait({changed, gone}, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
            self.n_waiting -= 1
        return self.tag

    def file(self, name: str) -> Path | None:
        """Where a file lies; None for a name that is none of the folder's."""
        if self._folder is None or not NAME.fullmatch(name):
            return None
        path = self._folder / name
        inside = path.resolve().is_relative_to(self._folder.resolve())
        return path if inside and path.is_file() else None


async def _over(event: asyncio.Event) -> None:
    await event.wait()
