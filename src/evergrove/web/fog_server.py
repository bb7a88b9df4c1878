"""Runs a fog's service: a TLS socket, uvicorn, signals, and a look at the clock every second.

The certificate that a client showed reaches the application in the ASGI scope, as the extension ``evergrove.peer``.
"""

import asyncio
import contextlib
import errno
import logging
import signal
import socket
import ssl
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from evergrove.core.errors import EvergroveError
from evergrove.web.fog import PEER, FogApi
from evergrove.web.fog_door import DoorApi, create_door
from evergrove.web.server import Patient, Service, configured, tell_manager

BACKLOG = 2048
TLS_BUFFER_BYTES = 1 << 16
"""Of each connection. asyncio's own is 256 KiB: 1000 waiting devices would hold a quarter of a gigabyte."""
LINGER_S, END_S = 5.0, 0.5
"""How long a connection that was closed may wait for the client's close_notify: in service, and when the service ends.
asyncio would wait for half a minute, and a client that is not reading never sends it."""
log = logging.getLogger("evergrove.fog")


class WithPeer:
    """The application as one connection sees it."""

    def __init__(self, app: ASGIApp, certificate: bytes | None) -> None:
        self._app, self._certificate = app, certificate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hands on a request with its sender's certificate."""
        scope["extensions"] = {**scope.get("extensions", {}), PEER: self._certificate}
        await self._app(scope, receive, send)


class Named(Patient):
    """``Patient`` HTTP/1.1 that knows who is at the other end, once the TLS handshake is over."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Notes the certificate; TLS has verified it."""
        super().connection_made(transport)
        line = transport.get_extra_info("ssl_object")
        self.app = WithPeer(self.app, None if line is None else line.getpeercert(binary_form=True))

    def on_response_complete(self) -> None:
        """An answer is out; a connection that ends with it does not wait long for the client's good-bye."""
        super().on_response_complete()
        self._mind_end(LINGER_S)

    def shutdown(self) -> None:
        """The service ends: idle connections too, whether the client notices or not."""
        super().shutdown()
        self._mind_end(END_S)

    def _cut(self) -> None:
        super()._cut()
        self._mind_end(LINGER_S)

    def _mind_end(self, within_s: float) -> None:
        if self.transport.is_closing():
            self.loop.call_later(within_s, self._end)

    def _end(self) -> None:
        if self.transport.get_write_buffer_size():  # ``Patient`` minds clients that do not read
            self.loop.call_later(LINGER_S, self._end)
        else:
            self.transport.abort()


def listen(host: str, port: int) -> socket.socket:
    """A bound TCP socket; ``port`` 0 takes a free one. Raises ``EvergroveError`` where it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(BACKLOG)
    except OSError as fault:
        bound.close()
        words = "is in use by another program" if fault.errno == errno.EADDRINUSE else f"{fault.strerror or fault}"
        raise EvergroveError(f"{host}:{port}: {words}; choose another with --host and --port") from fault
    return bound


@dataclass(frozen=True)
class Door:
    """The door on the loopback address: what stands behind it, the token that opens it, and its bound socket."""

    api: DoorApi
    token: str
    bound: socket.socket


class FogServer:
    """The service on one event loop: ``serve`` until ``stop`` is called, which also calls ``stopping``, at once."""

    def __init__(
        self,
        api: FogApi,
        app: ASGIApp,
        tls: Callable[[], ssl.SSLContext],
        door: Door | None = None,
        stopping: Callable[[], None] = lambda: None,
    ) -> None:
        self._api, self._door, self._stopping = api, door, stopping
        behind = None if door is None else configured(create_door(door.api, door.token), api.limits.drain_s_max)
        self._behind = None if behind is None else Service(behind)
        self._server = Service(
            configured(
                app, api.limits.drain_s_max, Named, limit_concurrency=api.limits.connections_max, backlog=BACKLOG,
                ssl_context_factory=lambda _config, _default: tls(),
            )
        )  # fmt: skip

    def stop(self, at_once: bool = False) -> None:
        """No more requests; those under way are finished in bounded time, or not waited for at a second word."""
        self._server.force_exit = self._server.should_exit and at_once
        self._api.closing = self._server.should_exit = True
        if self._behind is not None:
            self._behind.force_exit, self._behind.should_exit = self._server.force_exit, True
        self._api.news.wake()
        self._stopping()

    async def serve(self, bound: socket.socket, ready: Callable[[], None]) -> None:
        """Serves on a bound socket; ``ready`` is called once it answers."""
        SSLProtocol.max_size = TLS_BUFFER_BYTES
        clock = asyncio.create_task(self._tick(ready))
        door = asyncio.create_task(self._serve_door())
        try:
            await self._server.serve(sockets=[bound])
        finally:
            if self._behind is not None:
                self._behind.should_exit = True
            await door
            clock.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await clock
            bound.close()
            self._api.close()

    async def _serve_door(self) -> None:
        if self._door is None or self._behind is None:
            return
        try:
            await self._behind.serve(sockets=[self._door.bound])
        finally:
            self._door.bound.close()
            self._door.api.close()

    async def _tick(self, ready: Callable[[], None]) -> None:
        """Says when the service is ready, then looks at the clock for ever; a fault is said once and tried again."""
        while not self._server.started or not (self._behind is None or self._behind.started):
            await asyncio.sleep(0.01)
        ready()
        tell_manager("READY=1")
        fault_before = ""
        while True:
            try:
                await self._api.look()
                fault_before = ""
            except Exception as fault:  # the clock must go on, whatever one look failed at
                if str(fault) != fault_before:
                    fault_before = str(fault)
                    log.warning("%s", fault, exc_info=not isinstance(fault, EvergroveError))
            tell_manager("WATCHDOG=1")
            await asyncio.sleep(self._api.limits.look_s)


async def run(server: FogServer, bound: socket.socket, ready: Callable[[], None]) -> None:
    """Serves until SIGTERM or SIGINT; a second SIGINT does not wait for requests under way."""
    loop = asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        log.info("%s: finishing what is under way", number.name)
        tell_manager("STOPPING=1")
        server.stop(at_once=number == signal.SIGINT)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    try:
        await server.serve(bound, ready)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
