"""A simulated fleet is the same every time, loses nothing that it accepted, and recovers what it knew."""

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evergrove.adapters.release import open_release
from evergrove.core import effects as do
from evergrove.core import events as ev
from evergrove.core.measures import Facts
from evergrove.sim import fleet, scenario
from evergrove.sim.device import VirtualDevice
from evergrove.sim.disk import Picture
from evergrove.sim.grove.world import GroveWorld
from evergrove.sim.scenario import Scenario

EXAMPLES = Path(__file__).parents[2] / "examples" / "scenarios"

STORMY = """
name = "stormy"
hours = 20
[[fleet]]
name = "phone"
count = 2
[fleet.stream]
per_day = 300
[fleet.power]
night_share = 1
start_share = 1
[fleet.config.telemetry]
period_s = 60
[fleet.config.learn]
min_new = 12
[faults.crash]
per_day = 10
at_write_share = 0.002
kills_per_day = 30
[faults.network]
delay_s = 1
jitter_s = 20
drop_share = 0.2
duplicate_share = 0.3
[faults.worker]
duplicate_share = 0.5
jitter_s = 5
[faults.clock]
offset_s = 600
drift_ppm = 200
jumps_per_day = 6
jump_s = 300
[faults.sensors]
per_day = 10
"""

QUIET = """
name = "quiet"
hours = 4
[[fleet]]
name = "board"
[fleet.power]
capacity_wh = 0
[fleet.usage]
sessions_per_day = 0
[fleet.network]
metered_share = 0
outages_per_day = 0
[fleet.stream]
per_day = 0
[fleet.heat]
noise_c = 0
[fleet.trainer]
bad_share = 0
[fleet.config.learn]
min_new = 6
[fleet.config.gate]
items_min = 1
[fleet.config.telemetry]
period_s = 60
[faults.crash]
down_s = 1
"""


def changed(text: str, seed: int) -> Scenario:
    return msgspec.structs.replace(scenario.parse(text), seed=seed)


def check_conserved(device: VirtualDevice) -> None:
    """What the reducer counts on is on the disk, and after a start nothing else is."""
    if not device.up:
        device.boot()
    assert device.n_missing == 0
    known = {*device.state.keeping.buffer.records(), *device.state.pending}
    assert device.shelf.records.keys() <= known
    assert {r for r, split in device.shelf.records.items() if split == "train"} >= set(device.state.fresh)


RUN = """
import sys
from pathlib import Path
from evergrove.sim import run
numbers = run.execute(run.find(Path(sys.argv[1])), Path(sys.argv[2]))
print(numbers["digest"])
"""


def test_the_same_scenario_and_seed_give_the_same_bytes_in_two_processes(tmp_path: Path) -> None:
    """Whatever Python's hash seed; the folder holds the same events and numbers, and the report is a page."""
    (tmp_path / "stormy.toml").write_text(STORMY)
    folders, digests = [tmp_path / "a", tmp_path / "b"], []
    for folder, hash_seed in zip(folders, ("1", "77"), strict=True):
        env = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", RUN, str(tmp_path / "stormy.toml"), str(folder)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        digests.append(done.stdout)
    assert digests[0] == digests[1]
    for name in ("events.jsonl", "metrics.json", "config.resolved.toml", "report.html"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    lines = [json.loads(line) for line in (folders[0] / "events.jsonl").read_text().splitlines()]
    assert {line["device"] for line in lines} == {"phone-1", "phone-2"}
    assert "telemetry_read" not in {line["event"]["kind"] for line in lines}


def test_another_seed_gives_another_run() -> None:
    """Chance is real, and named by the seed."""
    digests = {fleet.simulate(changed(QUIET.replace("per_day = 0", "per_day = 90", 1), seed)).digest for seed in (0, 1)}
    assert len(digests) == 2


def test_time_passed_in_pieces_is_time_passed_at_once() -> None:
    """An hour at a time or twelve at once."""
    pieces = fleet.World(scenario.parse(STORMY))
    for hour in range(1, 21):
        pieces.run(hour)
    assert pieces.outcome().digest == fleet.simulate(scenario.parse(STORMY)).digest


@pytest.mark.parametrize("seed", range(3))
def test_through_any_storm_nothing_that_was_accepted_is_lost(seed: int) -> None:
    """Crashes, kills at writes, doubled and lost messages, jumping clocks: records and log agree, states recover."""
    world = fleet.World(changed(STORMY, seed)).run()
    crashes = sum(device.n_crashes for device in world.devices)
    assert crashes > 5
    for device in world.devices:
        check_conserved(device)
        assert device.n_unequal == 0
    assert sum(device.n_checked for device in world.devices) > 0
    jobs = fleet.summary(world.devices)["jobs"]
    assert jobs.get("trained", 0) > 0


FLEET = "\n[fleet.config.fleet]\nfog = 'https://fog'\n[fleet.config.learn]"


@pytest.mark.parametrize("seed", range(3))
def test_through_any_storm_every_update_is_counted_once_and_the_device_knows_it(seed: int) -> None:
    """Lost and doubled messages, answers that come too late, crashes at writes: fog and device count the same updates.

    An update on its way, or one whose end the device has not heard of yet, may be counted at the fog alone.
    """
    world = fleet.World(changed(STORMY.replace("\n[fleet.config.learn]", FLEET), seed)).run()
    assert world.gateway is not None
    n_shared = 0
    for device in world.devices:
        check_conserved(device)
        assert device.n_unequal == 0
        sharing = device.state.sharing
        tokens = [token for name, token in world.gateway.counted if name == device.name]
        assert len(tokens) - sharing.n_counted in ((0, 1) if sharing.sending or sharing.token else (0,))
        assert sharing.n_refused == 0
        n_shared += sharing.n_counted
    assert n_shared > 0
    if seed == 0:
        again = fleet.simulate(changed(STORMY.replace("\n[fleet.config.learn]", FLEET), seed))
        assert again.digest == world.outcome().digest


def observed(world: fleet.World, crash_after: set[int], n: int = 40) -> VirtualDevice:
    """A device that is shown ``n`` pictures, a minute apart, and loses its memory right after some of them."""
    device = world.devices[0]
    for i in range(n):
        when_s = world.engine.start_s + 120 + 60 * i
        picture = Picture((9 + i % 2,), 1000, Facts(False, 30, 1.5 + i % 7))

        def show(i: int = i, picture: Picture = picture) -> None:
            device.observe(picture)
            if i in crash_after:
                device.crash()

        world.engine.at(when_s, show)
    world.run()
    return device


@settings(max_examples=12, deadline=None)
@given(st.sets(st.integers(0, 39)))
def test_a_device_that_crashes_ends_where_one_that_does_not(crash_after: set[int]) -> None:
    """The same records and the same decisions about them; it has learnt, too, if perhaps some minutes later."""
    calm = observed(fleet.World(scenario.parse(QUIET)), set())
    shaken = observed(fleet.World(scenario.parse(QUIET)), crash_after)
    assert None not in (calm.state.active, shaken.state.active)
    for field in ("keeping", "codes", "dropped", "n_observed", "n_kept", "known", "sizes"):
        assert getattr(shaken.state, field) == getattr(calm.state, field), field
    assert shaken.shelf.records == calm.shelf.records
    assert shaken.n_unequal == 0


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_crash_at_each_write_in_turn_is_recovered(moment: str) -> None:
    """The power fails at the n-th write to the log, for every n of a short life that learns."""

    def world_with_cut(at_write: int) -> tuple[fleet.World, list[int]]:
        world, writes = fleet.World(scenario.parse(QUIET)), [0]

        def power() -> str | None:
            writes[0] += 1
            return moment if writes[0] == at_write else None

        world.devices[0]._parts.log._power = power  # type: ignore[assignment]
        return world, writes

    world, writes = world_with_cut(0)
    observed(world, set(), n=16)
    total = writes[0]
    assert total > 100
    for at_write in [*range(1, 60), *range(60, total, 29)]:
        world, _ = world_with_cut(at_write)
        device = observed(world, set(), n=16)
        check_conserved(device)
        assert device.n_crashes == 1
        assert device.state.n_jobs > 0


def test_a_picture_that_comes_while_the_device_is_off_is_not_seen() -> None:
    """It is counted, and nothing is fed."""
    world = fleet.World(scenario.parse(QUIET)).run(0.1)
    device = world.devices[0]
    device.crash()
    before = world.recorder.n_events
    device.observe(Picture((9,), 100, Facts(False, None, None)))
    device.crash()
    assert device.n_unseen == 1
    assert device.n_crashes == 1
    assert world.recorder.n_events == before
    assert device.state.device == "board-1"


def test_an_unknown_order_is_our_own_mistake() -> None:
    """Facts are not orders."""
    device = fleet.World(scenario.parse(QUIET)).run(0.1).devices[0]
    with pytest.raises(AssertionError, match="no way to perform Emit"):
        device._perform(do.Emit(ev.TimePassed()))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda p: p.stem)
def test_every_example_runs_for_some_hours(path: Path, tmp_path: Path) -> None:
    """They are shipped, so they work."""
    wanted = scenario.load(path)
    if wanted.grove.fogs:
        world: fleet.World = GroveWorld(wanted, open_release("tiny"), tmp_path / "grove")
    else:
        world = fleet.World(wanted, folder=tmp_path)
    world.run(3.0)
    for device in world.devices:
        check_conserved(device)
    assert world.outcome().n_events > 100
