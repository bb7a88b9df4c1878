"""A fog's own door on its loopback address: where the process beside it fetches closed cohorts and acknowledges them.

The contract, for who serves it:

``GET /internal/cohorts?after=ID`` → 200, ``application/msgpack``: a list of maps, one for each cohort that is summed,
noised, durable and **not acknowledged**, in the order of closing, beginning after the cohort called ID. An ID that is
empty, acknowledged or unknown means: from the first. The fields are those of ``core/sums.NoisedSum``: id (SHA-256 in
hex, ``core/sums.content_id``), generation, base, basis, n_updates, denominator, noise (a flat map, or nil), vector
(little-endian float32 bytes), number (the cohort's in its generation), counts (of norms, integers; may be empty). The
same bytes come again after any crash. A fog may give fewer than it has; at most ``ANSWER_BYTES_MAX`` bytes.

``POST /internal/cohorts/{id}/acknowledged`` → 204, also when it was before; 404 for an id that the fog never had. Once
it is answered the sum may be deleted: the cloud has it, durably.

``GET /internal/reports?after=N`` → 200, ``application/msgpack``: a list of maps {position, device, rollout, mark,
shadow}, what devices have said of releases after that position, in order, at most 1000. A fog without it answers 404.

Where the fog asks for one, ``Authorization: Bearer TOKEN`` is sent. Served on a loopback address only.
"""

import ipaddress
import time
from collections.abc import Callable
from typing import Protocol
from urllib.parse import quote, urlsplit

import httpx
import msgspec

from evergrove.adapters.flower.port import SUMS_MAX, WAIT_S_MAX, Answer, Question, check_reports
from evergrove.core import sums
from evergrove.core.errors import ConfigError, InvalidInput, Unreachable
from evergrove.core.rollout import DeviceReport
from evergrove.core.sums import NoisedSum

ANSWER_BYTES_MAX = 256 << 20
REPORTS_BYTES_MAX = 1 << 20
TIMEOUT_S = 30.0
POLL_S = 0.5
"""Between two looks at the fog while a question waits."""


class Door(Protocol):
    """What a question is answered from: the door over HTTP, or the fog itself where it is in this process."""

    def cohorts(self, after: str) -> list[NoisedSum]:
        """Closed cohorts after this one."""

    def reports(self, after: int) -> list[DeviceReport]:
        """What devices have said after this position."""

    def acknowledge(self, id: str) -> None:
        """The cloud has this sum, durably."""


class FogDoor:
    """The client of that door. ``url`` such as ``http://127.0.0.1:8472``; ``token`` None sends none."""

    def __init__(self, url: str, token: str | None = None) -> None:
        host = urlsplit(url).hostname or ""
        if urlsplit(url).scheme != "http" or not _is_loopback(host):
            raise ConfigError(f"fog-url {url!r}: cohorts are fetched by http from a loopback address only")
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT_S, trust_env=False)

    def cohorts(self, after: str) -> list[NoisedSum]:
        """Closed cohorts after this one. Raises ``Unreachable``, and ``InvalidInput`` for an answer of another form."""
        data = bytearray()
        try:
            with self._http.stream("GET", "/internal/cohorts", params={"after": after}) as response:
                for part in response.iter_bytes():
                    data += part
                    if len(data) > ANSWER_BYTES_MAX:
                        raise InvalidInput(
                            f"the fog's cohorts are more than {ANSWER_BYTES_MAX} bytes; it must give fewer"
                        )
        except httpx.HTTPError as fault:
            raise Unreachable(f"the fog does not answer on {self._http.base_url}: {fault}") from fault
        if response.status_code != 200:
            raise Unreachable(f"the fog answered {response.status_code} when asked for cohorts; see its log")
        return sums.decode(bytes(data))

    def reports(self, after: int) -> list[DeviceReport]:
        """What devices have said after this position. Raises as ``cohorts`` does."""
        try:
            with self._http.stream("GET", "/internal/reports", params={"after": after}) as response:
                data = bytearray()
                for part in response.iter_bytes():
                    data += part
                    if len(data) > REPORTS_BYTES_MAX:
                        raise InvalidInput(f"the fog's reports are more than {REPORTS_BYTES_MAX} bytes")
        except httpx.HTTPError as fault:
            raise Unreachable(f"the fog does not answer on {self._http.base_url}: {fault}") from fault
        if response.status_code == 404:
            return []
        if response.status_code != 200:
            raise Unreachable(f"the fog answered {response.status_code} when asked for reports; see its log")
        try:
            found: list[DeviceReport] = _decoder.decode(bytes(data))
        except (msgspec.ValidationError, msgspec.DecodeError) as fault:
            raise InvalidInput(f"the fog's reports were not understood: {fault}; update the older side") from fault
        check_reports(found, after)
        return found

    def acknowledge(self, id: str) -> None:
        """Says that the cloud has this sum. One that the fog does not know is fine. Raises ``Unreachable``."""
        try:
            response = self._http.post(f"/internal/cohorts/{quote(id, safe='')}/acknowledged")
        except httpx.HTTPError as fault:
            raise Unreachable(f"the fog does not answer on {self._http.base_url}: {fault}") from fault
        if response.status_code not in (200, 204, 404):
            raise Unreachable(f"the fog answered {response.status_code} to an acknowledgement; see its log")

    def close(self) -> None:
        """Gives the connection back."""
        self._http.close()


def answer(
    question: Question,
    door: Door,
    fog: str,
    now_s: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Answer:
    """A fog's answer: acknowledges first, then gives what there is, waiting for it no longer than it is asked to.

    Raises ``Unreachable`` and ``InvalidInput`` as ``FogDoor`` does: a damaged sum never goes up.
    """
    for id in question.acknowledge[:SUMS_MAX]:
        door.acknowledge(id)
    until_s = now_s() + min(question.wait_s, WAIT_S_MAX)
    while True:
        found, reports = door.cohorts(question.after), door.reports(question.reports_after)
        if found or reports or now_s() >= until_s:
            break
        sleep(min(POLL_S, max(until_s - now_s(), 0.0)))
    given = tuple(found[: max(1, min(question.limit, SUMS_MAX))])
    for one in given:
        sums.check(one)
    return Answer(fog, question.acknowledge[:SUMS_MAX], given, tuple(reports))


_decoder = msgspec.msgpack.Decoder(list[DeviceReport])


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
