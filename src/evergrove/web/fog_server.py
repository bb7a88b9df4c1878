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
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from evergrove.core.errors import EvergroveError
from evergrove.web.fog import PEER, FogApi
from evergrove.web.server import HEAD_BYTES_MAX, KEEP_ALIVE_S, Patient, Service, tell_manager

BACKLOG = 2048
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


async def run(
    api: FogApi, app: ASGIApp, bound: socket.socket, tls: Callable[[], ssl.SSLContext], ready: Callable[[], None]
) -> None:
    """Serves on a bound socket until SIGTERM or SIGINT; ``ready`` is called once it answers."""
    config = uvicorn.Config(
        app,
        http=Named,
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=round(api.limits.drain_s_max),
        limit_concurrency=api.limits.connections_max,
        h11_max_incomplete_event_size=HEAD_BYTES_MAX,
        backlog=BACKLOG,
        ssl_context_factory=lambda _config, _default: tls(),
    )
    server, loop = Service(config), asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        server.force_exit = server.should_exit and number == signal.SIGINT
        if not server.should_exit:
            log.info("%s: finishing what is under way", number.name)
            tell_manager("STOPPING=1")
        api.closing = server.should_exit = True
        api.news.wake()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    clock = loop.create_task(_tick(api, server, ready))
    try:
        await server.serve(sockets=[bound])
    finally:
        clock.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await clock
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        bound.close()
        api.close()


async def _tick(api: FogApi, server: Service, ready: Callable[[], None]) -> None:
    """Says when the service is ready, then looks at the clock for ever; a fault is said once and tried again."""
    while not server.started:
        await asyncio.sleep(0.01)
    ready()
    tell_manager("READY=1")
    fault_before = ""
    while True:
        try:
            await api.look()
            fault_before = ""
        except EvergroveError as fault:
            if str(fault) != fault_before:
                fault_before = str(fault)
                log.warning("%s", fault)
        tell_manager("WATCHDOG=1")
        await asyncio.sleep(api.limits.look_s)
