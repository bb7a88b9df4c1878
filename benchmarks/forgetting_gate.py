"""200 updates of one device on one golden set, every fifth of them spoilt: what the gate lets through, against truth.

    python benchmarks/forgetting_gate.py --out runs/gate                # twenty minutes on one core; can be killed

One JSON line for each update in ``OUT/updates.jsonl``, the verdict on stdout. See ``bench/forgetting/long_run.py``.
"""

import argparse
import sys
import time
from pathlib import Path

import msgspec
import torch

from evergrove.bench.forgetting import long_run, worlds


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--worlds", type=Path, default=None, help="by default OUT/worlds")
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit-s", type=float, default=None, help="Stop after the update in which this is passed.")
    given = parser.parse_args()
    begun_s = time.monotonic()
    torch.set_num_threads(1)

    def report(what: str, done: int, total: int) -> None:
        passed_s = time.monotonic() - begun_s
        print(f"[{passed_s:6.1f} s] {done}/{total} {what}", file=sys.stderr, flush=True)
        if given.limit_s is not None and passed_s > given.limit_s:
            raise SystemExit(f"stopped after {passed_s:.0f} s; the same command goes on")

    sizes = long_run.Sizes(n_updates=given.updates)
    found = long_run.run(worlds.AVATARS, given.worlds or given.out / "worlds", given.out, sizes, given.seed, report)
    print(msgspec.json.encode({**msgspec.structs.asdict(found), "met": found.met}).decode())


if __name__ == "__main__":
    main()
