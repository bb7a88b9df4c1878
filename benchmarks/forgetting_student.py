"""Students with and without a teacher at equal steps, and the student check: see ``bench/forgetting/student.py``.

    python benchmarks/forgetting_student.py --out runs/student --seeds 5 --workers 2

One JSON line for each student (``arm``) and for each adapter on one (``adapter``) in ``OUT/student.jsonl``.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import msgspec
import torch

from evergrove.bench.forgetting import student, worlds


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--worlds", type=Path, default=None, help="by default OUT/worlds")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    folder = given.worlds or given.out / "worlds"
    begun_s = time.monotonic()
    torch.set_num_threads(1)
    student.judge_of(worlds.HANDWRITING, folder)
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
        both = (student.compare, student.notice)
        running = [pool.submit(one, what, folder, n, given.steps) for n in range(given.seeds) for what in both]
        for future in as_completed(running):
            with (given.out / "student.jsonl").open("ab") as file:
                for row in future.result():
                    file.write(msgspec.json.encode(row) + b"\n")
                    print(f"[{time.monotonic() - begun_s:6.1f} s] {row}", flush=True)


def one(
    what: Callable[[worlds.WorldPlan, Path, int, int], Sequence[msgspec.Struct]], folder: Path, seed: int, steps: int
) -> Sequence[msgspec.Struct]:
    """One seed, on one thread."""
    torch.set_num_threads(1)
    return what(worlds.HANDWRITING, folder, seed, steps)


if __name__ == "__main__":
    main()
