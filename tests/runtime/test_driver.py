"""The shell around the reducer: what is logged is what is done, and folding the log gives the device back."""

from functools import partial
from pathlib import Path

import msgspec
import pytest

from evergrove.adapters.log import Codec, EventLog
from evergrove.core import effects as do
from evergrove.core import events as ev
from evergrove.core.config import Config, Gate, Learn, Novelty
from evergrove.core.errors import EvergroveError
from evergrove.core.measures import Facts
from evergrove.runtime.driver import Driver, recover
from evergrove.tiers.device import State, step

CODEC = Codec(ev.encode, ev.decode)
RULES = partial(step, Config(learn=Learn(min_new=2), novelty=Novelty(golden_every=2), gate=Gate(items_min=1)))
FACTS = Facts(False, 30, 50.0)
LIFE: list[ev.Event] = [
    ev.DeviceInitialised("d", "r", (2, 2), False, 0),
    ev.AgentStarted("0"),
    ev.ConditionAdded(0, 3),
    *(
        event
        for n in range(6)
        for event in (
            ev.ObservationMeasured(f"o{n}", (3, 1), 9, FACTS),
            ev.ObservationKept(f"o{n}", (3, 1), "train", "kept"),
        )
    ),
    ev.JobInterrupted("job-00001", "killed"),
    ev.TrainingFinished("job-00001", "c", 1, 1.0, 1.0, 1),
    ev.CandidateRefused("job-00001", "bad"),
]


class Clock:
    """Ticks by one second at every look."""

    def __init__(self) -> None:
        self.at_s = 100.0

    def __call__(self) -> float:
        self.at_s += 1.0
        return self.at_s


def live(log: EventLog[ev.Event], snapshot_every: int = 1000, keep: int = 1000) -> tuple[Driver, list[do.Effect]]:
    """A driver that has lived through ``LIFE``, and every order it gave."""
    driver = Driver(RULES, log, Clock(), snapshot_every, keep)
    orders = [order for event in LIFE for order in driver.feed(event)[1]]
    return driver, orders


def test_folding_the_log_gives_the_state_and_the_very_same_orders(tmp_path: Path) -> None:
    """Keystone: a production log replayed through the tier gives the same effects."""
    log = EventLog(tmp_path / "log", CODEC)
    driver, orders = live(log)
    state, replayed = State(), list[do.Effect]()
    for row in log.replay(0):
        state, effects = RULES(state, row.event, row.at_s)
        replayed += [e for e in effects if not isinstance(e, do.Emit)]
    assert replayed == orders
    assert state == driver.state == recover(RULES, log)[0]


def test_the_same_life_gives_a_byte_identical_log(tmp_path: Path) -> None:
    """Keystone: same events, same clock, same seed: the same bytes."""
    logs = [EventLog(tmp_path / name, CODEC) for name in ("a", "b")]
    for log in logs:
        live(log)
    lines = [[(row.seq, row.at_s, ev.encode(row.event)) for row in log.replay(0)] for log in logs]
    assert lines[0] == lines[1]
    assert len(lines[0]) > len(LIFE)


def test_snapshots_and_compaction_keep_the_log_bounded_and_the_state_whole(tmp_path: Path) -> None:
    """After many lives' worth of events only the newest are held, and the fold is still right."""
    log = EventLog(tmp_path / "log", CODEC)
    driver, _ = live(log, snapshot_every=10, keep=20)
    for _ in range(40):
        driver.feed(ev.ObservationRefused(1, "blank"), ev.ObservationRefused(1, "blank"))
    assert log.first_seq > 20
    assert log.last_seq - log.first_seq < 60
    assert recover(RULES, log)[0] == driver.state
    assert driver.state.n_refused == 80


def test_what_could_not_be_logged_has_not_happened(tmp_path: Path) -> None:
    """A log that refuses leaves state and orders as they were: no effect before its event is durable."""
    log = EventLog(tmp_path / "log", CODEC)
    driver, _ = live(log)
    before, seq = driver.state, log.last_seq
    with pytest.raises(EvergroveError):
        driver.feed(ev.ObservationRefused(1, "x" * (2 << 20)))
    assert driver.state is before
    assert log.last_seq == seq
    driver.feed(ev.ObservationRefused(1, "blank"))
    assert recover(RULES, log)[0] == driver.state


def test_a_snapshot_of_another_shape_is_refused_by_name(tmp_path: Path) -> None:
    """A state that this version does not understand is not half-read."""
    log = EventLog(tmp_path / "log", CODEC)
    live(log)
    log.snapshot(log.last_seq, msgspec.json.encode({"colour": "green"}))
    with pytest.raises(EvergroveError, match="snapshot at event"):
        recover(RULES, log)
