"""``evergrove bench offload``: both arms are measured and judged, and the sums are those of their parts."""

import pytest

from evergrove.bench.offload import QUICK, run


def test_an_assist_spares_what_comes_before_the_first_step() -> None:
    """One short job each on the small release: steps cost as many operations, preparation next to none."""
    told: list[str] = []
    found = run("tiny", QUICK, 2.0, lambda what, done, total: told.append(what))
    alone, assisted = found.alone, found.assisted
    assert alone.steps_gflop == assisted.steps_gflop > 0
    assert assisted.prepare_gflop < 0.01 * alone.prepare_gflop
    assert (assisted.held_mb, alone.held_mb > 10) == (0.0, True)
    assert found.saved_gflop_share == pytest.approx(alone.prepare_gflop / alone.gflop, abs=0.01)
    assert alone.read_cpu_s.p50 == 0.0
    assert assisted.read_cpu_s.p50 > 0.0
    assert 1_000_000 < found.assist_bytes < 4_000_000
    assert all(0.0 <= share <= 1.0 for arm in (alone, assisted) for share in (arm.old, arm.new))
    assert alone.old > 0.5
    assert told == ["the fog's assist", *["counting operations"] * 2, "learning alone", "learning assisted"]
