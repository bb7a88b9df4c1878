"""A lane: one thread, and a bounded number of requests that may be in it or wait for it.

Pictures have one lane and talk with the agent has another, so that neither waits for the other, and a third kind of
request (health) waits for none. A request is admitted *before* its body is read: memory is bounded by places.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from evergrove.web.answers import Refused

T = TypeVar("T")
RETRY_S_MAX = 60
MEMORY = 0.2
"""Weight of the newest request in the mean time that one takes."""


class Lane:
    """Runs blocking work in threads of its own (one), first come first served. Used from one event loop."""

    def __init__(self, name: str, places: int, wait_s_max: float, threads: int = 1) -> None:
        """``places``: how many requests may be here at once; ``wait_s_max``: how long one waits for its turn."""
        self.name, self.places, self._wait_s_max = name, places, wait_s_max
        self.taken = 0
        self.mean_s = 0.1
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"evergrove-{name}")

    @property
    def retry_s(self) -> int:
        """When a place should be free again, in whole seconds: 1-60."""
        return max(1, min(RETRY_S_MAX, math.ceil(self.taken * self.mean_s)))

    @contextlib.contextmanager
    def admit(self) -> Iterator[None]:
        """Holds a place. Raises ``Refused`` 429, which says when to come again, where none is free."""
        if self.taken >= self.places:
            raise Refused(
                429,
                "rate_limit_exceeded",
                f"{self.taken} requests are with the {self.name} already; come again in {self.retry_s} s",
                retry_s=self.retry_s,
                close=True,
            )
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1

    async def run(self, work: Callable[[], T]) -> T:
        """``work()`` in the lane's thread; the caller holds a place.

        Raises what ``work`` raises, and ``Refused`` 503 if its turn did not come in time: then nothing was done.
        """
        job = self._pool.submit(self._timed, work)
        future = asyncio.wrap_future(job)
        try:
            done, _ = await asyncio.wait({future}, timeout=self._wait_s_max)
            if not done and job.cancel():
                raise self._late()
            return await asyncio.shield(future)  # work that has begun is short, and is not thrown away
        except asyncio.CancelledError:
            job.cancel()
            job.add_done_callback(_seen)
            raise

    def post(self, work: Callable[[], object]) -> None:
        """``work()`` in the lane's thread, when it is free; nobody waits for it."""
        with contextlib.suppress(RuntimeError):  # the lane has been closed
            self._pool.submit(work)

    def close(self) -> None:
        """Ends the thread once what it does now is done; what waits is dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _timed(self, work: Callable[[], T]) -> T:
        start_s = time.perf_counter()
        try:
            return work()
        finally:
            self.mean_s += MEMORY * (time.perf_counter() - start_s - self.mean_s)

    def _late(self) -> Refused:
        message = f"the {self.name} was busy for {self._wait_s_max:g} s; nothing was done, try again"
        return Refused(503, "timeout", message, retry_s=self.retry_s)


def _seen(job: "Future[T]") -> None:
    """Nobody waits for this one's error any more."""
    if not job.cancelled():
        job.exception()
