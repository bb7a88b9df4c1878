"""The local socket: what is said arrives, what is malformed is refused by its path, nobody waits forever."""

import asyncio
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from evergrove.adapters.wire import Client, WireLimits, decode_body, encode_frame, serve
from evergrove.core.errors import EvergroveError, InvalidInput, Unreachable, UsageError
from evergrove.core.messages import Done, Fault, GetStatus, LearnNow, Observe, Offer, Reply, Request

QUICK = WireLimits(n_bytes=100_000, timeout_s=0.3, n_connections=3)


async def answer(request: Request) -> Reply:
    """A small agent: says back what it was told, and knows what it does not like."""
    match request:
        case LearnNow(steps=0):
            raise UsageError("how many steps?")
        case LearnNow(steps=13):
            await asyncio.sleep(1.0)
        case Observe(media=media):
            return Done(note=str(len(media)))
        case Offer():
            return Done(note="x" * 200_000)
        case _:
            pass
    return Done(job="job-1")


def fault(error: EvergroveError) -> Fault:
    return Fault(type(error).__name__, str(error))


@contextmanager
def agent(path: Path, limits: WireLimits = QUICK) -> Iterator[None]:
    """The small agent in a thread of its own."""
    started: queue.Queue[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = queue.Queue()

    async def run() -> None:
        server, done = await serve(path, Request, answer, fault, limits), asyncio.Event()
        started.put((asyncio.get_running_loop(), done))
        await done.wait()
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    loop, done = started.get(timeout=5)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join()
        path.unlink(missing_ok=True)


@contextmanager
def raw(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(2)
        link.connect(str(path))
        yield link


def reply_to(link: socket.socket, data: bytes) -> Reply:
    link.sendall(data)
    (size,) = struct.unpack(">I", link.recv(4))
    body = b""
    while len(body) < size:
        body += link.recv(size - len(body))
    reply: Reply = decode_body(body, Reply)
    return reply


@contextmanager
def client(path: Path, limits: WireLimits = QUICK) -> Iterator[Client[Request, Reply]]:
    link: Client[Request, Reply] = Client(path, Reply, limits)
    try:
        yield link
    finally:
        link.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


def test_question_and_answer(path: Path) -> None:
    """Many requests over one connection, from several threads, each gets its own reply."""
    with agent(path), client(path) as link:
        assert link.ask(LearnNow(5)) == Done(job="job-1")
        replies: list[Reply] = []
        threads = [
            threading.Thread(target=lambda n=n: replies.append(link.ask(Observe(bytes(n), {})))) for n in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(int(r.note) for r in replies if isinstance(r, Done)) == list(range(20))


def test_a_refusal_keeps_the_connection(path: Path) -> None:
    """The handler's error is a reply like any other."""
    with agent(path), client(path) as link:
        assert link.ask(LearnNow(0)) == Fault("UsageError", "how many steps?")
        first = link._socket
        assert link.ask(LearnNow(1)) == Done(job="job-1")
        assert link._socket is first


def test_nobody_there(path: Path) -> None:
    """No socket, a dead socket, an agent that goes away and comes back."""
    with client(path) as link:
        with pytest.raises(Unreachable, match="no agent answers"):
            link.ask(GetStatus())
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        with pytest.raises(Unreachable, match="no agent answers"):
            link.ask(GetStatus())
        path.unlink()
        with agent(path):
            link.ask(GetStatus())
        with pytest.raises(Unreachable):
            link.ask(GetStatus())
        with agent(path):
            link.ask(GetStatus())


def test_a_slow_agent_times_out_and_its_late_reply_is_not_mistaken(path: Path) -> None:
    """After a time-out the next question gets its own answer."""
    with agent(path), client(path) as link:
        begun = time.monotonic()
        with pytest.raises(Unreachable, match="did not answer in time"):
            link.ask(LearnNow(13))
        assert time.monotonic() - begun < 0.9
        assert link.ask(Observe(b"12", {})) == Done(note="2")


@pytest.mark.parametrize(
    ("body", "fault_at"),
    [
        (msgspec.msgpack.encode({"kind": "teleport"}), "$.kind"),
        (msgspec.msgpack.encode({"kind": "learn_now", "steps": "many"}), "$.steps"),
        (msgspec.msgpack.encode({"kind": "learn_now", "speed": 1}), "speed"),
        (msgspec.msgpack.encode({"kind": "observe", "media": b"", "condition": {"a": 1}}), "$.condition[...]"),
        (b"\xc1", "not understood"),
        (b"", "not understood"),
    ],
)
def test_malformed_messages_are_refused_with_the_path(path: Path, body: bytes, fault_at: str) -> None:
    """Unknown kinds, fields and types: the reply says where, and the connection ends."""
    with agent(path), raw(path) as link:
        reply = reply_to(link, struct.pack(">I", len(body)) + body)
        assert isinstance(reply, Fault)
        assert fault_at in reply.message
        assert link.recv(1) == b""


@pytest.mark.parametrize(
    ("data", "message"),
    [(struct.pack(">I", 1 << 31), "at most 100000"), (b"\0\0\0\x09abc", "not complete"), (b"\0\0", "not complete")],
    ids=["large", "half-body", "half-head"],
)
def test_frames_have_limits_in_size_and_time(path: Path, data: bytes, message: str) -> None:
    """A frame that is too large or never ends costs nothing but its connection."""
    with agent(path), raw(path) as link:
        reply = reply_to(link, data)
        assert isinstance(reply, Fault)
        assert message in reply.message
    with pytest.raises(InvalidInput, match="at most"):
        encode_frame(Observe(bytes(200_000), {}), QUICK)


def test_an_app_may_idle_and_may_vanish(path: Path) -> None:
    """Between frames there is no time limit; going away in the middle of one harms nobody."""
    with agent(path), client(path) as link:
        link.ask(GetStatus())
        with raw(path) as other:
            other.sendall(b"\0\0\0\x09ab")
        time.sleep(0.5)
        first = link._socket
        link.ask(GetStatus())
        assert link._socket is first


def test_connections_are_bounded(path: Path) -> None:
    """The one too many is told so; when another ends there is room again."""
    with agent(path):
        with raw(path), raw(path) as second:
            encoded = encode_frame(GetStatus(), QUICK)
            with raw(path) as third:
                assert reply_to(third, encoded) == Done(job="job-1")
                with client(path) as fourth:
                    reply = fourth.ask(GetStatus())
                    assert isinstance(reply, Fault)
                    assert "3 connections already" in reply.message
            assert reply_to(second, encoded) == Done(job="job-1")
        time.sleep(0.1)
        with client(path) as again:
            assert again.ask(GetStatus()) == Done(job="job-1")


def test_a_reply_over_the_limit_is_an_error_not_a_hang(path: Path) -> None:
    """What cannot be sent is refused in words."""
    with agent(path), client(path) as link:
        reply = link.ask(Offer("x"))
        assert isinstance(reply, Fault)
        assert "at most 100000 can be sent" in reply.message


def serve_bytes(path: Path, data: bytes) -> Callable[[], None]:
    """A broken agent that answers anything with the same bytes, once."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)

    def work() -> None:
        with listener:
            link, _ = listener.accept()
            with link:
                link.recv(1000)
                link.sendall(data)

    thread = threading.Thread(target=work)
    thread.start()
    return thread.join


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (struct.pack(">I", 1 << 30), InvalidInput),
        (b"\0\0\0\x01\xc1", InvalidInput),
        (b"\0\0\0\x09ab", Unreachable),
        (b"", Unreachable),
    ],
    ids=["large", "junk", "cut", "closed"],
)
def test_a_broken_agent_does_not_break_the_app(path: Path, data: bytes, kind: type[EvergroveError]) -> None:
    """Replies are bounded and checked just as requests are."""
    wait = serve_bytes(path, data)
    with client(path) as link, pytest.raises(kind):
        link.ask(GetStatus())
    wait()
