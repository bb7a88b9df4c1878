"""A device joins a fleet, and a real one sends what it learnt over TLS: its agent, its log, its memory."""

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from lines import Line
from members import LAYOUT, tiny_plan

from evergrove.adapters.files import Files
from evergrove.adapters.fog_client import CA, IDENTITY, member
from evergrove.adapters.ownership import Ownership
from evergrove.adapters.tuf_keys import new_signers
from evergrove.adapters.tuf_repository import Repository
from evergrove.bench.kills_life import _pictures
from evergrove.bench.measure import rss_mb
from evergrove.bootstrap import CONFIG, Device, enrol, make_device, read_config, read_log
from evergrove.cli.main import run
from evergrove.core import events as ev
from evergrove.core.config import load, with_key
from evergrove.core.errors import AgentBusy, ConfigError, InvalidArtefact, InvalidInput, Unreachable, UsageError

LEARNS = """# written by hand
[learn]
auto = false
steps = 60
batch = 8
[novelty]
golden_every = 3
[gate]
items_min = 2
[placement]
enabled = false
[agent]
linger_s = 5.0
[fleet]
retry_s = 0.2
"""


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    """A fog that gathers for the tiny release."""
    made = Line(tmp_path / "north")
    made.service.open(tiny_plan(), LAYOUT)
    yield made
    if made._thread.is_alive():
        made.close()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A device that nobody uses now."""
    make_device(tmp_path / "kitchen", "tiny", LEARNS)
    return tmp_path / "kitchen"


def invited(line: Line, device: str = "kitchen") -> str:
    """A token."""
    return line.authority.issue_token(time.time(), device)


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a device but its log and its locks."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(("log.", "agent."))
    }


def signed_root() -> bytes:
    """The root of a repository of releases."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        counts = {"root": 3, "targets": 2, "snapshot": 1, "timestamp": 1, "rollout": 1}
        repository = Repository(Path(folder))
        repository.create(new_signers(counts), time.time())
        return repository.root()


# ---- joining ---------------------------------------------------------------------------------------------------------


def test_enrolling_makes_a_member_and_leaves_the_rest_as_it_was(line: Line, home: Path) -> None:
    """Certificate, root, address; the configuration's comments stay, the bytes are in the ledger, again is fine."""
    root = signed_root()
    assert enrol(home, line.url, line.authority.ca_pem, invited(line), root) == "kitchen"
    assert read_config(home).fleet.fog == line.url
    assert (home / CONFIG).read_text().startswith("# written by hand\n[learn]\n")
    assert read_config(home).learn.steps == 60
    assert (home / "fleet" / "root.json").read_bytes() == root
    assert sorted(path.name for path in (home / "fleet").iterdir()) == [CA, IDENTITY, "root.json"]
    sent = [line.event for line in read_log(home) if isinstance(line.event, ev.BytesSent)]
    assert [(fact.category, fact.peer) for fact in sent] == [("enrolment", line.url)]
    assert enrol(home, f"{line.url}/", line.authority.ca_pem, invited(line), None) == "kitchen"
    with pytest.raises(UsageError, match="is a member at https://127"):
        enrol(home, "https://elsewhere:1", line.authority.ca_pem, "t", None)


def test_what_is_refused_leaves_nothing(line: Line, home: Path) -> None:
    """A token that is none, a root that is none, an address that is none, no device."""
    before = content(home)
    with pytest.raises(InvalidInput, match="token"):
        enrol(home, line.url, line.authority.ca_pem, "nonsense", None)
    with pytest.raises(InvalidArtefact, match=r"no signed root"):
        enrol(home, line.url, line.authority.ca_pem, invited(line), b'{"signed": {}}')
    with pytest.raises(ConfigError, match="https://"):
        enrol(home, line.url.replace("https", "http"), line.authority.ca_pem, invited(line), None)
    with pytest.raises(UsageError, match="no device"):
        enrol(home.parent, line.url, line.authority.ca_pem, invited(line), None)
    assert content(home) == before
    with Ownership.acquire(home), pytest.raises(AgentBusy):
        enrol(home, line.url, line.authority.ca_pem, invited(line), None)
    assert content(home) == before


def test_a_fog_that_does_not_answer_can_be_asked_again_with_the_same_token(line: Line, home: Path) -> None:
    """The key waits; the configuration says nothing of a fog meanwhile."""
    token = invited(line)
    with pytest.raises(Unreachable):
        enrol(home, "https://127.0.0.1:9", line.authority.ca_pem, token, None)
    assert read_config(home).fleet.fog == ""
    assert enrol(home, line.url, line.authority.ca_pem, token, None) == "kitchen"


class Killed(BaseException):
    """The power fails."""


def test_killed_at_every_write_the_device_is_as_before_or_a_member_and_again_completes_it(
    line: Line, tmp_path: Path
) -> None:
    """The same call with the same token, however far the first one came."""
    n_writes = 0
    while True:
        home, left = tmp_path / f"d{n_writes}", n_writes
        make_device(home, "tiny", "")
        token = invited(line, f"d{n_writes}")

        def at(step: str, path: Path) -> None:
            nonlocal left
            left -= 1
            if left == -1:
                raise Killed

        try:
            enrol(home, line.url, line.authority.ca_pem, token, None, Files(at))
            killed = False
        except Killed:
            killed = True
        if read_config(home).fleet.fog:
            assert member(home / "fleet") == f"d{n_writes}"
        if not read_config(home).fleet.fog or (home / "fleet" / "enrolling").exists():
            assert enrol(home, line.url, line.authority.ca_pem, token, None) == f"d{n_writes}"
        assert sorted(path.name for path in (home / "fleet").iterdir()) == [CA, IDENTITY]
        if not killed:
            break
        n_writes += 1
    assert n_writes > 40


def test_a_key_is_written_into_a_configuration_and_nothing_else_changes() -> None:
    """Replaced, put into its section, or with a section of its own."""
    for text, expected in (
        ("", '\n[fleet]\nfog = "https://a"\n'),
        ("seed = 3\n[fleet] # mine\nfederate = false\n[learn]\nsteps = 5\n",
         'seed = 3\n[fleet] # mine\nfog = "https://a"\nfederate = false\n[learn]\nsteps = 5\n'),
        ('[fleet]\nfog = "https://b"  # old\npoll_s = 5.0\n', '[fleet]\nfog = "https://a"\npoll_s = 5.0\n'),
        ('[learn]\nsteps = 5\n', '[learn]\nsteps = 5\n\n[fleet]\nfog = "https://a"\n'),
    ):  # fmt: skip
        made = with_key(text, "fleet", "fog", "https://a")
        assert made == expected
        assert load(made).fleet.fog == "https://a"
    with pytest.raises(ConfigError, match="by hand"):
        with_key("fleet = {poll_s = 5.0}\n", "fleet", "fog", "https://a")


# ---- a real device ---------------------------------------------------------------------------------------------------


def until(device: Device, kind: type[ev.Event], s: float = 240.0) -> list[ev.Event]:
    """Waits for an event in the device's log; all of its events."""
    deadline_s = time.monotonic() + s
    while True:
        events = [line.event for line in read_log(device.root)]
        if any(isinstance(event, kind) for event in events):
            return events
        assert time.monotonic() < deadline_s, f"no {kind.__name__} within {s} s"
        device.status()
        time.sleep(0.1)


def test_a_real_device_sends_what_it_learnt_and_stays_small(
    line: Line, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """init, enrol, learn, probation, update: counted once; then the fog is away, and nobody waits."""
    (tmp_path / "ca.pem").write_bytes(line.authority.ca_pem)
    with Device.open(home) as device:  # an agent that is idle is in nobody's way
        pid = device.agent_pid
    words = ["--fog", line.url, "--ca", str(tmp_path / "ca.pem"), "--token", invited(line), "--device", str(home)]
    assert run(["device", "enrol", *words, "--json"]) == 0, capsys.readouterr().err
    assert msgspec.json.decode(capsys.readouterr().out)["name"] == "kitchen"
    factor = "emotion"
    with Device.open(home) as device:
        assert device.agent_pid != pid
        factor = device.vocabulary.factors[0].name
        for picture in _pictures()[:24]:
            device.observe(picture, {factor: "auntie"})
        assert device.learn().verdict == "accepted"
        events = until(device, ev.UpdateCounted)
        assert rss_mb(device.agent_pid) < 80.0
        state = device.status().fleet
        assert state is not None
        assert (state.home, state.generation, state.n_counted, state.waits, state.epsilon) == ("north", 1, 1, "", None)
        assert "NO NOISE" in state.protection
    assert line.store.state().n_updates == 1
    sent = [event.category for event in events if isinstance(event, ev.BytesSent)]
    assert sent == ["enrolment", "terms_request", "update"]
    assert run(["status", "--device", str(home)]) == 0
    said = capsys.readouterr().out
    assert "north" in said
    assert "1 counted" in said
    assert "∞: no noise. NO NOISE" in said

    line.close()
    start_s = time.monotonic()
    with Device.open(home) as device:
        assert device.generate({factor: "auntie"}, seed=1).version is not None
        assert device.rollback().note == ""
        device.close(stop_agent=True)
    assert time.monotonic() - start_s < 30.0
