"""What apps may ask, checked: bytes become frozen structs and conditions, or a refusal that names the field.

Unknown fields are refused by name. Nothing here trusts a length, an encoding or a nesting that a stranger sent, and no
picture touches the disk (an observation is private, and a spooled upload would not be).
"""

import asyncio
import base64
import binascii
import re
import shlex
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from evergrove.core.conditions import nearest, of_words
from evergrove.core.errors import UsageError
from evergrove.runtime.stream import FPS_MAX
from evergrove.web.answers import Refused

T = TypeVar("T", bound=msgspec.Struct)
PICTURES_MAX = 10
SIDE_PX_MIN, SIDE_PX_MAX = 8, 1024
SEED_MAX = 2**53 - PICTURES_MAX - 1
"""Every seed of a request is an integer that JSON can carry."""
FACTORS_MAX, WORD_CHARS_MAX = 32, 64
FPS_MIN = 1.0
"""A slower stream would hold its thread, and the end of the service, for longer than a second."""
PARTS_MAX = 8
FORM_BYTES_MAX = 4096
"""What the fields and boundaries of a form may need beside the picture."""


class ImagesRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``POST /v1/images/generations``: OpenAI's fields, and ours (condition, seed, steps, guidance).

    ``model`` and ``user`` are taken because clients send them, and neither used nor kept: a device has one model.
    """

    prompt: str = ""
    condition: dict[str, str] | None = None
    n: Annotated[int, Meta(ge=1, le=PICTURES_MAX)] | None = None
    size: str | None = None
    seed: Annotated[int, Meta(ge=0, le=SEED_MAX)] | None = None
    steps: int | None = None
    guidance: float | None = None
    response_format: str | None = None
    output_format: str | None = None
    model: str | None = None
    user: str | None = None


class ObservationRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``POST /v1/observations`` as JSON: ``image`` is base64 of an encoded picture, bare or as a ``data:`` URL."""

    image: str
    condition: dict[str, str]


class StreamQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The query of ``GET /v1/stream``. ``frames`` None: until somebody stops it; ``format``: the form of the answer."""

    prompt: str = ""
    fps: Annotated[float, Meta(ge=FPS_MIN, le=FPS_MAX)] = 10.0
    frames: Annotated[int, Meta(ge=1)] | None = None
    size: str | None = None
    seed: Annotated[int, Meta(ge=0, le=SEED_MAX)] | None = None
    steps: int | None = None
    guidance: float | None = None
    format: Literal["multipart", "ndjson"] = "multipart"


class Order(msgspec.Struct, frozen=True):
    """A checked request for pictures. ``side_px`` None is the size that the release draws."""

    condition: dict[str, str]
    n: int
    side_px: int | None
    seed: int | None
    steps: int | None
    guidance: float | None


# ---- bodies -----------------------------------------------------------------------------------------------------


async def read_body(request: Request, n_bytes_max: int, timeout_s: float) -> bytes:
    """The whole body, counted as it arrives. Raises ``Refused``: 413 over the limit, 408 when it takes too long."""
    too_large = Refused(413, "too_large", f"a body of more than {n_bytes_max} bytes is refused here", close=True)
    said = request.headers.get("content-length", "")
    if said.isdecimal() and int(said[:20]) > n_bytes_max:
        raise too_large
    chunks, n_bytes = [], 0
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.stream():
                n_bytes += len(chunk)
                if n_bytes <= n_bytes_max:
                    chunks.append(chunk)
                elif n_bytes > 2 * n_bytes_max:  # so far it is read and dropped: a client still sending hears nothing
                    raise too_large
    except TimeoutError as fault:
        raise Refused(408, "timeout", f"the body was not complete after {timeout_s:g} s", close=True) from fault
    except ClientDisconnect as fault:
        raise Refused(400, "cut_off", "the body was cut off", close=True) from fault
    if n_bytes > n_bytes_max:
        raise too_large
    return b"".join(chunks)


def query_of(request: Request) -> dict[str, str]:
    """The query, each word of it once. Raises ``Refused`` 400."""
    query: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in query:
            raise Refused(400, "invalid_value", f"'{name[:40]}' stands twice in the query", param=name[:40])
        query[name] = value
    return query


def media_type(request: Request) -> str:
    """The content type without its parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def parse(body: bytes, kind: type[T]) -> T:
    """A JSON body as a struct. Raises ``Refused`` 400 that names the field."""
    try:
        document: Any = msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as fault:
        raise Refused(400, "invalid_json", f"the body is not valid JSON: {fault}") from fault
    if not isinstance(document, dict):
        raise Refused(400, "invalid_json", 'the body must be one JSON object, for instance {"prompt": "emotion=happy"}')
    return fit(document, kind)


def fit(document: dict[str, Any], kind: type[T], strict: bool = True) -> T:
    """Named values as a struct; not ``strict``: numbers may be text, as in a query. Raises ``Refused`` 400."""
    known = list(kind.__struct_fields__)
    unknown = [name for name in document if name not in known]
    if unknown:
        names = ", ".join(f"'{name[:40]}'" for name in unknown[:5])
        first = unknown[0][:40]
        raise Refused(400, "unknown_field", f"unknown field {names}{nearest(first, known)}", param=first)
    try:
        return msgspec.convert(document, kind, strict=strict)
    except (msgspec.ValidationError, RecursionError) as fault:
        at = re.search(r"(?:\$\.|required field `)([a-z_]+)", str(fault))
        raise Refused(400, "invalid_value", str(fault), param=at.group(1) if at else None) from fault


# ---- pictures ---------------------------------------------------------------------------------------------------


def order_of(asked: ImagesRequest) -> Order:
    """What to draw. Raises ``Refused`` 400 for what this API cannot give, ``UsageError`` for a prompt in no form."""
    if asked.response_format not in (None, "b64_json"):
        raise Refused(400, "invalid_value", "response_format can only be 'b64_json'", param="response_format")
    if asked.output_format not in (None, "png"):
        raise Refused(400, "invalid_value", "output_format can only be 'png'", param="output_format")
    return Order(
        condition=prompt_condition(asked.prompt, asked.condition),
        n=asked.n or 1,
        side_px=side_of(asked.size),
        seed=asked.seed,
        steps=asked.steps,
        guidance=asked.guidance,
    )


def prompt_condition(prompt: str, condition: Mapping[str, str] | None = None, param: str = "prompt") -> dict[str, str]:
    """The condition of a prompt such as ``emotion=happy hair="long bob"`` and of the field ``condition`` together."""
    try:
        said = of_words(shlex.split(prompt.replace(",", " ")))
    except (UsageError, ValueError) as fault:
        raise Refused(
            400,
            "invalid_value",
            f'{fault}. A prompt here is a condition, such as "emotion=happy hair=bob"; GET /v1/status lists the words',
            param=param,
        ) from fault
    for factor, value in (condition or {}).items():
        if said.get(factor, value) != value:
            raise Refused(
                400, "invalid_value", f"prompt and condition disagree about {factor[:WORD_CHARS_MAX]}", param="prompt"
            )
    return checked({**said, **(condition or {})})


def checked(condition: dict[str, str]) -> dict[str, str]:
    """A condition of a bounded number of short, printable words. Raises ``Refused`` 400."""
    if len(condition) > FACTORS_MAX:
        raise Refused(400, "invalid_value", f"a condition of {len(condition)} factors", param="condition")
    for word in (*condition, *condition.values()):
        if not 0 < len(word) <= WORD_CHARS_MAX or not word.isprintable():
            raise Refused(
                400,
                "invalid_value",
                f"{word[:WORD_CHARS_MAX]!r}: a factor and its value are 1 to {WORD_CHARS_MAX} printable characters",
                param="condition",
            )
    return condition


def side_of(size: str | None) -> int | None:
    """The side of a square such as ``64x64``; None for as drawn. Raises ``Refused`` 400."""
    if size in (None, "auto"):
        return None
    form = re.fullmatch(r"([0-9]{1,4})x([0-9]{1,4})", size or "")
    if form and form[1] == form[2] and SIDE_PX_MIN <= int(form[1]) <= SIDE_PX_MAX:
        return int(form[1])
    raise Refused(
        400,
        "invalid_value",
        f"size is 'auto' (as the release draws) or a square, its side {SIDE_PX_MIN} to {SIDE_PX_MAX}, such as 64x64",
        param="size",
    )


# ---- observations -----------------------------------------------------------------------------------------------


def body_limit(kind: str, n_bytes_max: int) -> int:
    """How large the body of an observation may be: the picture's own limit, and what its wrapping adds."""
    wrapped = (n_bytes_max + 2) // 3 * 4 if kind == "application/json" else n_bytes_max
    return wrapped + FORM_BYTES_MAX * PARTS_MAX


def observation_of(request: Request, kind: str, body: bytes) -> tuple[bytes, dict[str, str]]:
    """The encoded picture and the condition of an observation in any of the three forms. Raises ``Refused``.

    JSON (``ObservationRequest``); a form with a file ``image`` and a text ``condition``; or the bare picture with its
    condition in the query, ``?emotion=happy&hair=bob``.
    """
    if kind == "application/json":
        asked = parse(body, ObservationRequest)
        media, condition = _base64(asked.image), checked(asked.condition)
    elif kind == "multipart/form-data":
        parts = form_parts(body, request.headers.get("content-type", ""))
        media = parts["image"]
        condition = prompt_condition(_text(parts["condition"]), param="condition")
    else:
        media, condition = body, checked(query_of(request))
    if not media:
        raise Refused(400, "invalid_value", "the picture is empty", param="image")
    if not condition:
        message = "what does the picture show? Give its condition, such as emotion=happy"
        raise Refused(400, "invalid_value", message, param="condition")
    return media, condition


def form_parts(body: bytes, content_type: str) -> dict[str, bytes]:
    """The two parts of a form, by name. Raises ``Refused`` 400 for a form that has others, or is malformed."""
    _, options = parse_options_header(content_type)
    parts: list[tuple[dict[str, bytes], bytearray]] = []
    name, value, whole = bytearray(), bytearray(), []

    def begin() -> None:
        if len(parts) == PARTS_MAX:
            raise FormParserError(f"more than {PARTS_MAX} parts")
        parts.append(({}, bytearray()))

    def end_header() -> None:
        parts[-1][0][name.decode("latin-1").lower()] = bytes(value)
        name.clear()
        value.clear()

    try:
        parser = MultipartParser(
            options.get(b"boundary", b""),
            {
                "on_part_begin": begin,
                "on_part_data": lambda data, start, end: parts[-1][1].extend(data[start:end]),
                "on_header_field": lambda data, start, end: name.extend(data[start:end]),
                "on_header_value": lambda data, start, end: value.extend(data[start:end]),
                "on_header_end": end_header,
                "on_end": lambda: whole.append(True),
            },
        )
        parser.write(body)
        parser.finalize()
        if not whole:
            raise FormParserError("it is cut off before its last boundary")
    except (FormParserError, ValueError) as fault:
        raise Refused(400, "invalid_form", f"the form is malformed: {fault}", param="image") from fault
    found: dict[str, bytes] = {}
    for headers, content in parts:
        _, words = parse_options_header(headers.get("content-disposition", b""))
        key = words.get(b"name", b"").decode("utf-8", "replace")
        if key not in ("image", "condition") or key in found:
            what = f"part '{key[:40]}'" + (" twice" if key in found else "")
            raise Refused(400, "unknown_field", f"{what}: a form holds one file 'image' and one text 'condition'")
        found[key] = bytes(content)
    for key in ("image", "condition"):
        if key not in found:
            raise Refused(400, "invalid_form", f"the form has no part '{key}'", param=key)
    return found


def _text(data: bytes) -> str:
    try:
        return data[: FORM_BYTES_MAX + 1].decode()
    except UnicodeDecodeError as fault:
        raise Refused(400, "invalid_value", "the condition is not UTF-8", param="condition") from fault


def _base64(text: str) -> bytes:
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as fault:
        raise Refused(400, "invalid_value", f"image is not base64: {fault}", param="image") from fault
