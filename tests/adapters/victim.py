"""A process that writes to a device's folder until it is killed, and says on stdout what was acknowledged.

Reads folders from stdin; for each it forks a child that works there: observations into the vault, events into the log,
versions turned, keys rotated. ``+`` acknowledges, ``?`` announces what a kill may leave open.
"""

import hashlib
import os
import random
import sys
from pathlib import Path

from test_vault import opened, record

from evergrove.adapters.log import Codec, EventLog
from evergrove.adapters.vault import Vault
from evergrove.adapters.versions import Versions

TEXT: Codec[str] = Codec(encode=str.encode, decode=bytes.decode)


def adapter(n: int) -> bytes:
    """The bytes of version ``n``."""
    return hashlib.sha256(b"adapter %d" % n).digest() * 500


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def work(folder: Path, chance: random.Random) -> None:
    """Goes on from whatever the last one left."""
    vault: Vault = opened(folder)
    log, versions = EventLog(folder / "log", TEXT), Versions(folder / "versions")
    versions.recover()
    pointer = versions.read_pointer()
    n = log.last_seq
    while True:
        n += 1
        vault.put(record(n))
        say("+put", n)
        log.append([f"event {n}"], at_s=0.0)
        say("+event", n)
        held = vault.ids()
        if len(held) > 12:
            gone = int(chance.choice(held), 16)
            say("?gone", gone)
            vault.evict(record(gone).id)
            say("+gone", gone)
        if n % 5 == 0:
            sha256 = versions.add(adapter(n))
            pointer = versions.activate(sha256, pointer.current, pointer.seq + 1, probation=True)
            say("+version", pointer.seq, n)
            versions.collect()
        if n % 20 == 0:
            log.snapshot(n, b"state %d" % n)
            log.compact(keep_newest=10)
        if n % 15 == 0:
            vault.rotate()


def main() -> None:
    """Forks one worker after the other, so that only the first one pays for the imports."""
    for number, line in enumerate(sys.stdin):
        pid = os.fork()
        if pid == 0:
            say("pid", os.getpid())
            work(Path(line.strip()), random.Random(number))
        os.waitpid(pid, 0)
        say("dead")


if __name__ == "__main__":
    main()
