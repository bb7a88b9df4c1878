"""A device's side of its fleet: what it has learnt goes to the home fog, by way of the outbox.

An order of the reducer comes in, the facts that answer it go out, and every byte that leaves is told to the ledger
*before* it is sent. No torch here, and no HTTP library before it is needed. All of it blocks: it runs in a thread
beside the agent's loop, one errand at a time.
"""

import contextlib
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, assert_never

import numpy as np

from evergrove.adapters.files import Files
from evergrove.adapters.learnt import read_learnt
from evergrove.adapters.outbox import Fate, Outbox, waiting_in
from evergrove.adapters.release import Release
from evergrove.adapters.versions import Versions
from evergrove.core import effects as do
from evergrove.core import events as ev
from evergrove.core.errors import EvergroveError, UpdateRefused
from evergrove.core.fog import RETRY, Receipt, Terms
from evergrove.rules import params, retry, tokens
from evergrove.rules.privacy import participation

FOLDER, OUTBOX, ROOT = "fleet", "outbox", "root.json"
"""Of a device: who it is in its fleet, what waits to be sent, and the signed root that releases are believed by."""
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

    def close(self) -> None:
        """Closes the line."""


Connect = Callable[[Ledger], tuple[str, HomeFog]]
"""Gives the name that the fleet knows the device by, and a line that tells the ledger of what it sends."""


class Fleet:
    """A member of a fleet. ``connect`` gives its name there and a line to its home fog, without a word over it yet.

    ``ledger`` is told of everything before it is sent, and may raise to stop it.
    """

    def __init__(
        self, root: Path, release: Release, versions: Versions, connect: Connect, now_s: Callable[[], float],
        ledger: Callable[[ev.BytesSent], None], files: Files | None = None,
    ) -> None:  # fmt: skip
        self._files = files or Files()
        self._folder, self._release, self._versions = root / FOLDER, release, versions
        self._connect, self._now_s, self._ledger = connect, now_s, ledger
        self._layout: params.Layout | None = None

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
            obstacle = outbox.obstacle(terms)
            if obstacle is not None:
                why = _words(obstacle, outbox.taking(), terms)
                return self._delayed(order, why) if obstacle == "too soon" else _refused(order, why)
            # 2. Clipped and durable, before anything is sent.
            nonce = secrets.token_bytes(tokens.NONCE_BYTES)
            outbox.put(self._vector(order), self._of_release(), self._release.manifest_hash, terms, nonce)
        # 3. Into the ledger, then over the line, until its fate is known.
        return _told(order, outbox.deliver(fog, self._now_s(), 0.0, self._enter)[0])

    def _outbox(self, name: str) -> Outbox:
        return Outbox(self._folder / OUTBOX, name, self._files, NOW)

    def _enter(self, category: str, n_bytes: int, peer: str) -> None:
        self._ledger(ev.BytesSent(category, n_bytes, peer))

    def _vector(self, order: do.ShareLearnt) -> params.Vector:
        """What the version has learnt over what was given, of the fleet's vocabulary only."""
        return self._flat(order.version) - self._flat(order.given)

    def _flat(self, version: str | None) -> params.Vector:
        layout = self._of_release()
        if version is None:
            return np.zeros(layout.n_numbers, np.float32)
        learnt = read_learnt(self._versions.load(version), f"version {version[:12]}")
        return params.flat(learnt.tensors, learnt.vocabulary, layout)

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
