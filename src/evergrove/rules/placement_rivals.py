"""Other ways to place jobs, in the protocol of ``rules.placement``, to be measured beside the price ceiling.

They choose among the same safe offers at the same prices; only their will differs. None of them is used on a device.
"""

from evergrove.rules.placement import (
    Cause,
    Choice,
    Decision,
    Offers,
    Policy,
    Rule,
    Situation,
    State,
    account,
    aged,
    decide,
    safe_offers,
    settle,
    told,
)


def greedy_local(policy: Policy, state: State, situation: Situation, now_s: float) -> tuple[State, Decision]:
    """Train here as soon as it is safe, whatever it costs; never ask a fog."""
    state, offers = _offers(policy, state, situation, now_s)
    return _take(state, situation, offers, _first(offers, "local", "assisted"), "here, as soon as it is safe", now_s)


def always_offload(policy: Policy, state: State, situation: Situation, now_s: float) -> tuple[State, Decision]:
    """Give away as much as a fog takes, as soon as it can be reached: trusted before assisted, never without one."""
    state, offers = _offers(policy, state, situation, now_s)
    return _take(
        state, situation, offers, _first(offers, "trusted", "assisted"), "to a fog whenever there is one", now_s
    )


def google(policy: Policy, state: State, situation: Situation, now_s: float) -> tuple[State, Decision]:
    """Idle, charging and on an unmetered network (Bonawitz et al. 2019, arXiv 1902.01046), else never.

    Idle is read as: the shield allows a whole core. Their devices train without a fog.
    """
    state, offers = _offers(policy, state, situation, now_s)
    ready = situation.limit.share >= 1 and situation.on_mains and situation.network_up and not situation.metered
    choice = _first(offers, "local", "assisted") if ready else "defer"
    return _take(state, situation, offers, choice, "idle, charging and unmetered, or not at all", now_s)


def if_else(policy: Policy, state: State, situation: Situation, now_s: float) -> tuple[State, Decision]:
    """What one writes first: here on mains; from half the age D to a fog; past D anything."""
    state, offers = _offers(policy, state, situation, now_s)
    choice: Choice = "defer"
    if situation.on_mains or situation.begun == "assisted":
        choice = _first(offers, "local", "assisted")
    if choice == "defer" and situation.age_s >= policy.deadline_s / 2:
        choice = _first(offers, "assisted", "trusted")
    if choice == "defer" and situation.age_s >= policy.deadline_s and offers.prices:
        choice = offers.prices[0][1]
    return _take(state, situation, offers, choice, "mains, else a fog, else anything", now_s)


def drift_plus_penalty(v: float) -> Rule:
    """Lyapunov drift plus penalty with persistent service (Neely 2010): act once V·price ≤ the waiting's weight.

    The virtual queue of the oldest job grows with its age (1 at the age D), that of the backlog with the jobs behind.
    ``v`` trades cost for delay; there is no hard age.
    """

    def rule(policy: Policy, state: State, situation: Situation, now_s: float) -> tuple[State, Decision]:
        state, offers = _offers(policy, state, situation, now_s)
        waiting = situation.backlog * situation.age_s / policy.deadline_s
        choice = offers.prices[0][1] if offers.prices and v * offers.prices[0][0] <= waiting else "defer"
        return _take(state, situation, offers, choice, f"{v:g} times the price against waiting {waiting:.2f}", now_s)

    return rule


RULES: dict[str, Rule] = {
    "price ceiling": decide,
    "if-else": if_else,
    "drift plus penalty, V=0.5": drift_plus_penalty(0.5),
    "drift plus penalty, V=1": drift_plus_penalty(1.0),
    "greedy local": greedy_local,
    "always offload": always_offload,
    "idle, charging, unmetered": google,
}
"""Ours first, then the rivals, as the bench's table has them."""


def _offers(policy: Policy, state: State, situation: Situation, now_s: float) -> tuple[State, Offers]:
    state = account(policy, state, situation, now_s)
    return state, safe_offers(policy, state, situation, now_s)


def _first(offers: Offers, *wanted: Choice) -> Choice:
    """The first of these choices that is on offer."""
    there = {choice for _, choice in offers.prices}
    return next((choice for choice in wanted if choice in there), "defer")


def _take(
    state: State, situation: Situation, offers: Offers, choice: Choice, why: str, now_s: float
) -> tuple[State, Decision]:
    """The decision in the words that ours has."""
    share = situation.limit.share if choice in ("local", "assisted") else 0.0
    cause: Cause = "price" if offers.prices else "unsafe"
    age = aged(situation.age_s)
    if not offers.prices:
        return settle(state, Decision("defer", 0.0, cause, f"deferred ({age}): {'; '.join(offers.without)}"), now_s)
    return settle(
        state, Decision(choice, share, cause, told(choice, share, f"{why} ({age})", situation, offers)), now_s
    )
