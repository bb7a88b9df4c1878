"""Fewer old rows in an assisted job, and lighter ones: what is learnt, what is kept, and what the gate sees (ADR 0008).

    python benchmarks/assisted.py --seeds 0,1,2 --arms alone,8-4-4,8-2-2,8-2-2x0.75     # a minute of a core each

An arm is NEW-REPLAY-TEACHER rows, ``x`` what the old ones weigh; ``alone`` has no assist. A JSON line for each job: the
shares that the oracle reads right, the gate's largest harm to what the release knew, and the CPU seconds of training.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from evergrove.adapters.release import open_release
from evergrove.bench import offload
from evergrove.demo.judge import Judge
from evergrove.learn import assist
from evergrove.learn.adapter_file import adapter_of_bytes
from evergrove.learn.evaluate import Golden, Roles, measure, network
from evergrove.learn.oracle import load_oracle
from evergrove.learn.strategies import Samples, Shares, Task
from evergrove.learn.trainer import train
from evergrove.runtime import assembly
from evergrove.runtime.tasks import groups, seed_of_set


def shared_out(task: Task, arm: str) -> Task:
    """The task with the rows and the weight of an arm."""
    rows, _, weight = arm.partition("x")
    n_new, n_replay, n_teacher = map(int, rows.split("-"))
    batch = n_new + n_replay + n_teacher
    # Half a row more: a share times the batch is cut to whole rows.
    shares = Shares(*((n + 0.5) / batch if n else 0.0 for n in (n_replay, n_teacher)))
    weights = replace(task.strategy.weights, replay=float(weight or 1), teacher=float(weight or 1))
    strategy = replace(task.strategy, shares=shares, weights=weights)
    return replace(task, strategy=strategy, recipe=replace(task.recipe, batch=batch, micro_batch=batch))


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2", help="0 to 12: there are no pictures for more")
    parser.add_argument("--arms", default="alone,8-4-4,8-2-2x0.75")
    parser.add_argument("--steps", type=int, default=250)
    given = parser.parse_args()
    torch.set_num_threads(1)
    # 1. The release, and the assist that its fog would have computed.
    release = open_release("avatars")
    parts, sizes = assembly.open_parts(release), offload.Sizes()
    body = assist.compute(assembly.released(parts, with_teacher=True))
    manifest = release.manifest
    pack = assembly.pack_of(release, manifest.golden.name)
    old_groups, none = groups(pack.codes, manifest.known), Samples(pack.images[:0], pack.codes[:0])
    for seed in map(int, given.seeds.split(",")):
        judge = Judge(release, load_oracle(release.folder / offload.ORACLE), seed)
        for arm in given.arms.split(","):
            # 2. The job.
            began_s = time.process_time()
            helped = None
            if arm != "alone":
                helped = assist.read(body, assembly.released(parts, with_teacher=False))
            task = offload.job_of(parts, sizes, seed, helped, given.steps)
            task = task if arm == "alone" else shared_out(task, arm)
            with tempfile.TemporaryDirectory() as folder:
                candidate = train(task, Path(folder)).candidate
                assert candidate is not None
                adapter = adapter_of_bytes(candidate.read_bytes())
            cpu_s = time.process_time() - began_s
            # 3. What the oracle reads, and what the gate measures.
            old = judge.known()
            new = [
                value
                for value in task.vocabulary.factors[judge.manifest.vocabulary.names.index(offload.FACTOR)].values
                if value not in old
            ]
            read = judge.judge(adapter, [*old, *new], sizes.n_judged)
            released, learnt = (network(parts.model, parts.basis, one, task.vocabulary) for one in (None, adapter))
            golden = Golden(pack, old_groups, seed_of_set(manifest.golden.sha256), task.vocabulary.sizes)
            found = measure(Roles(learnt, released, released), golden, Golden(none, (), 0, task.vocabulary.sizes), ())
            harm = max(one.mean for one in found)
            line = {
                "seed": seed,
                "arm": arm,
                "new": read.mean(new),
                "old": read.mean(old),
                "harm": harm,
                "cpu_s": cpu_s,
            }
            print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()}), flush=True)


if __name__ == "__main__":
    main()
