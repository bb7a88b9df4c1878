"""A fog's door on its loopback address: the process beside it takes closed cohorts and devices' words to the cloud.

The contract stands in ``adapters/flower/loopback``. Whoever asks shows the token of a file in the fog's folder; web
pages and other machines are refused. Nothing here decides anything: what is given stays until it is acknowledged.
"""

from collections.abc import Callable
from functools import partial
from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from evergrove.core import sums
from evergrove.runtime.fog_service import FogService
from evergrove.web import requests as ask
from evergrove.web.answers import HANDLERS, Refused
from evergrove.web.fog_metrics import FogMeter
from evergrove.web.guard import LOOPBACK, Guard
from evergrove.web.lanes import Lane

PLACES, WAIT_S_MAX = 8, 30.0
POSITION_MAX = 1 << 62


class ReportsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``GET /internal/reports``: what came after this position."""

    after: Annotated[int, Meta(ge=0, lt=POSITION_MAX)] = 0


class CohortsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``GET /internal/cohorts``: the id of the last sum that was taken."""

    after: str = ""


class DoorApi:
    """The endpoints. One request at a time reads sums, so that memory is that of one answer."""

    def __init__(self, service: FogService, meter: FogMeter, heard: Callable[[], None] = lambda: None) -> None:
        """``heard`` is called whenever somebody asks for sums."""
        self.service, self.meter, self._heard = service, meter, heard
        self._lane = Lane("door", PLACES, WAIT_S_MAX)

    async def cohorts(self, request: Request) -> Response:
        """``GET /internal/cohorts?after=ID``: sums that wait, in the order of closing."""
        self._heard()
        asked = ask.fit(ask.query_of(request), CohortsQuery)
        with self._lane.admit():
            return _packed(await self._lane.run(lambda: sums.encode(self.service.sums(asked.after))))

    async def acknowledged(self, request: Request) -> Response:
        """``POST /internal/cohorts/{id}/acknowledged``: the cloud has it, durably."""
        with self._lane.admit():
            known = await self._lane.run(partial(self.service.acknowledge, request.path_params["id"]))
        if not known:
            raise Refused(404, "not_found", "this fog never had such a sum")
        return Response(status_code=204)

    async def reports(self, request: Request) -> Response:
        """``GET /internal/reports?after=N``: what devices have said of releases, in order."""
        asked = ask.fit(ask.query_of(request), ReportsQuery, strict=False)
        with self._lane.admit():
            found = await self._lane.run(partial(self.service.store.reports.after, asked.after))
        return _packed(msgspec.msgpack.encode(found))

    def close(self) -> None:
        """Ends the lane, once what it does now is done."""
        self._lane.close()


def create_door(api: DoorApi, token: str) -> Starlette:
    """The application behind the door."""
    routes = [
        Route("/internal/cohorts", api.cohorts),
        Route("/internal/cohorts/{id}/acknowledged", api.acknowledged, methods=["POST"]),
        Route("/internal/reports", api.reports),
    ]
    paths = frozenset(route.path for route in routes if "{" not in route.path)
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, token=token, hosts=LOOPBACK, paths=paths, meter=api.meter)],
        exception_handlers=HANDLERS,
    )


def _packed(data: bytes) -> Response:
    return Response(data, media_type="application/msgpack")
