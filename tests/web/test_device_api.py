"""The local HTTP API as apps see it, over a fake device: forms, refusals, limits, lanes."""

import asyncio
import base64
import io
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from evergrove.core import errors
from evergrove.core.config import Web
from evergrove.core.errors import EvergroveError, Unreachable
from evergrove.media.provenance import read_provenance
from evergrove.web.answers import STATUS, refusal

from .conftest import STATUS as DEVICE_STATUS
from .conftest import TOKEN, Served, error

DRAW, OBSERVE = "/v1/images/generations", "/v1/observations"


def png_of(response: httpx.Response, i: int = 0) -> bytes:
    """The i-th picture of an answer."""
    return base64.b64decode(response.json()["data"][i]["b64_json"], validate=True)


# ---- pictures ---------------------------------------------------------------------------------------------------


def test_pictures_come_in_the_shape_of_openai_with_where_they_came_from(served: Served) -> None:
    """Two pictures of seeds 7 and 8: a time, base64 of PNGs, and the facts beside and inside each."""
    response = served.draw(prompt="emotion=happy", n=2, seed=7, steps=3, guidance=1.5, model="any", user="me")
    assert response.status_code == 200
    body = response.json()
    assert set(body) == {"created", "data"}
    assert isinstance(body["created"], int)
    assert [item["seed"] for item in body["data"]] == [7, 8]
    first = {key: value for key, value in body["data"][0].items() if key != "b64_json"}
    condition = {"emotion": "happy", "drawn": "yes"}
    assert first == {"id": "p-1", "condition": condition, "seed": 7, "version": "ab12", "latency_ms": 25.0}
    assert '"seed": 8' in read_provenance(png_of(response, 1))["evergrove"]
    assert served.device.drawn[0] == {"condition": {"emotion": "happy"}, "seed": 7, "steps": 3, "guidance": 1.5}


def test_without_a_seed_the_device_chooses(served: Served) -> None:
    """And nulls are as good as fields left out, as clients send them."""
    assert served.draw(prompt="", n=None, size=None, seed=None, response_format=None).status_code == 200
    assert served.device.drawn == [{"condition": {}, "seed": None, "steps": None, "guidance": None}]


@pytest.mark.parametrize(
    ("fields", "condition"),
    [
        ({"prompt": 'emotion=sad, hair="long bob"'}, {"emotion": "sad", "hair": "long bob"}),
        ({"condition": {"hair": "long bob"}}, {"hair": "long bob"}),
        ({"prompt": "emotion=sad", "condition": {"emotion": "sad", "hair": "bob"}}, {"emotion": "sad", "hair": "bob"}),
    ],
)
def test_a_prompt_is_a_condition(served: Served, fields: dict[str, Any], condition: dict[str, str]) -> None:
    """Words of the form factor=value, quoted where they have spaces, and the field condition beside them."""
    assert served.draw(**fields).status_code == 200
    assert served.device.drawn[0]["condition"] == condition


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"prompt": "a happy person"}, "prompt", "factor=value"),
        ({"prompt": 'emotion="happy'}, "prompt", "No closing quotation"),
        ({"prompt": "emotion=happy emotion=sad"}, "prompt", "twice"),
        ({"prompt": "emotion=happy", "condition": {"emotion": "sad"}}, "prompt", "disagree about emotion"),
        ({"condition": {"emotion": "x" * 65}}, "condition", "1 to 64"),
        ({"condition": {"emotion": "a\nb"}}, "condition", "printable"),
        ({"condition": {f"f{i}": "x" for i in range(33)}}, "condition", "33 factors"),
        ({"condition": {"emotion": "hapy"}}, "condition", "did you mean 'happy'"),
        ({"condition": {"emotions": "happy"}}, "condition", "did you mean 'emotion'"),
        ({"condition": {"emotion": 3}}, "condition", "str"),
        ({"condition": ["emotion"]}, "condition", "object"),
        ({"n": 0}, "n", ">= 1"),
        ({"n": 11}, "n", "<= 10"),
        ({"n": True}, "n", "int"),
        ({"seed": -1}, "seed", ">= 0"),
        ({"seed": 2**53}, "seed", "<="),
        ({"seed": 1.5}, "seed", "int"),
        ({"steps": "many"}, "steps", "int"),
        ({"size": "16x32"}, "size", "square"),
        ({"size": "4x4"}, "size", "square"),
        ({"size": "2048x2048"}, "size", "square"),
        ({"response_format": "url"}, "response_format", "b64_json"),
        ({"output_format": "webp"}, "output_format", "png"),
        ({"prompt": 7}, "prompt", "str"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(served: Served, fields: dict[str, Any], param: str, words: str) -> None:
    """400, the parameter, and what would be right; nothing is drawn."""
    response = served.draw(**fields)
    assert response.status_code == 400
    fault = error(response)
    assert (fault["type"], fault["param"]) == ("invalid_request_error", param)
    assert words in fault["message"]
    assert served.device.drawn == []


def test_unknown_fields_are_all_named(served: Served) -> None:
    """With the nearest right one for the first."""
    fault = error(served.draw(prompt="emotion=happy", stepz=3, quality="hd"))
    assert (fault["param"], fault["code"]) == ("stepz", "unknown_field")
    assert "'stepz', 'quality'; did you mean 'steps'?" in fault["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"3", b'"x"', b"\xff\xfe", b'{"prompt": "\\ud800"}', b"[" * 60_000])
def test_what_is_no_json_object_is_refused(served: Served, body: bytes) -> None:
    """Cut off, of another type, not UTF-8, or nested to no end."""
    response = served.send("POST", DRAW, content=body, headers={"content-type": "application/json"})
    assert (response.status_code, error(response)["code"]) == (400, "invalid_json")


def test_size_scales_the_picture(served: Served) -> None:
    """16 px drawn, 64 wanted; auto is as drawn."""
    assert decode_shape(served.draw(size="64x64")) == (64, 64, 3)
    assert decode_shape(served.draw(size="auto")) == (16, 16, 3)


def decode_shape(response: httpx.Response) -> tuple[int, ...]:
    """The shape of an answer's first picture; a grey one is 'blank' to the decoder of observations."""
    with Image.open(io.BytesIO(png_of(response))) as image:
        return (*image.size[::-1], len(image.getbands()))


# ---- observations -----------------------------------------------------------------------------------------------


def test_three_forms_of_an_observation_say_the_same(served: Served) -> None:
    """JSON with base64 (bare or a data URL), a form with a file, and a bare picture with its condition in the query."""
    media, condition = b"\x89PNG\r\n--x\r\n\x00 picture", {"emotion": "new one", "hair": "bob"}
    text = base64.b64encode(media).decode()
    words = 'emotion="new one" hair=bob'
    for options in (
        {"json": {"image": text, "condition": condition}},
        {"json": {"image": f"data:image/png;base64,{text}", "condition": condition}},
        {"files": {"image": ("photo.png", media, "image/png")}, "data": {"condition": words}},
        {"content": media, "headers": {"content-type": "image/png"}, "params": condition},
        {"content": media, "headers": {"content-type": "application/octet-stream"}, "params": condition},
    ):
        response = served.send("POST", OBSERVE, **options)
        assert response.status_code == 200, response.text
        assert response.json() == {
            "observation": "o-1",
            "kept": True,
            "split": "train",
            "reason": "kept: first of its condition",
            "new_values": [],
        }
    assert served.device.seen == [(media, condition)] * 5


RAW = {"content-type": "image/png"}
FORM = {"content-type": "multipart/form-data; boundary=b"}


@pytest.mark.parametrize(
    ("options", "code", "param"),
    [
        ({"json": {"image": "@@", "condition": {"emotion": "happy"}}}, "invalid_value", "image"),
        ({"json": {"image": "", "condition": {"emotion": "happy"}}}, "invalid_value", "image"),
        ({"json": {"image": "AAAA", "condition": {}}}, "invalid_value", "condition"),
        ({"json": {"condition": {"emotion": "happy"}}}, "invalid_value", "image"),
        ({"json": {"image": "AAAA", "condition": {"emotion": "happy"}, "label": 1}}, "unknown_field", "label"),
        ({"content": b"x", "headers": RAW}, "invalid_value", "condition"),
        (
            {"content": b"x", "headers": RAW, "params": [("emotion", "a"), ("emotion", "b")]},
            "invalid_value",
            "emotion",
        ),
        ({"content": b"x", "headers": RAW, "params": {"mood": "a"}}, "unknown_condition", "condition"),
        ({"content": b"broken", "headers": RAW, "params": {"emotion": "sad"}}, "undecodable", "image"),
        ({"files": {"photo": b"x"}, "data": {"condition": "emotion=sad"}}, "unknown_field", None),
        ({"files": {"image": b"x"}}, "invalid_form", "condition"),
        ({"files": {"image": b"x"}, "data": {"condition": "happy"}}, "invalid_value", "condition"),
        ({"files": {"image": b"x"}, "data": {"condition": b"\xff"}}, "invalid_value", "condition"),
        ({"files": [("image", b"x"), ("image", b"y")], "data": {"condition": "emotion=sad"}}, "unknown_field", None),
        ({"files": [("image", b"x")] * 9}, "invalid_form", "image"),
        ({"content": b"no form at all", "headers": FORM}, "invalid_form", "image"),
        ({"content": b"--b\r\nContent-Dispo", "headers": FORM}, "invalid_form", "image"),
        ({"content": b"", "headers": {"content-type": "multipart/form-data"}}, "invalid_form", "image"),
    ],
)
def test_a_wrong_observation_is_refused_by_its_name(
    served: Served, options: dict[str, Any], code: str, param: str | None
) -> None:
    """400 with the part that is wrong, and the device sees nothing of it."""
    response = served.send("POST", OBSERVE, **options)
    assert response.status_code == 400, response.text
    assert (error(response)["code"], error(response)["param"]) == (code, param)
    assert served.device.seen == []


# ---- streams ----------------------------------------------------------------------------------------------------


def until_no_stream(served: Served) -> None:
    """Waits until the device's streams are closed, which is done in a thread of the lane."""
    for _ in range(1000):
        if served.device.streams == 0:
            return
        time.sleep(0.005)
    raise AssertionError("a stream was left open")


def test_a_stream_in_lines_says_how_late_each_frame_was(served: Served) -> None:
    """Five frames at 10 a second; frame 2 takes 250 ms, is 150 ms late, and the beat after it goes without a frame."""
    options = {"prompt": "emotion=happy", "fps": "10", "frames": "5", "seed": "3", "format": "ndjson", "size": "32x32"}
    response = served.send("GET", "/v1/stream", params=options)
    assert (response.status_code, response.headers["content-type"]) == (200, "application/x-ndjson")
    *frames, last = (json.loads(line) for line in response.text.splitlines())
    assert [frame["index"] for frame in frames] == [0, 1, 2, 3, 4]
    assert [frame["frame"]["seed"] for frame in frames] == [3, 4, 5, 6, 7]
    assert [frame["late_ms"] for frame in frames] == [0.0, 0.0, pytest.approx(150, abs=0.01), 0.0, 0.0]
    assert (last["stats"]["frames"], last["stats"]["late"], last["stats"]["missed"]) == (5, 1, 1)
    with Image.open(io.BytesIO(base64.b64decode(frames[0]["frame"]["b64_json"]))) as image:
        assert image.size == (32, 32)
    text = served.send("GET", "/metrics").text
    for outcome, n in (("on_time", 4), ("late", 1), ("missed", 1)):
        assert f'evergrove_stream_frames_total{{outcome="{outcome}"}} {n}' in text
    until_no_stream(served)


def test_a_stream_in_parts_is_what_players_show(served: Served) -> None:
    """PNGs between boundaries, each with its length, index and lateness."""
    response = served.send("GET", "/v1/stream", params={"frames": "3"})
    assert response.headers["content-type"] == "multipart/x-mixed-replace; boundary=evergrove-frame"
    start, *parts, end = response.content.split(b"--evergrove-frame")
    assert (start, end, len(parts)) == (b"", b"--\r\n", 3)
    for index, part in enumerate(parts):
        head, _, png = part.partition(b"\r\n\r\n")
        assert f"Content-Length: {len(png) - 2}\r\nX-Evergrove-Index: {index}\r\n".encode() in head
        assert png.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("query", "code", "param"),
    [
        ({"fps": "0.5"}, "invalid_value", "fps"),
        ({"fps": "241"}, "invalid_value", "fps"),
        ({"fps": "nan"}, "invalid_value", "fps"),
        ({"fps": "fast"}, "invalid_value", "fps"),
        ({"frames": "0"}, "invalid_value", "frames"),
        ({"format": "mp4"}, "invalid_value", "format"),
        ({"prompt": "happy"}, "invalid_value", "prompt"),
        ({"emotion": "happy"}, "unknown_field", "emotion"),
        ({"prompt": "emotion=hapy"}, "unknown_condition", "condition"),
        ([("fps", "1"), ("fps", "2")], "invalid_value", "fps"),
    ],
)
def test_a_wrong_stream_is_refused_before_it_begins(served: Served, query: Any, code: str, param: str | None) -> None:
    """400 and not a broken body, for what only the first frame shows as well; its place is free again."""
    response = served.send("GET", "/v1/stream", params=query)
    assert (response.status_code, error(response)["code"], error(response)["param"]) == (400, code, param)
    until_no_stream(served)
    assert served.send("GET", "/v1/stream", params={"frames": "1"}).status_code == 200
    assert served.send("HEAD", "/v1/stream").status_code == 405


def test_a_stream_ends_with_its_client_or_the_service() -> None:
    """One place: a second stream is sent away while the first runs, and may come once it has ended."""

    async def talk() -> None:
        for way in ("disconnect", "closing"):
            served = Served()
            go, left = asyncio.Event(), asyncio.Event()
            sent: list[dict[str, Any]] = []

            async def receive(left: asyncio.Event = left) -> dict[str, Any]:
                await left.wait()
                return {"type": "http.disconnect"}

            async def send(message: Any, go: asyncio.Event = go, sent: list[dict[str, Any]] = sent) -> None:
                sent.append(message)
                if len(sent) > 5:
                    go.set()

            headers = [(b"host", b"localhost"), (b"authorization", f"Bearer {TOKEN}".encode())]
            scope = {
                "type": "http",
                "method": "GET",
                "path": "/v1/stream",
                "query_string": b"fps=50",
                "headers": headers,
            }
            stream = asyncio.create_task(served.app(scope, receive, send))
            await go.wait()
            transport = httpx.ASGITransport(served.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                second = await client.get("/v1/stream", headers={"authorization": f"Bearer {TOKEN}"})
            assert second.status_code == 429
            left.set() if way == "disconnect" else setattr(served.api, "closing", True)
            await asyncio.wait_for(stream, 10)
            assert sent[-1]["more_body"] is False
            assert served.api.frames.taken == 0
            until_no_stream(served)

    asyncio.run(talk())


# ---- who may ask ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer wrong", "Basic the-token-of-the-tests", "Bearer é"])
def test_without_the_token_nothing_is_told(served: Served, header: str) -> None:
    """401 for every path but health, which tells nothing."""
    for method, path in (("POST", DRAW), ("POST", OBSERVE), ("GET", "/v1/status"), ("GET", "/metrics"), ("GET", "/x")):
        response = served.send(method, path, headers={"authorization": header.encode()})
        assert (response.status_code, error(response)["code"]) == (401, "invalid_api_key")
        assert response.headers["www-authenticate"] == "Bearer"
    health = served.send("GET", "/healthz", headers={"authorization": header.encode()})
    assert (health.status_code, health.json()) == (200, {"status": "ok"})


def test_a_service_without_token_asks_for_none() -> None:
    """And the word Bearer may be written in any case."""
    assert Served(token=None).send("GET", "/v1/status", headers={"authorization": ""}).status_code == 200
    token = {"authorization": "bEARER the-token-of-the-tests"}
    assert Served().send("GET", "/v1/status", headers=token).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1:8471", 200), ("LocalHost", 200), ("[::1]:80", 200), ("evil.example", 403), ("127.0.0.1.evil", 403),
     ("", 403), ("localhost@evil", 403), ("[::2]", 403), ("127.0.0.2", 403)],
)  # fmt: skip
def test_a_host_header_must_name_this_machine(served: Served, host: str, status: int) -> None:
    """A page that points its own name at 127.0.0.1 still sends its own name; on a Unix socket there is no page."""
    assert served.send("GET", "/v1/status", headers={"host": host}).status_code == status
    assert Served(hosts=None).send("GET", "/v1/status", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers", [{"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}]
)
def test_web_pages_are_turned_away(served: Served, headers: dict[str, str]) -> None:
    """Even with the right token; and there is no CORS header on anything, a preflight least of all."""
    response = served.send("GET", "/healthz", headers=headers)
    assert (response.status_code, error(response)["code"]) == (403, "web_page")
    for answer in (response, served.send("OPTIONS", DRAW), served.send("GET", "/v1/status")):
        assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("kind", ["text/plain", "", "application/x-www-form-urlencoded", "text/json"])
def test_what_a_page_may_send_unasked_is_no_request(kind: str) -> None:
    """A form of a page can post text/plain without asking: it is refused also where no token protects."""
    served = Served(token=None)
    for path in (DRAW, OBSERVE):
        response = served.send("POST", path, content=b'{"prompt": ""}', headers={"content-type": kind})
        assert (response.status_code, error(response)["code"]) == (415, "unsupported_media_type")


def test_paths_and_methods_that_are_not_there(served: Served) -> None:
    """404 and 405, in the same shape, with what is allowed."""
    assert error(served.send("GET", "/v1/nothing"))["code"] == "not_found"
    response = served.send("GET", DRAW)
    assert (response.status_code, error(response)["code"], response.headers["allow"]) == (
        405,
        "method_not_allowed",
        "POST",
    )


# ---- limits -----------------------------------------------------------------------------------------------------


async def chunks(n: int, size: int = 1000, pause_s: float = 0.0) -> AsyncIterator[bytes]:
    """A body without a length."""
    for _ in range(n):
        yield b"x" * size
        await asyncio.sleep(pause_s)


def test_bodies_are_counted_as_they_arrive() -> None:
    """One over the limit is refused, whether it says its length or not; a request without a picture may be less."""
    served = Served(Web(request_bytes_max=3000))
    raw = {"headers": {"content-type": "image/png"}, "params": {"emotion": "sad"}}
    limit = 4000 + 8 * 4096
    for options in ({"content": b"x" * (limit + 1)}, {"content": chunks(limit // 1000 + 1)}, {"content": chunks(1000)}):
        response = served.send("POST", OBSERVE, **options, **raw)
        assert (response.status_code, error(response)["code"]) == (413, "too_large")
        assert response.headers["connection"] == "close"
    assert served.device.seen == []
    assert served.send("POST", OBSERVE, content=chunks(4), **raw).status_code == 200
    for content in (b"x" * 3001, chunks(4)):
        response = served.send("POST", DRAW, content=content, headers={"content-type": "application/json"})
        assert response.status_code == 413


def test_a_body_that_trickles_is_given_up() -> None:
    """408, and its place is free again."""
    served = Served(Web(read_s_max=0.05, pictures_waiting_max=1))
    response = served.send("POST", DRAW, content=chunks(100, 1, 0.02), headers={"content-type": "application/json"})
    assert (response.status_code, error(response)["code"]) == (408, "timeout")
    assert served.draw().status_code == 200


def test_past_the_places_of_a_lane_requests_are_sent_away() -> None:
    """Two places: the third request gets 429 and when to come again; status and health answer meanwhile."""
    served = Served(Web(pictures_waiting_max=2))
    served.device.hold.clear()

    async def talk(client: httpx.AsyncClient) -> None:
        waiting = [asyncio.create_task(client.post(DRAW, json={})) for _ in range(2)]
        while served.api.pictures.taken < 2:
            await asyncio.sleep(0.001)
        refused = await client.post(DRAW, content=chunks(3), headers={"content-type": "application/json"})
        assert (refused.status_code, error(refused)["code"]) == (429, "rate_limit_exceeded")
        assert error(refused)["type"] == "rate_limit_error"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert (await client.get("/v1/status")).status_code == 200
        assert (await client.get("/healthz")).status_code == 200
        assert 'evergrove_lane_places_taken{lane="generator"} 2' in (await client.get("/metrics")).text
        served.device.hold.set()
        assert [response.status_code for response in await asyncio.gather(*waiting)] == [200, 200]
        assert (await client.post(DRAW, json={})).status_code == 200

    served.run(talk)


def test_drawing_never_waits_for_the_agent() -> None:
    """Its one place is taken by an observation that hangs: pictures go on, a status is sent away."""
    served = Served(Web(agent_waiting_max=1))
    served.device.hold_agent.clear()

    async def talk(client: httpx.AsyncClient) -> None:
        options: dict[str, Any] = {"headers": {"content-type": "image/png"}, "params": {"emotion": "sad"}}
        stuck = asyncio.create_task(client.post(OBSERVE, content=b"x", **options))
        while served.api.agent.taken < 1:
            await asyncio.sleep(0.001)
        assert (await client.post(DRAW, json={})).status_code == 200
        assert (await client.get("/v1/status")).status_code == 429
        assert "evergrove_agent_up 0" in (await client.get("/metrics")).text
        served.device.hold_agent.set()
        assert (await stuck).status_code == 200
        assert (await client.get("/v1/status")).status_code == 200

    served.run(talk)


def test_who_waits_too_long_is_told_and_nothing_is_done_for_it() -> None:
    """The second request waits for the first one's end in vain: 503, and only one picture is ever drawn."""
    served = Served(Web(wait_s_max=0.05))
    served.device.hold.clear()

    async def talk(client: httpx.AsyncClient) -> None:
        first = asyncio.create_task(client.post(DRAW, json={"seed": 1}))
        while served.api.pictures.taken < 1:
            await asyncio.sleep(0.001)
        late = await client.post(DRAW, json={"seed": 2})
        assert (late.status_code, error(late)["code"]) == (503, "timeout")
        assert int(late.headers["retry-after"]) >= 1
        served.device.hold.set()
        assert (await first).status_code == 200

    served.run(talk)
    assert [item["seed"] for item in served.device.drawn] == [1]


# ---- faults -----------------------------------------------------------------------------------------------------


def every(kind: type[EvergroveError]) -> list[type[EvergroveError]]:
    """A class of the tree and all below it."""
    return [kind, *(below for child in kind.__subclasses__() for below in every(child))]


def test_every_error_of_the_tree_has_a_status() -> None:
    """The caller's faults are 4xx, ours 5xx; the nearest class of the table counts."""
    with_reason = (errors.InvalidMedia, errors.UpdateRefused)
    found = {
        kind.__name__: refusal(kind("undecodable", "x") if kind in with_reason else kind("x")).status_code
        for kind in every(EvergroveError)
        if kind.__module__ == "evergrove.core.errors"
    }
    assert found["UnknownCondition"] == found["InvalidMedia"] == found["UsageError"] == 400
    assert found["AgentBusy"] == found["Unreachable"] == 503
    assert found["CorruptState"] == found["EvergroveError"] == 500
    assert set(found.values()) <= {400, 403, 409, 422, 500, 501, 503}
    assert all(issubclass(kind, EvergroveError) for kind in STATUS)


def test_an_agent_that_is_away_is_said_to_be(served: Served) -> None:
    """503 and when to try again; metrics go on and say it in a number."""
    served.device.fault = Unreachable("no agent answers")
    response = served.send("GET", "/v1/status")
    assert (response.status_code, error(response)["message"]) == (503, "no agent answers")
    assert int(response.headers["retry-after"]) >= 1
    assert "evergrove_agent_up 0" in served.send("GET", "/metrics").text


def test_a_fault_of_the_program_tells_no_secret(served: Served) -> None:
    """500 in the same shape, without its words."""
    served.device.fault = ValueError("a secret")
    response = served.draw()
    assert (response.status_code, error(response)["type"]) == (500, "server_error")
    assert "secret" not in response.text


def test_a_status_is_the_devices_own_and_never_cached(served: Served) -> None:
    """The same document as on the command line."""
    response = served.send("GET", "/v1/status")
    assert response.json()["observed"] == DEVICE_STATUS.observed
    assert response.headers["cache-control"] == "no-store"


def test_metrics_count_and_hold_no_name_of_a_condition(served: Served) -> None:
    """Valid lines only; three pictures in the bucket up to 50 ms; a stranger's path is no label."""
    served.draw(n=3)
    served.send("GET", "/v1/whatever")
    text = served.send("GET", "/metrics").text
    for line in text.splitlines():
        assert line.startswith("# ") or line.count(" ") == 1 or 'reason="' in line, line
        assert line.startswith("# ") or float(line.rpartition(" ")[2]) >= 0
    assert 'evergrove_generate_seconds_bucket{le="0.02"} 0' in text
    assert 'evergrove_generate_seconds_bucket{le="0.05"} 3' in text
    assert 'evergrove_http_requests_total{method="GET",path="other",status="404"} 1' in text
    assert 'evergrove_observations_dropped_total{reason="exact duplicate"} 1' in text
    assert "secret" not in text
    assert "whatever" not in text


def test_health_says_when_the_service_ends(served: Served) -> None:
    """So that a proxy sends nothing more."""
    served.api.closing = True
    response = served.send("GET", "/healthz")
    assert (response.status_code, response.json()) == (503, {"status": "stopping"})


# ---- garbage ----------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
FIELDS = st.sampled_from(("prompt", "condition", "n", "size", "seed", "steps", "guidance", "image", "model", "é"))
KINDS = st.sampled_from(
    (
        "application/json",
        "image/png",
        "multipart/form-data; boundary=b",
        "multipart/form-data; boundary=",
        "text/x",
        "/",
    )
)


@settings(max_examples=150, deadline=None)
@given(
    path=st.sampled_from((DRAW, OBSERVE, "/v1/x")), kind=KINDS, body=st.binary(max_size=300), query=st.text(max_size=20)
)
def test_garbage_never_breaks_it(path: str, kind: str, body: bytes, query: str) -> None:
    """Any bytes with any of these types are answered, and never by a 5xx."""
    response = SHARED.send("POST", path, content=body, headers={"content-type": kind}, params={"emotion": query})
    assert response.status_code < 500, response.text


@settings(max_examples=150, deadline=None)
@given(path=st.sampled_from((DRAW, OBSERVE)), document=st.dictionaries(FIELDS, JSON, max_size=5))
def test_any_json_is_answered(path: str, document: dict[str, Any]) -> None:
    """Right names with wrong values: 200 or an error in the one shape."""
    body = json.dumps(document, ensure_ascii=True).encode()
    response = SHARED.send("POST", path, content=body, headers={"content-type": "application/json"})
    assert response.status_code < 500, response.text
    assert response.status_code == 200 or error(response)["message"]


@settings(max_examples=100, deadline=None)
@given(
    body=st.lists(
        st.sampled_from(
            [
                b"--b",
                b"\r\n",
                b"--",
                b'Content-Disposition: form-data; name="image"',
                b"x",
                b'Content-Disposition: form-data; name="condition"',
                b"emotion=sad",
                b"\r",
                b":",
            ]
        ),
        max_size=25,
    )
)
def test_forms_in_pieces_are_answered(body: list[bytes]) -> None:
    """Forms put together from right pieces in the wrong order."""
    response = SHARED.send("POST", OBSERVE, content=b"".join(body), headers=FORM)
    assert response.status_code < 500, response.text


SHARED = Served()
