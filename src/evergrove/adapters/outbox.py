"""A device's updates on their way to its fog: each durable before the first attempt, deleted once its fate is durable.

The device holds itself to the limits of taking part (DESIGN §7), whatever a fog would allow: at most k times a
generation and b cohorts apart, and one home fog a generation. What it took part in is durable before the update is.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

import msgspec
import numpy as np

from evergrove.adapters.files import Files, read_bounded
from evergrove.core import transport
from evergrove.core.errors import CorruptState, Unreachable, UpdateRefused, UsageError
from evergrove.core.fog import RETRY, Receipt, Terms
from evergrove.core.release import sha256_hex
from evergrove.rules import params, retry, tokens
from evergrove.rules.privacy import clipping, participation

TAKING, FATE, SUFFIX = "taking-part.json", "last-fate.json", ".update"
FATE_BYTES_MAX = 65_536
WAITING_MAX = 16
Ledger = Callable[[str, int, str], object]
"""(category, bytes, peer): called before each attempt, for the byte ledger."""


class Submits(Protocol):
    """Where updates go: ``adapters/fog_client``, or a test's fake."""

    @property
    def peer(self) -> str:
        """The name that stands in the byte ledger."""

    def submit(self, frame: bytes) -> Receipt:
        """Sends an update. Raises ``UpdateRefused`` and ``Unreachable``."""


class Fate(msgspec.Struct, frozen=True):
    """What became of one update at one attempt: ``counted``, ``refused`` for good, or it ``waits``, and why."""

    token: str
    outcome: Literal["counted", "refused", "waits"]
    reason: str = ""
    receipt: Receipt | None = None


class Outbox:
    """A folder of its own on the device; one process owns it."""

    def __init__(
        self, folder: Path, device: str, files: Files | None = None, policy: retry.Policy | None = None
    ) -> None:
        self._folder, self._device = folder, device
        self._files, self._policy = files or Files(), policy or retry.Policy()
        self._files.make_folder(folder)
        self._files.sweep(folder)
        last = self.last_fate()
        for path in self._paths():  # a kill may have come between the fate and the end of the file
            if last is not None and path.name.endswith(f"-{last.token}{SUFFIX}"):
                self._files.remove(path)
        self._failures, self._due_s = 0, 0.0

    def obstacle(self, terms: Terms) -> participation.Obstacle | None:
        """Why the device may not take part by these terms now, by its own record; None where it may."""
        limits = participation.limits_of(terms.plan, terms.fog)
        return participation.obstacle(self.taking(), limits, terms.cohort)

    def put(
        self,
        vector: params.Vector,
        layout: params.Layout,
        release: str,
        terms: Terms,
        nonce: bytes,
        rounding: np.random.Generator | None = None,
    ) -> str:
        """Clips what was learnt to the terms' C, and keeps it for sending; its token.

        ``nonce``: 16 bytes of chance. With ``rounding`` it goes in eight bits a number, rounded by that chance, if the
        fog takes such a size; else in float16. Raises ``UsageError`` where the device may not take part now, or the
        terms are of another base, and ``params.encode``'s errors.
        """
        plan, record = terms.plan, self.taking()
        if layout.digest != plan.layout or release not in plan.releases:
            raise UsageError("the fog gathers for another release than the one that this was learnt on")
        limits = participation.limits_of(plan, terms.fog)
        match self.obstacle(terms):
            case None:
                pass
            case "another fog":
                raise UsageError(f"the device's fog for generation {plan.generation} is {record.fog}, not {terms.fog}")
            case "old generation":
                raise UsageError(f"the device took part in generation {record.generation} already")
            case obstacle:
                raise UsageError(f"the device may not take part now: {obstacle}")
        if len(self.waiting()) >= WAITING_MAX:
            raise UsageError(f"{WAITING_MAX} updates wait to be sent already")
        clipped = vector * clipping.clip_factor(params.norm(vector), plan.clip)
        if rounding is None or layout.n_bytes("int8") not in plan.n_bytes:
            body = params.encode(clipped, layout)
        else:
            body = params.encode_rounded(clipped, layout, rounding.random(layout.n_numbers))
        token = tokens.token_of(self._device, plan.generation, nonce)
        update = transport.Update(
            release, layout.base, layout.basis, plan.generation, token, sha256_hex(body), len(body)
        )
        record = participation.taken(record, limits, terms.cohort)
        self._files.write(self._folder / TAKING, msgspec.json.encode(record))
        self._files.write(self._folder / f"{record.n:06d}-{token}{SUFFIX}", transport.frame(update, body))
        self._due_s = 0.0
        return token

    def taking(self) -> participation.Record:
        """What the device took part in. Raises ``CorruptState``."""
        try:
            return msgspec.json.decode(read_bounded(self._folder / TAKING, 4096), type=participation.Record)
        except FileNotFoundError:
            return participation.Record()
        except msgspec.MsgspecError as fault:
            raise CorruptState(
                f"{self._folder / TAKING}: not understood; taking part again would not be safe"
            ) from fault

    def last_fate(self) -> Fate | None:
        """How the latest update that is not in the outbox any more ended; None before the first. Raises
        ``CorruptState``."""
        try:
            return msgspec.json.decode(read_bounded(self._folder / FATE, FATE_BYTES_MAX), type=Fate)
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError as fault:
            raise CorruptState(f"{self._folder / FATE}: not understood; an update might be counted twice") from fault

    def waiting(self) -> list[str]:
        """The tokens of the updates that wait, oldest first."""
        return waiting_in(self._folder)

    def withdraw(self) -> None:
        """Deletes what waits, and takes no further part in this generation: its owner wants something forgotten.

        Doing it again is fine. What was sent was sent.
        """
        record = self.taking()
        if record.generation >= 0:
            self._files.write(self._folder / TAKING, msgspec.json.encode(participation.withdrawn(record)))
        for path in self._paths():
            self._files.remove(path)
        self._files.remove(self._folder / FATE)

    @property
    def due_s(self) -> float:
        """When the next attempt is due; 0: now."""
        return self._due_s

    def deliver(self, fog: Submits, now_s: float, jitter: float, ledger: Ledger = lambda *_: None) -> list[Fate]:
        """Tries what is due, oldest first, until one must wait. ``jitter``: a number of chance from 0 to 1."""
        fates: list[Fate] = []
        if now_s < self._due_s:
            return fates
        for path in self._paths():
            fate = self._attempt(path, fog, ledger)
            fates.append(fate)
            if fate.outcome == "waits":
                self._failures += 1
                self._due_s = now_s + retry.delay_s(self._policy, self._failures, jitter)
                return fates
            self._failures, self._due_s = 0, 0.0
        return fates

    def _attempt(self, path: Path, fog: Submits, ledger: Ledger) -> Fate:
        token = path.name.removesuffix(SUFFIX).partition("-")[2]
        data = read_bounded(path, transport.REQUEST_BYTES_MAX)
        ledger(transport.Update.category, len(data), fog.peer)
        try:
            receipt = fog.submit(data)
            if receipt.token != token:
                raise Unreachable("the fog acknowledged another update")
        except UpdateRefused as fault:
            if fault.reason in RETRY:
                return Fate(token, "waits", str(fault))
            return self._end(path, Fate(token, "refused", str(fault)))
        except Unreachable as fault:
            return Fate(token, "waits", str(fault))
        record, cohort = self.taking(), receipt.cohort
        if record.generation == cohort.generation and record.last < cohort.number:
            record = msgspec.structs.replace(record, last=cohort.number)
            self._files.write(self._folder / TAKING, msgspec.json.encode(record))
        return self._end(path, Fate(token, "counted", "", receipt))

    def _end(self, path: Path, fate: Fate) -> Fate:
        """What became of it outlives it: whoever asks after a crash must not take it for never made."""
        self._files.write(self._folder / FATE, msgspec.json.encode(fate))
        self._files.remove(path)
        return fate

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob(f"*{SUFFIX}"))


def waiting_in(folder: Path) -> list[str]:
    """The tokens of the updates that wait in an outbox's folder, oldest first; it needs no outbox."""
    return [path.name.removesuffix(SUFFIX).partition("-")[2] for path in sorted(folder.glob(f"*{SUFFIX}"))]
