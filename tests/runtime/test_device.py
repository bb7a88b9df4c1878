"""A device as an app meets it: real processes, a real socket, the tiny base."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evergrove.adapters.ownership import started_at
from evergrove.adapters.versions import Versions
from evergrove.bootstrap import Device, read_log
from evergrove.core import events as ev
from evergrove.core.errors import (
    ConfigError,
    CorruptState,
    EvergroveError,
    InvalidArtefact,
    InvalidInput,
    InvalidMedia,
    UnknownCondition,
    UsageError,
)
from evergrove.media.provenance import read_provenance

from .conftest import CONFIG, Learnt, learn_once, new_condition, strange_pictures

Make = Callable[..., Device]
ANYTHING: dict[str, str] = {}


def test_the_same_seed_gives_the_same_picture_and_says_where_it_came_from(make_device: Make) -> None:
    """Generation is local, deterministic by seed, and carries its provenance."""
    device = make_device()
    one, two, other = (device.generate(ANYTHING, seed=seed) for seed in (1, 1, 2))
    assert (one.array == two.array).all()
    assert (one.array != other.array).any()
    assert one.version is None
    assert one.id != two.id
    facts = read_provenance(one.png())
    assert '"seed": 1' in facts["evergrove"]


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Learnt:
    """A device that has learnt for sixty steps."""
    root = tmp_path_factory.mktemp("learnt") / "device"
    return learn_once(root, CONFIG.replace("steps = 12", "steps = 60"), 24)


def test_it_learns_and_the_next_picture_comes_from_the_new_version(learnt: Learnt, tmp_path: Path) -> None:
    """observe → keep → train → gate; whatever the gate says, the pointer and the log agree with it."""
    assert learnt.said[0].new_values == (f"{next(iter(new_condition()))}=strange",)
    assert sum(o.kept for o in learnt.said) > 8
    assert "train" in learnt.stages
    result = learnt.result
    assert result.verdict in ("accepted", "rejected")
    with Device.open(shutil.copytree(learnt.root, tmp_path / "device")) as device:
        status = device.wait_idle()
        assert (status.active == result.adapter) == (result.verdict == "accepted")
        assert learnt.drawn_by == status.active == device.generate(ANYTHING, seed=1).version
        if result.verdict == "accepted":
            assert not status.on_probation
            device.generate(new_condition(), seed=1)
            device.rollback()
            assert device.status().active is None
            assert device.generate(ANYTHING, seed=1).version is None
        device.close(stop_agent=True)


def test_generation_goes_on_while_a_worker_trains_and_is_killed(make_device: Make) -> None:
    """The trainer is killed in the middle: the job goes on from its checkpoint, pictures are made all the while."""
    device = make_device(CONFIG.replace("steps = 12", "steps = 400"))
    for picture in strange_pictures(12):
        device.observe(picture, new_condition())
    device.warm_up()
    killed: list[int] = []

    def kill_once(progress: object) -> None:
        step, pid = getattr(progress, "step", 0), getattr(progress, "pid", 0)
        device.generate(ANYTHING)
        if step > 8 and not killed:
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)

    result = device.learn(steps=60, progress=kill_once)
    assert killed
    assert result.verdict in ("accepted", "rejected")
    assert result.steps == 60
    events = [line.event for line in read_log(device.root)]
    assert [e.attempt for e in events if isinstance(e, ev.TrainingStarted)] == [1, 2]
    assert sum(isinstance(e, ev.JobInterrupted) for e in events) == 1


def test_a_second_agent_is_refused_and_a_second_app_attaches(make_device: Make) -> None:
    """One agent owns a device: the second exits with 7, a second app talks to the first one's agent."""
    device = make_device()
    second = subprocess.run(
        [sys.executable, "-m", "evergrove.bootstrap", str(device.root)], capture_output=True, text=True, timeout=60
    )
    assert second.returncode == 7
    assert str(device.agent_pid) in second.stderr
    with Device.open(device.root) as app:
        assert app.agent_pid == device.agent_pid
        app.observe(strange_pictures(1)[0], new_condition())
    assert device.status().observed == 1


def test_an_agent_that_was_killed_is_started_again_with_everything_that_it_had_accepted(make_device: Make) -> None:
    """kill -9 of the agent costs the app one reconnection and no accepted observation."""
    device = make_device()
    accepted = [o for p in strange_pictures(6) if (o := device.observe(p, new_condition())).kept]
    before, first = device.status(), device.agent_pid
    os.kill(first, signal.SIGKILL)
    after = device.status()
    assert device.agent_pid != first
    assert (after.kept, after.records, after.golden) == (before.kept, before.records, before.golden)
    assert after.kept == len(accepted)


@pytest.mark.parametrize(
    ("media", "reason"),
    [(b"", "undecodable"), (b"\x89PNG\r\n\x1a\n....", "undecodable"), (b"GIF89a" * 9, "undecodable")],
)
def test_what_cannot_be_used_is_refused_with_a_reason(make_device: Make, media: bytes, reason: str) -> None:
    """A refusal is an event, and changes nothing else."""
    device = make_device()
    with pytest.raises(InvalidMedia) as fault:
        device.observe(media, new_condition())
    assert fault.value.reason == reason
    status = device.status()
    assert (status.observed, status.kept, status.vocabulary) == (1, 0, device.vocabulary)


def test_one_pixel_and_blank_pictures_are_refused(make_device: Make) -> None:
    """Too small and blank, in that order of words."""
    device = make_device()
    for pixels, reason in ((np.zeros((1, 1, 3), np.uint8), "too small"), (np.full((32, 32, 3), 9, np.uint8), "blank")):
        with pytest.raises(InvalidMedia) as fault:
            device.observe(pixels, new_condition())
        assert fault.value.reason == reason


def test_a_device_comes_to_know_only_so_many_new_values(make_device: Make) -> None:
    """Whoever sends a time or a name as an emotion must not grow the network for ever; known values go on."""
    device = make_device(flags={"novelty.new_values_max": "2"})
    factor = device.vocabulary.factors[0]
    pictures = strange_pictures(4)
    for picture, value in zip(pictures, ("a", "b"), strict=False):
        assert device.observe(picture, {factor.name: value}).new_values == (f"{factor.name}={value}",)
    with pytest.raises(InvalidMedia, match="new_values_max") as fault:
        device.observe(pictures[2], {factor.name: "c"})
    assert fault.value.reason == "too many conditions"
    assert device.vocabulary.factors[0].values == (*factor.values, "a", "b")
    assert device.observe(pictures[3], {factor.name: "a"}).kept


def test_unknown_words_are_refused_with_the_nearest_known_one(make_device: Make) -> None:
    """An unknown value for ``generate``, an unknown factor for ``observe``, an empty condition."""
    device = make_device()
    factor = device.vocabulary.factors[0]
    with pytest.raises(UnknownCondition, match="did you mean"):
        device.generate({factor.name: factor.values[0] + "x"})
    with pytest.raises(UnknownCondition, match="unknown factor"):
        device.observe(strange_pictures(1)[0], {"no such factor": "x"})
    with pytest.raises(UsageError, match="needs a condition"):
        device.observe(strange_pictures(1)[0], {})
    with pytest.raises(InvalidInput, match="printable"):
        device.observe(strange_pictures(1)[0], {factor.name: "\x00"})
    with pytest.raises(UsageError, match="1 to 32 steps"):
        device.generate({}, steps=33)
    assert device.status().observed == 0


def test_nothing_to_learn_is_said_and_nothing_to_go_back_to_too(make_device: Make) -> None:
    """A wish that cannot be followed is answered with its reason."""
    device = make_device()
    result = device.learn()
    assert (result.verdict, result.sentence) == (
        "deferred",
        "nothing new has been kept since the last accepted version",
    )
    assert "nothing to go back to" in device.rollback().note


def test_bad_adapters_are_refused_before_they_are_measured(make_device: Make, tmp_path: Path) -> None:
    """Not a safetensors file, a pickle, a file that is not there: refused, and the release goes on serving."""
    device = make_device()
    files = {"text": b"hello", "pickle": b"\x80\x04K\x01.", "zip": b"PK\x03\x04"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    for name, words in (("text", "safetensors"), ("pickle", "pickle"), ("zip", "pickle"), ("missing", "missing")):
        result = device.offer(tmp_path / name)
        assert result.verdict == "refused"
        assert words in result.sentence
    assert device.status().active is None


def test_a_device_is_made_only_in_an_empty_folder_and_from_a_release_that_exists(tmp_path: Path) -> None:
    """Each mistake has its own error, and leaves no folder behind."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    with pytest.raises(UsageError, match="not an empty folder"):
        Device.create(tmp_path / "full", "tiny")
    with pytest.raises(InvalidArtefact, match="packaged: "):
        Device.create(tmp_path / "a", "tinny")
    with pytest.raises(ConfigError, match="did you mean 'steps'"):
        Device.create(tmp_path / "b", "tiny", "[learn]\nstep = 1\n")
    with pytest.raises(UsageError, match="evergrove init"):
        Device.open(tmp_path / "nowhere")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full"]


def test_a_device_is_not_made_where_somebody_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`evergrove init .` made a device, failed on the folder that it had replaced, and left the shell in a dead one."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UsageError, match=r"`cd \.\.`, then `evergrove init here`"):
        Device.create(".", "tiny")
    assert list(Path.cwd().iterdir()) == []


def test_who_stops_an_agent_sees_its_process_out(make_device: Make) -> None:
    """The folder is free a moment before the process is gone; whoever looks for what is left must find nothing."""
    device = make_device()
    pid = device.agent_pid
    assert started_at(pid) is not None
    device.close(stop_agent=True)
    assert started_at(pid) is None


def test_a_damaged_log_is_an_error_that_names_it(make_device: Make) -> None:
    """The agent does not start on a log whose chain is broken; the app is told why."""
    device = make_device()
    device.close(stop_agent=True)
    for path in device.root.glob("log.sqlite*"):
        path.write_bytes(b"not a database at all" * 99)
    with pytest.raises(CorruptState, match=r"log\.sqlite"):
        Device.open(device.root)


def test_apps_share_a_device_from_many_threads(make_device: Make) -> None:
    """generate, observe and status from eight threads at once."""
    device = make_device()
    faults: list[EvergroveError | AssertionError | OSError] = []

    def use(number: int) -> None:
        try:
            for picture in strange_pictures(3, seed=number):
                device.generate(ANYTHING, seed=number)
                device.observe(picture, new_condition())
                device.status()
        except (EvergroveError, AssertionError, OSError) as fault:
            faults.append(fault)

    threads = [threading.Thread(target=use, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert device.status().observed == 24


def test_an_altered_version_on_disk_is_never_served(learnt: Learnt, tmp_path: Path) -> None:
    """A flipped bit in the active adapter: the release serves instead, and the log says so."""
    assert learnt.result.verdict == "accepted", "the tiny base should learn this"
    root = shutil.copytree(learnt.root, tmp_path / "device")
    active = Versions(root / "versions").active().sha256
    assert active is not None
    path = Versions(root / "versions").path_of(active)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with Device.open(root) as again:
        assert again.generate(ANYTHING, seed=1).version is None
        assert again.status().active is None
        assert any("altered" in w for w in again.status().warnings)
        again.close(stop_agent=True)
