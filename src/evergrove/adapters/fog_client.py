"""A device's line to its fog: HTTPS that the device starts, by its own certificate (``core.ports.Fog``, and updates).

Needs httpx. Every answer is bounded, every wait too; a refusal comes back as the error that it was at the fog.
"""

import contextlib
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import httpx
import msgspec
from cryptography.hazmat.primitives.serialization import Encoding

from evergrove.adapters import certificates as x
from evergrove.adapters.files import Files, read_bounded
from evergrove.core.errors import CorruptState, InvalidInput, Unreachable, UpdateRefused, UsageError
from evergrove.core.fog import Reason, Receipt, Terms
from evergrove.core.transport import Report

if TYPE_CHECKING:
    from evergrove.adapters.tuf_client import Source

T = TypeVar("T")
CA, IDENTITY, KEY = "ca.pem", "device.pem", "enrolling.key"
"""The authority; the device's key and certificate, in one file lest they be of two; its key until it is enrolled."""
SMALL_BYTES_MAX = 1 << 20
ASSIST_BYTES_MAX = 64 << 20
POLL_SLACK_S = 30.0
RENEW_S = 30 * 86_400.0
REQUEST_BYTES = 600
"""About what a request for a certificate weighs."""
_REASONS = frozenset(get_args(Reason))
Ledger = Callable[[str, int, str], object]
"""(category, bytes, peer): called before a request is sent; what it raises stops the request."""
CATEGORIES = {"/v1/terms": "terms_request", "/v1/releases": "release_poll", "/v1/renew": "renewal",
              "/v1/reports": Report.category}  # fmt: skip
"""How requests stand in the byte ledger. Updates, assists and trusted work are entered by who makes them."""
RELEASE_FILES, RELEASE_REQUEST = "/v1/releases/", "release_request"


class FogClient:
    """Thread-safe. Blocks; raises ``Unreachable`` where nobody answers in time."""

    def __init__(
        self,
        url: str,
        tls: ssl.SSLContext,
        timeout_s: float = 60.0,
        help_s: float = 3600.0,
        bytes_max: int = ASSIST_BYTES_MAX,
        ledger: Ledger | None = None,
    ) -> None:
        """``url`` is https://host:port; ``help_s`` how long an assist or trusted work may take.

        ``ledger`` hears of every request in ``CATEGORIES`` before it is sent: its target and body, in bytes.
        """
        if not url.startswith("https://"):
            raise UsageError(f"'{url[:80]}': a fog is spoken to by https:// only")
        self._url, self._timeout_s, self._help_s, self._bytes_max = url.rstrip("/"), timeout_s, help_s, bytes_max
        self._http = httpx.Client(
            verify=tls, timeout=timeout_s, trust_env=False, follow_redirects=False,
            limits=httpx.Limits(max_connections=4, max_keepalive_connections=1, keepalive_expiry=10.0),
            event_hooks={"request": [self._enter]},
        )  # fmt: skip
        self._ledger = ledger

    @property
    def peer(self) -> str:
        """The name that stands in the byte ledger."""
        return self._url

    def close(self) -> None:
        """Closes the line."""
        self._http.close()

    def terms(self) -> Terms:
        """The plan that the fog gathers by, and what protects who takes part. Raises ``UpdateRefused``: closed."""
        return _decoded(self._ask("GET", "/v1/terms"), Terms)

    def submit(self, frame: bytes) -> Receipt:
        """Sends an update (``transport.frame``). Raises ``UpdateRefused`` with the fog's word."""
        return _decoded(self._ask("POST", "/v1/updates", content=frame), Receipt)

    def news(self, seen: str = "", wait_s: float = 0.0) -> str:
        """The tag of the newest release, as soon as it is another than ``seen``, or ``wait_s`` are over."""
        query = {"seen": seen, "wait_s": str(wait_s)}
        answer = self._ask("GET", "/v1/releases", params=query, timeout_s=wait_s + POLL_SLACK_S)
        return _decoded(answer, dict[str, str]).get("tag", "")

    def file(self, name: str, bytes_max: int) -> bytes:
        """One file of the releases' folder. Raises ``InvalidInput`` where there is none, or it is larger."""
        return self._ask("GET", f"/v1/releases/{name}", bytes_max=bytes_max)

    def source(self) -> "Source":
        """Where the fog's releases are read from, for ``tuf_client.ReleaseClient``."""
        from evergrove.adapters.tuf_client import from_http

        return from_http(self._http, f"{self._url}/v1/releases")

    def report(self, report: Report) -> None:
        """Says how a release fared here; twice is as good as once."""
        body = {"rollout": report.rollout, "mark": report.mark, "shadow": report.shadow}
        self._ask("POST", "/v1/reports", content=msgspec.json.encode(body))

    def metrics(self) -> str:
        """What Prometheus reads of the fog."""
        return self._ask("GET", "/metrics").decode("utf-8", "replace")

    def assist(self, release: str) -> bytes:
        """The signed assist of a release."""
        return self._ask("GET", f"/v1/assists/{release}", bytes_max=self._bytes_max, timeout_s=self._help_s)

    def trusted(self, request: bytes) -> bytes:
        """The answer to a ``TrustedRequest``."""
        return self._ask("POST", "/v1/trusted", content=request, bytes_max=self._bytes_max, timeout_s=self._help_s)

    def renew(self, folder: Path, files: Files | None = None) -> None:
        """Replaces the device's key and certificate in its folder; the next client uses them."""
        key = x.new_key()
        body = msgspec.json.encode({"request": x.request_pem(key).decode()})
        given = _decoded(self._ask("POST", "/v1/renew", content=body), dict[str, str])
        _save(folder, key, given, files or Files())

    def _enter(self, request: httpx.Request) -> None:
        """Into the byte ledger, before it leaves."""
        path = request.url.path
        category = RELEASE_REQUEST if path.startswith(RELEASE_FILES) else CATEGORIES.get(path)
        if self._ledger is not None and category is not None:
            size = len(request.method) + len(request.url.raw_path) + int(request.headers.get("content-length", 0))
            self._ledger(category, size, self._url)

    def _ask(
        self, method: str, path: str, *, content: bytes | None = None, params: dict[str, str] | None = None,
        bytes_max: int = SMALL_BYTES_MAX, timeout_s: float | None = None,
    ) -> bytes:  # fmt: skip
        wait = httpx.Timeout(self._timeout_s if timeout_s is None else timeout_s, connect=min(self._timeout_s, 10.0))
        return _asked(self._http, method, self._url + path, content, params, bytes_max, wait)


def enrol(url: str, ca: bytes, token: str, folder: Path, files: Files | None = None) -> str:
    """Enrols a device: makes its key, and keeps key, certificate and authority in ``folder``; the device's name.

    ``ca`` is the authority's certificate, which came with the token: it is how the fog is known. The key is kept before
    the token is used, so that a lost answer costs nothing: call it again with the same folder and token.
    """
    files = files or Files()
    files.make_folder(folder)
    if not (folder / KEY).exists():
        files.write(folder / KEY, x.key_pem(x.new_key()))
    files.write(folder / CA, ca)
    key = x.load_key((folder / KEY).read_bytes(), str(folder / KEY))
    with httpx.Client(verify=x.client_context(folder / CA), timeout=60.0, trust_env=False) as http:
        body = msgspec.json.encode({"token": token, "request": x.request_pem(key).decode()})
        data = _asked(http, "POST", f"{url.rstrip('/')}/v1/enrol", body, None, SMALL_BYTES_MAX, httpx.Timeout(60.0))
    given = _decoded(data, dict[str, str])
    _save(folder, key, given, files)
    files.remove(folder / KEY)
    return given.get("device", "")


def connect(url: str, folder: Path, timeout_s: float = 60.0, ledger: Ledger | None = None) -> FogClient:
    """The line of a device that ``enrol`` made. Raises ``CorruptState`` where its certificates cannot be used."""
    return FogClient(url, x.client_context(folder / CA, folder / IDENTITY), timeout_s, ledger=ledger)


def join(url: str, folder: Path, now_s: float, ledger: Ledger | None = None) -> tuple[str, FogClient]:
    """The name of an enrolled device, and its line; a certificate that ends within ``RENEW_S`` is renewed first."""
    peer, client = _peer(folder), connect(url, folder, ledger=ledger)
    if now_s < peer.not_after_s < now_s + RENEW_S:
        with contextlib.closing(client):
            client.renew(folder)
        client = connect(url, folder, ledger=ledger)
    return peer.device, client


def member(folder: Path) -> str:
    """The name that the fleet knows an enrolled device by: it stands in its certificate. Raises ``CorruptState``."""
    return _peer(folder).device


def _peer(folder: Path) -> x.Peer:
    path = folder / IDENTITY
    try:
        certificate = x.load_certificate(read_bounded(path, x.PEM_BYTES_MAX), str(path))
        peer = x.peer_of(certificate.public_bytes(Encoding.DER))
    except (OSError, InvalidInput) as fault:
        raise CorruptState(f"{path}: {fault}; enrol the device again") from fault
    if peer is None:
        raise CorruptState(f"{path}: the certificate names no device; enrol the device again")
    return peer


def _save(folder: Path, key: x.Key, given: dict[str, str], files: Files) -> None:
    certificate = given.get("certificate", "").encode()
    if x.load_certificate(certificate, "the fog's answer").public_key() != key.public_key():
        raise InvalidInput("the fog gave a certificate for another key")
    files.write(folder / IDENTITY, x.key_pem(key) + certificate)


def _asked(
    http: httpx.Client, method: str, url: str, content: bytes | None, params: dict[str, str] | None, bytes_max: int,
    wait: httpx.Timeout,
) -> bytes:  # fmt: skip
    kind = "application/json" if content is not None and content[:1] == b"{" else "application/octet-stream"
    headers = {"content-type": kind} if content is not None else {}
    try:
        with http.stream(method, url, content=content, params=params, headers=headers, timeout=wait) as answer:
            data = bytearray()
            for part in answer.iter_raw():
                data += part
                if len(data) > bytes_max:
                    raise InvalidInput(f"the fog's answer is larger than the {bytes_max} bytes that were expected")
    except httpx.HTTPError as fault:
        raise Unreachable(
            f"the fog at {url.partition('/v1')[0]} does not answer: {fault or type(fault).__name__}"
        ) from fault
    if answer.status_code in (200, 204, 206):
        return bytes(data)
    raise _error(answer.status_code, bytes(data))


def _error(status: int, data: bytes) -> Exception:
    """The fog's refusal as the error that it was."""
    try:
        problem: Any = msgspec.json.decode(data)["error"]
        code, message = str(problem["code"]), str(problem["message"])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError, TypeError):
        return Unreachable(f"the fog answered with status {status}")
    reason = code.replace("_", " ")
    if reason in _REASONS:
        return UpdateRefused(reason, message)
    if status in (408, 429) or status >= 500:
        return Unreachable(f"the fog cannot answer now: {message}")
    return InvalidInput(f"the fog refused: {message}")


def _decoded(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as fault:
        raise InvalidInput(f"the fog's answer was not understood ({fault}); is it of another version?") from fault
