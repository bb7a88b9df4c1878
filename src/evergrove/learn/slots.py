"""Two slots and one pointer: how a new version goes live between two calls of ``generate``, without a pause.

Both slots are fused networks; a version's branches stand beside the slot's weights (``learn/routing.py``). Readers take
a *lease*: they read the pointer once and use that network for the whole call. A swap is one assignment. A new version
is fused into the slot that the pointer does not name, in place, once the last reader has left it, layer by layer,
between two calls where there is a gap: it is the writer that waits, never ``generate``.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from torch import nn

from evergrove.core.conditions import Vocabulary
from evergrove.core.errors import EvergroveError, UsageError
from evergrove.learn.adapter import Adapter, Basis, fuse, fuse_into, routed

_POLL_S = 0.001
_GAPS_S = 0.25
"""How long a fusion in all waits for moments without a call: beside one it takes interpreter and caches from it."""


class Live(NamedTuple):
    """What the pointer points to: a network in evaluation mode, what it understands, and which version it is."""

    module: nn.Module
    vocabulary: Vocabulary
    version: str
    slot: int


class LiveModel:
    """The network that serves, and the one that will. Any thread may lease; one thread at a time stages and swaps.

    ``version`` is the caller's name for what is live: the adapter's SHA-256, or one for the release alone.
    """

    def __init__(
        self, model: nn.Module, basis: Basis, vocabulary: Vocabulary, adapter: Adapter | None = None, version: str = ""
    ) -> None:
        """``model`` is the base, with ``vocabulary`` its own; neither is ever written to. ``adapter`` is live first."""
        self._model = model
        self._basis = basis
        self._vocabulary = vocabulary
        self._slots = (fuse(model, basis, None), fuse(model, basis, None))
        self._readers: tuple[set[object], set[object]] = (set(), set())
        self._staged: Live | None = None
        self.current = self._fused(0, adapter, version)

    @contextmanager
    def lease(self) -> Iterator[Live]:
        """The live version for the length of one call; never waits for a writer."""
        reader = object()
        while True:
            live = self.current
            readers = self._readers[live.slot]
            readers.add(reader)
            # Registered before this check, so that a writer either sees the reader or the reader sees the swap.
            if self.current is live:
                break
            readers.discard(reader)
        try:
            yield live
        finally:
            readers.discard(reader)

    def stage(self, adapter: Adapter | None, version: str, wait_s: float = 30.0) -> None:
        """Fuses a version (None: the base alone) into the idle slot; what is live goes on untouched.

        Waits up to ``wait_s`` for calls that still use that slot from before the last swap. Raises ``InvalidArtefact``
        where the adapter does not belong here, ``EvergroveError`` where a call holds the slot for longer.
        """
        self._staged = None
        idle = 1 - self.current.slot
        deadline_s = time.monotonic() + wait_s
        while self._readers[idle]:
            if time.monotonic() > deadline_s:
                raise EvergroveError(f"a call has used the former version for over {wait_s} s; end it, then try again")
            time.sleep(_POLL_S)
        gaps_end_s = time.monotonic() + _GAPS_S
        self._staged = self._fused(idle, adapter, version, lambda: self.await_gap(gaps_end_s))

    def await_gap(self, end_s: float | None = None) -> None:
        """Waits for a moment in which no call is under way, until ``end_s`` at most (monotonic; None: a while)."""
        end_s = time.monotonic() + _GAPS_S if end_s is None else end_s
        while any(self._readers) and time.monotonic() < end_s:
            time.sleep(_POLL_S)

    def swap(self) -> Live:
        """Makes the staged version live by one assignment; gives the one that was live before."""
        if self._staged is None:
            raise UsageError("nothing is staged; call stage() first")
        before, self.current, self._staged = self.current, self._staged, None
        return before

    def _fused(
        self, slot: int, adapter: Adapter | None, version: str, before_layer: Callable[[], object] = lambda: None
    ) -> Live:
        network = self._slots[slot]
        fuse_into(network, self._model, self._basis, adapter, before_layer)
        module = routed(network, self._basis, adapter)
        return Live(module, adapter.vocabulary if adapter else self._vocabulary, version, slot)
