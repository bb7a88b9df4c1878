"""The supervisor with real processes: started in order, started anew when killed, and none left at the end."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from evergrove.core.errors import EvergroveError
from evergrove.runtime.supervisor import Chore, Patience, Program, Supervisor, free_port

QUICK = Patience(backoff_s=0.05, backoff_s_max=0.2, steady_s=60.0, deaths_max=3, ready_s=10.0, grace_s=2.0, tick_s=0.02)
SRC = str(Path(__file__).parents[2] / "src")


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": SRC}


def sleeper(name: str, *, ready: Callable[[], bool] | None = None, first: str = "pass", tied_to: str = "") -> Program:
    command = (sys.executable, "-c", f"{first}; import time; time.sleep(60)")
    return Program(name, command, environment(), ready, tied_to)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def wait_for(what: Callable[[], object], s: float = 15.0) -> None:
    until_s = time.monotonic() + s
    while not what():
        assert time.monotonic() < until_s, "it did not happen in time"
        time.sleep(0.02)


@contextmanager
def running(supervisor: Supervisor, *chores: Chore) -> Iterator[None]:
    thread = threading.Thread(target=supervisor.run, args=(None, chores))
    thread.start()
    try:
        yield
    finally:
        supervisor.stop()
        thread.join(20.0)
        assert not thread.is_alive()


def test_what_is_killed_starts_again_and_nothing_is_left_at_the_end(tmp_path: Path) -> None:
    """Also the children that a program left behind, and one that does not listen to SIGTERM."""
    child = tmp_path / "child"
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    parent = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', '{deaf}; import time; time.sleep(60)']); open({str(child)!r}, 'w').write(str(p.pid))"  # noqa: E501
    supervisor = Supervisor([sleeper("plain"), sleeper("parent", first=parent)], tmp_path / "logs", QUICK)
    with running(supervisor):
        wait_for(lambda: child.exists() and child.read_text())
        first, left = supervisor.pids(), int(child.read_text())
        os.kill(first["parent"], signal.SIGKILL)
        wait_for(lambda: not alive(left))
        wait_for(lambda: supervisor.starts() == {"plain": 1, "parent": 2} and len(supervisor.pids()) == 2)
        wait_for(lambda: int(child.read_text() or left) != left)
        second, left = supervisor.pids(), int(child.read_text())
        assert second["plain"] == first["plain"]
        assert alive(left)
    # What was killed is still there for an instant.
    wait_for(lambda: not any(alive(pid) for pid in (*first.values(), *second.values(), left)))


def test_each_waits_for_the_one_before_it(tmp_path: Path) -> None:
    """The second is started when the first can be used."""
    mark = tmp_path / "ready"
    seen: list[dict[str, int]] = []

    def ready() -> bool:
        seen.append(supervisor.starts())
        return mark.exists()

    supervisor = Supervisor([sleeper("first", ready=ready), sleeper("second")], tmp_path / "logs", QUICK)
    with running(supervisor):
        wait_for(lambda: len(seen) > 2)
        assert seen[-1] == {"first": 1, "second": 0}
        mark.touch()
        wait_for(lambda: supervisor.starts()["second"] == 1)


def test_what_is_tied_to_another_starts_again_with_it(tmp_path: Path) -> None:
    """Not the other way round; and only once the other can be used again."""
    usable = [True]
    supervisor = Supervisor(
        [sleeper("root", ready=lambda: usable[0]), sleeper("leaf", tied_to="root")], tmp_path / "logs", QUICK
    )
    with running(supervisor):
        wait_for(lambda: len(supervisor.pids()) == 2)
        os.kill(supervisor.pids()["leaf"], signal.SIGKILL)
        wait_for(lambda: supervisor.starts() == {"root": 1, "leaf": 2})
        usable[0] = False
        leaf = supervisor.pids()["leaf"]
        os.kill(supervisor.pids()["root"], signal.SIGKILL)
        wait_for(lambda: supervisor.starts()["root"] == 2)
        wait_for(lambda: not alive(leaf))
        assert supervisor.starts()["leaf"] == 2
        usable[0] = True
        wait_for(lambda: supervisor.starts() == {"root": 2, "leaf": 3})


def test_what_dies_at_once_is_given_up_after_a_bounded_number_of_starts(tmp_path: Path) -> None:
    """With its name, its exit code and where its words are."""
    broken = Program("broken", (sys.executable, "-c", "print('no'); raise SystemExit(9)"), environment())
    supervisor = Supervisor([sleeper("plain"), broken], tmp_path / "logs", QUICK)
    with pytest.raises(EvergroveError, match=r"broken ended 4 times in a row, at last with 9; see .*broken\.log"):
        supervisor.run()
    assert supervisor.pids() == {}
    assert (tmp_path / "logs" / "broken.log").read_text() == "no\n" * 4


def test_what_never_becomes_ready_is_an_error(tmp_path: Path) -> None:
    """And what was started before it is ended."""
    patience = Patience(ready_s=0.3, tick_s=0.02)
    supervisor = Supervisor([sleeper("plain"), sleeper("late", ready=lambda: False)], tmp_path / "logs", patience)
    with pytest.raises(EvergroveError, match=r"late is not ready after 0\.3 s"):
        supervisor.run()
    assert supervisor.pids() == {}


@pytest.mark.skipif(sys.platform != "linux", reason="the order to die with a parent is Linux's")
def test_even_a_killed_supervisor_leaves_nothing(tmp_path: Path) -> None:
    """The kernel ends what it started."""
    code = (
        "import os, sys; from pathlib import Path; from evergrove.runtime.supervisor import Program, Supervisor\n"
        f"one = Program('one', (sys.executable, '-c', 'import time; time.sleep(60)'), dict(os.environ))\n"
        f"supervisor = Supervisor([one], Path({str(tmp_path)!r}))\n"
        "supervisor.run(lambda: print(*supervisor.pids().values(), flush=True))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        wait_for(lambda: b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes().rpartition(b"guarded")[2])
        process.kill()
    wait_for(lambda: not alive(pid))


def test_a_free_port_can_be_bound(tmp_path: Path) -> None:
    """On both families."""
    assert 1024 <= free_port() <= 65535


def test_one_that_lives_and_gives_no_sign_is_started_anew(tmp_path: Path) -> None:
    """As often as it falls silent, and never while it gives signs."""
    signs = {"silent": time.monotonic(), "lively": float("inf")}
    programs = [replace(sleeper(name), sign_s=lambda name=name: signs[name]) for name in signs]  # type: ignore[misc]
    supervisor = Supervisor(programs, tmp_path / "logs", replace(QUICK, silence_s=0.5, steady_s=0.2))
    with running(supervisor):
        wait_for(lambda: supervisor.starts()["silent"] >= 3)
        assert supervisor.starts()["lively"] == 1
        signs["silent"] = float("inf")
        wait_for(lambda: len(supervisor.pids()) == 2)
        n = supervisor.starts()["silent"]
        time.sleep(1.0)
        assert supervisor.starts()["silent"] == n
