"""When and where to learn: here, here with a fog's assist, on a trusted fog, or not yet (DESIGN §6, 'Price ceiling').

Each safe choice has a price without a unit; the cheapest is taken once it lies under a ceiling that rises with the
square of the job's age, and past the age D any safe choice is. So no job waits past D for want of will, and only the
shield and an absent fog can hold it up. Every decision says why in one plain sentence.

Two deviations from the formula of §6: an assist spares the device only a part of the work, so the price of *assisted*
includes the energy of the rest; and the ceiling is a part of what the job itself would cost here on a full battery, so
that small jobs do not rush and large ones do not wait on mains.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import msgspec

from evergrove.core import config
from evergrove.rules.shield import Limit

Choice = Literal["local", "assisted", "trusted", "defer"]
Cause = Literal["price", "late", "asked", "unsafe"]
"""What a decision turned on: the price against the ceiling, the age D, a person's wish, or that nothing was safe."""

DEBT_MAX = 100.0
"""Bound of Z, in reference jobs."""


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, cache_hash=True):
    """Prices and patience, with the meaning and units of ``config.Placement``."""

    deadline_s: float = 86_400.0
    ceiling_low: float = 0.2
    ceiling_high: float = 0.6
    energy_ref_j: float = 500.0
    energy_weight: float = 1.0
    mains_factor: float = 0.1
    scarcity: float = 1.0
    energy_mean_w: float = 0.05
    kappa: float = 0.2
    bytes_ref: int = 10_000_000
    bytes_weight: float = 0.3
    wait_ref_s: float = 600.0
    wait_weight: float = 0.1
    privacy_price: float = 0.3
    stay_share: float = 0.1
    raise_hold_s: float = 60.0
    fog_retry_s: float = 60.0
    fog_retry_s_max: float = 3600.0

    @classmethod
    @lru_cache(maxsize=64)
    def of(cls, placement: config.Placement) -> "Policy":
        """The policy that a device's configuration asks for."""
        return cls(**{name: getattr(placement, name) for name in cls.__struct_fields__})


class Fog(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a configured fog offers for this job, and what that costs.

    ``unreachable`` says in words why it cannot be used now ('' where it can). An assist of ``assist_bytes`` spares the
    device ``assist_saving`` of the job's energy (0-1). ``trusted``: the user owns this fog and named its key.
    """

    unreachable: str = ""
    assisted: bool = True
    assist_bytes: int = 0
    assist_wait_s: float = 0.0
    assist_saving: float = 0.5
    trusted: bool = False
    trusted_bytes: int = 0
    trusted_wait_s: float = 0.0


class Situation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a decision is made on.

    ``age_s``: since the job was asked for. ``limit``: the shield's word. ``energy_j``: what the rest of the job draws
    if it is done here without help. ``begun``: where the job is under way or paused ('defer': nowhere yet), at
    ``share`` of a core now. ``drawn_j``: what learning drew from the *battery* since the last decision. ``fog``: None
    where none is configured. ``urgent``: a person asked and waits. ``backlog``: this job and those behind it.
    """

    age_s: float
    limit: Limit
    energy_j: float
    on_mains: bool = False
    battery_share: float | None = None
    begun: Choice = "defer"
    share: float = 0.0
    drawn_j: float = 0.0
    network_up: bool = True
    metered: bool = False
    fog: Fog | None = None
    urgent: bool = False
    backlog: int = 1


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What decisions leave behind.

    ``debt`` is Z, the energy drawn over the long-run mean, in reference jobs. ``share`` was given last, since
    ``share_at_s``. After ``fog_failures`` in a row no fog is asked before ``fog_again_s``.
    """

    at_s: float | None = None
    debt: float = 0.0
    share: float = 0.0
    share_at_s: float = 0.0
    fog_failures: int = 0
    fog_again_s: float = 0.0


class Decision(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the job goes on, with which share of one core (0 for all that does not run here), and why, in words."""

    choice: Choice
    share: float
    cause: Cause
    sentence: str


class Offers(msgspec.Struct, frozen=True):
    """The safe choices with their prices, cheapest first, and why the others are not among them."""

    prices: tuple[tuple[float, Choice], ...]
    without: tuple[str, ...]


Rule = Callable[[Policy, State, Situation, float], tuple[State, Decision]]
"""A way to place jobs; ``decide`` is ours, ``rules.placement_rivals`` holds others."""


def decide(policy: Policy, state: State, situation: Situation, now_s: float) -> tuple[State, Decision]:
    """Place a waiting or running job at ``now_s``: the cheapest safe choice under the price ceiling, or defer."""
    state = account(policy, state, situation, now_s)
    offers = safe_offers(policy, state, situation, now_s)
    age = aged(situation.age_s)
    if not offers.prices:
        return settle(state, Decision("defer", 0.0, "unsafe", f"deferred ({age}): {'; '.join(offers.without)}"), now_s)

    # 1. What the cheapest safe choice costs, and what it may cost.
    price, choice = offers.prices[0]
    top = ceiling(policy, situation.age_s, situation.energy_j)
    if situation.begun == choice and situation.share > 0:
        top *= 1 + policy.stay_share
    # 2. Is it taken, and why?
    cause: Cause
    if situation.urgent:
        cause, why = "asked", f"somebody asked for it ({age}); {choice} {price:.1f}"
    elif situation.age_s >= policy.deadline_s:
        limit = f"past the limit of {hours(policy.deadline_s)}"
        cause, why = "late", f"{age}, {limit}, so any safe choice is taken; {choice} {price:.1f}"
    else:
        cause, why = "price", compared(choice, price, top, age)
        if price > top:
            choice = "defer"
    # 3. With how much, and in words.
    share = steady(policy, state, situation, now_s) if choice in ("local", "assisted") else 0.0
    return settle(state, Decision(choice, share, cause, told(choice, share, why, situation, offers)), now_s)


def ceiling(policy: Policy, age_s: float, energy_j: float) -> float:
    """What a job of this age may cost: ``c_lo + (c_hi − c_lo)·min(1, age/D)²`` of its own price on a full battery."""
    ripe = min(max(age_s, 0.0) / policy.deadline_s, 1.0)
    part = policy.ceiling_low + (policy.ceiling_high - policy.ceiling_low) * ripe**2
    return part * policy.energy_weight * energy_j / policy.energy_ref_j


def fog_failed(policy: Policy, state: State, now_s: float) -> State:
    """A fog did not give what was asked of it: none is asked for a while, twice as long after each failure in a row."""
    rest_s = min(policy.fog_retry_s * 2 ** min(state.fog_failures, 16), policy.fog_retry_s_max)
    return msgspec.structs.replace(state, fog_failures=state.fog_failures + 1, fog_again_s=now_s + rest_s)


def fog_answered(state: State) -> State:
    """A fog gave what was asked of it."""
    return msgspec.structs.replace(state, fog_failures=0, fog_again_s=0.0)


def account(policy: Policy, state: State, situation: Situation, now_s: float) -> State:
    """Z ← [Z + e − ē]⁺ over the time since the last decision."""
    passed_s = max(now_s - state.at_s, 0.0) if state.at_s is not None else 0.0
    over_j = situation.drawn_j - policy.energy_mean_w * passed_s
    debt = min(max(state.debt + over_j / policy.energy_ref_j, 0.0), DEBT_MAX)
    return msgspec.structs.replace(state, at_s=now_s, debt=debt)


def safe_offers(policy: Policy, state: State, situation: Situation, now_s: float) -> Offers:
    """What the shield and the network allow, cheapest first; at the same price local before assisted before trusted.

    A job that has begun here goes on as it began, or leaves for the trusted fog.
    """
    here, fog, begun = situation.limit.share > 0, situation.fog, situation.begun
    absent = _fog_absent(state, situation, now_s)
    offers: list[tuple[float, Choice]] = []
    if here and begun in ("defer", "local"):
        offers.append((energy_price(policy, state, situation, situation.energy_j), "local"))
    if here and fog is not None and (begun == "assisted" or (begun == "defer" and fog.assisted and not absent)):
        offers.append((_assisted_price(policy, state, situation, fog), "assisted"))
    if fog is not None and fog.trusted and not absent:
        offers.append((carried(policy, fog.trusted_bytes, fog.trusted_wait_s) + policy.privacy_price, "trusted"))
    without: tuple[str, ...] = () if here else (situation.limit.reason,)
    if absent and (fog is not None and (begun == "defer" or fog.trusted)):
        without += (absent,)
    return Offers(tuple(sorted(offers, key=lambda offer: offer[0])), without)


def energy_price(policy: Policy, state: State, situation: Situation, energy_j: float) -> float:
    """c_local = w_e · energy · (1 + κZ): next to nothing on mains, dearer as the battery empties."""
    if situation.on_mains:
        factor = policy.mains_factor
    else:
        charge = 1.0 if situation.battery_share is None else min(max(situation.battery_share, 0.0), 1.0)
        factor = (1 + policy.scarcity * (1 - charge)) * (1 + policy.kappa * state.debt)
    return policy.energy_weight * factor * energy_j / policy.energy_ref_j


def steady(policy: Policy, state: State, situation: Situation, now_s: float) -> float:
    """The shield's share; less is obeyed at once, more only after the last change has held for a while."""
    allowed, now = situation.limit.share, situation.share
    if 0 < now < allowed and now_s - state.share_at_s < policy.raise_hold_s:
        return now
    return allowed


def settle(state: State, decision: Decision, now_s: float) -> tuple[State, Decision]:
    """Remember when the share changed."""
    if decision.share != state.share:
        state = msgspec.structs.replace(state, share=decision.share, share_at_s=now_s)
    return state, decision


def told(choice: Choice, share: float, why: str, situation: Situation, offers: Offers) -> str:
    """The sentence: what, why, what else there was, and what stood in the way."""
    match choice:
        case "local":
            what = f"learns here with {share:g} of a core"
        case "assisted":
            what = f"learns here with a fog's assist and {share:g} of a core"
        case "trusted":
            what = "learns on the trusted fog"
        case "defer":
            what = "deferred"
    best = offers.prices[0][1]
    others = [f"{name} {price:.1f}" for price, name in offers.prices if name != best]
    slowed = [situation.limit.reason] if 0 < situation.limit.share < 1 and share > 0 else []
    return f"{what}: {'; '.join([why, *others, *offers.without, *slowed])}"


def compared(choice: Choice, price: float, top: float, age: str) -> str:
    """``local 1.0 > ceiling 0.6 (2.1 h old)``, with as many digits as it takes to see the difference."""
    digits = next((n for n in (1, 2, 3) if f"{price:.{n}f}" != f"{top:.{n}f}"), 4)
    sign = ">" if price > top else "≤"
    return f"{choice} {price:.{digits}f} {sign} ceiling {top:.{digits}f} ({age})"


def aged(age_s: float) -> str:
    """``2.1 h old``, ``5 min old``."""
    return f"{hours(age_s)} old"


def hours(seconds: float) -> str:
    """``2.1 h``, ``5 min``, ``12 h``."""
    return f"{seconds / 60:.0f} min" if seconds < 3570 else f"{round(seconds / 3600, 1):g} h"


def _assisted_price(policy: Policy, state: State, situation: Situation, fog: Fog) -> float:
    """Bytes and wait of the assist, and the energy of what is left to do here; once it is here, only the latter."""
    if situation.begun == "assisted":
        return energy_price(policy, state, situation, situation.energy_j)
    rest_j = situation.energy_j * (1 - fog.assist_saving)
    return carried(policy, fog.assist_bytes, fog.assist_wait_s) + energy_price(policy, state, situation, rest_j)


def carried(policy: Policy, n_bytes: int, wait_s: float) -> float:
    """bytes · price + wait."""
    return policy.bytes_weight * n_bytes / policy.bytes_ref + policy.wait_weight * wait_s / policy.wait_ref_s


def _fog_absent(state: State, situation: Situation, now_s: float) -> str:
    """Why no fog can be asked now, or nothing."""
    if situation.fog is None:
        return "no fog configured"
    if not situation.network_up:
        return "fog unreachable: no network"
    if situation.metered:
        return "fog not asked: the network is metered"
    if situation.fog.unreachable:
        return f"fog unreachable: {situation.fog.unreachable}"
    if now_s < state.fog_again_s:
        return f"fog not asked: it failed, next try in {state.fog_again_s - now_s:.0f} s"
    return ""
