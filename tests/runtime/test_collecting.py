"""Fogs' keys and a run, told to Flower's command line; here a program that answers as `flwr` does.

With Flower itself: ``tests/grove/test_flower_link.py``.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from evergrove.adapters.flower import checkpoint
from evergrove.core.release import sha256_hex
from evergrove.runtime import collecting
from evergrove.runtime.collecting import RETRY_S, KeepCollecting
from evergrove.runtime.flower import Cloud

FLWR = """
import sys
from pathlib import Path

books = Path(sys.argv[0]).parent
said = " ".join(sys.argv[1:4])
with (books / "calls").open("a") as calls:
    calls.write(said + "\\n")
if "register" in said.split():
    key = Path(sys.argv[3]).read_text()
    if key == "broken":
        sys.exit("not a key")
    nodes = books / "nodes"
    known = nodes.read_text().split() if nodes.exists() else []
    if key in known:
        sys.exit("Error: Public key already in use.")
    nodes.write_text(" ".join([*known, key]))
    print(f"SuperNode {len(known) + 40} registered successfully.")
"""


class Place:
    """A cloud's folder, its keeper, and a clock that is moved by hand."""

    def __init__(self, folder: Path) -> None:
        self.cloud = Cloud(folder / "flower", 1, superlink_port=2)
        for made in (self.cloud.fogs, self.cloud.state, self.cloud.logs):
            made.mkdir(parents=True)
        self.keeper = KeepCollecting(self.cloud)
        self.now_s = 100.0

    def key(self, name: str, text: str) -> Path:
        path = self.cloud.fogs / f"{name}.pub"
        path.write_text(text)
        return path

    def calls(self) -> list[str]:
        path = self.cloud.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def until(self, done: Callable[[], object]) -> None:
        """Ticks while the clock stands still."""
        end_s = time.monotonic() + 30.0
        while not done():
            assert time.monotonic() < end_s, self.calls()
            self.keeper.tick(self.now_s)
            time.sleep(0.005)

    def quiet(self) -> None:
        """Ticks until nothing is due."""
        self.until(lambda: self.keeper._running is None)
        while True:
            self.keeper.tick(self.now_s)
            if self.keeper._running is None:
                return
            self.until(lambda: self.keeper._running is None)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """With a run alive, so that keys are all that there is to do."""
    one = Place(tmp_path)
    (one.cloud.folder / "flwr.py").write_text(FLWR)
    monkeypatch.setattr(collecting, "program", lambda name: (sys.executable, str(one.cloud.folder / "flwr.py")))
    monkeypatch.setattr(checkpoint, "lock", lambda folder: None)
    yield one
    one.keeper.end()


def test_a_key_is_registered_once_and_another_one_under_its_name_too(place: Place) -> None:
    """Its mark holds its hash; a key that is gone is no call."""
    key = place.key("north", "old")
    place.quiet()
    assert key.with_suffix(".registered").read_text() == sha256_hex(b"old")
    key.with_suffix(".registered").write_bytes(b"\xff of no use")
    place.key("north", "new")
    place.quiet()
    assert key.with_suffix(".registered").read_text() == sha256_hex(b"new")
    key.unlink()
    place.quiet()
    assert [call.split()[1] for call in place.calls()] == ["register", "register"]


def test_a_key_that_was_registered_before_a_crash_is_marked(place: Place) -> None:
    """Flower has it already: that is what was wanted."""
    (place.cloud.folder / "nodes").write_text("north's")
    key = place.key("north", "north's")
    place.quiet()
    assert key.with_suffix(".registered").read_text() == sha256_hex(key.read_bytes())


def test_keys_that_are_none_hold_up_no_other_and_no_run(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are tried again, later each time, and after what has waited longer."""
    for name in "abcdef":
        place.key(name, "broken")
    good = place.key("g", "good")
    place.quiet()
    assert good.with_suffix(".registered").exists()
    handle = (place.cloud.folder / "lock").open("wb")
    monkeypatch.setattr(checkpoint, "lock", lambda folder: os.dup(handle.fileno()))
    place.now_s += RETRY_S
    place.until(lambda: place.keeper.n_runs)
    handle.close()
    assert place.calls()[7].startswith("run ")
