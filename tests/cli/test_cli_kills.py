"""``evergrove bench kills`` for people: what was counted and what failed; the kills are in tests/runtime."""

import pytest

from evergrove.bench.kills import Count, Fault, Report
from evergrove.cli import bench_tables


def report(*faults: Fault) -> Report:
    """Three kills at writes and two of power, one failed for each fault."""
    kinds = (Count("writes", 3, 3 - len(faults)), Count("power cuts", 2, 2))
    return Report(kinds, (Count("log: append", 3, 3 - len(faults)),), ("make", "learn"), 4, faults, 1.5)


def test_all_recovered(capsys: pytest.CaptureFixture[str]) -> None:
    """Five of five."""
    found = report()
    assert (found.kills, found.recovered, found.met) == (5, 5, True)
    bench_tables.tell_kills(found)
    assert "met: 5 of 5 kills recovered from (4 different disks, 1.5 s)" in capsys.readouterr().out


def test_a_fault_is_named_and_misses_the_bar(capsys: pytest.CaptureFixture[str]) -> None:
    """It says where the kill was and what was wrong afterwards."""
    found = report(Fault("learn", "writes", "log: append", "lost 1 observations that had been accepted"))
    assert not found.met
    bench_tables.tell_kills(found)
    out = capsys.readouterr().out
    assert "writes, learn, log: append: lost 1 observations" in out
    assert "MISSED: 4 of 5 kills recovered from" in out


def test_no_kills_meet_nothing() -> None:
    """A run that killed nothing shows nothing."""
    assert not Report((), (), (), 0, (), 0.0).met
