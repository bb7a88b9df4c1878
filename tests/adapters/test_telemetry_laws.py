"""Laws of telemetry: whatever files say, a reading comes, and each value in it is one that could be; frozen sensors."""

import errno
import json
from pathlib import Path

import pytest
from hosts import Clock, machine
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evergrove.adapters.telemetry import Reader
from evergrove.adapters.telemetry.foreign import termux
from evergrove.adapters.telemetry.heat import Frozen, trip_of
from evergrove.adapters.telemetry.host import LocalHost, Unusable
from evergrove.adapters.telemetry.parse import decimal, millidegrees, whole
from evergrove.bench import recorded
from evergrove.core.telemetry import Telemetry, Value

TREES = (recorded.pi(), recorded.jetson(), recorded.laptop(), recorded.broken())
PATHS = sorted({path for tree in TREES for path in tree if not path.endswith(".keep")})
LIKELY = (
    "",
    "\n",
    "-1",
    "0",
    "65535",
    "-273150",
    "nan",
    "inf",
    "1e9",
    "0x10",
    "1_000",
    "١٢",
    " 7 ",
    "some avg10=",
    "cpu ",
)
GARBAGE = st.one_of(
    st.sampled_from(LIKELY).map(str.encode),
    st.integers(-(10**20), 10**20).map(lambda n: str(n).encode()),
    st.binary(max_size=64),
    st.sampled_from((b"9" * 5000, b"\0" * 100, b"some avg10=99999999999999999999 ", b"cpu  1 2\n")),
)
FAULTS = st.sampled_from(
    (errno.EIO, errno.EACCES, errno.ENODEV, errno.ENOENT, errno.EAGAIN, errno.EINVAL, errno.EISDIR)
)
LIMITS = {
    "battery_share": (0, 1),
    "on_mains": (0, 1),
    "power_w": (0, 1000),
    "cpu_freq_share": (0, 1),
    "throttle_count": (0, 1e17),
    "load_share": (0, 1),
    "psi_cpu_share": (0, 1),
    "psi_memory_share": (0, 1),
    "psi_io_share": (0, 1),
    "memory_free_bytes": (0, 2**60),
    "disk_free_bytes": (0, 2**60),
    "network_up": (0, 1),
    "network_metered": (0, 1),
}


class Memory(LocalHost):
    """A tree in memory in which some files say something else, or fail."""

    def __init__(self, tree: dict[str, str]) -> None:
        super().__init__("/nowhere")
        self.files = {path: text.encode() for path, text in tree.items()}
        self.faults: dict[str, int] = {}

    def read(self, path: str, n_bytes: int, *, keep: bool = False) -> bytes:
        """Whatever a test put there."""
        if path in self.faults:
            raise OSError(self.faults[path], "fault")
        if path not in self.files:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        return self.files[path][:n_bytes]

    def names(self, path: str) -> list[str]:
        """The entries of a folder."""
        found = {file[len(path) + 1 :].split("/")[0] for file in self.files if file.startswith(f"{path}/")}
        if not found:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        return sorted(found)

    def disk_free_bytes(self) -> int:
        """A gigabyte."""
        return 10**9


def check(reading: Telemetry) -> None:
    """A field is a value that could be, or missing with a reason."""
    missing = {gone.field: gone.reason for gone in reading.missing}
    assert all(0 < len(reason) <= 120 and reason.isprintable() for reason in missing.values())
    assert all(field.isprintable() for field in missing)
    for field, (low, high) in LIMITS.items():
        value: Value | None = getattr(reading, field)
        if value is None:
            assert missing[field]
        else:
            assert field not in missing
            assert low <= value.value <= high
            assert value.age_s >= 0
    names = [zone.name for zone in reading.zones]
    assert len(set(names)) == len(names)
    for zone in reading.zones:
        assert -40 <= zone.temp_c <= 125
        assert zone.trip_c is None or 35 <= zone.trip_c <= 125
        assert f"zone:{zone.name}" not in missing
    assert 1 <= reading.n_cores <= 4096


@given(
    st.integers(0, len(TREES) - 1),
    st.dictionaries(st.sampled_from(PATHS), GARBAGE, max_size=12),
    st.dictionaries(st.sampled_from(PATHS), GARBAGE, max_size=12),
    st.dictionaries(st.sampled_from(PATHS), FAULTS, max_size=6),
)
@settings(max_examples=250, deadline=None)
def test_whatever_files_say_a_reading_comes(
    n: int, first: dict[str, bytes], then: dict[str, bytes], faults: dict[str, int]
) -> None:
    """Garbage at the scan, other garbage afterwards, and faults of the system on top."""
    host, clock = Memory(TREES[n]), Clock()
    host.files |= first
    reader = Reader(host, elapsed_s=clock, start=lambda job: job())
    check(reader.read())
    host.files |= then
    host.faults = faults
    clock.now_s += 10
    check(reader.read())
    clock.now_s += 300
    check(reader.read())


@given(GARBAGE, st.integers(-(10**9), 10**9), st.integers(0, 10**9))
def test_a_number_is_in_its_range_or_refused(data: bytes, low: int, width: int) -> None:
    """And it is the number that the text says."""
    text = data.decode("ascii", "replace")
    try:
        number = whole(text, low, low + width)
    except Unusable:
        return
    assert low <= number <= low + width
    assert int(text) == number


@pytest.mark.parametrize("text", ["nan", "inf", "1e3", "1_0", "١", "0x1", "1.", ".5", "--1", ""])
def test_what_python_takes_for_a_number_the_kernel_never_writes(text: str) -> None:
    """Such a text comes from a broken driver."""
    with pytest.raises(Unusable):
        decimal(text, -1e9, 1e9)
    with pytest.raises(Unusable):
        whole(text, -(10**9), 10**9)


@given(st.integers(-300_000, 300_000))
def test_a_temperature_is_possible_or_refused(raw: int) -> None:
    """Thousandths of a degree; neither 0 nor a register of ones."""
    try:
        temp_c = millidegrees(str(raw))
    except Unusable:
        assert raw == 65535 or abs(raw) <= 150 or not -40_000 <= raw <= 125_000
    else:
        assert temp_c == raw / 1000


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(("PLUGGED_AC", "31.5")),
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=3,
)
KEYS = st.sampled_from(("percentage", "plugged", "temperature", "current", "voltage", "status"))


@given(st.binary(max_size=200) | st.dictionaries(KEYS, JSON).map(lambda status: json.dumps(status).encode()))
@example(b"[" * 60_000)
@example(b'"\x80"')
def test_no_answer_of_termux_is_an_error(data: bytes) -> None:
    """It is an answer, or refused."""
    try:
        answer = termux(data)
    except Unusable:
        return
    assert set(answer.values) <= {"battery_share", "on_mains", "power_w"}
    assert all(LIMITS[field][0] <= value <= LIMITS[field][1] for field, value in answer.values.items())
    assert all(-40 <= zone.temp_c <= 125 for zone in answer.zones)


def test_the_lowest_plausible_trip_point_counts() -> None:
    """Fans, reset values and text do not."""
    trips = [("active", "40000"), ("passive", "0"), ("passive", "-274000"), ("hot", "99000"), ("critical", "warm")]
    assert trip_of(trips) == 99.0
    assert trip_of([*trips, ("critical", "95000")]) == 95.0
    assert trip_of([("passive", "127000")]) is None
    assert trip_of([]) is None


# Frozen sensors

BUSY, IDLE = 0.9, 0.1


def run(frozen: Frozen, temps: list[dict[str, float]], loads: list[float], period_s: float = 60.0) -> dict[str, str]:
    """Readings one after the other; gives what is frozen at the last."""
    found: dict[str, str] = {}
    for i, (temp, load) in enumerate(zip(temps, loads, strict=True)):
        found = frozen.update(i * period_s, load, temp)
    return found


def swinging(n: int) -> list[float]:
    """Ten minutes idle, ten minutes busy, and so on, one reading a minute."""
    return [BUSY if i // 10 % 2 else IDLE for i in range(n)]


def test_a_calm_machine_has_calm_sensors() -> None:
    """An hour of the same temperature at the same load is no fault."""
    assert run(Frozen(), [{"cpu": 41.0}] * 60, [IDLE] * 60) == {}


def test_a_sensor_that_ignores_the_load_is_frozen_after_half_an_hour() -> None:
    """Alone, or once it has moved; not before 30 minutes."""
    assert run(Frozen(), [{"cpu": 41.0}] * 30, swinging(30)) == {}
    assert run(Frozen(), [{"cpu": 41.0}] * 31, swinging(31)) == {
        "cpu": "frozen at 41.0 °C for 30 min while the load changed"
    }
    moved = [{"cpu": 40.0, "skin": 30.0 + i} for i in range(2)]
    moved += [{"cpu": 41.0, "skin": 30.0 + i} for i in range(40)]
    assert set(run(Frozen(), moved, swinging(42))) == {"cpu"}


def test_a_sensor_that_never_moved_beside_living_ones_is_furniture() -> None:
    """The constant zone of many a laptop must not stop it from learning."""
    temps = [{"acpitz": 27.8, "cpu": 40.0 + i} for i in range(60)]
    assert run(Frozen(), temps, swinging(60)) == {}


def test_a_sensor_that_moves_again_is_believed_again() -> None:
    """At once."""
    frozen = Frozen()
    assert run(frozen, [{"cpu": 41.0}] * 31, swinging(31))
    assert frozen.update(31 * 60.0, BUSY, {"cpu": 41.5}) == {}


def test_without_a_load_nothing_is_called_frozen() -> None:
    """There is nothing to hold it against."""
    frozen = Frozen()
    for i in range(60):
        assert frozen.update(i * 60.0, None, {"cpu": 41.0}) == {}


def test_a_frozen_zone_is_missing_from_the_reading(tmp_path: Path) -> None:
    """Half an hour of swinging load at exactly 58.426 °C."""
    host = machine(tmp_path, recorded.pi())
    reader = host.reader()
    busy, idle = 25_000, 75_000
    for load in swinging(32):
        busy, idle = busy + round(1000 * load), idle + round(1000 * (1 - load))
        host.write("/proc/stat", recorded.stat(busy, idle))
        reading = reader.read()
        host.clock.now_s += 60
    assert reading.zones == ()
    (gone,) = [gone for gone in reading.missing if gone.field == "zone:cpu-thermal"]
    assert gone.reason.startswith("frozen at 58.4 °C")
