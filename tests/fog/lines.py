"""A fog on a real socket with TLS, in a thread of this process, and devices that are enrolled at it."""

import asyncio
import gc
import threading
import time
from pathlib import Path
from typing import Any

from fogs import LAYOUT, plan

from evergrove.adapters.authority import CA, Authority
from evergrove.adapters.certificates import Revocations, server_context
from evergrove.adapters.fog_client import FogClient, connect, enrol
from evergrove.adapters.fog_store import FogStore
from evergrove.core.sections import FogWeb
from evergrove.runtime.fog_service import FogService
from evergrove.web.fog import FogApi, create_app
from evergrove.web.fog_door import DoorApi
from evergrove.web.fog_server import Door, FogServer, listen
from evergrove.web.news import News

TOKEN = "a-token-of-the-tests"


class Line:
    """A fog that listens; ``shift_s`` moves its clock."""

    def __init__(self, folder: Path, limits: FogWeb | None = None, port: int = 0, **parts: Any) -> None:
        self.folder, self.shift_s = folder, 0.0
        ca = folder / "ca"
        self.authority = Authority(ca) if (ca / CA).exists() else Authority.create(ca, "tests", time.time())
        key, certificate = self.authority.server(["127.0.0.1"], time.time())
        (folder / "fog.key").write_bytes(key)
        (folder / "fog.pem").write_bytes(certificate)
        self.store = FogStore(folder / "fog", parts.pop("url", None))
        self.service = FogService("north", self.store, self.now_s, parts.pop("noise", None))
        self.service.start()
        self.releases = folder / "releases"
        self.releases.mkdir(exist_ok=True)
        revocations = Revocations(self.authority.list_path, self.authority.certificate)
        self.limits = limits or FogWeb(look_s=0.05)
        self.bound = listen("127.0.0.1", port)
        self.url = f"https://127.0.0.1:{self.bound.getsockname()[1]}"
        door = listen("127.0.0.1", 0)
        self.door_url = f"http://127.0.0.1:{door.getsockname()[1]}"
        ready = threading.Event()
        stopping = parts.pop("stopping", lambda: None)

        async def serve() -> None:
            self.loop = asyncio.get_running_loop()
            news = News(self.releases, parts.pop("head", "timestamp.json"))
            authority = parts.pop("authority", self.authority)
            self.api = FogApi(self.service, revocations, self.now_s, self.limits, news, authority, **parts)
            self.server = FogServer(
                self.api, create_app(self.api), lambda: server_context(ca / CA, folder / "fog.pem", folder / "fog.key"),
                Door(DoorApi(self.service, self.api.meter), TOKEN, door), stopping,
            )  # fmt: skip
            await self.server.serve(self.bound, ready.set)

        self._thread = threading.Thread(target=lambda: asyncio.run(serve()))
        self._thread.start()
        assert ready.wait(20)

    def now_s(self) -> float:
        """The fog's clock."""
        return time.time() + self.shift_s

    def open(self, **changes: Any) -> None:
        """Gathers by the tests' plan."""
        self.service.open(plan(**changes), LAYOUT)

    def join(self, device: str) -> FogClient:
        """Enrols a device over the line, and connects it."""
        token = self.authority.issue_token(time.time(), device)
        place = self.folder / "devices" / device
        assert enrol(self.url, self.authority.ca_pem, token, place) == device
        return connect(self.url, place, timeout_s=10.0)

    def close(self) -> None:
        """Ends the fog as SIGTERM would."""
        self.loop.call_soon_threadsafe(self.server.stop)
        self._thread.join(20)
        gc.collect()
        assert not self._thread.is_alive()
        self.store.close()
