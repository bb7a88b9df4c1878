"""A device's errands to its fleet: each in a thread beside the agent's loop; its outcome comes back as events.

Not even the agent's end waits for an errand: what is cut off is asked for again at the next start.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence

from evergrove.core import effects as do
from evergrove.core import events as ev
from evergrove.core.errors import EvergroveError
from evergrove.core.rollout import Directive
from evergrove.runtime.fleet import Fleet
from evergrove.tiers.device import State

NO_FLEET = "the device is in no fleet"


class Errands:
    """``fleet`` None: every order is answered at once. ``feed`` takes a fact in the loop, ``warn`` a sentence."""

    def __init__(
        self,
        fleet: Fleet | None,
        state: Callable[[], State],
        feed: Callable[[ev.Event], object],
        warn: Callable[[str], None],
    ) -> None:
        self._fleet, self._state, self._feed, self._warn = fleet, state, feed, warn
        self._unheard: deque[ev.Event] = deque()
        self._sending: threading.Thread | None = None

    @property
    def sending(self) -> bool:
        """Whether a thread that sends what was learnt is still alive."""
        return self._sending is not None and self._sending.is_alive()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """``loop`` is where facts come back."""
        self._loop = loop

    def watch(self, poll_s: float) -> None:
        """From now on the device hears of releases, as long as its agent lives."""
        fleet = self._fleet
        if fleet is None or not fleet.takes_releases:
            return

        def told() -> Directive | None:
            return self._state().following.directive

        def watch() -> list[ev.Event]:
            fleet.watch(told, lambda fact: self._bring([fact]), poll_s)
            return []

        self._send_off(watch)

    def perform(self, order: do.ShareLearnt | do.FetchRelease | do.SendReport) -> list[ev.Event]:
        """Begins an errand; its outcome comes later."""
        fleet = self._fleet
        match order:
            case do.ShareLearnt():
                if fleet is None:
                    return [ev.UpdateDelayed(order.version, "", NO_FLEET)]
                terms = self._state().sharing.terms
                self._sending = self._send_off(lambda: fleet.share(order, terms))
            case do.FetchRelease():
                if fleet is None:
                    return [ev.FetchFailed(order.version, False, NO_FLEET)]
                self._send_off(lambda: [fleet.fetch(order)])
            case do.SendReport():
                if fleet is None:
                    return [ev.ReportDelayed(NO_FLEET)]
                self._send_off(lambda: [fleet.report(order)])
        return []

    def hear(self) -> None:
        """Logs what errands have brought. What cannot be logged now (a full disk, say) is heard at a later call."""
        while self._unheard:
            self._feed(self._unheard[0])
            self._unheard.popleft()

    def _send_off(self, errand: Callable[[], list[ev.Event]]) -> threading.Thread:
        thread = threading.Thread(target=lambda: self._bring(errand()), name="evergrove-fleet", daemon=True)
        thread.start()
        return thread

    def _bring(self, facts: Sequence[ev.Event]) -> None:
        """From an errand's thread into the loop."""
        with contextlib.suppress(RuntimeError):  # the agent has ended meanwhile; the next one asks again
            self._loop.call_soon_threadsafe(self._come_back, facts)

    def _come_back(self, facts: Sequence[ev.Event]) -> None:
        self._unheard.extend(facts)
        try:
            self.hear()
        except EvergroveError as fault:
            self._warn(str(fault))
