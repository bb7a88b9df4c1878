"""The machine as the reader sees it: small files under a root, a few commands, two optional libraries.

``Host`` is the port; ``LocalHost`` is this machine, or a recorded tree of files under another root (where no command is
run and no library asked, for they would speak of this machine). Tests give a host whose files fail as sensors do.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

COMMAND_S_MAX = 5.0
"""A command that takes longer is ended. ``termux-battery-status`` hangs for ever where its app is not installed."""
FILES_MAX = 128
"""Files that are held open: an open, a read and a close take three times as long as another read."""
NAMES_MAX = 512
"""Entries of one folder that are looked at."""


class Unusable(Exception):
    """Something was looked for and gave nothing that can be used; the text is the reason, in a few words."""


class Host(Protocol):
    """What the reader needs of a machine. Paths are absolute, as on a Linux system: ``/sys/class/thermal``.

    Everything may raise ``OSError``, and what it gives may be garbage.
    """

    def read(self, path: str, n_bytes: int, *, keep: bool = False) -> bytes:
        """The first ``n_bytes`` of a file, or all of it. ``keep`` says that it will be read again, by this thread."""
        ...

    def close(self) -> None:
        """Lets go of what is held open."""
        ...

    def names(self, path: str) -> list[str]:
        """The entries of a folder."""
        ...

    def disk_free_bytes(self) -> int:
        """Free bytes on the disk where the device lives."""
        ...

    def has(self, command: str) -> bool:
        """Whether a command can be run."""
        ...

    def run(self, *words: str) -> bytes:
        """What a command printed; ``Unusable`` where it failed or took too long. May take ``COMMAND_S_MAX``."""
        ...

    def nvml(self) -> Callable[[], Any] | None:
        """What imports ``pynvml`` of nvidia-ml-py (tens of milliseconds), or None where it is not installed."""
        ...

    def psutil(self) -> Any:
        """The module ``psutil``, or None where it is not installed or not needed, as on Linux."""
        ...


class LocalHost:
    """This machine (``root`` is ``/``), or a recorded tree."""

    def __init__(self, root: str | Path = "/", folder: str | Path = ".") -> None:
        """``folder`` is where the device lives: on its disk space must be free."""
        self._root = str(root).rstrip("/")
        self._folder = str(folder)
        self._files: dict[str, int] = {}

    def read(self, path: str, n_bytes: int, *, keep: bool = False) -> bytes:
        """One read: sysfs and procfs hand out what fits in one buffer. Never waits, not even on a pipe.

        A kept file is read anew from its beginning each time. One that was deleted or replaced is opened again.
        """
        if keep:
            file = self._files.get(path)
            if file is not None:
                with contextlib.suppress(OSError):
                    if os.fstat(file).st_nlink:
                        return os.pread(file, n_bytes, 0)
                os.close(self._files.pop(path))
        file = os.open(self._root + path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            data = os.read(file, n_bytes)
        except OSError:
            os.close(file)
            raise
        if keep and len(self._files) < FILES_MAX:
            self._files[path] = file
        else:
            os.close(file)
        return data

    def close(self) -> None:
        """Lets go of the files that are held open; the next read opens them again."""
        while self._files:
            os.close(self._files.popitem()[1])

    def names(self, path: str) -> list[str]:
        """In the order of the system, at most ``NAMES_MAX``."""
        found = []
        with os.scandir((self._root + path) or "/") as entries:
            for entry in entries:
                found.append(entry.name)
                if len(found) == NAMES_MAX:
                    break
        return found

    def disk_free_bytes(self) -> int:
        """What a process without privileges may still write."""
        return shutil.disk_usage(self._folder).free

    def has(self, command: str) -> bool:
        """On the path of this machine; never for a recorded tree."""
        return not self._root and shutil.which(command) is not None

    def run(self, *words: str) -> bytes:
        """Its stdout. It gets no input, and its words go nowhere else."""
        try:
            done = subprocess.run(
                words, stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_S_MAX, check=False
            )
        except subprocess.TimeoutExpired as fault:
            raise Unusable(f"{words[0]} took longer than {COMMAND_S_MAX:g} s") from fault
        if done.returncode:
            raise Unusable(f"{words[0]} failed with exit code {done.returncode}")
        return done.stdout

    def nvml(self) -> Callable[[], Any] | None:
        """Imports nothing yet."""
        return partial(import_module, "pynvml") if not self._root and find_spec("pynvml") else None

    def psutil(self) -> Any:
        """On Linux sysfs and procfs say more than psutil does."""
        wanted = not self._root and not sys.platform.startswith("linux")
        return import_module("psutil") if wanted and find_spec("psutil") else None
