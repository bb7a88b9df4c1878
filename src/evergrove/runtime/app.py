"""``LocalDevice``: what an app holds. Generation happens here, in the app's process; all else is the agent's.

``generate`` reads one pointer and never waits for training, the agent or a network. A watcher thread looks for newly
promoted versions, fuses them into the idle slot and swaps between two calls. ``stream`` makes frames on a schedule.
"""

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, Self

from evergrove.adapters import clock, receipts
from evergrove.adapters.images import to_media
from evergrove.adapters.ownership import find_agent, is_alive
from evergrove.adapters.receipts import Receipt
from evergrove.core import errors
from evergrove.core import messages as msg
from evergrove.core.conditions import Condition, Vocabulary
from evergrove.core.config import Config
from evergrove.core.errors import EvergroveError, Unreachable, UsageError
from evergrove.runtime.frame_gate import Announcer, FrameGate, path_of
from evergrove.runtime.picture import Picture
from evergrove.runtime.stream import Stream

JOB_POLL_S = 0.1
AGENT_END_S, AGENT_END_POLL_S = 30.0, 0.01
"""For an agent that was told to end; it has its workers to end and a snapshot to save."""
ATTEMPTS_MAX = 3
SEED_MAX = 2**63 - 1
"""A stream's frames count on from its seed, and torch takes no more than 64 bits."""


class Line(Protocol):
    """A way to the agent: one request, one reply. The socket's client, or an agent in the same process in tests."""

    def ask(self, request: msg.Request, timeout_s: float | None = None) -> msg.Reply:
        """Sends a request and waits for its reply; raises ``Unreachable``."""

    def close(self) -> None:
        """Hangs up."""


class Studio(Protocol):
    """What makes pictures: loaded at the first ``generate``, since it alone needs torch."""

    def generate(
        self, condition: Condition, seed: int, steps: int | None, guidance: float | None
    ) -> tuple[Any, dict[str, str], str | None]:
        """A picture uint8 (H, W, 3), the whole condition that it shows, and the version that made it."""

    def refresh(self) -> str | None:
        """Puts the newest version live if there is one; says what is wrong with it, if anything."""


class LocalDevice:
    """One device, for the apps on it. Thread-safe; a context manager. ``bootstrap.Device`` opens and creates them."""

    def __init__(self, root: Path, config: Config, connect: Callable[[], Line], studio: Callable[[], Studio]) -> None:
        """``connect`` gives a line to the device's agent and starts one where there is none."""
        self.root = root
        self.config = config
        self._connect = connect
        self._make_studio = studio
        self._studio: Studio | None = None
        self._problem: str | None = None  # of a version, not yet reported
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._line: Line = connect()
        self._numbers = itertools.count(1)
        self._seeds = itertools.count(int.from_bytes(os.urandom(3), "big"))
        self._frames: Announcer | None = None
        self._closed = threading.Event()
        self._watcher: threading.Thread | None = None
        self._welcome = self._hello()

    # Making pictures

    def generate(
        self, condition: Condition, *, seed: int | None = None, steps: int | None = None, guidance: float | None = None
    ) -> Picture:
        """A picture of ``condition``, made here and now; the same seed and version give the same picture.

        Factors that ``condition`` leaves open are drawn from the seed; the picture's own ``condition`` names them all.

        ``steps`` 1-32 and ``guidance`` (1.0 is none) default to what the release was measured at. Raises
        ``UnknownCondition``, which names the nearest known value, and ``UsageError`` for seed or settings out of range.
        """
        _check(seed, steps, guidance)
        studio = self._studio or self._open_studio()
        seed = next(self._seeds) if seed is None else seed
        if self._frames is None:
            return self._picture(studio, condition, seed, steps, guidance)
        self._frames.begin()
        try:
            return self._picture(studio, condition, seed, steps, guidance)
        finally:
            self._frames.end()

    def stream(
        self,
        condition: Condition,
        fps: float = 30.0,
        *,
        seed: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
    ) -> Stream:
        """Pictures of ``condition`` on a schedule: ``for frame in device.stream({"emotion": "happy"}, fps=30)``.

        Each ``Frame`` has its ``index``, when it was due and how late it was; late ones are counted in ``stats``, told
        to the frame gate, and never left out (``runtime.stream``). With a ``seed``, frame i has the seed ``seed + i``.
        A new version goes live between two frames. Close the stream, or leave its ``with`` block, when you are done.
        Raises what ``generate`` raises, and ``UsageError`` for an impossible rate.
        """
        _check(seed, steps, guidance)
        studio = self._studio or self._open_studio()
        first = next(self._seeds) if seed is None else seed

        def make(index: int) -> Picture:
            return self._picture(studio, condition, first + index, steps, guidance)

        # A slot of its own: a schedule is one stream's alone.
        return Stream(make, fps, self._slot(), clock.elapsed_s, time.sleep)

    def warm_up(self) -> None:
        """Loads the generator now instead of at the first ``generate`` (about two seconds, mostly torch)."""
        if self._studio is None:
            self._open_studio()

    # Showing the world to it

    def observe(self, media: Any, condition: Condition) -> msg.Observed:
        """Shows one observation: encoded bytes, a path, a uint8 array (H, W, 3) or a Pillow image.

        The reply says whether it was kept, and why; kept means durable. A value that the device does not know yet
        becomes a new condition (``new_values``). Raises ``InvalidMedia`` with a short ``reason``, ``UnknownCondition``
        for an unknown factor.
        """
        reply = self._ask(msg.Observe(to_media(media), dict(condition)))
        assert isinstance(reply, msg.Observed)
        return reply

    # Learning

    def learn(
        self, steps: int = 0, wait: bool = True, progress: Callable[[msg.JobState], None] | None = None
    ) -> msg.JobResult:
        """Learns what was kept and lets the golden gate judge it. ``steps`` 0 means the configured number.

        With ``wait`` the result says accepted, rejected or failed, in one sentence; without, verdict is ``started``.
        """
        return self._job(msg.LearnNow(steps), wait, progress)

    def offer(
        self, adapter: str | Path, wait: bool = True, progress: Callable[[msg.JobState], None] | None = None
    ) -> msg.JobResult:
        """Hands over an adapter file made elsewhere: it passes the same checks and the same gate, or is refused."""
        return self._job(msg.Offer(str(Path(adapter).absolute())), wait, progress)

    def recheck(self, wait: bool = True, progress: Callable[[msg.JobState], None] | None = None) -> msg.JobResult:
        """Checks the active version on the golden set again, without an update."""
        return self._job(msg.Recheck(), wait, progress)

    def rollback(self) -> msg.Done:
        """Goes back to the previous version, between two calls of ``generate``."""
        reply = self._ask(msg.RollBack())
        assert isinstance(reply, msg.Done)
        self.refresh()
        return reply

    def forget(self, *, observation: str = "", condition: Condition | None = None, everything: bool = False) -> Receipt:
        """Destroys one observation, all of a condition, or everything, and every version that learnt from it.

        What is left is learnt anew in time. Returns the receipt, which also lies in the device's folder; killed on the
        way, the device finishes by itself. Raises ``UsageError`` where there is no such observation,
        ``UnknownCondition``, ``EvergroveError`` where it cannot be finished now.
        """
        result = self._job(msg.Forget(observation, dict(condition or {}), everything), True, None)
        if result.verdict != "forgotten":
            raise EvergroveError(f"not forgotten yet: {result.sentence}")
        self.refresh()
        return receipts.read(self.root, result.job)

    def refresh(self) -> None:
        """Puts a newly promoted version live now instead of within ``generate.poll_s``."""
        if self._studio is not None:
            self._refresh(self._studio)

    # Looking at it

    def status(self) -> msg.Status:
        """What the device is, holds and does, and what it decided lately."""
        reply = self._ask(msg.GetStatus())
        assert isinstance(reply, msg.Status)
        return reply

    @property
    def vocabulary(self) -> Vocabulary:
        """The conditions that the device understands today, the ones that it met itself included."""
        return self._hello().vocabulary

    @property
    def agent_pid(self) -> int:
        """The process that owns the device now."""
        return self._hello().pid

    def wait_idle(self, timeout_s: float = 600.0) -> msg.Status:
        """Waits until no job is under way; one that waits for its time does not count.

        Raises ``Unreachable`` when that takes longer than ``timeout_s``.
        """
        deadline_s = clock.elapsed_s() + timeout_s
        while (status := self.status()).job is not None and status.job.stage != "wait":
            if clock.elapsed_s() > deadline_s:
                raise Unreachable(f"{status.job.job} is still under way after {timeout_s:g} s")
            time.sleep(JOB_POLL_S)
        return status

    def close(self, stop_agent: bool = False) -> None:
        """Lets go of the device. Its agent ends by itself when nobody needs it; ``stop_agent`` ends it now.

        Its process has ended then (30 s are given), and has let go of the folder, which may be copied or removed.
        """
        self._closed.set()
        if self._frames is not None:
            self._frames.close()
        if stop_agent:
            agent = find_agent(self.root)
            with contextlib.suppress(Unreachable):
                self._line.ask(msg.Stop(), 5.0)
            deadline_s = clock.elapsed_s() + AGENT_END_S
            while agent is not None and is_alive(agent) and clock.elapsed_s() < deadline_s:
                time.sleep(AGENT_END_POLL_S)
        self._line.close()
        if self._watcher is not None:
            self._watcher.join(timeout=5.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # Helpers

    def _picture(
        self, studio: Studio, condition: Condition, seed: int, steps: int | None, guidance: float | None
    ) -> Picture:
        start_s = time.perf_counter()
        pixels, whole, version = studio.generate(condition, seed, steps, guidance)
        latency_ms = (time.perf_counter() - start_s) * 1000
        number = next(self._numbers)
        return Picture(f"{self._welcome.device[:8]}-{number}", pixels, whole, seed, version, latency_ms)

    def _slot(self) -> Announcer | None:
        """A place in the frame gate; an app without one makes its frames all the same, and nothing yields to them."""
        try:
            return FrameGate(path_of(self.root)).app(self.config.generate.threads)
        except OSError:
            return None

    def _job(self, request: msg.Request, wait: bool, progress: Callable[[msg.JobState], None] | None) -> msg.JobResult:
        """Starts a job and follows it to its end, also across a restart of the agent."""
        reply = self._ask(request)
        assert isinstance(reply, msg.Done)
        if not reply.job:
            return msg.JobResult("", "deferred", reply.note)
        if not wait:
            return msg.JobResult(reply.job, "started", "")
        while True:
            status = self.status()
            if status.job is not None and status.job.job == reply.job:
                if progress is not None:
                    progress(status.job)
            else:
                for result in status.results:
                    if result.job == reply.job:
                        self.refresh()
                        return result
                if status.job is None:
                    return msg.JobResult(reply.job, "failed", "the job ended without a result; see the device's log")
            time.sleep(JOB_POLL_S)

    def _ask(self, request: msg.Request) -> msg.Reply:
        """One request; an agent that has gone is started again, a refusal is raised as what it was."""
        for attempt in range(ATTEMPTS_MAX):
            try:
                with self._lock:
                    reply = self._line.ask(request, self.config.agent.reply_timeout_s)
                break
            except Unreachable:
                if attempt + 1 == ATTEMPTS_MAX or self._closed.is_set() or not _harmless_twice(request):
                    raise
                with self._lock:
                    self._line.close()
                    self._line = self._connect()
        if isinstance(reply, msg.Fault):
            raise _error(reply)
        return reply

    def _hello(self) -> msg.Welcome:
        reply = self._ask(msg.Hello(msg.PROTOCOL))
        assert isinstance(reply, msg.Welcome)
        return reply

    def _open_studio(self) -> Studio:
        with self._opening:
            if self._studio is None:
                studio = self._make_studio()
                self._refresh(studio)
                self._frames = self._slot()
                self._studio = studio
                self._watcher = threading.Thread(target=self._watch, name="evergrove-watch", daemon=True)
                self._watcher.start()
            return self._studio

    def _watch(self) -> None:
        """Looks for new versions off the path of ``generate``, and keeps the agent from falling asleep."""
        spoken_s = clock.elapsed_s()
        while not self._closed.wait(self.config.generate.poll_s):
            assert self._studio is not None
            # What cannot go live now (a call that holds the former version, say) is tried again at the next look.
            with contextlib.suppress(EvergroveError):
                self._refresh(self._studio)
            if clock.elapsed_s() - spoken_s > self.config.agent.linger_s / 3:
                spoken_s = clock.elapsed_s()
                try:
                    self._hello()
                except EvergroveError:
                    continue  # generation goes on without an agent; the next request starts one or says why not

    def _refresh(self, studio: Studio) -> None:
        self._problem = studio.refresh() or self._problem
        if self._problem is not None:
            adapter, _, reason = self._problem.partition(": ")
            try:
                self._line.ask(msg.ReportFailure(adapter or None, reason), self.config.agent.reply_timeout_s)
            except Unreachable:
                return  # the studio serves the last good version meanwhile, and says what is wrong only once
            self._problem = None


def _check(seed: int | None, steps: int | None, guidance: float | None) -> None:
    if seed is not None and not 0 <= seed <= SEED_MAX:
        raise UsageError(f"seed = {seed}; it must be between 0 and {SEED_MAX}")
    if steps is not None and not 1 <= steps <= 32:
        raise UsageError(f"steps = {steps}; a sampler takes 1 to 32 steps")
    if guidance is not None and not 0 <= guidance <= 20:
        raise UsageError(f"guidance = {guidance}; it must be between 0 and 20 (1 is none)")


def _harmless_twice(request: msg.Request) -> bool:
    """Whether a request may be sent again when its reply was lost.

    An observation seen twice is a duplicate and is dropped; a second wish to learn is deferred to the first.
    """
    return not isinstance(request, msg.RollBack | msg.Stop)


def _error(fault: msg.Fault) -> EvergroveError:
    """A refusal as the exception that it was at the agent."""
    kind = getattr(errors, fault.error, EvergroveError)
    if kind is errors.InvalidMedia:
        return errors.InvalidMedia(fault.reason, fault.message)
    if isinstance(kind, type) and issubclass(kind, EvergroveError):
        return kind(fault.message)
    return EvergroveError(fault.message)
