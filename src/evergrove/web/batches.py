"""Work that costs the same for one as for many: whatever comes while a batch is under way goes into the next one."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")
BATCH_MAX = 64


class Batches(Generic[T, R]):
    """Used from one event loop. ``many`` gives one result for each item, in order; what it raises, each caller gets."""

    def __init__(self, many: Callable[[list[T]], Awaitable[list[R]]]) -> None:
        self._many = many
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._running: asyncio.Task[None] | None = None

    async def put(self, item: T) -> R:
        """The result for one item. Cancelled, it is carried out all the same."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:BATCH_MAX], self._waiting[BATCH_MAX:]
                try:
                    results = await self._many([item for item, _ in batch])
                except Exception as fault:  # noqa: BLE001  every caller gets it, and answers for it
                    for _, future in batch:
                        if not future.done():
                            future.set_exception(fault)
                    continue
                for (_, future), result in zip(batch, results, strict=True):
                    if not future.done():
                        future.set_result(result)
        finally:
            self._running = None
