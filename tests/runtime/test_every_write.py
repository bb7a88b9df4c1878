"""A kill at every write: of a short life here; of a whole one, with power cuts, in ``evergrove bench kills``."""

import asyncio
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from evergrove import bootstrap
from evergrove.adapters.files import DiskFull, Files
from evergrove.adapters.versions import Versions
from evergrove.bench import kills
from evergrove.bench.kills_acts import confirm, join, learn, make, meet_new, roll_back, take_release
from evergrove.bench.kills_check import agreed, come_back
from evergrove.bench.kills_life import CONFIG, RELEASE, Life, Setting, Told


async def meet_some(life: Life) -> None:
    """A new condition, past its capacity."""
    for picture in range(2, 14):
        life.observe(picture, "strange")


def test_every_write_of_a_life_is_recovered_from() -> None:
    """Init, observe, learn, gate, promote, probation, rollback: killed before each write, nothing is lost or wrong."""
    found = kills.run(acts=(make, meet_some, learn, confirm, roll_back), kinds=("writes",))
    assert found.faults == ()
    assert found.kills == found.recovered > 200
    steps = {step.name for step in found.steps}
    for written in ("record", "log", "checkpoint", "candidate", "version", "pointer", "outcome", "key", "identity"):
        assert any(name.startswith(f"{written}: ") for name in steps), f"no write of the {written} came up"


async def meet_few(life: Life) -> None:
    """A new condition, so that there is something of the device's own to take along."""
    for picture in range(2, 10):
        life.observe(picture, "strange")


def test_every_write_of_a_change_of_release_is_recovered_from() -> None:
    """Learnt, a member, a release taken, confirmed, and gone back from: numbers and names stay together."""
    found = kills.run(acts=(make, meet_few, learn, confirm, join, take_release, confirm, roll_back), kinds=("writes",))
    assert found.faults == ()
    assert found.kills == found.recovered > 400
    assert any("names" in step.name for step in found.steps)


def test_a_process_killed_by_the_kernel_at_every_write_comes_back() -> None:
    """The same by SIGKILL in a process of its own, while the device is made."""
    found = kills.run(acts=(make,), kinds=("processes",))
    assert found.faults == ()
    assert found.kills == found.recovered > 50


def test_a_worker_killed_at_every_write_is_started_again() -> None:
    """The worker alone dies; what it left half-written is gone when its job has ended, without a start of the agent."""
    found = kills.run(acts=(make, meet_some, learn), kinds=("workers",))
    assert found.faults == ()
    assert found.kills == found.recovered > 50


def test_every_change_of_the_disk_is_announced(tmp_path: Path) -> None:
    """Python's own audit events name no change of the folder that was not a place to be killed at."""
    script = Path(__file__).with_name("unannounced.py")
    said = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, check=True)
    *unannounced, heard = said.stdout.splitlines()
    assert unannounced == []
    assert int(heard.removeprefix("heard ")) > 100


def test_pictures_that_a_full_disk_turns_away_are_let_go_of(tmp_path: Path) -> None:
    """An app shows more and more while the log has no room: none is kept in the agent's memory for it."""
    room = [True]

    def at(step: str, path: Path) -> None:
        if not room[0] and (step, path.name) == ("append", "log.sqlite"):
            raise DiskFull("no room left on the disk")

    async def show() -> None:
        life = Life(tmp_path / "device", Setting(), Files(at), Told())
        life.make()
        life.boot()
        keeper = life.agent._keeper
        room[0] = False
        for picture in range(5):
            with pytest.raises(DiskFull):
                life.observe(picture, "strange")
        assert keeper.n_arriving == 0
        room[0] = True
        life.observe(0, "strange")
        assert life.driver.state.n_observed == 1
        await life.stop()

    asyncio.run(show())


def lived(home: Path) -> Told:
    """A device that has learnt and confirmed, and what apps know of it."""

    async def live() -> Told:
        life = Life(home / "device", Setting(), Files(), Told())
        for act in (make, meet_new, learn, confirm):
            await act(life)
        life.end()
        return life.told

    return asyncio.run(live())


def back(home: Path, told: Told) -> str:
    """What is wrong when it starts again, as after a kill in ``roll_back``."""
    return asyncio.run(come_back(home, roll_back, False, Setting(now_s=1_700_001_000.0), told, told))


def test_damage_is_noticed(tmp_path: Path) -> None:
    """A record that is gone, a version that was altered, half a write: each is reported, so that a kill could fail."""
    told = lived(tmp_path / "whole")
    assert told.accepted
    assert told.held

    def damaged(name: str, pattern: str) -> Path:
        copy = tmp_path / name
        subprocess.run(["cp", "-a", str(tmp_path / "whole"), str(copy)], check=True)
        return next((copy / "device").glob(pattern)) if pattern else copy / "device"

    assert back(damaged("sound", "").parent, told) == ""
    damaged("record", "vault/*.rec").unlink()
    assert "lost 1 observations" in back(tmp_path / "record", told)
    pointer = Versions(tmp_path / "whole" / "device" / "versions").read_pointer()
    damaged("version", f"versions/{pointer.current}*").write_bytes(b"altered")
    assert "served beside the pointer" in back(tmp_path / "version", told)
    (damaged("half", "") / ".half.0011aabb.tmp").write_bytes(b"half")
    assert "leftovers of writes" in back(tmp_path / "half", told)
    assert "gone" in back(tmp_path / "nothing", told)


def test_a_kill_between_the_decision_and_the_pointer_is_made_good(tmp_path: Path) -> None:
    """The log counts a version as good, its pointer still says probation: the next start brings them together."""
    told = lived(tmp_path)
    versions = Versions(tmp_path / "device" / "versions")
    pointer = versions.read_pointer()
    versions._write(type(pointer)(pointer.seq, pointer.current, pointer.previous, probation=True))

    async def start() -> str:
        life = Life(tmp_path / "device", Setting(now_s=1_700_001_000.0), Files(), told)
        life.boot()
        found = agreed(life)
        life.end()
        return found

    assert asyncio.run(start()) == ""
    assert not Versions(tmp_path / "device" / "versions").read_pointer().probation


def test_a_killed_init_leaves_nothing_beside_the_device(tmp_path: Path) -> None:
    """What a killed making left goes when the device is made; what another one is making at this moment stays."""
    old, busy = tmp_path / ".device.00112233.new", tmp_path / ".device.44556677.new"
    for folder in (old, busy):
        folder.mkdir()
        (folder / "device.key").write_text("half a key")
    lock = os.open(busy, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        bootstrap.make_device(tmp_path / "device", RELEASE, CONFIG)
    finally:
        os.close(lock)
    assert sorted(path.name for path in tmp_path.iterdir()) == [busy.name, "device"]


def test_the_first_act_makes_the_device(tmp_path: Path) -> None:
    """Before it there is none, and a kill there may leave none; after it there must be one."""
    tmp_path.joinpath("a").mkdir()
    tmp_path.joinpath("b").mkdir()
    setting = Setting()
    assert asyncio.run(come_back(tmp_path / "a", make, True, setting, Told(), Told(made=True))) == ""
    assert asyncio.run(come_back(tmp_path / "b", make, True, setting, Told(made=True), Told(made=True)))
