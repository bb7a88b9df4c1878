"""What the API answers when it does not do what was asked: one table of HTTP statuses, in the error shape of OpenAI.

In comes an exception (ours, or a framework's), out goes ``{"error": {"message", "type", "param", "code"}}``.
"""

import re

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from evergrove.core import errors
from evergrove.core.errors import EvergroveError, InvalidMedia, UpdateRefused

STATUS: dict[type[EvergroveError], int] = {
    errors.InvalidInput: 400,
    errors.UsageError: 400,
    errors.BudgetSpent: 403,
    errors.GateRejected: 409,
    errors.InvalidArtefact: 500,
    errors.CorruptState: 500,
    errors.ConfigError: 500,
    EvergroveError: 500,
    errors.MissingDependency: 501,
    errors.Unreachable: 503,
}
"""By the nearest class of the tree in ``core/errors``."""

REFUSED_STATUS = {
    "unknown device": 403, "revoked": 403, "token of another": 403, "token reused": 409, "too often": 409,
    "wrong base": 409, "wrong generation": 409, "too soon": 429, "too large": 413, "busy": 503, "closed": 503,
    "budget spent": 403,
}  # fmt: skip
"""Of an update, by its reason; any other is 422: it was understood, and is not sound."""
MESSAGE_CHARS_MAX = 600
UPDATE_RETRY_S = 60
"""The same for an update that comes too early: a cohort takes minutes."""
RETRY_S = 2
"""What a client is told to wait for where nothing better is known: an agent starts within this."""


class Refused(EvergroveError):
    """A request that is refused for what it is as HTTP: its token, size, form, or the moment at which it came.

    ``close`` ends the connection: what is left of the request is not read.
    """

    def __init__(
        self, status: int, code: str, message: str, *, param: str | None = None, retry_s: int = 0, close: bool = False
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.retry_s, self.close = status, code, param, retry_s, close


class Problem(msgspec.Struct, frozen=True):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None
    code: str | None


def json_response(document: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """``document`` (plain values and structs) as a JSON response; what is not finite becomes null."""
    return Response(msgspec.json.encode(document), status, headers, "application/json")


def refusal(fault: EvergroveError) -> Response:
    """The response to an error of ours."""
    if isinstance(fault, Refused):
        headers = {"retry-after": str(fault.retry_s)} if fault.retry_s else {}
        if fault.close:
            headers["connection"] = "close"
        if fault.status == 401:
            headers["www-authenticate"] = "Bearer"
        return problem(fault.status, str(fault), fault.code, fault.param, headers)
    if isinstance(fault, UpdateRefused):
        status = REFUSED_STATUS.get(fault.reason, 422)
        wait = {"retry-after": str(UPDATE_RETRY_S)} if status in (429, 503) else {}
        return problem(status, str(fault), fault.reason.replace(" ", "_"), headers=wait)
    status = next(STATUS[kind] for kind in type(fault).__mro__ if kind in STATUS)
    code = re.sub(r"(?<!^)(?=[A-Z])", "_", type(fault).__name__).lower()
    param = None
    if isinstance(fault, InvalidMedia):
        code, param = fault.reason.replace(" ", "_"), "image"
    elif isinstance(fault, errors.UnknownCondition):
        param = "condition"
    return problem(status, str(fault), code, param, {"retry-after": str(RETRY_S)} if status == 503 else None)


def problem(
    status: int, message: str, code: str | None, param: str | None = None, headers: dict[str, str] | None = None
) -> Response:
    """An error in OpenAI's shape. A message may quote what a stranger sent: it is cut, and made valid UTF-8."""
    text = message.encode("utf-8", "replace").decode()
    if len(text) > MESSAGE_CHARS_MAX:
        text = text[:MESSAGE_CHARS_MAX] + " …"
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    return json_response({"error": Problem(text, kind, param, code)}, status, headers)


def _ours(request: Request, fault: Exception) -> Response:
    assert isinstance(fault, EvergroveError)
    return refusal(fault)


def _theirs(request: Request, fault: Exception) -> Response:
    """What Starlette itself refuses: a path or a method that is not there."""
    assert isinstance(fault, HTTPException)
    words = {404: f"there is no {request.url.path[:80]} here", 405: f"{request.method[:10]} is not possible here"}
    message = words.get(fault.status_code, fault.detail)
    code = {404: "not_found", 405: "method_not_allowed"}.get(fault.status_code)
    return problem(fault.status_code, message, code, None, dict(fault.headers or {}))


def _unforeseen(request: Request, fault: Exception) -> Response:
    """A fault of this program: its words may hold private things, so only the log has them."""
    return problem(500, "the service failed on this request; its log says why", "internal_error")


HANDLERS = {EvergroveError: _ours, HTTPException: _theirs, Exception: _unforeseen}
"""For an application's ``exception_handlers``."""
