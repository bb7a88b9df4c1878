"""``python -m evergrove.runtime.worker JOB_FOLDER AGENT_PID``: trains or measures, as a process of its own.

One thread, as small as the system lets it be (``adapters.caps``), and between two blocks of the network it looks at the
device's frame gate; stops by itself when its agent is gone. Reads ``job.json``, prints progress as JSON lines, writes
``outcome.json``. An error of ours becomes a ``Failed`` or ``Refused`` outcome; anything
that ends the process without one counts as an interruption, and the next attempt goes on from the checkpoint.
"""

import ctypes
import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import msgspec

from evergrove.adapters.caps import Caps, make_small
from evergrove.adapters.files import Files
from evergrove.core.errors import EvergroveError, InvalidArtefact
from evergrove.core.jobs import Choose, Failed, Job, Measure, Outcome, Refused, Train
from evergrove.runtime.frame_gate import FrameGate, path_of
from evergrove.runtime.pacing import Pace
from evergrove.runtime.workers import OUTCOME, Progress

PR_SET_PDEATHSIG = 1


def die_with(agent_pid: int) -> None:
    """Asks the kernel to end this process with its agent (Linux); an agent that is gone already ends it now."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != agent_pid:
        sys.exit("the agent is gone")


@contextmanager
def for_good() -> Iterator[None]:
    """For imports of many modules: nothing of them is garbage, so nobody looks for any, now or later.

    Measured with torch: .3 of 1.6 CPU-seconds.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def leave(code: int) -> NoReturn:
    """Ends the process of a worker, whose outcome is on disk, without taking apart what torch has put together.

    Measured: .3 CPU-seconds. Nothing is lost by it: a worker may be killed at any instant as it is.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run(job: Job, folder: Path, agent_pid: int, cores: int, caps: Caps) -> Outcome:
    """One job to its outcome. ``cores`` is on how many this process may have run before it took one for itself."""
    with for_good():  # torch comes in here, after the process has made itself small
        from evergrove.runtime import tasks

    def alive() -> bool:
        """Is there still an agent to work for?"""
        return os.getppid() == agent_pid

    def tell(step: int, steps: int, loss: float, eta_s: float) -> None:
        print(msgspec.json.encode(Progress(step, steps, loss, eta_s)).decode(), flush=True)

    try:
        gate = FrameGate(path_of(Path(job.device)))
    except OSError as fault:
        # Without it nobody could tell this process to do less: heat and frames go before learning.
        return Failed(f"{path_of(Path(job.device))}: the frame gate cannot be opened: {fault.strerror or fault}")
    pace = Pace(gate, cores, caps.idle, alive)
    try:
        match job:
            case Train():
                return tasks.train(job, folder, pace, tell)
            case Measure():
                return tasks.measure(job, folder, pace)
            case Choose():
                from evergrove.runtime import choosing

                return choosing.choose(job, folder, pace)
    except InvalidArtefact as fault:
        return Refused(str(fault)) if isinstance(job, Measure | Choose) else Failed(str(fault))
    except EvergroveError as fault:
        return Failed(str(fault))


def main(arguments: list[str]) -> int:
    """The worker's whole life."""
    folder, agent_pid = Path(arguments[0]), int(arguments[1])
    die_with(agent_pid)
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    caps = make_small()
    for cap in caps.every:
        print(f"{cap.name}: {'in force' if cap.in_force else 'not in force'}: {cap.found}", file=sys.stderr, flush=True)
    job: Job = msgspec.json.decode((folder / "job.json").read_bytes(), type=Job)
    outcome = run(job, folder, agent_pid, cores, caps)
    Files().write(folder / OUTCOME, msgspec.json.encode(outcome))
    return 0


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
