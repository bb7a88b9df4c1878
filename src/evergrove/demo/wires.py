"""Looks whether any of some processes holds a network socket: how the demo checks that nothing could leave a device.

Reads /proc, so it knows on Linux only; elsewhere it says so by None.
"""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

TABLES = ("tcp", "tcp6", "udp", "udp6")


def network_sockets(pids: Iterable[int], proc: Path = Path("/proc")) -> int | None:
    """How many TCP and UDP sockets the processes hold now; None where it cannot be known."""
    inodes = set()
    for table in TABLES:
        try:
            lines = (proc / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        inodes |= {line.split()[9] for line in lines if len(line.split()) > 9}
    if not (proc / "net").is_dir():
        return None
    held = 0
    for pid in set(pids):
        with contextlib.suppress(OSError):  # a process that has ended holds nothing
            for entry in (proc / str(pid) / "fd").iterdir():
                with contextlib.suppress(OSError):
                    target = os.readlink(entry)
                    held += target.startswith("socket:[") and target[8:-1] in inodes
    return held
