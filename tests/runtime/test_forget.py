"""Forgetting, by trying to read it: every byte that is left on the disk, with every key that is left."""

import asyncio
import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from evergrove import bootstrap
from evergrove.adapters import receipts
from evergrove.adapters.files import DiskFull, Files
from evergrove.adapters.images import encode_png
from evergrove.adapters.keys import FileKey
from evergrove.adapters.log import EventLog
from evergrove.adapters.outbox import Outbox
from evergrove.adapters.sealed import unseal
from evergrove.adapters.versions import Versions
from evergrove.bench.kills_acts import confirm, forget, forget_all, learn, make, meet_new
from evergrove.bench.kills_check import agreed, come_back
from evergrove.bench.kills_disk import Recorder, digest, read_tree, write_tree
from evergrove.bench.kills_life import Life, Setting, Told
from evergrove.bootstrap import Device
from evergrove.core import events as ev
from evergrove.core import messages as msg
from evergrove.core.errors import CorruptState, UnknownCondition, UsageError
from evergrove.core.release import sha256_hex
from evergrove.rules import features
from evergrove.tiers.device.state import Sharing

from .conftest import CONFIG, Learnt, Picture, learn_once, new_condition, strange_pictures

EASY = CONFIG.replace("items_min = 2", "items_min = 2\ndelta = 9.0\ncumulative = 9.0\ntau = 9.0\nown = 9.0")
"""A gate that asks for a gain and forgives all harm: 12 steps must do."""


def traces(picture: Picture) -> dict[str, bytes]:
    """Everything that could stand on a disk of one observation."""
    png = encode_png(picture)
    print_ = features.perceptual_hash(picture)
    return {
        "its media": png[33:-12],
        "its pixels": picture.tobytes(),
        "its feature": features.describe(picture).tobytes(),
        "its hash": sha256_hex(png).encode(),
        "its perceptual hash": print_.to_bytes(8, "big"),
        "its perceptual hash in digits": str(print_).encode(),
    }


def opened(folder: Path) -> dict[str, bytes]:
    """Every file as it is, and what every key that is left makes of each sealed box, old names tried too."""
    identity = bootstrap.read_identity(folder)
    keys = FileKey(folder / "device.key").load()
    files = {name: data for name, data in read_tree(folder).items() if data is not None}
    for name, data in list(files.items()):
        for box in (Path(name).stem, Path(name).name):
            with contextlib.suppress(CorruptState):
                files[f"{name} opened"] = unseal(keys, identity.device, box, data)
    return files


def found(folder: Path, wanted: dict[str, bytes]) -> list[str]:
    """Which of them stands where."""
    everything = opened(folder)
    return [f"{what} in {name}" for what, text in wanted.items() for name, data in everything.items() if text in data]


async def lived(folder: Path, files: Files | None = None) -> Life:
    """A device that has learnt a condition of its own, confirmed it, and goes on."""
    life = Life(folder / "device", Setting(), files or Files(), Told())
    for act in (make, meet_new, learn, confirm):
        await act(life)
    return life


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Learnt:
    """Learnt with torch, by a gate that lets it."""
    learnt = learn_once(tmp_path_factory.mktemp("learnt") / "device", EASY, 9)
    assert learnt.result.verdict == "accepted", learnt.result.sentence
    return learnt


@pytest.fixture
def device(learnt: Learnt, tmp_path: Path) -> Iterator[Device]:
    """The same device, once more."""
    with Device.open(shutil.copytree(learnt.root, tmp_path / "device")) as device:
        yield device
        device.close(stop_agent=True)


def test_a_real_device_forgets_a_condition(learnt: Learnt, device: Device) -> None:
    """Forgotten through the agent's socket: nothing can be read or opened any more."""
    assert sum(one.kept for one in learnt.said) >= 6
    name, active = new_condition(), device.status().active
    assert active is not None
    held = [picture for picture, one in zip(learnt.shown, learnt.said, strict=True) if one.kept]
    wanted = {f"{what} of picture {i}": text for i, p in enumerate(held) for what, text in traces(p).items()}
    wanted |= {"the name": b"strange"}
    assert {where.rpartition(" in ")[0] for where in found(device.root, wanted)} >= {
        "the name", "its media of picture 0", "its feature of picture 0",
    }  # fmt: skip  # the search would see it
    stolen = {name: data for name, data in read_tree(device.root / "vault").items() if data}

    receipt = device.forget(condition=name)
    assert (receipt.what, receipt.n_records, receipt.versions, receipt.serves) == (
        "condition", len(held), (active,), None,
    )  # fmt: skip
    assert device.status().active is None
    assert device.status().records == {}
    with pytest.raises(UnknownCondition):
        device.generate(name, seed=1)
    log = bootstrap.read_log(device.root)
    assert [type(row.event).__name__ for row in log] == ["Forgotten"]
    device.close(stop_agent=True)
    assert found(device.root, wanted) == []
    left = found(device.root, {"the version": active.encode()})  # as what was deleted, where it says so
    assert {one.removesuffix("-wal") for one in left} == {
        f"the version in receipts/{receipt.job}.json", "the version in log.sqlite",
    }  # fmt: skip
    assert not list((device.root / "versions").glob("*.safetensors"))
    identity, keys = bootstrap.read_identity(device.root), FileKey(device.root / "device.key").load()
    for name_, box in stolen.items():
        if name_.endswith((".rec", ".enc")):
            with pytest.raises(CorruptState, match="key that is gone"):
                unseal(keys, identity.device, name_.removesuffix(".rec"), box)


def test_one_observation_without_an_agent_running(learnt: Learnt, device: Device) -> None:
    """One agent is started for it. The others stay, are fresh again, and can be learnt."""
    first, name = device.status().active, new_condition()
    device.close(stop_agent=True)
    at = next(i for i, one in enumerate(learnt.said) if one.split == "train")
    with Device.open(device.root) as again:
        before = sum(again.status().records.values())
        receipt = again.forget(observation=learnt.said[at].observation)
        assert (receipt.what, receipt.n_records, receipt.versions) == ("observation", 1, (first,))
        after = again.status()
        assert (sum(after.records.values()), after.waiting) == (before - 1, before - 1)
        with pytest.raises(UsageError, match="no observation"):
            again.forget(observation="0" * 32)
        with pytest.raises(UnknownCondition, match="did you mean 'strange'"):
            again.forget(condition={next(iter(name)): "strangee"})
        with pytest.raises(UsageError, match="what is to be forgotten"):
            again.forget()
        again.close(stop_agent=True)
    assert found(device.root, traces(learnt.shown[at])) == []


def test_an_observation_that_left_the_buffer_is_known_by_the_log(tmp_path: Path) -> None:
    """The reservoir gave it up; a version had learnt from its condition. One that was dropped is not to forget."""

    async def live() -> None:
        life = await lived(tmp_path)
        facts = list(life.driver.past())
        kept = [fact.observation for fact in facts if isinstance(fact, ev.ObservationKept)]
        # The log of this life is short: what the reservoir gave up and the log still tells of is met anew.
        for picture in range(20, 34):
            life.observe(picture, "strange")
        facts = list(life.driver.past())
        kept = [fact.observation for fact in facts if isinstance(fact, ev.ObservationKept)]
        dropped = [fact.observation for fact in facts if isinstance(fact, ev.ObservationDropped)]
        evicted = [one for one in kept if one not in life.vault.ids()]
        assert dropped
        with pytest.raises(UsageError, match="was not kept"):
            await life.ask(msg.Forget(observation=dropped[-1]))
        if evicted:
            active = life.driver.state.active
            await life.ask(msg.Forget(observation=evicted[-1]))
            assert life.driver.state.active != active
        await life.stop()

    asyncio.run(live())


@pytest.mark.parametrize("act", [forget, forget_all], ids=["observation and condition", "all"])
def test_killed_at_every_write_it_finishes_by_itself(tmp_path: Path, act: Callable[[Life], object]) -> None:
    """At the next start, without being asked again: nothing is left of it, and the receipt is whole."""

    async def live() -> Recorder:
        home = tmp_path / "life"
        home.mkdir()
        recorder = Recorder(home)
        life = await lived(home, Files(recorder.at))
        recorder.tellings.append(life.told)
        recorder.life = life
        await act(life)  # type: ignore[misc]
        recorder.life = None
        recorder.tellings.append(life.told)
        life.end()
        return recorder

    recorder = asyncio.run(live())
    assert len(recorder.instants) > 40
    wanted = {"media": b"PNG"}
    seen: set[bytes] = set()
    for i, instant in enumerate(recorder.instants):
        key = digest(instant.tree)
        if key in seen:
            continue
        seen.add(key)
        home = tmp_path / f"home-{i}"
        write_tree(instant.tree, home)
        asked = _asked(home / "device")
        told, later = recorder.told(instant)
        wrong = asyncio.run(come_back(home, act, False, instant.setting, told, later, again=False, more=False))
        assert wrong == "", f"{instant.kind}: {wrong}"
        if asked is not None:
            left = _left(home / "device", asked, wanted)
            assert left == [], f"{instant.kind}: {left}"
    assert len(seen) > 40


def _asked(folder: Path) -> ev.ForgettingAsked | None:
    """What the device was asked to forget and has not yet, by its log before the start."""
    log = EventLog(folder / "log.sqlite", bootstrap.CODEC)
    try:
        events = [row.event for row in log.replay(log.first_seq - 1)]
    finally:
        log.close()
    asked = [event for event in events if isinstance(event, ev.ForgettingAsked | ev.Forgotten)]
    return asked[-1] if asked and isinstance(asked[-1], ev.ForgettingAsked) else None


def _left(folder: Path, asked: ev.ForgettingAsked, wanted: dict[str, bytes]) -> list[str]:
    """What is still there after the next start of a device that was killed while it forgot."""
    rows = bootstrap.read_log(folder)
    done = [row.event for row in rows if isinstance(row.event, ev.Forgotten)]
    if not done:
        return ["it was not finished"]
    receipt = receipts.read(folder, done[-1].job)
    files = opened(folder)
    wrong = [f"record {one[:8]}" for one in asked.records if any(one in name for name in files)]
    wrong += [f"version {one[:8]}" for one in done[-1].versions if any(one in name for name in files)]
    if asked.what != "observation":
        wrong += [f"the name in {name}" for name, data in files.items() if b"strange" in data]
    if asked.what == "all":
        wrong += [f"media in {name}" for name, data in files.items() if wanted["media"] in data]
    if (receipt.n_records, receipt.versions) != (done[-1].n_records, done[-1].versions):
        wrong.append("the receipt says something else than the log")
    if len(FileKey(folder / "device.key").load()) != 1:
        wrong.append("the old key")
    return wrong


def test_a_full_disk_stops_it_and_it_goes_on_when_there_is_room(tmp_path: Path) -> None:
    """The app hears that it is not done; the device tries again by itself."""
    room = [True]

    def at(step: str, path: Path) -> None:
        if not room[0] and step == "create" and "vault" in path.parts:
            raise DiskFull("no room left on the disk")

    async def live() -> None:
        life = await lived(tmp_path, Files(at))
        room[0] = False
        done = await life.agent.answer(msg.Forget(everything=True))
        assert isinstance(done, msg.Done)
        for _ in range(20):
            await asyncio.sleep(0)
            life.agent.tick()
        assert life.driver.state.work is not None
        assert "no room" in " ".join(life.agent._teller.status(life.driver.state).warnings)
        busy = await life.agent.answer(msg.Forget(everything=True))
        assert isinstance(busy, msg.Done)
        assert "is under way" in busy.note
        assert not (life.root / receipts.FOLDER).exists()
        room[0] = True
        life.setting.now_s += 60.0
        life.agent.tick()
        await life.settle()
        assert life.driver.state.work is None
        assert receipts.read(life.root, done.job).what == "all"
        assert life.vault.ids() == []
        assert agreed(life) == ""
        await life.stop()

    asyncio.run(live())


def test_a_worker_at_work_is_gone_before_anything_is_erased(make_device: Callable[..., Device]) -> None:
    """Training is under way with a checkpoint: after it no folder of a job is left, and none comes back."""
    device, name = make_device(flags={"learn.steps": "4000", "learn.checkpoint_every": "1"}), new_condition()
    shown = strange_pictures(8)
    for picture in shown:
        device.observe(picture, name)
    assert device.learn(wait=False).verdict == "started"
    for _ in range(2400):
        if list(device.root.glob("jobs/*/checkpoint.safetensors")):
            break
        asyncio.run(asyncio.sleep(0.05))
    else:
        pytest.fail("no checkpoint within two minutes")
    device.forget(everything=True)
    assert not list(device.root.glob("jobs/*"))
    status = device.status()
    assert (status.records, status.golden, status.waiting, status.job) == ({}, {}, 0, None)
    asyncio.run(asyncio.sleep(0.3))
    assert not list(device.root.glob("jobs/*"))
    device.close(stop_agent=True)
    assert found(device.root, {"the name": b"strange"} | traces(shown[0])) == []


def test_what_waits_in_the_outbox_never_leaves(tmp_path: Path) -> None:
    """The update is deleted and the device sits out the generation, where a version had learnt from it; only then."""

    async def live() -> None:
        life = await lived(tmp_path)
        folder = life.root / "fleet" / "outbox"
        box = Outbox(folder, "kitchen")
        (folder / "000001-token.update").write_bytes(b"what was learnt")
        (folder / "taking-part.json").write_text('{"generation": 3, "fog": "fog", "last": 5, "n": 1}')
        (folder / "last-fate.json").write_text('{"token": "t", "outcome": "counted"}')
        state = life.driver.state
        shared = Sharing(given=state.active, asked=state.active or "", token="token")
        life.driver.state = msgspec.structs.replace(state, sharing=shared, seen_shared=state.seen)
        golden = life.driver.state.keeping.buffer.records("golden")[0]
        await life.ask(msg.Forget(observation=golden))
        assert box.waiting() == ["token"]
        await life.ask(msg.Forget(observation=next(iter(life.driver.state.codes))))
        assert box.waiting() == []
        taking = box.taking()
        assert (taking.generation, taking.fog, taking.last) == (3, "fog", 5)
        assert taking.n >= 2**31
        assert box.last_fate() is None
        assert life.driver.state.sharing == Sharing()
        await life.stop()

    asyncio.run(live())


def test_damage_to_what_should_serve_leaves_the_release_alone(tmp_path: Path) -> None:
    """The version that had not seen it is gone from the disk: forgetting does not wait for it."""

    async def live() -> None:
        life = await lived(tmp_path)
        versions = Versions(life.root / "versions")
        pointer = versions.read_pointer()
        assert pointer.current is not None
        for picture in range(20, 32):
            life.observe(picture, "odd")
        record = next(iter(life.driver.state.codes))
        life.driver.state = msgspec.structs.replace(life.driver.state, previous="e" * 64, seen_before=None)
        seen = msgspec.structs.replace(life.driver.state.seen, records=0, values=())
        life.driver.state = msgspec.structs.replace(life.driver.state, seen_before=seen)
        await life.ask(msg.Forget(observation=record))
        assert life.driver.state.active is None
        assert versions.read_pointer().current is None
        life.end()

    asyncio.run(live())


def test_a_name_of_a_forgotten_condition_can_be_learnt_anew(tmp_path: Path) -> None:
    """It becomes a new value with a new number; the old number stays nameless."""

    async def live() -> None:
        life = await lived(tmp_path)
        size = len(life.agent.vocabulary.factors[0].values)
        await life.ask(msg.Forget(condition={life.release.manifest.vocabulary.names[0]: "strange"}))
        values = life.agent.vocabulary.factors[0].values
        assert values[size - 1] == f"(forgotten {size})"
        life.observe(40, "strange")
        assert life.agent.vocabulary.factors[0].values[size] == "strange"
        assert next(iter(life.driver.state.codes.values()))[0] == size + 1
        await life.stop()

    asyncio.run(live())
