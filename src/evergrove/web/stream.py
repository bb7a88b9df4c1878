"""Video over HTTP: the frames of ``device.stream`` as they are made, each with how late it was.

Two forms: ``multipart/x-mixed-replace`` of PNGs, which players show as it is, and NDJSON, one frame a line. Nothing is
queued: who reads too slowly makes the next frame late, and that is counted. The last line of NDJSON sums up.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Protocol

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from evergrove.core.errors import EvergroveError
from evergrove.runtime.picture import Frame
from evergrove.runtime.stream import Stream, StreamStats
from evergrove.web.lanes import Lane
from evergrove.web.metrics import Meter
from evergrove.web.pictures import Drawn, scaled_png

BOUNDARY = "evergrove-frame"
log = logging.getLogger("evergrove.web")


class Line(msgspec.Struct, frozen=True):
    """One line of NDJSON: a frame."""

    index: int
    late_ms: float
    frame: Drawn


class Form(msgspec.Struct, frozen=True):
    """How frames are written: the content type, a frame's bytes, and what comes after the last."""

    content_type: str
    chunk: Callable[[Frame, bytes], bytes]
    end: Callable[[StreamStats], bytes]


def _part(frame: Frame, png: bytes) -> bytes:
    head = f"--{BOUNDARY}\r\nContent-Type: image/png\r\nContent-Length: {len(png)}\r\n"
    facts = f"X-Evergrove-Index: {frame.index}\r\nX-Evergrove-Late-Ms: {frame.late_s * 1000:.3f}\r\n\r\n"
    return (head + facts).encode("ascii") + png + b"\r\n"


def _line(frame: Frame, png: bytes) -> bytes:
    return msgspec.json.encode(Line(frame.index, round(frame.late_s * 1000, 3), Drawn.of(frame, png))) + b"\n"


def _sum(stats: StreamStats) -> bytes:
    return msgspec.json.encode({"stats": stats}) + b"\n"


FORMS = {
    "multipart": Form(
        f"multipart/x-mixed-replace; boundary={BOUNDARY}", _part, lambda _: f"--{BOUNDARY}--\r\n".encode()
    ),
    "ndjson": Form("application/x-ndjson", _line, _sum),
}


class Reel:
    """A stream and its books. ``next`` and ``close`` run in the lane's threads, never both at once."""

    def __init__(self, stream: Stream, side_px: int | None, meter: Meter) -> None:
        self.stream = stream
        self._side_px, self._meter = side_px, meter
        self._lock = threading.Lock()

    def next(self) -> tuple[Frame, bytes]:
        """Waits for the next frame; gives it with its PNG."""
        with self._lock:
            frame = next(self.stream)
        return frame, scaled_png(frame, self._side_px)

    def count(self, frame: Frame) -> None:
        """Puts a frame that was made into the books; on the event loop, which alone reads them."""
        self._meter.frames["late" if frame.late_s > 0 else "on_time"] += 1

    def close(self) -> None:
        """Ends the stream once the frame at work is made."""
        with self._lock:
            self.stream.close()


class Served(Protocol):
    """What a response needs of the API."""

    frames: Lane
    closing: bool
    meter: Meter


class StreamResponse(Response):
    """Sends frames until ``n`` are sent, the client goes or is cut off (``web.server``), or the service ends."""

    def __init__(
        self,
        api: Served,
        reel: Reel,
        first: tuple[Frame, bytes],
        form: Form,
        n: int | None,
        held: contextlib.ExitStack,
    ) -> None:
        """``held`` is closed at the end: it gives the stream and its place back."""
        super().__init__(headers={"content-type": form.content_type})
        del self.headers["content-length"]
        self._api, self._reel, self._first, self._form, self._n, self._held = api, reel, first, form, n, held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The whole stream."""
        with self._held:
            gone = asyncio.create_task(_until_gone(receive))
            try:
                await self._send_all(send, gone)
            finally:
                self._api.meter.frames["missed"] += self._reel.stream.stats.missed
                gone.cancel()

    async def _send_all(self, send: Send, gone: "asyncio.Task[None]") -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        frame, png = self._first
        sent = 0
        while True:
            self._reel.count(frame)
            await send({"type": "http.response.body", "body": self._form.chunk(frame, png), "more_body": True})
            sent += 1
            if sent == self._n or gone.done() or self._api.closing:
                break
            try:
                frame, png = await self._api.frames.run(self._reel.next)
            except EvergroveError as fault:
                log.warning("a stream ended: %s", fault)
                break
        last = self._form.end(self._reel.stream.stats)
        await send({"type": "http.response.body", "body": last, "more_body": False})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
