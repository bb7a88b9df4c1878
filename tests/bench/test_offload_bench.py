"""``evergrove bench offload``: both arms are measured and judged, and the sums are those of their parts."""

import pytest

from evergrove.bench.offload import QUICK, run


def test_an_assist_spares_what_comes_before_the_first_step_and_half_of_the_old_rows() -> None:
    """One short job each on the small release: preparation costs next to nothing, and a step 12 rows instead of 16."""
    told: list[str] = []
    found = run("tiny", QUICK, 2.0, lambda what, done, total: told.append(what))
    alone, assisted = found.alone, found.assisted
    assert assisted.steps_gflop == pytest.approx(0.75 * alone.steps_gflop, rel=0.02)
    assert assisted.prepare_gflop < 0.01 * alone.prepare_gflop
    assert (assisted.held_mb, alone.held_mb > 10) == (0.0, True)
    fewer = 0.25 * alone.steps_gflop
    assert found.saved_gflop_share == pytest.approx((alone.prepare_gflop + fewer) / alone.gflop, abs=0.01)
    assert alone.read_cpu_s.p50 == 0.0
    assert assisted.read_cpu_s.p50 > 0.0
    assert 1_000_000 < found.assist_bytes < 4_000_000
    assert all(0.0 <= share <= 1.0 for arm in (alone, assisted) for share in (arm.old, arm.new))
    assert alone.old > 0.5
    assert told == ["the fog's assist", *["counting operations"] * 2, "learning alone", "learning assisted"]
