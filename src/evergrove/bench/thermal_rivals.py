"""Who decides how much a device may train, by heat alone: the production shield and its rivals, in one protocol.

A rival is a value: a name, a first state for a board, and a pure function from (state, reading) to (state, share of
one core). Every rival sees the same reading at the same times; none sees the plant.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from evergrove.rules import thermal
from evergrove.rules.thermal_filter import Poles

Share = float


class Reading(NamedTuple):
    """What telemetry tells: means since the last reading, the sensor now, and whether the system has throttled since.

    ``load`` is the busy part of all cores, ``train`` the part of one core that the trainer had.
    """

    now_s: float
    temp_c: float
    load: float
    train: float
    slowed: bool


class Board(NamedTuple):
    """What a rival is told of its board beforehand: trip point in °C, cores, and a guess of R that may be wrong."""

    trip_c: float
    n_cores: int
    gain_c: Poles


class Rival(NamedTuple):
    """A way to decide."""

    name: str
    start: Callable[[Board], Any]
    decide: Callable[[Board, Any, Reading], tuple[Any, Share]]


def always() -> Rival:
    """No control: a whole core, whatever the heat."""
    return Rival("no control", lambda board: None, lambda board, state, seen: (None, 1.0))


def never() -> Rival:
    """No training: what the apps do alone."""
    return Rival("no training", lambda board: None, lambda board, state, seen: (None, 0.0))


def hysteresis(name: str, off_c: float, on_c: float) -> Rival:
    """On or off: off from ``off_c`` below the trip point, on again from ``on_c`` below it."""

    def decide(board: Board, on: bool, seen: Reading) -> tuple[bool, Share]:
        on = seen.temp_c < board.trip_c - (off_c if on else on_c)
        return on, float(on)

    return Rival(name, lambda board: False, decide)


def pid(set_c: float, kp: float = 0.15, ti_s: float = 240.0, td_s: float = 20.0) -> Rival:
    """A PID controller that holds the zone ``set_c`` below the trip point, its output cut to a share.

    The integral stops where the output is cut (anti-windup by clamping). ``kp`` in shares per kelvin.
    """

    def decide(
        board: Board, state: tuple[float, float, float], seen: Reading
    ) -> tuple[tuple[float, float, float], Share]:
        total, last_c, last_s = state
        error_c = board.trip_c - set_c - seen.temp_c
        dt_s = seen.now_s - last_s
        slope = (seen.temp_c - last_c) / dt_s if dt_s > 0 and last_s >= 0 else 0.0
        wanted = kp * (error_c + total - td_s * slope)
        if (wanted < 1.0 or error_c < 0.0) and (wanted > 0.0 or error_c > 0.0):
            total += error_c * max(dt_s, 0.0) / ti_s if last_s >= 0 else 0.0
        return (total, seen.temp_c, seen.now_s), min(max(wanted, 0.0), 1.0)

    return Rival(f"PID, {set_c:g} °C below", lambda board: (0.0, 0.0, -1.0), decide)


def shield(name: str = "model shield", **changes: Any) -> Rival:
    """``rules/thermal`` as it runs on devices, from the board's guess of R; ``changes`` are other settings of it."""

    def start(board: Board) -> tuple[thermal.Policy, thermal.State, thermal.Foreground]:
        return thermal.Policy(gain_c=board.gain_c, **changes), thermal.State(), thermal.Foreground()

    def decide(board: Board, state: Any, seen: Reading) -> tuple[Any, Share]:
        policy, zone, apps = state
        zone = thermal.update(policy, zone, seen.temp_c, seen.load, seen.now_s, seen.slowed)
        apps = thermal.notice(policy, apps, seen.load - seen.train / board.n_cores, seen.now_s)
        return (policy, zone, apps), thermal.safe_share(policy, zone, apps, board.trip_c, board.n_cores)

    return Rival(name, start, decide)
