"""What a device gives to its fleet, decision by decision: only what counts as good, one at a time, and when again."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergrove.core import effects as do
from evergrove.core import events as ev
from evergrove.core.config import Config, Fleet
from evergrove.tiers.device import State, next_due, step
from evergrove.tiers.device.state import Sharing

CONFIG = Config(fleet=Fleet(fog="https://fog", retry_s=10.0, retry_s_max=100.0))
ALONE = Config()
SILENT = Config(fleet=Fleet(fog="https://fog", federate=False))


def run(state: State, *events: ev.Event, config: Config = CONFIG, now_s: float = 10.0) -> tuple[State, list[do.Effect]]:
    """Events one after the other; the last state, and the orders that concern the fleet."""
    orders: list[do.Effect] = []
    for event in events:
        state, effects = step(config, state, event, now_s)
        orders += [e for e in effects if isinstance(e, do.ShareLearnt)]
    return state, orders


def good(version: str = "v1", config: Config = CONFIG) -> tuple[State, list[do.Effect]]:
    """A device on which ``version`` has just passed its probation."""
    state, _ = run(State(), ev.DeviceInitialised("d", "r", (2, 2), False, 0), config=config)
    state = msgspec.structs.replace(state, active=version, probation=True)
    return run(state, ev.ProbationPassed(version), config=config)


def test_a_version_that_counts_as_good_is_given() -> None:
    """Ordered over the release alone; before its probation has passed there is no order."""
    state, orders = good()
    assert orders == [do.ShareLearnt("v1", None, "")]
    assert state.sharing.sending
    assert run(State(device="d"), ev.VersionActivated("v1", 1))[1] == []


@pytest.mark.parametrize("config", [ALONE, SILENT])
def test_nothing_leaves_without_a_fog_or_against_the_word_of_its_owner(config: Config) -> None:
    """Neither when it is learnt, nor at a start, nor ever after; the day that it is allowed, it is given."""
    state, orders = good(config=config)
    for moment_s in (10.0, 1e6):
        state, more = run(state, ev.AgentStarted("x"), ev.TimePassed(), config=config, now_s=moment_s)
        assert orders == more == []
    assert not state.sharing.sending
    assert run(state, ev.TimePassed())[1] == [do.ShareLearnt("v1", None, "")]


def test_turned_off_on_the_way_the_order_is_not_given_again() -> None:
    """An update is under way, the agent is started anew with federate = false."""
    state, _ = good()
    assert run(state, ev.AgentStarted("x"), config=SILENT)[1] == []
    assert run(state, ev.AgentStarted("x"))[1] == [do.ShareLearnt("v1", None, "")]


def test_the_next_update_is_what_was_learnt_since_the_counted_one() -> None:
    """Counted: the base moves. Learnt meanwhile: it waits for its turn."""
    state, _ = good()
    state, orders = run(state, ev.ProbationPassed("v2"), ev.ProbationPassed("v3"))
    assert orders == []
    state, orders = run(state, ev.UpdateCounted("v1", "t1", 1, 7), ev.TimePassed())
    assert orders == [do.ShareLearnt("v3", "v1", "t1")]
    state, orders = run(state, ev.UpdateCounted("v3", "t2", 1, 9), ev.TimePassed())
    assert orders == []
    assert state.sharing == Sharing(given="v3", heard="t2", n_counted=2)


def test_refused_for_good_it_is_not_tried_again_and_its_content_goes_with_the_next() -> None:
    """The base stays where it was."""
    state, _ = good()
    state, orders = run(state, ev.UpdateRefused("v1", "t1", "too often"), ev.TimePassed())
    assert orders == []
    assert (state.sharing.given, state.sharing.n_refused) == (None, 1)
    assert run(state, ev.ProbationPassed("v2"))[1] == [do.ShareLearnt("v2", None, "t1")]


def test_delayed_before_it_was_made_the_newest_version_is_taken_at_the_next_attempt() -> None:
    """No fog: nothing waits in the outbox, so the choice is free again."""
    state, _ = good()
    state, _ = run(state, ev.UpdateDelayed("v1", "", "unreachable"), ev.ProbationPassed("v2"))
    assert run(state, ev.TimePassed(), now_s=1000.0)[1] == [do.ShareLearnt("v2", None, "")]


def test_an_update_that_was_made_goes_first_whatever_is_learnt_meanwhile() -> None:
    """It waits in the outbox by its token, for weeks."""
    state, _ = good()
    state, _ = run(state, ev.UpdateDelayed("v1", "t1", "unreachable"), ev.ProbationPassed("v2"))
    state, orders = run(state, ev.TimePassed(), now_s=3e6)
    assert orders == [do.ShareLearnt("v1", None, "")]
    state, orders = run(state, ev.UpdateCounted("v1", "t1", 1, 0), ev.TimePassed(), now_s=3e6)
    assert orders == [do.ShareLearnt("v2", "v1", "t1")]


def test_attempts_are_spaced_and_the_clock_may_be_set() -> None:
    """Between half and the whole of 10, 20, 40, 80, 100, 100 s; set back by a year, it is due at once."""
    state, _ = good()
    at_s = 1e6
    for whole_s in (10, 20, 40, 80, 100, 100):
        state, _ = run(state, ev.UpdateDelayed("v1", "t", "unreachable"), now_s=at_s)
        wait_s = state.sharing.due_s - at_s
        assert 0.5 * whole_s <= wait_s <= whole_s
        assert run(state, ev.TimePassed(), now_s=at_s + 0.99 * wait_s)[1] == []
        assert len(run(state, ev.TimePassed(), now_s=at_s - 3e7)[1]) == 1
        at_s += wait_s
        assert next_due(CONFIG, state, at_s)
        state, orders = run(state, ev.TimePassed(), now_s=at_s)
        assert len(orders) == 1


def test_devices_that_lost_their_fog_do_not_return_as_one_wave() -> None:
    """Twenty devices of one seed: the delays differ."""
    state, _ = good()
    delays = set()
    for n in range(20):
        other = msgspec.structs.replace(state, device=f"d{n}")
        delays.add(run(other, ev.UpdateDelayed("v1", "", "unreachable"))[0].sharing.due_s)
    assert len(delays) == 20


def test_what_was_taken_back_before_it_was_made_is_not_given() -> None:
    """Rolled back while there was no fog: nothing is left to send. Made already, it stays made."""
    state, _ = good()
    gone = ev.VersionRolledBack("v1", None, "alarm")
    free, _ = run(state, ev.UpdateDelayed("v1", "", "unreachable"), gone)
    assert run(free, ev.TimePassed(), now_s=1e5)[1] == []
    made, _ = run(state, ev.UpdateDelayed("v1", "t1", "unreachable"), gone)
    assert run(made, ev.TimePassed(), now_s=1e5)[1] == [do.ShareLearnt("v1", None, "")]


def test_a_late_word_about_another_update_changes_nothing() -> None:
    """Of a former life of the agent, say."""
    state, _ = good()
    for late in (ev.UpdateCounted("v0", "t", 1, 0), ev.UpdateRefused("v0", "t", ""), ev.UpdateDelayed("v0", "t", "")):
        assert run(state, late)[0] == state
    state, _ = run(state, ev.UpdateDelayed("v1", "t1", "no answer"))
    assert run(state, ev.UpdateCounted("v1", "t1", 1, 0))[0] == state


ANSWERS = st.sampled_from(["counted", "refused", "delayed", "made", "learnt", "back", "start", "time"])


@given(st.lists(ANSWERS, max_size=40))
def test_whatever_happens_no_learning_is_counted_twice_and_none_is_lost(story: list[str]) -> None:
    """Each update counted is the way from the last counted version to a newer one: they add up to the last."""
    state, orders = good("v000")
    n, now_s, total = 0, 10.0, "release"
    for what in story:
        now_s += 200.0
        order = orders[-1] if orders and state.sharing.sending else None
        events: list[ev.Event] = []
        match what:
            case "learnt":
                n += 1
                events = [ev.ProbationPassed(f"v{n:03d}")]
            case "back":
                events = [ev.VersionRolledBack(state.sharing.ripe or None, None, "alarm")]
            case "start":
                events = [ev.AgentStarted("x")]
            case "time":
                events = [ev.TimePassed()]
            case _ if isinstance(order, do.ShareLearnt):
                token = state.sharing.token or f"t{n}"
                events = {
                    "counted": [ev.UpdateCounted(order.version, token, 1, 0)],
                    "refused": [ev.UpdateRefused(order.version, token, "x")],
                    "delayed": [ev.UpdateDelayed(order.version, state.sharing.token, "x")],
                    "made": [ev.UpdateDelayed(order.version, token, "x")],
                }[what]
                if what == "counted":
                    assert (order.given or "release") == total
                    assert order.version > (order.given or "")
                    total = order.version
        state, more = run(state, *events, now_s=now_s)
        orders += more
        assert len(more) <= 1
        assert (state.sharing.given or "release") == total
