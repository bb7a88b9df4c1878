"""Orders: each stage's own, the same again for the same state, and a share before every worker's start."""

import msgspec
import pytest

from evergrove.core import effects as do
from evergrove.tiers.device.orders import again, enter, order
from evergrove.tiers.device.state import State, Work

WORK = Work("job-00001", "learn", "wait", 2, "p1", ("a", "b"), ((3, 0),), 100, "c1", "/tmp/x", 0.5, assist="f1")
STATE = State(release="r1", active="c0", previous="p0", sequence=7, share=0.5)


@pytest.mark.parametrize(
    ("stage", "asked"),
    [
        ("wait", None),
        ("assist", do.FetchAssist("job-00001", "r1")),
        ("trusted", do.SendTrusted("job-00001", "p1", ("a", "b"), 100)),
        ("train", do.StartTraining("job-00001", "p1", ("a", "b"), 100, 2, "f1")),
        ("measure", do.StartMeasuring("job-00001", "c1", "/tmp/x", "c0", ((3, 0),), 0.5, 2)),
        ("promote", do.ActivateVersion("c1", "c0", 8, probation=True)),
        ("restore", do.ActivateVersion("p0", None, 8, probation=False)),
    ],
)
def test_every_stage_has_its_order(stage: str, asked: do.Effect | None) -> None:
    """Field by field: what the driver is asked for, and for a job that waits nothing."""
    assert order(msgspec.structs.replace(WORK, stage=stage), STATE) == asked


def test_a_stage_that_there_is_not_is_our_own_mistake() -> None:
    """It names the stage."""
    with pytest.raises(AssertionError, match="no order for stage 'dream'"):
        order(msgspec.structs.replace(WORK, stage="dream"), STATE)


@pytest.mark.parametrize(("stage", "told"), [("train", True), ("measure", True), ("assist", False), ("promote", False)])
def test_a_worker_is_told_its_share_before_it_starts(stage: str, told: bool) -> None:
    """Half a core first, then the start; where no worker runs there is no share to tell."""
    work = msgspec.structs.replace(WORK, stage=stage)
    state, orders = enter(STATE, msgspec.structs.replace(WORK, attempt=1), stage, 50.0, attempt=2)
    assert state.work == msgspec.structs.replace(work, since_s=50.0)
    assert orders == [*([do.SetShare(0.5)] if told else []), order(work, STATE)]
    assert again(state) == orders


def test_where_nothing_is_under_way_nothing_is_asked_for_again() -> None:
    """An idle device, and a job that waits inside the work."""
    assert again(STATE) == []
    assert again(msgspec.structs.replace(STATE, work=WORK)) == []
