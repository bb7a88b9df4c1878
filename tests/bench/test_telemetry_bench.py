"""``evergrove bench telemetry``: every machine is read and counted; how long it takes is for the bench."""

from pathlib import Path

import pytest

from evergrove.adapters.telemetry.host import LocalHost
from evergrove.bench import recorded, telemetry


def test_a_recorded_pi_is_measured(tmp_path: Path) -> None:
    """Nine values: mains, clock, throttling, three pressures, memory, disk, network; no load, for nothing was busy."""
    root = recorded.plant(tmp_path, recorded.pi())
    cost = telemetry.cost("a recorded pi", LocalHost(root, tmp_path), 3)
    assert cost.reading.n == 3
    assert 0 < cost.reading.p50 <= cost.reading.p99 <= cost.reading.max
    assert (cost.n_zones, cost.n_values) == (1, 9)
    assert cost.n_missing == 4
    assert cost.scan_ms > 0


def test_this_machine_comes_first_and_each_has_a_bar() -> None:
    """A bar for each, on p99."""
    found = telemetry.run(2)
    assert [cost.name for cost in found.costs] == [
        "this machine", "a recorded phone", "a recorded pi", "a recorded jetson", "a recorded laptop",
    ]  # fmt: skip
    assert [bar.value for bar in found.bars] == [cost.reading.p99 for cost in found.costs]
    assert {bar.limit for bar in found.bars} == {2.0}


@pytest.mark.parametrize("name", ["phone", "pi", "jetson", "laptop", "server", "broken"])
def test_recorded_files_are_absolute_text(name: str) -> None:
    """What is planted below a root stays below it."""
    tree = getattr(recorded, name)()
    assert all(path.startswith("/") and ".." not in path for path in tree)
