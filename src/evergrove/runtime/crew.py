"""What an agent has under way beside its loop: one task for each job, and those that are just ending."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

from evergrove.core.errors import EvergroveError


class Crew:
    """The tasks of jobs. ``failed`` hears why one could not log its outcome; any other fault goes to the loop."""

    def __init__(self, failed: Callable[[Exception], None]) -> None:
        self._failed = failed
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def busy(self) -> bool:
        """Whether anything is under way; what was told to end does not count."""
        return bool(self._tasks)

    def begin(self, job: str, work: Coroutine[Any, Any, None]) -> None:
        """Starts a job's task, in the running loop."""
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(self._done)
        self._tasks[job] = task

    def leave(self, job: str) -> None:
        """The job's task has nothing to do any more but to log its outcome."""
        self._tasks.pop(job, None)

    def end(self, job: str) -> None:
        """Cancels the task of a job, if one is under way; not the one that asks for it."""
        task = self._tasks.pop(job, None)
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def gone(self) -> None:
        """Waits until all that were told to end have ended: until then one could still write."""
        while self._ending:
            await asyncio.wait(self._ending)

    async def stop(self) -> None:
        """Cancels all that are under way and sees them out."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks = {job: other for job, other in self._tasks.items() if other is not task}
        fault = None if task.cancelled() else task.exception()
        if isinstance(fault, EvergroveError | OSError):
            self._failed(fault)
        elif fault is not None:
            raise fault
