"""Telemetry from elsewhere than small files: Raspberry Pi bits, Termux, NVML, psutil; and their background."""

import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hosts import Clock, Later, Unusable, machine

from evergrove.adapters.telemetry.foreign import termux
from evergrove.adapters.telemetry.host import LocalHost
from evergrove.adapters.telemetry.processor import PiBits, count_list
from evergrove.adapters.telemetry.slow import Background, Slow
from evergrove.bench import recorded
from evergrove.core.telemetry import Telemetry, Value, Zone

BITS = "/sys/devices/platform/soc/soc:firmware/get_throttled"
BATTERY = (
    b'{"present": true, "health": "GOOD", "plugged": "UNPLUGGED", "status": "DISCHARGING", "temperature": "31.5",'
    b' "voltage": 4000, "current": -500000, "percentage": 85}'
)


def reasons(reading: Telemetry) -> dict[str, str]:
    """Why each missing field is missing."""
    return {gone.field: gone.reason for gone in reading.missing}


# Raspberry Pi


def test_throttle_bits_count_looks_at_which_the_cores_were_slow() -> None:
    """What was before the first look does not count; a bit of now does, each time; a new one of the past does once."""
    bits = PiBits()
    assert bits.count("50000", 0) == 0
    assert bits.count("50005", 10) == 1
    assert bits.count("50005", 10) == 1, "the same look"
    assert bits.count("throttled=0x50005\n", 20) == 2
    assert bits.count("50000", 30) == 2
    assert bits.count("d0000", 40) == 3, "a soft limit came and went between two looks"
    assert bits.count("d0000", 50) == 3


@pytest.mark.parametrize("text", ["", "slow", "0xfffffff", "ffffffff", "-1", "error=1 error_msg=x"])
def test_what_are_no_throttle_bits_is_refused(text: str) -> None:
    """20 bits mean something; a register of ones has more."""
    with pytest.raises(Unusable, match=r"no throttle bits|empty"):
        PiBits().count(text, 0)


def test_a_pi_that_throttles_is_seen(tmp_path: Path) -> None:
    """Through the file of the kernel."""
    host = machine(tmp_path, recorded.pi())
    reader = host.reader()
    assert reader.throttles.names == ("firmware",)
    assert reader.read().throttle_count == Value(0.0)
    host.write(BITS, "50004\n")
    host.clock.now_s += 10
    assert reader.read().throttle_count == Value(1.0)


def test_vcgencmd_is_asked_rarely_and_in_the_background(tmp_path: Path) -> None:
    """Only on a Pi without the file, and only where the command is there; its answer carries its age."""
    tree = {path: text for path, text in recorded.pi().items() if path != BITS}
    host = machine(tmp_path, tree)
    assert host.reader().read().throttle_count is None
    host.commands["vcgencmd"] = b"throttled=0x4\n"
    later = Later()
    reader = host.reader(start=later)
    assert reasons(reader.read())["throttle_count"] == "not answered yet"
    later.work()
    host.clock.now_s += 10
    assert reader.read().throttle_count == Value(1.0, 10.0)
    assert later.jobs == []
    host.clock.now_s += 20
    reader.read()
    later.work()
    assert reader.read().throttle_count == Value(2.0, 0.0)
    host.commands["vcgencmd"] = Unusable("vcgencmd took longer than 5 s")
    host.clock.now_s += 30
    reader.read()
    later.work()
    assert reasons(reader.read())["throttle_count"] == "vcgencmd took longer than 5 s"


def test_a_laptop_with_a_command_of_that_name_is_not_asked(tmp_path: Path) -> None:
    """It is a Raspberry Pi's."""
    host = machine(tmp_path, recorded.server())
    host.commands["vcgencmd"] = b"throttled=0x0\n"
    host.reader().read()
    assert host.n_runs == 0


# Termux


def test_termux_tells_what_android_hides(tmp_path: Path) -> None:
    """An app may not read sysfs there: 0.5 A at 4 V are 2 W; 31.5 °C; 85 %. Each carries its age."""
    host = machine(tmp_path, {})
    host.commands["termux-battery-status"] = BATTERY
    later = Later()
    reader = host.reader(start=later)
    later.work()
    host.clock.now_s += 8
    reading = reader.read()
    assert reading.battery_share == Value(0.85, 8.0)
    assert reading.on_mains == Value(0.0, 8.0)
    assert reading.power_w == Value(2.0, 8.0)
    assert reading.zones == (Zone("battery", 31.5, None, 8.0),)


def test_sysfs_is_believed_before_termux(tmp_path: Path) -> None:
    """It is younger and finer."""
    host = machine(tmp_path, recorded.phone())
    host.commands["termux-battery-status"] = BATTERY
    assert host.reader().read().battery_share == Value(0.84)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "its answer is not JSON"),
        (b"[1]", "its answer is not a JSON object"),
        (b"\xff\xfe", "its answer is not JSON"),
        (Unusable("termux-battery-status took longer than 5 s"), "termux-battery-status took longer than 5 s"),
        (PermissionError(13, "Permission denied"), "permission denied"),
    ],
)
def test_termux_that_fails_is_a_reason(tmp_path: Path, answer: bytes | Exception, reason: str) -> None:
    """It hangs for ever where its app is not installed."""
    host = machine(tmp_path, {})
    host.commands["termux-battery-status"] = answer
    assert reasons(host.reader().read())["termux"] == reason


def test_what_makes_no_sense_in_a_battery_status_is_missing_by_itself() -> None:
    """The rest is taken."""
    answer = termux(b'{"percentage": 101, "plugged": "SOLAR", "temperature": "NaN", "current": true}')
    assert (answer.values, answer.zones) == ({}, ())
    assert answer.missing == {
        "battery_share": "percentage is '101'",
        "on_mains": "plugged is 'SOLAR'",
        "zone:battery": "temperature is 'NaN'",
    }
    microvolt = termux(b'{"plugged": "UNPLUGGED", "current": 250000, "voltage": 4000000, "percentage": 5}')
    assert microvolt.values == {"on_mains": 0.0, "power_w": 1.0, "battery_share": 0.05}


# NVML


class Nvml:
    """What nvidia-ml-py looks like: one card at 61 °C that slows down at 87, or a fault."""

    class NVMLError(Exception):
        """The library's own."""

    NVML_TEMPERATURE_GPU = 0
    NVML_TEMPERATURE_THRESHOLD_SLOWDOWN = 1
    NVML_TEMPERATURE_THRESHOLD_GPU_MAX = 3

    def __init__(self) -> None:
        self.temp_c = 61
        self.reasons = 0x1
        self.driver = True
        self.n_inits = 0

    def nvmlInit(self) -> None:
        """Fails without a driver."""
        self.n_inits += 1
        if not self.driver:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlDeviceGetCount(self) -> int:
        """One."""
        return 1

    def nvmlDeviceGetHandleByIndex(self, i: int) -> str:
        """Opaque."""
        return f"card {i}"

    def nvmlDeviceGetTemperature(self, handle: str, kind: int) -> int:
        """°C."""
        if self.temp_c < 0:
            raise self.NVMLError("GPU is lost")
        return self.temp_c

    def nvmlDeviceGetTemperatureThreshold(self, handle: str, kind: int) -> int:
        """One that it knows."""
        if kind != 1:
            raise self.NVMLError("Not Supported")
        return 87

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:
        """Bits."""
        return self.reasons


def test_a_card_is_a_zone_and_its_clock_reasons_count(tmp_path: Path) -> None:
    """Idle (0x1) is no throttling, a thermal slowdown (0x20) is, at each look."""
    host = machine(tmp_path, recorded.server())
    nvml = host.libraries["nvml"] = Nvml()
    reader = host.reader()
    reading = reader.read()
    assert reading.zones == (Zone("nvidia0", 61.0, 87.0),)
    assert reading.throttle_count == Value(0.0)
    nvml.reasons = 0x21
    host.clock.now_s += 10
    reader.read()
    assert reader.read().throttle_count == Value(1.0)


@pytest.mark.parametrize(("temp_c", "reason"), [(-1, "nvml: NVMLError: GPU is lost"), (255, "nvml: out of range: 255")])
def test_a_card_that_is_lost_is_missing(tmp_path: Path, temp_c: int, reason: str) -> None:
    """Under its own name."""
    host = machine(tmp_path, recorded.server())
    nvml = host.libraries["nvml"] = Nvml()
    nvml.temp_c = temp_c
    assert reasons(host.reader().read())["zone:nvidia0"] == reason


def test_a_library_without_a_driver_is_asked_once(tmp_path: Path) -> None:
    """And never counted as a source of throttling."""
    host = machine(tmp_path, recorded.server())
    nvml = host.libraries["nvml"] = Nvml()
    nvml.driver = False
    reader = host.reader()
    for _ in range(3):
        host.clock.now_s += 10
        reading = reader.read()
    assert reasons(reading)["nvml"] == "Driver Not Loaded"
    assert reasons(reading)["throttle_count"] == "no counter of throttling"
    assert nvml.n_inits == 1


# psutil


def fake_psutil(**changes: Any) -> Any:
    """What psutil says on a Mac: on battery, half busy."""
    facts: dict[str, Any] = {
        "cpu_count": lambda: 8,
        "sensors_battery": lambda: SimpleNamespace(percent=64, power_plugged=False),
        "cpu_percent": lambda interval: 50.0,
        "virtual_memory": lambda: SimpleNamespace(available=5_000_000),
        "net_if_stats": lambda: {"lo0": SimpleNamespace(isup=True), "en0": SimpleNamespace(isup=False)},
    }
    return SimpleNamespace(**(facts | changes))


def test_psutil_fills_what_nobody_else_knows(tmp_path: Path) -> None:
    """No sysfs, no procfs: battery, load, memory, links. The loop does not count as a link."""
    host = machine(tmp_path, {})
    host.libraries["psutil"] = fake_psutil()
    reading = host.reader().read()
    assert reading.n_cores == 8
    assert (reading.battery_share, reading.on_mains) == (Value(0.64), Value(0.0))
    assert (reading.load_share, reading.memory_free_bytes) == (Value(0.5), Value(5e6))
    assert reading.network_up == Value(0.0)
    assert not {"battery_share", "load_share", "memory_free_bytes"} & set(reasons(reading))


def test_psutil_without_a_battery_and_with_temperatures(tmp_path: Path) -> None:
    """A desktop runs from the mains; its first load of 0 means nothing; a limit of 0 is none."""
    host = machine(tmp_path, {})
    entries = [
        SimpleNamespace(label="", current=48.0, high=0.0, critical=95.0),
        SimpleNamespace(label="x", current=999.0),
    ]
    host.libraries["psutil"] = fake_psutil(
        sensors_battery=lambda: None,
        cpu_percent=lambda interval: 0.0,
        sensors_temperatures=lambda: {"cpu": entries},
    )
    reading = host.reader().read()
    assert reading.on_mains == Value(1.0)
    assert reading.load_share is None
    assert reading.zones == (Zone("cpu/0", 48.0, 95.0),)


def test_psutil_that_fails_is_a_reason(tmp_path: Path) -> None:
    """It raises errors of its own."""

    def fail() -> None:
        raise RuntimeError("no such system call")

    host = machine(tmp_path, {})
    host.libraries["psutil"] = fake_psutil(virtual_memory=fail)
    assert reasons(host.reader().read())["psutil"] == "RuntimeError: no such system call"


# Commands and the background


def test_a_command_says_something_fails_or_is_not_there(tmp_path: Path) -> None:
    """Real processes."""
    host = LocalHost("/", tmp_path)
    assert host.has("sh")
    assert not host.has("no-such-command")
    assert host.run("sh", "-c", "echo throttled=0x0") == b"throttled=0x0\n"
    with pytest.raises(Unusable, match="sh failed with exit code 3"):
        host.run("sh", "-c", "exit 3")
    with pytest.raises(FileNotFoundError):
        host.run("no-such-command")


def test_a_pipe_does_not_make_a_reading_wait(tmp_path: Path) -> None:
    """A file of a sensor that is none: read at once, as nothing."""
    os.mkfifo(tmp_path / "temp")
    assert LocalHost(tmp_path).read("/temp", 100) == b""


def test_an_answer_is_asked_for_again_when_it_is_old() -> None:
    """One question at a time; the age counts from when it was asked."""
    clock, later, answers = Clock(), Later(), iter([1, 2])
    slow = Slow(lambda: next(answers), 10.0, clock, later)
    with pytest.raises(Unusable, match="not answered yet"):
        slow.latest()
    slow.begin()
    assert len(later.jobs) == 1
    later.work()
    clock.now_s += 9
    assert slow.latest() == (1, 9.0)
    assert later.jobs == []
    clock.now_s += 1
    assert slow.latest() == (1, 10.0)
    later.work()
    assert slow.latest() == (2, 0.0)


def test_the_background_does_jobs_in_their_order_and_survives_one_that_fails() -> None:
    """On one thread, which ends by itself."""
    background, done, gate = Background(), [], threading.Event()
    finished = threading.Event()
    background(gate.wait)
    for i in range(3):
        background(lambda i=i: done.append(i))  # type: ignore[misc]
    background(finished.set)
    assert done == []
    gate.set()
    assert finished.wait(10)
    assert done == [0, 1, 2]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_job_that_breaks_does_not_stop_the_next_ones() -> None:
    """Its fault is shown; a new thread goes on."""
    background, finished = Background(), threading.Event()

    def fail() -> None:
        raise ValueError("a bug")

    background(fail)
    for thread in threading.enumerate():
        if thread.name == "telemetry":
            thread.join(10)
    background(finished.set)
    assert finished.wait(10)


@pytest.mark.parametrize(
    ("text", "n"), [("0-3", 4), ("0", 1), ("0-3,6,8-9", 7), ("", 0), ("0-", 0), ("5-2", 0), ("0-99999", 0)]
)
def test_cores_are_counted_from_the_kernels_list(text: str, n: int) -> None:
    """0 is 'no such list'."""
    assert count_list(text) == n


def test_a_kept_file_is_read_anew_and_forgotten_when_it_is_gone(tmp_path: Path) -> None:
    """Held open: a change shows, a new file of that name shows, a deleted one is gone, and a closed host reopens."""
    host, file = LocalHost(tmp_path), tmp_path / "temp"
    for text in ("41000", "9"):
        file.write_text(text)
        assert host.read("/temp", 100, keep=True) == text.encode()
    file.unlink()
    file.write_text("42000")
    assert host.read("/temp", 100, keep=True) == b"42000"
    host.close()
    assert host.read("/temp", 3, keep=True) == b"420"
    file.unlink()
    with pytest.raises(FileNotFoundError):
        host.read("/temp", 100, keep=True)
    (tmp_path / "temp").mkdir()
    with pytest.raises(IsADirectoryError):
        host.read("/temp", 100, keep=True)


def test_files_of_procfs_can_be_kept() -> None:
    """Time goes on in a file that is held open."""
    host = LocalHost("/")
    first = host.read("/proc/uptime", 100, keep=True)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(200):
        again = host.read("/proc/uptime", 100, keep=True)
        if again != first:
            break
        threading.Event().wait(0.01)
    assert again != first
    assert len(os.listdir("/proc/self/fd")) == before
    host.close()
    assert len(os.listdir("/proc/self/fd")) == before - 1
