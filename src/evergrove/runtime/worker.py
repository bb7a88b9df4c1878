"""``python -m evergrove.runtime.worker JOB_FOLDER AGENT_PID``: trains or measures, as a process of its own.

One thread, lowest priority, idle scheduling class; stops by itself when its agent is gone. Reads ``job.json``, prints
progress as JSON lines, writes ``outcome.json``. An error of ours becomes a ``Failed`` or ``Refused`` outcome; anything
that ends the process without one counts as an interruption, and the next attempt goes on from the checkpoint.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

import msgspec

from evergrove.adapters.files import Files
from evergrove.core.errors import EvergroveError, InvalidArtefact
from evergrove.core.jobs import Failed, Job, Measure, Outcome, Refused, Train
from evergrove.runtime.workers import OUTCOME, Progress

PR_SET_PDEATHSIG = 1


def be_humble() -> list[str]:
    """Lowest priority and idle class, so that inference always goes first; says what the system did not allow."""
    said = []
    try:
        os.nice(19)
    except OSError as fault:
        said.append(f"nice: {fault}")
    if hasattr(os, "SCHED_IDLE"):
        try:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        except OSError as fault:
            said.append(f"idle scheduling class: {fault}")
    else:
        said.append("idle scheduling class: not on this system")
    return said


def die_with(agent_pid: int) -> None:
    """Asks the kernel to end this process with its agent (Linux); an agent that is gone already ends it now."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != agent_pid:
        sys.exit("the agent is gone")


def run(job: Job, folder: Path, agent_pid: int) -> Outcome:
    """One job to its outcome."""
    from evergrove.runtime import tasks  # torch comes in here, after the process has made itself small

    def ask() -> bool:
        """Before every micro-batch: is there still an agent to work for?"""
        return os.getppid() == agent_pid

    def tell(step: int, steps: int, loss: float, eta_s: float) -> None:
        print(msgspec.json.encode(Progress(step, steps, loss, eta_s)).decode(), flush=True)

    try:
        match job:
            case Train():
                return tasks.train(job, folder, ask, tell)
            case Measure():
                return tasks.measure(job, folder, ask)
    except InvalidArtefact as fault:
        return Refused(str(fault)) if isinstance(job, Measure) else Failed(str(fault))
    except EvergroveError as fault:
        return Failed(str(fault))


def main(arguments: list[str]) -> int:
    """The worker's whole life."""
    folder, agent_pid = Path(arguments[0]), int(arguments[1])
    die_with(agent_pid)
    for line in be_humble():
        print(line, file=sys.stderr, flush=True)
    job: Job = msgspec.json.decode((folder / "job.json").read_bytes(), type=Job)
    outcome = run(job, folder, agent_pid)
    Files().write(folder / OUTCOME, msgspec.json.encode(outcome))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
