"""Who may speak to the API at all: programs of this machine that know the token; never a web page.

A page in a browser can reach 127.0.0.1 in three ways, and each is closed: by a name of its own that it points here
(DNS rebinding: ``Host`` must name this machine), by a form or an image (``Origin``, ``Sec-Fetch-Site``), by a script
(the same, and there is no CORS). An ASGI layer around the application, which also counts and notes every answer.
"""

import logging
import time
from collections.abc import Mapping
from typing import Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evergrove.web import bearer
from evergrove.web.answers import Refused, refusal

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
OPEN_PATHS = frozenset({"/healthz"})
"""These need no token: they tell nothing but whether the service lives."""
ALWAYS = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))
log = logging.getLogger("evergrove.web")


class Counts(Protocol):
    """What counts the answers: ``metrics.Meter`` or ``fog_metrics.FogMeter``."""

    def request(self, method: str, path: str, status: int) -> None:
        """One request was answered."""


class Guard:
    """``token`` None asks for none; ``hosts`` None takes any name (a Unix socket: no browser can reach it)."""

    def __init__(
        self, app: ASGIApp, token: str | None, hosts: frozenset[str] | None, paths: frozenset[str], meter: Counts
    ) -> None:
        self._app, self._token, self._hosts, self._paths, self._meter = app, token, hosts, paths, meter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuses or hands on one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start_s, status = time.perf_counter(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *ALWAYS]}
            await send(message)

        path = scope["path"] if scope["path"] in self._paths else "other"
        method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST") else "other"
        try:
            try:
                self._check(scope)
            except Refused as fault:
                await refusal(fault)(scope, receive, noted)
            else:
                await self._app(scope, receive, noted)
        finally:
            self._meter.request(method, path, status)
            took_ms = (time.perf_counter() - start_s) * 1000
            log.log(
                logging.INFO if status < 500 else logging.WARNING, "%s %s %d %.1f ms", method, path, status, took_ms
            )

    def _check(self, scope: Scope) -> None:
        headers: Mapping[bytes, bytes] = dict(scope["headers"])
        if self._hosts is not None and host_name(headers.get(b"host", b"")) not in self._hosts:
            raise Refused(
                403, "wrong_host", "the Host header does not name this machine; use 127.0.0.1 or localhost", close=True
            )
        if b"origin" in headers or headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
            raise Refused(403, "web_page", "this API is for programs on this machine, not for web pages", close=True)
        if self._token is None or scope["path"] in OPEN_PATHS:
            return
        if not bearer.matches(headers.get(b"authorization"), self._token):
            raise Refused(
                401,
                "invalid_api_key",
                "send the device's token as 'Authorization: Bearer …'; it is in the file that `evergrove up` names",
                close=True,
            )


def host_name(header: bytes) -> str:
    """The name in a ``Host`` header, without its port: ``[::1]:8471`` → ``::1``."""
    text = header.decode("latin-1").strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]
