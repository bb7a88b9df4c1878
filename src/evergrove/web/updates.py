"""One update on its way in: length, head and body as they arrive, the body straight onto the disk and checked there.

Where the head alone says no, the body is read past and dropped: a client that is still sending would not hear why.
"""

import asyncio
from collections.abc import AsyncIterator
from functools import partial

from starlette.requests import ClientDisconnect, Request

from evergrove.core import fog, transport
from evergrove.core.errors import InvalidInput, UpdateRefused
from evergrove.core.transport import HEAD_BYTES_MAX, LENGTH_BYTES, Update
from evergrove.runtime.fog_service import FogService, faulty
from evergrove.web.answers import Refused
from evergrove.web.lanes import Lane

DRAIN_BYTES_MAX = 4 << 20
"""How much of a body that is not wanted is read past before its connection is closed."""
Item = tuple[fog.UpdateOffered | fog.UpdateMeasured, str]
"""What the reducer is to decide about, and the body's file ("" for none)."""
UNJUDGED: dict[tuple[int, str], fog.Reason] = {
    (400, "malformed"): "malformed", (400, "cut_off"): "cut off", (408, "timeout"): "timed out",
}  # fmt: skip
"""What never became an update, by status and code of its answer: of a fog that was too busy (503) there is no fact."""


async def receive(
    request: Request, device: str, service: FogService, store: Lane, measuring: Lane, read_s_max: float
) -> Item:
    """What was found of the update in a request's body. Raises ``Refused`` and ``InvalidInput`` for what is none."""
    try:
        async with asyncio.timeout(read_s_max):
            return await _receive(request.stream(), device, service, store, measuring)
    except TimeoutError as fault:
        raise Refused(408, "timeout", f"the update was not complete after {read_s_max:g} s", close=True) from fault
    except (ClientDisconnect, StopAsyncIteration) as fault:
        raise Refused(400, "cut_off", "the update was cut off", close=True) from fault


def unjudged(device: str, fault: Refused | InvalidInput) -> fog.UpdateRefused | None:
    """The fact that a device sent what never became an update; None where it was only sent away, to come again.

    The reducer has no part in it: there is no head to decide about.
    """
    reason = UNJUDGED.get((fault.status, fault.code)) if isinstance(fault, Refused) else "malformed"
    return None if reason is None else fog.UpdateRefused(device, reason, str(fault))


async def _receive(parts: AsyncIterator[bytes], device: str, service: FogService, store: Lane, measuring: Lane) -> Item:
    head, rest = await _head(parts)
    if not await store.run(partial(service.offer, device, head)):
        await _drain(parts)
        return fog.UpdateOffered(device, head), ""
    upload = service.store.bodies.begin(head.digest, head.n_bytes)
    try:
        upload.write(rest)
        async for part in parts:
            upload.write(part)
        return await measuring.run(partial(service.measure, device, head, upload))
    except UpdateRefused as fault:
        upload.drop()
        await _drain(parts)
        return faulty(device, head, fault), ""
    except BaseException:
        upload.drop()
        raise


async def _head(parts: AsyncIterator[bytes]) -> tuple[Update, bytes]:
    """The head, and what came of the body with it."""
    buffer = b""
    while len(buffer) < LENGTH_BYTES:
        buffer += await anext(parts)
    n_head = int.from_bytes(buffer[:LENGTH_BYTES], "little")
    if not 0 < n_head <= HEAD_BYTES_MAX:
        raise Refused(400, "malformed", "this is no update: length, head, body", close=True)
    while len(buffer) < LENGTH_BYTES + n_head:
        buffer += await anext(parts)
    head = transport.decode(buffer[LENGTH_BYTES : LENGTH_BYTES + n_head], HEAD_BYTES_MAX)
    if not isinstance(head, Update):
        raise InvalidInput(f"a {head.category} was sent to where updates are taken")
    return head, buffer[LENGTH_BYTES + n_head :]


async def _drain(parts: AsyncIterator[bytes]) -> None:
    n_left = DRAIN_BYTES_MAX
    async for part in parts:
        n_left -= len(part)
        if n_left < 0:
            return
