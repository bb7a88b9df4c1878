"""A fog's HTTP service: devices, known by their certificates, send updates and fetch releases and assists.

In come requests over TLS 1.3; who sent one stands in its certificate (``web/fog_server`` hands it in), and whether that
still counts in the revocation list. An update is streamed to disk, checked and answered with a receipt or a typed
refusal; what blocks runs in lanes, and decisions that come together commit together.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from functools import partial
from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from evergrove.adapters.authority import Authority, Enrolled
from evergrove.adapters.certificates import Peer, Revocations, peer_of
from evergrove.core import fog, transport
from evergrove.core.errors import InvalidInput, UpdateRefused
from evergrove.core.ports import Fog
from evergrove.core.rollout import Mark
from evergrove.core.sections import FogWeb
from evergrove.runtime.fog_service import Answer, FogService
from evergrove.web import requests as ask
from evergrove.web.answers import HANDLERS, Refused, json_response
from evergrove.web.batches import Batches
from evergrove.web.fog_metrics import FogMeter
from evergrove.web.guard import LOOPBACK, Guard
from evergrove.web.lanes import Lane
from evergrove.web.metrics import CONTENT_TYPE
from evergrove.web.news import News
from evergrove.web.updates import Item, receive, unjudged

PEER = "evergrove.peer"
"""The ASGI extension that holds the client's certificate (DER), or None."""
MEASURERS = 4
"""Threads that wait for the disk."""
log = logging.getLogger("evergrove.fog")


class EnrolRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``POST /v1/enrol``: a one-time token, and a certificate signing request (PEM)."""

    token: str
    request: str


class RenewRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``POST /v1/renew``."""

    request: str


class ReportRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``POST /v1/reports``: what a device has to say of a rollout; ``shadow``: it only measured."""

    rollout: Annotated[str, Meta(min_length=1, max_length=128)]
    mark: Mark
    shadow: bool = False


class NewsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``GET /v1/releases``: the tag that the device has seen, and how long it would wait for another."""

    seen: str = ""
    wait_s: Annotated[float, Meta(ge=0)] = 0.0


class FogApi:
    """The endpoints. Used from one event loop; ``closing`` is set when the service is about to end."""

    def __init__(
        self,
        service: FogService,
        revocations: Revocations,
        now_s: Callable[[], float],
        limits: FogWeb | None = None,
        news: News | None = None,
        authority: Authority | None = None,
        helper: Fog | None = None,
        trusted: bool = False,
        follow: Callable[[str], None] | None = None,
    ) -> None:
        """``authority`` None: nobody enrols here. ``helper`` gives assists, and with ``trusted`` does trusted work.

        ``follow`` gets the tag of the releases with each look, in a thread of its own, and may take its time.
        """
        self.service, self.revocations, self.now_s = service, revocations, now_s
        self.limits, self.news = limits or FogWeb(), news or News(None, "")
        self.authority, self.helper, self.trusted_on = authority, helper, trusted and helper is not None
        self.meter, self.closing = FogMeter(), False
        places, wait_s = self.limits.helps_max, self.limits.wait_s_max
        self.updates = Lane("update", self.limits.updates_max, wait_s, MEASURERS)
        self.store = Lane("store", self.limits.updates_max, wait_s)
        self.sums = Lane("sum", 1, wait_s)
        # A thread for each place: the helper itself trains one after another, and together what waits and is alike.
        self.helps = Lane("help", places, 3600.0, places)
        self.enrolments = Lane("enrolment", places, wait_s)
        self._batches: Batches[Item, Answer] = Batches(self._decide_all)
        self._known: set[str] = set()
        self._follow, self._following = follow, False
        self.follows = Lane("follow", 1, wait_s)

    # ---- who is it? --------------------------------------------------------------------------------------------------

    async def device(self, request: Request) -> str:
        """The device that asks. Raises ``Refused`` 401 without a certificate, ``UpdateRefused`` for a revoked one.

        Who shows no certificate that counts is counted in memory alone, and in the log of answers: such a line costs a
        stranger nothing, so it must not write into the database, nor push out what is kept there. What a device that
        was let in does is an event: of those the store keeps the newest ``EVENTS_KEPT``, however many come.
        """
        der = request.scope.get("extensions", {}).get(PEER)
        peer = peer_of(der) if der is not None else None
        if peer is None:
            self.meter.stranger("certificate required")
            raise Refused(401, "certificate_required", "show the certificate that enrolling gave you", close=True)
        if peer.not_after_s <= self.now_s():
            self.meter.stranger("certificate expired")
            log.info("device %s showed a certificate that has expired", peer.device)
            raise Refused(401, "certificate_expired", "the device's certificate has expired; renew it", close=True)
        if self.revocations.revoked(peer, self.now_s()):
            await self._note(peer, fog.DeviceRevoked(peer.device, "on the revocation list"), " revoked")
            refused = fog.UpdateRefused(peer.device, "revoked", f"{request.method} with a revoked certificate")
            await self.store.run(partial(self.service.feed, refused))
            raise UpdateRefused("revoked", "the device's certificate was revoked")
        await self._note(peer, fog.DeviceEnrolled(peer.device), "")
        return peer.device

    async def _note(self, peer: Peer, fact: fog.FogEvent, mark: str) -> None:
        """The reducer hears of each device, and of its revocation, once a worker."""
        if peer.device + mark not in self._known:
            await self.store.run(partial(self.service.feed, fact))
            self._known.add(peer.device + mark)

    # ---- taking part -------------------------------------------------------------------------------------------------

    async def terms(self, request: Request) -> Response:
        """``GET /v1/terms``: the plan, the open cohort, and what protects the device."""
        await self.device(request)
        terms = await self.store.run(self.service.terms)
        if terms is None:
            raise UpdateRefused("closed", "this fog gathers no updates now")
        return json_response(terms)

    async def submit(self, request: Request) -> Response:
        """``POST /v1/updates``: length, head, body (``transport.frame``); answers with a ``Receipt``."""
        device = await self.device(request)
        with self.updates.admit():
            try:
                item = await receive(request, device, self.service, self.store, self.updates, self.limits.read_s_max)
            except (Refused, InvalidInput) as fault:
                await self._refused(unjudged(device, fault))
                raise
            answer = await self._batches.put(item)
        outcome = answer.reason if isinstance(answer, UpdateRefused) else "repeated" if answer.repeated else "counted"
        self.meter.update(outcome.replace(" ", "_"), item[0].head.n_bytes)
        self.work()
        if isinstance(answer, UpdateRefused):
            raise answer
        return json_response(answer)

    async def _refused(self, fact: fog.UpdateRefused | None) -> None:
        if fact is not None:
            self.meter.update(fact.reason.replace(" ", "_"), 0)
            await self.store.run(partial(self.service.feed, fact))

    async def _decide_all(self, batch: list[Item]) -> list[Answer]:
        return await self.store.run(partial(self.service.decide, batch))

    def work(self) -> None:
        """Sums what has closed, in a thread of its own."""
        if self.service.busy and not self.closing:
            self.sums.post(self.service.work)

    # ---- releases ----------------------------------------------------------------------------------------------------

    async def releases(self, request: Request) -> Response:
        """``GET /v1/releases?seen=TAG&wait_s=60``: the newest tag, as soon as it is another one."""
        await self.device(request)
        asked = ask.fit(ask.query_of(request), NewsQuery, strict=False)
        gone = asyncio.create_task(_disconnected(request))
        try:
            wait_s = min(asked.wait_s, self.limits.poll_s_max)
            tag = self.news.tag if self.closing else await self.news.wait(asked.seen, wait_s, gone)
        finally:
            gone.cancel()
        return json_response({"tag": tag})

    async def file(self, request: Request) -> Response:
        """``GET /v1/releases/PATH``: one file of the folder; ranges are served."""
        await self.device(request)
        path = self.news.file(request.path_params["path"])
        if path is None:
            raise Refused(404, "not_found", "there is no such file among the releases")
        return FileResponse(path, media_type="application/octet-stream")

    async def report(self, request: Request) -> Response:
        """``POST /v1/reports``: a device's word on a rollout, for the cloud; said twice, it is kept once."""
        device = await self.device(request)
        said = ask.parse(await self._small(request), ReportRequest)
        with self.updates.admit():
            await self.store.run(partial(self.service.store.reports.add, device, said.rollout, said.mark, said.shadow))
        return Response(status_code=204)

    # ---- helping -----------------------------------------------------------------------------------------------------

    async def assist(self, request: Request) -> Response:
        """``GET /v1/assists/RELEASE``: the signed assist."""
        await self.device(request)
        if self.helper is None:
            raise Refused(404, "not_offered", "this fog gives no assists")
        with self.helps.admit():
            data = await self.helps.run(partial(self.helper.assist, request.path_params["release"]))
        return Response(data, media_type="application/octet-stream")

    async def trusted(self, request: Request) -> Response:
        """``POST /v1/trusted``: a sealed ``TrustedRequest``; off unless the fog's owner turned it on."""
        await self.device(request)
        if not self.trusted_on or self.helper is None:
            raise Refused(403, "not_offered", "this fog does no trusted work", close=True)
        with self.helps.admit():
            body = await ask.read_body(request, transport.REQUEST_BYTES_MAX, self.limits.read_s_max)
            data = await self.helps.run(partial(self.helper.trusted, body))
        return Response(data, media_type="application/octet-stream")

    # ---- enrolling ---------------------------------------------------------------------------------------------------

    async def enrol(self, request: Request) -> Response:
        """``POST /v1/enrol``: needs no certificate; a token instead."""
        asked = ask.parse(await self._small(request), EnrolRequest)
        return await self._enrolled(lambda given: given.enrol(asked.token, asked.request.encode(), self.now_s()))

    async def renew(self, request: Request) -> Response:
        """``POST /v1/renew``: a device that still has a certificate gets a fresh one for a new key."""
        device = await self.device(request)
        asked = ask.parse(await self._small(request), RenewRequest)
        return await self._enrolled(lambda given: given.renew(device, asked.request.encode(), self.now_s()))

    async def _enrolled(self, work: Callable[[Authority], Enrolled]) -> Response:
        if self.authority is None:
            raise Refused(
                404, "not_offered", "nobody is enrolled at this fog; ask the one that gave it its certificate"
            )
        with self.enrolments.admit():
            given = await self.enrolments.run(partial(work, self.authority))
        return json_response(
            {"device": given.device, "certificate": given.certificate.decode(), "ca": given.ca.decode()}
        )

    async def _small(self, request: Request) -> bytes:
        return await ask.read_body(request, self.limits.request_bytes_max, self.limits.read_s_max)

    # ---- itself ------------------------------------------------------------------------------------------------------

    async def health(self, request: Request) -> Response:
        """``GET /healthz``: waits for nothing."""
        return json_response({"status": "stopping" if self.closing else "ok"}, 503 if self.closing else 200)

    async def metrics(self, request: Request) -> Response:
        """``GET /metrics``: for programs of this machine, and for devices."""
        if request.client is None or request.client.host not in LOOPBACK:
            await self.device(request)
        state = await self.store.run(self.service.store.state)
        lanes = {lane.name: (lane.taken, lane.places) for lane in (self.updates, self.helps, self.enrolments)}
        text = self.meter.text(state, self.service.noise.epsilon, self.news.n_waiting, lanes)
        return Response(text, media_type=CONTENT_TYPE)

    async def look(self) -> None:
        """What is due by the clock: news, cohorts whose time is over, the revocation list."""
        self.news.look()
        self._mind_releases()
        await self.store.run(self.service.tick)
        if self.authority is not None:
            await self.enrolments.run(partial(self.authority.mind_list, self.now_s()))
        self.work()

    def _mind_releases(self) -> None:
        """Looks at what is published, unless the look before is still at it; nobody waits for it."""
        if self._follow is not None and not self._following:
            self._following = True
            self.follows.post(partial(self._look_at, self._follow, self.news.tag))

    def _look_at(self, follow: Callable[[str], None], tag: str) -> None:
        try:
            follow(tag)
        except Exception:
            log.exception("looking at what is published failed")
        finally:
            self._following = False

    def close(self) -> None:
        """Ends the lanes, once what they do now is done."""
        for lane in (self.updates, self.store, self.sums, self.helps, self.enrolments, self.follows):
            lane.close()


def create_app(api: FogApi) -> Starlette:
    """The application."""
    routes = [
        Route("/v1/enrol", api.enrol, methods=["POST"]),
        Route("/v1/renew", api.renew, methods=["POST"]),
        Route("/v1/terms", api.terms),
        Route("/v1/updates", api.submit, methods=["POST"]),
        Route("/v1/releases", api.releases),
        Route("/v1/reports", api.report, methods=["POST"]),
        Route("/v1/releases/{path:path}", api.file),
        Route("/v1/assists/{release}", api.assist),
        Route("/v1/trusted", api.trusted, methods=["POST"]),
        Route("/metrics", api.metrics),
        Route("/healthz", api.health),
    ]
    paths = frozenset(route.path for route in routes if "{" not in route.path)
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, token=None, hosts=None, paths=paths, meter=api.meter)],
        exception_handlers=HANDLERS,
    )


async def _disconnected(request: Request) -> None:
    """Done once the client has gone."""
    with contextlib.suppress(asyncio.CancelledError):
        while (await request.receive())["type"] != "http.disconnect":
            pass
