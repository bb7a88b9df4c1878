"""How apps and the agent of a device talk: frames on a Unix socket, each a length (4 bytes, big-endian) and msgpack.

The kinds of message are arguments (tagged ``msgspec`` structs); unknown kinds and fields are refused with the path to
the fault. One request, one reply, in order. Every frame, wait and number of connections has a limit.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from evergrove.adapters.ownership import check_peer
from evergrove.core.errors import EvergroveError, InvalidInput, Unreachable

Req = TypeVar("Req", bound=msgspec.Struct)
Rep = TypeVar("Rep", bound=msgspec.Struct)
HEAD = struct.Struct(">I")


class WireLimits(msgspec.Struct, frozen=True):
    """``n_bytes`` of one frame, ``timeout_s`` for a frame that has begun and for a reply, connections at once."""

    n_bytes: int = 32 << 20
    timeout_s: float = 30.0
    n_connections: int = 64


def encode_frame(message: msgspec.Struct, limits: WireLimits) -> bytes:
    """One frame. Raises ``InvalidInput`` for a message over the limit."""
    body = msgspec.msgpack.encode(message)
    if len(body) > limits.n_bytes:
        raise InvalidInput(f"a message of {len(body)} bytes; at most {limits.n_bytes} can be sent")
    return HEAD.pack(len(body)) + body


def decode_body(body: bytes, kinds: Any) -> Any:
    """The message in a frame's body, one of ``kinds``. Raises ``InvalidInput`` with the path to the fault."""
    try:
        return msgspec.msgpack.decode(body, type=kinds)
    except msgspec.MsgspecError as fault:
        raise InvalidInput(f"message not understood: {fault}; do both sides run the same version?") from fault


# ---- the agent's side -------------------------------------------------------------------------------------------


async def serve(
    path: Path,
    kinds: Any,
    handler: Callable[[Any], Awaitable[msgspec.Struct]],
    refuse: Callable[[EvergroveError], msgspec.Struct],
    limits: WireLimits | None = None,
) -> asyncio.Server:
    """Listens at ``path``. Each message of ``kinds`` is answered by ``handler``; its ``EvergroveError`` by ``refuse``.

    A malformed frame is answered by ``refuse`` too and ends its connection, because what follows cannot be trusted.
    """
    bounds = limits or WireLimits()
    open_now: set[asyncio.StreamWriter] = set()

    async def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_now.add(writer)
        try:
            if len(open_now) > bounds.n_connections:
                raise Unreachable(f"the agent has {bounds.n_connections} connections already; close one")
            check_peer(writer.get_extra_info("socket"))
            while (body := await _read_body(reader, bounds)) is not None:
                await _answer(writer, decode_body(body, kinds), handler, refuse, bounds)
        except EvergroveError as fault:
            with contextlib.suppress(OSError):
                await _send(writer, refuse(fault), bounds)
        except (OSError, asyncio.CancelledError):
            pass  # the app went away, or the agent ends: nothing is owed any more
        finally:
            open_now.discard(writer)
            writer.close()

    server = await asyncio.start_unix_server(attend, path)
    path.chmod(0o600)
    return server


async def _answer(
    writer: asyncio.StreamWriter,
    message: Any,
    handler: Callable[[Any], Awaitable[msgspec.Struct]],
    refuse: Callable[[EvergroveError], msgspec.Struct],
    limits: WireLimits,
) -> None:
    try:
        reply = await handler(message)
    except EvergroveError as fault:
        reply = refuse(fault)
    await _send(writer, reply, limits)


async def _send(writer: asyncio.StreamWriter, reply: msgspec.Struct, limits: WireLimits) -> None:
    writer.write(encode_frame(reply, limits))
    try:
        await asyncio.wait_for(writer.drain(), limits.timeout_s)
    except TimeoutError as fault:
        raise ConnectionAbortedError("the app does not read its replies") from fault


async def _read_body(reader: asyncio.StreamReader, limits: WireLimits) -> bytes | None:
    """The body of the next frame; None when the other side closed between two frames. An idle connection may wait."""
    try:
        first = await reader.readexactly(1)
    except asyncio.IncompleteReadError:
        return None
    try:
        async with asyncio.timeout(limits.timeout_s):
            (size,) = HEAD.unpack(first + await reader.readexactly(HEAD.size - 1))
            if size > limits.n_bytes:
                raise InvalidInput(f"a frame of {size} bytes; at most {limits.n_bytes} are taken")
            return await reader.readexactly(size)
    except asyncio.IncompleteReadError as fault:
        raise InvalidInput("the frame was cut off") from fault
    except TimeoutError as fault:
        raise InvalidInput(f"the frame was not complete after {limits.timeout_s:g} s") from fault


# ---- an app's side ----------------------------------------------------------------------------------------------


class Client(Generic[Req, Rep]):
    """A connection to an agent; made at the first ``ask``, and again after a failure. Thread-safe: one at a time."""

    def __init__(self, path: Path, kinds: Any, limits: WireLimits | None = None) -> None:
        self._path, self._kinds, self._limits = path, kinds, limits or WireLimits()
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    def ask(self, request: Req, timeout_s: float | None = None) -> Rep:
        """Sends a request and waits for its reply.

        Raises ``Unreachable`` when nobody answers in time or the connection breaks (the request may have been carried
        out all the same), ``InvalidInput`` for a message that is too large or not understood.
        """
        frame = encode_frame(request, self._limits)
        with self._lock:
            try:
                link = self._socket or self._connect()
                link.settimeout(self._limits.timeout_s if timeout_s is None else timeout_s)
                with contextlib.suppress(BrokenPipeError):  # whom the agent turned away at once reads why
                    link.sendall(frame)
                (size,) = HEAD.unpack(_receive(link, HEAD.size))
                if size > self._limits.n_bytes:
                    raise InvalidInput(f"a reply of {size} bytes; at most {self._limits.n_bytes} are taken")
                reply: Rep = decode_body(_receive(link, size), self._kinds)
                return reply
            except TimeoutError as fault:
                self._drop()
                raise Unreachable(f"the agent at {self._path} did not answer in time; is the device busy?") from fault
            except OSError as fault:
                self._drop()
                raise Unreachable(f"no agent answers at {self._path} ({fault.strerror or fault})") from fault
            except EvergroveError:
                self._drop()
                raise

    def close(self) -> None:
        """Ends the connection; the next ``ask`` makes a new one."""
        with self._lock:
            self._drop()

    def _connect(self) -> socket.socket:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            link.settimeout(self._limits.timeout_s)
            link.connect(str(self._path))
            check_peer(link)
        except BaseException:
            link.close()
            raise
        self._socket = link
        return link

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _receive(link: socket.socket, n_bytes: int) -> bytes:
    chunks, left = [], n_bytes
    while left:
        chunk = link.recv(min(left, 1 << 20))
        if not chunk:
            raise ConnectionResetError("the agent closed the connection")
        chunks.append(chunk)
        left -= len(chunk)
    return b"".join(chunks)
