"""Tuning trials for every strategy, on a stream that no test uses (T1, clothes).

A trial is a strategy with other weights. The one with the least average FID over the tuning seeds is what stands in
``learn/rivals``; the lines of all trials are kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec
import numpy as np

from evergrove.bench.forgetting import plan
from evergrove.bench.forgetting.plan import Form, Places, Report
from evergrove.bench.forgetting.tables import average
from evergrove.learn.objective import Weights
from evergrove.learn.rivals import RIVALS, Rival
from evergrove.learn.strategies import Shares, Strategy

N_TRIALS = 4
FIRST_SEED = 1000
"""Seeds of tuning: none of a test."""


class Trial(msgspec.Struct, frozen=True):
    """``n`` of a strategy's trials: its settings in words, and the mean of average FID over the tuning seeds."""

    strategy: str
    n: int
    words: str
    fid: float
    best: bool


def trials() -> Mapping[str, tuple[Strategy, ...]]:
    """For each strategy ``N_TRIALS`` sets of weights, about the one thing that decides most for it; twice as many for
    ``replay`` and ``rank1+gd``, since ours is put together of two that were tuned (``isolated-b``, ``replay+teacher``).

    ``recombined`` has none, it takes the shared form's.
    """
    of = {name: rival.strategy for name, rival in RIVALS.items()}
    found: dict[str, tuple[Strategy, ...]] = {}
    for name in ("naive", "joint", "isolated"):
        found[name] = tuple(replace(of[name], lr=lr) for lr in (2.5e-3, 5e-3, 1e-2, 2e-2))
    found["isolated-b"] = tuple(replace(of["isolated-b"], lr=lr) for lr in (1e-2, 2e-2, 3e-2, 4e-2))
    found["full"] = tuple(replace(of["full"], lr=lr) for lr in (2e-4, 5e-4, 1e-3, 2e-3))
    found["replay"] = (
        *(replace(of["replay"], shares=Shares(replay=s), lr=2e-2) for s in (0.25, 0.5, 0.625, 0.75)),
        *(replace(of["replay"], shares=Shares(replay=s), lr=lr) for s in (0.625, 0.75) for lr in (1.5e-2, 3e-2)),
    )
    for name in ("dgr", "gd"):
        mixes = ((0.25, 1.0), (0.5, 1.0), (0.75, 1.0), (0.5, 3.0))
        found[name] = tuple(replace(of[name], shares=Shares(teacher=s), weights=Weights(teacher=w)) for s, w in mixes)
    for name in ("ewc-diagonal", "ewc-rank1", "ewc-lora"):
        found[name] = tuple(replace(of[name], weights=Weights(ewc=w)) for w in (1.0, 30.0, 1e3, 3e4))
    gd_mixes = ((0.5, 1.0, 30.0), (0.5, 1.0, 1e3), (0.75, 1.0, 30.0), (0.5, 3.0, 30.0))
    more_gd = ((0.625, 1.0, 1e3), (0.75, 1.0, 1e3), (0.625, 3.0, 1e3), (0.625, 1.0, 1e4))
    found["rank1+gd"] = tuple(
        replace(of["rank1+gd"], shares=Shares(teacher=s), weights=Weights(teacher=t, ewc=w))
        for s, t, w in (*gd_mixes, *more_gd)
    )
    found["o-lora"] = tuple(replace(of["o-lora"], weights=Weights(ewc=w)) for w in (0.05, 0.5, 5.0, 50.0))
    ours = ((0.25, 0.25, 1.0, 5.0), (0.5, 0.25, 1.0, 5.0), (0.5, 0.25, 1.0, 0.5), (0.375, 0.375, 3.0, 0.5))
    for name, held in (("shared", 1.0), ("lora", 0.0)):
        found[name] = tuple(
            replace(of[name], shares=Shares(r, t), weights=Weights(replay=1.0, teacher=w, ewc=held * e))
            for r, t, w, e in (ours if held else (*ours[:2], (0.5, 0.25, 3.0, 0.0), ours[3]))
        )
    mixes = ((0.5, 0.25), (0.375, 0.375), (0.5, 0.125), (0.625, 0.125))
    found["replay+teacher"] = tuple(replace(of["replay+teacher"], shares=Shares(r, t)) for r, t in mixes)
    return found


def tune(form: Form, names: Sequence[str], n_seeds: int, places: Places, report: Report) -> list[Trial]:
    """Runs every trial of the named strategies; trials that were run before are read back."""
    seeds = range(FIRST_SEED, FIRST_SEED + n_seeds)
    grid = trials()
    rivals = [_trial(RIVALS[name], n, s) for name in names for n, s in enumerate(grid[name])]
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
