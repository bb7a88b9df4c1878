"""Forgetting, decided: which versions go, what serves then, what is fresh again, and that nothing is remembered."""

import msgspec
import pytest

from evergrove.core import effects as do
from evergrove.core import events as ev
from evergrove.core.config import Fleet, Learn
from evergrove.core.measures import Comparison
from evergrove.tiers.device import State, step, under_way
from evergrove.tiers.device.renumbering import renumbered_state
from evergrove.tiers.device.state import Former, Seen, Sharing

from .test_device import CONFIG, FAR, LOVE, LOVE_GROUP, born, measured, promoted, run, seen, training

MANUAL = msgspec.structs.replace(CONFIG, learn=Learn(auto=False))


def asked(state: State, *records: str, what: str = "observation", code: tuple[int, ...] | None = None) -> do.Erase:
    """What is ordered when these are to be forgotten; it is the last order."""
    *_, order = run(state, ev.ForgettingAsked(what, records, code))[1]
    assert isinstance(order, do.Erase)
    return order


def forgotten(state: State, *records: str, what: str = "observation", code: tuple[int, ...] | None = None) -> State:
    """The state once it is done."""
    state, orders = run(state, ev.ForgettingAsked(what, records, code))
    order = orders[-1]
    assert isinstance(order, do.Erase)
    done = ev.Forgotten(order.job, what, len(records), order.gone, order.current, order.previous, 9, "")
    return run(state, done, config=MANUAL)[0]


def twice_promoted() -> State:
    """c1 has learnt what came first; c2, on top of it, also what came later."""
    state = run(promoted(CONFIG), ev.ProbationPassed("c1"), config=MANUAL)[0]
    state = msgspec.structs.replace(state, work=None)
    state, _ = seen(state, "k", "l", "m", "n", config=MANUAL)
    state, orders = run(state, ev.LearningRequested("app", 5), config=MANUAL)
    (job,) = (o.job for o in orders if isinstance(o, do.StartTraining))
    found = measured(job, 0.0, -0.5, candidate="c2")
    kept = Comparison("incumbent", LOVE_GROUP, 10, 0.0, 0.01)
    found = msgspec.structs.replace(found, comparisons=(*found.comparisons, kept))
    finished = ev.TrainingFinished(job, "c2", 5, 1.0, 0.1, 1000), found
    return run(state, *finished, ev.VersionActivated("c2", 2), config=MANUAL)[0]


FIRST = tuple(promoted(CONFIG).codes)


def test_a_version_that_saw_it_goes_and_the_one_before_serves() -> None:
    """What came after c1 was learnt by c2 alone; what came before was seen by both."""
    state = twice_promoted()
    assert (state.active, state.previous) == ("c2", "c1")
    late = next(record for record in state.codes if record not in FIRST)
    order = asked(state, late)
    assert (order.gone, order.current, order.previous, order.probation) == (("c2",), "c1", None, False)
    order = asked(state, FIRST[0])
    assert (order.gone, order.current, order.previous) == (("c2", "c1"), None, None)
    assert order.records == (FIRST[0],)


def test_a_record_that_no_version_has_seen_costs_no_version() -> None:
    """It arrived after the last training; the golden ones are never trained on at all."""
    state, _ = seen(twice_promoted(), "x", "y", config=MANUAL)
    held = set(state.codes)
    golden = next(iter(set(state.keeping.buffer.records("golden"))))
    for record in (*({"x", "y"} & held), golden):
        order = asked(state, record)
        assert (order.gone, order.current, order.previous, order.probation) == ((), "c2", "c1", True)
    after = forgotten(state, golden)
    assert (after.active, after.previous, after.probation) == ("c2", "c1", True)
    assert golden not in after.keeping.buffer.records()


def test_what_is_left_is_fresh_again() -> None:
    """All that the version that serves now has not learnt, in the order of arrival, and as never tried."""
    state = twice_promoted()
    late = [record for record in state.codes if record not in FIRST]
    after = forgotten(state, late[0])
    assert after.fresh == tuple(late[1:])
    assert (after.tried, after.active, after.previous, after.sequence, after.probation) == (0, "c1", None, 9, False)
    assert after.learnt == (LOVE_GROUP,)
    after = forgotten(state, FIRST[0])
    assert after.fresh == tuple(record for record in state.codes if record != FIRST[0])
    assert (after.active, after.learnt, after.seen) == (None, (), None)
    _, orders = run(after, ev.TimePassed())
    assert any(isinstance(order, do.StartTraining) for order in orders)


def test_an_eviction_does_not_hide_what_was_seen() -> None:
    """c1 saw the first four; when the first of them is lost, the next is still one that it saw."""
    state = run(promoted(), ev.ObservationLost(FIRST[0], "damaged"))[0]
    assert state.seen is not None
    assert state.seen.records == len(FIRST) - 1
    assert asked(state, FIRST[1]).gone == ("c1",)


def test_a_condition_takes_versions_that_saw_any_of_it_though_it_has_left_since() -> None:
    """None of its records is held any more; the version learnt from them all the same."""
    state = promoted()
    for record in state.keeping.buffer.records():
        state = run(state, ev.ObservationLost(record, "damaged"))[0]
    assert asked(state, what="condition", code=LOVE_GROUP).gone == ("c1",)
    assert asked(state, what="condition", code=(0, 2)).gone == ()
    assert asked(state, "gone", code=LOVE).gone == ("c1",)


def test_a_name_that_was_given_before_the_training_stands_in_the_version() -> None:
    """No observation of it was trained on, a golden one alone was met: the adapter's header holds the name."""
    state = run(born(MANUAL), ev.ConditionAdded(0, 4), config=MANUAL)[0]
    state, _ = seen(state, *"abcd", config=MANUAL)
    state, orders = run(state, ev.LearningRequested("app", 5), config=MANUAL)
    (job,) = (o.job for o in orders if isinstance(o, do.StartTraining))
    finished = ev.TrainingFinished(job, "c1", 5, 1.0, 0.1, 1000), measured(job, 0.0, -0.5)
    state = run(state, *finished, ev.VersionActivated("c1", 1), ev.ConditionAdded(0, 5), config=MANUAL)[0]
    assert asked(state, what="condition", code=(4, 0)).gone == ("c1",)
    assert asked(state, what="condition", code=(5, 0)).gone == ()


def test_nothing_of_a_condition_is_remembered() -> None:
    """Records, the reservoir's part, the surprises, the watch for drift, what was learnt."""
    state = promoted()
    assert state.keeping.windows
    assert state.drifting
    after = forgotten(state, *state.keeping.buffer.records(), what="condition", code=LOVE_GROUP)
    assert (after.keeping.buffer.parts, after.keeping.windows, after.drifting) == ((), (), ())
    assert (after.keeping.buffer.n_records, after.keeping.buffer.n_bytes) == (0, 0)
    assert (after.codes, after.fresh, after.learnt, after.learnt_before) == ({}, (), (), ())
    assert after.sizes == state.sizes  # numbers never change their meaning


def test_one_observation_resets_the_surprises_of_its_condition_alone() -> None:
    """They hold its own among others, and nobody can tell which."""
    state = promoted()
    for i in range(3):
        record, code = f"other {i}", (1, 1)
        state, _ = run(state, ev.ObservationMeasured(record, code, 100, FAR), config=MANUAL)
        state, _ = run(state, ev.ObservationKept(record, code, "train", "kept"), config=MANUAL)
    after = forgotten(state, FIRST[0])
    assert [window.condition for window in after.keeping.windows] == [(1, 0)]
    assert [watch.condition for watch in after.drifting] == [(1, 0)]
    assert {part.condition for part in after.keeping.buffer.parts} == {LOVE_GROUP, (1, 0)}


def test_everything() -> None:
    """No record, no version, no watch; the order holds all that was there."""
    state = twice_promoted()
    order = asked(state, what="all")
    assert set(order.records) == set(state.keeping.buffer.records())
    assert (order.gone, order.current, order.previous) == (("c2", "c1"), None, None)
    after = forgotten(state, what="all")
    assert (after.keeping.buffer.parts, after.keeping.windows, after.drifting, after.codes) == ((), (), (), {})
    assert after.active is None


def test_what_is_under_way_is_ended_first_and_does_not_come_back() -> None:
    """Its folder may hold what is to be forgotten; its late outcome changes nothing."""
    state, job = training()
    state, orders = run(state, ev.ForgettingAsked("observation", (FIRST[0],), None))
    assert orders[0] == do.StopWorker(job)
    assert isinstance(orders[-1], do.Erase)
    assert state.waiting is None
    assert run(state, ev.TrainingFinished(job, "c1", 10, 1.0, 0.1, 1000)) == (state, [])
    assert FIRST[0] not in state.fresh
    assert state.tried == 0


def test_the_order_is_repeated_until_it_is_done_and_gives_way_to_nothing() -> None:
    """After a crash, when a rollback is wished for, when a version fails in use, when time passes."""
    state, orders = run(promoted(), ev.ForgettingAsked("observation", (FIRST[0],), None))
    order = orders[-1]
    assert under_way(state) == order
    assert run(state, ev.AgentStarted("1"))[1][-1] == order
    for other in (
        ev.RollbackRequested("app"),
        ev.LearningRequested("app", 0),
        ev.ForgettingAsked("all", (), None),
        ev.TimePassed(),
        *[ev.GenerationFailed("c1", "not finite")] * 9,
    ):
        state, more = run(state, other, now_s=1e9)
        assert more == []
        assert under_way(state) == order


def test_a_version_of_unknown_making_counts_as_having_seen_everything() -> None:
    """As after an update of the program, which does not know what earlier versions were trained on."""
    state = msgspec.structs.replace(promoted(), seen=None)
    assert asked(state, FIRST[0]).gone == ("c1",)
    state = msgspec.structs.replace(promoted(), seen=Seen())
    assert asked(state, FIRST[0]).gone == ()


def test_an_adapter_from_elsewhere_counts_as_made_of_all_that_is_held() -> None:
    """It may be this device's own, taken out and brought back."""
    state, _ = seen(born(MANUAL), *"abcd", config=MANUAL)
    state, orders = run(state, ev.AdapterOffered("/tmp/x"), config=MANUAL)
    (job,) = (o.job for o in orders if isinstance(o, do.StartMeasuring))
    state, _ = run(state, measured(job, 0.0, -0.5), ev.VersionActivated("c1", 1), config=MANUAL)
    assert state.active == "c1"
    assert asked(state, next(iter(state.codes))).gone == ("c1",)


@pytest.mark.parametrize("what", ["observation", "condition", "all"])
def test_the_state_survives_its_encoding(what: str) -> None:
    """A snapshot in the middle of forgetting holds the order, too."""
    code = LOVE_GROUP if what == "condition" else None
    state, _ = run(twice_promoted(), ev.ForgettingAsked(what, (FIRST[0],), code))
    assert msgspec.json.decode(msgspec.json.encode(state), type=State) == state


def test_what_is_shared_is_withdrawn_where_it_had_seen_it() -> None:
    """c1 is ripe for the fleet; a later c2 is not. What c1 never saw does not touch what is shared."""
    fleet = msgspec.structs.replace(CONFIG, fleet=Fleet(fog="https://fog"))
    state = run(promoted(CONFIG), ev.ProbationPassed("c1"), config=fleet)[0]
    assert (state.sharing.asked, state.sharing.sending, state.seen_shared) == ("c1", True, state.seen)
    state = msgspec.structs.replace(state, work=None)
    state, _ = seen(state, "x", "y", config=MANUAL)
    late = next(record for record in state.codes if record not in FIRST)
    order = asked(state, late)
    assert (order.gone, order.keep, order.withdraw) == ((), ("c1",), False)
    assert forgotten(state, late).sharing == state.sharing
    order = asked(state, FIRST[0])
    assert (order.gone, order.keep, order.withdraw) == (("c1",), (), True)
    after = forgotten(state, FIRST[0])
    assert (after.sharing, after.seen_shared) == (Sharing(), None)
    late_word = ev.UpdateCounted("c1", "t", 1, 1)
    assert run(after, late_word, config=fleet) == (after, [])


def test_a_version_that_was_given_and_taken_back_is_still_shared() -> None:
    """The fleet has counted c2, the device went back to c1: the next update would be a difference to c2."""
    state = twice_promoted()
    state = msgspec.structs.replace(state, sharing=Sharing(given="c2"), seen_shared=state.seen)
    state, _ = run(state, ev.VersionRolledBack("c2", "c1", "not liked"), config=MANUAL)
    late = next(record for record in state.codes if record not in FIRST)
    order = asked(state, late)
    assert (order.gone, order.keep, order.withdraw) == ((), (), True)


def test_the_byte_ledger_adds_up_by_kind_and_peer() -> None:
    """And past 256 of them what is new counts as 'others'."""
    state = born()
    for _ in range(2):
        state, _ = step(CONFIG, state, ev.BytesSent("update", 100, "https://fog"), 1.0)
    state, _ = step(CONFIG, state, ev.BytesSent("assist_request", 7, "https://fog"), 1.0)
    assert [(s.category, s.peer, s.n, s.n_bytes) for s in state.sent] == [
        ("assist_request", "https://fog", 1, 7),
        ("update", "https://fog", 2, 200),
    ]
    for i in range(300):
        state, _ = step(CONFIG, state, ev.BytesSent("update", 1, f"peer {i}"), 1.0)
    assert len(state.sent) == 257
    assert sum(s.n_bytes for s in state.sent) == 507


def on_another_release(state: State, active: str | None) -> State:
    """The fleet's release has come: what served before is of another one, to which the device may go back."""
    before = Former("r", state.known, state.teacher, 0)
    following = msgspec.structs.replace(state.following, version=1, before=before, trial="r1")
    new = {"previous": state.active, "seen_before": state.seen, "learnt_before": state.learnt, "release": "r2"}
    return msgspec.structs.replace(state, active=active, following=following, work=None, probation=True, **new)  # type: ignore[arg-type]


def test_versions_of_two_releases_never_slide_into_one_another() -> None:
    """c9 carries what c1 learnt to another release. Both go; what is left is that release alone, still on probation."""
    state = on_another_release(promoted(), "c9")
    order = asked(state, FIRST[0])
    assert (order.gone, order.current, order.previous, order.probation) == (("c9", "c1"), None, None, True)
    after = forgotten(state, FIRST[0])
    assert (after.active, after.previous, after.probation, after.release) == (None, None, True, "r2")
    assert after.following.before is not None
    assert after.fresh == FIRST[1:]


def test_a_release_alone_that_serves_stays_and_what_was_before_it_goes() -> None:
    """Nothing of the device is in it; the version that it could go back to has seen what is forgotten."""
    state = on_another_release(promoted(), None)
    order = asked(state, FIRST[0])
    assert (order.gone, order.current, order.previous, order.probation) == (("c1",), None, None, True)
    after = forgotten(state, FIRST[0])
    assert (after.active, after.previous, after.learnt) == (None, None, state.learnt)


def test_what_was_seen_is_renumbered_with_the_release() -> None:
    """Love was value 3; the release brings a third value of its own, and love becomes 4."""
    state = promoted()
    assert state.seen is not None
    assert (0, 3) in state.seen.values
    moved = renumbered_state(state, ((0, 1, 2, 4), (0, 1, 2)))
    assert moved.seen is not None
    assert (0, 4) in moved.seen.values
    assert (0, 3) not in moved.seen.values
    assert asked(moved, what="condition", code=(4, 0)).gone == ("c1",)
    assert asked(moved, what="condition", code=(3, 0)).gone == ()
