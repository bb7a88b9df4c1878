"""An agent as a process: it answers the apps of its device over the local socket until nobody needs it any more.

Started by the first app that opens a device (or by a service manager); ends by itself once its work is done and no app
has spoken for a while.
"""

import asyncio
import contextlib
import signal
from collections.abc import Callable

from evergrove.adapters import clock, wire
from evergrove.adapters.ownership import Ownership
from evergrove.core import messages as msg
from evergrove.core.config import Config
from evergrove.core.errors import EvergroveError, InvalidMedia
from evergrove.runtime.agent import Agent


def refusal(fault: EvergroveError) -> msg.Fault:
    """An error as an app is told it."""
    reason = fault.reason if isinstance(fault, InvalidMedia) else ""
    return msg.Fault(type(fault).__name__, str(fault), reason)


async def serve(agent: Agent, owner: Ownership, config: Config, ready: Callable[[], None]) -> None:
    """Answers apps until told to stop, or until nobody has spoken and nothing has worked for ``linger_s``.

    ``ready`` is called once, when the first app may speak.
    """
    end = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end.set)
    heard_s = clock.elapsed_s()
    turn = asyncio.Lock()

    async def handle(request: msg.Request) -> msg.Reply:
        nonlocal heard_s
        heard_s = clock.elapsed_s()
        async with turn:
            reply = await agent.answer(request)
        if isinstance(request, msg.Stop):
            end.set()
        heard_s = clock.elapsed_s()
        return reply

    server = await wire.serve(owner.socket_path, msg.Request, handle, refusal)
    agent.start()
    ready()
    try:
        while not end.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(end.wait(), config.agent.tick_s)
            agent.tick()
            if not agent.busy and clock.elapsed_s() - heard_s > config.agent.linger_s:
                break
    finally:
        server.close()
        await agent.stop()
