"""The whole forgetting benchmark at once, on a machine of many cores: worlds, tuning, then every stream, best first.

    python benchmarks/forgetting.py --out runs/forgetting --data ../shared/data --workers 13 --limit-s 400

Lines go to ``OUT/lines.jsonl`` as they come (trials too), what stands there is not run again, and with a limit nothing
is begun that would not end in time. Everyone runs with the best of its trials, which is printed; the same numbers then
stand in ``learn/rivals``. Jobs are in the order of their worth: the
claims first (S2, S3, S4 against the rivals that count), then the retention curve, then the rest of the rivals.
"""

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import torch

from evergrove.bench.forgetting import lines, plan, retention, tuning, worlds
from evergrove.bench.forgetting.crowd import Job, race_all
from evergrove.bench.forgetting.lines import Line
from evergrove.bench.forgetting.plan import FORMS, Places
from evergrove.bench.forgetting.tables import average
from evergrove.learn.place import check_device
from evergrove.learn.rivals import ABLATIONS, RIVALS, Rival, rival_named

TUNING_SEEDS = range(tuning.FIRST_SEED, tuning.FIRST_SEED + 3)
CORE = ("evergrove", "joint", "replay", "rank1+gd", "isolated", "naive")
WORLDS = (("S3", "world"), ("S1", "world"), ("S3", "judge"), ("S2", "judge"), ("S1", "judge"), ("T1", "judge"))


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--worlds", type=Path, default=None, help="by default OUT/worlds")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="where networks compute, such as cuda")
    parser.add_argument("--limit-s", type=float, default=None)
    parser.add_argument("--streams", default="S2,S3,S4,S1,R1")
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    begun_s = time.monotonic()
    torch.set_num_threads(1)
    folder = given.worlds or given.out / "worlds"
    places = Places(given.data, folder, given.out / "lines.jsonl", check_device(given.device))
    given.out.mkdir(parents=True, exist_ok=True)

    def say(text: str) -> None:
        print(f"[{time.monotonic() - begun_s:6.1f} s] {text}", flush=True)

    def ended(job: Job, line: Line, seconds: float) -> None:
        say(f"{job.name}: {seconds:.1f} s")

    def left_s() -> float | None:
        return None if given.limit_s is None else given.limit_s - (time.monotonic() - begun_s)

    # 1. Bases, A and judges.
    with ProcessPoolExecutor(min(len(WORLDS), given.workers), mp_context=get_context("spawn")) as pool:
        for what, seconds in pool.map(make, WORLDS, [places] * len(WORLDS)):
            say(f"made {what}: {seconds:.1f} s")
    # 2. Trials on the tuning stream, and the best of each.
    race_all(trial_jobs(), places, given.workers, ended, left_s())
    chosen = choose(places)
    say(f"chosen: {chosen}")
    # 3. The streams.
    left_out = race_all(jobs(chosen, given.streams.split(","), given.seeds), places, given.workers, ended, left_s())
    say(f"done; {left_out} jobs left out for want of time")


def make(what: tuple[str, str], places: Places) -> tuple[str, float]:
    """Makes one world or judge, unless it is there."""
    started_s = time.monotonic()
    torch.set_num_threads(1)
    form = FORMS[what[0]]
    if what[1] == "world":
        worlds.open_world(form.world, places.folder, lambda what, done, total: None)
    else:
        plan.open_judge(form, places, lambda what, done, total: None)
    return " ".join(what), time.monotonic() - started_s


def trial_jobs() -> list[Job]:
    """Every trial of everyone."""
    grid = tuning.trials()
    rivals = [replace(rival_named(n), name=f"{n}#{i}", strategy=s) for n in grid for i, s in enumerate(grid[n])]
    return [Job(FORMS["T1"], rival, seed) for seed in TUNING_SEEDS for rival in rivals]


def choose(places: Places) -> dict[str, int]:
    """The best trial of each by mean FID over the tuning seeds; who has no full set of lines stays as it is."""
    found, grid = lines.read(places.results), tuning.trials()
    chosen: dict[str, int] = {}
    for name in grid:
        means = []
        for i in range(len(grid[name])):
            mine = [found.get(("T1", f"{name}#{i}", seed)) for seed in TUNING_SEEDS]
            means.append(float("inf") if None in mine else sum(average(line, "fid") for line in mine if line))
        if min(means) < float("inf"):
            chosen[name] = means.index(min(means))
    return chosen


def tuned(chosen: dict[str, int]) -> dict[str, Rival]:
    """All rivals, with what was chosen."""
    grid = tuning.trials()
    known = {**RIVALS, **ABLATIONS}
    for name, at in chosen.items():
        known[name] = replace(known[name], strategy=grid[name][at])
    known["evergrove"] = replace(
        known["evergrove"], strategy=known["replay+teacher"].strategy, alone=known["branches-fast"]
    )
    return known


def jobs(chosen: dict[str, int], streams: Sequence[str], n_seeds: int) -> list[Job]:
    """All of them, in the order of their worth."""
    of = tuned(chosen)

    def some(form: str, names: Sequence[str], seeds: Sequence[int]) -> list[Job]:
        return [Job(FORMS[form], of[name], seed) for seed in seeds for name in names if form in streams]

    def curve(seeds: Sequence[int]) -> list[Job]:
        keeps = retention.keeps() if "R1" in streams else []
        rivals = [replace(of["replay"], name=keep.name) for keep in keeps]
        return [Job(FORMS["R1"], rival, seed) for seed in seeds for rival in rivals]

    few = range(min(3, n_seeds))
    # Nothing was chosen by these (docs/adr/0023): S1 was looked at until seed 9, S2 and S4 until seed 4.
    fresh, late = range(10, 10 + n_seeds), range(5, 5 + n_seeds)
    return [
        *some("S2", CORE, late),
        *some("S3", CORE, few),
        *some("S4", ("evergrove", "branches", "isolated", "isolated-b", "replay", "joint", "rank1+gd"), late),
        *some("S3", CORE, range(len(few), n_seeds)),
        *some("S1", CORE, fresh),
        *curve(range(1)),
        *some("S3", ("isolated-b", "shared"), few),
        *curve(few[1:]),
        *some("S4", ("naive", "replay+teacher"), late),
        *some("S2", ("shared", "replay+teacher", "gd", "ewc-diagonal", "dgr", "o-lora", "lora", "ewc-lora"), late),
        *some("S1", ("shared", "replay+teacher", "gd", "ewc-diagonal", "dgr", "o-lora", "lora", "ewc-lora"), fresh),
        *some("S2", ("ewc-rank1", "full"), late),
        *some("S1", ("ewc-rank1", "full"), fresh),
        *some("S3", ("no-ewc", "no-teacher", "ewc-diagonal", "gd"), few),
    ]


if __name__ == "__main__":
    main()
