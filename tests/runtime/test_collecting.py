"""Who may connect to a cloud, told to Flower's command line; here a program that answers as `flwr` does.

With Flower itself: ``tests/grove/test_flower_link.py``.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from evergrove.adapters.flower import checkpoint
from evergrove.core.release import sha256_hex
from evergrove.runtime import collecting
from evergrove.runtime.collecting import GONE_S, RETRY_S, KeepCollecting
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
elif "unregister" in said.split() and sys.argv[3] == "99":
    sys.exit("Error: Node ID not found for account.")
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


def test_a_fog_is_let_in_while_its_key_is_there(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """Its mark holds hash and node; gone for a while, the node is unregistered, and the same key does not come back."""
    key = place.key("north", "north's")
    place.quiet()
    mark = key.with_suffix(".registered")
    assert mark.read_text() == sha256_hex(key.read_bytes()) + " 40"
    key.unlink()
    place.quiet()
    place.now_s += GONE_S / 2
    place.quiet()
    assert len(place.calls()) == 1
    place.now_s += GONE_S
    place.quiet()
    assert place.calls()[1:] == ["supernode unregister 40"]
    assert not mark.exists()
    with caplog.at_level(logging.ERROR):
        place.key("north", "north's")
        place.quiet()
        place.quiet()
    assert len(place.calls()) == 2
    assert caplog.text.count("taken away once") == 1


def test_another_key_under_the_same_name_is_another_fog(place: Place) -> None:
    """The node of the old key goes, then the new one is let in."""
    place.key("north", "old")
    place.quiet()
    key = place.key("north", "new")
    place.quiet()
    place.now_s += GONE_S
    place.quiet()
    assert [call.split()[1] for call in place.calls()] == ["register", "unregister", "register"]
    assert key.with_suffix(".registered").read_text().endswith(" 41")


def test_a_key_that_is_being_copied_is_given_time(place: Place) -> None:
    """Half a file for a moment is no farewell."""
    key = place.key("north", "whole")
    place.quiet()
    key.write_text("wh")
    place.quiet()
    key.write_text("whole")
    place.now_s += GONE_S
    place.quiet()
    assert len(place.calls()) == 1


def test_a_call_that_was_done_before_a_crash_is_found_done(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """Registered without a mark: marked, its node unknown; unregistered with a mark: the mark goes."""
    (place.cloud.folder / "nodes").write_text("north's")
    key = place.key("north", "north's")
    place.quiet()
    mark = key.with_suffix(".registered")
    assert mark.read_text() == sha256_hex(key.read_bytes()) + " "
    key.unlink()
    (place.cloud.fogs / "south.registered").write_text(f"{'0' * 64} 99")
    with caplog.at_level(logging.WARNING):
        place.quiet()
        place.now_s += GONE_S
        place.quiet()
    assert not list(place.cloud.fogs.iterdir())
    assert "'north' became is not known" in caplog.text
    assert "'south' is let in no more" in caplog.text


def test_a_key_that_is_none_holds_up_no_other_and_no_run(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again, later each time; the run is started all the same."""
    place.key("a", "broken")
    good = place.key("b", "good")
    place.quiet()
    assert good.with_suffix(".registered").exists()
    place.now_s += RETRY_S
    place.quiet()
    place.quiet()
    assert [call.split()[2].rpartition("/")[2] for call in place.calls()] == ["a.pub", "b.pub", "a.pub"]
    handle = (place.cloud.folder / "lock").open("wb")
    monkeypatch.setattr(checkpoint, "lock", lambda folder: os.dup(handle.fileno()))
    place.quiet()
    handle.close()
    assert place.calls()[-1].startswith("run ")
    assert place.keeper.n_runs == 1
