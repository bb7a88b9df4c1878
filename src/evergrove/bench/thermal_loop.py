"""The closed loop of ``evergrove bench thermal``: rivals decide on boards that heat up for it.

All rivals live on the same boards under the same apps, drift and noise (common random numbers). Boards move in steps of
one second; telemetry and decisions come once a period. A share holds until the next decision.

*Training work* is core-seconds that the trainer did, each counted at the clock that it ran at: what throttling slows
down is lost work. *Throttled* is every second in which the clock was below full.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from evergrove.bench.thermal_rivals import Board, Reading, Rival
from evergrove.core.rng import stream
from evergrove.rules.thermal_filter import Poles
from evergrove.sim.plants_thermal import Boards, Plant

Array = NDArray[np.float64]
Apps = Callable[[np.random.Generator, int], Array]
"""Draws what the apps of one board ask for, in so many seconds: parts of all cores."""

WRONG = 0.4
"""How far off the guess of R is, up or down, by board and seed."""
ROOM_C = (-16.0, -2.0)
"""Rooms against those of the recordings (July and August, boards still warm from the run before), uniform."""
THREADS_MAX = (2, 4)
"""Bursts: a board's apps run up to so many threads."""
BURST_S = (3, 21)
"""For how long a number of threads stays, uniform: the law of the recorded stress runs."""
LEVELS = ((0.03, 0.40), (0.25, 0.30), (0.50, 0.20), (0.85, 0.10))
"""Sessions: what the apps ask for as a part of all cores, and how often: idle, light, busy, heavy."""
STAY_S = 240.0
"""Sessions: mean of the exponential time that they stay so."""
SESSION_TREMBLE = 0.05


class Life(msgspec.Struct, frozen=True):
    """Sums of one rival over all boards of one seed.

    ``work`` is the mean share of one core's full-clock time that was trained; ``throttled`` counts boards that were
    slowed down at all, ``worse`` those slowed down for longer than without training, ``worse_s`` that surplus in
    seconds over all boards. ``apps_lost`` is the part of the apps' work that was lost to throttling.
    """

    name: str
    work: float
    throttled: int
    worse: int
    worse_s: float
    throttled_s: float
    apps_lost: float
    hottest_c: float


def live(
    rivals: Sequence[Rival],
    plants: Sequence[Plant],
    apps_of: Apps,
    seed: int,
    hours: float = 2.0,
    period_s: int = 10,
    say: Callable[[float], None] = lambda share: None,
) -> list[Life]:
    """One seed: every rival on every plant. The last rival must be the one that never trains."""
    rng = stream(seed, "thermal-loop")
    n_seconds = int(hours * 3600)
    plants = [msgspec.structs.replace(p, room_c=p.room_c + float(rng.uniform(*ROOM_C))) for p in plants]
    apps = np.stack([apps_of(rng, n_seconds) for _ in plants], axis=1)
    told = [Board(p.trip_c, p.n_cores, guess(p, 1.0 + WRONG * (1.0 if rng.random() < 0.5 else -1.0))) for p in plants]
    boards = Boards(plants, rng, n_lives=len(rivals))
    boards.settle(apps[0])

    # 1. Readings are means over a period; nobody trains before the first.
    shape = boards.temp_c.shape
    share, trained, lost, throttled_s = (np.zeros(shape) for _ in range(4))
    hottest_c = np.full(shape, -np.inf)
    states: list[list[Any]] = [[rival.start(board) for board in told] for rival in rivals]
    load, train, slowed = np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=bool)
    for second in range(n_seconds):
        done = boards.run(apps[second], share, 1.0)
        trained, lost = trained + done.trained, lost + done.apps_lost
        throttled_s += done.clock < 1.0
        hottest_c = np.maximum(hottest_c, boards.temp_c)
        load, train, slowed = load + done.load, train + done.train, slowed | (done.clock < 1.0)
        # 2. Everyone decides for the next period.
        if (second + 1) % period_s == 0:
            temp_c, load, train = boards.read(), load / period_s, train / period_s
            for i, rival in enumerate(rivals):
                for j, board in enumerate(told):
                    seen = Reading(
                        second + 1.0, float(temp_c[i, j]), float(load[i, j]), float(train[i, j]), bool(slowed[i, j])
                    )
                    states[i][j], share[i, j] = rival.decide(board, states[i][j], seen)
            load, train, slowed = np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=bool)
            say((second + 1) / n_seconds)

    surplus_s = throttled_s - throttled_s[-1]
    asked = apps.sum() * float(boards.n_cores.mean())
    return [
        Life(
            name=rival.name,
            work=float(trained[i].mean() / n_seconds),
            throttled=int((throttled_s[i] > 0).sum()),
            worse=int((surplus_s[i] > 0).sum()),
            worse_s=float(surplus_s[i].clip(min=0).sum()),
            throttled_s=float(throttled_s[i].mean()),
            apps_lost=float(lost[i].sum() / asked),
            hottest_c=float(hottest_c[i].max()),
        )
        for i, rival in enumerate(rivals)
    ]


def bursts(rng: np.random.Generator, n_seconds: int) -> Array:
    """Apps as the recorded stress runs load a board: 0 to k threads, another number every 3 to 21 s; mean k/8."""
    load = np.empty(n_seconds)
    most = int(rng.integers(*THREADS_MAX, endpoint=True))
    at = 0
    while at < n_seconds:
        stop = at + int(rng.integers(*BURST_S, endpoint=True))
        load[at:stop] = rng.integers(0, most, endpoint=True) / 4.0
        at = stop
    return load


def sessions(rng: np.random.Generator, n_seconds: int) -> Array:
    """Apps that people use now and then: minutes at one of four levels, with some tremble; mean 0.27."""
    values, weights = np.array(LEVELS).T
    load = np.empty(n_seconds)
    at = 0
    while at < n_seconds:
        level = rng.choice(values, p=weights)
        until = min(at + int(rng.exponential(STAY_S)) + 10, n_seconds)
        while at < until:
            stop = min(at + int(rng.integers(*BURST_S, endpoint=True)), until)
            load[at:stop] = min(max(level + rng.normal(0.0, SESSION_TREMBLE), 0.0), 1.0)
            at = stop
    return load


def guess(plant: Plant, factor: float) -> Poles:
    """R of the three poles as somebody would guess it from the plant's own, times ``factor``."""
    bounds = (12.6, 126.0, np.inf)
    sums = [0.0, 0.0, 0.0]
    for tau, gain in zip(plant.taus_s, plant.gains_c, strict=True):
        sums[next(i for i, bound in enumerate(bounds) if tau <= bound)] += gain * factor
    return sums[0], sums[1], sums[2]
