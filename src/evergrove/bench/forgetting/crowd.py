"""Many processes race at once, one core each: jobs are taken in their order, and lines are written as they come.

One process writes; a race that is killed goes on from its lines. With a time limit no job is begun that would probably
not end within it, going by what jobs of the same form took until now.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context

import torch

from evergrove.bench import json_lines
from evergrove.bench.forgetting import lines, plan, race
from evergrove.bench.forgetting.lines import Line
from evergrove.bench.forgetting.plan import Form, Places
from evergrove.bench.forgetting.worlds import Judge, World
from evergrove.learn.rivals import Rival


@dataclass(frozen=True)
class Job:
    """One line to be made."""

    form: Form
    rival: Rival
    seed: int

    @property
    def name(self) -> str:
        """For a progress line."""
        return f"{self.form.name} {self.rival.name}, seed {self.seed}"


Ended = Callable[[Job, Line, float], None]
"""(what ended, its line, the seconds that it took)."""


def race_all(jobs: Sequence[Job], places: Places, n_workers: int, ended: Ended, limit_s: float | None = None) -> int:
    """Runs every job that has no line yet; returns how many were left out for want of time.

    Worlds and judges must be there (``plan.open_all``): workers only read them. What a job raises is raised here, when
    the jobs that run beside it have ended and their lines are written.
    """
    begun_s = time.monotonic()
    todo = list(_undone(jobs, places))
    running: dict[Future[tuple[Line, float]], Job] = {}
    took_s: dict[str, float] = {}
    failure: BaseException | None = None
    with ProcessPoolExecutor(n_workers, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        while running or (todo and failure is None):
            left_s = None if limit_s is None else limit_s - (time.monotonic() - begun_s)
            while todo and len(running) < n_workers and failure is None:
                at = _next(todo, took_s, left_s)
                if at is None:
                    break
                job = todo.pop(at)
                running[pool.submit(run_job, job, places)] = job
            if not running:
                break
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                job = running.pop(future)
                if (fault := future.exception()) is not None:
                    failure = failure or fault
                    continue
                line, seconds = future.result()
                json_lines.append(places.results, line)
                took_s[_kind(job)] = max(seconds, took_s.get(_kind(job), 0.0))
                ended(job, line, seconds)
    if failure is not None:
        raise failure
    return len(todo)


def run_job(job: Job, places: Places) -> tuple[Line, float]:
    """The line of one job, and the seconds that it took."""
    started_s = time.monotonic()
    world, judge = _opened(job.form, places)
    stream = plan.stream_of(job.form, world, places.data, job.seed)
    seen = plan.seen_by(job.form, job.rival, stream, job.seed)
    line = race.run(job.rival, world, judge, seen, job.seed, job.form.budget)
    return line, time.monotonic() - started_s


def _undone(jobs: Sequence[Job], places: Places) -> Iterator[Job]:
    done = lines.read(places.results)
    for job in jobs:
        line = done.get((job.form.name, job.rival.name, job.seed))
        world, _ = _opened(job.form, places)
        if not race.is_made(line, job.rival, world, job.form.budget):
            yield job


def _next(todo: Sequence[Job], took_s: dict[str, float], left_s: float | None) -> int | None:
    """The first job that is thought to end in time; one whose like never ran is thought to."""
    if left_s is None:
        return 0
    return next((i for i, job in enumerate(todo) if took_s.get(_kind(job), 0.0) * 1.15 < left_s), None)


def _kind(job: Job) -> str:
    return job.form.name


@lru_cache(maxsize=4)
def _opened(form: Form, places: Places) -> tuple[World, Judge]:
    return plan.opened(form, places, _say_nothing)


def _say_nothing(what: str, done: int, total: int) -> None:
    """Nobody listens in a worker."""


def _one_thread() -> None:
    torch.set_num_threads(1)
