"""The training loop: a kill loses little and changes nothing, hooks are asked, divergence leaves no candidate."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evergrove.core.errors import CorruptState, EvergroveError, UsageError
from evergrove.learn.strategies import STRATEGIES, Recipe, Samples, Task
from evergrove.learn.trainer import CANDIDATE, CHECKPOINT, MEMORY, Hooks, Progress, train, write_durably

World = Any  # the one of conftest.py


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def task(world: World, name: str = "evergrove", **recipe: Any) -> Task:
    """A short training of the fourth pattern."""
    settings = {"steps": 12, "checkpoint_every": 4, "micro_batch": 6, "warm_up": 2} | recipe
    return Task(world.model, world.basis, world.wider, world.new, world.old, STRATEGIES[name], Recipe(**settings))


def killed_after(n_writes: int) -> Callable[[Path, bytes], None]:
    """A ``write`` that dies halfway through write number ``n_writes``, as power does."""
    left = [n_writes]

    def write(path: Path, data: bytes) -> None:
        left[0] -= 1
        if left[0] < 0:
            path.with_name(f".{path.name}.tmp").write_bytes(data[: len(data) // 2])
            raise Killed
        write_durably(path, data)

    return write


@pytest.mark.parametrize("name", ["evergrove", "full", "lora"])
def test_a_resumed_training_is_the_same_to_the_bit(world: World, name: str, tmp_path: Path) -> None:
    """Killed within every single write in turn, then resumed: the candidate and all losses are those of one run."""
    whole = train(task(world, name), tmp_path / "whole")
    assert whole.candidate is not None
    for n_writes in range(5):
        folder = tmp_path / f"killed-{n_writes}"
        with pytest.raises(Killed):
            train(task(world, name), folder, Hooks(write=killed_after(n_writes)))
        resumed = train(task(world, name), folder)
        assert resumed.losses == whole.losses
        assert resumed.sha256 == whole.sha256
        assert resumed.candidate is not None
        assert resumed.candidate.read_bytes() == whole.candidate.read_bytes()


def test_a_kill_loses_one_interval_at_most(world: World, tmp_path: Path) -> None:
    """Killed in step 11, it goes on after step 8, the last checkpoint."""
    seen: list[int] = []

    def die_at_eleven(progress: Progress) -> None:
        if progress.step == 11:
            raise Killed

    with pytest.raises(Killed):
        train(task(world), tmp_path, Hooks(progress=die_at_eleven))
    train(task(world), tmp_path, Hooks(progress=lambda p: seen.append(p.step)))
    assert seen == [9, 10, 11, 12]


def test_a_finished_training_is_not_run_again(world: World, tmp_path: Path) -> None:
    """The same task in the same folder gives the same outcome without a step."""
    first = train(task(world), tmp_path)
    steps: list[int] = []
    again = train(task(world), tmp_path, Hooks(progress=lambda p: steps.append(p.step)))
    assert (again.sha256, again.losses, steps) == (first.sha256, first.losses, [])


def test_a_pause_keeps_the_state(world: World, tmp_path: Path) -> None:
    """A hook that says no pauses before the micro-batch; going on later gives the same candidate."""
    whole = train(task(world), tmp_path / "whole")
    asked = [0]

    def thirteen_times(rows: int) -> int:
        asked[0] += 1
        return rows if asked[0] <= 13 else 0

    paused = train(task(world), tmp_path / "paused", Hooks(micro_batch=thirteen_times))
    assert (paused.candidate, paused.steps, asked[0]) == (None, 4, 14)  # three micro-batches a step
    assert train(task(world), tmp_path / "paused").sha256 == whole.sha256


def test_progress_counts_down(world: World, tmp_path: Path) -> None:
    """Told after every step, with a finite loss and a time left that ends at zero."""
    told: list[Progress] = []
    train(task(world), tmp_path, Hooks(progress=told.append))
    assert [p.step for p in told] == list(range(1, 13))
    assert all(np.isfinite(p.loss) and p.eta_s >= 0 and p.steps == 12 for p in told)
    assert told[-1].eta_s == 0.0


def test_micro_batches_change_nothing_but_rounding(world: World, tmp_path: Path) -> None:
    """Batches of 16 in one piece and in pieces of 5 learn the same."""
    one = train(task(world, micro_batch=16), tmp_path / "one")
    many = train(task(world, micro_batch=5), tmp_path / "many")
    assert one.losses == pytest.approx(many.losses, rel=1e-3)


def test_divergence_is_an_error_without_a_candidate(world: World, tmp_path: Path) -> None:
    """A learning rate beyond reason: one clear line, and nothing that could be promoted."""
    with pytest.raises(EvergroveError, match=r"diverged at step .* no candidate"):
        train(task(world, lr=1e30, warm_up=0), tmp_path)
    assert not (tmp_path / CANDIDATE).exists()


def test_what_cannot_be_gone_on_with_is_refused(world: World, tmp_path: Path) -> None:
    """Another task's checkpoint, a damaged one, and a task with nothing to learn: each says what to do."""
    with pytest.raises(Killed):
        train(task(world), tmp_path, Hooks(write=killed_after(3)))
    with pytest.raises(UsageError, match="another task"):
        train(replace(task(world), seed=1), tmp_path)
    checkpoint = tmp_path / CHECKPOINT
    checkpoint.write_bytes(checkpoint.read_bytes()[:-50])
    with pytest.raises(CorruptState, match="delete it"):
        train(task(world), tmp_path)
    nothing = Samples(world.new.images[:0], world.new.codes[:0])
    with pytest.raises(UsageError, match="nothing to learn"):
        train(replace(task(world), new=nothing), tmp_path)


def test_the_memory_is_made_once(world: World, tmp_path: Path) -> None:
    """Teacher points and Fisher come from the folder on resumption, not from another run of the teacher."""
    with pytest.raises(Killed):
        train(task(world), tmp_path, Hooks(write=killed_after(2)))
    made = (tmp_path / MEMORY).read_bytes()

    def forbidden(*_: object) -> Any:
        pytest.fail("the memory was prepared a second time")

    strategy = replace(STRATEGIES["evergrove"], remember=forbidden)
    train(replace(task(world), strategy=strategy), tmp_path)
    assert (tmp_path / MEMORY).read_bytes() == made


def test_learning_goes_on_from_an_incumbent(world: World, tmp_path: Path) -> None:
    """A second job that starts from the first one's adapter begins with what that had learnt."""
    from evergrove.learn.adapter_file import load_adapter

    first = train(task(world, "replay", steps=60), tmp_path / "first")
    assert first.candidate is not None
    start = load_adapter(first.candidate, world.model, world.basis)
    second = train(replace(task(world, "replay"), start=start), tmp_path / "second")
    assert np.mean(second.losses[:4]) < 0.3 * np.mean(first.losses[:4])


SCRIPT = """
import os, sys
sys.path.insert(0, {tests!r})
import conftest, torch
from pathlib import Path
from evergrove.learn.strategies import STRATEGIES, Recipe, Task
from evergrove.learn.trainer import train
torch.set_num_threads(1)
torch.manual_seed(0)
model = conftest.DiT(conftest.CONFIG, conftest.KNOWN).requires_grad_(False)
new, old = conftest.pictures([4], 12, "new"), conftest.pictures([1, 2, 3], 12, "old")
task = Task(model, conftest.random_basis(model), conftest.WIDER, new, old, STRATEGIES["replay"],
            Recipe(steps=150, batch=4, checkpoint_every=1))
for folder in sys.stdin:  # torch is imported once, and each training is a process all the same
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        print(train(task, Path(folder.strip())).sha256, flush=True)
        os._exit(0)
    print("ended", os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""


def test_kill_9_at_random_instants(tmp_path: Path) -> None:
    """A real process, killed four times and started again, ends with the bytes of one that nobody touched."""
    text = textwrap.dedent(SCRIPT).format(tests=str(Path(__file__).parent))
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    forks = subprocess.Popen(
        [sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=env
    )
    with forks:
        assert forks.stdin is not None
        assert forks.stdout is not None

        def start(name: str) -> int:
            print(tmp_path / name, file=forks.stdin)
            return int(forks.stdout.readline())

        rng = np.random.default_rng(0)
        for _ in range(4):
            victim = start("killed")
            time.sleep(float(rng.uniform(0.05, 0.35)))
            os.kill(victim, signal.SIGKILL)
            assert forks.stdout.readline() == "ended -9\n"
        ends = []
        for name in ("killed", "whole"):
            start(name)
            ends.append(forks.stdout.readline().strip())
            assert forks.stdout.readline() == "ended 0\n"
    assert ends[0] == ends[1]
    assert len(ends[0]) == 64
