"""A cloud's workers: one process for one job, which alone has torch, and dies with the process that started it.

What is asked lies in ``job.json`` of the job's folder, what came of it in ``outcome.json``; a worker that ends without
one was interrupted. ``python -m evergrove.runtime.cloud_workers FOLDER PID`` is the worker.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import msgspec

from evergrove.adapters.files import Files
from evergrove.core.cloud_jobs import CloudFailed, CloudJob, CloudOutcome
from evergrove.core.errors import EvergroveError
from evergrove.runtime.supervisor import open_log
from evergrove.runtime.worker import die_with, for_good, leave
from evergrove.runtime.workers import OUTCOME, environment

JOB, LOG = "job.json", "worker.log"


class Running(Protocol):
    """A worker that was started."""

    def ended(self) -> str | None:
        """How it ended, in words for where it left no outcome; None while it runs."""
        ...

    def stop(self) -> None:
        """Ends it, if it runs."""
        ...


class Workers(Protocol):
    """Where workers come from: processes at work, the test's own thread of control in a test."""

    def start(self, folder: Path, threads: int) -> Running:
        """Starts a worker on the job in ``folder``."""
        ...


class Processes:
    """Workers as processes."""

    def start(self, folder: Path, threads: int) -> Running:
        """One more process; what it says goes to ``worker.log``."""
        command = (sys.executable, "-m", "evergrove.runtime.cloud_workers", str(folder), str(os.getpid()))
        with open_log(folder / LOG) as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment(threads)
            )
        return _Process(process, folder)


class _Process:
    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self._process, self._folder = process, folder

    def ended(self) -> str | None:
        code = self._process.poll()
        if code is None:
            return None
        if code < 0:
            return f"the worker was ended by {signal.Signals(-code).name}"
        return f"the worker exited with {code} and no outcome; see {self._folder / LOG}"

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()


def prepare(folder: Path, job: CloudJob, files: Files) -> None:
    """A job's folder, ready for a worker: an outcome of the very same job stays, that of another goes."""
    data = msgspec.json.encode(job)
    files.make_folder(folder)
    if read(folder / JOB) != data:
        files.remove(folder / OUTCOME)
        files.write(folder / JOB, data)


def outcome_in(folder: Path) -> CloudOutcome | None:
    """What a worker left there; None where there is nothing yet."""
    data = read(folder / OUTCOME)
    if data is None:
        return None
    try:
        outcome: CloudOutcome = msgspec.json.decode(data, type=CloudOutcome)
        return outcome
    except msgspec.MsgspecError as fault:
        return CloudFailed(f"{folder / OUTCOME} was not understood: {fault}")


def read(path: Path) -> bytes | None:
    """A small file of ours, None where there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def work(folder: Path) -> None:
    """Does the job in ``folder`` and leaves its outcome; an error of ours is one too."""
    with for_good():
        from evergrove.runtime import fleet_tasks  # torch

    job: CloudJob = msgspec.json.decode((folder / JOB).read_bytes(), type=CloudJob)
    try:
        outcome: CloudOutcome = fleet_tasks.run(job, folder)
    except EvergroveError as fault:
        outcome = CloudFailed(str(fault))
    Files().write(folder / OUTCOME, msgspec.json.encode(outcome))


def main(arguments: list[str]) -> int:
    """The worker's whole life."""
    die_with(int(arguments[1]))
    work(Path(arguments[0]))
    return 0


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
