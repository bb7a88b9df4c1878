"""The line between fogs and cloud as something that can be cut: passes TCP on, counts the bytes, knows no content.

What goes through is TLS from one end to the other. ``cut`` breaks every connection, and nobody listens until ``mend``.
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
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._lock, self._ended = threading.Lock(), threading.Event()
        self.n_up = self.n_down = 0
        self._listener = socket.create_server((host, 0), backlog=16)
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        self._listen()
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self.cut()

    def cut(self) -> None:
        """From now on nothing gets through: what is open breaks, what is new is refused, as by a machine that is off.

        A line that is taken and then closed would be worse than a cut one: in the middle of a TLS handshake, a stock
        SuperNode takes that for the end of the world and never comes back.
        """
        self._close(self._listener)
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """New connections get through again."""
        self._listener = socket.create_server((self._there[0], self.port), backlog=16)
        self._listen()

    def _listen(self) -> None:
        threading.Thread(target=self._accept, args=(self._listener,), name="cable", daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while not self._ended.is_set():
            try:
                near, _ = listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self._there, timeout=5.0)
            except OSError:
                near.close()
                continue
            with self._lock:
                full = len(self._pairs) >= CONNECTIONS_MAX
            if full or listener.fileno() < 0:  # cut meanwhile
                near.close()
                far.close()
                continue
            far.settimeout(None)
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
                        if key.fileobj is near:
                            self.n_up += len(data)
                        else:
                            self.n_down += len(data)
                        key.data.sendall(data)
        except (OSError, ValueError):  # the cut closed them under our hands
            return
        finally:
            with self._lock:
                self._pairs.discard(pair)
            for end in pair:
                end.close()

    @staticmethod
    def _close(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
