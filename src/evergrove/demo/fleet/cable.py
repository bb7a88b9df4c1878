"""The line between fogs and cloud as something that can be cut: passes TCP on, counts the bytes, knows no content.

What goes through is TLS from one end to the other. ``cut`` breaks every connection and refuses new ones until ``mend``.
"""

import contextlib
import selectors
import socket
import threading
from types import TracebackType
from typing import Self

CHUNK_BYTES = 65_536
CONNECTIONS_MAX = 64
LOOK_S = 0.5


class Cable:
    """Listens on a loopback port of its own and passes everything on to ``port``; use it in a ``with``."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._there = (host, port)
        self._listener = socket.create_server((host, 0), backlog=16)
        self.port: int = self._listener.getsockname()[1]
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._lock, self._ended, self._whole = threading.Lock(), threading.Event(), True
        self.n_up = self.n_down = self.n_refused = 0
        self._thread = threading.Thread(target=self._accept, name="cable", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._break()
        self._thread.join(5.0)

    def cut(self) -> None:
        """From now on nothing gets through."""
        self._whole = False
        self._break()

    def mend(self) -> None:
        """New connections get through again."""
        self._whole = True

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if not self._whole or len(self._pairs) >= CONNECTIONS_MAX:
                self.n_refused += 1
                near.close()
                continue
            try:
                far = socket.create_connection(self._there, timeout=5.0)
            except OSError:
                near.close()
                continue
            threading.Thread(target=self._pass, args=(near, far), name="cable-pair", daemon=True).start()

    def _pass(self, near: socket.socket, far: socket.socket) -> None:
        """Both directions of one connection, until one end closes or the cable is cut."""
        pair = (near, far)
        with self._lock:
            self._pairs.add(pair)
        try:
            with selectors.DefaultSelector() as ready:
                ready.register(near, selectors.EVENT_READ, far)
                ready.register(far, selectors.EVENT_READ, near)
                while not self._ended.is_set():
                    for key, _ in ready.select(LOOK_S):
                        data = key.fileobj.recv(CHUNK_BYTES)  # type: ignore[union-attr]
                        if not data:
                            return
                        key.data.sendall(data)
                        if key.fileobj is near:
                            self.n_up += len(data)
                        else:
                            self.n_down += len(data)
        except (OSError, ValueError):  # the cut closed them under our hands
            return
        finally:
            with self._lock:
                self._pairs.discard(pair)
            for end in pair:
                end.close()

    def _break(self) -> None:
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
