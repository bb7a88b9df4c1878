"""When and where a job runs: readings go in, and the job begins, slows down, pauses, is parked, or asks a fog."""

import msgspec

from evergrove.core import effects as do
from evergrove.core import events as ev
from evergrove.core.config import Config, Fleet, Fog, Gate, Learn, Novelty, Placement
from evergrove.core.measures import Comparison, Facts
from evergrove.core.telemetry import Telemetry, Value, Zone
from evergrove.tiers.device import State, next_due, step

LOVE, LOVE_GROUP = (3, 1), (3, 0)
CONFIG = Config(
    learn=Learn(min_new=2, steps=100),
    novelty=Novelty(golden_every=2),
    gate=Gate(items_min=1),
    placement=Placement(park_after_s=300.0, deadline_s=36_000.0),
)
FOGS = msgspec.structs.replace(CONFIG, fog=Fog(assist_key="ab" * 32, assist_url="test"))
ON_MAINS = Telemetry(n_cores=4, battery_share=Value(0.9), on_mains=Value(1.0), network_up=Value(1.0))
LOW = Telemetry(n_cores=4, battery_share=Value(0.1), on_mains=Value(0.0), network_up=Value(1.0))


def run(
    state: State, *events: ev.Event, config: Config = CONFIG, now_s: float = 10.0
) -> tuple[State, list[do.Effect], list[ev.Event]]:
    """Events and all that follows from them; gives the last state, the orders, and the emitted facts."""
    orders: list[do.Effect] = []
    facts: list[ev.Event] = []
    waiting = list(events)
    while waiting:
        state, effects = step(config, state, waiting.pop(0), now_s)
        waiting[:0] = emitted = [e.event for e in effects if isinstance(e, do.Emit)]
        facts += emitted
        orders += [e for e in effects if not isinstance(e, do.Emit)]
    return state, orders, facts


def ready(config: Config = CONFIG) -> State:
    """A device that has kept one new observation, and one for its golden set, and has never read its sensors."""
    state, *_ = run(
        State(),
        ev.DeviceInitialised("d", "r" * 64, (2, 2), False, 0),
        ev.ConditionAdded(0, 3),
        ev.ObservationMeasured("a", LOVE, 100, Facts(False, None, None)),
        ev.ObservationKept("a", LOVE, "train", "kept"),
        ev.ObservationMeasured("g", LOVE, 100, Facts(False, 30, 50.0)),
        ev.ObservationKept("g", LOVE, "golden", "kept"),
        config=config,
    )
    return state


def ask(state: State, by: str = "app", config: Config = CONFIG, now_s: float = 10.0) -> tuple[State, list[do.Effect]]:
    state, orders, _ = run(state, ev.LearningRequested(by, 0), config=config, now_s=now_s)
    return state, orders


def begun(config: Config = CONFIG) -> State:
    """A device whose job trains with a whole core."""
    state, *_ = run(ready(config), ev.TelemetryRead(ON_MAINS), config=config)
    state, orders = ask(state, config=config)
    assert orders[-2:] == [do.SetShare(1.0), do.StartTraining("job-00001", None, ("a",), 100, 1)]
    return state


def test_nothing_begins_before_the_device_has_read_its_sensors() -> None:
    """The job waits with the reason in words, and begins with the first reading that allows it."""
    state, orders, facts = run(ready(), ev.LearningRequested("app", 0))
    assert orders == []
    assert state.waiting is not None
    assert state.work is None
    assert "no telemetry yet" in next(f.sentence for f in facts if isinstance(f, ev.PlacementDecided))
    assert all(f.choice == "defer" for f in facts if isinstance(f, ev.PlacementDecided))
    state, orders, _ = run(state, ev.TelemetryRead(ON_MAINS), now_s=20.0)
    assert [type(o) for o in orders] == [do.StopWorker, do.SetShare, do.StartTraining]
    assert state.waiting is None


def test_a_low_battery_keeps_even_a_person_waiting_and_is_logged_once() -> None:
    """The shield is not for sale; the same decision again is not a new fact."""
    state, *_ = run(ready(), ev.TelemetryRead(LOW))
    state, orders, facts = run(state, ev.LearningRequested("app", 0))
    assert orders == []
    assert [type(f) for f in facts] == [ev.PlacementDecided]
    state, orders, facts = run(state, ev.TelemetryRead(LOW), now_s=20.0)
    assert (orders, facts) == ([], [])


def test_a_running_job_pauses_parks_and_goes_on_from_its_folder() -> None:
    """Off the charger and low: share 0 at once; five minutes later the memory is given back; nothing is thrown away."""
    state, orders, facts = run(begun(), ev.TelemetryRead(LOW), now_s=20.0)
    assert orders == [do.SetShare(0.0)]
    assert [f.choice for f in facts if isinstance(f, ev.PlacementDecided)] == ["defer"]
    state, orders, _ = run(state, ev.TelemetryRead(LOW), now_s=200.0)
    assert orders == []
    state, orders, _ = run(state, ev.TelemetryRead(LOW), now_s=400.0)
    assert orders == [do.ParkWorker("job-00001")]
    assert state.work is None
    state, orders, _ = run(state, ev.TelemetryRead(ON_MAINS), now_s=500.0)
    assert orders == [do.SetShare(1.0), do.StartTraining("job-00001", None, ("a",), 100, 1)]


def test_a_parked_job_that_lost_a_record_goes_on_with_the_rest() -> None:
    """The reservoir gave one of its two pictures up meanwhile: its hours of work are not begun anew for that."""
    two, *_ = run(
        ready(),
        ev.ObservationMeasured("b", LOVE, 100, Facts(False, 30, 50.0)),
        ev.ObservationKept("b", LOVE, "train", "kept"),
        ev.TelemetryRead(ON_MAINS),
        ev.LearningRequested("app", 0),
    )
    assert two.work is not None
    assert two.work.fresh == ("a", "b")
    low, *_ = run(two, ev.TelemetryRead(LOW), now_s=20.0)
    parked, orders, _ = run(low, ev.TelemetryRead(LOW), now_s=400.0)
    assert orders == [do.ParkWorker("job-00001")]
    lost, *_ = run(parked, ev.ObservationLost("a", "evicted"), now_s=410.0)
    _, orders, _ = run(lost, ev.TelemetryRead(ON_MAINS), now_s=500.0)
    assert orders == [do.SetShare(1.0), do.StartTraining("job-00001", None, ("a", "b"), 100, 1)]


def test_few_pictures_are_not_learnt_by_heart() -> None:
    """Each condition alone: forty passes over two pictures are five steps of 16, and cost as much; else all 100."""

    def begins(config: Config, known: tuple[int, ...]) -> int:
        code = (3, *known[1:])
        kept = [
            event
            for name, store in (("a", "train"), ("b", "train"), ("g", "golden"))
            for event in (
                ev.ObservationMeasured(name, code, 100, Facts(False, 30, 50.0)),
                ev.ObservationKept(name, code, store, "kept"),
            )
        ]
        first = [ev.DeviceInitialised("d", "r" * 64, known, False, 0), ev.ConditionAdded(0, 3), *kept]
        asked = [ev.TelemetryRead(ON_MAINS), ev.LearningRequested("app", 0)]
        state, orders, _ = run(State(), *first, *asked, config=config)
        (order,) = (order for order in orders if isinstance(order, do.StartTraining))
        assert state.work is not None
        assert (state.work.steps, state.work.takes) == (config.learn.steps, order.steps)
        return order.steps

    shared = msgspec.structs.replace(CONFIG, learn=msgspec.structs.replace(CONFIG.learn, strategy="shared"))
    member = msgspec.structs.replace(CONFIG, fleet=Fleet(fog="https://fog"))
    alone = msgspec.structs.replace(CONFIG, fleet=Fleet(fog="https://fog", federate=False))
    assert [begins(config, (2,)) for config in (CONFIG, alone, shared, member)] == [5, 5, 100, 100]
    assert begins(CONFIG, (2, 2)) == 100
    brief = msgspec.structs.replace(CONFIG, learn=msgspec.structs.replace(CONFIG.learn, steps=3))
    assert begins(brief, (2,)) == 3
    assert begins(FOGS, (2,)) == 5, "an assist says what is old, and nothing old moves: none is fetched"


def test_heat_slows_a_job_down_and_a_hot_zone_stops_it() -> None:
    """At its trip point a zone allows nothing, however urgent the job."""
    hot = msgspec.structs.replace(ON_MAINS, zones=(Zone("cpu", 84.0, 85.0),), load_share=Value(0.3))
    state, orders, facts = run(begun(), ev.TelemetryRead(hot), now_s=20.0)
    assert orders == [do.SetShare(0.0)]
    assert "cpu is at 84 °C of 85 °C" in next(f.sentence for f in facts if isinstance(f, ev.PlacementDecided))
    assert state.heat["cpu"].temp_c == 84.0


def test_measuring_obeys_the_shield_too() -> None:
    """The golden set heats as training does: its share is the shield's, at no price."""
    state, *_ = run(begun(), ev.TrainingFinished("job-00001", "c1", 100, 50.0, 0.1, 1000), now_s=60.0)
    assert state.work is not None
    assert state.work.stage == "measure"
    assert state.step_s == 0.5
    state, orders, _ = run(state, ev.TelemetryRead(LOW), now_s=70.0)
    assert orders == [do.SetShare(0.0)]


def test_an_assist_is_fetched_first_and_the_job_begins_with_it() -> None:
    """A battery that has no energy to give away: the fog's help is cheaper, and its name goes into the order."""
    config = msgspec.structs.replace(
        FOGS,
        learn=Learn(min_new=2, steps=4000),
        placement=Placement(assist_saving_share=0.9, ceiling_low=5.0, ceiling_high=9.0),
    )
    full = Telemetry(n_cores=4, battery_share=Value(0.9), on_mains=Value(0.0), network_up=Value(1.0))
    state, *_ = run(ready(config), ev.TelemetryRead(full), config=config)
    state, orders = ask(state, "schedule", config)
    assert orders[-1] == do.FetchAssist("job-00001", "r" * 64)
    state, orders, _ = run(state, ev.AssistReceived("job-00001", "f" * 64, 5_000_000), config=config, now_s=20.0)
    assert orders[-1] == do.StartTraining("job-00001", None, ("a",), 4000, 1, "f" * 64)


def test_a_fog_that_fails_is_done_without() -> None:
    """The job waits again, no fog is asked for a while, and a person's job goes on here."""
    config = msgspec.structs.replace(
        FOGS, placement=Placement(assist_saving_share=0.9, assist_bytes=1, assist_wait_s=0.0)
    )
    state, *_ = run(
        ready(config), ev.TelemetryRead(msgspec.structs.replace(LOW, battery_share=Value(0.9))), config=config
    )
    state, orders = ask(state, config=config)
    assert isinstance(orders[-1], do.FetchAssist)
    state, orders, _ = run(
        state, ev.OffloadFailed("job-00001", "assisted", "nobody answered"), config=config, now_s=20.0
    )
    assert orders[-1] == do.StartTraining("job-00001", None, ("a",), 100, 1)
    assert state.placing.fog_failures == 1


def test_a_stage_past_its_time_is_cut_off_but_a_paused_one_does_not_age() -> None:
    """An hour of training is the limit; an hour of pause is none of it."""
    state = begun()
    assert not next_due(CONFIG, state, 3000.0)
    state, orders, facts = run(state, ev.TimePassed(), now_s=3700.0)
    assert isinstance(facts[0], ev.JobInterrupted)
    assert orders[-1] == do.StartTraining("job-00001", None, ("a",), 100, 2)
    paused, *_ = run(begun(), ev.TelemetryRead(LOW), now_s=20.0)
    assert not next_due(CONFIG, paused, 9000.0)


def test_a_clock_that_is_set_back_puts_nothing_off() -> None:
    """A re-check that was due in a day is due a day after the clock was set back by a year."""
    state = msgspec.structs.replace(ready(), active="c1", checked_at_s=1e9)
    assert not next_due(CONFIG, state, 5e8)
    state, *_ = run(state, ev.TelemetryRead(ON_MAINS), now_s=5e8)
    assert state.checked_at_s == 5e8
    assert next_due(CONFIG, state, 5e8 + 86_401.0)


def test_a_version_with_slow_frames_is_rolled_back() -> None:
    """p99 of frames half as long again, over 300 frames: the version before it serves again."""
    quick = msgspec.structs.replace(ON_MAINS, frame_p99_ratio=Value(0.5), frames_served=Value(1000.0))
    state, *_ = run(begun(), ev.TelemetryRead(quick), now_s=20.0)
    old = [Comparison(kind, (n, 0), 150, 0.0, 0.01) for n in (1, 2) for kind in ("incumbent", "release")]  # type: ignore[arg-type]
    gain = Comparison("gain", LOVE_GROUP, 10, -0.5, 0.01)
    state, orders, _ = run(
        state,
        ev.TrainingFinished("job-00001", "c1", 100, 50.0, 0.1, 1000),
        ev.CandidateMeasured("job-00001", "c1", 1.0, (*old, gain), 1.0),
        now_s=30.0,
    )
    assert isinstance(orders[-1], do.ActivateVersion)
    state, *_ = run(state, ev.VersionActivated("c1", 1), now_s=31.0)
    again = tuple(Comparison("release", (n, 0), 150, 0.0, 0.01) for n in (1, 2))
    patient = msgspec.structs.replace(CONFIG, probation=msgspec.structs.replace(CONFIG.probation, seconds=600.0))
    state, *_ = run(state, ev.CandidateMeasured("job-00002", "c1", 1.0, again, 1.0), config=patient, now_s=40.0)
    assert state.probation
    slow = msgspec.structs.replace(quick, frame_p99_ratio=Value(0.75), frames_served=Value(1400.0))
    state, orders, _ = run(state, ev.TelemetryRead(slow), config=patient, now_s=60.0)
    assert orders[-1] == do.ActivateVersion(None, None, 2, probation=False)
    assert state.work is not None
    assert "1.50 times as long at p99" in state.work.cause


def test_drift_makes_a_device_learn_sooner() -> None:
    """With one record waiting where two are wanted: nothing to do; once the world has changed, learn it."""
    state, *_ = run(ready(), ev.TelemetryRead(ON_MAINS))
    assert not next_due(CONFIG, state, 20.0)
    state, orders, facts = run(state, ev.DriftNoticed(LOVE_GROUP, 7.0, 6.0), now_s=20.0)
    assert ev.LearningRequested("drift", 0) in facts
    assert isinstance(orders[-1], do.StartTraining)


def test_a_stream_that_changes_is_noticed_in_the_reducer() -> None:
    """Forty observations at distance 10, then at 60: one alarm, with the condition's group."""
    state, alarms = ready(), []
    for i in range(80):
        facts = Facts(False, 30, 10.0 + (i % 3) if i < 40 else 60.0)
        state, _, said = run(state, ev.ObservationMeasured(f"o{i}", LOVE, 100, facts))
        alarms += [f for f in said if isinstance(f, ev.DriftNoticed)]
    assert alarms[0].condition == LOVE_GROUP
