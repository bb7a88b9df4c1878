"""``evergrove bench agent``: its numbers come from where they should; how large they are is for the bench."""

import os
from pathlib import Path

import pytest

from evergrove.bench import agent
from evergrove.core.errors import EvergroveError


def process(proc: Path, pid: int, ticks: tuple[int, int, int, int], wakeups: int = 7) -> None:
    """A process as /proc shows it, with a name that is out to confuse."""
    folder = proc / str(pid)
    folder.mkdir(parents=True, exist_ok=True)
    before = "S 1 1 1 0 -1 4194560 100 0 0 0"
    (folder / "stat").write_text(f"{pid} (evil) name (x)) {before} {' '.join(map(str, ticks))} 20 0 1 0 55\n")
    (folder / "status").write_text(f"Name:\tx\nVmRSS:\t 1000 kB\nvoluntary_ctxt_switches:\t{wakeups}\n")


def test_cpu_time_is_the_agents_and_that_of_what_it_started(tmp_path: Path) -> None:
    """10 + 20 ticks of its own, 30 + 40 of its children: 1 second at 100 ticks a second."""
    process(tmp_path, 9, (10, 20, 30, 40))
    assert agent.cpu_seconds(9, tmp_path) == pytest.approx(100 / os.sysconf("SC_CLK_TCK"))
    assert agent.switches(9, tmp_path) == 7


def test_an_agent_that_ended_cannot_be_watched(tmp_path: Path) -> None:
    """One error that says so, instead of a zero."""
    with pytest.raises(EvergroveError, match="process 9"):
        agent.watch(9, 0.1, lambda what, done, total: None, tmp_path)


def test_a_process_at_rest_used_nothing(tmp_path: Path) -> None:
    """The same ticks before and after."""
    process(tmp_path, 9, (10, 20, 30, 40))
    cpu_s, took_s, mb, wakeups = agent.watch(9, 0.05, lambda what, done, total: None, tmp_path)
    assert (cpu_s, mb, wakeups) == (0.0, 1.024, 0)
    assert took_s >= 0.05


def test_a_real_agent_is_watched() -> None:
    """A second of it: it lives, it holds its release and pictures, and it is the one that was measured."""
    found = agent.run(1.0, "tiny")
    assert found.seconds >= 1
    assert 0 <= found.cpu_share < 1
    assert 10 < found.mb < 500
    assert [bar.limit for bar in found.bars] == [0.5, 80.0]
