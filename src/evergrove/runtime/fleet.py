"""A device's side of its fleet: what it has learnt goes to the home fog, by way of the outbox.

An order of the reducer comes in, the facts that answer it go out, and every byte that leaves is told to the ledger
*before* it is sent. No torch here, and no HTTP library before it is needed. All of it blocks: it runs in a thread
beside the agent's loop, one errand at a time.
"""

import contextlib
import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, assert_never

import numpy as np

from evergrove.adapters.files import Files, read_bounded
from evergrove.adapters.outbox import Fate, Outbox, waiting_in
from evergrove.adapters.release import Release
from evergrove.adapters.versions import Versions
from evergrove.core import effects as do
from evergrove.core import events as ev
from evergrove.core import transport
from evergrove.core.errors import EvergroveError, InvalidArtefact, InvalidInput, Unreachable, UpdateRefused, UsageError
from evergrove.core.fog import RETRY, Receipt, Terms
from evergrove.core.rollout import Directive
from evergrove.rules import params, retry, tokens
from evergrove.rules.carry import since
from evergrove.rules.learnt import Learnt, decode
from evergrove.rules.privacy import participation

if TYPE_CHECKING:
    from evergrove.adapters.tuf_client import ReleaseClient

FOLDER, OUTBOX, ROOT, RELEASES = "fleet", "outbox", "root.json", "releases"
"""Of a device: who it is in its fleet, what waits to be sent, the signed root that releases are believed by, these."""
ROOT_BYTES_MAX = 1 << 20
NEWS_RETRY = retry.Policy(first_s=2.0, most_s=900.0)
"""Between two attempts to hear of releases."""
NOW = retry.Policy(first_s=0.0, most_s=0.0)
"""The outbox does not wait by itself: when to try again is the reducer's to say."""
Ledger = Callable[[str, int, str], object]
"""(category, bytes, peer)."""


class HomeFog(Protocol):
    """A device's home fog: ``adapters/fog_client``, or a test's fake. Raises ``UpdateRefused`` and ``Unreachable``."""

    @property
    def peer(self) -> str:
        """The name that stands in the byte ledger."""

    def terms(self) -> Terms:
        """By what terms it gathers."""

    def submit(self, frame: bytes) -> Receipt:
        """Sends an update."""

    def news(self, seen: str = "", wait_s: float = 0.0) -> str:
        """The tag of the newest release, as soon as it is another than ``seen``, or ``wait_s`` are over."""

    def report(self, report: transport.Report) -> None:
        """Says how a release fared."""

    def source(self) -> Any:
        """Where the fog's releases are read from (``adapters/tuf_client.Source``)."""

    def close(self) -> None:
        """Closes the line."""


Connect = Callable[[Ledger], tuple[str, HomeFog]]
"""Gives the name that the fleet knows the device by, and a line that tells the ledger of what it sends."""


class Fleet:
    """A member of a fleet. ``connect`` gives its name there and a line to its home fog, without a word over it yet.

    ``ledger`` is told of everything before it is sent, and may raise to stop it. With ``eight_bits`` updates are
    rounded by chance to eight bits a number, where the fog takes that.
    """

    def __init__(
        self, root: Path, release: Release, versions: Versions, connect: Connect, now_s: Callable[[], float],
        ledger: Callable[[ev.BytesSent], None], files: Files | None = None, eight_bits: bool = False,
        chance: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:  # fmt: skip
        """``chance(n)`` gives n uniform bytes: the operating system's but in a simulation."""
        self._files = files or Files()
        self._folder, self._release, self._versions = root / FOLDER, release, versions
        self._connect, self._now_s, self._ledger = connect, now_s, ledger
        self._chance = chance
        self._layout: params.Layout | None = None
        self._eight_bits = eight_bits
        self._one_at_a_time, self._ended = threading.Lock(), threading.Event()

    def share(self, order: do.ShareLearnt, told: ev.TermsRead | None) -> list[ev.Event]:
        """Sends what waits, or makes the update and sends it; what became of it. ``told``: the terms heard last."""
        facts: list[ev.Event] = []
        try:
            name, fog = self._connect(self._enter)
            with contextlib.closing(fog):
                facts.append(self._shared(order, told, self._outbox(name), fog, facts))
        except UpdateRefused as fault:
            later = fault.reason in RETRY
            facts.append(self._delayed(order, str(fault)) if later else _refused(order, str(fault)))
        except (EvergroveError, TimeoutError) as fault:  # nobody answers, a full disk, a ledger that was not written
            facts.append(self._delayed(order, str(fault) or type(fault).__name__))
        return facts

    def _shared(
        self, order: do.ShareLearnt, told: ev.TermsRead | None, outbox: Outbox, fog: HomeFog, facts: list[ev.Event]
    ) -> ev.Event:
        last = outbox.last_fate()
        if last is not None and last.token != order.heard:  # its end was not logged any more before the last crash
            return _told(order, last)
        if not outbox.waiting():
            # 1. The terms of today; what must not be by the device's own record is not made.
            terms = fog.terms()
            heard = ev.TermsRead(terms.fog, terms.plan.generation, terms.epsilon, terms.protection)
            facts += [heard] if heard != told else []
            if terms.budget_spent:
                return _refused(order, f"the ε budget of generation {terms.plan.generation} is spent")
            obstacle = outbox.obstacle(terms)
            if obstacle is not None:
                why = _words(obstacle, outbox.taking(), terms)
                return self._delayed(order, why) if obstacle == "too soon" else _refused(order, why)
            # 2. Clipped and durable, before anything is sent.
            nonce = self._chance(tokens.NONCE_BYTES)
            rounding = np.random.default_rng(int.from_bytes(self._chance(16), "big")) if self._eight_bits else None
            layout, name = self._of_release(), self._release.manifest_hash
            outbox.put(self._vector(order), layout, name, terms, nonce, rounding)
        # 3. Into the ledger, then over the line, until its fate is known.
        return _told(order, outbox.deliver(fog, self._now_s(), 0.0, self._enter)[0])

    def report(self, order: do.SendReport) -> ev.ReportSent | ev.ReportDelayed:
        """Tells the fog how a release fared. One that is refused for good is not said again."""
        message = transport.Report(order.rollout, order.mark, order.shadow)
        try:
            _, fog = self._connect(self._enter)
            with contextlib.closing(fog):
                fog.report(message)
        except (Unreachable, TimeoutError) as fault:
            return ev.ReportDelayed(str(fault) or type(fault).__name__)
        except InvalidInput:
            pass  # the fog does not know the rollout any more, say
        except EvergroveError as fault:
            return ev.ReportDelayed(str(fault))
        return ev.ReportSent(order.rollout, order.mark, order.shadow)

    # ---- releases -------------------------------------------------------------------------------------------------

    def fetch(self, order: do.FetchRelease) -> ev.ReleaseFetched | ev.FetchFailed:
        """Fetches a release and verifies it; what is there in part already is not fetched again."""
        try:
            _, fog = self._connect(self._enter)
            with contextlib.closing(fog), self._one_at_a_time:
                found = self._releases(fog).fetch(order.version)
            if found.publication.release != order.release:
                raise InvalidArtefact(
                    f"version {order.version} is {found.publication.release[:12]}…, not the one meant"
                )
            return ev.ReleaseFetched(order.version, order.release)
        except InvalidInput as fault:
            return ev.FetchFailed(order.version, True, str(fault))
        except (EvergroveError, TimeoutError) as fault:
            return ev.FetchFailed(order.version, False, str(fault) or type(fault).__name__)

    def watch(self, told: Callable[[], Directive | None], say: Callable[[ev.Event], None], poll_s: float) -> None:
        """Waits at the fog for news, for ever, and says what the rollout's directive has become.

        ``told`` gives the directive that was said last. A fog that is away is asked again, later and later.
        """
        seen, failures = "", 0
        while True:
            try:
                seen, failures = self.look(seen, poll_s if seen else 0.0, told, say), 0
                if not seen:
                    self._ended.wait(min(poll_s, NEWS_RETRY.most_s))
            except (EvergroveError, TimeoutError):
                failures += 1
                jitter = secrets.randbelow(1 << 16) / (1 << 16)
                self._ended.wait(retry.delay_s(NEWS_RETRY, failures, jitter))
            if self._ended.is_set():
                return

    def look(
        self, seen: str, wait_s: float, told: Callable[[], Directive | None], say: Callable[[ev.Event], None]
    ) -> str:
        """One step of ``watch``: the fog's tag, when it is another than ``seen`` or ``wait_s`` are over.

        Raises ``EvergroveError`` and ``TimeoutError``; then nothing was said.
        """
        name, fog = self._connect(self._enter)
        with contextlib.closing(fog):
            tag = fog.news(seen, wait_s)
            if tag and tag != seen:
                with self._one_at_a_time:
                    directive = self._releases(fog).look()
                if directive is not None and directive != told():
                    say(ev.DirectiveRead(name, directive))
            return tag

    def close(self) -> None:
        """Ends ``watch``, at its next step."""
        self._ended.set()

    @property
    def takes_releases(self) -> bool:
        """Whether it was given a root to believe releases by."""
        return (self._folder / ROOT).exists()

    def place_of(self, release: str) -> Path:
        """Where a release that was fetched lies."""
        return self._folder / RELEASES / "releases" / release

    def wear(self, release: Release) -> None:
        """Updates are of this release from now on."""
        self._release, self._layout = release, None

    def _releases(self, fog: HomeFog) -> "ReleaseClient":
        from evergrove.adapters.tuf_client import ReleaseClient

        root = read_bounded(self._folder / ROOT, ROOT_BYTES_MAX)
        return ReleaseClient(self._folder / RELEASES, fog.source(), root, self._files, self._now_s)

    def _outbox(self, name: str) -> Outbox:
        return Outbox(self._folder / OUTBOX, name, self._files, NOW)

    def _enter(self, category: str, n_bytes: int, peer: str) -> None:
        self._ledger(ev.BytesSent(category, n_bytes, peer))

    def _vector(self, order: do.ShareLearnt) -> params.Vector:
        """What the version has learnt over what was given, of the fleet's vocabulary only."""
        learnt = self._learnt(order.version)
        if learnt is None:
            raise UsageError("the release alone serves: there is nothing to send")
        return since(learnt, self._learnt(order.given), self._of_release())

    def _learnt(self, version: str | None) -> Learnt | None:
        """A version, or what the release alone has (None: its base)."""
        if version:
            return decode(self._versions.load(version), f"version {version[:12]}")
        released = self._release.manifest.adapter
        return None if released is None else decode(self._release.read(released), "the released adapter")

    def _of_release(self) -> params.Layout:
        if self._layout is None:
            manifest, read = self._release.manifest, self._release.read
            self._layout = params.layout_of(manifest, read(manifest.base), read(manifest.basis))
        return self._layout

    def _delayed(self, order: do.ShareLearnt, reason: str) -> ev.UpdateDelayed:
        """To be tried again; an update that waits in the outbox by now stays the one that was ordered."""
        waiting = waiting_in(self._folder / OUTBOX)
        return ev.UpdateDelayed(order.version, waiting[0] if waiting else "", reason)


def _told(order: do.ShareLearnt, fate: Fate) -> ev.Event:
    """What became of the one update, as the log has it."""
    if fate.receipt is not None:
        cohort = fate.receipt.cohort
        return ev.UpdateCounted(order.version, fate.token, cohort.generation, cohort.number)
    kind = ev.UpdateRefused if fate.outcome == "refused" else ev.UpdateDelayed
    return kind(order.version, fate.token, fate.reason)


def _refused(order: do.ShareLearnt, reason: str) -> ev.UpdateRefused:
    """None will be made of this version."""
    return ev.UpdateRefused(order.version, "", reason)


def _words(obstacle: participation.Obstacle, record: participation.Record, terms: Terms) -> str:
    """Why the device does not take part, by its own limits, in a sentence."""
    match obstacle:
        case "another fog":
            return f"its fog for generation {record.generation} is {record.fog}, not {terms.fog}"
        case "old generation":
            return f"it took part in generation {record.generation} already, the fog gathers {terms.plan.generation}"
        case "too often":
            return f"it took part {record.n} times in generation {record.generation}, which is all that is allowed"
        case "over":
            return f"generation {terms.plan.generation} has had all of its {terms.plan.rounds} cohorts"
        case "too soon":
            return f"its turn comes {terms.plan.separation} cohorts after the last one"
        case _:
            assert_never(obstacle)
