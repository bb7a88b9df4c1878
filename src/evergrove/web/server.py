"""Runs the API: a socket of this machine, uvicorn, signals, the service manager, and an eye on the agent.

It answers only once it can draw (who connects before waits); on SIGTERM or SIGINT it takes no more requests and
finishes those under way, in bounded time. The agent is kept alive meanwhile and started again when it dies.
"""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from evergrove.core.config import Web
from evergrove.core.errors import EvergroveError, UsageError
from evergrove.web.device import Api

KEEP_ALIVE_S = 15
"""How long a connection may be silent, and how long the head of a request may take."""
HEAD_BYTES_MAX = 16_384
WATCH_S = 2.0
log = logging.getLogger("evergrove.web")


# ---- sockets ----------------------------------------------------------------------------------------------------


def listen_tcp(host: str, port: int) -> socket.socket:
    """A bound TCP socket on this machine only; ``port`` 0 takes a free one.

    Raises ``UsageError`` for an address that others can reach, ``EvergroveError`` where the port is taken.
    """
    addresses = {"localhost": "127.0.0.1", "127.0.0.1": "127.0.0.1", "::1": "::1"}
    if host not in addresses:
        raise UsageError(
            f"--host {host}: plain HTTP stays on this machine (127.0.0.1, ::1 or localhost); "
            "for others, put a reverse proxy with TLS before it, or use --unix"
        )
    family = socket.AF_INET6 if ":" in addresses[host] else socket.AF_INET
    # Named as TCP, since asyncio sends small answers at once (TCP_NODELAY) only on what says so: else each waits 40 ms.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((addresses[host], port))
        bound.listen()
    except OSError as fault:
        bound.close()
        if fault.errno == errno.EADDRINUSE:
            raise EvergroveError(
                f"{host}:{port} is in use by another program (perhaps this device is up already); "
                "choose another with --port, or 0 for any free one"
            ) from fault
        if fault.errno == errno.EACCES:
            raise EvergroveError(f"{host}:{port} needs privileges; choose a --port from 1024 on") from fault
        raise EvergroveError(
            f"{host}:{port}: {fault.strerror or fault}; choose another with --host and --port"
        ) from fault
    return bound


def listen_unix(path: Path) -> socket.socket:
    """A bound Unix socket that only its owner can open; one that a dead process left behind is replaced.

    Raises ``EvergroveError`` where something lives at that path.
    """
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_symlink() or (path.exists() and not stat.S_ISSOCK(path.lstat().st_mode)):
            raise EvergroveError(f"--unix {path}: there is something else; name a path that is free")
        if path.exists():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                if probe.connect_ex(str(path)) != errno.ECONNREFUSED:
                    raise EvergroveError(f"--unix {path} is in use by another program; name another path")
            path.unlink()
        before = os.umask(0o177)
        try:
            bound.bind(str(path))
        finally:
            os.umask(before)
        bound.listen()
    except OSError as fault:
        bound.close()
        words = "the path is too long for a socket (about 100 bytes)" if "too long" in str(fault) else fault.strerror
        raise EvergroveError(f"--unix {path}: {words or fault}; name another path") from fault
    except EvergroveError:
        bound.close()
        raise
    return bound


# ---- the service ------------------------------------------------------------------------------------------------


class Patient(H11Protocol):
    """uvicorn's HTTP/1.1 with two limits that it lacks, on heads that do not end and on answers that nobody reads."""

    unread_s_max: float = 30.0
    _clock: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the clock."""
        super().connection_made(transport)
        self._clock = self.loop.call_later(self.timeout_keep_alive, self._cut)

    def data_received(self, data: bytes) -> None:
        """Stops the clock when a head is whole (a body has one of its own); the next head's first byte starts it."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_clock()
        elif self._clock is None:
            self._clock = self.loop.call_later(self.timeout_keep_alive, self._cut)

    def pause_writing(self) -> None:
        """The client reads more slowly than we write: it has ``unread_s_max`` to catch up."""
        super().pause_writing()
        self._unread = self.loop.call_later(self.unread_s_max, self.transport.abort)

    def resume_writing(self) -> None:
        """It has caught up."""
        super().resume_writing()
        self._stop_unread()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the clocks."""
        self._stop_clock()
        self._stop_unread()
        super().connection_lost(exc)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _stop_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _cut(self) -> None:
        self.transport.close()


class Service(uvicorn.Server):
    """uvicorn without signals of its own: ``run`` below handles them, and ends with 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals alone."""
        yield


def configured(app: ASGIApp, drain_s: float, http: type[Patient] = Patient, **more: Any) -> uvicorn.Config:
    """What all our services have in common: no logs, headers or proxies of uvicorn's own, and bounds on patience.

    ``drain_s`` is what requests under way may still take at the end; ``more`` are uvicorn's further settings.
    """
    return uvicorn.Config(
        app,
        http=http,
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=round(drain_s),
        h11_max_incomplete_event_size=HEAD_BYTES_MAX,
        **more,
    )


ENDINGS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def hearing_endings() -> Iterator[list[signal.Signals]]:
    """Within the block, being told to end is noted down in the list, for ``run`` to follow; for the main thread.

    An agent starts and torch is loaded before ``run`` listens: who ended in the middle of that left the agent behind.
    Told a second time, the process does what it would have done without this.
    """
    heard: list[signal.Signals] = []
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in ENDINGS}

    def note(number: int, _: object) -> None:
        heard.append(signal.Signals(number))
        signal.signal(number, before[signal.Signals(number)])

    for number in ENDINGS:
        signal.signal(number, note)
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def run(
    api: Api, app: ASGIApp, bound: socket.socket, limits: Web, ready: Callable[[], None], heard: list[signal.Signals]
) -> None:
    """Serves ``app`` on a bound socket until SIGTERM or SIGINT; ``ready`` is called once it answers.

    One that was ``heard`` before counts. A second SIGINT does not wait for requests under way. Raises what keeps the
    device from drawing.
    """
    config = configured(app, limits.drain_s_max, limit_concurrency=limits.connections_max)
    server, loop = Service(config), asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        server.force_exit = server.should_exit and number == signal.SIGINT
        if not server.should_exit:
            log.info("%s: finishing what is under way", number.name)
            tell_manager("STOPPING=1")
        api.closing = server.should_exit = True

    for number in ENDINGS:
        loop.add_signal_handler(number, stop, number)
    watch = None
    try:
        if heard:
            stop(heard[0])
        else:
            await api.warm_up()
        if server.should_exit:
            return
        watch = loop.create_task(_watch(api, server, ready))
        await server.serve(sockets=[bound])
    finally:
        if watch is not None:
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch
        for number in ENDINGS:
            loop.remove_signal_handler(number)
        bound.close()
        api.close()


async def _watch(api: Api, server: Service, ready: Callable[[], None]) -> None:
    """Says when the service is ready, and looks after the agent: asking for its process starts it where it has gone."""
    while not server.started:
        await asyncio.sleep(0.01)
    ready()
    tell_manager("READY=1")
    pid: int | None = None
    while True:
        try:
            found = await api.agent_pid()
        except EvergroveError as fault:
            if pid != 0:
                log.warning("the agent does not answer; pictures go on without it: %s", fault)
            found = 0
        if pid is not None and found not in (pid, 0):
            log.warning("the agent was started again, as process %d", found)
        pid = found
        tell_manager("WATCHDOG=1")
        await asyncio.sleep(WATCH_S)


def tell_manager(state: str) -> None:
    """One state to the service manager that started this process (sd_notify); nothing where there is none."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line:
        line.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)
