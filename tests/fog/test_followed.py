"""A real device follows its fleet's releases over TLS and TUF: agent, worker and app change together, and back."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lines import Line
from members import LAYOUT, TINY, tiny_plan

from evergrove.adapters.release import Release, open_release
from evergrove.adapters.release_write import grow
from evergrove.adapters.tuf_keys import new_signers
from evergrove.adapters.tuf_repository import Repository
from evergrove.bench.kills_life import _pictures
from evergrove.bench.measure import rss_mb
from evergrove.bootstrap import Device, enrol, make_device, read_log
from evergrove.core import events as ev
from evergrove.core.errors import UnknownCondition
from evergrove.core.rollout import FULL, Directive, place

CONFIG = """
[learn]
auto = false
[placement]
enabled = false
[agent]
linger_s = 5.0
tick_s = 0.1
[fleet]
retry_s = 0.2
poll_s = 2.0
"""
COUNTS = {"root": 3, "targets": 2, "snapshot": 1, "timestamp": 1, "rollout": 1}
LOVE = {"emotion": "love"}


class Cloud:
    """A repository of releases in the fog's folder, and its keys."""

    def __init__(self, line: Line, shelf: Path) -> None:
        self.repository, self.signers, self.shelf = Repository(line.releases), new_signers(COUNTS), shelf
        self.repository.create(self.signers, time.time())

    def publish(self, release: Release, version: int) -> None:
        """Signs a release."""
        self.repository.publish(release.folder, self.signers, time.time(), version=version, epsilon=1.0, delta=1e-6)

    def direct(self, release: Release, version: int, reach: int = FULL, serves: bool = True) -> None:
        """Whose turn it is."""
        told = Directive(f"r{version}", release.manifest_hash, version, reach, serves)
        self.repository.direct(told, self.signers, time.time())


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    """A fog that gathers for the tiny release, and serves releases."""
    made = Line(tmp_path / "north", head="metadata/timestamp.json")
    made.service.open(tiny_plan(), LAYOUT)
    yield made
    if made._thread.is_alive():
        made.close()


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The release after the tiny one: it knows love."""
    return grow(open_release("tiny"), tmp_path_factory.mktemp("shelf") / "grown", [LOVE])


@pytest.fixture
def cloud(line: Line, tmp_path: Path) -> Cloud:
    return Cloud(line, tmp_path / "shelf")


@pytest.fixture
def home(line: Line, cloud: Cloud, tmp_path: Path) -> Path:
    """An enrolled device, called kitchen."""
    make_device(tmp_path / "kitchen", "tiny", CONFIG)
    token = line.authority.issue_token(time.time(), "kitchen")
    enrol(tmp_path / "kitchen", line.url, line.authority.ca_pem, token, cloud.repository.root())
    return tmp_path / "kitchen"


def until(device: Device, found: Callable[[list[ev.Event]], object], s: float = 240.0) -> list[ev.Event]:
    """Waits until the device's log shows it; all of its events."""
    deadline_s = time.monotonic() + s
    while True:
        events = [entry.event for entry in read_log(device.root)]
        if found(events):
            return events
        assert time.monotonic() < deadline_s, [type(event).__name__ for event in events][-20:]
        device.status()
        time.sleep(0.1)


def has(kind: type[ev.Event]) -> Callable[[list[ev.Event]], bool]:
    return lambda events: any(isinstance(event, kind) for event in events)


def said(line: Line) -> list[tuple[str, str, bool]]:
    """What the fog has heard of rollouts."""
    return [(word.rollout, word.mark, word.shadow) for word in line.store.reports.after(0)]


def test_a_device_takes_a_release_while_it_is_in_use_and_goes_back(
    line: Line, cloud: Cloud, home: Path, grown: Release
) -> None:
    """Published while an app draws: fetched, measured, served between two pictures, confirmed, told; and back.

    The fog is gone by then: going back needs nobody.
    """
    version = grown.manifest.version
    with Device.open(home) as device:
        device.generate({"emotion": "happy"}, seed=1)
        with pytest.raises(UnknownCondition):
            device.generate(LOVE)
        cloud.publish(grown, version)
        cloud.direct(grown, version)
        events = until(device, has(ev.ProbationPassed))
        assert rss_mb(device.agent_pid) < 80.0
        deadline_s = time.monotonic() + 20
        while time.monotonic() < deadline_s:
            try:
                assert device.generate(LOVE, seed=1).version is None
                break
            except UnknownCondition:
                time.sleep(0.1)
        assert device.vocabulary == grown.manifest.vocabulary
        until(device, lambda found: sum(isinstance(event, ev.ReportSent) for event in found) == 2)
        assert said(line) == [(f"r{version}", "accepted", False), (f"r{version}", "confirmed", False)]
        kinds = {event.category for event in events if isinstance(event, ev.BytesSent)}
        assert {"enrolment", "release_poll", "release_request", "report"} <= kinds
        state = device.status().fleet
        assert state is not None
        assert state.version == version
        assert "for everybody" in state.rollout

        line.close()
        assert device.rollback().note == ""
        until(device, has(ev.VersionRolledBack))
        deadline_s = time.monotonic() + 20
        while time.monotonic() < deadline_s and device.vocabulary != TINY.manifest.vocabulary:
            time.sleep(0.1)
        device.generate({"emotion": "happy"}, seed=1)
        device.close(stop_agent=True)
    with Device.open(home) as again:  # after a start, with no network
        assert again.generate({"emotion": "happy"}, seed=1).version is None
        again.close(stop_agent=True)


def test_what_a_device_has_learnt_goes_along_to_the_release(
    line: Line, cloud: Cloud, home: Path, grown: Release
) -> None:
    """A word of its own, learnt and sent; then the release that knows love: the device draws both, and counts on."""
    version = grown.manifest.version
    with Device.open(home, flags={"learn.steps": "60", "novelty.golden_every": "3", "gate.items_min": "2"}) as device:
        for picture in _pictures()[:24]:
            device.observe(picture, {"emotion": "auntie"})
        assert device.learn().verdict == "accepted"
        until(device, has(ev.UpdateCounted))
        own = device.status().active
        cloud.publish(grown, version)
        cloud.direct(grown, version)
        events = until(device, lambda found: sum(isinstance(event, ev.ProbationPassed) for event in found) == 2)
        (taken,) = (event for event in events if isinstance(event, ev.ReleaseActivated))
        n = TINY.manifest.vocabulary.sizes[0]
        assert taken.table[0] == (*range(n + 1), n + 2)
        assert taken.adapter not in (None, own)
        deadline_s = time.monotonic() + 20
        while time.monotonic() < deadline_s and device.generate({"emotion": "auntie"}, seed=1).version != taken.adapter:
            time.sleep(0.1)
        for emotion in ("auntie", "love", "happy"):
            assert device.generate({"emotion": emotion}, seed=1).version == taken.adapter
        assert device.vocabulary.factors[0].values[-2:] == ("love", "auntie")
        assert line.store.state().n_updates == 1  # what was sent before is not sent again
        device.rollback()
        until(device, has(ev.VersionRolledBack))
        while time.monotonic() < deadline_s + 20 and device.generate({"emotion": "auntie"}, seed=1).version != own:
            time.sleep(0.1)
        assert device.generate({"emotion": "auntie"}, seed=1).version == own
        device.close(stop_agent=True)


def test_only_the_devices_whose_turn_it_is_take_it_and_in_the_shadow_they_only_measure(
    line: Line, cloud: Cloud, home: Path, grown: Release
) -> None:
    """By the name that the fleet gave: the stage ends just before it, then just behind it."""
    version = grown.manifest.version
    at = place(f"r{version}", "kitchen")
    cloud.publish(grown, version)
    cloud.direct(grown, version, reach=at, serves=False)
    with Device.open(home) as device:
        until(device, has(ev.DirectiveRead))
        time.sleep(1.0)
        assert not has(ev.ReleaseFetched)([entry.event for entry in read_log(home)])
        cloud.direct(grown, version, reach=at + 1, serves=False)
        events = until(device, has(ev.ReportSent))
        assert said(line) == [(f"r{version}", "accepted", True)]
        assert not has(ev.ReleaseActivated)(events)
        cloud.direct(grown, version)
        until(device, has(ev.ReleaseActivated))
        device.close(stop_agent=True)


def test_a_fog_that_serves_what_was_altered_changes_nothing(
    line: Line, cloud: Cloud, home: Path, grown: Release
) -> None:
    """Refused three times by its hash, then it counts as failed; the old release serves on."""
    version = grown.manifest.version
    cloud.publish(grown, version)
    cloud.direct(grown, version)
    for path in (line.releases / "targets" / "files").rglob("*"):
        if path.is_file():
            data = bytearray(path.read_bytes())
            data[-1] ^= 1
            path.write_bytes(bytes(data))
    with Device.open(home) as device:
        events = until(device, has(ev.ReportSent))
        faults = [event for event in events if isinstance(event, ev.FetchFailed)]
        assert [fault.damaged for fault in faults] == [True] * 3
        assert said(line) == [(f"r{version}", "failed", False)]
        assert device.vocabulary == TINY.manifest.vocabulary
        device.generate({"emotion": "happy"}, seed=1)
        device.close(stop_agent=True)
