"""The fog's reducer: the order of the checks, the limits of taking part, and that every update counts exactly once."""

import itertools

import msgspec
import numpy as np
import pytest
from fogs import MemoryFog, body, head, opened, plan, vector
from hypothesis import given, settings
from hypothesis import strategies as st

from evergrove.core import fog
from evergrove.core.errors import CorruptState, UsageError
from evergrove.core.fog import Cohort
from evergrove.rules import tokens
from evergrove.tiers.fog import State, settle, step, touches
from evergrove.tiers.fog.state import CLOSED_MAX


def reason(word: fog.FogEvent) -> str:
    """Why an update was refused."""
    assert isinstance(word, fog.UpdateRefused), word
    return word.reason


# ---- the checks ------------------------------------------------------------------------------------------------------


def test_three_updates_make_a_cohort_and_their_sum() -> None:
    """a + b + c, the bodies are gone, the sum waits for the cloud."""
    made = opened("a", "b", "c")
    for i, device in enumerate("abc"):
        data = body(i)
        assert isinstance(made.submit(device, head(device, data), data), fog.UpdateCounted)
    made.work()
    total = np.frombuffer(made.sums[Cohort(1, 0)])
    assert np.allclose(total, sum(vector(i).astype(np.float64) for i in range(3)), atol=1e-7)
    assert made.bodies == {}
    assert made.state.ready == (Cohort(1, 0),)
    assert made.state.number == 1
    made.feed(fog.CohortHandedOver(Cohort(1, 0)))
    assert made.state.ready == ()


def test_each_refusal_has_its_word() -> None:
    """One fault each; nothing of it is counted."""
    made = opened("a", "gone")
    made.feed(fog.DeviceRevoked("gone", "lost"))
    data, nan = body(1), body(1)[:-4] + np.array([np.nan], "<f4").tobytes()
    cases = [
        ("stranger", head("stranger", data), data, "unknown device"),
        ("gone", head("gone", data), data, "revoked"),
        ("a", head("a", data, n_bytes=10**7), data, "too large"),
        ("a", head("a", data, n_bytes=77), data, "wrong size"),
        ("a", head("a", data, base="ff" * 32), data, "wrong base"),
        ("a", head("a", data, basis="ff" * 32), data, "wrong base"),
        ("a", head("a", data, release="ff" * 32), data, "wrong base"),
        ("a", head("a", data, generation=0), data, "wrong generation"),
        ("a", head("b", data), data, "token of another"),
        ("a", head("a", data), data[:-1] + b"\0", "wrong digest"),
        ("a", head("a", nan), nan, "not finite"),
        ("a", head("a", body(1, 101.0)), body(1, 101.0), "enormous norm"),
    ]
    for device, update, sent, expected in cases:
        assert reason(made.submit(device, update, sent)) == expected
    assert made.state.n_updates == 0
    assert made.bodies == {}
    assert sum(isinstance(fact, fog.UpdateRefused) for fact in made.log) == len(cases)
    assert reason(MemoryFog().submit("a", head("a", data), data)) == "unknown device"


def test_the_order_of_the_checks_is_that_of_the_design() -> None:
    """An update with every fault at once is refused by the first; mend them one by one, and the next one speaks."""
    made = opened("a")
    data = body(1, 1000.0)
    worst = fog.UpdateMeasured("x", head("b", data, n_bytes=9, base="ff" * 32), 1000.0, "not finite", "NaN")
    mends = [
        ("unknown device", {"device": "a"}),
        ("not finite", {"fault": None}),
        ("wrong size", {"head": head("b", data, base="ff" * 32)}),
        ("wrong base", {"head": head("b", data)}),
        ("token of another", {"head": head("a", data)}),
        ("enormous norm", {"norm": 50.0}),
    ]
    for word, mend in mends:
        _, facts, _ = settle(made.state, [worst], 0.0)
        assert reason(facts[0][0]) == word
        worst = msgspec.structs.replace(worst, **mend)
    _, facts, _ = settle(made.state, [worst], 0.0)
    (counted,) = facts[0]
    assert isinstance(counted, fog.UpdateCounted)
    assert counted.factor == pytest.approx(10 / 50)


def test_nothing_is_gathered_without_a_plan() -> None:
    """A device is told to come again."""
    made = MemoryFog()
    made.feed(fog.DeviceEnrolled("a"))
    assert reason(made.submit("a", head("a", body(1)), body(1))) == "closed"


# ---- taking part -----------------------------------------------------------------------------------------------------


def test_a_device_takes_part_k_times_and_b_cohorts_apart() -> None:
    """k = 2, b = 2, cohorts of one: a in 0, not in 1, in 2, never again; b in 1 and 3."""
    made = opened("a", "b", cohort=1, cohort_min=1)
    words = []
    for n, device in enumerate("aabaab"):
        word = made.submit(device, head(device, body(n), n), body(n))
        words.append("in" if isinstance(word, fog.UpdateCounted) else reason(word))
        made.work()
    assert words == ["in", "too soon", "in", "in", "too often", "in"]
    assert made.state.number == 4
    made.feed(fog.GenerationPlanned(plan(generation=2, cohort=1, cohort_min=1)))
    token = tokens.token_of("a", 2, bytes(16))
    again = head("a", body(7), generation=2, token=token)
    assert isinstance(made.submit("a", again, body(7)), fog.UpdateCounted)


def test_a_generation_has_no_more_cohorts_than_its_noise_is_made_for() -> None:
    """Two rounds: the third device is told to come again, and a plan may not raise the number afterwards."""
    made = opened("a", "b", "c", cohort=1, cohort_min=1, rounds=2)
    for device in "ab":
        assert isinstance(made.submit(device, head(device, body(1)), body(1)), fog.UpdateCounted)
        made.work()
    assert reason(made.submit("c", head("c", body(1)), body(1))) == "closed"
    made.feed(fog.GenerationPlanned(plan(cohort=1, cohort_min=1, rounds=3)))
    assert reason(made.submit("c", head("c", body(1)), body(1))) == "closed"


def test_a_lost_acknowledgement_costs_nothing() -> None:
    """The same update again is recognised, even in a later cohort; its token with other bytes is refused."""
    made = opened("a", "b", "c")
    data = body(1)
    made.submit("a", head("a", data), data)
    assert made.submit("a", head("a", data), data) == fog.UpdateRepeated("a", head("a", data).token, Cohort(1, 0))
    assert reason(made.submit("a", head("a", body(2)), body(2))) == "token reused"
    assert made.state.n_updates == 1
    for device in "bc":
        made.submit(device, head(device, body(3)), body(3))
    made.work()
    assert isinstance(made.submit("a", head("a", data), data), fog.UpdateRepeated)
    assert made.n_summed == {Cohort(1, 0): 3}
    assert reason(made.submit("b", head("a", data), data)) == "token of another"


def test_a_token_needs_sixteen_bytes_of_chance() -> None:
    """Fewer are the caller's mistake."""
    with pytest.raises(UsageError, match="16 bytes"):
        tokens.token_of("a", 1, b"short")


# ---- cohorts ---------------------------------------------------------------------------------------------------------


def test_time_closes_a_cohort_that_has_enough() -> None:
    """One of at least two waits on; two wait until 60 s after the first; a clock set back starts that anew."""
    made = opened("a", "b")
    made.submit("a", head("a", body(1)), body(1), now_s=100.0)
    assert made.feed(fog.TimePassed(), 1000.0) == []
    made.submit("b", head("b", body(2)), body(2), now_s=110.0)
    assert made.feed(fog.TimePassed(), 159.0) == []
    assert made.feed(fog.TimePassed(), 40.0) == []
    assert made.feed(fog.TimePassed(), 99.0) == []
    assert made.feed(fog.TimePassed(), 100.0) == [fog.CohortClosed(Cohort(1, 0), 2, "time")]
    made.work()
    assert made.n_summed == {Cohort(1, 0): 2}


def test_a_new_generation_drops_what_was_open_and_keeps_what_was_closed() -> None:
    """The open cohort's updates fit no base any more; a closed one is still summed and handed over."""
    made = opened("a", "b", "c", cohort=2)
    for device in "abc":
        made.submit(device, head(device, body(1)), body(1))
    facts = made.feed(fog.GenerationPlanned(plan(generation=2)))
    assert facts[1:] == [fog.CohortDropped(Cohort(1, 1), 1)]
    made.work()
    assert made.bodies == {}
    assert made.state.ready == (Cohort(1, 0),)
    assert (made.state.number, made.state.tokens) == (0, {})


def test_what_must_stay_constant_within_a_generation_does() -> None:
    """Another clip or b, or an older generation, is refused; another release is welcome."""
    made = opened("a")
    for changes, word in (({"clip": 9.0}, "clip"), ({"separation": 1}, "separation"), ({"generation": 0}, "open")):
        facts = made.feed(fog.GenerationPlanned(plan(**changes)))
        assert isinstance(facts[1], fog.PlanRefused)
        assert word in facts[1].reason
        assert made.state.plan == plan()
    made.feed(fog.GenerationPlanned(plan(releases=("44" * 32,))))
    assert made.state.plan is not None
    assert made.state.plan.releases == ("44" * 32,)


@pytest.mark.parametrize(
    "changes",
    [{"cohort_min": 0}, {"cohort_min": 4}, {"separation": 0}, {"clip": 0.0}, {"norm_max": 9.0}, {"releases": ()},
     {"wait_s": float("nan")}],
)  # fmt: skip
def test_a_plan_that_makes_no_sense_is_the_callers_mistake(changes: dict[str, object]) -> None:
    """Each number by itself."""
    with pytest.raises(UsageError):
        plan(**changes).check()
    plan().check()


def test_a_spent_budget_ends_the_generation() -> None:
    """The open cohort goes, and no update is taken: at once, once, and for that generation only."""
    made = opened("a", "b")
    made.submit("a", head("a", body(1)), body(1))
    made.feed(fog.BudgetEnded(0, "of another generation"))
    assert not made.state.spent
    made.feed(fog.BudgetEnded(1, "ε = 1"))
    made.work()
    assert (made.state.spent, made.state.number, made.state.n_updates, made.bodies) == (True, 1, 0, {})
    assert [type(event).__name__ for event in made.log[-2:]] == ["BudgetEnded", "CohortDropped"]
    assert reason(made.submit("b", head("b", body(2)), body(2))) == "budget spent"
    assert isinstance(made.submit("a", head("a", body(1)), body(1)), fog.UpdateRepeated), "it is not told another story"
    made.feed(fog.BudgetEnded(1, "ε = 1"))
    assert made.state.number == 1
    made.feed(fog.GenerationPlanned(plan(generation=2)))
    assert not made.state.spent


def test_sums_are_asked_for_in_the_order_of_the_noise_stream() -> None:
    """Two closed cohorts: the second waits for the first; after a crash the first is asked for again; 16 are enough."""
    names = [f"d{i}" for i in range(CLOSED_MAX + 1)]
    made = opened(*names, cohort=1, cohort_min=1)
    for name in names[:2]:
        made.submit(name, head(name, body(1)), body(1))
    assert made.orders == [fog.SumCohort(Cohort(1, 0))]
    made.restart()
    assert made.orders == [fog.SumCohort(Cohort(1, 0))]
    for name in names[2:-1]:
        made.submit(name, head(name, body(1)), body(1))
    assert reason(made.submit(names[-1], head(names[-1], body(1)), body(1))) == "busy"
    made.feed(fog.CohortWithheld(Cohort(1, 0), "budget"))
    assert made.state.ready == ()
    made.work()
    assert [cohort.number for cohort in made.state.ready] == list(range(1, CLOSED_MAX))
    made.restart()
    assert made.orders == [fog.HandOver(Cohort(1, n)) for n in range(1, CLOSED_MAX)]


def test_a_device_enrols_once_and_stays_revoked() -> None:
    """A second certificate is not a second chance; revoking an unknown one keeps it out too."""
    made = opened("a")
    made.submit("a", head("a", body(1)), body(1))
    made.feed(fog.DeviceEnrolled("a"))
    assert made.state.devices["a"].record.n == 1
    for device in ("a", "later"):
        made.feed(fog.DeviceRevoked(device, "lost"))
        made.feed(fog.DeviceEnrolled(device))
        assert reason(made.submit(device, head(device, body(2), 2), body(2))) == "revoked"


# ---- laws ------------------------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_any_order_with_duplicates_and_crashes_gives_the_same_sum(data: st.DataObject) -> None:
    """Six devices, one cohort: however they come, however often, wherever the fog dies: the same bytes, once each."""
    names = "abcdef"
    sent = {name: body(i, 1.0 + 5 * i) for i, name in enumerate(names)}  # some are clipped
    orderly = opened(*names, cohort=6)
    for name in names:
        orderly.submit(name, head(name, sent[name]), sent[name])
    orderly.work()
    made = opened(*names, cohort=6)
    visits = data.draw(st.permutations([*names, *data.draw(st.lists(st.sampled_from(names), max_size=8))]))
    for name in visits:
        made.submit(name, head(name, sent[name]), sent[name])
        if data.draw(st.booleans()):
            made.restart()
    made.restart()
    made.work()
    assert made.sums == orderly.sums
    assert made.n_summed == {Cohort(1, 0): 6}


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_nobody_is_counted_twice_whatever_happens(data: st.DataObject) -> None:
    """Random updates, repeats, time and crashes: tokens are counted once, b and k hold, nothing is lost."""
    names = "abcd"
    separation = data.draw(st.integers(1, 3))
    made = opened(*names, cohort=2, cohort_min=1, separation=separation)
    now_s, counted = 0.0, dict[str, tuple[str, Cohort]]()
    for _ in range(data.draw(st.integers(1, 30))):
        now_s += data.draw(st.sampled_from([0.0, 10.0, 100.0]))
        match data.draw(st.sampled_from(["submit", "submit", "submit", "time", "crash", "work"])):
            case "submit":
                name, nonce = data.draw(st.sampled_from(names)), data.draw(st.integers(0, 3))
                sent = body(nonce)
                word = made.submit(name, head(name, sent, nonce), sent, now_s)
                if isinstance(word, fog.UpdateCounted):
                    assert word.token not in counted
                    counted[word.token] = (name, word.cohort)
            case "time":
                made.feed(fog.TimePassed(), now_s)
            case "crash":
                made.restart()
            case "work":
                made.work()
    made.restart()
    made.work()
    for name in names:
        mine = sorted(cohort.number for who, cohort in counted.values() if who == name)
        assert len(mine) <= 2
        assert all(later - earlier >= separation for earlier, later in itertools.pairwise(mine))
    assert sum(made.n_summed.values()) + made.state.n_updates == len(counted)
    assert len(made.bodies) == made.state.n_updates


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_slice_of_the_state_decides_like_the_whole(data: st.DataObject) -> None:
    """``touches`` names all that a decision needs: the law that lets many workers share one database."""
    whole = opened(*"abcd", cohort=3, participations=5, separation=1)
    for _ in range(data.draw(st.integers(1, 12))):
        name, nonce = data.draw(st.sampled_from("abcdx")), data.draw(st.integers(0, 3))
        event = fog.UpdateMeasured(name, head(name, body(nonce), nonce), data.draw(st.sampled_from([1.0, 50.0, 1e9])))
        devices, tokens = touches([event])
        part = msgspec.structs.replace(
            whole.state,
            devices={d: m for d, m in whole.state.devices.items() if d in devices},
            tokens={t: c for t, c in whole.state.tokens.items() if t in tokens},
        )
        after, facts, orders = settle(part, [event], 0.0)
        whole.state, whole_facts, whole_orders = settle(whole.state, [event], 0.0)
        assert (facts, orders) == (whole_facts, whole_orders)
        assert {**whole.state.devices, **after.devices} == whole.state.devices
        assert {**whole.state.tokens, **after.tokens} == whole.state.tokens
        bare = {"devices": {}, "tokens": {}}
        assert msgspec.structs.replace(after, **bare) == msgspec.structs.replace(whole.state, **bare)


def test_what_follows_from_an_event_touches_what_the_event_does() -> None:
    """A late word about a cohort that is summed, and facts that change nothing."""
    made = opened("a", cohort=1, cohort_min=1)
    made.submit("a", head("a", body(1)), body(1))
    made.work()
    for fact in made.log:
        devices, tokens = touches([fact])
        assert devices <= {"a"}
        assert tokens <= {head("a", body(1)).token}
    state, orders = step(made.state, fog.CohortSummed(Cohort(1, 0), "ab" * 32, 1, None), 0.0)
    assert (state, orders) == (made.state, [])
    assert step(State(), fog.TimePassed(), 0.0) == (State(), [])
    for fact in made.log:
        assert fog.decode(fog.encode(fact)) == fact
    with pytest.raises(CorruptState, match="newer Evergrove"):
        fog.decode(b'{"kind": "fog_flew"}')
