"""The service around the API: its token, its sockets, its limits on silence, and one whole life of the real thing."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from evergrove import Device
from evergrove.adapters.ownership import find_agent, is_alive
from evergrove.core.config import Web
from evergrove.core.errors import CorruptState, EvergroveError, UsageError
from evergrove.web import bearer, server

from .conftest import TOKEN, Served

PROGRAM = (sys.executable, "-m", "evergrove.cli.main")

# ---- token ------------------------------------------------------------------------------------------------------


def test_a_token_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    """256 bits, mode 600, the same at the next start; another device's is another."""
    token = bearer.read_or_make(tmp_path / "token")
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
    assert len(token) == 43
    assert bearer.read_or_make(tmp_path / "token") == token
    assert bearer.read_or_make(tmp_path / "other") != token
    (tmp_path / ".third.0011aabb.tmp").write_text("half a token")
    bearer.read_or_make(tmp_path / "third")
    assert not list(tmp_path.glob(".*.tmp")), "what a killed start left half-written goes"
    assert bearer.matches(f"Bearer {token}".encode(), token)
    assert not bearer.matches(f"Bearer {token[:-1]}".encode(), token)
    assert not bearer.matches(None, token)


@pytest.mark.parametrize("text", ["", "short", "two tokens in here, of length", "x" * 257, "é" * 30])
def test_a_file_that_holds_no_token_is_refused(tmp_path: Path, text: str) -> None:
    """It says what to do."""
    path = tmp_path / "token"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(CorruptState, match="delete it"):
        bearer.read_or_make(path)


def test_a_token_that_others_could_read_is_refused(tmp_path: Path) -> None:
    """Mode 644."""
    bearer.read_or_make(tmp_path / "token")
    (tmp_path / "token").chmod(0o644)
    with pytest.raises(CorruptState, match="mode 644"):
        bearer.read_or_make(tmp_path / "token")


# ---- sockets ----------------------------------------------------------------------------------------------------


def test_only_this_machine_can_be_listened_on() -> None:
    """And a port that is taken is named, with the way out."""
    for host in ("0.0.0.0", "192.168.1.4", "example.org", ""):
        with pytest.raises(UsageError, match="stays on this machine"):
            server.listen_tcp(host, 0)
    with server.listen_tcp("localhost", 0) as bound:
        port = bound.getsockname()[1]
        with pytest.raises(EvergroveError, match=f"127.0.0.1:{port} is in use.*--port"):
            server.listen_tcp("127.0.0.1", port)


def test_a_unix_socket_is_its_owners_and_replaces_only_a_dead_one(tmp_path: Path) -> None:
    """A living one and a file are left alone."""
    path = tmp_path / "s"
    with server.listen_unix(path):
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(EvergroveError, match="in use"):
            server.listen_unix(path)
    server.listen_unix(path).close()
    path.unlink()
    path.write_text("mine")
    with pytest.raises(EvergroveError, match="something else"):
        server.listen_unix(path)
    assert path.read_text() == "mine"
    with pytest.raises(EvergroveError, match="too long"):
        server.listen_unix(tmp_path / ("x" * 120))
    with pytest.raises(EvergroveError, match="No such file"):
        server.listen_unix(tmp_path / "nowhere" / "s")


def test_the_service_manager_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One datagram; nothing, and no error, where there is no manager or it has gone."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    server.tell_manager("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        server.tell_manager("READY=1")
        assert manager.recv(100) == b"READY=1"
    server.tell_manager("STOPPING=1")


# ---- a server in this process -----------------------------------------------------------------------------------


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Runs an application on a Unix socket by uvicorn with our protocol, in a thread of its own."""
    ends: list[Callable[[], None]] = []

    def start(served: Served, protocol: type[server.Patient] = server.Patient, **options: Any) -> Path:
        path = tmp_path / "http.sock"
        bound = server.listen_unix(path)
        config = uvicorn.Config(
            served.app, http=protocol, ws="none", lifespan="off", log_config=None, access_log=False, **options
        )
        service = server.Service(config)
        thread = threading.Thread(target=lambda: asyncio.run(service.serve(sockets=[bound])))
        thread.start()

        def end() -> None:
            service.should_exit = True
            thread.join(10)
            served.api.close()
            bound.close()

        ends.append(end)
        return path

    yield start
    for end in ends:
        end()


def connect(path: Path) -> socket.socket:
    """A raw connection."""
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    line.settimeout(10)
    line.connect(str(path))
    return line


def receive_all(line: socket.socket) -> bytes:
    """What comes until the other side closes."""
    data = b""
    while chunk := line.recv(65536):
        data += chunk
    return data


def test_who_does_not_finish_a_head_is_cut_off(serve: Callable[..., Path]) -> None:
    """Silent from the start, in the middle of a head, or in the second head of a connection."""
    path = serve(Served(hosts=None), timeout_keep_alive=0.2)
    whole = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    for sent, answers in ((b"", 0), (whole[:20], 0), (whole + whole[:20], 1)):
        with connect(path) as line:
            line.sendall(sent)
            assert receive_all(line).count(b"200 OK") == answers
    with connect(path) as line:  # in pieces, but in time
        for piece in (whole[:9], whole[9:]):
            line.sendall(piece)
            time.sleep(0.02)
        assert receive_all(line).count(b"200 OK") == 1


def test_a_body_with_no_end_is_cut_off_and_a_slow_answer_is_not(serve: Callable[..., Path]) -> None:
    """413 after what is bearable; a picture that takes longer than the limit on silence arrives."""
    served = Served(Web(request_bytes_max=1000), hosts=None)
    path = serve(served, timeout_keep_alive=0.2)
    head = f"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
    head += "Content-Type: application/json\r\n"
    with connect(path) as line:
        line.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        with pytest.raises(OSError, match=r"reset|pipe"):  # noqa: PT012  (which of the two sends fails is a race)
            for _ in range(2000):
                line.sendall(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
                time.sleep(0.001)
    served.device.hold.clear()
    with connect(path) as line:
        line.sendall(f"{head}Content-Length: 2\r\nConnection: close\r\n\r\n{{}}".encode())
        time.sleep(0.5)
        served.device.hold.set()
        assert b"200 OK" in receive_all(line)


class Impatient(server.Patient):
    """The same with less patience, for a test."""

    unread_s_max = 0.2


def test_a_stream_that_nobody_reads_is_cut_off(serve: Callable[..., Path]) -> None:
    """Its place is free again though its client stays connected."""
    served = Served(hosts=None)
    path = serve(served, protocol=Impatient)
    with connect(path) as line:
        query = "fps=240&size=1024x1024"
        line.sendall(f"GET /v1/stream?{query} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
        assert line.recv(12) == b"HTTP/1.1 200"
        deadline_s = time.monotonic() + 20
        while served.api.frames.taken and time.monotonic() < deadline_s:
            time.sleep(0.01)
        assert served.api.frames.taken == 0


# ---- the whole thing --------------------------------------------------------------------------------------------


class Up:
    """``evergrove up device`` as a process, on a Unix socket, under a service manager's eye."""

    def __init__(self, folder: Path, device: Path, *words: str) -> None:
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.bind(str(folder / "notify"))
        self.manager.settimeout(60)
        self.path = folder / "up.sock"
        self.process = subprocess.Popen(
            (*PROGRAM, "up", "device", "--device", str(device), "--unix", str(self.path), "--json", *words),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "NOTIFY_SOCKET": str(folder / "notify"), "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )

    def told(self) -> str:
        """The next thing that the manager hears, watchdog signs aside."""
        while (state := self.manager.recv(100)) == b"WATCHDOG=1":
            pass
        return state.decode()

    def client(self, token: str) -> httpx.Client:
        """A client with the token."""
        return httpx.Client(
            transport=httpx.HTTPTransport(uds=str(self.path)),
            base_url="http://localhost",
            headers={"authorization": f"Bearer {token}"},
            timeout=60,
        )

    def close(self) -> None:
        """Whatever happened, nothing stays behind."""
        self.process.kill()
        self.process.communicate()
        self.manager.close()


def test_a_device_is_up_survives_its_agent_and_ends_cleanly(tmp_path: Path) -> None:
    """The tiny release: ready, pictures, an observation, the agent killed and back, and a stop in mid-request."""
    root = tmp_path / "device"
    Device.create(root, "tiny", "[learn]\nauto = false\n").close(stop_agent=True)
    while find_agent(root) is not None:
        time.sleep(0.02)
    up = Up(tmp_path, root)
    try:
        assert up.told() == "READY=1"
        token = (root / bearer.TOKEN_FILE).read_text().strip()
        with up.client(token) as client:
            ask = {"prompt": "emotion=happy", "seed": 5, "n": 2}
            first, again = (client.post("/v1/images/generations", json=ask).json()["data"] for _ in range(2))
            assert [item["b64_json"][-80:] for item in first] == [item["b64_json"][-80:] for item in again]
            assert first[0]["condition"]["emotion"] == "happy"
            assert client.get("/v1/status", headers={"authorization": "Bearer x"}).status_code == 401

            seen = client.post(
                "/v1/observations", json={"image": first[0]["b64_json"], "condition": {"emotion": "delighted"}}
            ).json()
            assert (seen["kept"], seen["new_values"]) == (True, ["emotion=delighted"])
            unknown = client.post("/v1/images/generations", json={"prompt": "emotion=delighted"})
            assert (unknown.status_code, unknown.json()["error"]["code"]) == (400, "unknown_condition")

            with client.stream("GET", "/v1/stream", params={"fps": "20", "frames": "6", "format": "ndjson"}) as stream:
                *frames, last = (json.loads(line) for line in stream.iter_lines())
            assert [frame["index"] for frame in frames] == list(range(6))
            assert last["stats"]["frames"] == 6

            agent = find_agent(root)
            assert agent is not None
            os.kill(agent.pid, signal.SIGKILL)
            assert client.post("/v1/images/generations", json=ask).status_code == 200
            status = client.get("/v1/status")
            assert status.status_code == 200, status.text
            assert status.json()["observed"] == 1
            restarted = find_agent(root)
            assert restarted is not None
            assert restarted.pid != agent.pid

            answers: list[httpx.Response] = []
            long = {"prompt": "emotion=happy", "n": 10, "steps": 32}
            thread = threading.Thread(target=lambda: answers.append(client.post("/v1/images/generations", json=long)))
            thread.start()
            time.sleep(0.3)
            up.process.send_signal(signal.SIGTERM)
            assert up.told() == "STOPPING=1"
            thread.join(60)
            assert [len(answer.json()["data"]) for answer in answers] == [10]
        out, err = up.process.communicate(timeout=60)
        assert up.process.returncode == 0, err
        assert "Traceback" not in err
        facts = json.loads(out)
        assert facts["listening"] == f"unix:{up.path}"
        assert facts["token_file"] == str(root / bearer.TOKEN_FILE)
        assert token not in out + err
        assert not up.path.exists()
        assert find_agent(root) is None
    finally:
        up.close()


def test_it_takes_its_agent_along_when_it_is_stopped_while_it_starts(tmp_path: Path) -> None:
    """It listens before it can draw: whoever sees it and stops it then finds no agent either. Its whole group is told,
    as by a terminal or a supervisor."""
    root = tmp_path / "device"
    Device.create(root, "tiny", "[learn]\nauto = false\n[agent]\nlinger_s = 600.0\n").close(stop_agent=True)
    up = Up(tmp_path, root)
    try:
        until_s = time.monotonic() + 60
        while (agent := find_agent(root)) is None:
            assert time.monotonic() < until_s
            time.sleep(0.001)
        assert up.path.exists()
        os.killpg(up.process.pid, signal.SIGTERM)
        assert up.told() == "STOPPING=1"
        out, err = up.process.communicate(timeout=60)
        assert (up.process.returncode, out) == (0, ""), err
        assert not is_alive(agent)
        assert not up.path.exists()
    finally:
        up.close()


def test_it_leaves_alone_an_agent_that_it_did_not_start(tmp_path: Path) -> None:
    """An app holds the device: after the service has ended, the same agent goes on. No token where none is wanted."""
    with Device.create(tmp_path / "device", "tiny", "[learn]\nauto = false\n[agent]\nlinger_s = 60.0\n") as device:
        pid = device.agent_pid
        up = Up(tmp_path, tmp_path / "device", "--no-token")
        try:
            assert up.told() == "READY=1"
            with up.client("none") as client:
                assert client.get("/v1/status").status_code == 200
            up.process.send_signal(signal.SIGINT)
            out, err = up.process.communicate(timeout=60)
            assert (up.process.returncode, json.loads(out)["token_file"]) == (0, None), err
            assert not (tmp_path / "device" / bearer.TOKEN_FILE).exists()
            assert device.agent_pid == pid
        finally:
            up.close()
            device.close(stop_agent=True)
