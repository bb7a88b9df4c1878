"""What one fog worker does: valid updates a second over TLS on loopback, and what a thousand waiting devices cost.

    python benchmarks/fog.py                           # 10,000 updates of 250 kB, 1000 idle devices for 30 s
    python benchmarks/fog.py --updates 500 --polls 50 --poll-s 5

The worker is a process of its own, as ``evergrove up fog`` runs it: TLS 1.3, certificates checked, every update durable
on disk and committed in SQLite before its receipt, cohorts of 250 summed and their updates deleted meanwhile. Devices
share the other core; each has a certificate and a connection of its own, ``--at-once`` of them send at the same time.
"""

import argparse
import asyncio
import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil

from evergrove.adapters import certificates as x
from evergrove.adapters import clock
from evergrove.adapters.authority import CA, Authority
from evergrove.adapters.certificates import Revocations, server_context
from evergrove.adapters.fog_store import FogStore
from evergrove.core import transport
from evergrove.core.conditions import Factor, Vocabulary
from evergrove.core.fog import Plan, Receipt
from evergrove.core.release import sha256_hex
from evergrove.rules import params, tokens
from evergrove.runtime.fog_service import FogService
from evergrove.web.fog import FogApi, create_app
from evergrove.web.fog_server import FogServer, listen, run
from evergrove.web.news import News

RELEASE = "11" * 32
SLOTS = tuple(params.Slot(f"layer.{i}.B", (1250, 10)) for i in range(10))
LAYOUT = params.Layout("22" * 32, "33" * 32, 1, Vocabulary((Factor("emotion", ("happy",)),)), SLOTS)
"""125,000 numbers: 250 kB as float16."""
COHORT, BODIES, IDLE_S = 250, 32, 10.0


def serve(folder: Path) -> None:
    """The worker; says its port on stdout."""
    authority = Authority(folder / "ca")
    key, certificate = authority.server(["127.0.0.1"], clock.now_s())
    (folder / "fog.key").write_bytes(key)
    (folder / "fog.pem").write_bytes(certificate)
    service = FogService("bench", FogStore(folder / "fog"), clock.now_s)
    service.start()
    sizes = (LAYOUT.n_bytes("float16"), LAYOUT.n_bytes("float32"))
    service.open(
        Plan(
            1, LAYOUT.base, LAYOUT.basis, LAYOUT.digest, (RELEASE,), sizes, COHORT, 1, 1e9, 10**6, 1, 10**6, 1.0, 100.0
        ),
        LAYOUT,
    )
    (folder / "releases").mkdir(exist_ok=True)

    async def main() -> None:
        news = News(folder / "releases", "timestamp.json")
        revocations = Revocations(authority.list_path, authority.certificate)
        api = FogApi(service, revocations, clock.now_s, news=news, authority=authority)
        server = FogServer(
            api, create_app(api), lambda: server_context(folder / "ca" / CA, folder / "fog.pem", folder / "fog.key")
        )
        bound = listen("127.0.0.1", 0)
        await run(server, bound, lambda: print(bound.getsockname()[1], flush=True))

    asyncio.run(main())


class Device:
    """A certificate, and a connection once it is needed."""

    def __init__(self, folder: Path, authority: Authority, name: str) -> None:
        self.name = name
        key = x.new_key()
        given = authority.enrol(authority.issue_token(time.time(), name), x.request_pem(key), time.time())
        path = folder / f"{name}.pem"
        path.write_bytes(x.key_pem(key) + given.certificate)
        self._tls: ssl.SSLContext = x.client_context(folder / "ca" / CA, path)
        self._line: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.n_sent, self._used_s = 0, 0.0

    async def ask(self, port: int, head: str, content: bytes = b"") -> bytes:
        """One request on the device's own connection; the answer's body. Raises where it is not 200."""
        if self._line is not None and time.monotonic() - self._used_s > IDLE_S:
            self.close()  # the fog will have hung up, or is about to
        self._used_s = time.monotonic()
        if self._line is None:
            self._line = await asyncio.open_connection("127.0.0.1", port, ssl=self._tls, limit=1 << 20)
        reader, writer = self._line
        writer.write(f"{head} HTTP/1.1\r\nhost: fog\r\ncontent-length: {len(content)}\r\n\r\n".encode() + content)
        await writer.drain()
        answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        data = await reader.readexactly(int(answer.partition("content-length: ")[2].partition("\r\n")[0]))
        if " 200 " not in answer:
            raise RuntimeError(data.decode())
        return data

    def close(self) -> None:
        """Drops the connection."""
        if self._line is not None:
            self._line[1].transport.abort()
            self._line = None

    def frame(self, body: bytes, digest: str) -> bytes:
        """The next update."""
        self.n_sent += 1
        token = tokens.token_of(self.name, 1, self.n_sent.to_bytes(16, "big"))
        update = transport.Update(RELEASE, LAYOUT.base, LAYOUT.basis, 1, token, digest, len(body))
        return transport.frame(update, body)


async def submissions(port: int, devices: list[Device], n: int, at_once: int, worker: psutil.Process) -> dict[str, Any]:
    """Device after device sends one, ``at_once`` of them at the same time."""
    rng = np.random.default_rng(0)
    bodies = [params.encode(rng.normal(0, 1e-3, LAYOUT.n_numbers), LAYOUT) for _ in range(BODIES)]
    digests = [sha256_hex(body) for body in bodies]
    for device in devices:  # not counted: the handshakes
        await device.ask(port, "GET /v1/terms")
    took_s: list[float] = []
    memory: list[tuple[int, float]] = []
    turns = iter(range(n))

    async def one() -> None:
        for i in turns:
            frame = devices[i % len(devices)].frame(bodies[i % BODIES], digests[i % BODIES])
            start_s = time.perf_counter()
            receipt = msgspec.json.decode(
                await devices[i % len(devices)].ask(port, "POST /v1/updates", frame), type=Receipt
            )
            took_s.append(time.perf_counter() - start_s)
            assert not receipt.repeated
            if len(took_s) % max(1, n // 10) == 0:
                memory.append((len(took_s), round(worker.memory_info().rss / 2**20, 1)))

    before = worker.cpu_times()
    start_s = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(at_once)))
    whole_s = time.perf_counter() - start_s
    after = worker.cpu_times()
    cpu_s = after.user + after.system - before.user - before.system
    quantiles = np.quantile(took_s, [0.5, 0.99]) * 1000
    return {
        "updates": n, "bytes_each": len(bodies[0]), "at_once": at_once, "updates_per_s": round(n / whole_s, 1),
        "p50_ms": round(float(quantiles[0]), 1), "p99_ms": round(float(quantiles[1]), 1),
        "worker_cpu_ms_each": round(cpu_s / n * 1000, 2), "worker_core_share": round(cpu_s / whole_s, 2),
        "rss_mb_by_updates": memory,
    }  # fmt: skip


async def polls(port: int, devices: list[Device], n: int, for_s: float, worker: psutil.Process) -> dict[str, Any]:
    """``n`` devices wait for news for a while; what that costs, and how long news takes to reach the last of them."""
    if n == 0:
        return {}
    waiting = (devices * (n // len(devices) + 1))[:n]
    lines = [Line(device) for device in waiting]
    await asyncio.gather(*(line.open(port) for line in lines))
    tag = msgspec.json.decode(await lines[0].ask("GET /v1/releases"))["tag"]
    asked = [asyncio.create_task(line.ask(f"GET /v1/releases?seen={tag}&wait_s=290")) for line in lines]
    await asyncio.sleep(3)
    before, start_s = worker.cpu_times(), time.perf_counter()
    await asyncio.sleep(for_s)
    after, whole_s = worker.cpu_times(), time.perf_counter() - start_s
    cpu_s = after.user + after.system - before.user - before.system
    rss_mb = round(worker.memory_info().rss / 2**20, 1)
    (FOLDER / "releases" / "timestamp.json").write_text(json.dumps({"at": time.time()}))
    start_s = time.perf_counter()
    await asyncio.gather(*asked)
    woken_s = time.perf_counter() - start_s
    for line in lines:
        line.close()
    return {
        "polls": n,
        "worker_core_share": round(cpu_s / whole_s, 3),
        "rss_mb": rss_mb,
        "all_told_s": round(woken_s, 2),
    }


class Line(Device):
    """One more connection of a device."""

    def __init__(self, device: Device) -> None:
        self.name, self._tls, self._line, self.n_sent, self._port, self._used_s = (
            device.name,
            device._tls,
            None,
            0,
            0,
            0.0,
        )

    async def open(self, port: int) -> None:
        """Connects."""
        self._port = port
        await super().ask(port, "GET /healthz")

    async def ask(self, head: str) -> bytes:  # type: ignore[override]
        """On this connection."""
        return await super().ask(self._port, head)


FOLDER = Path()


def main() -> None:
    """Measures, and prints JSON."""
    global FOLDER
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=10_000)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--devices", type=int, default=500)
    parser.add_argument("--polls", type=int, default=1000)
    parser.add_argument("--poll-s", type=float, default=30.0)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve is not None:
        serve(asked.serve)
        return
    FOLDER = Path(tempfile.mkdtemp(prefix="fog-bench-"))
    worker = None
    try:
        authority = Authority.create(FOLDER / "ca", "bench", time.time())
        devices = [Device(FOLDER, authority, f"d{i:04d}") for i in range(asked.devices)]
        worker = subprocess.Popen(
            [sys.executable, __file__, "--serve", str(FOLDER)], stdout=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert worker.stdout is not None
        port, process = int(worker.stdout.readline()), psutil.Process(worker.pid)

        async def measure() -> dict[str, Any]:
            sent = await submissions(port, devices, asked.updates, asked.at_once, process)
            for device in devices:
                device.close()
            return {"submit": sent, "wait": await polls(port, devices, asked.polls, asked.poll_s, process)}

        found = asyncio.run(measure())
        worker.terminate()
        worker.wait(30)
        store = FogStore(FOLDER / "fog")
        store.tidy(orphan_s=0.0)
        found["left_bodies"] = len(list((FOLDER / "fog" / "bodies").iterdir()))
        found["open_updates"] = store.state().n_updates
        found["sums"] = len(store.ready())
        print(json.dumps(found, indent=1))
    finally:
        if worker is not None and worker.poll() is None:
            worker.kill()
            worker.wait()
        shutil.rmtree(FOLDER, ignore_errors=True)


if __name__ == "__main__":
    main()
