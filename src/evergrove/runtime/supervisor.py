"""Keeps a set of processes running: starts them, starts anew what dies, waits longer each time, ends all at the end.

Each program is the leader of a session of its own, so it is ended with all its children. It also dies with the
supervisor, even if that is killed (Linux). What a program says goes to a log file of its own.
"""

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

from evergrove.core.errors import EvergroveError

LOG_BYTES_MAX = 16 << 20
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Program:
    """One process to keep running. ``ready`` says whether it can be used (None: at once).

    Where the program called ``tied_to`` dies, this one is ended and starts again with it: what it knows is of no use.
    ``sign_s`` tells when (monotonic) the program last gave a sign of life: one that lives and does nothing is killed.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    ready: Callable[[], bool] | None = None
    tied_to: str = ""
    sign_s: Callable[[], float] | None = None


@dataclass(frozen=True)
class Patience:
    """``backoff_s`` doubles with each death up to ``backoff_s_max``, and starts again after ``steady_s`` of life.

    After ``deaths_max`` deaths in a row the supervisor gives up. ``ready_s``: how long a program may take to be ready;
    ``grace_s``: how long to end when it is asked to; ``silence_s``: how long to give no sign of life, where it should.
    """

    backoff_s: float = 0.5
    backoff_s_max: float = 30.0
    steady_s: float = 60.0
    deaths_max: int = 20
    ready_s: float = 60.0
    grace_s: float = 10.0
    silence_s: float = 600.0
    tick_s: float = 0.2


class Chore(Protocol):
    """Something small to do beside the programs. ``tick`` is called a few times a second and returns at once."""

    def tick(self, now_s: float) -> None:
        """Looks, and perhaps starts something."""

    def end(self) -> None:
        """Ends what it started."""


@dataclass
class _Kept:
    program: Program
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    deaths: int = 0
    again_s: float = 0.0
    n_starts: int = field(default=0)


class Supervisor:
    """Runs programs in the order given; each waits for the one before it to be ready at the first start."""

    def __init__(self, programs: Sequence[Program], logs: Path, patience: Patience | None = None) -> None:
        self._kept = [_Kept(program) for program in programs]
        self._logs, self._patience = logs, patience or Patience()
        self._stop = threading.Event()

    def stop(self) -> None:
        """Asks ``run`` to end; may be called from a signal handler or another thread."""
        self._stop.set()

    def pids(self) -> dict[str, int]:
        """The process of each program that is running now, by its name."""
        return {
            one.program.name: one.process.pid
            for one in self._kept
            if one.process is not None and one.process.poll() is None
        }

    def starts(self) -> dict[str, int]:
        """How often each program was started."""
        return {one.program.name: one.n_starts for one in self._kept}

    def run(self, ready: Callable[[], None] | None = None, chores: Sequence[Chore] = ()) -> None:
        """Blocks until ``stop``; nothing that it started is left when it returns. ``ready`` is called once all are.

        Raises ``EvergroveError`` for a program that does not become ready, or dies too often in a row.
        """
        self._logs.mkdir(parents=True, exist_ok=True)
        try:
            for one in self._kept:
                self._start(one)
                self._await_ready(one)
            if ready is not None and not self._stop.is_set():
                ready()
            while not self._stop.is_set():
                self._watch()
                for chore in chores:
                    chore.tick(time.monotonic())
                self._stop.wait(self._patience.tick_s)
        finally:
            for chore in chores:
                chore.end()
            self._end_all()

    def _start(self, one: _Kept) -> None:
        with open_log(self._logs / f"{one.program.name}.log") as log:
            one.process = spawn(one.program.command, one.program.environment, log)
        one.started_s, one.n_starts = time.monotonic(), one.n_starts + 1

    def _await_ready(self, one: _Kept) -> None:
        until_s = time.monotonic() + self._patience.ready_s
        while one.program.ready is not None and not self._stop.is_set() and not one.program.ready():
            self._watch()
            if time.monotonic() > until_s:
                raise EvergroveError(
                    f"{one.program.name} is not ready after {self._patience.ready_s:g} s; "
                    f"see {self._logs / one.program.name}.log"
                )
            self._stop.wait(self._patience.tick_s)

    def _watch(self) -> None:
        now_s = time.monotonic()
        for one in self._kept:
            self._end_silent(one, now_s)
            if one.process is not None and (code := one.process.poll()) is not None:
                end_group(one.process.pid, signal.SIGKILL)  # what it left behind
                one.deaths = 1 if now_s - one.started_s > self._patience.steady_s else one.deaths + 1
                if one.deaths > self._patience.deaths_max:
                    raise EvergroveError(
                        f"{one.program.name} ended {one.deaths} times in a row, at last with {code}; "
                        f"see {self._logs / one.program.name}.log"
                    )
                wait_s = min(self._patience.backoff_s * 2 ** (one.deaths - 1), self._patience.backoff_s_max)
                _log.warning("%s ended with %d; it starts again in %.1f s", one.program.name, code, wait_s)
                one.process, one.again_s = None, now_s + wait_s
                self._end_tied(one.program.name, now_s + wait_s)
            elif one.process is None and one.n_starts and now_s >= one.again_s and self._root_is_ready(one):
                self._start(one)

    def _end_silent(self, one: _Kept, now_s: float) -> None:
        """Kills a program that gives no sign of life; it starts again as one that died."""
        if one.process is None or one.program.sign_s is None or one.process.poll() is not None:
            return
        silent_s = now_s - max(one.started_s, one.program.sign_s())
        if silent_s > self._patience.silence_s:
            _log.warning("%s gave no sign of life for %.0f s", one.program.name, silent_s)
            end_group(one.process.pid, signal.SIGKILL)
            one.process.wait()

    def _end_tied(self, name: str, again_s: float) -> None:
        for one in self._kept:
            if one.program.tied_to == name and one.process is not None:
                end_group(one.process.pid, signal.SIGKILL)
                one.process.wait()
                one.process, one.again_s = None, again_s

    def _root_is_ready(self, one: _Kept) -> bool:
        root = next((other for other in self._kept if other.program.name == one.program.tied_to), None)
        if root is None:
            return True
        return root.process is not None and (root.program.ready is None or root.program.ready())

    def _end_all(self) -> None:
        """Asks in the opposite order of the start, then kills; the sessions of all are empty when it returns."""
        running = [one.process for one in reversed(self._kept) if one.process is not None]
        for process in running:
            end_group(process.pid, signal.SIGTERM)
        until_s = time.monotonic() + self._patience.grace_s
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(until_s - time.monotonic(), 0.0))
        for process in running:
            end_group(process.pid, signal.SIGKILL)
            process.wait()


def spawn(command: Sequence[str], environment: Mapping[str, str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    """A process in a session of its own, which dies with this one; stdout and stderr go to ``log``."""
    guarded = (sys.executable, "-m", "evergrove.runtime.guarded", str(os.getpid()), *command)
    return subprocess.Popen(
        guarded,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def open_log(path: Path) -> IO[bytes]:
    """A log to append to; one that has grown past its limit gives way to a new one, and is kept as ``.1``."""
    if path.exists() and path.stat().st_size > LOG_BYTES_MAX:
        path.replace(path.with_suffix(path.suffix + ".1"))
    return path.open("ab")


def end_group(pid: int, number: signal.Signals) -> None:
    """Signals a process that leads its session, and all its children; fine if none is left."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as one:
        one.bind((host, 0))
        return int(one.getsockname()[1])


def answers(host: str, port: int) -> bool:
    """Whether somebody listens there."""
    try:
        with socket.create_connection((host, port), timeout=1.0):
            return True
    except OSError:
        return False
