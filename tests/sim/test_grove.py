"""A whole grove in a storm: whatever is killed, lost, doubled, late or lied about, its three laws hold (DESIGN §7, §8).

1. Every update that was accepted is counted exactly once. 2. ε is never under-counted. 3. No release serves that was
not judged, signed and verified. ``grove_books`` keeps the books that they are held against.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

import msgspec
import pytest
from grove_books import Books, log_of

from evergrove.adapters.release import Release, open_release
from evergrove.core import cloud_events, fog
from evergrove.core.errors import ConfigError
from evergrove.core.sections import Gathering
from evergrove.sim import run, scenario
from evergrove.sim.faults import Channel, Clock
from evergrove.sim.grove.spec import Consolidating, Grove, Kills
from evergrove.sim.grove.world import GroveWorld

CALM_H = 6.0
FLEET = """
name = "grove"
hours = 4
start_hour = 8
[fog]
present = false
[[fleet]]
name = "board"
count = 6
[fleet.power]
capacity_wh = 0
[fleet.usage]
sessions_per_day = 0
[fleet.network]
metered_share = 0
outages_per_day = 0
[fleet.stream]
known = [4, 2, 2, 3, 2]
per_day = 500
new_every_h = 0
n_new = 2
duplicate_share = 0
near_share = 0
[fleet.heat]
noise_c = 0
[fleet.trainer]
measure_s = 30
harm = 0
harm_spread = 0.002
bad_share = 0.1
[fleet.config.learn]
min_new = 5
steps = 100
[fleet.config.gate]
items_min = 6
[fleet.config.novelty]
golden_every = 2
[fleet.config.telemetry]
period_s = 120
idle_period_s = 600
[fleet.config.fleet]
fog = "https://fog"
[faults.crash]
at_write_share = 0.001
down_s = 120
[faults.clock]
offset_s = 300
drift_ppm = 100
jumps_per_day = 4
jump_s = 300
"""
STORM = Grove(
    fogs=2,
    gathering=Gathering(cohort=3, cohort_min=1, wait_s=1800.0, rounds=64, participations=16),
    consolidating=Consolidating(cohorts=3, wait_s=1800.0),
    kills=Kills(device_per_day=45, fog_per_day=110, cloud_per_day=180, superlink_per_day=80, writes_max=12, down_s=60),
    air=Channel(jitter_s=120, drop_share=0.15, duplicate_share=0.2),
    link=Channel(delay_s=1, jitter_s=120, drop_share=0.15, duplicate_share=0.3),
    tampered_share=0.2,
    clock=Clock(offset_s=300, drift_ppm=100, jumps_per_day=4, jump_s=300),
)
NOISY = msgspec.structs.replace(
    STORM, epsilon=8.0,
    gathering=Gathering(cohort=3, cohort_min=1, wait_s=1800.0, rounds=16, participations=5),
)  # fmt: skip


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The tiny release without its teacher, which is most of its bytes."""
    folder = tmp_path_factory.mktemp("shelf") / "lean"
    shutil.copytree(open_release("tiny").folder, folder)
    manifest = json.loads((folder / "manifest.json").read_bytes()) | {"teacher": None}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return open_release(folder)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """These kills end processes, not the power, so nothing here depends on the disk's own memory."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def storm(seed: int, grove: Grove, release: Release, folder: Path) -> Books:
    """One world, from its first hour to the calm after the storm."""
    books = Books()
    wanted = msgspec.structs.replace(scenario.parse(FLEET), seed=seed, grove=grove)
    books.world = world = GroveWorld(wanted, release, folder, books, noise=books.noise)
    world.run()
    world.calm()
    world.run(wanted.hours + CALM_H)
    return books


@pytest.mark.parametrize(("seed", "grove"), [(0, STORM), (1, NOISY), (2, STORM)], ids=["exact", "noisy", "exact-2"])
def test_through_any_storm_the_three_laws_hold(seed: int, grove: Grove, release: Release, tmp_path: Path) -> None:
    """The books check them at every instant, and here at the end, when all is counted and served.

    Each of the three storms has 67 kills or more, so it is 200 in all.
    """
    books = storm(seed, grove, release, tmp_path / "grove")
    world = books.world
    kills = {kind: world.kills[kind] for kind in ("device", "fog", "cloud", "superlink")}
    print(kills, world.faults, len(books.receipts), "updates", len(books.sums), "sums", books.n_checked, "checks")
    # 1. Each update is in one sum, each sum in one candidate; each release was checked as it began to serve.
    books.check_counted()
    # 2. When nothing goes wrong any more, nothing is stuck, and every device recovered what it knew.
    state = world.cloud.driver.state
    assert (state.waiting, state.n_dropped, state.n_counted) == ((), 0, len(books.sums))
    for one in world.fogs.values():
        assert (one.store.state().n_updates, one.service.ready()) == (0, [])
    for device in world.devices:
        assert (device.state.sharing.token, device.n_unequal, device.n_missing) == ("", 0, 0)
    signed = {fact.release for fact in log_of(world) if isinstance(fact, cloud_events.ReleaseSigned)}
    assert {release for _, release in books.served} == signed
    # 3. It was a storm: every kind of process was killed, everything that can go wrong went wrong, and life went on.
    assert min(kills.values()) >= 5
    assert sum(kills.values()) >= 67
    assert min(world.faults.values()) >= 1
    assert (len(books.receipts) >= 15, len(signed) >= 1) == (True, True)


def digest(world: GroveWorld) -> str:
    """Every event of every device, fog and of the cloud, with its time."""
    whole = hashlib.sha256(world.recorder.digest.encode())
    for name, one in world.fogs.items():
        for seq, at_s, event in one.store.events(0, 1_000_000):
            whole.update(f"{name} {seq} {at_s!r} ".encode() + fog.encode(event))
    for fact in log_of(world):
        whole.update(cloud_events.encode(fact))
    return whole.hexdigest()


def test_the_same_seed_gives_the_same_logs_byte_for_byte(release: Release, tmp_path: Path) -> None:
    """Devices', fogs' and the cloud's, under kills; keys and temporary names differ."""
    found, wanted = [], msgspec.structs.replace(scenario.parse(FLEET), grove=NOISY)
    for name in ("a", "b"):
        world = GroveWorld(wanted, release, tmp_path / name)
        found.append((digest(world.run(2)), world.kills))
    assert found[0] == found[1]
    assert sum(found[0][1].values()) > 5


def test_a_run_leaves_the_logs_of_fogs_and_cloud_and_says_what_it_counted(tmp_path: Path) -> None:
    """What ``evergrove simulate`` does with a grove: the numbers are those of the logs beside them."""
    wanted = msgspec.structs.replace(scenario.parse(FLEET), grove=STORM, hours=3.0)
    found = run.execute(wanted, tmp_path / "run")
    grove = found["grove"]
    logged = [json.loads(line) for line in (tmp_path / "run" / "fogs.jsonl").read_text().splitlines()]
    assert grove["updates_counted"] == sum(line["event"]["kind"] == "update_counted" for line in logged) > 5
    assert {line["fog"] for line in logged} == {"north", "south"}
    decided = [
        json.loads(line)["event"]["kind"] for line in (tmp_path / "run" / "cloud.jsonl").read_text().splitlines()
    ]
    assert decided.count("cohort_received") == grove["sums_at_the_cloud"] > 0
    assert (grove["updates_counted_twice"], grove["sums_in_two_candidates"], grove["releases_served_unsigned"]) == (
        0,
        0,
        0,
    )
    assert grove["epsilon"] is None
    assert sum(grove["kills"].values()) > 5
    said = run.lines(found, 1.0)
    assert any(line.startswith("killed: ") for line in said)
    assert "signed releases" in (tmp_path / "run" / "report.html").read_text()


def test_a_grove_needs_devices_that_know_of_it() -> None:
    """A fleet that really learns, or that is in none, has no place in it; nor are there fogs without end."""
    for line, changed in (('fog = "https://fog"', ""), ("measure_s = 30", 'kind = "real"')):
        with pytest.raises(ConfigError, match="a grove has fogs of its own"):
            scenario.parse(FLEET.replace(line, changed) + "[grove]\nfogs = 2\n")
    with pytest.raises(ConfigError, match="from 0 to 4"):
        scenario.parse(FLEET + "[grove]\nfogs = 9\n")
