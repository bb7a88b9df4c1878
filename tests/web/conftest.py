"""A device that draws in no time and can be made to wait, and a way to send requests to its API without a network."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import httpx
import msgspec
import numpy as np
import pytest
from starlette.applications import Starlette

from evergrove.core import messages as msg
from evergrove.core.conditions import Factor, Vocabulary
from evergrove.core.config import Config, Media, Web
from evergrove.core.errors import InvalidMedia
from evergrove.runtime.picture import Picture
from evergrove.runtime.stream import Stream
from evergrove.web.device import Api, create_app
from evergrove.web.metrics import Meter

T = TypeVar("T")
VOCABULARY = Vocabulary((Factor("emotion", ("happy", "sad")), Factor("hair", ("bob", "long bob"))))
TOKEN = "the-token-of-the-tests"
STATUS = msg.Status(
    device="d", release="test", vocabulary=VOCABULARY, active=None, previous=None, on_probation=False, sequence=3,
    observed=5, kept=4, dropped={"exact duplicate": 1}, records={"emotion=secret": 4}, waiting=2,
    golden={"emotion=secret": 1}, job=None, results=(), gate_looks=1, gate_looks_max=200,
    decisions=("kept emotion=secret",), warnings=(),
)  # fmt: skip


class Closing:
    """A place in the frame gate that only notes its end."""

    def __init__(self, device: "FakeDevice") -> None:
        self._device = device

    def begin(self) -> None:
        """A frame begins."""

    def end(self, budget_s: float = 0.0, late: bool = False, took_s: float = 0.0) -> None:
        """It ends."""

    def schedule(self, next_s: float, period_s: float) -> None:
        """The next one."""

    def close(self) -> None:
        """The stream is over."""
        self._device.streams -= 1


class FakeDevice:
    """Draws a grey of the seed. ``hold`` makes drawing wait, ``hold_agent`` the agent's part; ``fault`` is raised."""

    def __init__(self) -> None:
        self.drawn: list[dict[str, Any]] = []
        self.seen: list[tuple[bytes, dict[str, str]]] = []
        self.hold, self.hold_agent = threading.Event(), threading.Event()
        self.hold.set()
        self.hold_agent.set()
        self.fault: Exception | None = None
        self.agent_pid = 1
        self.streams = 0
        """Open now."""

    def generate(
        self,
        condition: Mapping[str, str],
        *,
        seed: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
    ) -> Picture:
        """A 16 px picture, grey level ``seed`` modulo 256."""
        VOCABULARY.encode(condition)
        assert self.hold.wait(10)
        if self.fault is not None:
            raise self.fault
        self.drawn.append({"condition": dict(condition), "seed": seed, "steps": steps, "guidance": guidance})
        seed = 0 if seed is None else seed
        array = np.full((16, 16, 3), seed % 256, np.uint8)
        return Picture(f"p-{len(self.drawn)}", array, {**condition, "drawn": "yes"}, seed, "ab12", 25.0)

    def stream(
        self,
        condition: Mapping[str, str],
        fps: float,
        *,
        seed: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
    ) -> Stream:
        """A real stream of this device's pictures on a clock that only moves when somebody sleeps; frame 2 is slow."""
        now = [100.0]
        self.streams += 1

        def make(index: int) -> Picture:
            now[0] += 2.5 / fps if index == 2 else 0.001
            return self.generate(condition, seed=(seed or 0) + index, steps=steps, guidance=guidance)

        def sleep(seconds: float) -> None:
            now[0] += seconds

        return Stream(make, fps, Closing(self), lambda: now[0], sleep)

    def observe(self, media: Any, condition: Mapping[str, str]) -> msg.Observed:
        """Keeps everything but the bytes ``broken``."""
        assert self.hold_agent.wait(10)
        if self.fault is not None:
            raise self.fault
        if media == b"broken":
            raise InvalidMedia("undecodable", "not a picture in a known format")
        VOCABULARY.extend(condition)
        self.seen.append((media, dict(condition)))
        return msg.Observed("o-1", True, "train", "kept: first of its condition")

    def status(self) -> msg.Status:
        """Always the same."""
        assert self.hold_agent.wait(10)
        if self.fault is not None:
            raise self.fault
        return STATUS

    def warm_up(self) -> None:
        """Nothing to load."""


class Served:
    """A fake device behind the real application; every test talks HTTP with it."""

    def __init__(self, web: Web | None = None, token: str | None = TOKEN, **settings: Any) -> None:
        self.device = FakeDevice()
        config = Config(web=web or Web(), media=Media(n_bytes_max=4000))
        self.api = Api(self.device, config, Meter())
        self.app: Starlette = create_app(self.api, token, **settings)

    def run(self, talk: Callable[[httpx.AsyncClient], Awaitable[T]]) -> T:
        """Runs a conversation of a client that knows the token."""

        async def whole() -> T:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            headers = {"authorization": f"Bearer {TOKEN}"}
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers) as client:
                return await talk(client)

        return asyncio.run(whole())

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request and its response."""
        return self.run(lambda client: client.request(method, path, **options))

    def draw(self, **fields: Any) -> httpx.Response:
        """``POST /v1/images/generations`` with these JSON fields."""
        return self.send("POST", "/v1/images/generations", json=fields)


def error(response: httpx.Response) -> dict[str, Any]:
    """The error object of a response, which must be in OpenAI's shape and nothing else."""
    document: dict[str, dict[str, Any]] = msgspec.json.decode(response.content)
    assert set(document) == {"error"}
    assert set(document["error"]) == {"message", "type", "param", "code"}
    return document["error"]


@pytest.fixture
def served() -> Served:
    """A fresh device with the default limits, but pictures of at most 4000 bytes."""
    return Served()
