"""Caps on a trainer: tried in processes of their own, for they cannot be taken back; what is refused says why."""

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from evergrove.adapters import caps

N_CORES = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1
linux = pytest.mark.skipif(sys.platform != "linux", reason="the caps of Linux")

REPORT = """
import json, os, sys
from evergrove.adapters import caps
def session(path="/proc/self/autogroup"):
    return open(path).read() if os.path.exists(path) else ""
before, found, after = session(), caps.make_small(), session()
facts = (after != before, after.endswith("nice 19\\n"))
facts += (os.sched_getscheduler(0) == os.SCHED_IDLE, os.getpriority(os.PRIO_PROCESS, 0), len(os.sched_getaffinity(0)))
sys.stdout.write(json.dumps([facts, {cap.name: cap.in_force for cap in found.every}]))
"""


@linux
def test_what_is_said_to_be_in_force_is() -> None:
    """Class, priority and cores of a process that made itself small, asked of the system.

    The file of a process in the kernel's default group, that of services started without a session, is empty.
    """
    done = subprocess.run([sys.executable, "-c", REPORT], capture_output=True, text=True, timeout=60, check=True)
    (moved, lowest, idle, priority, n_cores), in_force = json.loads(done.stdout)
    assert in_force["idle scheduling class"] == idle
    if Path("/proc/self/autogroup").exists():
        assert in_force[caps.SESSION] == (moved and lowest)
    assert in_force["lowest priority"] == (priority == 19)
    assert in_force["a core of its own"] == (n_cores == 1 and len(os.sched_getaffinity(0)) > 1)


TRAINER = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
print("ready", flush=True)
sys.stdin.read()
"""


@linux
def test_a_second_trainer_keeps_off_the_first_one_s_core() -> None:
    """Two devices on one machine: a core with an idle-class process of its own counts as taken while that lives."""
    core = min(os.sched_getaffinity(0))
    other = subprocess.Popen([sys.executable, "-c", TRAINER, str(core)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
        assert caps.trainers()[other.pid] == core
    finally:
        other.communicate()
    assert other.pid not in caps.trainers()


@linux
@pytest.mark.skipif(N_CORES < 2, reason="there is only one core")
def test_where_every_core_has_a_trainer_the_next_one_keeps_to_none() -> None:
    """Six devices of one machine once crowded five trainers on its last core, and left the other one to the sixth."""
    cores = sorted(os.sched_getaffinity(0))
    others = [
        subprocess.Popen([sys.executable, "-c", TRAINER, str(core)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for core in cores
    ]
    try:
        assert [other.stdout.readline() for other in others if other.stdout is not None] == [b"ready\n"] * len(cores)
        cap = caps.own_core()
        assert (cap.in_force, cap.found) == (False, "other trainers keep to every core")
        assert sorted(os.sched_getaffinity(0)) == cores
    finally:
        os.sched_setaffinity(0, cores)
        for other in others:
            other.kill()
            other.communicate()


@linux
def test_the_doctor_tries_them_without_being_touched() -> None:
    """Every cap has a line with a reason, and this process keeps its own class."""
    before = os.sched_getscheduler(0), os.sched_getaffinity(0)
    found = caps.probe()
    assert {cap.name for cap in found.every} >= {"idle scheduling class", "idle disk class", "cgroup cpu.max"}
    assert all(cap.found for cap in found.every)
    assert (os.sched_getscheduler(0), os.sched_getaffinity(0)) == before


def test_the_weakest_core_is_taken_and_of_equals_the_last() -> None:
    """Frames need the strong ones; systems put interrupts on the first."""
    assert caps.best_core({0, 1, 2, 3}, {0: 1024, 1: 1024, 2: 512, 3: 512}) == 3
    assert caps.best_core({0, 1}, {}) == 1


def test_capacity_is_read_from_the_first_file_that_tells(tmp_path: Path) -> None:
    """``cpu_capacity`` of a phone, else the greatest frequency, else 0."""
    folder = tmp_path / "sys/devices/system/cpu/cpu1"
    (folder / "cpufreq").mkdir(parents=True)
    assert caps.capacity(1, tmp_path) == 0
    (folder / "cpufreq/cpuinfo_max_freq").write_text("1800000\n")
    assert caps.capacity(1, tmp_path) == 1_800_000
    (folder / "cpu_capacity").write_text("garbage\n")
    assert caps.capacity(1, tmp_path) == 1_800_000
    (folder / "cpu_capacity").write_text("446\n")
    assert caps.capacity(1, tmp_path) == 446


def group_tree(root: Path, own: str, controllers: str = "cpu") -> Path:
    """A writable cgroup v2 tree in which this process is in the group ``own``."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(f"0::/{own}\n")
    mount = root / "sys/fs/cgroup"
    for folder in (mount, mount / own, (mount / own).parent):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup.subtree_control").write_text(controllers)
    (mount / "cgroup.controllers").write_text("cpu memory")
    return mount


def test_a_group_beside_this_process_s_own_gets_idle_and_max(tmp_path: Path) -> None:
    """One core, idle weight, and this process is moved there."""
    mount = group_tree(tmp_path, "app.service/agent")
    idle, most = caps.control_group(tmp_path)
    assert (idle.in_force, most.in_force) == (True, True)
    group = mount / "app.service" / caps.GROUP
    assert (group / "cpu.idle").read_text() == "1"
    assert (group / "cpu.max").read_text() == caps.ONE_CORE
    assert (group / "cgroup.procs").read_text() == str(os.getpid())


def test_a_system_without_groups_says_so(tmp_path: Path) -> None:
    """No tree at all, or cgroup v1 only: not in force, with the reason."""
    idle, most = caps.control_group(tmp_path)
    assert (idle.in_force, idle.found) == (False, "no such file or directory")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("4:cpu:/user\n")
    idle, most = caps.control_group(tmp_path)
    assert (most.in_force, most.found) == (False, "no cgroup v2 here")


@pytest.mark.parametrize(
    ("in_force", "idle"),
    [
        ({"idle scheduling class", caps.SESSION}, True),
        ({"idle scheduling class"}, False),
        ({"cgroup cpu.idle"}, True),
        ({"lowest priority", caps.SESSION}, False),
    ],
)
def test_a_system_yields_at_once_only_where_the_class_counts(in_force: set[str], idle: bool) -> None:
    """The idle class counts inside a session: among sessions it takes the lowest weight, or a group of its own."""
    names = ("lowest priority", "idle scheduling class", caps.SESSION, "cgroup cpu.idle")
    assert caps.Caps(tuple(caps.Cap(name, name in in_force, "") for name in names)).idle is idle


@linux
def test_who_leads_a_terminal_s_job_keeps_its_session() -> None:
    """Its session is also a person's shell: nothing there may become slow."""
    code = "import os; os.setpgid(0, 0); from evergrove.adapters import caps; print(caps.own_session().in_force)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == str(not Path("/proc/self/autogroup").exists())


@linux
def test_a_system_without_sessions_that_share_needs_nothing(tmp_path: Path) -> None:
    """No autogroups in the kernel: the class counts everywhere."""
    assert caps.own_session(tmp_path) == caps.Cap(caps.SESSION, True, "sessions do not share the cores here")


def test_a_report_travels_as_json() -> None:
    """``doctor`` reads what another process wrote."""
    found = caps.Caps((caps.Cap("a", True, "b"),))
    assert msgspec.json.decode(msgspec.json.encode(found), type=caps.Caps) == found
