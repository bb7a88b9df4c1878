"""``evergrove doctor`` on recorded devices: what it says about each group of sensors."""

import errno
from pathlib import Path

import pytest
from hosts import machine

from evergrove.adapters import doctor
from evergrove.adapters.doctor import Check
from evergrove.bench import recorded

GROUPS = ("Temperature", "Battery", "Throttling", "Pressure", "Network")


def examine(folder: Path, tree: recorded.Tree) -> dict[str, Check]:
    """The checks of the sensors by name."""
    return {check.name: check for check in doctor.sensors(machine(folder, tree).reader())}


def test_a_laptop_is_told_in_one_line_each(tmp_path: Path) -> None:
    """The zone nearest to its limit comes first; a metered network is the one thing that nobody tells."""
    checks = examine(tmp_path, recorded.laptop())
    assert tuple(checks) == GROUPS
    assert (
        checks["Temperature"].found == "coretemp/Package id 0 62 of 100, nvme/Composite 42 of 82, acpitz 28 of 119 °C"
    )
    assert checks["Battery"] == Check("Battery", "ok", "60%, on mains")
    assert checks["Throttling"] == Check("Throttling", "ok", "seen by: processor")
    assert checks["Pressure"] == Check("Pressure", "ok", "waiting for cores 12%, memory 0%, disk 2%")
    assert (checks["Network"].state, checks["Network"].found) == ("warning", "up; whether it is metered, nobody tells")


def test_a_phone_tells_its_watts_and_its_hottest_zones(tmp_path: Path) -> None:
    """Four zones are named, the rest counted."""
    checks = examine(tmp_path, recorded.phone())
    assert checks["Temperature"].found.endswith("°C, and 12 more")
    assert checks["Battery"].found == "84%, on battery, 1.6 W"


def test_a_server_works_without_sensors_and_is_warned(tmp_path: Path) -> None:
    """A way out, or what to expect, for each of them; no battery is no fault of a machine on the mains."""
    checks = examine(tmp_path, recorded.server())
    assert checks["Battery"] == Check("Battery", "ok", "none, on mains")
    assert [check.state for check in checks.values()] == ["warning", "ok", "warning", "ok", "warning"]
    assert all(check.way_out for check in checks.values() if check.state != "ok")


@pytest.mark.parametrize("tree", [recorded.broken(), {}])
def test_nothing_to_read_is_a_warning_with_its_reason(tmp_path: Path, tree: recorded.Tree) -> None:
    """Never an error: a device without sensors can be used."""
    checks = examine(tmp_path, tree)
    assert tuple(checks) == GROUPS
    assert all(check.state == "warning" and check.found and check.way_out for check in checks.values())


def test_a_link_whose_price_is_known_is_fine(tmp_path: Path) -> None:
    """A cellular link costs."""
    tree = recorded.link("wwan0", 3) | {"/proc/net/route": recorded.ROUTES + recorded.route("wwan0")}
    assert examine(tmp_path, tree)["Network"] == Check("Network", "ok", "up, metered")


def test_a_battery_that_is_hidden_is_a_warning(tmp_path: Path) -> None:
    """As Android hides it from apps."""
    host = machine(tmp_path, recorded.phone())
    host.faults["/sys/class/power_supply"] = PermissionError(errno.EACCES, "Permission denied")
    (check,) = [check for check in doctor.sensors(host.reader()) if check.name == "Battery"]
    assert check.state == "warning"
    assert "Termux:API" in check.way_out
