"""What fogs reach of a SuperLink: its fleet API and nothing else. ``python -m evergrove.web.fleet_door``.

A SuperLink serves fogs, apps and the control of runs on one port, and whoever reaches the control may run code of
their own. So it listens on the loopback address only, and this door, with the same certificate, passes on the ten
calls that a SuperNode makes once it is registered. Who calls is for the SuperLink to judge, by the node's signature.
"""

import argparse
import ssl
from collections.abc import Mapping
from pathlib import Path

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

CALLS = frozenset({
    "activate-node", "deactivate-node", "send-node-heartbeat", "pull-messages", "push-messages", "get-run", "get-fab",
    "push-object", "pull-object", "confirm-message-received",
})  # fmt: skip
"""All of the fleet API but the registration of nodes, which is the cloud's own to do."""
BODY_BYTES_MAX = 32 << 20
"""Flower cuts arrays into objects of 5 MiB."""
TIMEOUT_S = 60.0
CONNECTIONS_MAX = 1024
OWN = frozenset({"host", "connection", "content-length", "transfer-encoding", "keep-alive", "date", "server"})
"""Headers that belong to one connection and are not passed on."""


def create_app(superlink: httpx.AsyncClient) -> Starlette:
    """The door before a SuperLink that ``superlink`` reaches. What is not in ``CALLS`` is 404, too large 413."""

    async def fleet(request: Request) -> Response:
        call = request.path_params["call"]
        if call not in CALLS:
            return Response(status_code=404)
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

    return Starlette(routes=[Route("/v1/fleet/{call}", fleet, methods=["POST"])])


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
    for name in ("certificate", "key", "authority"):
        words.add_argument(f"--{name}", type=Path, required=True)
    asked = words.parse_args()
    uvicorn.run(
        create_app(client(asked.superlink_port, asked.authority)),
        host=asked.listen,
        port=asked.port,
        ssl_certfile=asked.certificate,
        ssl_keyfile=asked.key,
        access_log=False,
        log_level="warning",
        limit_concurrency=CONNECTIONS_MAX,
        server_header=False,
    )


if __name__ == "__main__":
    main()
