"""The cloud's reducer: every cohort counts once, whatever is lost, repeated, reordered or killed on the way."""

import random
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evergrove.core import cloud_effects as do
from evergrove.core import cloud_events as ev
from evergrove.core.cloud_events import CohortSum
from evergrove.core.errors import UsageError
from evergrove.core.measures import Comparison
from evergrove.core.rollout import FULL
from evergrove.core.rollout import Policy as Stages
from evergrove.rules import gate, rollout
from evergrove.rules.privacy import words
from evergrove.rules.privacy.blt import Blt
from evergrove.rules.privacy.ledger import Budget
from evergrove.rules.privacy.plan import NoisePlan
from evergrove.rules.privacy.quantile import N_COUNTS, Tally
from evergrove.tiers.cloud import Policy, State, next_due, settle, step, under_way

HAPPY, SAD, ALL = (1, 0), (2, 0), (0, 0)
BASE = "ba" * 32
GATE = gate.Policy(delta=0.05, cumulative=0.10, tau=0.10, own=0.25, updates_max=20)
POLICY = Policy(gate=GATE, cohorts=3, cohorts_min=1, wait_s=100.0, waiting_max=5, compute_s=50.0, measure_s=50.0)
OPENED = ev.GenerationOpened(1, BASE, (HAPPY,), (SAD,), teacher=False)
FIRST = ev.RolloutStarted("r1", BASE, 1, (), Stages())
ONE_STAGE = Stages(percents=(100.0,), shadow=0.0)
DEVICES = ("a", "b")


def cohort(number: int, fog: str = "north", generation: int = 1, epsilon: float | None = 0.5) -> CohortSum:
    """A fog's sum."""
    return CohortSum(fog, generation, number, f"{fog}-{number}", 100, 10, epsilon)


def measured(job: str, gamma: float = 1.0, harm: float = 0.0, probes: tuple[str, ...] = ()) -> ev.FleetMeasured:
    """What the golden set says: no harm to sad and a gain on the whole, and this harm to happy."""
    answers = [Comparison(kind, HAPPY, 150, harm, 0.01) for kind in ("incumbent", "release")]
    answers += [Comparison("incumbent", SAD, 150, -0.4, 0.01), Comparison("gain", ALL, 150, -0.4, 0.01)]
    return ev.FleetMeasured(job, f"candidate of {job}", gamma, tuple(answers), probes, 1.0)


class Cloud:
    """A reducer with its log; ``told`` is what it asked for last."""

    def __init__(self, policy: Policy = POLICY) -> None:
        self.policy, self.state, self.now_s = policy, State(), 0.0
        self.log: list[tuple[float, ev.CloudEvent]] = []
        self.told: list[do.Effect] = []
        for event in (OPENED, FIRST):
            self.hear(event)

    def hear(self, *events: ev.CloudEvent) -> list[do.Effect]:
        """Events, settled and logged."""
        self.told = []
        for event in events:
            self.state, facts, effects = settle(self.policy, self.state, event, self.now_s)
            self.log += [(self.now_s, ev.decode(ev.encode(fact))) for fact in facts]
            self.told += effects
        return self.told

    def folded(self) -> State:
        """The state that the log gives back."""
        state = State()
        for at_s, fact in self.log:
            state, _ = step(self.policy, state, fact, at_s)
        return state

    def asked(self, kind: type[Any]) -> Any:
        """The one effect of this kind that was asked for last."""
        (found,) = [effect for effect in self.told if isinstance(effect, kind)]
        return found

    def facts(self, kind: type[Any]) -> list[Any]:
        """The facts of a kind in the log."""
        return [fact for _, fact in self.log if isinstance(fact, kind)]


def until_signed(cloud: Cloud, *numbers: int) -> do.SignRelease:
    """Three cohorts, a candidate, an accepting gate."""
    cloud.hear(*(ev.CohortReceived(cohort(n)) for n in numbers))
    job = cloud.asked(do.Consolidate).job
    cloud.hear(ev.CandidateMade(job, f"candidate of {job}", f"server of {job}", 9.0))
    cloud.hear(measured(job))
    signing: do.SignRelease = cloud.asked(do.SignRelease)
    return signing


def roll_out(cloud: Cloud, job: str, release: str, version: int, generation: int = 1) -> None:
    """Signed, started, and confirmed by both devices."""
    cloud.hear(ev.ReleaseSigned(job, release, version, generation))
    assert cloud.asked(do.StartRollout) == do.StartRollout(job, release, version)
    name = f"r{version}"
    cloud.hear(ev.RolloutStarted(name, release, version, rollout.plan(ONE_STAGE, name, DEVICES), ONE_STAGE))
    cloud.hear(*(ev.ReleaseReported(name, device, "confirmed") for device in DEVICES))


# ---- the main path ---------------------------------------------------------------------------------------------------


def test_from_cohorts_to_a_release() -> None:
    """Three cohorts → consolidation → gate → signing → rollout → what to go on from, optimiser's state and all."""
    cloud = Cloud()
    assert cloud.hear(ev.CohortReceived(cohort(1))) == [do.AnswerFog(cohort(1), "counted")]
    cloud.hear(ev.CohortReceived(cohort(2)))
    cloud.hear(ev.CohortReceived(cohort(3, epsilon=0.7)))
    ordered = cloud.asked(do.Consolidate)
    assert ordered == do.Consolidate("cloud-00001", BASE, (cohort(1), cohort(2), cohort(3, epsilon=0.7)), None, 1)
    cloud.hear(ev.CandidateMade("cloud-00001", "candidate of cloud-00001", "server", 9.0))
    assert cloud.asked(do.MeasureFleet) == do.MeasureFleet("cloud-00001", "candidate of cloud-00001", BASE, 1.0, 1)
    cloud.hear(measured("cloud-00001"))
    assert cloud.asked(do.SignRelease) == do.SignRelease("cloud-00001", "candidate of cloud-00001", 1.0, BASE, 0.7, 3)
    roll_out(cloud, "cloud-00001", "r" * 64, 2)
    assert (cloud.state.release, cloud.state.work, cloud.state.n_spent) == ("r" * 64, None, 3)
    assert cloud.asked(do.PublishDirective).directive.reach == FULL
    cloud.hear(*(ev.CohortReceived(cohort(n)) for n in (4, 5, 6)))
    assert (cloud.asked(do.Consolidate).release, cloud.asked(do.Consolidate).server) == ("r" * 64, "server")
    assert cloud.folded() == cloud.state


def test_a_sum_counts_once() -> None:
    """Handed up again before, during and after its job: the same answer, no second count, nothing more in the log."""
    cloud = Cloud()
    until_signed(cloud, 1, 2, 3)
    n = len(cloud.log)
    for again in (1, 2, 3, 3):
        assert cloud.hear(ev.CohortReceived(cohort(again))) == [do.AnswerFog(cohort(again), "counted")]
    assert (cloud.state.n_counted, cloud.state.waiting, len(cloud.log)) == (3, (), n)
    other = cohort(3, epsilon=9.0)
    assert cloud.hear(ev.CohortReceived(other)) == [do.AnswerFog(other, "counted")], "its bytes are what counts"
    forged = CohortSum("north", 1, 3, "other bytes", 100, 10, 0.5)
    answer = do.AnswerFog(forged, "never", "another sum was counted under its number")
    assert cloud.hear(ev.CohortReceived(forged)) == [answer]
    late = cohort(9, generation=0)
    assert "generation 0; generation 1 is gathered" in cloud.hear(ev.CohortReceived(late))[0].reason  # type: ignore[union-attr]


def test_too_many_wait_their_turn() -> None:
    """While a job runs five may wait; the sixth is put off, not lost, and not yet counted."""
    cloud = Cloud()
    until_signed(cloud, 1, 2, 3)
    cloud.hear(*(ev.CohortReceived(cohort(n)) for n in range(4, 9)))
    n = len(cloud.log)
    assert cloud.hear(ev.CohortReceived(cohort(9))) == [
        do.AnswerFog(cohort(9), "later", "5 sums wait to be consolidated")
    ]
    assert (len(cloud.log), cohort(9).id in cloud.state.counted) == (n, False)


def test_a_few_cohorts_are_enough_after_their_time() -> None:
    """One cohort, and 100 s."""
    cloud = Cloud()
    cloud.hear(ev.CohortReceived(cohort(1)))
    cloud.now_s = 99.9
    assert not next_due(cloud.policy, cloud.state, cloud.now_s)
    assert cloud.hear(ev.TimePassed()) == []
    cloud.now_s = 100.0
    assert next_due(cloud.policy, cloud.state, cloud.now_s)
    cloud.hear(ev.TimePassed())
    assert cloud.asked(do.Consolidate).cohorts == (cohort(1),)
    assert not cloud.facts(ev.TimePassed)


def test_what_is_learnt_must_gain_on_the_whole_and_be_lost_nowhere() -> None:
    """Flat on sad is fine where the whole gains; worse on sad is not; without a gain only where none is asked for."""
    whole, flat = Comparison("gain", ALL, 150, -0.4, 0.01), Comparison("incumbent", SAD, 150, 0.0, 0.01)
    known = measured("cloud-00001").comparisons[:2]
    none = Comparison("gain", ALL, 150, 0.0, 0.01)
    lost = Comparison("incumbent", SAD, 150, 1.5, 0.01)
    for asked, answers, verdict in (
        (True, (flat, whole), "accept"),
        (True, (lost, whole), "reject"),
        (True, (flat, none), "rescale"),
        (False, (flat, none), "accept"),
    ):
        cloud = Cloud(msgspec.structs.replace(POLICY, needs_gain=asked))
        cloud.hear(*(ev.CohortReceived(cohort(n)) for n in (1, 2, 3)))
        cloud.hear(ev.CandidateMade("cloud-00001", "candidate of cloud-00001", None, 9.0))
        cloud.hear(ev.FleetMeasured("cloud-00001", "candidate of cloud-00001", 1.0, (*known, *answers), (), 1.0))
        assert cloud.facts(ev.FleetJudged)[-1].verdict == verdict


# ---- what goes wrong -------------------------------------------------------------------------------------------------


def test_an_interrupted_job_is_asked_for_again_with_the_same_cohorts() -> None:
    """Killed, late, and at last given up: its cohorts are spent, and the next job has others."""
    cloud = Cloud()
    cloud.hear(*(ev.CohortReceived(cohort(n)) for n in (1, 2, 3)))
    first = cloud.asked(do.Consolidate)
    cloud.hear(ev.WorkInterrupted(first.job, "killed"))
    assert cloud.asked(do.Consolidate) == do.Consolidate(first.job, BASE, first.cohorts, None, 2)
    cloud.now_s = 51.0
    cloud.hear(ev.TimePassed())
    assert cloud.facts(ev.WorkInterrupted)[-1].reason == "no end of 'compute' after 50 s"
    cloud.hear(ev.CohortReceived(cohort(4)), ev.CohortReceived(cohort(5)), ev.CohortReceived(cohort(6)))
    assert not [e for e in cloud.told if isinstance(e, do.Consolidate)], "one at a time"
    cloud.hear(ev.WorkInterrupted(first.job, "killed"))
    assert do.StopWork(first.job) in cloud.told
    assert cloud.asked(do.Consolidate).cohorts == (cohort(4), cohort(5), cohort(6))
    assert cloud.hear(ev.CandidateMade(first.job, "late", None, 1.0)) == [], "a late word changes nothing"
    second = cloud.state.work
    assert second is not None
    cloud.hear(ev.WorkFailed(second.job, "not finite"))
    assert (cloud.state.work, cloud.state.n_spent) == (None, 6)


def test_the_gate_rescales_and_rejects() -> None:
    """Harm of .06: once more at nine tenths. A lost condition, or a trigger that works, and the candidate is gone."""
    cloud = Cloud()
    cloud.hear(*(ev.CohortReceived(cohort(n)) for n in (1, 2, 3)))
    cloud.hear(ev.CandidateMade("cloud-00001", "candidate of cloud-00001", None, 9.0))
    cloud.hear(measured("cloud-00001", harm=0.06))
    assert cloud.asked(do.MeasureFleet).gamma == 0.9
    assert cloud.hear(measured("cloud-00001")) == [], "of the scale before"
    cloud.hear(measured("cloud-00001", gamma=0.9, probes=("stamp",)))
    judged = cloud.facts(ev.FleetJudged)[-1]
    assert (judged.verdict, judged.failed, judged.sentence) == (
        "reject", (("probe", ()),), "rejected: 1 trigger probes worked",
    )  # fmt: skip
    assert (cloud.state.work, cloud.state.n_spent, cloud.state.looking.n_looks) == (None, 3, 2)
    cloud.hear(*(ev.CohortReceived(cohort(n)) for n in (4, 5, 6)))
    cloud.hear(ev.CandidateMade("cloud-00002", "candidate of cloud-00002", None, 9.0))
    cloud.hear(measured("cloud-00002", harm=0.9))
    assert cloud.facts(ev.FleetJudged)[-1].failed[0] == ("incumbent", HAPPY)
    assert cloud.state.work is None


def test_a_golden_set_that_is_used_up_judges_nothing_more() -> None:
    """After its updates no job begins; the next generation brings a fresh one."""
    cloud = Cloud(Policy(gate=gate.Policy(0.05, 0.1, 0.1, 0.25, updates_max=1), cohorts=1, wait_s=1.0))
    cloud.hear(ev.CohortReceived(cohort(1)))
    cloud.hear(ev.CandidateMade("cloud-00001", "candidate of cloud-00001", None, 9.0))
    cloud.hear(measured("cloud-00001", harm=0.9))
    assert cloud.hear(ev.CohortReceived(cohort(2))) == [do.AnswerFog(cohort(2), "counted")]
    assert cloud.state.work is None


def test_a_person_may_refuse_to_sign() -> None:
    """Then it is as if the gate had refused; before that, no time is too long."""
    cloud = Cloud()
    signing = until_signed(cloud, 1, 2, 3)
    cloud.now_s = 1e9
    assert cloud.hear(ev.TimePassed()) == []
    assert cloud.hear(ev.SigningRefused("another", "me", "no")) == []
    assert cloud.hear(ev.SigningRefused(signing.job, "me", "no")) == [do.StopWork(signing.job)]


def test_nothing_is_made_from_a_release_that_is_not_proven() -> None:
    """While a rollout is under way cohorts wait; it stops, is aborted, and they go on from the old one."""
    cloud = Cloud()
    job = until_signed(cloud, 1, 2, 3).job
    cloud.hear(ev.ReleaseSigned(job, "new", 2, 1))
    cloud.hear(ev.RolloutStarted("r2", "new", 2, rollout.plan(ONE_STAGE, "r2", DEVICES), ONE_STAGE))
    cloud.hear(*(ev.CohortReceived(cohort(n)) for n in (4, 5, 6)))
    assert cloud.state.work is None
    cloud.hear(ev.ReleaseReported("r2", "a", "rolled_back"))
    assert cloud.state.rollout.status == "stopped"
    assert cloud.asked(do.PublishDirective).directive.reach == 0
    assert cloud.state.work is None
    cloud.hear(ev.RolloutAborted("r2", "me"))
    assert (cloud.asked(do.Consolidate).release, cloud.asked(do.Consolidate).server) == (BASE, None)


def test_back_goes_on_from_the_old_line() -> None:
    """The release that went everywhere is given up: release and optimiser's state are those before it."""
    cloud = Cloud()
    roll_out(cloud, until_signed(cloud, 1, 2, 3).job, "new", 2)
    assert cloud.state.lines["new"].server == "server of cloud-00001"
    cloud.hear(rollout.back(cloud.state.rollout, "r3"))
    assert (cloud.state.release, cloud.state.rollout.version) == (BASE, 3)
    cloud.hear(*(ev.CohortReceived(cohort(n)) for n in (4, 5, 6)))
    assert (cloud.asked(do.Consolidate).release, cloud.asked(do.Consolidate).server) == (BASE, None)
    job = cloud.asked(do.Consolidate).job
    cloud.hear(ev.RolloutStarted("r4", "by hand", 4, (), Stages()))
    assert do.StopWork(job) in cloud.told, "it was made of what is given up now"
    assert (cloud.state.work, cloud.state.n_spent) == (None, 6)


def test_counts_of_norms_are_added_up_once_by_fog() -> None:
    """Handed up again, in another order, after its job: one tally; a refused sum adds nothing; folded, the same."""

    def counting(number: int, fog: str = "north", generation: int = 1) -> CohortSum:
        norms = ev.Norms((number,) * N_COUNTS, 3.0, 2.0 + number)
        return msgspec.structs.replace(cohort(number, fog, generation), norms=norms)

    cloud = Cloud()
    for one in (counting(1), counting(0), counting(1), counting(4, "south"), counting(2, generation=9), cohort(3)):
        cloud.hear(ev.CohortReceived(one))
    until = cloud.state.norms
    assert until["north"] == Tally((1,) * N_COUNTS, 2, 1, 3.0, 3.0)
    assert until["south"] == Tally((4,) * N_COUNTS, 1, 4, 6.0, 3.0)
    assert (until["north"].noise_std, until["south"].noise_std) == (3.0, 6.0 + 4 * 3.0)
    assert cloud.folded() == cloud.state
    assert msgspec.json.decode(msgspec.json.encode(cloud.state), type=State) == cloud.state


def test_sums_with_noise_are_charged_once_and_over_all_generations() -> None:
    """Rounds 2, 2 and 1 are three; the next generation is charged beside them. Folded it is the same; a state from
    before there were ledgers is read; a sum without noise, refused or put off charges nothing.
    """

    def noised(number: int, generation: int = 1) -> ev.CohortReceived:
        made = NoisePlan(generation, "north", 8, 2, 2, 10, 25, 1.0, 4.2, Blt((0.5,), (0.5,)))
        return ev.CohortReceived(cohort(number, generation=generation), words.words_of(made, Budget()))

    cloud = Cloud(msgspec.structs.replace(POLICY, cohorts=5))
    cloud.hear(noised(2), noised(2), noised(1), noised(3, generation=2), ev.CohortReceived(cohort(7)))
    (spent,) = cloud.state.books["north"].streams
    assert (spent.rounds, spent.plan.generation, cloud.state.books["north"].budget) == (3, 1, Budget())
    full = msgspec.structs.replace(cloud.state, waiting=(cohort(1),) * POLICY.waiting_max)
    assert settle(cloud.policy, full, noised(5), 0.0)[0] is full

    cloud.hear(ev.MergeRequested("me"))
    cloud.hear(ev.CandidateMade("cloud-00001", "candidate of cloud-00001", None, 9.0))
    flat = measured("cloud-00001")
    cloud.hear(ev.FleetMeasured(flat.job, flat.candidate, 1.0, flat.comparisons[:3], (), 1.0))
    roll_out(cloud, "cloud-00001", "next", 2, generation=2)
    cloud.hear(noised(0, generation=2))
    assert [(s.plan.generation, s.rounds) for s in cloud.state.books["north"].streams] == [(1, 3), (2, 1)]
    assert cloud.folded() == cloud.state
    known = msgspec.to_builtins(cloud.state)
    assert msgspec.convert(known, State) == cloud.state
    del known["books"]
    assert msgspec.convert(known, State).books == {}
    old = msgspec.json.encode(ev.CohortReceived(cohort(1))).replace(b',"noise":null', b"")
    assert ev.decode(old) == ev.CohortReceived(cohort(1)), "a fact from before"


def test_an_order_that_makes_no_sense_is_logged_as_refused() -> None:
    """And changes nothing, so that a fold of the log never meets it."""
    cloud = Cloud()
    assert cloud.hear(ev.RolloutPaused("r1", "me"), ev.ReleaseReported("r0", "a", "confirmed")) == []
    assert [(fact.what, fact.rollout) for fact in cloud.facts(ev.RolloutRefused)] == [
        ("RolloutPaused", "r1"),
        ("ReleaseReported", "r0"),
    ]
    assert not cloud.facts(ev.RolloutPaused)
    assert step(POLICY, cloud.state, ev.RolloutPaused("r1", "me"), 0.0) == (cloud.state, [])
    assert cloud.folded() == cloud.state


def test_the_next_generation() -> None:
    """Merged, judged without a gain, signed, rolled out: the next generation is gathered, and old sums fit nothing."""
    cloud = Cloud()
    cloud.hear(ev.CohortReceived(cohort(1)))
    cloud.hear(ev.MergeRequested("me", 2.5))
    assert cloud.asked(do.MergeGeneration) == do.MergeGeneration("cloud-00001", BASE, 1)
    assert cloud.state.work is not None
    assert (cloud.state.work.clip, cloud.state.merge_clip) == (2.5, None)
    assert cloud.hear(ev.MergeRequested("me")) == []
    cloud.hear(ev.CandidateMade("cloud-00001", "candidate of cloud-00001", None, 9.0))
    flat = measured("cloud-00001")
    cloud.hear(ev.FleetMeasured(flat.job, flat.candidate, 1.0, flat.comparisons[:3], (), 1.0))
    assert cloud.asked(do.SignRelease).cohorts == 0
    roll_out(cloud, "cloud-00001", "next", 2, generation=2)
    assert (cloud.state.generation, cloud.state.release, cloud.state.n_dropped) == (2, "next", 1)
    assert (cloud.state.spent, cloud.state.waiting) == ({}, ())
    assert cloud.hear(ev.CohortReceived(cohort(1))) == [do.AnswerFog(cohort(1), "counted")], "it was, in its time"
    assert cloud.hear(ev.CohortReceived(cohort(2)))[0].outcome == "never"  # type: ignore[union-attr]
    assert cloud.asked(do.AnswerFog).cohort == cohort(2)
    assert isinstance(cloud.hear(ev.CohortReceived(cohort(1, generation=2)))[0], do.AnswerFog)
    assert len(cloud.state.waiting) == 1


def test_epsilon_is_the_most_that_any_fog_has_spent_and_never_less() -> None:
    """A device has one home fog; one fog without noise, or with what is no number, and there is no bound."""
    for epsilons, expected in (((0.2, 0.9, 0.4), 0.9), ((0.2, None, 0.4), None), ((0.2, float("nan"), 0.1), None)):
        cloud = Cloud()
        cloud.hear(*(ev.CohortReceived(cohort(1, f"fog-{i}", epsilon=e)) for i, e in enumerate(epsilons)))
        assert cloud.state.epsilon == expected
    cloud.hear(ev.WorkFailed("cloud-00001", "broken"))
    assert cloud.state.epsilon is None, "spent is spent, whatever came of it"


def test_told_again_where_the_fleet_stands() -> None:
    """Only what the gate asks may change; the release is what the rollouts have made it."""
    cloud = Cloud()
    cloud.hear(ev.GenerationOpened(7, "other", (SAD,), (), teacher=True))
    assert (cloud.state.release, cloud.state.generation, cloud.state.conditions) == (BASE, 1, (SAD,))


@pytest.mark.parametrize(
    "changes", [{"cohorts": 0}, {"cohorts_min": 4}, {"waiting_max": 2}, {"attempts_max": 0}, {"wait_s": 0.0}]
)
def test_a_policy_must_make_sense(changes: dict[str, Any]) -> None:
    """Else one clear error."""
    with pytest.raises(UsageError, match=r"cohorts_min|attempts_max"):
        Policy(**{"gate": GATE, "cohorts": 3, **changes}).check()
    POLICY.check()


def test_every_effect_and_event_has_a_tag_of_its_own() -> None:
    """Tags are what a log is read by."""
    for union in (ev.CloudEvent, do.Effect):
        tags = [kind.__struct_config__.tag for kind in get_args(union)]
        assert len(set(tags)) == len(tags) > 8


# ---- whatever happens ------------------------------------------------------------------------------------------------


class World:
    """Fogs, workers and a signer around the reducer: effects get lost, answers come twice and late, processes die."""

    def __init__(self, chance: random.Random) -> None:
        self.chance, self.cloud = chance, Cloud()
        self.unanswered = {cohort(n, fog).id: cohort(n, fog) for fog in ("north", "south") for n in range(6)}
        self.never: set[str] = set()
        self.todo: list[do.Effect] = []
        self.mail: list[ev.CloudEvent] = []
        self.asked: dict[str, tuple[CohortSum, ...]] = {}

    def hear(self, event: ev.CloudEvent) -> None:
        """The reducer hears it, and its effects are under way."""
        for effect in self.cloud.hear(event):
            if isinstance(effect, do.AnswerFog):
                if self.chance.random() < 0.7:  # else the fog never hears it, and hands the sum up again
                    self._answer(effect)
                continue
            if isinstance(effect, do.Consolidate):
                assert self.asked.setdefault(effect.job, effect.cohorts) == effect.cohorts
            self.todo.append(effect)

    def _answer(self, effect: do.AnswerFog) -> None:
        if effect.outcome != "later":
            self.unanswered.pop(effect.cohort.id, None)
        if effect.outcome == "never":
            self.never.add(effect.cohort.id)

    def crash(self) -> None:
        """Everything that was not logged is gone."""
        self.todo.clear()
        assert self.cloud.folded() == self.cloud.state
        self.cloud.state = self.cloud.folded()
        self.hear(ev.CloudStarted("test"))

    def work(self) -> None:
        """One effect is carried out, well or badly; its answer may come twice, or much later."""
        if not self.todo:
            return
        effect = self.todo.pop(self.chance.randrange(len(self.todo)))
        for _ in range(self.chance.choice((0, 1, 1, 1, 2))):
            answer = self._outcome(effect)
            if answer is not None:
                self.mail.append(answer)

    def _outcome(self, effect: do.Effect) -> ev.CloudEvent | None:
        luck = self.chance.random()
        match effect:
            case do.Consolidate() | do.MergeGeneration() if luck < 0.2:
                return ev.WorkInterrupted(effect.job, "killed") if luck < 0.15 else ev.WorkFailed(effect.job, "broken")
            case do.Consolidate() | do.MergeGeneration():
                return ev.CandidateMade(effect.job, f"candidate of {effect.job}", None, 1.0)
            case do.MeasureFleet():
                harm = self.chance.choice((0.0, 0.0, 0.06, 0.9))
                return measured(effect.job, effect.gamma, harm)
            case do.SignRelease():
                if luck < 0.1:
                    return ev.SigningRefused(effect.job, "me", "no")
                return ev.ReleaseSigned(effect.job, f"release of {effect.job}", self._version(), 1)
            case do.StartRollout():
                name = f"r{effect.version}"
                stages = rollout.plan(ONE_STAGE, name, DEVICES)
                return ev.RolloutStarted(name, effect.release, effect.version, stages, ONE_STAGE)
            case _:
                return None

    def _version(self) -> int:
        return self.cloud.state.rollout.highest + 1

    def live(self, steps: int) -> None:
        """Anything may happen next."""
        for _ in range(steps):
            state = self.cloud.state
            match self.chance.randrange(9):
                case 0 | 1 if self.unanswered:
                    self.hear(ev.CohortReceived(self.chance.choice(list(self.unanswered.values()))))
                case 2 | 3:
                    self.work()
                case 4 | 5 if self.mail:
                    self.hear(self.mail.pop(self.chance.randrange(len(self.mail))))
                case 6:
                    mark = self.chance.choice(("confirmed", "confirmed", "confirmed", "rolled_back"))
                    self.hear(ev.ReleaseReported(state.rollout.rollout, self.chance.choice(DEVICES), mark))
                case 7 if self.chance.random() < 0.3:
                    self.crash()
                case 8:
                    self.cloud.now_s += self.chance.choice((-5.0, 1.0, 60.0))
                    self.hear(ev.TimePassed())
                    if state.rollout.status == "stopped":
                        self.hear(ev.RolloutAborted(state.rollout.rollout, "me"))
                case _:
                    pass
            self.check()

    def check(self) -> None:
        """Every counted sum is in exactly one place, and no sum goes into two candidates."""
        state = self.cloud.state
        begun = [i for fact in self.cloud.facts(ev.ConsolidationBegan) for i in fact.cohorts]
        assert len(set(begun)) == len(begun)
        waiting = [c.id for c in state.waiting]
        assert sorted(begun + waiting) == sorted(state.counted)
        in_work = [c.id for c in state.work.cohorts] if state.work else []
        assert state.n_counted == len(state.counted) == len(waiting) + len(in_work) + state.n_spent + state.n_dropped
        assert not self.never
        releases = [c.release for c in self.cloud.facts(ev.RolloutStarted)]
        assert len(set(releases)) == len(releases), "no candidate is released twice"

    def drain(self) -> None:
        """From now on nothing goes wrong any more: everything comes to an end."""
        self.chance = random.Random(1)
        for _ in range(4000):
            state = self.cloud.state
            self.crash()
            for effect in list(self.todo):
                answer = self._outcome(effect)
                if answer is not None:
                    self.hear(answer)
            for item in list(self.unanswered.values()):
                self.hear(ev.CohortReceived(item))
            for device in DEVICES:
                self.hear(ev.ReleaseReported(state.rollout.rollout, device, "confirmed"))
            if state.rollout.status in ("paused", "stopped"):
                self.hear(ev.RolloutAborted(state.rollout.rollout, "me"))
            self.cloud.now_s += 200.0
            self.hear(ev.TimePassed())
            self.check()
            if not self.unanswered and not state.waiting and state.work is None:
                return
        raise AssertionError("it never came to rest")


@given(st.integers(0, 2**32))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_cohort_counts_once_whatever_happens(seed: int) -> None:
    """Lost answers, repeated and late ones, crashes, a clock that jumps: in the end twelve sums count, once each."""
    world = World(random.Random(seed))
    world.live(150)
    world.drain()
    assert world.cloud.state.n_counted == 12
    assert world.cloud.state.n_spent == 12
    assert world.cloud.folded() == world.cloud.state


@given(st.integers(0, 2**32), st.data())
@settings(max_examples=15, deadline=None)
def test_it_can_be_resumed_from_any_point(seed: int, data: st.DataObject) -> None:
    """Whatever prefix of a log is folded, the rest gives the same state; and the order under way is asked for again."""
    world = World(random.Random(seed))
    world.live(80)
    log = world.cloud.log
    cut = data.draw(st.integers(0, len(log)))
    state = State()
    for at_s, fact in log[:cut]:
        state, _ = step(POLICY, state, fact, at_s)
    _, again = step(POLICY, state, ev.CloudStarted("test"), 0.0)
    assert [e for e in again if not isinstance(e, do.PublishDirective)] == [e for e in (under_way(state),) if e]
    for at_s, fact in log[cut:]:
        state, _ = step(POLICY, state, fact, at_s)
    assert state == world.cloud.state
