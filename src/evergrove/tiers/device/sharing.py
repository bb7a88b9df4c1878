"""What the device gives to its fleet: when an update is ordered, and what its fate means (DESIGN §7).

Only a version that counts as good is given, and one update at a time: as long as one is under way, for weeks perhaps,
the device learns on, and the next update holds all of it. Nothing is ordered where the configuration names no fog, or
says no.
"""

from typing import assert_never

import msgspec

from evergrove.core import effects as do
from evergrove.core import events as ev
from evergrove.core.config import Config
from evergrove.core.rng import stream
from evergrove.rules import retry
from evergrove.tiers.device.state import Effects, Result, Seen, Sharing, State, change

_NOTHING: dict[str, object] = {"asked": "", "token": "", "sending": False, "failures": 0, "due_s": 0.0}
"""Under way."""
Answer = ev.UpdateCounted | ev.UpdateRefused | ev.UpdateDelayed


def ripen(config: Config, state: State, version: str | None, now_s: float) -> Result:
    """A version has passed its probation: what it has learnt may go to the fleet."""
    if version is None or version == state.sharing.given:
        return state, []
    return mind(config, _with(note_seen(state), ripe=version), now_s)


def withdraw(state: State, bad: str | None) -> State:
    """A version that was taken back is not given any more; an update of it that was made already stays made."""
    return _with(state, ripe="") if bad is not None and bad == state.sharing.ripe else state


def versions(state: State) -> tuple[str, ...]:
    """The versions that updates were, or are to be, made of."""
    sharing = state.sharing
    return tuple(sorted({one for one in (sharing.given, sharing.ripe, sharing.asked) if one}))


def note_seen(state: State) -> State:
    """What serves may be given from now on: all that is shared may have seen what its training has."""
    mine, theirs = state.seen, state.seen_shared
    if not versions(state):
        return change(state, seen_shared=mine)
    if mine is None or theirs is None:
        return change(state, seen_shared=None)
    both = Seen(max(mine.records, theirs.records), tuple(sorted({*mine.values, *theirs.values})))
    return change(state, seen_shared=both)


def withdraw_all(state: State) -> State:
    """Something that is shared is to be forgotten. No update is made of it any more, nor as a difference to it."""
    return change(_with(state, **_NOTHING, given=None, ripe=""), seen_shared=None)


def mind(config: Config, state: State, now_s: float) -> Result:
    """Orders the update that is due, if there is one."""
    sharing = state.sharing
    version = sharing.asked if sharing.token else sharing.ripe
    if not (version or sharing.token) or sharing.sending or not _allowed(config) or _waits(config, sharing, now_s):
        return state, []
    state = _with(state, asked=version, sending=True)
    return state, again(config, state)


def again(config: Config, state: State) -> Effects:
    """The order under way, as it stands: the same again after a crash."""
    sharing = state.sharing
    if not sharing.sending or not _allowed(config):
        return []
    return [do.ShareLearnt(sharing.asked, sharing.given, sharing.heard)]


def take_answer(config: Config, state: State, event: Answer, now_s: float) -> State:
    """What became of the update under way; a late word about another one changes nothing."""
    sharing = state.sharing
    if not sharing.sending or event.version != sharing.asked:
        return state
    heard = event.token or sharing.heard
    rest = "" if sharing.ripe == event.version else sharing.ripe
    match event:
        case ev.UpdateCounted():
            done = _settled(
                sharing, given=event.version or None, ripe=rest, heard=heard, n_counted=sharing.n_counted + 1
            )
        case ev.UpdateRefused():  # what it held goes with the next version's
            done = _settled(sharing, ripe=rest, heard=heard, n_refused=sharing.n_refused + 1)
        case ev.UpdateDelayed():
            failures = sharing.failures + 1
            chance = float(stream(state.seed, "share", state.device, state.n_jobs, failures).random())
            policy = retry.Policy(config.fleet.retry_s, config.fleet.retry_s_max)
            done = _settled(
                sharing,
                asked=event.version if event.token else "",
                token=event.token,
                failures=failures,
                due_s=now_s + retry.delay_s(policy, failures, chance),
            )
        case _:
            assert_never(event)
    return change(state, sharing=done)


def note_terms(state: State, event: ev.TermsRead) -> State:
    """By what terms the home fog gathers."""
    return _with(state, terms=event)


def _allowed(config: Config) -> bool:
    return bool(config.fleet.fog) and config.fleet.federate


def _waits(config: Config, sharing: Sharing, now_s: float) -> bool:
    """Whether the next attempt is still to come. One further away than any delay: the clock was set back."""
    return 0.0 < sharing.due_s - now_s <= config.fleet.retry_s_max


def _settled(sharing: Sharing, **changes: object) -> Sharing:
    """Nobody is on the way any more."""
    return msgspec.structs.replace(sharing, **(_NOTHING | changes))


def _with(state: State, **changes: object) -> State:
    return change(state, sharing=msgspec.structs.replace(state.sharing, **changes))
