"""What fogs reach of a cloud: its SuperLink's fleet API and its releases. ``python -m evergrove.web.fleet_door``.

A SuperLink serves fogs, apps and the control of runs on one port, and whoever reaches the control may run code of
their own. So it listens on the loopback address only, and this door, with the same certificate, passes on the ten
calls that a SuperNode makes once it is registered, of fogs whose keys the cloud was given (``adapters/fog_pass``): a
key that is taken away opens nothing any more. That a caller has the key that it names is for the SuperLink to judge, by
the node's signature. Beside them stand the files of the cloud's repository, for the same fogs.
"""

import argparse
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from evergrove.adapters import fog_pass
from evergrove.adapters.clock import now_s
from evergrove.web.news import News

CALLS = frozenset({
    "activate-node", "deactivate-node", "send-node-heartbeat", "pull-messages", "push-messages", "get-run", "get-fab",
    "push-object", "pull-object", "confirm-message-received",
})  # fmt: skip
"""All of the fleet API but the registration of nodes, which is the cloud's own to do."""
BODY_BYTES_MAX = 32 << 20
"""Flower cuts arrays into objects of 5 MiB."""
TIMEOUT_S = 60.0
CONNECTIONS_MAX = 1024
END_S = 2
"""How long a client that keeps its connection open can hold up the end."""
OWN = frozenset({"host", "connection", "content-length", "transfer-encoding", "keep-alive", "date", "server"})
"""Headers that belong to one connection and are not passed on."""


@dataclass(frozen=True)
class Shelf:
    """A cloud's repository, and the folder of the public keys of those who may read it."""

    releases: Path
    fogs: Path


def create_app(superlink: httpx.AsyncClient, shelf: Shelf | None = None) -> Starlette:
    """The door before a SuperLink that ``superlink`` reaches. What is not in ``CALLS`` is 404, too large 413.

    With a ``shelf`` both are for its fogs, 401 for everybody else.
    """

    async def fleet(request: Request) -> Response:
        call = request.path_params["call"]
        if call not in CALLS:
            return Response(status_code=404)
        if shelf is not None and not fog_pass.is_known(shelf.fogs, request.headers.get(fog_pass.NODE_HEADER, "")):
            return Response(status_code=401)
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > BODY_BYTES_MAX:
                return Response(status_code=413)
        try:
            answer = await superlink.post(f"/v1/fleet/{call}", content=bytes(body), headers=_passed(request.headers))
        except httpx.HTTPError:
            return Response(status_code=503)  # a SuperNode tries again
        return Response(answer.content, answer.status_code, _passed(answer.headers))

    async def release(request: Request) -> Response:
        assert shelf is not None
        header = request.headers.get(fog_pass.HEADER, "")
        if fog_pass.fog_of(shelf.fogs, header, request.method, request.url.path, now_s()) is None:
            return PlainTextResponse("for fogs whose key this cloud was given, and whose clock is right\n", 401)
        path = files.file(request.path_params["name"])
        return Response(status_code=404) if path is None else FileResponse(path)

    routes = [Route("/v1/fleet/{call}", fleet, methods=["POST"])]
    if shelf is not None:
        files = News(shelf.releases, "metadata/timestamp.json")
        routes.append(Route("/v1/releases/{name:path}", release))
    return Starlette(routes=routes)


def client(port: int, authority: Path) -> httpx.AsyncClient:
    """How the door reaches its SuperLink: on the loopback address, over TLS, vouched for by its own authority."""
    context = ssl.create_default_context(cafile=str(authority))
    return httpx.AsyncClient(base_url=f"https://127.0.0.1:{port}", verify=context, timeout=TIMEOUT_S, trust_env=False)


def _passed(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in OWN}


def main() -> None:
    """Serves until SIGTERM."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--listen", required=True)
    words.add_argument("--port", type=int, required=True)
    words.add_argument("--superlink-port", type=int, required=True)
    for name in ("certificate", "key", "authority", "releases", "fogs"):
        words.add_argument(f"--{name}", type=Path, required=True)
    asked = words.parse_args()
    uvicorn.run(
        create_app(client(asked.superlink_port, asked.authority), Shelf(asked.releases, asked.fogs)),
        host=asked.listen,
        port=asked.port,
        ssl_certfile=asked.certificate,
        ssl_keyfile=asked.key,
        access_log=False,
        log_level="warning",
        limit_concurrency=CONNECTIONS_MAX,
        timeout_graceful_shutdown=END_S,
        server_header=False,
    )


if __name__ == "__main__":
    main()
