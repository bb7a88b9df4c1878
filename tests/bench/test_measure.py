"""How measurements are summed up: numbers that can be checked by hand, and a machine made of text files."""

from pathlib import Path

import pytest

from evergrove.bench.measure import Bar, Ratio, Spread, machine, rss_mb


def test_a_spread_is_quantiles_not_a_mean() -> None:
    """One slow call in a hundred shows in p99 and in the greatest, not in the median."""
    found = Spread.of([1.0] * 99 + [50.0], "ms")
    assert (found.n, found.p50, found.max, found.unit) == (100, 1.0, 50.0, "ms")
    assert 1.0 < found.p99 < 50.0


def test_a_ratio_pairs_block_by_block() -> None:
    """A machine that gets ten times slower in the middle slows both, so the ratio stays 2."""
    found = Ratio.of([20.0, 2.0, 22.0], [10.0, 1.0, 11.0], "images/s")
    assert (found.ratio, found.ratio_min, found.ratio_max) == (2.0, 2.0, 2.0)
    assert (found.n, found.mine, found.other) == (3, 20.0, 10.0)


def test_numbers_have_four_digits() -> None:
    """More would be noise."""
    assert Spread.of([1.23456789], "ms").p50 == 1.235


def test_a_bar_is_met_at_its_limit() -> None:
    """At most means at most."""
    assert Bar("swap", 2.0, 2.0, "ms").met
    assert not Bar("swap", 2.01, 2.0, "ms").met


def test_the_machine_is_read_from_proc(tmp_path: Path) -> None:
    """What the system does not tell is left out, not guessed."""
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Acme 9000\n")
    (tmp_path / "meminfo").write_text("MemTotal:  2048000 kB\n")
    found = machine(tmp_path)
    assert (found.cpu, found.memory_mb) == ("Acme 9000", 2000)
    assert machine(tmp_path / "nowhere").memory_mb == 0


def test_resident_memory_is_in_decimal_megabytes(tmp_path: Path) -> None:
    """The kernel's kB are 1024 bytes."""
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "status").write_text("Name:\tagent\nVmRSS:\t   1000 kB\n")
    assert rss_mb(7, tmp_path) == 1.024
    with pytest.raises(OSError, match="no resident size"):
        rss_mb(8, tmp_path)
