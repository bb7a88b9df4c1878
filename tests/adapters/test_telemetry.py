"""Telemetry of whole devices: recorded-style trees of six kinds, with numbers that can be checked by hand."""

import errno
from pathlib import Path

import pytest
from hosts import Later, machine

from evergrove.adapters.telemetry import Reader
from evergrove.adapters.telemetry.heat import ZONES_MAX
from evergrove.adapters.telemetry.host import LocalHost
from evergrove.bench import recorded
from evergrove.core import config
from evergrove.core.telemetry import Missing, Telemetry, Value, Zone

EIO = OSError(errno.EIO, "Input/output error")
DENIED = PermissionError(errno.EACCES, "Permission denied")


def reasons(reading: Telemetry) -> dict[str, str]:
    """Why each missing field is missing."""
    return {gone.field: gone.reason for gone in reading.missing}


def zones(reading: Telemetry) -> dict[str, Zone]:
    """Zones by name."""
    return {zone.name: zone for zone in reading.zones}


# Whole devices


def test_a_phone_on_battery(tmp_path: Path) -> None:
    """0.412 A at 3.95 V are 1.6274 W; three clusters at a half, a half and a quarter of their clock are at 0.41667."""
    reading = machine(tmp_path, recorded.phone()).reader().read()
    assert reading.n_cores == 8
    assert reading.battery_share == Value(0.84)
    assert reading.on_mains == Value(0.0)
    assert reading.power_w is not None
    assert reading.power_w.value == pytest.approx(0.412 * 3.95)
    assert reading.cpu_freq_share is not None
    assert reading.cpu_freq_share.value == pytest.approx((0.5 + 0.5 + 0.25) / 3)
    assert (reading.psi_cpu_share, reading.psi_io_share) == (Value(0.125), Value(0.02))
    assert reading.memory_free_bytes == Value(2_000_000 * 1024.0)
    assert reading.disk_free_bytes == Value(123e6)
    assert reading.network_up == Value(1.0)


def test_of_many_zones_those_that_matter_are_read(tmp_path: Path) -> None:
    """84 zones: battery and skin are in, a disabled and an unconnected one are not; the lowest passive trip counts."""
    reading = machine(tmp_path, recorded.phone()).reader().read()
    found = zones(reading)
    assert len(found) == ZONES_MAX
    assert found["battery"] == Zone("battery", 33.1, 60.0)
    assert found["skin-therm"] == Zone("skin-therm", 36.5, 43.0)
    assert {f"cpu-{cluster}-0-usr" for cluster in range(8)} < set(found)
    assert found["cpu-0-0-usr"] == Zone("cpu-0-0-usr", 40.0, 95.0)
    assert "bcl-soc" not in found
    assert reasons(reading)["zones"] == "67 more than 16 are not read"


def test_a_pi_is_limited_by_its_firmware(tmp_path: Path) -> None:
    """The kernel's trip point says 110 °C, but the firmware slows the cores at 80; the hwmon double is left out."""
    reading = machine(tmp_path, recorded.pi()).reader().read()
    assert reading.zones == (Zone("cpu-thermal", 58.426, 80.0),)
    assert reading.on_mains == Value(1.0)
    assert reading.battery_share is None
    assert reasons(reading)["battery_share"] == "no battery"


def test_a_pi_3_b_plus_has_a_soft_limit(tmp_path: Path) -> None:
    """60 °C."""
    tree = recorded.pi() | {"/proc/device-tree/model": "Raspberry Pi 3 Model B Plus Rev 1.3\0"}
    assert machine(tmp_path, tree).reader().read().zones[0].trip_c == 60.0


def test_a_jetson_has_an_input_rail(tmp_path: Path) -> None:
    """5 V times 1.2 A are 6 W: the rails that the input feeds are not added; a 'hot' trip counts, an 'active' not."""
    reading = machine(tmp_path, recorded.jetson()).reader().read()
    assert reading.power_w == Value(6.0)
    assert zones(reading) == {
        "cpu-thermal": Zone("cpu-thermal", 51.5, 99.0),
        "gpu-thermal": Zone("gpu-thermal", 50.25, 99.0),
        "tj-thermal": Zone("tj-thermal", 51.5, 70.0),
    }


def test_rails_without_an_input_are_added_up(tmp_path: Path) -> None:
    """5 V times 0.4 A and 5 V times 0.3 A are 3.5 W."""
    tree = recorded.jetson() | {"/sys/class/hwmon/hwmon0/in1_label": "NC\n"}
    assert machine(tmp_path, tree).reader().read().power_w == Value(pytest.approx(3.5))


def test_an_older_jetson_tells_milliwatts_through_iio(tmp_path: Path) -> None:
    """4500 mW at POM_5V_IN."""
    base = "/sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    tree = recorded.server() | {
        f"{base}/rail_name_0": "POM_5V_IN\n",
        f"{base}/in_power0_input": "4500\n",
        f"{base}/rail_name_1": "POM_5V_GPU\n",
        f"{base}/in_power1_input": "900\n",
    }
    assert machine(tmp_path, tree).reader().read().power_w == Value(4.5)


def test_a_laptop_with_two_batteries(tmp_path: Path) -> None:
    """80 % of 40 Wh and 20 % of 20 Wh are 60 % of all; a mouse's battery is not the device's."""
    reading = machine(tmp_path, recorded.laptop()).reader().read()
    assert reading.battery_share is not None
    assert reading.battery_share.value == pytest.approx((0.8 * 40 + 0.2 * 20) / 60)
    assert reading.on_mains == Value(1.0)
    assert reasons(reading)["power_w"] == "not on battery, and no power meter"
    assert reading.throttle_count == Value(7.0 + 0 + 1 + 2 + 3)
    assert zones(reading) == {
        "acpitz": Zone("acpitz", 27.8, 119.0),
        "nvme/Composite": Zone("nvme/Composite", 41.85, 81.85),
        "coretemp/Package id 0": Zone("coretemp/Package id 0", 62.0, 100.0),
    }


def test_a_laptop_that_is_unplugged_tells_its_watts(tmp_path: Path) -> None:
    """Only the battery that discharges counts."""
    host = machine(tmp_path, recorded.laptop())
    host.write("/sys/class/power_supply/AC/online", "0\n")
    host.write("/sys/class/power_supply/BAT0/status", "Discharging\n")
    reading = host.reader().read()
    assert reading.on_mains == Value(0.0)
    assert reading.power_w == Value(12.0)


def test_a_server_without_sensors_says_so(tmp_path: Path) -> None:
    """Memory, disk and network are there; each sensor that is not has its reason, and nothing is guessed."""
    reading = machine(tmp_path, recorded.server()).reader().read()
    assert reading.zones == ()
    assert (reading.on_mains, reading.battery_share, reading.throttle_count) == (Value(1.0), None, None)
    assert set(reasons(reading)) == {
        "load_share", "cpu_freq_share", "throttle_count", "battery_share", "power_w", "zones", "network_metered",
    }  # fmt: skip


def test_on_a_broken_device_everything_is_missing_with_its_reason(tmp_path: Path) -> None:
    """Negative kelvin, a register of ones, text, nothing, too much, a vanished file: none is a value, none an error."""
    host = machine(tmp_path, recorded.broken())
    host.free = lambda: -1
    reading = host.reader().read()
    assert reading == Telemetry(missing=reading.missing)
    assert reasons(reading) == {
        "load_share": "not the counters of a processor: 'cpu  many few'",
        "cpu_freq_share": "out of range: 9000000 kHz of 1800000",
        "throttle_count": "out of range: -3",
        "battery:BAT0": "out of range: 65535",
        "battery_share": "out of range: 65535",
        "on_mains": "out of range: -1",
        "power_w": "current_now out of range: 412",
        "zone:cold": "out of range: -273150",
        "zone:ones": "out of range: 65535",
        "zone:zero": "0 exactly: not connected",
        "zone:degrees": "out of range: 42 (not thousandths of a degree)",
        "zone:text": "not a number: 'lukewarm'",
        "zone:empty": "empty",
        "zone:huge": "longer than 4096 bytes",
        "zone:gone": "no such file",
        "psi_cpu_share": "not a number: 'nan'",
        "psi_memory_share": "out of range: 101.00",
        "psi_io_share": "empty",
        "memory_free_bytes": "not a number: 'lots'",
        "disk_free_bytes": "out of range: -1",
        "network_up": "not a state of a link",
        "network_metered": "no default route",
    }


def test_a_machine_without_any_of_it_is_no_error(tmp_path: Path) -> None:
    """An empty root, as on a system that is no Linux: one core, and everything missing but the disk."""
    reading = machine(tmp_path, {}).reader().read()
    assert reading == Telemetry(disk_free_bytes=Value(123e6), missing=reading.missing)
    assert reasons(reading)["battery_share"] == "/sys/class/power_supply cannot be read"
    assert reasons(reading)["network_up"] == "no network link"


# Faults


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (EIO, "input/output error"),
        (DENIED, "permission denied"),
        (OSError(errno.ENODEV, "No such device"), "no such device"),
        (OSError(errno.EAGAIN, "Resource temporarily unavailable"), "resource temporarily unavailable"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_a_file_that_fails_is_a_reason(tmp_path: Path, fault: OSError, reason: str) -> None:
    """Whatever the system answers: one sensor is missing, the others are there."""
    host = machine(tmp_path, recorded.jetson())
    reader = host.reader()
    host.faults["/sys/class/thermal/thermal_zone0/temp"] = fault
    host.faults["/proc/meminfo"] = fault
    reading = reader.read()
    assert reasons(reading)["zone:cpu-thermal"] == reason
    assert reasons(reading)["memory_free_bytes"] == reason
    assert set(zones(reading)) == {"gpu-thermal", "tj-thermal"}


def test_one_of_two_batteries_fails(tmp_path: Path) -> None:
    """The other one counts alone, and the one that fails is named."""
    host = machine(tmp_path, recorded.laptop())
    reader = host.reader()
    host.faults["/sys/class/power_supply/BAT1/capacity"] = EIO
    reading = reader.read()
    assert reading.battery_share == Value(0.8)
    assert reasons(reading)["battery:BAT1"] == "input/output error"


def test_a_battery_without_a_percentage_is_computed(tmp_path: Path) -> None:
    """30 of 40 are 75 %; 50 of 40 are nothing."""
    host = machine(tmp_path, recorded.laptop())
    for battery in ("BAT0", "BAT1"):
        host.remove(f"/sys/class/power_supply/{battery}/capacity")
    host.write("/sys/class/power_supply/BAT0/energy_now", "30000000\n")
    host.write("/sys/class/power_supply/BAT1/energy_now", "25000000\n")
    reading = host.reader().read()
    assert reading.battery_share == Value(0.75)
    assert reasons(reading)["battery:BAT1"] == "out of range: 25000000 of 20000000"


@pytest.mark.parametrize(
    ("status", "online", "mains"),
    [
        ("Charging", None, 1.0),
        ("Full", None, 1.0),
        ("Not charging", None, 1.0),
        ("Discharging", None, 0.0),
        ("Discharging", "1", 1.0),  # a charger that is too weak is a charger
        ("Unknown", "0", 0.0),
        ("Unknown", None, None),
    ],
)
def test_where_the_power_comes_from(tmp_path: Path, status: str, online: str | None, mains: float | None) -> None:
    """The supplies say it; without one, what the battery does."""
    tree = recorded.battery("BAT0", 50, status, current_ua=1_000_000)
    if online is not None:
        tree |= recorded.supply("AC", "Mains", int(online))
    reading = machine(tmp_path, tree).reader().read()
    assert reading.on_mains == (None if mains is None else Value(mains))


@pytest.mark.parametrize("current", ["412", "0", "-99999999", "65535"])
def test_a_current_that_cannot_be_is_no_power(tmp_path: Path, current: str) -> None:
    """Milliampere instead of microampere, nothing at all, 100 A, a full register."""
    tree = recorded.phone() | {"/sys/class/power_supply/battery/current_now": current}
    reading = machine(tmp_path, tree).reader().read()
    assert reading.power_w is None
    assert "out of range" in reasons(reading)["power_w"]


def test_a_sensor_with_its_fault_flag_set_is_missing(tmp_path: Path) -> None:
    """The chip knows that its diode is not there."""
    tree = recorded.chip(0, "lm75", {"temp1_input": "85000", "temp1_fault": "1", "temp2_input": "40000"})
    reading = machine(tmp_path, tree).reader().read()
    assert reading.zones == (Zone("lm75/temp2", 40.0),)
    assert reasons(reading)["zone:lm75/temp1"] == "the chip says that the sensor is broken"


def test_board_chips_count_only_where_there_is_nothing_better(tmp_path: Path) -> None:
    """Their open inputs float."""
    loose = recorded.chip(0, "nct6775", {"temp1_input": "104000"})
    assert len(machine(tmp_path / "a", loose).reader().read().zones) == 1
    firm = recorded.chip(1, "k10temp", {"temp1_input": "50000", "temp1_label": "Tctl"})
    assert set(zones(machine(tmp_path / "b", loose | firm).reader().read())) == {"k10temp/Tctl"}


def test_two_sensors_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """Two drives; and AMD's Tctl gives way to Tdie, which is the same without its offset."""
    tree = {
        **recorded.chip(0, "nvme", {"temp1_input": "30000", "temp1_label": "Composite"}),
        **recorded.chip(1, "nvme", {"temp1_input": "31000", "temp1_label": "Composite"}),
        **recorded.chip(2, "k10temp", {"temp1_input": "77000", "temp1_label": "Tctl", "temp2_input": "50000"}),
        "/sys/class/hwmon/hwmon2/temp2_label": "Tdie\n",
    }
    found = zones(machine(tmp_path, tree).reader().read())
    assert {name: zone.temp_c for name, zone in found.items()} == {
        "nvme/Composite": 30.0,
        "nvme/Composite#2": 31.0,
        "k10temp/Tdie": 50.0,
    }


def test_names_can_stand_in_a_list(tmp_path: Path) -> None:
    """The shield's list of ignored sensors is separated by commas."""
    host = machine(tmp_path, recorded.zone(0, "a,b\x07c", 40_000, ()))
    assert set(zones(host.reader().read())) == {"a_b_c"}


# Time


def test_a_scan_finds_what_was_plugged_in_and_what_is_gone(tmp_path: Path) -> None:
    """Not before it is due; a zone that was read once stays on the list as gone."""
    host = machine(tmp_path, recorded.server() | recorded.zone(0, "old", 40_000, ()))
    reader = host.reader(rescan_s=300)
    assert set(zones(reader.read())) == {"old"}
    host.write("/sys/class/thermal/thermal_zone1/type", "new\n")
    host.write("/sys/class/thermal/thermal_zone1/temp", "41000\n")
    host.clock.now_s += 299
    assert set(zones(reader.read())) == {"old"}
    for file in ("type", "temp", "mode"):
        host.remove(f"/sys/class/thermal/thermal_zone0/{file}")
    (tmp_path / "sys/class/thermal/thermal_zone0").rmdir()
    host.clock.now_s += 1
    reading = reader.read()
    assert set(zones(reading)) == {"new"}
    assert reasons(reading)["zone:old"] == "gone since the last scan"


def test_something_that_vanished_brings_the_scan_forward(tmp_path: Path) -> None:
    """After 30 s, not after 300; a file that never was there does not."""
    host = machine(tmp_path, recorded.server() | recorded.zone(0, "old", 40_000, ()))
    later = Later()
    reader = host.reader(start=later)
    reader.read()
    host.clock.now_s += 40
    reader.read()
    assert later.jobs == []
    host.remove("/sys/class/thermal/thermal_zone0/temp")
    assert reasons(reader.read())["zone:old"] == "no such file"
    reader.read()
    assert len(later.jobs) == 1
    reader.read()
    assert len(later.jobs) == 1, "one scan at a time"
    later.work()
    host.clock.now_s += 40
    reader.read()
    assert later.jobs == []


def test_load_is_the_busy_part_of_all_ticks_since_the_last_reading(tmp_path: Path) -> None:
    """150 busy ticks of 200 are 0.75; five ticks are too few to say; a counter that runs backwards is said to."""
    host = machine(tmp_path, recorded.server())
    reader = host.reader()
    assert reasons(reader.read())["load_share"] == "needs two readings"
    host.write("/proc/stat", recorded.stat(25_150, 75_050))
    assert reader.read().load_share == Value(0.75)
    host.write("/proc/stat", recorded.stat(25_152, 75_053))
    host.clock.now_s += 3
    assert reader.read().load_share == Value(0.75, 3.0)
    host.write("/proc/stat", recorded.stat(1000, 1000))
    assert reasons(reader.read())["load_share"] == "the counters ran backwards"
    host.write("/proc/stat", recorded.stat(1000, 1100))
    assert reader.read().load_share == Value(0.0)


def test_time_taken_by_a_hypervisor_is_neither_busy_nor_idle(tmp_path: Path) -> None:
    """100 user, 100 idle, 200 stolen: a quarter is busy."""
    host = machine(tmp_path, recorded.server() | {"/proc/stat": "cpu  0 0 0 0 0 0 0 0 0 0\n"})
    reader = host.reader()
    host.write("/proc/stat", "cpu  100 0 0 100 0 0 0 200 0 0\n")
    assert reader.read().load_share == Value(0.25)


def test_a_slow_file_is_read_in_the_background_and_carries_its_age(tmp_path: Path) -> None:
    """A fuel gauge that takes 5 ms costs that three times, and never again; its value is the last one that is known."""
    host = machine(tmp_path, recorded.phone())
    later = Later()
    reader = host.reader(start=later)
    path = "/sys/class/power_supply/battery/capacity"
    host.slow_s[path] = 0.005
    for _ in range(3):
        assert reader.read().battery_share == Value(0.84)
        host.clock.now_s += 10
    host.write(path, "83\n")
    started_s = host.clock.now_s
    reading = reader.read()
    assert reading.battery_share == Value(0.84, pytest.approx(10))
    assert host.clock.now_s == started_s
    later.work()
    host.clock.now_s += 10
    assert reader.read().battery_share == Value(0.83, pytest.approx(10.005))
    host.faults[path] = EIO
    later.work()
    assert reasons(reader.read())["battery_share"] == "input/output error"


def test_a_file_that_was_slow_once_is_not_slow(tmp_path: Path) -> None:
    """The scheduler took the core away; the next reads are quick."""
    host = machine(tmp_path, recorded.phone())
    later = Later()
    reader = host.reader(start=later)
    path = "/sys/class/power_supply/battery/capacity"
    for slow_s in (0.005, 0.005, 0.0, 0.005, 0.005, 0.0):
        host.slow_s[path] = slow_s
        assert reader.read().battery_share == Value(0.84)
    assert later.jobs == []


def test_a_reading_opens_only_what_counts(tmp_path: Path) -> None:
    """A phone's tree has several hundred files; a reading reads under 40 of them."""
    host = machine(tmp_path, recorded.phone())
    assert len(recorded.phone()) > 500
    reader = host.reader()
    before = host.n_reads
    reader.read()
    assert host.n_reads - before < 40


# Network


@pytest.mark.parametrize(
    ("links", "up"),
    [
        ({"wlan0": "up"}, 1.0),
        ({"wlan0": "down"}, 0.0),
        ({"wlan0": "dormant", "eth0": "up"}, 1.0),
        ({"docker0": "up", "lo": "up"}, None),
        ({"docker0": "up", "eth0": "lowerlayerdown"}, 0.0),
        ({"rmnet0": "unknown"}, 1.0),
    ],
)
def test_a_link_is_up(tmp_path: Path, links: dict[str, str], up: float | None) -> None:
    """Bridges and loops reach nobody; 'unknown' with a carrier is up."""
    tree: recorded.Tree = {}
    for i, (name, state) in enumerate(links.items()):
        tree |= recorded.link(name, i, state)
    reading = machine(tmp_path, tree).reader().read()
    assert reading.network_up == (None if up is None else Value(up))


def test_metered_is_what_the_owner_says(tmp_path: Path) -> None:
    """Whatever else there is to see."""
    for metered, value in (("yes", 1.0), ("no", 0.0)):
        assert machine(tmp_path, {}).reader(metered=metered).read().network_metered == Value(value)


NM_PROFILE = "/etc/NetworkManager/system-connections/Home.nmconnection"
UUID = "00000000-0000-4000-8000-000000000001"


@pytest.mark.parametrize(
    ("more", "metered"),
    [
        ({}, None),
        ({"/run/systemd/netif/leases/3": "VENDOR_SPECIFIC=414e44524f49445f4d455445524544\n"}, 1.0),
        ({NM_PROFILE: f"[connection]\nid=Home\nuuid={UUID}\nmetered=1\n"}, 1.0),
        ({NM_PROFILE: f"[connection]\nid=Home\nuuid={UUID}\nmetered=2\n"}, 0.0),
        ({NM_PROFILE: f"[connection]\nid=Home\nuuid={UUID}\n"}, None),
        ({NM_PROFILE: "[connection]\nid=Other\nuuid=else\nmetered=1\n"}, None),
        ({"/proc/net/route": recorded.ROUTES + recorded.route("wwan0"), **recorded.link("wwan0", 9)}, 1.0),
        ({"/proc/net/route": recorded.ROUTES + recorded.route("wlp3s0", 600) + recorded.route("wwan0", 700),
          **recorded.link("wwan0", 9)}, None),
        ({"/proc/net/route": recorded.ROUTES}, None),
    ],
)  # fmt: skip
def test_metered_is_known_only_where_somebody_tells(tmp_path: Path, more: recorded.Tree, metered: float | None) -> None:
    """A hotspot's DHCP answer, a profile, a cellular link that carries the default route; else it is unknown."""
    reading = machine(tmp_path, recorded.laptop() | more).reader().read()
    assert reading.network_metered == (None if metered is None else Value(metered))


def test_a_profile_that_may_not_be_read_tells_nothing(tmp_path: Path) -> None:
    """NetworkManager's profiles are the administrator's."""
    host = machine(tmp_path, recorded.laptop() | {NM_PROFILE: f"uuid={UUID}\nmetered=1\n"})
    host.faults[NM_PROFILE] = DENIED
    assert reasons(host.reader().read())["network_metered"] == "nobody tells; set telemetry.metered to yes or no"


# This machine


def test_this_machine_can_be_read() -> None:
    """Whatever it is: a reading comes, and every value in it is possible."""
    reading = Reader.of(config.Telemetry(metered="no"), Path.cwd()).read()
    assert reading.n_cores >= 1
    assert reading.network_metered == Value(0.0)
    assert reading.disk_free_bytes is not None
    assert reading.disk_free_bytes.value > 0
    assert all(isinstance(gone, Missing) and gone.reason for gone in reading.missing)


def test_a_recorded_root_asks_no_tools(tmp_path: Path) -> None:
    """They would speak of this machine, not of the recorded one."""
    host = LocalHost(tmp_path, tmp_path)
    assert not host.has("sh")
    assert host.nvml() is None
    assert host.psutil() is None
