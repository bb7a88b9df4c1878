"""The device's reducer, decision by decision: states and orders that a reader can follow without running anything."""

import msgspec
import pytest

from evergrove.core import effects as do
from evergrove.core import events as ev
from evergrove.core.config import Config, Gate, Learn, Novelty, Placement, Probation
from evergrove.core.measures import Comparison, Facts
from evergrove.rules import gate
from evergrove.tiers.device import State, next_due, step
from evergrove.tiers.device.state import known_groups, to_gain_on

LOVE = (3, 1)
LOVE_GROUP = (3, 0)
CONFIG = Config(
    learn=Learn(min_new=2, steps=10, attempts_max=2),
    novelty=Novelty(golden_every=3),
    gate=Gate(items_min=1),
    placement=Placement(enabled=False),
)
FRESH = Facts(False, None, None)
FAR = Facts(False, 30, 50.0)


def run(state: State, *events: ev.Event, config: Config = CONFIG, now_s: float = 10.0) -> tuple[State, list[do.Effect]]:
    """Events one after the other, the emitted ones included; gives the last state and all other orders.

    The worker's share, told before each of its starts, is ``test_placing``'s and left out here.
    """
    orders: list[do.Effect] = []
    waiting = list(events)
    while waiting:
        state, effects = step(config, state, waiting.pop(0), now_s)
        waiting[:0] = [e.event for e in effects if isinstance(e, do.Emit)]
        orders += [e for e in effects if not isinstance(e, do.Emit | do.SetShare)]
    return state, orders


def born(config: Config = CONFIG) -> State:
    """A device with two emotions and two kinds of hair, which has met a third emotion."""
    return run(State(), ev.DeviceInitialised("d", "r", (2, 2), False, 0), ev.ConditionAdded(0, 3), config=config)[0]


def test_a_value_of_the_fleet_is_new_to_the_gate() -> None:
    """A release that knows three values, of which its golden set judges two: the third is learnt like a new one."""
    state = run(State(), ev.DeviceInitialised("d", "r", (3, 2), False, 0, (2, 2)))[0]
    assert (state.sizes, state.known) == ((3, 2), (2, 2))
    assert known_groups(state) == ((1, 0), (2, 0))
    assert to_gain_on(state, {(3, 0), (1, 0)}) == ((3, 0),)


def seen(state: State, *records: str, config: Config = CONFIG) -> tuple[State, list[do.Effect]]:
    """Observations of love, each stored as it was ordered."""
    orders: list[do.Effect] = []
    for record in records:
        state, asked = run(state, ev.ObservationMeasured(record, LOVE, 100, FAR), config=config)
        orders += asked
        for order in asked:
            if isinstance(order, do.StoreObservation):
                fact = ev.ObservationKept(record, LOVE, order.split, order.reason)
                state, more = run(state, fact, config=config)
                orders += more
    return state, orders


def measured(job: str, harm: float, gain: float, gamma: float = 1.0, candidate: str = "c1") -> ev.CandidateMeasured:
    """Both old emotions lose ``harm`` (relative), love changes by ``gain`` (negative is better)."""
    old = [
        Comparison(kind, (n, 0), 150, harm, 0.01)  # type: ignore[arg-type]
        for n in (1, 2)
        for kind in ("incumbent", "release")
    ]
    new = [Comparison("gain", LOVE_GROUP, 10, gain, 0.01)]
    return ev.CandidateMeasured(job, candidate, gamma, (*old, *new), 1.0)


def training(config: Config = CONFIG) -> tuple[State, str]:
    """A device whose training job is under way."""
    state, orders = seen(born(config), "a", "b", "c", "d", config=config)
    jobs = [o.job for o in orders if isinstance(o, do.StartTraining)]
    assert len(jobs) == 1
    return state, jobs[0]


def promoted(config: Config = CONFIG) -> State:
    """A device that serves c1, on probation."""
    state, job = training(config)
    state, _ = run(state, ev.TrainingFinished(job, "c1", 10, 1.0, 0.1, 1000), measured(job, 0.0, -0.5), config=config)
    return run(state, ev.VersionActivated("c1", 1), config=config)[0]


def test_a_new_observation_is_stored_and_a_copy_is_dropped() -> None:
    """The order to store comes first; what is kept is counted only when it is durable."""
    state, orders = run(born(), ev.ObservationMeasured("a", LOVE, 100, FRESH))
    assert orders == [do.StoreObservation("a", "train", "kept: first of its condition")]
    assert (state.n_observed, state.n_kept, list(state.pending)) == (1, 0, ["a"])
    state, _ = run(state, ev.ObservationKept("a", LOVE, "train", "kept"))
    assert (state.n_kept, state.fresh, state.pending) == (1, ("a",), {})
    state, orders = run(state, ev.ObservationMeasured("b", LOVE, 100, Facts(True, 0, 0.0)))
    assert orders == [do.DropObservation("b")]
    assert state.dropped == {"exact duplicate": 1}


def test_golden_items_are_split_off_on_arrival_and_never_wait_to_be_learnt() -> None:
    """Of a new condition some go to the golden set; they are in no training record."""
    state, orders = seen(born(), *"abcdef", config=msgspec.structs.replace(CONFIG, learn=Learn(auto=False)))
    golden = [o.observation for o in orders if isinstance(o, do.StoreObservation) and o.split == "golden"]
    assert golden
    assert not set(golden) & (set(state.fresh) | set(state.codes))


def test_learning_starts_by_itself_when_enough_is_waiting_and_only_once() -> None:
    """``min_new`` is two: one job, although more arrive."""
    state, job = training()
    assert state.work is not None
    assert state.work.stage == "train"
    assert state.work.learnt == (LOVE_GROUP,)
    _, orders = run(state, ev.LearningRequested("app", 0))
    assert orders == []
    assert job == "job-00001"


def test_nothing_new_means_nothing_to_learn() -> None:
    """The wish is answered with a reason, and changes nothing."""
    state, effects = step(CONFIG, born(), ev.LearningRequested("app", 0), 1.0)
    assert effects == [do.Emit(ev.LearningDeferred("nothing new has been kept since the last accepted version"))]
    assert state.work is None


def test_a_good_candidate_is_promoted_and_checked_again() -> None:
    """train → measure → promote → probation → good, each order once."""
    state, job = training()
    state, orders = run(state, ev.TrainingFinished(job, "c1", 10, 1.0, 0.1, 1000))
    assert orders == [do.StartMeasuring(job, "c1", None, None, (LOVE_GROUP,), 1.0, 1)]
    state, orders = run(state, measured(job, 0.0, -0.5))
    assert orders == [do.ActivateVersion("c1", None, 1, probation=True)]
    state, orders = run(state, ev.VersionActivated("c1", 1))
    assert (state.active, state.probation, state.fresh, state.learnt) == ("c1", True, (), (LOVE_GROUP,))
    assert isinstance(orders[-1], do.StartMeasuring)
    assert orders[-1].candidate is None
    state, orders = run(state, measured(orders[-1].job, 0.0, 0.0))
    assert do.ConfirmVersion("c1") in orders
    assert (state.probation, state.work) == (False, None)


def test_a_harmful_candidate_is_rescaled_twice_and_then_rejected() -> None:
    """γ = 1, .9, ½, then the end; what it should have learnt stays fresh, but is not tried again at once."""
    state, job = training()
    fresh = state.fresh
    state, _ = run(state, ev.TrainingFinished(job, "c1", 10, 1.0, 0.1, 1000))
    gammas = []
    for gamma in (1.0, 0.9, 0.5):
        state, orders = run(state, measured(job, 0.599 * gamma**2, -0.5, gamma))
        gammas += [o.gamma for o in orders if isinstance(o, do.StartMeasuring)]
    assert gammas == [0.9, 0.5]
    assert (state.work, state.active, state.fresh, state.tried) == (None, None, fresh, len(fresh))
    assert not next_due(CONFIG, state, 20.0)


def test_a_candidate_without_a_gain_is_rejected() -> None:
    """Harmless is not enough: promotion needs a measured gain."""
    state, job = training()
    state, _ = run(state, ev.TrainingFinished(job, "c1", 10, 1.0, 0.1, 1000))
    for gamma in (1.0, 0.9, 0.5):
        state, orders = run(state, measured(job, 0.0, 0.1, gamma))
    assert state.work is None
    assert state.active is None
    assert orders == [do.StopWorker(job)]


def test_a_killed_worker_is_started_again_and_given_up_in_the_end() -> None:
    """Two attempts, then the device is idle again and the observations still wait."""
    state, job = training()
    state, orders = run(state, ev.JobInterrupted(job, "killed"))
    assert isinstance(orders[0], do.StartTraining)
    assert orders[0].attempt == 2
    state, orders = run(state, ev.JobInterrupted(job, "killed"))
    assert orders == [do.StopWorker(job)]
    assert state.work is None
    assert state.fresh


def test_a_failed_job_is_not_tried_again() -> None:
    """An error that would repeat costs one attempt."""
    state, job = training()
    state, orders = run(state, ev.JobFailed(job, "diverged"))
    assert (orders, state.work) == ([do.StopWorker(job)], None)


def test_a_start_asks_again_for_whatever_was_under_way() -> None:
    """After a crash at any stage the same order comes again."""
    state, job = training()
    for news in (
        None,
        ev.TrainingFinished(job, "c1", 10, 1.0, 0.1, 1000),
        measured(job, 0.0, -0.5),
    ):
        if news is not None:
            state, orders = run(state, news)
            last = orders[-1]
        _, again = run(state, ev.AgentStarted("0"))
        assert isinstance(again[0], do.ReconcileRecords)
        assert set(again[0].known) >= set(state.fresh)
        if news is not None:
            assert again[-1] == last


def test_late_news_of_another_job_changes_nothing() -> None:
    """A word from a job that ended long ago is only logged."""
    state, _ = training()
    for event in (
        ev.TrainingFinished("job-99999", "x", 1, 1.0, 1.0, 1),
        measured("job-99999", 0.0, -1.0),
        ev.JobInterrupted("job-99999", "late"),
        ev.CandidateRefused("job-99999", "late"),
    ):
        assert run(state, event) == (state, [])


@pytest.mark.parametrize("n_errors", [0, 1])
def test_a_version_that_fails_in_use_is_rolled_back(n_errors: int) -> None:
    """After more failures than are forgiven the pointer goes back, and what was learnt is fresh again."""
    config = msgspec.structs.replace(CONFIG, probation=Probation(errors_max=n_errors))
    state = promoted(config)
    failure = ev.GenerationFailed("c1", "not finite")
    for _ in range(n_errors):
        state, orders = run(state, failure, config=config)
        assert not orders
    state, orders = run(state, failure, config=config)
    assert orders[-1] == do.ActivateVersion(None, None, 2, probation=False)
    assert run(state, failure, config=config)[1] == []
    state, _ = run(state, ev.VersionActivated(None, 2), config=config)
    assert (state.active, state.probation, state.learnt) == (None, False, ())
    assert set(state.fresh) == set(state.codes)


def test_a_failed_re_check_rolls_back() -> None:
    """What a fresh process reads from disk is worse than the release: back to where it was good."""
    state = promoted()
    assert state.work is not None
    state, orders = run(state, measured(state.work.job, 0.9, 0.0))
    assert orders[-1] == do.ActivateVersion(None, None, 2, probation=False)


def test_somebody_asks_to_go_back() -> None:
    """Back to the release; a second time there is nothing to go back to."""
    state = promoted()
    state, orders = run(state, ev.RollbackRequested("app"))
    assert isinstance(orders[0], do.StopWorker)
    assert orders[-1] == do.ActivateVersion(None, None, 2, probation=False)
    state, orders = run(state, ev.VersionActivated(None, 2))
    assert state.active is None
    _, effects = step(CONFIG, state, ev.RollbackRequested("app"), 1.0)
    assert isinstance(effects[0], do.Emit)


def test_a_file_that_was_altered_on_disk_is_a_rollback_too() -> None:
    """The agent found at its start that the pointer had to fall back; the job under way is ended."""
    state = promoted()
    assert state.work is not None
    job = state.work.job
    state, orders = run(state, ev.VersionRolledBack("c1", None, "altered"))
    assert (state.active, orders) == (None, [do.StopWorker(job)])


def test_an_offer_passes_the_same_gate() -> None:
    """A file from elsewhere is measured from its path, and refused without a measurement where its checks fail."""
    state, _ = seen(born(), "a", "b", "c", config=msgspec.structs.replace(CONFIG, learn=Learn(auto=False)))
    state, orders = run(state, ev.AdapterOffered("/tmp/x"))
    assert isinstance(orders[0], do.StartMeasuring)
    assert orders[0].source == "/tmp/x"
    busy, _ = run(state, ev.AdapterOffered("/tmp/y"))
    assert busy == state
    state, orders = run(state, ev.CandidateRefused(orders[0].job, "NaN"))
    assert (state.work, len(orders)) == (None, 1)


def test_an_offer_must_gain_only_on_what_the_gate_can_judge() -> None:
    """A condition with fewer golden items than ``items_min`` is not asked about: nothing could show a gain on it."""
    config = msgspec.structs.replace(CONFIG, learn=Learn(auto=False), gate=Gate(items_min=2))
    state, _ = seen(born(), *"abcdefgh", config=config)
    counts = state.keeping.buffer.counts("golden")
    (condition,) = counts
    more = msgspec.structs.replace(config, gate=Gate(items_min=counts[condition] + 1))
    for asked, learnt in ((config, (condition,)), (more, ())):
        judged, _ = run(state, ev.AdapterOffered("/tmp/x"), config=asked)
        assert judged.work is not None
        assert judged.work.learnt == learnt


def test_time_brings_the_end_of_probation_and_the_next_re_check() -> None:
    """An idle device has nothing due; a day later the golden set is looked at again."""
    config = msgspec.structs.replace(
        CONFIG, probation=Probation(seconds=100.0), gate=Gate(items_min=1, recheck_every_s=1000.0)
    )
    state = promoted(config)
    assert state.work is not None
    state, _ = run(state, measured(state.work.job, 0.0, 0.0), config=config, now_s=50.0)
    assert state.probation
    assert not next_due(config, state, 60.0)
    assert next_due(config, state, 150.0)
    state, orders = run(state, ev.TimePassed(), config=config, now_s=150.0)
    assert orders == [do.ConfirmVersion("c1")]
    assert not next_due(config, state, 500.0)
    assert next_due(config, state, 2000.0)
    state, orders = run(state, ev.TimePassed(), config=config, now_s=2000.0)
    assert isinstance(orders[0], do.StartMeasuring)


def test_a_lost_record_is_no_longer_counted_on() -> None:
    """A damaged record leaves the buffer's books and is not waited for."""
    state, _ = seen(born(), "a", config=msgspec.structs.replace(CONFIG, learn=Learn(auto=False)))
    state, _ = run(state, ev.ObservationLost("a", "damaged"))
    assert (state.fresh, state.codes) == ((), {})
    assert state.keeping.buffer.records() == ()


def test_the_state_survives_its_snapshot() -> None:
    """A snapshot is the state, byte for byte, at every stage."""
    for state in (born(), training()[0], promoted()):
        assert msgspec.json.decode(msgspec.json.encode(state), type=State) == state


def test_refusals_are_counted() -> None:
    """What cannot be used is not an observation, but people want to know."""
    state, orders = run(born(), ev.ObservationRefused(10, "blank"))
    assert (state.n_refused, orders) == (1, [])


def test_what_could_not_be_judged_waits_until_it_can() -> None:
    """Two golden pictures are asked for, one is there: nothing starts, and who asks is told. The second begins it."""
    config = msgspec.structs.replace(CONFIG, gate=Gate(items_min=2))
    state, orders = seen(born(config), "a", "b", "c", config=config)
    assert not [o for o in orders if isinstance(o, do.StartTraining)]
    _, effects = step(config, state, ev.LearningRequested("app", 0), 10.0)
    assert isinstance(effects[0], do.Emit)
    assert "2 golden pictures" in str(effects[0].event)
    state, orders = seen(state, "d", config=config)
    assert [o.fresh for o in orders if isinstance(o, do.StartTraining)] == [("a", "c")]


def known_too(config: Config = CONFIG) -> tuple[State, list[do.Effect]]:
    """A device that is shown six happy faces (which the release knows) and nothing new."""
    orders: list[do.Effect] = []
    state = born(config)
    for record in "uvwxyz":
        state, asked = run(state, ev.ObservationMeasured(record, (1, 1), 100, FAR), config=config)
        for order in asked:
            assert isinstance(order, do.StoreObservation)
            state, more = run(state, ev.ObservationKept(record, (1, 1), order.split, order.reason), config=config)
            orders += more
    return state, orders


def test_what_the_release_knows_is_learnt_too_and_must_show_a_gain() -> None:
    """A part of it is split off as golden; the job must gain on it, and it is no new condition afterwards."""
    state, orders = known_too()
    assert state.keeping.buffer.counts("golden") == {(1, 0): 2}
    job = next(o.job for o in orders if isinstance(o, do.StartTraining))
    assert state.work is not None
    assert state.work.learnt == ((1, 0),)
    state, _ = run(state, ev.TrainingFinished(job, "c1", 10, 1.0, 0.1, 1000))
    answers = (*measured(job, 0.0, -0.5).comparisons[:-1], Comparison("gain", (1, 0), 10, -0.5, 0.01))
    state, _ = run(state, ev.CandidateMeasured(job, "c1", 1.0, answers, 1.0))
    state, _ = run(state, ev.VersionActivated("c1", 1))
    assert (state.active, state.learnt) == ("c1", ())


def test_beside_something_new_the_known_rides_along() -> None:
    """Happy faces and love in one job: the gain is asked for on love alone."""
    config = msgspec.structs.replace(CONFIG, learn=Learn(min_new=7, steps=10))
    state, _ = known_too(config)
    state, orders = seen(state, "a", "b", "c", "d", "e", "f", config=config)
    assert state.work is not None
    assert state.work.learnt == (LOVE_GROUP,)
    assert [o for o in orders if isinstance(o, do.StartTraining)]


def test_a_re_check_counts_nothing_as_tried() -> None:
    """What came together while the golden set was looked at again is still there to be learnt."""
    state, _ = run(born(), ev.RecheckRequested("app"))
    assert state.work is not None
    job = state.work.job
    state, _ = seen(state, "a", "b", "c")
    assert len(state.fresh) == 2
    state, _ = run(state, measured(job, 0.0, 0.0))
    assert state.tried == 0
    state, orders = seen(state, "d")
    assert [o for o in orders if isinstance(o, do.StartTraining)]


def restarts(state: State, config: Config, end: ev.Event, now_s: float) -> tuple[State, int]:
    """Ten seconds of an agent's clock; whatever it starts ends with ``end``. How often something was started."""
    n = 0
    for i in range(10):
        if next_due(config, state, now_s + i):
            state, orders = run(state, ev.TimePassed(), config=config, now_s=now_s + i)
            n += any(isinstance(order, do.StartMeasuring) for order in orders)
            if state.work is not None and state.work.stage == "measure":
                state, _ = run(state, msgspec.structs.replace(end, job=state.work.job), config=config, now_s=now_s + i)
    return state, n


@pytest.mark.parametrize("end", [ev.CandidateRefused("", "altered"), ev.JobFailed("", "no frame gate")])
def test_a_re_check_that_cannot_be_made_is_not_tried_again_at_once(end: ev.Event) -> None:
    """A damaged golden set, say: the next try is due in ``recheck_every_s``, and the version goes on serving."""
    state, job = promoted(), "job-00002"
    state, _ = run(state, measured(job, 0.0, 0.0))
    assert not state.probation
    due_s = 10.0 + CONFIG.gate.recheck_every_s
    state, n = restarts(state, CONFIG, end, due_s)
    assert (n, state.active, state.checked_at_s) == (1, "c1", due_s)


def test_a_version_whose_probation_cannot_measure_it_goes_back() -> None:
    """Refused or failed is the same: what cannot be shown to be good does not stay on probation, measured for ever."""
    for end in (ev.CandidateRefused("job-00002", "altered"), ev.JobFailed("job-00002", "no frame gate")):
        state, orders = run(promoted(), end)
        assert do.ActivateVersion(None, None, 2, probation=False) in orders
        assert state.work is not None
        assert state.work.cause.startswith("its golden re-check could not be finished: ")


def test_nothing_is_trained_that_no_golden_set_may_judge() -> None:
    """Two updates are what this set may judge, and both are spent: the device says so, and keeps its energy."""
    config = msgspec.structs.replace(CONFIG, gate=Gate(items_min=1, looks_max=2))
    worn = msgspec.structs.replace(born(config), looking=gate.State(n_updates=2, n_looks=2))
    state, orders = seen(worn, "a", "b", "c", "d", config=config)
    assert {type(order) for order in orders} == {do.StoreObservation}
    _, effects = step(config, state, ev.LearningRequested("app", 0), 10.0)
    assert [type(effect) for effect in effects] == [do.Emit]
    assert "served its 2 updates" in str(effects)


def test_an_offer_that_nothing_here_can_judge_for_a_gain_is_rejected() -> None:
    """A device that has met nothing new was promoting an adapter that changes nothing, or is somebody else's whim."""
    state, _ = run(born(), ev.AdapterOffered("/elsewhere"))
    old = [
        Comparison(kind, (n, 0), 150, 0.0, 0.01)  # type: ignore[arg-type]
        for n in (1, 2)
        for kind in ("incumbent", "release")
    ]
    state, orders = run(state, ev.CandidateMeasured("job-00001", "c9", 1.0, tuple(old), 1.0))
    assert (state.work, orders) == (None, [do.StopWorker("job-00001")])


def test_an_offer_need_not_gain_on_what_has_too_few_golden_items() -> None:
    """One golden item of love where three are needed: no answer could pass, so it is not asked for."""
    config = msgspec.structs.replace(CONFIG, gate=Gate(items_min=3))
    few, _ = seen(born(config), "a", "b", "c", config=config)
    assert few.keeping.buffer.counts("golden") == {LOVE_GROUP: 1}
    state, _ = run(few, ev.AdapterOffered("/elsewhere"), config=config)
    assert state.work is not None
    assert state.work.learnt == ()
    assert run(few, ev.AdapterOffered("/elsewhere"))[0].work.learnt == (LOVE_GROUP,)  # type: ignore[union-attr]


def test_late_pictures_of_what_is_learnt_do_not_hold_up_what_is_new() -> None:
    """A job for love, which the device has learnt, and for a fourth emotion must gain on the fourth alone."""
    learnt = msgspec.structs.replace(born(), learnt=(LOVE_GROUP,))
    assert to_gain_on(learnt, {(1, 0), LOVE_GROUP, (4, 0)}) == ((4, 0),)
    assert to_gain_on(learnt, {(1, 0), LOVE_GROUP}) == (LOVE_GROUP,)
    assert to_gain_on(learnt, {(2, 0), (1, 0)}) == ((1, 0), (2, 0))
    assert to_gain_on(born(), {LOVE_GROUP, (4, 0)}) == (LOVE_GROUP, (4, 0))
