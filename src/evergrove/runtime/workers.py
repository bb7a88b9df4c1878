"""Worker processes as the agent sees them: start one for a job, follow its progress, read its outcome, end it.

A worker is a process of its own (DESIGN §3): it alone imports torch, runs at idle priority, and dies with the agent.
What it leaves is one file, ``outcome.json``; a worker that ends without it was interrupted.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import assert_never

import msgspec

from evergrove.adapters.files import Files
from evergrove.core import effects as do
from evergrove.core import events as ev
from evergrove.core import jobs
from evergrove.core.config import Config
from evergrove.core.jobs import Failed, Job, Outcome
from evergrove.core.messages import JobState
from evergrove.core.sections import OURS, SHARED
from evergrove.rules import branching

OUTCOME = "outcome.json"
LOG_BYTES_MAX = 1 << 20
Start = do.StartTraining | do.StartMeasuring | do.StartChoosing
"""The orders that a worker carries out."""


class Progress(msgspec.Struct, frozen=True):
    """One line of a worker's stdout."""

    step: int
    steps: int
    loss: float
    eta_s: float


def environment(threads: int) -> dict[str, str]:
    """A worker's environment: numeric libraries must not start more threads than they are given."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    return {**os.environ, **dict.fromkeys(names, str(threads)), "PYTHONUNBUFFERED": "1"}


def command(folder: Path, agent_pid: int) -> tuple[str, ...]:
    """What starts a worker on the job in ``folder``; it ends with the process ``agent_pid``, which must start it."""
    return (sys.executable, "-m", "evergrove.runtime.worker", str(folder), str(agent_pid))


async def run(
    folder: Path, job: Job, stage: str, attempt: int, files: Files, report: Callable[[JobState], None]
) -> Outcome | str:
    """Runs one worker to its end; gives its outcome, or says in words how it was interrupted.

    ``report`` hears about progress. A cancelled call kills the worker. How long it may take is the reducer's to say.
    """
    prepare(folder, job, files)
    errors = folder / "worker.log"
    if errors.exists() and errors.stat().st_size > LOG_BYTES_MAX:
        errors.unlink()
    with errors.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *command(folder, os.getpid()),
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            stdin=asyncio.subprocess.DEVNULL,
            env=environment(job.learn.threads),
        )
    report(JobState(folder.name, stage, attempt, pid=process.pid))
    try:
        await _follow(process, folder.name, stage, attempt, report)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
            await process.wait()
    return read_outcome(folder, process.returncode or 0)


def prepare(folder: Path, job: Job, files: Files) -> None:
    """The folder of a job, new or gone on with: what is asked is in it, an older outcome is not."""
    files.make_folder(folder)
    files.remove(folder / OUTCOME)
    files.write(folder / "job.json", msgspec.json.encode(job))


def read_outcome(folder: Path, code: int) -> Outcome | str:
    """What a worker left behind, or how it ended without leaving anything."""
    try:
        data = (folder / OUTCOME).read_bytes()
    except FileNotFoundError:
        if code < 0:
            return f"the worker was ended by {signal.Signals(-code).name}"
        return f"the worker exited with {code} and no outcome; see {folder.name}/worker.log"
    try:
        outcome: Outcome = msgspec.json.decode(data, type=Outcome)
        return outcome
    except (msgspec.ValidationError, msgspec.DecodeError) as fault:
        return Failed(f"outcome not understood: {fault}")


async def _follow(
    process: asyncio.subprocess.Process, job: str, stage: str, attempt: int, report: Callable[[JobState], None]
) -> None:
    assert process.stdout is not None
    decoder = msgspec.json.Decoder(Progress)
    async for line in process.stdout:
        try:
            at = decoder.decode(line)
        except (msgspec.ValidationError, msgspec.DecodeError):
            continue  # something that a library printed: it is not ours to judge
        report(JobState(job, stage, attempt, at.step, at.steps, at.loss, at.eta_s, process.pid))
    await process.wait()


def job_of(order: Start, root: Path, release: Path, config: Config, seed: int, arriving: Path | None = None) -> Job:
    """What a worker is told to do for an order, on the device at ``root``; ``arriving``: where another release lies."""
    if isinstance(order, do.StartChoosing):
        places = (str(root), str(release), str(arriving))
        learn = msgspec.structs.replace(config.learn, strategy=strategy_of(config))
        return jobs.Choose(*places, order.incumbent, order.given, order.held_back, learn, order.learnt, config.gate)
    if isinstance(order, do.StartTraining):
        learn = msgspec.structs.replace(config.learn, steps=order.steps, strategy=strategy_of(config))
        rehearse = config.fog.rehearse
        return jobs.Train(str(root), str(release), order.parent, order.fresh, learn, seed, order.assist, rehearse)
    return jobs.Measure(
        str(root), str(release), order.candidate, order.source, order.incumbent, order.learnt, order.gamma, config.learn
    )


def strategy_of(config: Config) -> str:
    """The strategy of a device's jobs: one that gives to its fleet always shares one B, for that is what is summed."""
    return SHARED if branching.gives(config) and config.learn.strategy == OURS else config.learn.strategy


def fact_of(order: Start, outcome: jobs.Outcome | str) -> ev.Event:
    """What an outcome means for the log."""
    match outcome:
        case str():
            return ev.JobInterrupted(order.job, outcome)
        case jobs.Failed():
            return ev.JobFailed(order.job, outcome.reason)
        case jobs.Refused():
            return ev.CandidateRefused(order.job, outcome.reason)
        case jobs.Trained():
            return ev.TrainingFinished(
                order.job, outcome.candidate, outcome.steps, outcome.seconds, outcome.loss, outcome.n_bytes
            )
        case jobs.Measured():
            assert isinstance(order, do.StartMeasuring), "only a measuring job measures"
            return ev.CandidateMeasured(order.job, outcome.candidate, order.gamma, outcome.comparisons, outcome.seconds)
        case jobs.Chosen():
            parts = outcome.choices, outcome.known, outcome.table, outcome.teacher
            return ev.ReleaseMeasured(order.job, *parts, outcome.seconds)
        case _:
            assert_never(outcome)
