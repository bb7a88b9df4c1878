"""``evergrove bench latency``: its numbers come from where they should; how large they are is for the bench."""

import os
import time
from pathlib import Path

import pytest

from evergrove.adapters.release import open_release
from evergrove.bench import beside, latency
from evergrove.bench.latency import Block, Pairs, Sizes
from evergrove.core.errors import EvergroveError
from evergrove.runtime.frame_gate import FrameGate, Training

SHORT = Sizes(own_s=0.8, rival_s=0.0, block_s=0.4, solo_s=0.2, settle_s=0.1)


def block(*times_ms: float, missed: int = 0, rows: int = 0) -> Block:
    """A block of one second."""
    return Block(list(times_ms), missed, len(times_ms), 0.5, 1.0, rows)


def test_the_devices_own_worker_is_measured_beside_a_stream() -> None:
    """Two pairs of 0.4 s: 12 frames a block, rows in the blocks that train, all three bars from the numbers shown."""
    allowed = os.sched_getaffinity(0)
    found = latency.run("tiny", SHORT)
    assert os.sched_getaffinity(0) == allowed
    own = found.own
    assert (own.alone.n, own.training.n, own.p99.n, found.noise.n) == (24, 24, 2, 1)
    assert own.rows_per_s > 0
    assert found.solo_rows_per_s > 0
    assert 0 < found.inference_share < 1
    assert found.attainable == min(1.0, round(found.cores - found.inference_share, 4))
    assert found.attained == pytest.approx(own.rows_per_s / found.solo_rows_per_s / found.attainable, rel=1e-3)
    assert [bar.limit for bar in found.bars] == [latency.P99_RATIO_MAX if found.cores > 1 else 1.25, 0.0, 30.0]
    assert found.rivals == ()


def test_one_core_is_really_one() -> None:
    """Inside, this process has one core; afterwards what it had before."""
    allowed = os.sched_getaffinity(0)
    with latency._confined(True) as cores:
        assert (cores, len(os.sched_getaffinity(0))) == (1, 1)
    assert os.sched_getaffinity(0) == allowed


def test_blocks_are_compared_pair_by_pair() -> None:
    """p99 of constant blocks is their value: ratios 2, 3 and 1 have the median 2; noise compares 10, 10 and 20."""
    alone = [block(10.0, 10.0, missed=1), block(10.0, 10.0), block(20.0, 20.0)]
    training = [block(20.0, 20.0, rows=8), block(30.0, 30.0, missed=3, rows=8), block(20.0, 20.0, rows=16)]
    pairs = Pairs("any", alone, training)
    arm, noise = pairs.arm(), pairs.noise()
    assert (arm.p99.ratio, arm.p99.ratio_min, arm.p99.ratio_max) == (2.0, 1.0, 3.0)
    assert (noise.n, noise.ratio, noise.ratio_max) == (2, 1.5, 2.0)
    assert (arm.alone_missed, arm.training_missed) == (166.7, 500.0)
    assert arm.rows_per_s == 10.67


def test_a_rival_in_the_apps_own_process_obeys_its_gate(tmp_path: Path) -> None:
    """It trains, pauses with not a row more, goes on, and is gone when it is ended."""
    rival = beside.plain_thread(open_release("tiny"), tmp_path)
    try:
        rival.wait_ready()
        looks: list[int] = []
        rival.pause(lambda: looks.append(0))
        paused = rival.rows()
        assert rival.gate.share == 0.0
        assert rival.rows() == paused >= beside.WARM_ROWS
        rival.go_on()
        while rival.rows() == paused:
            time.sleep(0.01)
    finally:
        rival.end()
    assert not rival.alive()
    assert not (tmp_path / "own.gate").exists()


def test_a_trainer_that_ended_is_not_measured(tmp_path: Path) -> None:
    """One error instead of a throughput of 0."""
    gate = FrameGate(tmp_path / "gate")
    gate.report(Training(os.getpid(), gate.now_s(), 1.0, 2, 3, 0, 0))
    ended = [False]
    trainer = beside.Trainer(gate, gate.close, lambda: not ended[0])
    assert trainer.rows() == 3
    ended[0] = True
    with pytest.raises(EvergroveError, match="has ended"):
        trainer.rows()


def test_only_what_is_new_is_shown() -> None:
    """Every picture shows a value that the release does not know."""
    release = open_release("tiny")
    shown = beside.pictures(release)
    known = {factor.name: factor.values for factor in release.manifest.vocabulary.factors}
    assert shown
    assert all(any(value not in known[name] for name, value in condition.items()) for _, condition in shown)
