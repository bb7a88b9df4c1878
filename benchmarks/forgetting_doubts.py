"""What a reader of docs/adr/0023 would doubt: a rival with our bytes, ours with fewer, and rates outside of the grids.

    python benchmarks/forgetting_doubts.py --out runs/doubts --data ../shared/data    # a quarter of an hour of one core

``replay-large`` is ``replay`` with a budget of so many copies of the adapter that it may store what our branches take.
``branches-rank2`` is ours on the first two rows of A: half the bytes. ``NAME@RATE`` is a rival at one step beyond its
grid, on the tuning stream; ``rank1+gd`` also on the test streams. Lines go to ``OUT/lines.jsonl``; what stands there is
not run again.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from evergrove.bench.forgetting import plan
from evergrove.bench.forgetting.plan import FORMS, Places
from evergrove.bench.forgetting.tuning import FIRST_SEED
from evergrove.learn.rivals import Rival, rival_named, sequence

SEEDS = {"S1": range(10, 15), "S2": range(5, 10), "S4": range(5, 10), "T1": range(FIRST_SEED, FIRST_SEED + 3)}
COPIES = {"S1": 4, "S2": 7, "S4": 17}
RATES = {"rank1+gd": (1e-2, 3e-2), "ewc-lora": (3e-2,), "o-lora": (3e-2,), "lora": (3e-2,)}
SMALL = replace(rival_named("branches-fast"), name="branches-rank2", begin=partial(sequence.begin_cut, rank=2))


def main() -> None:
    """Runs what is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=None)
    given = parser.parse_args()
    torch.set_num_threads(1)
    places = Places(given.data, given.out / "worlds", given.out / "lines.jsonl")

    def race(stream: str, rivals: Sequence[Rival], copies: int = 2) -> None:
        form = FORMS[stream]
        form = replace(form, budget=replace(form.budget, copies=copies))
        told = plan.run(form, rivals, SEEDS[stream], places, lambda what, done, total: None)
        print(f"{stream}: {len(told)} lines of {', '.join(rival.name for rival in rivals)}", file=sys.stderr)

    for stream, copies in COPIES.items():
        race(stream, [replace(rival_named("replay"), name="replay-large")], copies)
        race(stream, [SMALL])
    race("T1", [at(name, rate) for name, rates in RATES.items() for rate in rates])
    for stream in ("S1", "S2"):
        race(stream, [at("rank1+gd", 3e-2)])


def at(name: str, rate: float) -> Rival:
    """The rival at another rate."""
    rival = rival_named(name)
    return replace(rival, name=f"{name}@{rate:g}", strategy=replace(rival.strategy, lr=rate))


if __name__ == "__main__":
    main()
