"""The staged rollout: who is when in it, what is refused, how it stops, and how it goes back."""

import itertools
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from evergrove.core import cloud_events as ev
from evergrove.core.errors import CorruptState, UsageError
from evergrove.core.rollout import FULL, Directive, Mark, Offer, Policy, offer, place
from evergrove.rules import rollout_health as health
from evergrove.rules.rollout import Completed, State, apply, back, check, directive, plan, refusal

FLEET = [f"device-{i:03d}" for i in range(400)]
DAY = 86_400.0


def begin(devices: list[str] = FLEET, state: State | None = None, **policy: Any) -> State:
    """A rollout that has just started."""
    state = state or State()
    rule_, version = Policy(**policy), state.highest + 1
    name = f"r{version}"
    return apply(state, ev.RolloutStarted(name, f"hash-{version}", version, plan(rule_, name, devices), rule_), 0.0)


def members(state: State, stage: int, devices: list[str] = FLEET) -> list[str]:
    """The devices that a stage adds."""
    one = state.stages[stage]
    before = max((s.reach for s in state.stages[:stage] if s.serves == one.serves), default=0)
    return [d for d in devices if before <= place(state.rollout, d) < one.reach]


def report(state: State, devices: list[str], mark: Mark, shadow: bool = False) -> State:
    """All of them say the same."""
    for device in devices:
        state = apply(state, ev.ReleaseReported(state.rollout, device, mark, shadow), 1.0)
    return state


def settle(state: State, now_s: float = 1.0) -> State:
    """What the rule asks for, until it waits."""
    while (fact := health.due(state, now_s)) is not None:
        state = apply(state, fact, now_s)
    return state


def passed(state: State, until: int) -> State:
    """Every device of the stages before ``until`` says good things."""
    for i in range(until):
        shadow = not state.stages[i].serves
        state = settle(report(state, members(state, i), "accepted" if shadow else "confirmed", shadow))
    return state


# ---- who is in a stage -----------------------------------------------------------------------------------------------


def test_stages_of_four_hundred_devices() -> None:
    """5 % are 20, 25 % are 80 more, the rest 300; the shadow is the very devices that serve first."""
    state = begin()
    assert [(s.name, s.serves, s.members) for s in state.stages] == [
        ("shadow", False, 20),
        ("5 %", True, 20),
        ("25 %", True, 80),
        ("100 %", True, 300),
    ]
    assert [len(members(state, i)) for i in range(4)] == [20, 20, 80, 300]
    assert members(state, 0) == members(state, 1)
    assert state.stages[-1].reach == FULL


def test_small_fleets_have_no_empty_stage() -> None:
    """Six devices: one measures and serves first, one more, then four; a single one is a stage by itself."""
    assert [s.members for s in begin(FLEET[:6]).stages] == [1, 1, 1, 4]
    assert [(s.name, s.members) for s in begin(FLEET[:1]).stages] == [("shadow", 1), ("5 %", 1)]
    assert begin(FLEET[:1]).stages[-1].reach == FULL, "whoever enrols later gets it too"
    assert [s.name for s in begin(FLEET[:6], shadow=0.0).stages] == ["5 %", "25 %", "100 %"]
    with pytest.raises(UsageError, match="no devices are known"):
        plan(Policy(), "r1", [])


def test_a_place_is_the_same_for_ever() -> None:
    """A vector: who changes the hash moves every device of a running rollout to another stage."""
    assert (place("r1", "kitchen"), place("r2", "kitchen")) == (4223842856, 1489702234)


@given(names=st.sets(st.text(min_size=1, max_size=8), min_size=1, max_size=60), low=st.floats(0.1, 99.0))
def test_stages_only_grow(names: set[str], low: float) -> None:
    """A device that is in a stage is in every later one, and each has its share of devices, rounded up."""
    stages = plan(Policy(percents=(low, 99.5, 100.0), shadow=low), "r", names)
    serving = [s for s in stages if s.serves]
    inside = [{d for d in names if place("r", d) < s.reach} for s in serving]
    assert all(a < b for a, b in itertools.pairwise(inside))
    assert inside[-1] == names
    if len(serving) > 1:
        assert len(inside[0]) == max(1, -(-len(names) * low // 100))
    assert sum(s.members for s in serving) == len(names)


@given(st.text(max_size=20), st.integers(0, FULL), st.integers(0, FULL))
def test_a_device_s_turn_does_not_pass(device: str, a: int, b: int) -> None:
    """Whoever is offered a release at one percentage is offered it at every higher one."""
    low, high = sorted((a, b))
    early, late = (offer(Directive("r", "new", 2, reach, True, "old", 1), device, 1) for reach in (low, high))
    assert early is None or late == early == Offer("new", 2, True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"percents": ()}, "end with 100"),
        ({"percents": (25.0, 5.0, 100.0)}, "must grow"),
        ({"percents": (0.0, 100.0)}, "above 0"),
        ({"percents": (5.0, 50.0)}, "end with 100"),
        ({"shadow": 101.0}, "shadow of 101"),
        ({"errors_share": 0.0}, "errors_share"),
        ({"flip": 0.5}, "flip"),
        ({"reports_min": 0}, "at least one report"),
        ({"stage_s": float("inf")}, "finite time"),
        ({"shadow_s": 0.0}, "finite time"),
    ],
)
def test_a_rule_that_cannot_be_followed_is_refused(changes: dict[str, Any], words: str) -> None:
    """With what is wrong about it."""
    with pytest.raises(UsageError, match=words):
        check(Policy(**changes))


# ---- the way through -------------------------------------------------------------------------------------------------


def test_the_good_case() -> None:
    """Shadow, 5, 25, 100 %, complete; only then does the release count as good, and everybody is offered it."""
    state = begin()
    names = []
    for i in range(4):
        names.append((state.status, state.stage))
        told = directive(state)
        assert told is not None
        assert (told.reach, told.serves) == (state.stages[i].reach, i > 0)
        state = passed_one(state, i)
    assert names == [("running", 0), ("running", 1), ("running", 2), ("running", 3)]
    assert (state.status, state.good) == ("complete", Completed("hash-1", 1))
    assert directive(state) == Directive("r1", "hash-1", 1, FULL, True, "hash-1", 1)


def passed_one(state: State, i: int) -> State:
    """One stage, by the words of every device in it."""
    shadow = not state.stages[i].serves
    return settle(report(state, members(state, i), "accepted" if shadow else "confirmed", shadow))


def test_accepted_is_no_success_where_it_must_run() -> None:
    """hawkBit 3185: success was recorded while the old image ran. All 20 took it, none has run it: nothing advances."""
    state = passed(begin(), 1)
    state = settle(report(state, members(state, 1), "accepted"))
    assert (state.stage, state.tallies[1].pending) == (1, 20)
    assert health.judge(state, 2.0).sentence == "5 %: 0 failed, 0 good, 20 on probation, of 20"
    assert settle(report(state, members(state, 1), "confirmed")).stage == 2


def test_worst_word_counts_and_repetition_does_not() -> None:
    """A device that fails after all moves from good to bad; one that says the same twice counts once."""
    state = passed(begin(), 1)
    first = members(state, 1)[0]
    for mark in ("accepted", "accepted", "confirmed", "confirmed", "accepted"):
        state = report(state, [first], mark)
    assert (state.tallies[1].good, state.tallies[1].bad, state.tallies[1].pending) == (1, 0, 0)
    state = report(state, [first], "rolled_back")
    assert (state.tallies[1].good, state.tallies[1].bad) == (0, 1)
    assert report(state, [first], "confirmed") == state


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(get_args(Mark))), max_size=20), st.randoms())
@settings(max_examples=50)
def test_the_order_of_reports_does_not_matter(said: list[tuple[int, Mark]], chance: Any) -> None:
    """Twice, late, in any order: the tallies are the same."""
    state = passed(begin(FLEET[:120]), 1)
    first = members(state, 1, FLEET[:120])
    shuffled = [*said, *said]
    chance.shuffle(shuffled)

    def told(words: list[tuple[int, Mark]]) -> State:
        now = state
        for i, mark in words:
            now = report(now, [first[i % len(first)]], mark)
        return now

    assert told(said) == told(shuffled)


# ---- stopping --------------------------------------------------------------------------------------------------------


def test_it_stops_past_the_share_of_the_stage() -> None:
    """5 % of 20 are one: the second failure stops it, whatever the others may still say. It never goes on."""
    state = passed(begin(), 1)
    first = members(state, 1)
    state = settle(report(state, first[:1], "rejected"))
    assert state.status == "running"
    state = settle(report(report(state, first[1:15], "confirmed"), first[15:16], "rolled_back"))
    assert state.status == "stopped"
    assert state.sentence == "5 %: 2 failed, 14 good, of 20: more than 5.0% of the stage"
    state = settle(report(state, first[16:], "confirmed"), 30 * DAY)
    assert (state.status, state.stage) == ("stopped", 1)
    for fact in (ev.StageEntered("r1", 2, ""), ev.RolloutResumed("r1", "me"), ev.RolloutPaused("r1", "me")):
        with pytest.raises(UsageError, match="is stopped, and this needs one that is"):
            apply(state, fact, 0.0)


def test_it_stops_early_in_a_large_stage() -> None:
    """The first two of 300 fail: the lower bound on the error rate is 7 %. Nobody waits for 16 failures."""
    state = passed(begin(), 3)
    last = members(state, 3)
    assert settle(report(state, last[:1], "failed")).status == "running"
    state = settle(report(state, last[:2], "failed"))
    assert state.status == "stopped"
    assert "error rate is above 7.1%, 5.0% is allowed" in state.sentence


def test_a_late_failure_of_an_earlier_stage_stops_it_too() -> None:
    """Two of the first twenty go back while the second stage is under way."""
    state = passed(begin(), 2)
    assert state.stage == 2
    assert settle(report(state, members(state, 1)[:2], "rolled_back")).status == "stopped"


def test_it_stops_in_a_pause_as_well() -> None:
    """A pause keeps it from advancing, not from stopping."""
    state = apply(passed(begin(), 1), ev.RolloutPaused("r1", "me"), 2.0)
    assert settle(report(state, members(state, 1), "confirmed"), 3.0).stage == 1
    assert settle(report(state, members(state, 1)[:2], "failed"), 3.0).status == "stopped"


def test_a_stage_has_its_time() -> None:
    """Silence is no success: it pauses for a person, who may go on, also without those who never answer."""
    state = passed(begin(stage_s=DAY, shadow_s=DAY / 2), 1)
    state = report(state, members(state, 1)[:10], "confirmed")
    assert settle(state, DAY).status == "running", "it began at 1 s"
    state = settle(state, DAY + 1)
    assert (state.status, state.stage) == ("paused", 1)
    assert state.sentence == "5 %: no verdict after 86400 s; 0 failed, 10 good, of 20"
    again = settle(apply(state, ev.RolloutResumed("r1", "me"), 2 * DAY), 3 * DAY - 1)
    assert again.status == "running", "the whole time again"
    assert settle(again, 3 * DAY).status == "paused"
    state = settle(apply(state, ev.RolloutResumed("r1", "me", without_silent=True), 2 * DAY), 2 * DAY)
    assert state.stage == 2
    assert health.judge(begin(shadow_s=DAY / 2), DAY / 2).outcome == "time-out"


def test_nobody_goes_on_from_nothing() -> None:
    """Without a single report there is nothing to go on by."""
    state = settle(begin(), 30 * DAY)
    assert state.status == "paused"
    with pytest.raises(UsageError, match="nobody has reported in the stage 'shadow'"):
        apply(state, ev.RolloutResumed("r1", "me", without_silent=True), 31 * DAY)


def test_a_pause_does_not_use_up_the_time() -> None:
    """Half a stage, a long pause, half a stage."""
    state = apply(begin(stage_s=DAY), ev.RolloutPaused("r1", "me"), DAY / 2)
    assert state.spent_s == DAY / 2
    assert settle(state, 9 * DAY).sentence == "paused by me"


def test_those_who_took_it_and_never_came_back_are_failures() -> None:
    """A release that kills its devices gets no report of it: half of the stage silent after taking it stops it."""
    state = passed(begin(stage_s=DAY), 1)
    first = members(state, 1)
    state = report(report(state, first[:10], "confirmed"), first[10:], "accepted")
    assert settle(state, DAY / 2).status == "running"
    state = settle(state, 2 * DAY)
    assert state.status == "stopped"
    assert "10 took it and never came back" in state.sentence


def test_the_quick_do_not_speak_for_the_dead() -> None:
    """200 of 300 took it; 69 good reports would be enough, but not while 131 are on probation and may be dead."""
    state = passed(begin(), 3)
    last = members(state, 3)
    assert settle(report(state, last[:69], "confirmed")).status == "complete"
    state = settle(report(report(state, last[:200], "accepted"), last[:69], "confirmed"))
    assert state.status == "running"
    for i in range(69, 200):
        state = settle(report(state, [last[i]], "confirmed"))
        if state.status == "complete":
            break
    assert state.tallies[3].pending == 2
    assert health.bounds(2, 200, 0.05)[1] < 0.05 < health.bounds(3, 200, 0.05)[1]


# ---- the bounds ------------------------------------------------------------------------------------------------------


def test_bounds_by_hand() -> None:
    """Without an error and with Beta(1, 100): (1 − p)^n = α·100/(100 + n); n = 69 is the first below 5 %."""
    low, high = health.bounds(0, 69, 0.05)
    assert (low, high) == (0.0, pytest.approx(1 - (0.05 * 100 / 169) ** (1 / 69), abs=1e-9))
    assert health.bounds(0, 68, 0.05)[1] > 0.05 > high
    assert health.bounds(0, 0, 0.05) == (0.0, 1.0)
    assert health.bounds(3, 3, 0.05)[1] == 1.0
    # All of n failed, Beta(1, 3): p^n = α·6/((n + 1)(n + 2)(n + 3)).. turned round: the evidence is 1/α at the bound.
    assert health.bounds(2, 2, 0.05)[0] == pytest.approx((0.05 * 6 / (3 * 4 * 5)) ** 0.5, abs=1e-9)
    with pytest.raises(ValueError, match="3 errors in 2"):
        health.bounds(3, 2, 0.05)


@given(st.integers(0, 400), st.integers(0, 400))
def test_bounds_lie_around_the_rate(a: int, b: int) -> None:
    """And a smaller α makes them wider."""
    errors, n = sorted((a, b))
    low, high = health.bounds(errors, n, 0.05)
    wide_low, wide_high = health.bounds(errors, n, 0.001)
    assert 0 <= wide_low <= low <= (errors / n if n else 0) <= high <= wide_high <= 1


def test_a_bad_release_seldom_passes_though_it_is_looked_at_after_every_report() -> None:
    """Error rate just at the share, 4000 looks each: at most α of the stages pass, by simulation with room for luck."""
    import numpy as np

    share, alpha, looks, trials = 0.05, 0.05, 4000, 2000
    errors = np.cumsum(np.random.default_rng(0).random((trials, looks)) < share, axis=1)
    # The most errors at n with which a stage passes: the upper bound grows with the errors.
    most = np.full(looks, -1)
    allowed = -1
    for n in range(1, looks + 1):
        while allowed + 1 <= n and health.bounds(allowed + 1, n, alpha)[1] < share:
            allowed += 1
        most[n - 1] = allowed
    wrong = int((errors <= most).any(axis=1).sum())
    assert 0 < wrong <= alpha * trials + 3 * (alpha * (1 - alpha) * trials) ** 0.5


def test_turned_bits_cost_reports_and_keep_the_rule() -> None:
    """Flip .1: ε = ln 9 a report. A good release of 1000 devices passes on its bound, a bad one stops."""
    import numpy as np

    chance = np.random.default_rng(1)
    fleet = [f"d{i}" for i in range(4000)]
    for rate, status in ((0.0, "complete"), (0.3, "stopped")):
        state = begin(fleet, percents=(100.0,), shadow=0.0, flip=0.1)
        for device in fleet:
            bad = health.turned(bool(chance.random() < rate), 0.1, float(chance.random()))
            state = apply(state, ev.ReleaseReported("r1", device, "failed" if bad else "confirmed"), 1.0)
            if state.tallies[0].settled % 50 == 0:
                state = settle(state)
            if state.status != "running":
                break
        assert state.status == status
    assert health.epsilon(0.1) == pytest.approx(2.1972, abs=1e-4)
    assert health.epsilon(0.0) == float("inf")
    assert [health.turned(b, 0.1, c) for b in (False, True) for c in (0.05, 0.1)] == [True, False, False, True]


# ---- going back, and what is refused ---------------------------------------------------------------------------------


def test_going_back_is_a_new_higher_version_of_the_old_release() -> None:
    """Version 2 is bad: version 3 is release 1 again, for everybody and at once, from whatever state."""
    done = passed(begin(), 4)
    second = begin(state=done)
    for state in (
        second,
        apply(second, ev.RolloutPaused("r2", "me"), 1.0),
        apply(second, ev.RolloutAborted("r2", "me"), 1.0),
        settle(report(second, members(second, 0)[:2], "rejected", shadow=True)),
        passed(second, 4),
    ):
        fact = back(state, "r3")
        assert (fact.release, fact.version, fact.back_from) == ("hash-1", 3, 2)
        after = apply(state, fact, 5.0)
        assert (after.status, after.good, after.highest) == ("complete", Completed("hash-1", 3), 3)
        told = directive(after)
        assert told is not None
        assert offer(told, "anyone", 2) == offer(told, "anyone", 1) == Offer("hash-1", 3, True)
        assert offer(told, "anyone", 3) is None


def test_there_must_be_something_to_go_back_to() -> None:
    """Neither before the first release nor with only one."""
    with pytest.raises(UsageError, match="no release has been rolled out"):
        back(State(), "r1")
    with pytest.raises(UsageError, match="no other release has gone to everybody"):
        back(passed(begin(), 4), "r2")
    with pytest.raises(UsageError, match="version 9 is not the latest, 1 is"):
        apply(begin(), ev.RolloutStarted("r2", "x", 2, (), Policy(), back_from=9), 0.0)


def test_what_makes_no_sense_is_refused_by_its_reason() -> None:
    """A clear sentence each, and the way to look."""
    state, shadow = passed(begin(), 1), begin()
    outsider = members(state, 3)[0]
    stages = plan(Policy(), "r9", FLEET)
    for now, fact, words in (
        (State(), ev.RolloutAborted("r1", "me"), "no rollout has been started"),
        (state, ev.RolloutAborted("r0", "me"), "about the rollout 'r0', but 'r1' is the latest"),
        (state, ev.RolloutResumed("r1", "me"), "is running, and this needs one that is paused"),
        (state, ev.StageEntered("r1", 3, ""), "stage 3 does not follow stage 1 of 4"),
        (state, ev.RolloutCompleted("r1", ""), "not the last"),
        (state, ev.RolloutStarted("r9", "x", 2, stages, Policy()), "is running: abort it, or go back"),
        (passed(state, 0), ev.ReleaseReported("r1", outsider, "confirmed"), "not in a stage that has begun"),
        (shadow, ev.ReleaseReported("r1", outsider, "accepted", shadow=True), "not in the shadow"),
        (shadow, ev.ReleaseReported("r1", members(shadow, 0)[0], "confirmed", True), "cannot have confirmed it"),
        (passed(begin(), 4), ev.RolloutAborted("r1", "me"), "is complete, and this needs one that is running"),
        (passed(begin(), 4), ev.RolloutStarted("r9", "x", 1, stages, Policy()), "version 1 is not above 1"),
        (passed(begin(), 4), ev.RolloutStarted("r1", "x", 2, stages, Policy()), "has been started before"),
    ):
        with pytest.raises(UsageError, match=words):
            apply(now, fact, 0.0)
    at_once = apply(State(), ev.RolloutStarted("r1", "x", 1, (), Policy()), 0.0)
    with pytest.raises(UsageError, match="counts no reports"):
        apply(at_once, ev.ReleaseReported("r1", "a", "confirmed"), 0.0)
    with pytest.raises(UsageError, match="end with 100"):
        apply(State(), ev.RolloutStarted("r1", "x", 1, stages, Policy(percents=(5.0,))), 0.0)


def test_facts_survive_their_encoding() -> None:
    """And what is not known is refused with its path."""
    facts: list[ev.CloudEvent] = [
        ev.RolloutStarted("r", "h", 1, plan(Policy(), "r", FLEET), Policy(shadow_s=5.0)),
        ev.ReleaseReported("r", "d", "rolled_back", False),
        ev.RolloutPaused("r", "me"),
    ]
    assert [ev.decode(ev.encode(fact)) for fact in facts] == facts
    for bad, words in ((b'{"kind":"coup"}', r"\$\.kind"), (b'{"kind":"rollout_aborted","rollout":1}', r"\$\.rollout")):
        with pytest.raises(CorruptState, match=words):
            ev.decode(bad)


def test_a_device_that_is_behind_is_brought_up_to_date_before_it_measures() -> None:
    """In the shadow it measures against what it serves, so it must serve what the others do."""
    told = Directive("r", "new", 2, FULL, False, "old", 1)
    assert [offer(told, "d", have) for have in (0, 1, 2)] == [Offer("old", 1, True), Offer("new", 2, False), None]
    assert directive(State()) is None


class Grove(RuleBasedStateMachine):
    """A fleet of 24 devices under a rollout to which anything may happen, in any order, in and out of turn."""

    def __init__(self) -> None:
        super().__init__()
        self.fleet = FLEET[:24]
        self.state, self.now_s = State(), 0.0
        self.runs = dict.fromkeys(self.fleet, 0)
        self.dead: set[int] = set()
        self.given: list[int] = []

    def do(self, fact: ev.RolloutEvent) -> None:
        """Apply a fact; what is refused changes nothing."""
        before = self.state
        if refusal(before, fact) is not None:
            with pytest.raises(UsageError):
                apply(before, fact, self.now_s)
            return
        self.state = apply(before, fact, self.now_s)
        if self.state.version != before.version:
            self.given.append(self.state.version)
            assert self.state.version > before.highest
            if before.status != "complete":
                self.dead.add(before.version)
        else:
            assert before.stage <= self.state.stage <= before.stage + 1
            if before.status in ("stopped", "aborted"):
                assert self.state.stage == before.stage
                assert self.state.status in ("stopped", "aborted")
            if before.status == "complete":
                assert self.state.status == "complete"
        if self.state.status in ("stopped", "aborted"):
            self.dead.add(self.state.version)

    @initialize()
    def first(self) -> None:
        """Version 1 goes to everybody at once."""
        self.do(ev.RolloutStarted("r1", "hash-1", 1, (), Policy()))

    @rule()
    def start(self) -> None:
        """The next release."""
        version = self.state.highest + 1
        policy = Policy(percents=(10.0, 50.0, 100.0), stage_s=100.0)
        stages = plan(policy, f"r{version}", self.fleet)
        self.do(ev.RolloutStarted(f"r{version}", f"hash-{version}", version, stages, policy))

    @rule()
    def go_back(self) -> None:
        """Where there is something to go back to."""
        try:
            self.do(back(self.state, f"r{self.state.highest + 1}"))
        except UsageError:
            assert len({done.release for done in self.state.lineage} | {self.state.release}) == 1
            return

    @rule(which=st.sampled_from(["pause", "resume", "without", "abort", "advance", "complete", "stop"]))
    def order(self, which: str) -> None:
        """An order, or a fact out of turn."""
        name = self.state.rollout
        facts: dict[str, ev.RolloutEvent] = {
            "pause": ev.RolloutPaused(name, "me"),
            "resume": ev.RolloutResumed(name, "me"),
            "without": ev.RolloutResumed(name, "me", True),
            "abort": ev.RolloutAborted(name, "me"),
            "advance": ev.StageEntered(name, self.state.stage + 1, ""),
            "complete": ev.RolloutCompleted(name, ""),
            "stop": ev.RolloutStopped(name, ""),
        }
        self.do(facts[which])

    @precondition(lambda self: self.state.version > 0)
    @rule(data=st.data(), mark=st.sampled_from(["accepted", "confirmed", "confirmed", "rejected", "failed"]))
    def tell(self, data: st.DataObject, mark: Mark) -> None:
        """Some devices say something, whether they are asked or not."""
        for device in data.draw(st.lists(st.sampled_from(self.fleet), max_size=12)):
            self.do(ev.ReleaseReported(self.state.rollout, device, mark, data.draw(st.booleans())))

    @rule(seconds=st.sampled_from([1.0, 60.0, 200.0]))
    def wait(self, seconds: float) -> None:
        """Time passes, and the rule is asked."""
        self.now_s += seconds
        while (fact := health.due(self.state, self.now_s)) is not None:
            assert refusal(self.state, fact) is None, "the rule never asks for what is refused"
            self.do(fact)

    @rule(some=st.sets(st.sampled_from(FLEET[:24]), max_size=12))
    def take(self, some: set[str]) -> None:
        """Some devices ask, and take what they are offered: never an older version."""
        told = directive(self.state)
        for device in some:
            mine = offer(told, device, self.runs[device]) if told else None
            if mine is not None and mine.serves:
                assert mine.version > self.runs[device]
                self.runs[device] = mine.version

    @invariant()
    def nobody_is_offered_what_is_not_theirs(self) -> None:
        """Nothing that was given up, stopped or paused, nothing before its turn: old devices and newcomers alike."""
        told, now = directive(self.state), self.state
        if told is None:
            return
        for device, have in [*self.runs.items(), *((name, 0) for name in FLEET[:48])]:
            mine = offer(told, device, have)
            if mine is None:
                continue
            assert mine.version not in self.dead
            if mine.version == now.version and now.status != "complete":
                assert now.status == "running"
                assert place(now.rollout, device) < now.stages[now.stage].reach
                assert mine.serves == now.stages[now.stage].serves

    @invariant()
    def versions_only_grow(self) -> None:
        """And the state survives its own encoding."""
        assert self.given == sorted(set(self.given))
        assert msgspec.json.decode(msgspec.json.encode(self.state), type=State) == self.state


TestGrove = Grove.TestCase
TestGrove.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
