"""Which of the fleet's releases a device runs: directive → fetched → measured → judged → on probation (DESIGN §8).

The directive is the same for all; whether it is this device's turn is for its name to say (``core/rollout``). A version
only ever goes up, and one that was tried is not tried again; what serves goes on until another one has passed the gate.
How a release fared is told to the fog, where the configuration allows.
"""

import msgspec

from evergrove.core import effects as do
from evergrove.core import events as ev
from evergrove.core.config import Config
from evergrove.core.measures import Choice
from evergrove.core.rng import stream
from evergrove.core.rollout import Mark, Offer, offer
from evergrove.rules import gate, retry
from evergrove.rules.carry import renumbered
from evergrove.tiers.device.orders import enter
from evergrove.tiers.device.placing import measure
from evergrove.tiers.device.renumbering import renumbered_state
from evergrove.tiers.device.state import (
    Effects,
    Following,
    Former,
    Result,
    Sharing,
    State,
    Taking,
    Word,
    Work,
    change,
    idle,
    new_work,
)
from evergrove.tiers.device.versions import begin_probation

DAMAGED_MAX = 3
"""Times that what came did not verify, after which the release counts as failed here."""
REPORTS_MAX = 16


def follow(config: Config, state: State, event: ev.DirectiveRead, now_s: float) -> Result:
    """The fleet's word. What was being fetched for an older one is let go."""
    state = _with(state, member=event.member, directive=event.directive)
    wanted, taking = _wanted(state), state.following.taking
    if taking is not None and state.work is None and (wanted is None or wanted != taking.offer):
        state = _with(state, taking=None, asking=False, failures=0, due_s=0.0)
    return mind(config, state, now_s)


def mind(config: Config, state: State, now_s: float) -> Result:
    """What is due: a report, a release to fetch, or one to measure."""
    if not config.fleet.fog:
        return state, []
    for ask in (_report, _fetch, _begin):
        state, orders = ask(config, state, now_s)
        if orders:
            return state, orders
    return state, []


def again(config: Config, state: State) -> Effects:
    """The errands under way, as they stand: the same again after a crash."""
    following, orders = state.following, list[do.Effect]()
    if config.fleet.fog and following.asking and following.taking is not None and config.fleet.releases:
        orders.append(do.FetchRelease(following.taking.offer.version, following.taking.offer.release))
    if config.fleet.fog and following.reporting and following.reports and config.fleet.federate:
        orders.append(_order(following.reports[0]))
    return orders


# ---- fetching --------------------------------------------------------------------------------------------------------


def take_files(config: Config, state: State, event: ev.ReleaseFetched, now_s: float) -> Result:
    """It is on the disk: measured when nothing else is under way."""
    taking = state.following.taking
    if taking is None or event.version != taking.offer.version or event.release != taking.offer.release:
        return state, []
    taking = msgspec.structs.replace(taking, fetched=True)
    return mind(config, _with(state, taking=taking, asking=False, failures=0, due_s=0.0), now_s)


def do_without(config: Config, state: State, event: ev.FetchFailed, now_s: float) -> Result:
    """Again later; what does not verify time and again counts as failed here."""
    following = state.following
    taking = following.taking
    if taking is None or event.version != taking.offer.version or not following.asking:
        return state, []
    taking = msgspec.structs.replace(taking, n_damaged=taking.n_damaged + event.damaged)
    if taking.n_damaged >= DAMAGED_MAX:
        return mind(config, _end(_with(state, taking=taking), "failed"), now_s)
    failures = following.failures + 1
    due_s = now_s + _delay_s(config, state, "fetch", failures)
    return _with(state, taking=taking, asking=False, failures=failures, due_s=due_s), []


def _fetch(config: Config, state: State, now_s: float) -> Result:
    following, wanted = state.following, _wanted(state)
    if not config.fleet.releases or following.asking or _waits(config, following.due_s, now_s):
        return state, []
    if following.taking is None:
        if wanted is None or following.directive is None:
            return state, []
        state = _with(state, taking=Taking(following.directive.rollout, wanted))
    elif following.taking.fetched:
        return state, []
    state = _with(state, asking=True)
    taking = state.following.taking
    assert taking is not None
    return state, [do.FetchRelease(taking.offer.version, taking.offer.release)]


def _wanted(state: State) -> Offer | None:
    """What the directive has for this device, if it has not been through it already."""
    following = state.following
    if following.directive is None or not following.member:
        return None
    found = offer(following.directive, following.member, following.version)
    if found is None or found.release == state.release:
        return None
    passed = following.tried if found.serves else max(following.tried, following.shadowed)
    return found if found.version > passed else None


# ---- measuring and judging -------------------------------------------------------------------------------------------


def _begin(config: Config, state: State, now_s: float) -> Result:
    """One job at a time, and none while a version is on probation or an update is being made of what serves."""
    taking = state.following.taking
    if taking is None or not taking.fetched or state.work is not None or state.probation or state.sharing.sending:
        return state, []
    state, work = new_work(state, "release" if taking.offer.serves else "shadow", "measure", now_s)
    work = msgspec.structs.replace(work, fresh=state.fresh)
    return measure(config, state, work, now_s, source=taking.offer.release)


def judge(config: Config, state: State, work: Work, event: ev.ReleaseMeasured, now_s: float) -> Result:
    """The best choice that the golden gate lets in serves; where none is, what serves goes on."""
    policy = gate.Policy.of(config.gate)
    learnt = tuple(renumbered(one, event.table) for one in state.learnt)
    expected = gate.of_release(event.known, learnt, teacher=event.teacher)
    failed: tuple[gate.Failure, ...] = ()
    for n_looks, choice in enumerate(event.choices, 1):
        faults = gate.examine(policy, choice.comparisons, expected)
        if not faults:
            state = change(state, looking=_looked(state.looking, n_looks))
            return _accept(state, work, choice, now_s)
        failed = failed or faults
    state = change(state, looking=_looked(state.looking, len(event.choices)))
    sentence = f"the release was rejected: {len(failed)} questions about harm were not passed at its best"
    blame = tuple((str(fault.kind), fault.condition) for fault in failed)
    fact = do.Emit(ev.GateJudged(work.job, "reject", 1.0, blame, sentence))
    return _end(idle(state), "rejected"), [fact, do.StopWorker(work.job)]


def _accept(state: State, work: Work, choice: Choice, now_s: float) -> Result:
    how = "and what the device had learnt, learnt again on it" if choice.relearnt else ""
    how = how or f"with {choice.gamma:g} of what the device has learnt itself"
    sentence = f"the release was accepted {how}"
    fact = do.Emit(ev.GateJudged(work.job, "accept", choice.gamma, (), sentence))
    if work.purpose == "shadow":
        return _end(idle(state), "accepted"), [fact, do.StopWorker(work.job)]
    chosen = {"candidate": choice.candidate, "gamma": choice.gamma, "given": choice.given}
    state, orders = enter(state, work, "promote", now_s, **chosen)
    return _say(state, "accepted"), [fact, *orders]


def fail(state: State, work: Work) -> Result:
    """The release could not be measured, or its pointer not turned: it counts as failed here."""
    return _end(idle(state), "failed"), [do.StopWorker(work.job)]


# ---- serving it ------------------------------------------------------------------------------------------------------


def activate(config: Config, state: State, event: ev.ReleaseActivated, now_s: float) -> Result:
    """The pointer has turned to another release: everything is numbered as it says; forward, on probation; or back."""
    work, former = state.work, Former(state.release, state.known, state.teacher, state.following.version)
    if work is None or work.stage not in ("promote", "restore"):
        return state, []
    state = change(
        renumbered_state(state, event.table),
        release=event.release,
        known=event.known,
        sizes=event.sizes,
        teacher=event.teacher,
        assist=None,
        looking=gate.State() if event.golden else state.looking,
        sharing=_based(state, event.adapter, work.given if work.stage == "promote" else event.adapter),
    )
    before, taking = state.following.before, state.following.taking
    if work.stage == "restore":
        state = _with(state, version=before.version if before else 0, before=None)
        state = change(state, sequence=event.sequence)
        return state, [do.Emit(ev.VersionRolledBack(state.active, event.adapter, work.cause))]
    assert taking is not None, "a release is taken by this job alone"
    version = taking.offer.version
    state = _with(state, version=version, tried=version, taking=None, trial=taking.rollout, before=former)
    state, orders = begin_probation(config, state, work, event.adapter, event.sequence, now_s)
    state = change(state, seen=state.seen_before)  # it was carried over from what served before, not trained
    if event.adapter is None:  # nothing of its own is in it: all of that is to be learnt again
        state = change(state, learnt=(), fresh=tuple(state.codes), tried=len(state.codes))
    return state, orders


def confirm(state: State) -> State:
    """Its probation has passed."""
    return _with(_say(state, "confirmed"), trial="") if state.following.trial else state


def give_back(state: State) -> State:
    """The device went back from what it had on probation."""
    return _with(_say(state, "rolled_back"), trial="") if state.following.trial else state


# ---- reports ---------------------------------------------------------------------------------------------------------


def heard(state: State, event: ev.ReportSent) -> State:
    """The fog has it."""
    said = Word(event.rollout, event.mark, event.shadow)
    rest = tuple(word for word in state.following.reports if word != said)
    return _with(state, reports=rest, reporting=False, report_failures=0, report_due_s=0.0)


def unheard(config: Config, state: State, now_s: float) -> State:
    """Again later."""
    failures = state.following.report_failures + 1
    due_s = now_s + _delay_s(config, state, "report", failures)
    return _with(state, reporting=False, report_failures=failures, report_due_s=due_s)


def _report(config: Config, state: State, now_s: float) -> Result:
    following = state.following
    if not following.reports or following.reporting or not config.fleet.federate:
        return state, []
    if _waits(config, following.report_due_s, now_s):
        return state, []
    return _with(state, reporting=True), [_order(following.reports[0])]


def _order(word: Word) -> do.SendReport:
    return do.SendReport(word.rollout, word.mark, word.shadow)


def _say(state: State, mark: Mark) -> State:
    """A word on the rollout under way, or on trial, for the fog."""
    following = state.following
    rollout = following.taking.rollout if following.taking else following.trial
    shadow = following.taking is not None and not following.taking.offer.serves
    word = Word(rollout, mark, shadow)
    if word in following.reports:
        return state
    return _with(state, reports=(*following.reports, word)[-REPORTS_MAX:])


# ---- helpers ---------------------------------------------------------------------------------------------------------


def _end(state: State, mark: Mark) -> State:
    """No more of this release here; it is told."""
    state = _say(state, mark)
    taking = state.following.taking
    assert taking is not None, "only what is being taken ends"
    version, following = taking.offer.version, state.following
    tried = max(following.tried, version) if taking.offer.serves else following.tried
    shadowed = following.shadowed if taking.offer.serves else version
    return _with(state, taking=None, asking=False, failures=0, due_s=0.0, tried=tried, shadowed=shadowed)


def _based(state: State, adapter: str | None, given: str | None) -> Sharing:
    """What updates are counted from on another release; one that waits in the outbox is of what serves there now."""
    waiting = bool(state.sharing.token)
    return msgspec.structs.replace(state.sharing, given=given, ripe="", asked=(adapter or "") if waiting else "")


def _looked(looking: gate.State, n: int) -> gate.State:
    return gate.State(looking.n_updates + 1, looking.n_looks + n)


def _delay_s(config: Config, state: State, what: str, failures: int) -> float:
    chance = float(stream(state.seed, what, state.device, failures).random())
    return retry.delay_s(retry.Policy(config.fleet.retry_s, config.fleet.retry_s_max), failures, chance)


def _waits(config: Config, due_s: float, now_s: float) -> bool:
    """Whether the next attempt is still to come. One further away than any delay: the clock was set back."""
    return 0.0 < due_s - now_s <= config.fleet.retry_s_max


def _with(state: State, **changes: object) -> State:
    following: Following = msgspec.structs.replace(state.following, **changes)
    return change(state, following=following)
