"""Drift: does what arrives of a condition still look like what is kept of it?

In comes the surprise of each arriving observation (``Facts.distance``), out goes the statistic of an alarm, once. A
one-sided cumulative sum (Page 1954) of the surprise's logarithm, standardised by a baseline that follows it slowly: a
replay buffer that fills up makes surprise fall for good, which is no alarm. After an alarm, the
condition is learnt anew. Bounded state: five numbers a condition.
"""

import math

import msgspec

from evergrove.core.conditions import Code
from evergrove.core.measures import Facts


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a change counts.

    ``warm_up`` observations make the first baseline. From then on each adds its standardised surprise less ``slack``,
    at most ``one_max`` (one outlier is no drift), and the sum may come to ``threshold``. ``memory`` is about how many
    observations the baseline remembers, ``spread_min`` the least standard deviation of log surprise that it assumes.
    ``surprise_min`` is the smallest surprise that is told from none.
    """

    warm_up: int = 20
    slack: float = 0.25
    threshold: float = 6.0
    one_max: float = 3.0
    memory: int = 200
    spread_min: float = 0.1
    surprise_min: float = 0.05


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is remembered of one condition's stream: how many observations, mean and variance of their log surprise, the
    last of these, and the sum that an alarm is waiting in.

    The variance is half the mean square of successive differences (von Neumann 1941): a trend does not widen it.
    """

    n: int = 0
    mean: float = 0.0
    variance: float = 0.0
    last: float = 0.0
    total: float = 0.0


class Watch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One condition that is watched."""

    condition: Code
    state: State = State()


def update(policy: Policy, state: State, distance: float | None) -> tuple[State, float | None]:
    """One more observation; gives the statistic where it passes ``policy.threshold``, and then starts anew.

    ``distance`` is in any unit, but always the same one. None (nothing to compare with) and what is no number change
    nothing.
    """
    if distance is None or not math.isfinite(distance):
        return state, None
    surprise = math.log(max(distance, policy.surprise_min))
    weight = max(1 / (state.n + 1), 1 / policy.memory)
    # 1. A first baseline.
    if state.n < policy.warm_up:
        return _followed(state, surprise, weight), None
    # 2. How unusual it is, and whether that has gone on for too long.
    spread = max(math.sqrt(state.variance), policy.spread_min)
    unusual = min((surprise - state.mean) / spread, policy.one_max)
    total = max(state.total + unusual - policy.slack, 0.0)
    if total > policy.threshold:
        return State(), total
    # 3. The baseline follows slowly, and an outlier no further than it counted.
    state = _followed(state, state.mean + max(unusual, -policy.one_max) * spread, weight)
    return msgspec.structs.replace(state, total=total), None


def notice(
    policy: Policy, watches: tuple[Watch, ...], condition: Code, facts: Facts, *, near: bool, n_max: int
) -> tuple[tuple[Watch, ...], float | None]:
    """``update`` for the right one of all conditions. Copies (exact ones, or ``near``) tell nothing and are left out.

    At most ``n_max`` conditions are watched: past that, the one that has not been heard of for longest goes.
    """
    if facts.exact_duplicate or near or facts.distance is None:
        return watches, None
    before = next((watch.state for watch in watches if watch.condition == condition), State())
    state, statistic = update(policy, before, facts.distance)
    others = tuple(watch for watch in watches if watch.condition != condition)
    return (*others, Watch(condition, state))[-n_max:], statistic


def _followed(state: State, surprise: float, weight: float) -> State:
    """The baseline with one more value in, ``weight`` of which is new: 1/n for the n-th gives the plain means."""
    n = state.n + 1
    step = 0.5 * (surprise - state.last) ** 2 if state.n else 0.0
    step_weight = max(weight, 1 / max(n - 1, 1)) if state.n else 0.0  # n values have n - 1 differences
    return msgspec.structs.replace(
        state,
        n=n,
        mean=state.mean + weight * (surprise - state.mean),
        variance=state.variance + step_weight * (step - state.variance),
        last=surprise,
    )
