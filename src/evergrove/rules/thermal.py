"""Heat: how warm will a zone get, and how much training does that leave room for? (DESIGN §6, docs/adr/0009.)

A zone's temperature moves by ``Σ R_i·Δf_i``: f_i is the load of all cores, low-passed by poles of 4, 40 and 400 s, and
R_i ≥ 0 the kelvin that a full load adds through each. R and the level (the temperature freed of the sensor's noise) are
learned together by projected recursive least squares, a Kalman filter with a random walk, behind an excitation gate and
under a covariance cap, without which it diverges. The margin is the rolling 99 % residual of the forecasts themselves.
Readings go in one by one (``update``, ``notice``); out come ``forecast`` and ``safe_share``.
"""

import math
from bisect import bisect_left, bisect_right
from functools import lru_cache

import msgspec

from evergrove.core import config
from evergrove.rules.thermal_filter import TAU_S, Covariance, Noise, Poles, dot, learn, low_pass, minus, spread

SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)
"""What the trainer may be given of one core, greatest first."""
HORIZONS_S = (10.0, 30.0, 60.0, 150.0, 300.0, 600.0)
"""How far ahead a zone must stay below its trip point; each horizon has its own margin."""

N_BLOCKS = 5
"""Whole blocks of residuals that are kept beside the growing one."""
FOREGROUND_BLOCK_S = 600.0
"""Of the foreground one moment is kept for each stretch of this length."""
DOUBT_C_MIN = 1.0
"""A pole that is thought to add nothing may still add this much (one standard deviation)."""


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, cache_hash=True):
    """What is assumed before anything is learned, and how fast learning forgets. Temperatures in °C, times in s.

    ``gain_c`` is R before the first reading (about that of a Raspberry Pi 3B), ``gain_doubt`` its standard deviation as
    a part of it, which is also the covariance cap; ``doubt_weight`` deviations of a forecast go into its margin.
    ``noise_c`` is the standard deviation of a reading; ``gain_walk`` (as a part of ``gain_c``) and ``level_walk_c``
    are those of the random walks after one second. R learns only ``settle_s`` after a start, and only while the
    filtered loads differ by more than ``excitation``. Readings further apart than ``gap_s`` are a start.

    A forecast is judged ``anchor_s`` after the one before; ``block_n`` residuals make a block, of which the margin
    takes five. ``guard_c`` is kept from the trip point. A share that was given can be taken back after ``hold_s``, or
    one and a half times the spacing of readings. The foreground's hottest moment counts for ``foreground_blocks``
    stretches of ten minutes.
    """

    gain_c: Poles = (7.2, 11.3, 21.0)
    gain_doubt: float = 0.4
    noise_c: float = 0.7
    gain_walk: float = 0.0003
    level_walk_c: float = 0.03
    excitation: float = 0.05
    settle_s: float = 120.0
    gap_s: float = 600.0
    cold_margin_c: float = 3.0
    doubt_weight: float = 1.0
    guard_c: float = 1.0
    hold_s: float = 20.0
    anchor_s: float = 15.0
    block_n: int = 20
    foreground_block_s: float = FOREGROUND_BLOCK_S
    foreground_blocks: int = 3

    @classmethod
    @lru_cache(maxsize=64)
    def of(cls, thermal: config.Thermal) -> "Policy":
        """The policy that a device's configuration asks for."""
        return cls(
            gain_c=(thermal.gain_4s_c, thermal.gain_40s_c, thermal.gain_400s_c),
            gain_doubt=thermal.gain_doubt_share,
            noise_c=thermal.noise_c,
            guard_c=thermal.guard_c,
            cold_margin_c=thermal.cold_margin_c,
            hold_s=thermal.hold_s,
            foreground_blocks=max(round(thermal.foreground_s / FOREGROUND_BLOCK_S), 1),
        )


class Anchor(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """What was known at ``at_s``: later readings judge the forecasts that it gave, without their margins.

    ``offset_c`` supposes that there was no load before the first reading.
    """

    at_s: float
    gain_c: Poles
    offset_c: float


class Residuals(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """Reality minus forecast at one horizon: the greatest of each block of readings, oldest block first.

    ``n`` counts the readings of the last block. The greatest of about a hundred is their 99 % quantile.
    """

    greatest_c: tuple[float, ...] = ()
    n: int = 0


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one zone has taught so far, in a few kilobytes; a zone starts with ``State()``. Times in s, the rest in °C.

    ``at_s`` and ``temp_c`` are of the last reading, ``period_s`` its distance from the one before, ``since_s`` when
    readings began or last had a gap. ``filtered`` are the f_i (0 to 1); ``unseen`` the part of them that rests on a
    guess about the time before the first reading. ``gain_c`` is R, None before the first reading. ``residuals`` has
    one entry for each of ``HORIZONS_S``.
    """

    at_s: float | None = None
    since_s: float = 0.0
    period_s: float = 0.0
    temp_c: float = 0.0
    filtered: Poles = (0.0, 0.0, 0.0)
    unseen: Poles = (0.0, 0.0, 0.0)
    gain_c: Poles | None = None
    level_c: float = 0.0
    covariance: Covariance = (0.0,) * 10
    residuals: tuple[Residuals, ...] = (Residuals(),) * len(HORIZONS_S)
    anchors: tuple[Anchor, ...] = ()


class Foreground(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much all but the trainer has used lately: low-passed by the poles, and its hottest moments.

    ``hottest`` holds, block by block (oldest first), the filtered loads of the moment at which they heated most. Short
    bursts so count in full for the die and by their mean for the case, and no more of both than came together.
    ``since_s`` is when the last block began.
    """

    at_s: float | None = None
    filtered: Poles = (0.0, 0.0, 0.0)
    hottest: tuple[Poles, ...] = ()
    since_s: float = 0.0


def update(policy: Policy, state: State, temp_c: float, load: float, now_s: float, slowed: bool = False) -> State:
    """Take in one reading: temperature in °C, mean load of all cores (0 to 1) since the last one, and the time.

    A reading that is no number, out of range (below -60 or above 250 °C) or of the same time changes nothing. A clock
    that went back, or a gap of more than ``gap_s``, keeps R and the margins; the level starts afresh.
    ``slowed``: the system has throttled since the last reading, so that load gave less heat than R says; R then rests.
    """
    if not (math.isfinite(temp_c) and math.isfinite(load) and math.isfinite(now_s) and -60.0 <= temp_c <= 250.0):
        return state
    load = min(max(load, 0.0), 1.0)
    if state.at_s is None or state.gain_c is None:
        return _first(policy, temp_c, load, now_s)
    dt_s = now_s - state.at_s
    if dt_s == 0.0:
        return state
    if dt_s < 0.0 or dt_s > policy.gap_s:
        return _again(policy, state, temp_c, load, now_s, dt_s)

    # 1. The poles move on, exactly for any spacing of readings.
    filtered, unseen = low_pass(state.filtered, load, dt_s), low_pass(state.unseen, 0.0, dt_s)
    # 2. Forecasts made earlier meet reality.
    residuals = _judge(policy, state, minus(filtered, unseen), temp_c, now_s)
    # 3. R and the level learn from the reading; R only where it can tell the poles apart.
    low, high = min(filtered), max(filtered)
    learns = high - low > policy.excitation and now_s - state.since_s > policy.settle_s and not slowed
    change = minus(filtered, state.filtered)
    gain_c, level_c, covariance = learn(
        _noise(policy), state.gain_c, state.level_c, state.covariance, change, temp_c, dt_s, learns
    )
    # 4. What is known now will be judged later.
    anchors = state.anchors
    if not anchors or now_s - anchors[-1].at_s >= policy.anchor_s:
        first = 0
        while first < len(anchors) and anchors[first].at_s <= now_s - HORIZONS_S[-1]:
            first += 1
        coldest_c = level_c - dot(gain_c, minus(filtered, unseen))
        anchors = (*anchors[first:], Anchor(now_s, gain_c, coldest_c))
    return State(now_s, state.since_s, dt_s, temp_c, filtered, unseen, gain_c, level_c, covariance, residuals, anchors)


def notice(policy: Policy, seen: Foreground, load: float, now_s: float) -> Foreground:
    """Take in the foreground's mean share of all cores (0 to 1) since the last reading.

    What is no number is passed over; a clock that went back only sets the time.
    """
    if not (math.isfinite(load) and math.isfinite(now_s)):
        return seen
    load = min(max(load, 0.0), 1.0)
    if seen.at_s is None:
        filtered = (load, load, load)
        return Foreground(now_s, filtered, (filtered,), now_s)
    dt_s = now_s - seen.at_s
    if dt_s <= 0.0:
        return seen if dt_s == 0.0 else msgspec.structs.replace(seen, at_s=now_s, since_s=now_s)
    filtered = low_pass(seen.filtered, load, dt_s)
    if now_s - seen.since_s >= policy.foreground_block_s:
        return Foreground(now_s, filtered, (*seen.hottest[1 - policy.foreground_blocks :], filtered), now_s)
    if dot(policy.gain_c, filtered) > dot(policy.gain_c, seen.hottest[-1]):
        return Foreground(now_s, filtered, (*seen.hottest[:-1], filtered), seen.since_s)
    return msgspec.structs.replace(seen, at_s=now_s, filtered=filtered)


def worst(seen: Foreground, gain_c: Poles) -> Poles:
    """The moment of the foreground, among the recent ones and now, that heats most with this R."""
    return max((*seen.hottest, seen.filtered), key=lambda filtered: dot(gain_c, filtered))


def forecast(policy: Policy, state: State, future_load: float, horizon_s: float) -> tuple[float, float]:
    """Temperature in °C ``horizon_s`` from now under a constant load of all cores (0 to 1), and its 99 % margin.

    Raises ``ValueError`` before the first reading: nothing can be told of a zone that was never read.
    """
    return given(policy, state, low_pass(state.filtered, future_load, horizon_s), horizon_s)


def given(policy: Policy, state: State, filtered: Poles, horizon_s: float) -> tuple[float, float]:
    """Temperature and margin as ``forecast`` gives them, where the filtered loads ``horizon_s`` from now are known.

    Raises ``ValueError`` before the first reading.
    """
    if state.gain_c is None:
        raise ValueError("no forecast before the first reading: call thermal.update first")
    change = minus(filtered, state.filtered)
    temp_c = state.level_c + dot(state.gain_c, change)
    doubt_c = policy.doubt_weight * math.sqrt(max(spread(state.covariance, change), 0.0))
    # Load from before the first reading was guessed; were the zone colder then, it would warm up by this much more.
    (a, b, c), (u, v, w) = _left(horizon_s), state.unseen
    colder_c = dot(state.gain_c, (u - u * a, v - v * b, w - w * c))
    return temp_c, margin(policy, state, horizon_s) + doubt_c + colder_c


def margin(policy: Policy, state: State, horizon_s: float) -> float:
    """The rolling 99 % residual in °C, of the nearest horizon that is not shorter; while cold, at least 3 °C."""
    at = min(bisect_left(HORIZONS_S, horizon_s), len(HORIZONS_S) - 1)
    found = state.residuals[at].greatest_c
    greatest_c = max(found, default=0.0)
    warm = len(found) > N_BLOCKS
    return max(greatest_c, 0.0 if warm else policy.cold_margin_c)


def safe_share(policy: Policy, state: State, foreground: Foreground | float, trip_c: float, n_cores: int) -> float:
    """The greatest share of one core in ``SHARES`` that keeps the zone ``guard_c`` below ``trip_c``; 0 if none does.

    A share counts as safe if, were it taken back after ``hold_s`` while the foreground goes to its hottest recent
    moment and stays there, the margin's end of the forecast would stay below at every horizon. ``foreground`` is a
    share of all cores (0 to 1): a ``Foreground``, or one number for all poles. 0 before the first reading.
    """
    if state.gain_c is None or not math.isfinite(trip_c):
        return 0.0
    limit_c = trip_c - policy.guard_c
    if state.temp_c >= limit_c:
        return 0.0
    level = worst(foreground, state.gain_c) if isinstance(foreground, Foreground) else (foreground,) * 3
    for share in SHARES[:-1]:
        if all(_peak(policy, state, level, share / max(n_cores, 1), h) <= limit_c for h in HORIZONS_S):
            return share
    return 0.0


def _peak(policy: Policy, state: State, level: Poles, extra: float, horizon_s: float) -> float:
    """The upper end of the forecast at a horizon, with ``extra`` load on the foreground while it is held."""
    (a, b, c), (p, q, r) = _left(horizon_s), _held(max(policy.hold_s, 1.5 * state.period_s), horizon_s)
    (u, v, w), (x, y, z) = level, state.filtered
    filtered = u + (x - u) * a + extra * p, v + (y - v) * b + extra * q, w + (z - w) * c + extra * r
    temp_c, margin_c = given(policy, state, filtered, horizon_s)
    return temp_c + margin_c


@lru_cache(maxsize=256)
def _left(horizon_s: float) -> Poles:
    """What is left of each pole after a time without load."""
    return math.exp(-horizon_s / TAU_S[0]), math.exp(-horizon_s / TAU_S[1]), math.exp(-horizon_s / TAU_S[2])


@lru_cache(maxsize=256)
def _held(hold_s: float, horizon_s: float) -> Poles:
    """What is left of a load that lasts ``hold_s``, at a horizon."""
    (a, b, c), (p, q, r) = _left(horizon_s - min(hold_s, horizon_s)), _left(horizon_s)
    return a - p, b - q, c - r


def _first(policy: Policy, temp_c: float, load: float, now_s: float) -> State:
    filtered = (load, load, load)
    u, v, w = _noise(policy).caps
    covariance = (u, 0.0, 0.0, 0.0, v, 0.0, 0.0, w, 0.0, policy.noise_c**2)
    return State(now_s, now_s, 0.0, temp_c, filtered, filtered, policy.gain_c, temp_c, covariance)


def _again(policy: Policy, state: State, temp_c: float, load: float, now_s: float, dt_s: float) -> State:
    """After a gap or a step of the clock R is kept; the load before the reading is a guess, and the level is new."""
    filtered = low_pass(state.filtered, load, max(dt_s, 0.0))
    aa, ab, ac, _, bb, bc, _, cc, _, _ = state.covariance
    return msgspec.structs.replace(
        state,
        at_s=now_s,
        since_s=now_s,
        temp_c=temp_c,
        filtered=filtered,
        unseen=filtered,
        level_c=temp_c,
        covariance=(aa, ab, ac, 0.0, bb, bc, 0.0, cc, 0.0, policy.noise_c**2),
        anchors=(),
    )


def _judge(policy: Policy, state: State, filtered: Poles, temp_c: float, now_s: float) -> tuple[Residuals, ...]:
    """Each anchor that a horizon has just passed over gives that horizon one residual."""
    assert state.at_s is not None
    residuals = None
    anchors, before_s = state.anchors, state.at_s
    made_s = [anchor.at_s for anchor in anchors]
    for at, horizon_s in enumerate(HORIZONS_S):
        # Anchors that were younger than the horizon at the last reading and are not any more: few, if any at all.
        i = bisect_right(made_s, before_s - horizon_s)
        while i < len(made_s) and made_s[i] <= now_s - horizon_s:
            residuals = residuals or list(state.residuals)
            error_c = temp_c - anchors[i].offset_c - dot(anchors[i].gain_c, filtered)
            residuals[at] = _note(policy, residuals[at], error_c)
            i += 1
    return tuple(residuals) if residuals else state.residuals


def _note(policy: Policy, seen: Residuals, error_c: float) -> Residuals:
    blocks = seen.greatest_c
    if not blocks or seen.n >= policy.block_n:
        return Residuals((*blocks[-N_BLOCKS:], error_c), 1)
    return Residuals((*blocks[:-1], max(blocks[-1], error_c)), seen.n + 1)


@lru_cache(maxsize=64)
def _noise(policy: Policy) -> Noise:
    """The policy as the filter takes it."""
    u, v, w = policy.gain_c
    a, b, c = (max(policy.gain_doubt * gain, DOUBT_C_MIN) ** 2 for gain in policy.gain_c)
    walk = policy.gain_walk
    return Noise(policy.noise_c, (walk * u, walk * v, walk * w), policy.level_walk_c, (a, b, c))
