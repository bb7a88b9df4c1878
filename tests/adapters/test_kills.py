"""kill -9 at random instants of observe, learn and promote: nothing acknowledged is lost, nothing unverified served."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from test_vault import opened, record
from victim import TEXT, adapter

import evergrove
from evergrove.adapters.keys import FileKey
from evergrove.adapters.log import EventLog
from evergrove.adapters.versions import Versions

KILLS = 60
SOURCE = str(Path(str(evergrove.__path__[0])).parent)


class Ledger:
    """What the victims acknowledged, over all kills."""

    def __init__(self) -> None:
        self.kept: set[int] = set()
        self.open: set[int] = set()
        self.events = 0
        self.version = (0, 0)

    def note(self, line: str) -> None:
        """Takes one line of a victim's report in."""
        match line.split():
            case ["+put", n]:
                self.kept.add(int(n))
            case ["?gone", n]:
                self.open.add(int(n))
            case ["+gone", n]:
                self.kept.discard(int(n))
                self.open.discard(int(n))
            case ["+event", n]:
                self.events = int(n)
            case ["+version", seq, n]:
                self.version = (int(seq), int(n))
            case _:
                raise AssertionError(line)

    def check(self, folder: Path) -> None:
        """Opens everything as a restarted agent would, and compares."""
        vault = opened(folder)
        assert vault.quarantined == []
        held = {int(i, 16) for i in vault.ids()}
        assert self.kept - self.open <= held
        assert [vault.get(record(n).id) for n in sorted(held)] == [record(n) for n in sorted(held)]
        assert len(FileKey(folder / "device.key").load()) == 1
        self.kept, self.open = held, set()
        with closing(EventLog(folder / "log", TEXT)) as log:
            assert self.events <= log.last_seq <= self.events + 1
            log.verify()
            snapshot = log.latest_snapshot()
            folded = 0 if snapshot is None else int(snapshot[1].split()[1])
            for row in log.replay(folded):
                assert row.event == f"event {row.seq}"
                folded = row.seq
            assert folded == log.last_seq
            self.events = log.last_seq
        versions = Versions(folder / "versions")
        served = versions.active()
        assert all("left by an interrupted write" in line for line in versions.recover())
        pointer = versions.read_pointer()
        assert versions.active() == served
        assert served.problem is None
        assert pointer.seq in (self.version[0], self.version[0] + 1)
        made = [n for n in range(5, self.events + 1, 5) if adapter(n) == served.data]
        assert made == ([] if pointer.seq == 0 else made[:1])
        assert pointer.seq != self.version[0] or made in ([], [self.version[1]])
        self.version = (pointer.seq, made[0] if made else 0)
        leftovers = [p for p in folder.rglob(".*") if p.name.endswith(".tmp")]
        assert leftovers == []


def test_kill_9_at_random_instants(tmp_path: Path) -> None:
    """One device, 60 lives, each ended up to 20 ms after a random one of its first acknowledgements."""
    chance, ledger = random.Random(1), Ledger()
    path = os.pathsep.join([SOURCE, str(Path(__file__).parent)])
    victims = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("victim.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    with victims:
        assert victims.stdin is not None
        assert victims.stdout is not None
        for _ in range(KILLS):
            victims.stdin.write(f"{tmp_path}\n")
            victims.stdin.flush()
            pid = int(victims.stdout.readline().split()[1])
            for _ in range(chance.randrange(12)):
                ledger.note(victims.stdout.readline())
            time.sleep(chance.uniform(0.0, 0.02))
            os.kill(pid, signal.SIGKILL)
            while (line := victims.stdout.readline()) != "dead\n":
                ledger.note(line)
            ledger.check(tmp_path)
        victims.stdin.close()
    assert ledger.events >= KILLS // 2, "the victims lived long enough to do something"
    assert ledger.version[0] >= 5
