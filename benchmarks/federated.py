"""How good a fleet's release gets: beside training on everyone's data, over ε and devices, by bytes, under attack.

    python benchmarks/federated.py --quick                       # the tiny release, a minute of one core
    python benchmarks/federated.py --device cuda --workers 9     # everything; some minutes of an H100 a seed
    python benchmarks/federated.py --table                       # Markdown from the lines that are there

    python benchmarks/federated.py --only trial,local --workers 2 --out FILE   # the private form; hours of two cores

Lines are appended to ``--out`` as they are done; an (arm, seed) that stands there is not run again, so a run that was
stopped goes on. Tuning runs first (other emotions, other looks), and what is best there is what the tests use; the
private form alone, on the tiny release, is tuned on the very emotions and looks that it is tested on.
"""

import argparse
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import torch

from evergrove.bench import json_lines
from evergrove.bench.federated import lines, plan, tables
from evergrove.bench.federated.arms import Arm, opened, run
from evergrove.bench.federated.fleet import atlases, open_atlas
from evergrove.bench.federated.lines import Line

RESULTS = Path(__file__).parent / "results"
Job = tuple[Arm, int]


def work(arm: Arm, seed: int, device: str) -> Line:
    """One arm in a worker process."""
    torch.set_num_threads(1)
    return run(arm, seed, device)


def draw(world: str, hair: str, emotions: tuple[str, ...]) -> None:
    """One atlas in a worker process."""
    open_atlas(opened(world, "cpu"), hair, emotions)


def run_all(jobs: Sequence[Job], out: Path, device: str, pool: ProcessPoolExecutor) -> None:
    """Runs what is not done yet, its pictures drawn first; a job that fails is told and left out."""
    done = lines.read(out)
    left = [(arm, seed) for arm, seed in jobs if (arm.name, seed) not in done]
    looked_at = {(arm.world, *one) for arm, _ in left for one in atlases(opened(arm.world, "cpu"), arm.fleet)}
    for drawing in [pool.submit(draw, *one) for one in sorted(looked_at)]:
        drawing.result()
    futures = {pool.submit(work, arm, seed, device): arm for arm, seed in left}
    for future in as_completed(futures):
        fault = future.exception()
        if fault is not None:
            print(f"{futures[future].name}: {type(fault).__name__}: {fault}", file=sys.stderr, flush=True)
            continue
        line = future.result()
        json_lines.append(out, line)
        seen = "" if line.reading is None else f" right {line.reading.right:.3f} kept {line.reading.kept:.3f}"
        told = f"{line.arm}, seed {line.seed}:{seen} loss {line.loss:.5f} ({line.seconds:.0f} s)"
        print(told, file=sys.stderr, flush=True)


def main() -> None:
    """Runs, or tells."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="a torch device")
    parser.add_argument("--out", type=Path, help="the file of lines")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sizes", default="20,100,400", help="numbers of devices")
    parser.add_argument("--only", default="", help="run only arms whose group or name begins with one of these (a,b,…)")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the device")
    parser.add_argument("--quick", action="store_true", help="the tiny release and a few devices: to see that it works")
    parser.add_argument("--table", action="store_true", help="tables of the lines, in Markdown")
    options = parser.parse_args()
    out = options.out or RESULTS / ("federated-quick.jsonl" if options.quick else "federated.jsonl")
    if not options.table:
        only = tuple(options.only.split(","))
        sizes = tuple(int(n) for n in options.sizes.split(","))
        with ProcessPoolExecutor(options.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            if options.quick:
                run_all(plan.quick(), out, options.device, pool)
            else:
                run_all(_among(plan.tuning(), only), out, options.device, pool)
                quoted = plan.quoted(plan.best(lines.read(out)), range(options.seeds), sizes)
                run_all(_among(quoted, only), out, options.device, pool)
                run_all(_among(plan.local_tuning(), only), out, options.device, pool)
                run_all(_among(plan.large_trials(), only), out, options.device, pool)
                chosen = plan.best_local(lines.read(out))
                agreed = [*plan.local_work(chosen, sizes), *plan.large_work(sizes[-1])]
                agreed += plan.shared_work(chosen, sizes[-1])
                local = [(arm, seed) for arm in agreed for seed in range(options.seeds)]
                run_all(_among(local, only), out, options.device, pool)
    print(tables.page(lines.read(out)))


def _among(jobs: Sequence[Job], only: tuple[str, ...]) -> list[Job]:
    return [(arm, seed) for arm, seed in jobs if arm.group.startswith(only) or arm.name.startswith(only)]


if __name__ == "__main__":
    main()
