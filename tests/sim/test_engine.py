"""Virtual time runs forward, in order, and messages fail as declared."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergrove.core.errors import UsageError
from evergrove.sim.engine import Courier, Engine, SkewedClock, every_so_often
from evergrove.sim.faults import Channel


def test_actions_of_one_time_run_in_the_order_of_planning() -> None:
    """Two at 5 s keep their order; what was planned for 3 s comes before both."""
    engine, ran = Engine(), list[str]()
    engine.at(5, lambda: ran.append("first"))
    engine.at(5, lambda: ran.append("second"))
    engine.at(3, lambda: ran.append("early"))
    assert engine.run(10) == 3
    assert ran == ["early", "first", "second"]
    assert engine.now_s == 10


@given(st.lists(st.floats(0, 1000), max_size=40))
def test_time_never_goes_back(times: list[float]) -> None:
    """Whatever is planned, also from within an action, the clock of the actions is sorted."""
    engine, seen = Engine(), list[float]()

    def action() -> None:
        seen.append(engine.now_s)
        if len(seen) < 60:
            engine.after(7.0, lambda: seen.append(engine.now_s))

    for when_s in times:
        engine.at(when_s, action)
    engine.run(2000)
    assert seen == sorted(seen)
    assert len(seen) >= len(times)


@pytest.mark.parametrize("when_s", [4.999, float("nan"), float("inf")])
def test_nothing_is_planned_for_the_past_or_for_no_time(when_s: float) -> None:
    """An effect never comes before its cause."""
    engine = Engine(5.0)
    with pytest.raises(UsageError, match=r"it is 5\.0 already"):
        engine.at(when_s, lambda: None)


def test_a_cancelled_action_does_not_run_and_a_later_one_waits_for_the_next_run() -> None:
    """Of three actions one is taken back and one lies beyond the end."""
    engine, ran = Engine(), list[str]()
    ticket = engine.at(1, lambda: ran.append("cancelled"))
    engine.at(2, lambda: ran.append("now"))
    engine.at(9, lambda: ran.append("later"))
    engine.cancel(ticket)
    assert engine.run(5) == 1
    assert engine.run(9) == 1
    assert ran == ["now", "later"]


def test_the_watch_is_told_the_time_now_and_then() -> None:
    """Every second action of five: twice."""
    engine, told = Engine(), list[float]()
    for second in range(1, 6):
        engine.at(second, lambda: None)
    engine.run(10, told.append, watch_every=2)
    assert told == [2, 4]


def carried(channel: Channel, n: int = 400) -> tuple[Courier, list[tuple[int, float]]]:
    """What arrives of ``n`` messages, one a second, and when."""
    engine, arrived = Engine(), list[tuple[int, float]]()
    courier = Courier(engine, channel, np.random.default_rng(1))

    def send(i: int) -> None:
        courier.send(lambda: arrived.append((i, engine.now_s)), takes_s=0.5)

    for i in range(n):
        engine.at(i, lambda i=i: send(i))  # type: ignore[misc]
    engine.run(1e6)
    return courier, arrived


def test_a_perfect_channel_delivers_each_message_once_after_its_delay() -> None:
    """Two seconds of delay and half a second that the message takes itself."""
    courier, arrived = carried(Channel(delay_s=2.0))
    assert arrived == [(i, i + 2.5) for i in range(400)]
    assert (courier.carried.sent, courier.carried.dropped, courier.carried.duplicated) == (400, 0, 0)


def test_a_bad_channel_drops_doubles_and_reorders() -> None:
    """A fifth each, within what chance allows of 400; the books agree with what arrived."""
    courier, arrived = carried(Channel(delay_s=1.0, jitter_s=5.0, drop_share=0.2, duplicate_share=0.2))
    books = courier.carried
    assert 50 <= books.dropped <= 110
    assert 35 <= books.duplicated <= 95
    assert len(arrived) == books.sent - books.dropped + books.duplicated
    order = [i for i, _ in arrived]
    assert order != sorted(order)
    assert all(at_s >= i + 1.5 for i, at_s in arrived)


def test_one_fault_does_not_change_the_luck_of_another() -> None:
    """With jitter on or off the same messages are lost."""
    lost = []
    for jitter_s in (0.0, 3.0):
        _, arrived = carried(Channel(jitter_s=jitter_s, drop_share=0.3))
        lost.append(set(range(400)) - {i for i, _ in arrived})
    assert lost[0] == lost[1] != set()


def test_a_skewed_clock_is_off_drifts_and_jumps() -> None:
    """30 s off and 100 ppm fast: after 10,000 s it is 31 s ahead; then somebody sets it back by a minute."""
    engine = Engine(1000.0)
    clock = SkewedClock(engine, offset_s=30.0, drift_ppm=100.0)
    assert clock.now_s() == 1030.0
    engine.run(11_000.0)
    assert clock.now_s() == pytest.approx(11_031.0)
    clock.jump(-60.0)
    assert clock.now_s() == pytest.approx(10_971.0)


def test_random_moments_come_as_often_as_asked_and_never_for_zero() -> None:
    """24 a day over ten days: about 240."""
    engine, times = Engine(), list[float]()
    every_so_often(engine, np.random.default_rng(0), 24.0, lambda: times.append(engine.now_s))
    every_so_often(engine, np.random.default_rng(0), 0.0, lambda: times.append(-1.0))
    engine.run(864_000)
    assert 190 <= len(times) <= 290
    assert min(times) > 0
