"""What this machine offers a device, found out without importing torch: versions, cores, memory, disk, keys, sockets.

Every probe gives one ``Check``: what was found, whether that will do, and the way out where it will not.
"""

import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import msgspec

from evergrove.adapters.release import open_release, packaged
from evergrove.adapters.telemetry import Reader
from evergrove.adapters.telemetry.host import LocalHost
from evergrove.adapters.telemetry.slow import at_once
from evergrove.core.errors import EvergroveError
from evergrove.core.telemetry import Telemetry

DISTRIBUTION = "evergrove"
MEMORY_MB_MIN = 1500
"""A trainer on the shipped base takes under 1 GB beside the app; below this it is tight."""
DISK_MB_MIN = 500
"""A replay buffer at its limit, two versions, a job's checkpoints and the log, several times over."""
PYTHON_MIN = (3, 11)

State = Literal["ok", "warning", "missing"]


class Check(msgspec.Struct, frozen=True):
    """One finding. ``warning``: works, but know this; ``missing``: something will fail until ``way_out`` is done."""

    name: str
    state: State
    found: str
    way_out: str = ""


def examine(folder: Path) -> tuple[Check, ...]:
    """Every check, in the order in which a person wants to read them. ``folder`` is where devices will live."""
    probes: list[Callable[[], Check]] = [
        python,
        torch,
        cores,
        memory,
        lambda: disk(folder),
        key_source,
        idle_class,
        unix_sockets,
    ]
    return (
        *(probe() for probe in probes),
        *sensors(Reader(LocalHost("/", "."), start=at_once)),
        *extras(),
        *releases(),
    )


def python() -> Check:
    """The interpreter: 3.11 or newer."""
    found = (
        f"{platform.python_implementation()} {platform.python_version()} on {platform.system()} {platform.machine()}"
    )
    if sys.version_info[:2] < PYTHON_MIN:
        return Check("Python", "missing", found, "install Python {}.{} or newer".format(*PYTHON_MIN))
    return Check("Python", "ok", found)


def torch() -> Check:
    """PyTorch's version and build, from its metadata: importing it takes seconds."""
    version, wanted = installed("torch"), requirement("torch")
    if version is None or find_spec("torch") is None:
        return Check(
            "PyTorch", "missing", "not installed", f"pip install '{'torch' + wanted}'; the CPU build is enough"
        )
    release, _, build = version.partition("+")
    found = f"{release} ({'CPU' if build == 'cpu' else build or 'default'} build)"
    if not within(release, wanted):
        return Check("PyTorch", "missing", found, f"pip install 'torch{wanted}'")
    return Check("PyTorch", "ok", found)


def cores() -> Check:
    """CPU cores that this process may use."""
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if n < 2:
        return Check("Processor", "warning", "1 core", "it works; pictures take longer while the device learns")
    return Check("Processor", "ok", f"{n} cores")


def memory(proc: Path = Path("/proc")) -> Check:
    """Main memory that is free now, from /proc/meminfo."""
    try:
        lines = (proc / "meminfo").read_text().splitlines()
        free = {key: int(value.split()[0]) / 1024 for key, _, value in (line.partition(":") for line in lines) if value}
        total_mb, free_mb = free["MemTotal"], free["MemAvailable"]
    except (OSError, KeyError, ValueError, IndexError):
        return Check("Memory", "warning", "unknown", "learning takes about 1 GB; see that it is free")
    found = f"{free_mb / 1024:.1f} GB free of {total_mb / 1024:.1f} GB"
    if free_mb < MEMORY_MB_MIN:
        return Check("Memory", "warning", found, "close other programs before the device learns; it takes about 1 GB")
    return Check("Memory", "ok", found)


def disk(folder: Path) -> Check:
    """Free space where devices will live: ``folder``, or its nearest parent that exists."""
    place = folder.absolute()
    while not place.is_dir() and place != place.parent:
        place = place.parent
    free_mb = shutil.disk_usage(place).free / 1e6
    found = f"{free_mb / 1000:.1f} GB free at {place}"
    if not os.access(place, os.W_OK):
        return Check("Disk", "warning", f"{place} cannot be written", "make devices in a folder of your own")
    if free_mb < DISK_MB_MIN:
        return Check("Disk", "missing", found, f"free {DISK_MB_MIN} MB, or choose another folder with --device")
    return Check("Disk", "ok", found)


def key_source(package: str = "keyring") -> Check:
    """Where the key of the encrypted observations lies: in a file; and whether a keyring of the system answers."""
    found = "in a file inside the device's folder, readable by you alone; "
    if find_spec(package) is None:
        found += "no system keyring in use"
    else:
        try:
            backend = import_module(package).get_keyring()
            answers = backend.priority > 0
        except Exception:  # noqa: BLE001  a keyring's backends fail in ways of their own, all meaning: no answer
            answers = False
        found += "a system keyring answers" if answers else "no system keyring answers"
    way_out = "whoever copies the whole folder can read the observations; keep devices on an encrypted disk"
    return Check("Key", "warning", found, way_out)


def idle_class() -> Check:
    """Whether a trainer may run in the idle scheduling class, where it never takes time from an app."""
    name, slower = "Idle priority", "training runs at the lowest ordinary priority and may cost an app some frames"
    if not hasattr(os, "SCHED_IDLE"):
        return Check(name, "warning", f"unknown to {platform.system()}", slower)
    probe = "import os; os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))"
    try:
        done = subprocess.run([sys.executable, "-I", "-S", "-c", probe], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return Check(name, "warning", "could not be tried", slower)
    if done.returncode:
        return Check(name, "warning", "refused by the system", slower)
    return Check(name, "ok", "works: the trainer never takes time from an app")


def unix_sockets() -> Check:
    """Whether an app and the agent can talk through a socket in the file system."""
    name, way_out = "Local sockets", "run where Unix sockets work: Linux, macOS, or WSL 2 on its own disk"
    if not hasattr(socket, "AF_UNIX"):
        return Check(name, "missing", f"unknown to {platform.system()}", way_out)
    try:
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.bind(os.path.join(folder, "probe"))
    except OSError as fault:
        return Check(name, "missing", f"refused: {fault.strerror or fault}", way_out)
    return Check(name, "ok", "work")


def sensors(reader: Reader) -> tuple[Check, ...]:
    """What the device can tell about its own body: one check for each group. ``reader`` waits for what is slow."""
    reading = reader.read()
    reasons = {gone.field: gone.reason for gone in reading.missing}
    return (
        _temperature(reading, reasons),
        _battery(reading, reasons),
        _throttling(reading, reasons, reader.throttles.names),
        _pressure(reading, reasons),
        _network(reading, reasons),
    )


def _temperature(reading: Telemetry, reasons: dict[str, str]) -> Check:
    if reading.zones:
        zones = sorted(reading.zones, key=lambda zone: zone.temp_c - (zone.trip_c or 80.0), reverse=True)
        told = [f"{z.name} {z.temp_c:.0f}" + (f" of {z.trip_c:.0f}" if z.trip_c else "") for z in zones[:4]]
        more = f", and {len(zones) - 4} more" if len(zones) > 4 else ""
        return Check("Temperature", "ok", f"{', '.join(told)} °C{more}")
    broken = [f"{field[5:]}: {reason}" for field, reason in reasons.items() if field.startswith("zone:")]
    return Check(
        "Temperature",
        "warning",
        "; ".join(broken[:3]) or reasons.get("zones", "unknown"),
        "learning works, but nothing here can tell when the machine gets hot; a driver (`sensors-detect`) may help",
    )


def _battery(reading: Telemetry, reasons: dict[str, str]) -> Check:
    mains = {None: "power source unknown", 0.0: "on battery", 1.0: "on mains"}
    source = mains[reading.on_mains.value if reading.on_mains else None]
    power = f", {reading.power_w.value:.1f} W" if reading.power_w else ""
    if reading.battery_share:
        return Check("Battery", "ok", f"{reading.battery_share.value:.0%}, {source}{power}")
    reason = reasons.get("battery_share", "unknown")
    if reading.on_mains and reason == "no battery":
        return Check("Battery", "ok", f"none, {source}{power}")
    way_out = "a device that runs on battery would learn until it is empty; on Android install Termux:API"
    return Check("Battery", "warning", f"{reason}; {source}{power}", way_out)


def _throttling(reading: Telemetry, reasons: dict[str, str], sources: tuple[str, ...]) -> Check:
    if reading.throttle_count:
        return Check("Throttling", "ok", f"seen by: {', '.join(sources)}")
    return Check(
        "Throttling",
        "warning",
        reasons.get("throttle_count", "unknown"),
        "that the processor was slowed down for heat goes unnoticed; temperature alone must keep it cool",
    )


def _pressure(reading: Telemetry, reasons: dict[str, str]) -> Check:
    shares = {"cores": reading.psi_cpu_share, "memory": reading.psi_memory_share, "disk": reading.psi_io_share}
    known = [f"{name} {share.value:.0%}" for name, share in shares.items() if share]
    if len(known) == len(shares):
        return Check("Pressure", "ok", f"waiting for {', '.join(known)}")
    way_out = "a shortage of memory or disk shows later without it; boot Linux with psi=1"
    return Check(
        "Pressure", "warning", reasons.get("psi_memory_share", reasons.get("psi_io_share", "unknown")), way_out
    )


def _network(reading: Telemetry, reasons: dict[str, str]) -> Check:
    if reading.network_up is None:
        way_out = "the device takes it that it is offline, and learns alone"
        return Check("Network", "warning", reasons.get("network_up", "unknown"), way_out)
    up = "up" if reading.network_up.value else "down"
    if reading.network_metered is None:
        way_out = "set telemetry.metered to yes or no, so that the device knows whether bytes cost something"
        return Check("Network", "warning", f"{up}; whether it is metered, nobody tells", way_out)
    return Check("Network", "ok", f"{up}, {'metered' if reading.network_metered.value else 'not metered'}")


def extras() -> tuple[Check, ...]:
    """Each optional part of Evergrove: there, or what it lacks and how to install it."""
    checks = []
    for extra, packages in sorted(optional_packages().items()):
        lacking = [package for package in packages if installed(package) is None]
        if lacking:
            found = f"not installed (lacks {', '.join(lacking)})"
            checks.append(
                Check(f"Extra '{extra}'", "warning", found, f"pip install 'evergrove[{extra}]', if you need it")
            )
        else:
            checks.append(Check(f"Extra '{extra}'", "ok", ", ".join(packages)))
    return tuple(checks)


def releases() -> tuple[Check, ...]:
    """Each release that comes with the package: whether all its files have the hashes of its manifest."""
    checks = []
    for name in packaged():
        try:
            release = open_release(name)
            files = release.manifest.files()
            for ref in files:
                release.read(ref)
        except EvergroveError as fault:
            checks.append(Check(f"Release '{name}'", "missing", str(fault), "install Evergrove again"))
            continue
        manifest = release.manifest
        n_mb = sum(ref.n_bytes for ref in files) / 1e6
        found = f"version {manifest.generation}.{manifest.version}, {manifest.image_px} px, {n_mb:.1f} MB, hashes right"
        checks.append(Check(f"Release '{name}'", "ok", found))
    if not checks:
        checks.append(Check("Releases", "warning", "none in the package", "make one with `evergrove base train`"))
    return tuple(checks)


def installed(distribution: str) -> str | None:
    """The version of an installed distribution, None where it is not; imports nothing."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def requirement(package: str) -> str:
    """What Evergrove itself asks of ``package``, such as ``>=2.6,<2.14``; empty where it cannot be known."""
    for line in _requirements():
        name, _, rest = _split(line)
        if name == package and "extra" not in rest:
            return line.partition(";")[0].strip()[len(name) :].strip(" ()")
    return ""


def optional_packages() -> dict[str, list[str]]:
    """The extras of Evergrove and the distributions that each needs, from its own metadata."""
    found: dict[str, list[str]] = {}
    for line in _requirements():
        name, extra, _ = _split(line)
        if extra and name != DISTRIBUTION:
            found.setdefault(extra, []).append(name)
    return found


def within(version: str, wanted: str) -> bool:
    """Whether ``version`` satisfies ``wanted``, of which the parts ``>=``, ``<`` and ``==`` are understood."""
    mine = _numbers(version)
    for part in filter(None, (part.strip() for part in wanted.split(","))):
        theirs = _numbers(part)
        kept = mine >= theirs if part.startswith(">=") else mine < theirs if part.startswith("<") else mine == theirs
        if not kept:
            return False
    return True


def _requirements() -> list[str]:
    try:
        return metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return []


def _split(line: str) -> tuple[str, str, str]:
    """``"pillow>=11; extra == 'demo'"`` → (``"pillow"``, ``"demo"``, the marker)."""
    head, _, marker = line.partition(";")
    name = re.match(r"[A-Za-z0-9._-]+", head.strip())
    extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", marker)
    return (name.group().lower() if name else "", extra.group(1) if extra else "", marker)


def _numbers(version: str) -> tuple[int, ...]:
    """``">=2.6"`` → (2, 6, 0): three numbers, so that 2.6 and 2.6.0 are equal."""
    numbers = [int(n) for n in re.findall(r"\d+", version)[:3]]
    return tuple(numbers + [0] * (3 - len(numbers)))
