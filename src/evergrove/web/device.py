"""The local HTTP API of a device: pictures as OpenAI's images endpoint gives them, observations, status, metrics.

In come requests of apps on this machine, out go JSON and PNG. Everything that may block runs in one of two lanes, one
for pictures and one for the agent, so that drawing never waits for training, for an observation or for a status.
"""

import contextlib
from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from evergrove.adapters import clock
from evergrove.core import messages as msg
from evergrove.core.config import Config
from evergrove.core.errors import Unreachable
from evergrove.runtime.picture import Picture
from evergrove.runtime.stream import Stream
from evergrove.web import requests as ask
from evergrove.web.answers import HANDLERS, Refused, json_response
from evergrove.web.guard import LOOPBACK, Guard
from evergrove.web.lanes import Lane
from evergrove.web.metrics import CONTENT_TYPE, Meter
from evergrove.web.pictures import Drawn, scaled_png
from evergrove.web.stream import FORMS, Reel, StreamResponse


class Served(Protocol):
    """What the API needs of a device; ``runtime.app.LocalDevice``, or a test's fake."""

    def generate(
        self, condition: Mapping[str, str], *, seed: int | None = None, steps: int | None = None,
        guidance: float | None = None,
    ) -> Picture:  # fmt: skip
        """One picture, here and now."""

    def observe(self, media: Any, condition: Mapping[str, str]) -> msg.Observed:
        """Shows one observation."""

    def status(self) -> msg.Status:
        """What the device is, holds and does."""

    def stream(
        self, condition: Mapping[str, str], fps: float, *, seed: int | None = None, steps: int | None = None,
        guidance: float | None = None,
    ) -> Stream:  # fmt: skip
        """Pictures on a schedule."""

    def warm_up(self) -> None:
        """Loads the generator."""

    @property
    def agent_pid(self) -> int:
        """The process that owns the device; asking starts it if it has gone."""


class Api:
    """The endpoints. Used from one event loop; ``closing`` is set when the service is about to end."""

    def __init__(self, device: Served, config: Config, meter: Meter) -> None:
        self.device, self.config, self.meter = device, config, meter
        limits = config.web
        self.pictures = Lane("generator", limits.pictures_waiting_max, limits.wait_s_max)
        self.agent = Lane("agent", limits.agent_waiting_max, limits.wait_s_max)
        self.frames = Lane("stream", limits.streams_max, limits.wait_s_max, limits.streams_max)
        self.closing = False
        self._last: msg.Status | None = None

    async def images(self, request: Request) -> Response:
        """``POST /v1/images/generations``."""
        _expect(request, "application/json")
        limits = self.config.web
        with self.pictures.admit():
            body = await ask.read_body(request, limits.request_bytes_max, limits.read_s_max)
            order = ask.order_of(ask.parse(body, ask.ImagesRequest))
            drawn = await self.pictures.run(partial(self._draw, order))
        return json_response({"created": int(clock.now_s()), "data": drawn})

    async def observations(self, request: Request) -> Response:
        """``POST /v1/observations``."""
        kind = _expect(request, "application/json", "multipart/form-data", "image/", "application/octet-stream")
        with self.agent.admit():
            limit = ask.body_limit(kind, self.config.media.n_bytes_max)
            body = await ask.read_body(request, limit, self.config.web.read_s_max)
            seen = await self.agent.run(partial(self._observe, request, kind, body))
        return json_response({key: value for key, value in msgspec.to_builtins(seen).items() if key != "kind"})

    async def stream(self, request: Request) -> Response:
        """``GET /v1/stream``: frames until the client goes, ``frames`` are made, or the service ends."""
        if request.method != "GET":
            raise Refused(405, "method_not_allowed", "a stream has no head without a body; send GET")
        asked = ask.fit(ask.query_of(request), ask.StreamQuery, strict=False)
        condition, side_px = ask.prompt_condition(asked.prompt), ask.side_of(asked.size)
        with contextlib.ExitStack() as held:
            held.enter_context(self.frames.admit())
            begin = partial(
                self.device.stream, condition, asked.fps, seed=asked.seed, steps=asked.steps, guidance=asked.guidance
            )
            reel = Reel(await self.frames.run(begin), side_px, self.meter)
            held.callback(self.frames.post, reel.close)
            first = await self.frames.run(reel.next)  # before the head goes out: what is wrong can still be said
            form = FORMS[asked.format]
            return StreamResponse(self, reel, first, form, asked.frames, held.pop_all())

    async def status(self, request: Request) -> Response:
        """``GET /v1/status``: the same document as ``evergrove status --json``."""
        return json_response(await self._status())

    async def metrics(self, request: Request) -> Response:
        """``GET /metrics``: also while the agent is away."""
        status: msg.Status | None
        try:
            status = await self._status()
        except Unreachable:
            status = None
        except Refused:  # the agent's lane is full: it lives, and has just told
            status = self._last
        places = {lane.name: (lane.taken, lane.places) for lane in (self.pictures, self.agent, self.frames)}
        return Response(self.meter.text(places, status), media_type=CONTENT_TYPE)

    async def health(self, request: Request) -> Response:
        """``GET /healthz``: waits for nothing, and needs no token."""
        return json_response({"status": "stopping" if self.closing else "ok"}, 503 if self.closing else 200)

    async def warm_up(self) -> None:
        """Loads the generator and draws once, so that the first request is as quick as the next."""
        with self.pictures.admit():
            await self.pictures.run(self.device.warm_up)
            await self.pictures.run(partial(self.device.generate, {}, seed=0))

    async def agent_pid(self) -> int:
        """The agent's process, started if it has gone. Raises ``Unreachable``."""
        with self.agent.admit():
            return await self.agent.run(lambda: self.device.agent_pid)

    def close(self) -> None:
        """Ends the lanes."""
        for lane in (self.pictures, self.agent, self.frames):
            lane.close()

    # In a lane's thread

    def _draw(self, order: ask.Order) -> list[Drawn]:
        drawn = []
        for i in range(order.n):
            seed = None if order.seed is None else order.seed + i
            picture = self.device.generate(order.condition, seed=seed, steps=order.steps, guidance=order.guidance)
            self.meter.picture(picture.latency_ms / 1000)
            drawn.append(Drawn.of(picture, scaled_png(picture, order.side_px)))
        return drawn

    def _observe(self, request: Request, kind: str, body: bytes) -> msg.Observed:
        media, condition = ask.observation_of(request, kind, body)
        return self.device.observe(media, condition)

    async def _status(self) -> msg.Status:
        with self.agent.admit():
            self._last = await self.agent.run(self.device.status)
        return self._last


def create_app(api: Api, token: str | None, hosts: frozenset[str] | None = LOOPBACK) -> Starlette:
    """The application. ``token`` None: none is asked for; ``hosts``: names in ``Host`` that are let in, None: any."""
    routes = [
        Route("/v1/images/generations", api.images, methods=["POST"]),
        Route("/v1/observations", api.observations, methods=["POST"]),
        Route("/v1/stream", api.stream),
        Route("/v1/status", api.status),
        Route("/metrics", api.metrics),
        Route("/healthz", api.health),
    ]
    paths = frozenset(route.path for route in routes)
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, token=token, hosts=hosts, paths=paths, meter=api.meter)],
        exception_handlers=HANDLERS,
    )


def _expect(request: Request, *kinds: str) -> str:
    """The media type, if it is one of ``kinds``. Raises ``Refused`` 415.

    Strict on purpose: what a web page may send unasked (text/plain) is none of them.
    """
    kind = ask.media_type(request)
    if kind not in kinds and not any(kind.startswith(known) for known in kinds if known.endswith("/")):
        wanted = ", ".join(known + "*" if known.endswith("/") else known for known in kinds)
        raise Refused(415, "unsupported_media_type", f"Content-Type is '{kind[:60]}'; send {wanted}", close=True)
    return kind
