"""A fog's loopback door for tests: the whole contract of ``adapters/flower/loopback``, over real HTTP, in memory."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import msgspec

from evergrove.core import sums
from evergrove.core.rollout import DeviceReport, Mark
from evergrove.core.sums import NoisedSum


class MemoryFog:
    """Closed cohorts in the order of closing, until each is acknowledged. Thread-safe; serves while in a ``with``."""

    def __init__(self, token: str | None = None) -> None:
        self.lock = threading.Lock()
        self.closed: list[NoisedSum] = []
        self.acknowledged: list[str] = []
        self.reports: list[DeviceReport] = []
        self.n_fetches = 0
        self.token = token
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close_cohort(self, one: NoisedSum) -> None:
        with self.lock:
            self.closed.append(one)

    def after(self, id: str) -> list[NoisedSum]:
        """What the contract says comes after ``id``."""
        with self.lock:
            self.n_fetches += 1
            waiting = [one for one in self.closed if one.id not in self.acknowledged]
            ids = [one.id for one in waiting]
            return waiting[ids.index(id) + 1 :] if id in ids else waiting

    def say(self, device: str, mark: Mark = "confirmed", rollout: str = "r1") -> None:
        """A device says something of a release."""
        with self.lock:
            self.reports.append(DeviceReport(len(self.reports) + 1, device, rollout, mark))

    def said_after(self, position: int) -> list[DeviceReport]:
        """What the contract says comes after a position."""
        with self.lock:
            return [one for one in self.reports if one.position > position][:1000]

    def acknowledge(self, id: str) -> bool:
        """Whether the fog ever had it."""
        with self.lock:
            known = any(one.id == id for one in self.closed)
            if known and id not in self.acknowledged:
                self.acknowledged.append(id)
            return known

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        fog = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                where = urlsplit(self.path)
                after = parse_qs(where.query).get("after", [""])[0]
                if where.path not in ("/internal/cohorts", "/internal/reports"):
                    return self._say(404)
                if not self._allowed():
                    return self._say(401)
                if where.path == "/internal/reports":
                    return self._say(200, msgspec.msgpack.encode(fog.said_after(int(after))))
                return self._say(200, sums.encode(fog.after(after)))

            def do_POST(self) -> None:
                parts = self.path.split("/")
                if parts[:3] != ["", "internal", "cohorts"] or parts[4:] != ["acknowledged"]:
                    return self._say(404)
                if not self._allowed():
                    return self._say(401)
                return self._say(204 if fog.acknowledge(parts[3]) else 404)

            def _allowed(self) -> bool:
                return fog.token is None or self.headers.get("Authorization") == f"Bearer {fog.token}"

            def _say(self, status: int, body: bytes = b"") -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/msgpack")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler
