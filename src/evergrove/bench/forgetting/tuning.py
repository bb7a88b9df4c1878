"""Tuning trials for every strategy, on a stream that no test uses (T1, clothes).

A trial is a strategy with other weights. The one with the least average FID over the tuning seeds is what stands in
``learn/rivals``; the lines of all trials are kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import msgspec
import numpy as np

from evergrove.bench.forgetting import plan
from evergrove.bench.forgetting.plan import Form, Places, Report
from evergrove.bench.forgetting.tables import average
from evergrove.learn.objective import Weights
from evergrove.learn.rivals import Rival, rival_named
from evergrove.learn.strategies import Shares, Strategy

N_TRIALS = 8
"""The first four are about the one thing that decides most for a strategy, the next four about the best of those."""
FIRST_SEED = 1000
"""Seeds of tuning: none of a test."""


class Trial(msgspec.Struct, frozen=True):
    """``n`` of a strategy's trials: its settings in words, and the mean of average FID over the tuning seeds."""

    strategy: str
    n: int
    words: str
    fid: float
    best: bool


class Mix(NamedTuple):
    """A trial: the rate, the shares of replay and teacher in a batch, and the weights λd and λe."""

    lr: float
    replay: float = 0.0
    teacher: float = 0.0
    distil: float = 0.0
    ewc: float = 0.0


_RATES = tuple(map(Mix, (2.5e-3, 5e-3, 1e-2, 2e-2, 1.5e-2, 3e-2, 4e-2, 6e-2)))
_HIGH_RATES = tuple(map(Mix, (1e-2, 2e-2, 3e-2, 4e-2, 5e-2, 6e-2, 8e-2, 1e-1)))
GRID: Mapping[str, tuple[Mix, ...]] = {
    "naive": _RATES,
    "joint": _RATES,
    "isolated": _RATES,
    "isolated-b": _HIGH_RATES,
    "branches-fast": tuple(Mix(mix.lr, 0.25) for mix in _HIGH_RATES),
    "full": tuple(map(Mix, (2e-4, 5e-4, 1e-3, 2e-3, 2e-5, 5e-5, 1e-4, 3e-4))),
    "replay": (
        *(Mix(2e-2, share) for share in (0.25, 0.5, 0.625, 0.75)),
        *(Mix(lr, share) for share in (0.625, 0.75) for lr in (1.5e-2, 3e-2)),
    ),
    "dgr": (
        *(Mix(2e-2, 0.0, share, weight) for share, weight in ((0.25, 1.0), (0.5, 1.0), (0.75, 1.0), (0.5, 3.0))),
        *(Mix(lr, 0.0, share, 1.0) for lr, share in ((1e-2, 0.75), (3e-2, 0.75), (2e-2, 0.625), (2e-2, 0.875))),
    ),
    "gd": (
        *(Mix(2e-2, 0.0, share, weight) for share, weight in ((0.25, 1.0), (0.5, 1.0), (0.75, 1.0), (0.5, 3.0))),
        *(Mix(lr, 0.0, share, 1.0) for lr, share in ((1e-2, 0.5), (3e-2, 0.5), (2e-2, 0.375), (2e-2, 0.625))),
    ),
    "ewc-diagonal": (
        *(Mix(2e-2, ewc=weight) for weight in (1.0, 30.0, 1e3, 3e4)),
        *(Mix(lr, ewc=weight) for lr, weight in ((2e-2, 0.03), (2e-2, 0.3), (1e-2, 1.0), (3e-2, 1.0))),
    ),
    "ewc-rank1": (
        *(Mix(2e-2, ewc=weight) for weight in (1.0, 30.0, 1e3, 3e4)),
        *(Mix(lr, ewc=weight) for lr, weight in ((2e-2, 5.0), (2e-2, 150.0), (1e-2, 30.0), (3e-2, 30.0))),
    ),
    "rank1+gd": (
        *(Mix(2e-2, 0.0, *mix) for mix in ((0.5, 1.0, 30.0), (0.5, 1.0, 1e3), (0.75, 1.0, 30.0), (0.5, 3.0, 30.0))),
        *(Mix(2e-2, 0.0, *mix) for mix in ((0.625, 1.0, 1e3), (0.75, 1.0, 1e3), (0.625, 3.0, 1e3), (0.625, 1.0, 1e4))),
    ),
    "ewc-lora": (
        *(Mix(1e-2, ewc=weight) for weight in (1.0, 30.0, 1e3, 3e4)),
        *(Mix(lr, ewc=weight) for lr, weight in ((1e-2, 5.0), (1e-2, 150.0), (5e-3, 30.0), (2e-2, 30.0))),
    ),
    "o-lora": (
        *(Mix(1e-2, ewc=weight) for weight in (0.05, 0.5, 5.0, 50.0)),
        *(Mix(lr, ewc=weight) for lr, weight in ((1e-2, 0.15), (1e-2, 1.5), (5e-3, 0.5), (2e-2, 0.5))),
    ),
    "lora": (
        *(Mix(1e-2, *mix) for mix in ((0.25, 0.25, 1.0), (0.5, 0.25, 1.0), (0.5, 0.25, 3.0), (0.375, 0.375, 3.0))),
        *(Mix(lr, *mix, 1.0) for lr, mix in ((5e-3, (0.25, 0.25)), (2e-2, (0.25, 0.25)), (1e-2, (0.25, 0.125)))),
        Mix(2e-2, 0.5, 0.125, 1.0),
    ),
    "shared": (
        *(Mix(2e-2, *mix, 5.0) for mix in ((0.25, 0.25, 1.0), (0.5, 0.25, 1.0))),
        *(Mix(2e-2, *mix, 0.5) for mix in ((0.5, 0.25, 1.0), (0.375, 0.375, 3.0))),
        *(Mix(lr, 0.25, 0.25, 1.0, ewc) for lr, ewc in ((1e-2, 5.0), (3e-2, 5.0), (2e-2, 0.5))),
        Mix(2e-2, 0.5, 0.125, 1.0, 0.5),
    ),
    "replay+teacher": (
        *(Mix(2e-2, *mix, 1.0) for mix in ((0.5, 0.25), (0.375, 0.375), (0.5, 0.125), (0.625, 0.125))),
        *(Mix(lr, 0.5, 0.125, 1.0) for lr in (1e-2, 1.5e-2, 3e-2)),
        Mix(2e-2, 0.375, 0.125, 1.0),
    ),
}
"""``N_TRIALS`` of each; ours is ``branches-fast`` where conditions stand alone and ``replay+teacher`` elsewhere."""


def trials() -> Mapping[str, tuple[Strategy, ...]]:
    """The strategies of the grid's trials. Ours has none, its parts have; ``recombined`` takes the shared form's."""
    return {name: tuple(_strategy(rival_named(name).strategy, mix) for mix in mixes) for name, mixes in GRID.items()}


def _strategy(of: Strategy, mix: Mix) -> Strategy:
    weights = Weights(replay=1.0, teacher=mix.distil, ewc=mix.ewc)
    return replace(of, lr=mix.lr, shares=Shares(mix.replay, mix.teacher), weights=weights)


def tune(form: Form, names: Sequence[str], n_seeds: int, places: Places, report: Report) -> list[Trial]:
    """Runs every trial of the named strategies; trials that were run before are read back."""
    seeds = range(FIRST_SEED, FIRST_SEED + n_seeds)
    grid = trials()
    rivals = [_trial(rival_named(name), n, s) for name in names for n, s in enumerate(grid[name])]
    lines = plan.run(form, rivals, seeds, places, report)
    found = []
    for name in names:
        mine = [f"{name}#{n}" for n in range(len(grid[name]))]
        fids = [float(np.mean([average(line, "fid") for line in lines if line.strategy == one])) for one in mine]
        words = [next(line.settings.strategy for line in lines if line.strategy == one) for one in mine]
        best = int(np.argmin(fids))
        found += [Trial(name, n, w, f, n == best) for n, (w, f) in enumerate(zip(words, fids, strict=True))]
    return found


def _trial(rival: Rival, n: int, strategy: Strategy) -> Rival:
    return replace(rival, name=f"{rival.name}#{n}", strategy=strategy)
