"""What a device remembers between two events, and the few words that every decision about it needs.

``State`` is all of it besides the media and the names, which the vault holds; ``Work`` is the one job under way. The
decisions stand in the modules beside this one, the main path in ``step``.
"""

from collections.abc import Callable, Collection
from typing import Any

import msgspec

from evergrove.core import effects as do
from evergrove.core import events as ev
from evergrove.core.conditions import Code, group
from evergrove.core.rollout import Directive, Mark, Offer
from evergrove.core.telemetry import Telemetry
from evergrove.rules import drift, gate, novelty, placement, shield, thermal
from evergrove.rules.probation import anchored

Effects = list[do.Effect]
Result = tuple["State", Effects]
PEERS_MAX = 256
"""Kinds of bytes and whom they went to, that are added up apart."""


class Seen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the training of a version has seen, or may have: no less than it did.

    ``records``: the first so many of ``State.codes``, which are in the order of their arrival. ``values``: the (factor,
    number) pairs that stood in any observation up to then, also in those that have left the buffer since.
    """

    records: int = 0
    values: tuple[tuple[int, int], ...] = ()


class Sent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The byte ledger's sum of one kind to one peer: sendings, and bytes."""

    category: str
    peer: str
    n: int
    n_bytes: int


class Work(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One job, waiting or under way.

    ``purpose``: learn, offer (an adapter from elsewhere), probation, recheck, rollback, forget, release or shadow (one
    of the fleet's releases, to serve or to measure only: its name is ``source``, ``given`` what updates are counted
    from there). ``stage``: wait, assist, trusted, train, measure, promote, restore or erase: what the driver was last
    asked for, ``since_s`` when. ``asked_s`` is when somebody, or the schedule, wanted it; ``urgent``: a person waits
    for it. ``steps`` were asked for, ``takes`` are taken (0: all). ``learnt`` are the groups that the candidate must
    gain on, ``assist`` what a fog gave for it, ``tried_fogs`` the offloads that failed. ``seen`` is what the
    candidate's training has seen (None: unknown), ``erase`` the order of a job that forgets.
    """

    job: str
    purpose: str
    stage: str
    attempt: int = 1
    parent: str | None = None
    fresh: tuple[str, ...] = ()
    learnt: tuple[Code, ...] = ()
    steps: int = 0
    candidate: str | None = None
    source: str | None = None
    gamma: float = 1.0
    cause: str = ""
    asked_s: float = 0.0
    since_s: float = 0.0
    urgent: bool = False
    assist: str | None = None
    tried_fogs: tuple[str, ...] = ()
    given: str | None = None
    seen: Seen | None = None
    erase: do.Erase | None = None
    takes: int = 0


class Pending(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An observation that was chosen and is being written; ``evict`` leaves once it is durable."""

    code: Code
    split: str
    evict: tuple[str, ...]


class Sharing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the device gives to its fleet. One update at a time; what is learnt meanwhile goes with the next.

    ``given`` is the version whose learning the fleet has counted (None: the release alone), ``ripe`` the newest one
    that counts as good and was not given ("": none). ``asked`` is the version that the update under way is of, and
    ``token`` its name once it waits in the outbox; ``sending``: somebody is on the way. ``heard`` names the last
    one whose end is known. After ``failures`` in a row the next attempt is due at ``due_s``.
    """

    given: str | None = None
    ripe: str = ""
    asked: str = ""
    token: str = ""
    sending: bool = False
    heard: str = ""
    failures: int = 0
    due_s: float = 0.0
    n_counted: int = 0
    n_refused: int = 0
    terms: ev.TermsRead | None = None


class Taking(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A release that the device is to take, on its way: ``fetched`` once it is on the disk."""

    rollout: str
    offer: Offer
    fetched: bool = False
    n_damaged: int = 0


class Former(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The release that the previous version was made on, to go back to; ``version`` is its published number."""

    release: str
    known: Code
    teacher: bool
    version: int


class Word(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the fog is to be told of a rollout."""

    rollout: str
    mark: Mark
    shadow: bool


class Following(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fleet's releases, as the device follows them.

    ``member`` is its name there, ``directive`` the fleet's last word. ``version`` is the published number of what runs
    (0: what it was made with), ``tried`` and ``shadowed`` the highest that it has been through, whatever came of it.
    ``taking`` is on its way, ``asking``: somebody fetches it, after ``failures`` in a row again at ``due_s``. ``trial``
    is the rollout whose release is on probation, ``before`` the release of the previous version where it is another
    one. ``reports`` wait for the fog, the first is on its way while ``reporting``.
    """

    member: str = ""
    directive: Directive | None = None
    version: int = 0
    tried: int = 0
    shadowed: int = 0
    taking: Taking | None = None
    asking: bool = False
    failures: int = 0
    due_s: float = 0.0
    trial: str = ""
    before: Former | None = None
    reports: tuple[Word, ...] = ()
    reporting: bool = False
    report_failures: int = 0
    report_due_s: float = 0.0


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that a device remembers, besides the media and the names, which the vault holds.

    ``waiting`` is the learning job that was asked for and has not begun, or was parked; ``work`` is under way.
    ``drifting`` watches each condition's stream. ``rechecked`` is the golden re-check's word on a version on probation,
    ``frames_before`` the p99 of frame times over their budget and the count of frames when it began to serve.
    ``body`` is the newest telemetry, ``body_s`` when it was read; ``heat``, ``guarding`` and ``placing`` are the states
    of the thermal models by zone, of the shield and of the placement. ``placed`` is the last decision: (job, choice,
    share); ``share`` is what the worker may use now.

    ``known`` and ``sizes`` are the numbers of values per factor of the release and of today. ``keeping`` is
    novelty's own state, ``looking`` the gate's. ``fresh`` are training records that no accepted version has learnt
    yet, ``tried`` how many of them the last attempt had already seen. ``learnt`` and ``learnt_before`` are the new
    conditions that the active and the previous version have learnt, ``seen`` and ``seen_before`` what these were
    trained on (None: unknown, so that it may be anything), ``seen_shared`` what all that is shared was. ``sent`` sums
    up the byte ledger, whose older lines leave the log.
    """

    device: str = ""
    release: str = ""
    seed: int = 0
    known: Code = ()
    sizes: Code = ()
    keeping: novelty.State = novelty.State()
    pending: dict[str, Pending] = {}
    fresh: tuple[str, ...] = ()
    tried: int = 0
    codes: dict[str, Code] = {}
    teacher: bool = False
    looking: gate.State = gate.State()
    active: str | None = None
    previous: str | None = None
    learnt: tuple[Code, ...] = ()
    learnt_before: tuple[Code, ...] = ()
    seen: Seen | None = None
    seen_before: Seen | None = None
    seen_shared: Seen | None = None
    probation: bool = False
    probation_since_s: float = 0.0
    rechecked: bool | None = None
    frames_before: tuple[float, float] = (0.0, 0.0)
    errors: int = 0
    sequence: int = 0
    waiting: Work | None = None
    work: Work | None = None
    body: Telemetry | None = None
    body_s: float = 0.0
    heat: dict[str, thermal.State] = {}
    guarding: shield.State = shield.State()
    placing: placement.State = placement.State()
    placed: tuple[str, str, float] = ("", "", 0.0)
    share: float = 0.0
    drawn_j: float = 0.0
    assist: str | None = None
    step_s: float = 0.3
    drifting: tuple[drift.Watch, ...] = ()
    sharing: Sharing = Sharing()
    following: Following = Following()
    n_jobs: int = 0
    checked_at_s: float = 0.0
    n_observed: int = 0
    n_kept: int = 0
    n_refused: int = 0
    dropped: dict[str, int] = {}
    sent: tuple[Sent, ...] = ()


def new_work(state: State, purpose: str, stage: str, now_s: float) -> tuple[State, Work]:
    """A job with the next number, asked for now."""
    work = Work(f"job-{state.n_jobs + 1:05d}", purpose, stage, parent=state.active, asked_s=now_s, since_s=now_s)
    return change(state, n_jobs=state.n_jobs + 1), work


def busy(state: State) -> Effects:
    """One job at a time: what is told to whoever asks for another."""
    assert state.work is not None, "asked only while a job is under way"
    return [do.Emit(ev.LearningDeferred(f"{state.work.job} ({state.work.purpose}) is under way"))]


def of_work(state: State, job: str, then: Callable[[Work], Result]) -> Result:
    """Only news of the job under way counts; a late word of an ended one changes nothing."""
    if state.work is None or state.work.job != job:
        return state, []
    return then(state.work)


def idle(state: State) -> State:
    """No job any more. What it was to learn and has not stays fresh, in front of the rest, and counts as tried."""
    if state.work is None:
        return state
    seen = {*state.fresh[: state.tried], *state.work.fresh}
    tried = tuple(record for record in state.fresh if record in seen)
    rest = tuple(record for record in state.fresh if record not in seen)
    return change(state, work=None, fresh=(*tried, *rest), tried=len(tried))


def anchor(state: State, now_s: float) -> State:
    """Moments in the future are drawn back to now: the clock was set back, and nothing waits for it to return."""
    known_s = [state.body_s, state.checked_at_s, state.probation_since_s]
    for work in (state.work, state.waiting):
        if work is not None:
            known_s += (work.asked_s, work.since_s)
    if max(known_s) <= now_s:  # nearly always: this runs at every reading
        return state
    moments = {name: anchored(getattr(state, name), now_s) for name in ("body_s", "checked_at_s", "probation_since_s")}
    jobs = {
        name: msgspec.structs.replace(
            work, asked_s=anchored(work.asked_s, now_s), since_s=anchored(work.since_s, now_s)
        )
        for name, work in (("work", state.work), ("waiting", state.waiting))
        if work is not None and max(work.asked_s, work.since_s) > now_s
    }
    return change(state, **moments, **jobs)


def known_groups(state: State) -> tuple[Code, ...]:
    """The release's conditions that the gate guards: every value of the first factor."""
    rest = (0,) * (len(state.known) - 1)
    return tuple((n + 1, *rest) for n in range(state.known[0])) if state.known else ()


def golden_groups(state: State, items_min: int) -> frozenset[Code]:
    """The new conditions that have ``items_min`` golden items here: what an adapter from elsewhere can gain on."""
    golden = state.keeping.buffer.counts("golden")
    return frozenset(code for code, n in golden.items() if n >= items_min and is_new(code, state.known))


def to_gain_on(state: State, groups: Collection[Code]) -> tuple[Code, ...]:
    """What a candidate must gain on, of the conditions that it is for: those that nothing here knows yet.

    Where there are none, those that the device learnt earlier; then those that the release knows. The others ride
    along under the questions about harm: a few late pictures of what is learnt already leave nothing to be gained, and
    must not hold up what is new.
    """
    new = {one for one in groups if is_new(one, state.known)}
    return tuple(sorted(new - set(state.learnt) or new or groups))


def learnable(state: State, items_min: int) -> tuple[str, ...]:
    """The fresh records that a candidate could be judged on: their condition has ``items_min`` golden items here."""
    golden = state.keeping.buffer.counts("golden")
    return tuple(r for r in state.fresh if golden.get(group(state.codes[r], state.known), 0) >= items_min)


def seen_by_now(state: State) -> Seen | None:
    """What a training that ends now may have seen: all that is held to train on, and what its parent had seen.

    None where that is unknown. The names that the device gave are in every adapter's header, so each of its values
    counts as seen.
    """
    if state.active is not None and state.seen is None:
        return None
    shown = {(f, n) for code in state.codes.values() for f, n in enumerate(code) if n}
    named = {(f, n) for f, known in enumerate(state.known) for n in range(known + 1, state.sizes[f] + 1)}
    earlier = state.seen.values if state.seen is not None else ()
    return Seen(len(state.codes), tuple(sorted({*earlier, *shown, *named})))


def is_new(condition: Code, known: Code) -> bool:
    return any(n > size for n, size in zip(condition, known, strict=True))


def without(mapping: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in mapping.items() if k != key}


def without_records(state: State, gone: Collection[str]) -> State:
    """Training records leave: they can neither be learnt from nor counted as waiting. ``tried`` counts what is left."""
    if not gone:
        return state
    tried = sum(record not in gone for record in state.fresh[: state.tried])
    order = tuple(state.codes)
    return change(
        state,
        seen=_left(state.seen, order, gone),
        seen_before=_left(state.seen_before, order, gone),
        seen_shared=_left(state.seen_shared, order, gone),
        work=_of_less(state.work, order, gone),
        waiting=_of_less(state.waiting, order, gone),
        codes={record: code for record, code in state.codes.items() if record not in gone},
        fresh=tuple(record for record in state.fresh if record not in gone),
        tried=tried,
    )


def _left(seen: Seen | None, order: tuple[str, ...], gone: Collection[str]) -> Seen | None:
    """``records`` counts what is left, as ``tried`` does."""
    if seen is None:
        return None
    n = sum(record not in gone for record in order[: seen.records])
    return seen if n == seen.records else Seen(n, seen.values)


def _of_less(work: Work | None, order: tuple[str, ...], gone: Collection[str]) -> Work | None:
    if work is None or work.seen is None:
        return work
    return msgspec.structs.replace(work, seen=_left(work.seen, order, gone))


def count_sent(state: State, category: str, peer: str, n_bytes: int) -> State:
    """The byte ledger's sums with one more sending. Past ``PEERS_MAX`` kinds and peers, new ones count as 'others'."""
    found = next((s for s in state.sent if (s.category, s.peer) == (category, peer)), None)
    if found is None and len(state.sent) >= PEERS_MAX and peer != "others":
        return count_sent(state, category, "others", n_bytes)
    n, total = (0, 0) if found is None else (found.n, found.n_bytes)
    rest = (s for s in state.sent if s is not found)
    return change(state, sent=tuple(sorted([*rest, Sent(category, peer, n + 1, total + n_bytes)], key=_named)))


def _named(sent: Sent) -> tuple[str, str]:
    return sent.category, sent.peer


def change(state: State, **changes: Any) -> State:
    return msgspec.structs.replace(state, **changes)
