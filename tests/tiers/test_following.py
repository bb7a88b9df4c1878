"""Which of the fleet's releases a device runs, decision by decision: when it is taken, and what becomes of it."""

import msgspec
import pytest

from evergrove.core import effects as do
from evergrove.core import events as ev
from evergrove.core.config import Config, Fleet, Gate, Learn, Placement
from evergrove.core.measures import Choice, Comparison
from evergrove.core.rollout import FULL, Directive, place
from evergrove.rules import gate
from evergrove.rules.carry import renumbered
from evergrove.tiers.device import State, step
from evergrove.tiers.device.renumbering import renumbered_state
from evergrove.tiers.device.state import Following, Former, Sharing, Word

CONFIG = Config(
    learn=Learn(auto=False),
    gate=Gate(items_min=1),
    placement=Placement(enabled=False),
    fleet=Fleet(fog="https://fog", retry_s=10.0, retry_s_max=100.0),
)
SILENT = msgspec.structs.replace(CONFIG, fleet=Fleet(fog="https://fog", federate=False))
ALONE = msgspec.structs.replace(CONFIG, fleet=Fleet(fog="https://fog", releases=False))
TOLD = Directive("r2", "R2", 2, FULL, True)
SHADOW = Directive("r2", "R2", 2, FULL, False)
TABLE = ((0, 1, 2, 4), (0, 1, 2))
"""The device's own third emotion becomes the fourth: the release's third is the fleet's."""
Interesting = (
    do.FetchRelease | do.StartChoosing | do.ActivateVersion | do.SendReport | do.StopWorker | do.StartMeasuring
)


def run(state: State, *events: ev.Event, config: Config = CONFIG, now_s: float = 10.0) -> tuple[State, list[do.Effect]]:
    """Events one after the other, the emitted ones included; the last state and the orders that matter here."""
    orders: list[do.Effect] = []
    waiting = list(events)
    while waiting:
        state, effects = step(config, state, waiting.pop(0), now_s)
        waiting[:0] = [e.event for e in effects if isinstance(e, do.Emit)]
        orders += [e for e in effects if isinstance(e, Interesting)]
    return state, orders


def born(**changes: object) -> State:
    """A device that has learnt a third emotion of its own, and serves it as v1."""
    state, _ = run(State(), ev.DeviceInitialised("d", "R1", (2, 2), False, 0), ev.ConditionAdded(0, 3))
    return msgspec.structs.replace(
        state, active="v1", sequence=4, learnt=((3, 0),), codes={"a": (3, 1), "b": (1, 2)}, fresh=("b",),
        sharing=Sharing(given="v0"), **changes,
    )  # fmt: skip


def choice(gamma: float, candidate: str | None, harm: float = 0.0, given: str | None = None) -> Choice:
    """Measured on both old emotions and, as the release numbers it, on the device's own."""
    kinds = ("incumbent", "release")
    old = [Comparison(kind, (n, 0), 150, harm, 0.01) for n in (1, 2) for kind in kinds]  # type: ignore[arg-type]
    return Choice(gamma, candidate, given, harm, (*old, Comparison("incumbent", (4, 0), 10, harm, 0.01)))


def measured(job: str, *choices: Choice) -> ev.ReleaseMeasured:
    return ev.ReleaseMeasured(job, choices, (2, 2), TABLE, False, 1.0)


def fetched(told: Directive = TOLD, config: Config = CONFIG) -> tuple[State, str]:
    """The release is here, and being measured."""
    state, orders = run(born(), ev.DirectiveRead("kitchen", told), config=config)
    assert orders == [do.FetchRelease(2, "R2")]
    state, orders = run(state, ev.ReleaseFetched(2, "R2"), config=config)
    (order,) = orders
    assert order == do.StartChoosing("job-00001", "R2", "v1", "v0", ("b",), 1, state.learnt)
    return state, "job-00001"


def activated(adapter: str | None = "v1+", config: Config = CONFIG) -> State:
    """The release serves, on probation."""
    state, job = fetched(config=config)
    state, orders = run(state, measured(job, choice(1.0 if adapter else 0.0, adapter, given="v0+")), config=config)
    assert do.ActivateVersion(adapter, "v1", 5, True, "R2") in orders
    return run(state, ev.ReleaseActivated("R2", adapter, 5, (4, 2), (2, 2), TABLE, False, False), config=config)[0]


# ---- whose turn it is ------------------------------------------------------------------------------------------------


def test_a_device_takes_what_is_its_turn_and_nothing_else() -> None:
    """By its place under the rollout's name; a lower version, its own release, or none: nothing."""
    at = place("r2", "kitchen")
    for told, orders in (
        (Directive("r2", "R2", 2, at + 1, True), [do.FetchRelease(2, "R2")]),
        (Directive("r2", "R2", 2, at, True), []),
        (Directive("r2", "R2", 2, at, True, "R0", 1), [do.FetchRelease(1, "R0")]),
        (Directive("r2", "R1", 2, FULL, True), []),
        (Directive("r2", "R2", 0, FULL, True), []),
    ):
        assert run(born(), ev.DirectiveRead("kitchen", told))[1] == orders
    assert run(born(), ev.DirectiveRead("kitchen", TOLD), config=ALONE)[1] == []
    assert run(born(), ev.DirectiveRead("kitchen", TOLD), config=Config())[1] == []


def test_fetching_is_tried_again_and_what_never_verifies_has_failed() -> None:
    """Away: later, as often as it takes. Damaged three times: failed, and told."""
    state, _ = run(born(), ev.DirectiveRead("kitchen", TOLD))
    now_s = 10.0
    for _ in range(10):
        state, orders = run(state, ev.FetchFailed(2, False, "away"), now_s=now_s)
        assert orders == []
        assert run(state, ev.TimePassed(), now_s=now_s + 1.0)[1] == []
        now_s += 200.0
        state, orders = run(state, ev.TimePassed(), now_s=now_s)
        assert orders == [do.FetchRelease(2, "R2")]
    for n in range(3):
        state, orders = run(state, ev.FetchFailed(2, True, "altered"), now_s=now_s)
        assert orders == ([do.SendReport("r2", "failed", False)] if n == 2 else [])
        now_s += 200.0
        state, more = run(state, ev.TimePassed(), now_s=now_s)
        assert (do.FetchRelease(2, "R2") in more) == (n < 2)
    assert state.following.tried == 2
    assert run(state, ev.DirectiveRead("kitchen", msgspec.structs.replace(TOLD, rollout="again")))[1] == []
    assert do.FetchRelease(3, "R3") in run(state, ev.DirectiveRead("kitchen", Directive("r3", "R3", 3, FULL, True)))[1]


def test_a_newer_word_takes_the_place_of_what_was_on_its_way() -> None:
    """The old one is not wanted any more."""
    state, _ = run(born(), ev.DirectiveRead("kitchen", TOLD))
    state, orders = run(state, ev.DirectiveRead("kitchen", Directive("r3", "R3", 3, FULL, True)))
    assert orders == [do.FetchRelease(3, "R3")]
    assert run(state, ev.ReleaseFetched(2, "R2"))[1] == []
    state, _ = run(state, ev.DirectiveRead("kitchen", Directive("r3", "R3", 3, 0, True)))
    assert state.following.taking is None


def test_after_a_crash_what_was_under_way_is_asked_for_again() -> None:
    """Fetching, measuring, turning the pointer, reporting."""
    state, _ = run(born(), ev.DirectiveRead("kitchen", TOLD))
    assert do.FetchRelease(2, "R2") in run(state, ev.AgentStarted("x"))[1]
    state, job = fetched()
    assert do.StartChoosing(job, "R2", "v1", "v0", ("b",), 1, state.learnt) in run(state, ev.AgentStarted("x"))[1]
    state, _ = run(state, measured(job, choice(1.0, "v1+")))
    assert do.ActivateVersion("v1+", "v1", 5, True, "R2") in run(state, ev.AgentStarted("x"))[1]
    state, _ = run(activated(), ev.TimePassed())
    assert state.following.reporting
    assert do.SendReport("r2", "accepted", False) in run(state, ev.AgentStarted("x"))[1]


def test_it_waits_for_an_update_on_its_way_and_for_a_probation() -> None:
    """What is being sent, or looked at, is of what serves now."""
    for hindrance in ({"sharing": Sharing(asked="v1", sending=True)}, {"probation": True}):
        state, _ = run(msgspec.structs.replace(born(), **hindrance), ev.DirectiveRead("kitchen", TOLD))
        state, orders = run(state, ev.ReleaseFetched(2, "R2"))
        assert orders == []
        free = msgspec.structs.replace(state, sharing=Sharing(given="v0"), probation=False)
        assert isinstance(run(free, ev.TimePassed())[1][0], do.StartChoosing)


# ---- the gate's word -------------------------------------------------------------------------------------------------


def test_the_best_choice_that_the_gate_lets_in_serves() -> None:
    """The first does harm, the second not: the second, with what updates are counted from there."""
    state, job = fetched()
    state, orders = run(
        state, measured(job, choice(1.0, "v1+", harm=0.5), choice(0.5, "v1/2", given="v0/2"), choice(0.0, None))
    )
    assert orders == [do.ActivateVersion("v1/2", "v1", 5, True, "R2")]
    assert (state.looking.n_updates, state.looking.n_looks) == (1, 2)
    state, _ = run(state, ev.ReleaseActivated("R2", "v1/2", 5, (4, 2), (2, 2), TABLE, False, False))
    assert state.sharing.given == "v0/2"


def test_a_release_that_does_harm_leaves_the_old_one_serving() -> None:
    """Rejected: told, not tried again; the device's own condition counts too, under the release's number."""
    state, job = fetched()
    own = choice(1.0, "v1+")
    bad = msgspec.structs.replace(
        own, comparisons=(*own.comparisons[:4], Comparison("incumbent", (4, 0), 10, 2.0, 0.1))
    )
    state, orders = run(state, measured(job, bad, choice(0.0, None, harm=0.4)), ev.TimePassed())
    assert do.SendReport("r2", "rejected", False) in orders
    assert do.StopWorker(job) in orders
    assert (state.release, state.active, state.work, state.learnt) == ("R1", "v1", None, ((3, 0),))
    assert not any(isinstance(order, do.FetchRelease) for order in run(state, ev.TimePassed(), now_s=1e6)[1])


def test_in_the_shadow_it_is_measured_and_not_served() -> None:
    """Told as such; when the device's turn to serve comes, it is taken for real."""
    state, job = fetched(SHADOW)
    state, orders = run(state, measured(job, choice(1.0, "v1+")), ev.TimePassed())
    assert do.SendReport("r2", "accepted", True) in orders
    assert not any(isinstance(order, do.ActivateVersion) for order in orders)
    assert (state.release, state.following.version, state.following.shadowed) == ("R1", 0, 2)
    state, orders = run(state, ev.DirectiveRead("kitchen", SHADOW))
    assert not any(isinstance(order, do.FetchRelease) for order in orders)
    assert do.FetchRelease(2, "R2") in run(state, ev.DirectiveRead("kitchen", TOLD))[1]


@pytest.mark.parametrize("end", [ev.CandidateRefused, ev.JobFailed])
def test_a_release_that_cannot_be_measured_has_failed(end: type[ev.CandidateRefused]) -> None:
    """Another model, a damaged file: the old one serves, and it is told."""
    state, job = fetched()
    state, orders = run(state, end(job, "another model"), ev.TimePassed())
    assert do.SendReport("r2", "failed", False) in orders
    assert (state.work, state.following.tried, state.release) == (None, 2, "R1")


# ---- serving it, and going back --------------------------------------------------------------------------------------


def test_the_release_serves_on_probation_and_everything_has_its_new_number() -> None:
    """The device's own emotion is the fourth now; the release is kept to go back to."""
    state = activated()
    assert (state.release, state.active, state.previous, state.sequence) == ("R2", "v1+", "v1", 5)
    assert (state.sizes, state.known, state.learnt, state.codes["a"]) == ((4, 2), (2, 2), ((4, 0),), (4, 1))
    assert (state.probation, state.following.trial, state.following.version) == (True, "r2", 2)
    assert state.following.before == Former("R1", (2, 2), False, 0)
    assert state.sharing.given == "v0+"
    assert state.work is not None
    assert state.work.purpose == "probation"


def test_the_release_alone_means_that_all_of_its_own_is_to_be_learnt_again() -> None:
    """At γ = 0 nothing of the device's is in it."""
    state = activated(None)
    assert (state.active, state.learnt, sorted(state.fresh), state.tried) == (None, (), ["a", "b"], 2)


def passed(state: State) -> ev.CandidateMeasured:
    """The re-check of what serves finds nothing."""
    assert state.work is not None
    kinds = ("incumbent", "release")
    fine = [Comparison(kind, (n, 0), 150, 0.0, 0.01) for n in (1, 2) for kind in kinds]  # type: ignore[arg-type]
    return ev.CandidateMeasured(state.work.job, state.active or "R2", 1.0, tuple(fine), 1.0)


@pytest.mark.parametrize("adapter", ["v1+", None])
def test_after_its_probation_it_is_confirmed_and_then_shared(adapter: str | None) -> None:
    """Told; the pointer is confirmed for the release alone, too."""
    state = activated(adapter)
    state, _ = step(CONFIG, state, passed(state), 20.0)
    state, _ = run(state, ev.ProbationPassed(adapter), now_s=20.0)
    assert not state.probation
    assert Word("r2", "confirmed", False) in state.following.reports
    assert state.following.trial == ""
    assert state.sharing.sending == (adapter is not None)


@pytest.mark.parametrize("adapter", ["v1+", None])
def test_going_back_restores_release_numbers_and_version(adapter: str | None) -> None:
    """It failed in use: the former release and version, under the former numbers; told; never taken again."""
    state = activated(adapter)
    state, orders = run(state, ev.GenerationFailed(adapter, "not finite"))
    assert do.ActivateVersion("v1", None, 6, False, "R1") in orders
    back = ((0, 1, 2, 4, 3), (0, 1, 2))
    state, orders = run(
        state, ev.ReleaseActivated("R1", "v1", 6, (4, 2), (2, 2), back, False, False), ev.TimePassed(), now_s=1e4
    )
    assert (state.release, state.active, state.previous, state.sequence) == ("R1", "v1", None, 6)
    assert (state.learnt, state.codes["a"]) == (((3, 0),), (3, 1))
    assert state.following.version == 0
    assert state.following.before is None
    assert Word("r2", "rolled_back", False) in state.following.reports
    assert state.sharing.given == "v1"
    assert not any(isinstance(o, do.FetchRelease) for o in run(state, ev.DirectiveRead("kitchen", TOLD))[1])


def test_a_person_can_go_back_from_a_confirmed_release_until_something_is_learnt_on_it() -> None:
    """Afterwards the version before is of the same release."""
    state = activated(None)
    state, _ = run(state, passed(state), ev.ProbationPassed(None))
    assert do.ActivateVersion("v1", None, 6, False, "R1") in run(state, ev.RollbackRequested("app"))[1]
    plain, _ = run(msgspec.structs.replace(born(), active=None), ev.RollbackRequested("app"))
    assert plain.work is None


def test_reports_wait_for_the_fog_and_nothing_is_told_without_leave() -> None:
    """One at a time, again later; with federate = false none is sent."""
    state = activated()
    state, orders = run(state, ev.ReportDelayed("away"), ev.TimePassed(), now_s=10.0)
    assert not any(isinstance(order, do.SendReport) for order in orders)
    state = msgspec.structs.replace(state, work=None)
    state, orders = run(state, ev.TimePassed(), now_s=500.0)
    assert do.SendReport("r2", "accepted", False) in orders
    state, _ = run(state, ev.ReportSent("r2", "accepted", False))
    assert state.following.reports == ()
    quiet = activated(config=SILENT)
    for moment_s in (10.0, 1e6):
        assert not any(
            isinstance(o, do.SendReport) for o in run(quiet, ev.TimePassed(), config=SILENT, now_s=moment_s)[1]
        )
        assert not any(isinstance(o, do.SendReport) for o in run(quiet, ev.AgentStarted("x"), config=SILENT)[1])


# ---- numbers ---------------------------------------------------------------------------------------------------------


def test_renumbering_and_back_is_nothing() -> None:
    """Every condition that a state names, by a table and by its inverse."""
    state = activated()
    there, back = ((0, 2, 1, 4, 3), (0, 2, 1)), ((0, 2, 1, 4, 3), (0, 2, 1))
    assert renumbered((3, 2), there) == (4, 1)
    assert renumbered((9, 0), there) == (9, 0)
    assert renumbered_state(renumbered_state(state, there), back) == state
    assert renumbered_state(state, there) != state
    assert renumbered_state(state, tuple(tuple(range(n + 1)) for n in (4, 2))) == state


def test_a_release_with_another_golden_set_begins_with_fresh_looks() -> None:
    """The old one's looks were spent on the old set."""
    state, job = fetched()
    state = msgspec.structs.replace(state, looking=gate.State(150, 300))
    state, _ = run(state, measured(job, choice(1.0, "v1+")))
    same, _ = run(state, ev.ReleaseActivated("R2", "v1+", 5, (4, 2), (2, 2), TABLE, False, False))
    other, _ = run(state, ev.ReleaseActivated("R2", "v1+", 5, (4, 2), (2, 2), TABLE, False, True))
    assert same.looking.n_updates == 151
    assert other.looking.n_updates <= 1
    assert state.following != Following()
