"""The fog over a real line: enrolled by a token, known by a certificate, counted once, refused in words."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest
from fogs import LAYOUT, RELEASE, body, head, plan, vector
from lines import Line

from evergrove.adapters import certificates as x
from evergrove.adapters import fog_client
from evergrove.adapters.authority import CA, DEVICE_VALID_S, Authority
from evergrove.adapters.fog_client import IDENTITY, KEY, FogClient, connect, enrol
from evergrove.adapters.outbox import Outbox
from evergrove.core import fog, transport
from evergrove.core.errors import CorruptState, InvalidInput, Unreachable, UpdateRefused, UsageError
from evergrove.core.fog import Cohort, Receipt
from evergrove.core.sections import FogWeb
from evergrove.rules import params


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    """A fog that gathers."""
    made = Line(tmp_path)
    made.open()
    yield made
    made.close()


@pytest.fixture
def clients() -> Iterator[list[FogClient]]:
    """Closed at the end."""
    made: list[FogClient] = []
    yield made
    for client in made:
        client.close()


@pytest.fixture
def join(line: Line, clients: list[FogClient]) -> Callable[[str], FogClient]:
    """Enrols and connects a device."""

    def one(device: str) -> FogClient:
        clients.append(line.join(device))
        return clients[-1]

    return one


def until(condition: Callable[[], object], s: float = 60.0) -> None:
    """Waits for what happens in another thread."""
    deadline_s = time.monotonic() + s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen"
        time.sleep(0.02)


def raw(line: Line, device: str | None) -> httpx.Client:
    """A client without our manners."""
    ca = line.folder / "ca" / CA
    tls = x.client_context(ca, line.folder / "devices" / device / IDENTITY) if device else x.client_context(ca)
    return httpx.Client(base_url=line.url, verify=tls, trust_env=False, timeout=10.0)


# ---- the main path ---------------------------------------------------------------------------------------------------


def test_three_devices_make_a_cohort_over_the_line(line: Line, join: Callable[[str], FogClient]) -> None:
    """Enrol, terms, outbox, receipts; the sum is there and the updates are gone; ε = ∞ is said to every device."""
    ledger: list[tuple[str, int, str]] = []
    for i, device in enumerate("abc"):
        client = join(device)
        terms = client.terms()
        assert terms.epsilon is None
        assert "NO NOISE: ε = ∞" in terms.protection
        box = Outbox(line.folder / "devices" / device / "outbox", device)
        token = box.put(vector(i), LAYOUT, RELEASE, terms, bytes([i]) * 16)
        (fate,) = box.deliver(client, time.time(), 0.5, lambda *entry: ledger.append(entry))
        assert fate.receipt == Receipt(token, Cohort(1, 0), False)
        assert box.waiting() == []
    until(lambda: line.service.ready())
    total = params.decode(line.store.read_sum(Cohort(1, 0)), LAYOUT)
    assert np.allclose(total, sum(vector(i) for i in range(3)), atol=1e-3)  # float16 on the way
    assert {(kind, peer) for kind, _, peer in ledger} == {("update", line.url)}
    until(lambda: list((line.folder / "fog" / "bodies").iterdir()) == [])
    text = client.terms()
    assert (text.cohort, text.fog) == (1, "north")
    with raw(line, None) as http:
        metrics = http.get("/metrics").text
    assert 'evergrove_fog_updates_total{outcome="counted"} 3' in metrics
    assert "evergrove_fog_epsilon_budget +Inf" in metrics


def test_a_lost_acknowledgement_costs_nothing(line: Line, join: Callable[[str], FogClient]) -> None:
    """The device that never saw it sends again, and is told that it is counted already."""
    client = join("a")
    frame = transport.frame(head("a", body(1)), body(1))
    assert not client.submit(frame).repeated
    assert client.submit(frame).repeated
    assert line.store.state().n_updates == 1


def test_every_refusal_comes_back_as_what_it_was(line: Line, join: Callable[[str], FogClient]) -> None:
    """By its reason; the line is still good for the next request."""
    client = join("a")
    nan = body(1)[:-4] + np.array([np.nan], "<f4").tobytes()
    for update, data, reason in (
        (head("a", body(1), base="ff" * 32), body(1), "wrong base"),
        (head("b", body(1)), body(1), "token of another"),
        (head("a", nan), nan, "not finite"),
        (head("a", body(1, 1e4)), body(1, 1e4), "enormous norm"),
        (head("a", body(2)), body(1), "wrong digest"),
        (head("a", bytes(999)), bytes(999), "too large"),
    ):
        with pytest.raises(UpdateRefused) as caught:
            client.submit(transport.frame(update, data))
        assert caught.value.reason == reason
    assert isinstance(client.submit(transport.frame(head("a", body(1)), body(1))), Receipt)
    refused = [event.reason for _, _, event in line.store.events() if isinstance(event, fog.UpdateRefused)]
    assert len(refused) == 6


def test_a_device_waits_for_news_and_fetches_files(line: Line, join: Callable[[str], FogClient]) -> None:
    """Woken within the second; an old tag is answered at once; no file outside of the folder."""
    client = join("a")
    assert client.news() == ""
    threading.Timer(0.3, lambda: (line.releases / "timestamp.json").write_text("{}")).start()
    start_s = time.monotonic()
    tag = client.news("", wait_s=20.0)
    assert tag != ""
    assert time.monotonic() - start_s < 10
    assert client.news("old", wait_s=20.0) == tag
    assert client.news(tag, wait_s=0.05) == tag
    (line.releases / "targets").mkdir()
    (line.releases / "targets" / "base.safetensors").write_bytes(b"x" * 5000)
    (line.releases / ".hidden").write_text("x")
    (line.releases / "out").symlink_to(line.folder / "fog.key")
    assert client.file("targets/base.safetensors", 5000) == b"x" * 5000
    with pytest.raises(InvalidInput, match="larger than the 4999"):
        client.file("targets/base.safetensors", 4999)
    for bad in ("missing", ".hidden", "out", "targets", "targets%2f..%2ftimestamp.json", "%2e%2e%2ffog.key", "a//b"):
        with pytest.raises(InvalidInput, match=r"no such file|there is no"):
            client.file(bad, 10**6)


# ---- who is it? ------------------------------------------------------------------------------------------------------


def test_without_a_certificate_only_enrolling_is_possible(line: Line, join: Callable[[str], FogClient]) -> None:
    """401 and why; health needs none."""
    join("a")
    with raw(line, None) as http:
        for method, path in (
            ("GET", "/v1/terms"), ("POST", "/v1/updates"), ("GET", "/v1/releases"), ("GET", "/v1/releases/x"),
            ("GET", "/v1/assists/x"), ("POST", "/v1/trusted"), ("POST", "/v1/renew"),
        ):  # fmt: skip
            answer = http.request(method, path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "certificate_required"), path
        assert http.get("/healthz").json() == {"status": "ok"}
        assert http.get("/v1/elsewhere").status_code == 404
    with raw(line, "a") as http:
        assert http.get("/v1/terms", headers={"origin": "https://page.example"}).status_code == 403


def test_a_token_is_good_once_over_the_line(line: Line, tmp_path: Path) -> None:
    """Reused by another: refused; by the same device, whose answer was lost: the same certificate."""
    token = line.authority.issue_token(time.time(), "kitchen")
    ca = line.authority.ca_pem
    assert enrol(line.url, ca, token, tmp_path / "one") == "kitchen"
    assert not (tmp_path / "one" / KEY).exists()
    with pytest.raises(InvalidInput, match="used already"):
        enrol(line.url, ca, token, tmp_path / "two")
    assert (tmp_path / "two" / KEY).exists()
    for bad in ("nonsense", "x" * 5000):
        with pytest.raises(InvalidInput, match="token"):
            enrol(line.url, ca, bad, tmp_path / "three")
    with raw(line, None) as http:
        assert http.post("/v1/enrol", content=b"{").status_code == 400
        assert http.post("/v1/enrol", json={"token": "x", "request": "y", "more": 1}).status_code == 400
        assert http.post("/v1/enrol", json={"token": "x", "request": "y"}).status_code == 400
        assert http.post("/v1/enrol", content=b"x" * 200_000).status_code == 413


def test_a_stolen_device_is_out_at_once(line: Line, join: Callable[[str], FogClient]) -> None:
    """On the line that it has open already, by the list; its event stands in the log; others go on."""
    stolen, other = join("stolen"), join("other")
    frame = transport.frame(head("stolen", body(1)), body(1))
    assert stolen.terms().cohort == 0
    line.authority.revoke("stolen", "lost", time.time())
    for attempt in (stolen.terms, lambda: stolen.submit(frame), lambda: stolen.news("x")):
        with pytest.raises(UpdateRefused) as caught:
            attempt()
        assert caught.value.reason == "revoked"
    assert other.terms().cohort == 0
    kinds = [type(event).__name__ for _, _, event in line.store.events()]
    assert kinds.count("DeviceRevoked") == 1
    assert kinds.count("UpdateRefused") == 3


def test_other_fleets_and_old_certificates_are_refused(
    line: Line, join: Callable[[str], FogClient], clients: list[FogClient], tmp_path: Path
) -> None:
    """TLS refuses a foreign authority; a certificate that expires on an open line is refused, and can be renewed."""
    foreign = Authority.create(tmp_path / "foreign", "tests", time.time())
    key = x.new_key()
    given = foreign.enrol(foreign.issue_token(time.time(), "a"), x.request_pem(key), time.time())
    (tmp_path / "foreign.pem").write_bytes(x.key_pem(key) + given.certificate)
    ca = line.folder / "ca" / CA
    clients.append(FogClient(line.url, x.client_context(ca, tmp_path / "foreign.pem"), timeout_s=5.0))
    with pytest.raises(Unreachable):
        clients[-1].terms()
    clients.append(FogClient(line.url, x.client_context(tmp_path / "foreign" / CA), timeout_s=5.0))
    with pytest.raises(Unreachable):
        clients[-1].terms()
    client = join("a")
    client.renew(line.folder / "devices" / "a")
    clients.append(connect(line.url, line.folder / "devices" / "a"))
    assert clients[-1].terms().cohort == 0
    line.shift_s = DEVICE_VALID_S + 60
    line.authority.renew_list(line.now_s())
    for old in (client, clients[-1]):
        with pytest.raises(InvalidInput, match="expired"):
            old.terms()


def test_without_a_fresh_list_nobody_is_let_in(line: Line, join: Callable[[str], FogClient]) -> None:
    """503, so that devices come again; then it is fetched."""
    client = join("a")
    line.api.authority = None  # it would mend the list
    text = line.authority.list_path.read_bytes()
    line.authority.list_path.unlink()
    with pytest.raises(Unreachable, match="no revocation list"):
        client.terms()
    line.authority.list_path.write_bytes(text)
    assert client.terms().cohort == 0


# ---- hostile lines ---------------------------------------------------------------------------------------------------


def test_a_handful_of_hostile_requests(line: Line, join: Callable[[str], FogClient]) -> None:
    """No update at all, huge heads, bodies cut off or too long, other messages: refused, and the fog goes on."""
    join("a")
    good = transport.frame(head("a", body(1)), body(1))
    bad = [
        b"", b"abc", b"\xff\xff\xff\xff" + bytes(100), (5000).to_bytes(4, "little") + bytes(5000),
        (10).to_bytes(4, "little") + bytes(10), good[:200], good[:-1], good + b"x", good + bytes(8 << 20),
        (lambda m: len(m).to_bytes(4, "little") + m)(transport.encode(transport.AssistRequest(RELEASE))),
        bytes(4) + good,
    ]  # fmt: skip
    for content in bad:
        with raw(line, "a") as http:
            try:
                assert 400 <= http.post("/v1/updates", content=content).status_code < 500
            except httpx.TransportError:
                assert len(content) > 1 << 20  # it was still sending when it was cut off
    assert line.store.state().n_updates == 0
    until(lambda: list((line.folder / "fog" / "bodies").iterdir()) == [])
    with raw(line, "a") as http:
        assert http.post("/v1/updates", content=good).json()["repeated"] is False


def test_a_slow_body_is_cut_off(tmp_path: Path) -> None:
    """After the time that it has; its file is gone."""
    line = Line(tmp_path, FogWeb(look_s=0.05, read_s_max=0.3))
    line.open()
    client = line.join("a")
    good = transport.frame(head("a", body(1)), body(1))

    def slowly() -> Iterator[bytes]:
        yield good[:600]
        time.sleep(0.8)
        yield good[600:]

    with raw(line, "a") as http:
        answer = http.post("/v1/updates", content=slowly())
    assert answer.status_code == 408
    assert list((tmp_path / "fog" / "bodies").iterdir()) == []
    client.close()
    line.close()


def told(line: Line) -> list[tuple[str, str]]:
    """Device and reason of every refusal that the fog keeps."""
    events = [event for _, _, event in line.store.events()]
    return [(event.device, event.reason) for event in events if isinstance(event, fog.UpdateRefused)]


def test_what_never_became_an_update_is_an_event_too(tmp_path: Path) -> None:
    """Malformed, another message, cut off, too slow: with the device and the reason, in the store and in /metrics."""
    line = Line(tmp_path, FogWeb(look_s=0.05, read_s_max=0.5))
    line.open()
    with closing(line), closing(line.join("a")):
        send_no_updates(line)
        assert told(line) == [("a", "malformed")] * 3 + [("a", "timed out"), ("a", "cut off")]
        with raw(line, "a") as http:
            metrics = http.get("/metrics").text
    for outcome, n in (("malformed", 3), ("timed_out", 1), ("cut_off", 1)):
        assert f'evergrove_fog_updates_total{{outcome="{outcome}"}} {n}' in metrics


def send_no_updates(line: Line) -> None:
    """Three that are none, one that is too slow, one that is cut off; all by device a."""
    good = transport.frame(head("a", body(1)), body(1))
    other = transport.encode(transport.AssistRequest(RELEASE))
    malformed = [bytes(4) + good, (10).to_bytes(4, "little") + bytes(10), len(other).to_bytes(4, "little") + other]
    for content in malformed:
        with raw(line, "a") as http:
            answer = http.post("/v1/updates", content=content)
            assert answer.status_code == 400

    def slowly() -> Iterator[bytes]:
        yield good[:600]
        time.sleep(1.0)
        yield good[600:]

    with raw(line, "a") as http:
        assert http.post("/v1/updates", content=slowly()).status_code == 408
    with raw(line, "a") as http:
        assert http.post("/v1/updates", content=good[:200]).json()["error"]["code"] == "cut_off"


def test_a_stranger_is_counted_and_writes_nothing(line: Line, join: Callable[[str], FogClient]) -> None:
    """No certificate, or one that has expired on an open line: in /metrics by the reason, not a row in the database."""
    join("a").terms()
    with raw(line, "a") as http, raw(line, None) as stranger:
        assert http.get("/v1/terms").status_code == 200
        n_events = len(line.store.events())
        for _ in range(20):
            assert stranger.post("/v1/updates", content=b"x").status_code == 401
        line.shift_s = DEVICE_VALID_S + 60
        assert http.post("/v1/updates", content=b"x").json()["error"]["code"] == "certificate_expired"
        assert len(line.store.events()) == n_events
        metrics = stranger.get("/metrics").text
    assert 'evergrove_fog_strangers_total{reason="certificate_required"} 20' in metrics
    assert 'evergrove_fog_strangers_total{reason="certificate_expired"} 1' in metrics


def test_an_answer_that_is_no_text_is_not_understood() -> None:
    """Whoever answers for a fog cannot crash a device by bytes that are no UTF-8."""
    with pytest.raises(InvalidInput, match="not understood"):
        fog_client._decoded(b'{"fog": "\xff"}', fog.Terms)
    assert isinstance(fog_client._error(500, b'{"error": {"code": "\xff"}}'), Unreachable)


# ---- helping ---------------------------------------------------------------------------------------------------------


class Helper:
    """Gives the release's name back."""

    peer = "helper"

    def assist(self, release: str) -> bytes:
        """The name, or a refusal."""
        if release != RELEASE:
            raise UsageError("this fog does not serve it")
        return release.encode()

    def trusted(self, request: bytes) -> bytes:
        """The request backwards."""
        return request[::-1]


def test_help_is_given_where_it_is_configured(tmp_path: Path) -> None:
    """Assists with a helper; trusted work only with the owner's word; neither by a fog that has none."""
    for trusted in (False, True):
        line = Line(tmp_path / str(trusted), helper=Helper(), trusted=trusted)
        client = line.join("a")
        assert client.assist(RELEASE) == RELEASE.encode()
        with pytest.raises(InvalidInput, match="does not serve it"):
            client.assist("x")
        if trusted:
            assert client.trusted(b"abc") == b"cba"
        else:
            with pytest.raises(InvalidInput, match="does no trusted work"):
                client.trusted(b"abc")
        with pytest.raises(UpdateRefused) as caught:
            client.terms()
        assert caught.value.reason == "closed"
        client.close()
        line.close()


def test_trusted_requests_reach_the_helper_together(tmp_path: Path) -> None:
    """It cannot train in one pass what it has not been handed."""

    class Gathering(Helper):
        """Answers when two are with it."""

        both = threading.Barrier(2, timeout=10.0)

        def trusted(self, request: bytes) -> bytes:
            self.both.wait()
            return super().trusted(request)

    line = Line(tmp_path, helper=Gathering(), trusted=True)
    clients = [line.join("a"), line.join("b")]
    with ThreadPoolExecutor(2) as threads:
        asked = [threads.submit(client.trusted, b"abc") for client in clients]
        assert [one.result(timeout=30) for one in asked] == [b"cba", b"cba"]
    for client in clients:
        client.close()
    line.close()


def test_who_waits_for_help_is_told_at_the_first_word_to_stop(tmp_path: Path) -> None:
    """Not after the fog has waited for it: an answer in words, to come again, and not a connection that is cut."""

    class Waiting(Helper):
        """Has others before this one."""

        asked, ended = threading.Event(), threading.Event()

        def trusted(self, request: bytes) -> bytes:
            self.asked.set()
            assert self.ended.wait(60), "the fog ends without a word"
            raise Unreachable("the fog is about to end and trains nothing more; send it again later")

    helper = Waiting()
    line = Line(tmp_path, helper=helper, trusted=True, stopping=helper.ended.set)
    client = line.join("a")
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(client.trusted, b"abc")
        assert helper.asked.wait(20)
        line.close()
        with pytest.raises(Unreachable, match="about to end"):
            answer.result(timeout=20)
    client.close()


def test_a_fog_that_offers_nothing_says_so(tmp_path: Path) -> None:
    """No authority, no helper, no releases."""
    line = Line(tmp_path)
    client = line.join("a")
    line.api.authority = None
    for attempt in (lambda: client.assist(RELEASE), lambda: client.renew(tmp_path / "devices" / "a")):
        with pytest.raises(InvalidInput, match=r"gives no assists|nobody is enrolled"):
            attempt()
    client.close()
    line.close()


# ---- the device's end ------------------------------------------------------------------------------------------------


def test_an_outbox_waits_for_its_fog(tmp_path: Path) -> None:
    """The fog is away: kept, tried again after a doubling pause with jitter; then counted, even by a new process."""
    line = Line(tmp_path)
    line.open()
    client = line.join("a")
    terms = client.terms()
    port = int(line.url.rpartition(":")[2])
    line.close()
    box = Outbox(tmp_path / "outbox", "a")
    token = box.put(vector(1, 50.0), LAYOUT, RELEASE, terms, bytes(16))
    (fate,) = box.deliver(client, 1000.0, 0.0)
    assert (fate.outcome, box.due_s) == ("waits", 1002.5)
    assert box.deliver(client, 1002.0, 0.0) == []
    box.deliver(client, 1003.0, 1.0)
    assert box.due_s == 1013.0
    again = Outbox(tmp_path / "outbox", "a")
    assert again.waiting() == [token]
    line = Line(tmp_path, port=port)
    (fate,) = again.deliver(client, 1003.0, 0.0)
    assert fate.outcome == "counted"
    (part,) = line.store.parts(Cohort(1, 0))
    sent = params.decode(line.store.bodies.read(part.file, LAYOUT.n_bytes("float32")), LAYOUT)
    assert params.norm(sent) == pytest.approx(10.0, rel=1e-3), "of 50, clipped before it left the device"
    client.close()
    line.close()


@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_eight_bits_are_sent_where_the_fog_takes_them(
    line: Line, join: Callable[[str], FogClient], dtype: params.Dtype
) -> None:
    """What the fog sums is what was sent, clipped by itself, since rounding by chance can make an update a little
    longer. A fog that knows no such size gets sixteen bits.
    """
    sizes = tuple(LAYOUT.n_bytes(one) for one in ("float16", "float32"))
    following = msgspec.structs.replace(LAYOUT, generation=2)
    taken = (*sizes, following.n_bytes("int8")) if dtype == "int8" else sizes
    line.service.open(plan(generation=2, layout=following.digest, cohort=1, cohort_min=1, n_bytes=taken), following)
    box = Outbox(line.folder / "outbox", "a")
    client = join("a")
    box.put(vector(1, 50.0), following, RELEASE, client.terms(), bytes(16), np.random.default_rng(5))
    (waiting,) = (line.folder / "outbox").glob("*.update")
    sent = waiting.read_bytes()[-following.n_bytes(dtype) :]
    got, clipped = params.decode(sent, following), vector(1, 50.0) / 5
    assert np.abs(got - clipped).max() <= np.abs(clipped).max() / (127 if dtype == "int8" else 1024)
    (fate,) = box.deliver(client, 1000.0, 0.0)
    assert fate.outcome == "counted"
    until(lambda: line.service.ready())
    total = params.decode(line.store.read_sum(Cohort(2, 0)), following)
    assert np.allclose(total, got * min(1.0, 10.0 / params.norm(got)), rtol=1e-6, atol=1e-8)


class Answers:
    """A fog that says what it is told to."""

    peer = "answers"

    def __init__(self, *words: Receipt | Exception) -> None:
        self.words = list(words)

    def submit(self, frame: bytes) -> Receipt:
        """The next word."""
        word = self.words.pop(0)
        if isinstance(word, Exception):
            raise word
        return word


def terms(cohort: int = 0, name: str = "north", **changes: object) -> fog.Terms:
    """The tests' plan."""
    from fogs import plan

    return fog.Terms(name, plan(**changes), cohort, None, "none")


def test_a_device_holds_itself_to_the_limits(tmp_path: Path) -> None:
    """b, k, one home fog a generation, no going back, over restarts; damage is not taken for a clean slate."""
    box = Outbox(tmp_path, "a")
    first = box.put(vector(1), LAYOUT, RELEASE, terms(), bytes(16))
    box.deliver(Answers(Receipt(first, Cohort(1, 3), False)), 0.0, 0.0)
    assert box.taking().last == 3, "the cohort that counted it, not the one that was open before"
    box = Outbox(tmp_path, "a")
    for refused, words in (
        (lambda: box.put(vector(1), LAYOUT, RELEASE, terms(4), bytes(16)), "too soon"),
        (lambda: box.put(vector(1), LAYOUT, RELEASE, terms(9, "south"), bytes(16)), "is north, not south"),
        (lambda: box.put(vector(1), LAYOUT, "ff" * 32, terms(9), bytes(16)), "another release"),
        (lambda: box.put(vector(1), LAYOUT, RELEASE, terms(9, layout="x"), bytes(16)), "another release"),
    ):
        with pytest.raises(UsageError, match=words):
            refused()
    box.put(vector(1), LAYOUT, RELEASE, terms(5), bytes(16))
    with pytest.raises(UsageError, match="too often"):
        box.put(vector(1), LAYOUT, RELEASE, terms(50), bytes(16))
    next_one = msgspec.structs.replace(LAYOUT, generation=2)
    box.put(vector(1), next_one, RELEASE, terms(0, "south", generation=2, layout=next_one.digest), bytes(16))
    with pytest.raises(UsageError, match="took part in generation 2"):
        box.put(vector(1), LAYOUT, RELEASE, terms(50), bytes(16))
    (tmp_path / "taking-part.json").write_text("{")
    with pytest.raises(CorruptState, match="would not be safe"):
        box.put(vector(1), LAYOUT, RELEASE, terms(50), bytes(16))


def test_a_final_refusal_ends_an_update_and_a_passing_one_does_not(tmp_path: Path) -> None:
    """'too soon' waits; 'revoked' is dropped, with its word; an acknowledgement of another update is none."""
    box = Outbox(tmp_path, "a")
    token = box.put(vector(1), LAYOUT, RELEASE, terms(), bytes(16))
    for word in (UpdateRefused("too soon", "…"), Unreachable("…"), Receipt("00" * 32, Cohort(1, 0), False)):
        (fate,) = box.deliver(Answers(word), box.due_s, 0.0)
        assert fate.outcome == "waits"
        assert box.waiting() == [token]
    (fate,) = box.deliver(Answers(UpdateRefused("revoked", "out")), box.due_s, 0.0)
    assert (fate.outcome, fate.reason, box.waiting()) == ("refused", "out", [])


def test_a_fog_is_spoken_to_by_https_only(tmp_path: Path) -> None:
    """And a broken identity is named."""
    with pytest.raises(UsageError, match="https"):
        FogClient("http://127.0.0.1", x.ssl.create_default_context())
    (tmp_path / "ca.pem").write_text("nonsense")
    with pytest.raises(CorruptState, match="enrol again"):
        connect("https://127.0.0.1", tmp_path)
