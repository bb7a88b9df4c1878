"""Carries out forgetting: everything on the disk that holds what is to be forgotten goes, then a receipt is left.

In comes the reducer's order, out goes the fact that it is done. Each step may come twice: killed anywhere, the agent is
given the same order at its next start and goes through all of it again. Neither a worker nor an errand to a fog may be
under way.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from evergrove.adapters import receipts
from evergrove.adapters.files import Files
from evergrove.adapters.outbox import Outbox
from evergrove.adapters.vault import Vault
from evergrove.adapters.versions import Pointer, Versions
from evergrove.core import effects as do
from evergrove.core import events as ev
from evergrove.core import messages as msg
from evergrove.core.conditions import Code, Vocabulary, within
from evergrove.core.errors import InvalidArtefact, UsageError
from evergrove.rules.carry import renumbered
from evergrove.runtime.fleet import FOLDER, OUTBOX
from evergrove.runtime.keeper import Keeper

WORKPLACES = ("jobs", "cache")
"""Checkpoints, candidates and what a worker remembers of observations; values per golden item."""
PRINTED = "agent.log"


class Eraser:
    """The places of one device where something could be left. ``purge`` makes its log begin anew."""

    def __init__(
        self, root: Path, device: str, vault: Vault, versions: Versions, files: Files, purge: Callable[[], None]
    ) -> None:
        self._root, self._device, self._purge = root, device, purge
        self._vault, self._versions, self._files = vault, versions, files

    def erase(
        self, order: do.Erase, releases: tuple[str, str], keeper: Keeper, vocabulary: Vocabulary, now_s: float
    ) -> ev.Forgotten:
        """All of it. ``vocabulary`` is today's, without what is to be forgotten (``forgotten_names``).

        ``releases`` are those that ``current`` and ``previous`` are of, as the pointer names them.
        Raises ``DiskFull``, and whatever keeps a file from being deleted; then the order is to be given again.
        """
        # 1. From now on nothing serves that has learnt from it, and nothing that was made of it leaves the device.
        pointer = self._turn(order, *releases)
        if order.withdraw and (self._root / FOLDER / OUTBOX).is_dir():
            Outbox(self._root / FOLDER / OUTBOX, self._device, self._files).withdraw()
        # 2. Every adapter but what serves, checkpoints, values per item, and what was printed.
        self._versions.collect(order.keep)
        for name in WORKPLACES:
            self._files.remove_tree(self._root / name)
        self._empty(self._root / PRINTED)
        # 3. Records, then the names that they are numbered by, then the key that could open a leftover of either.
        for record in list(self._vault.ids()) if order.what == "all" else order.records:
            self._vault.evict(record)
        self._vault.settle_names(-1)  # what was prepared for a release is prepared anew
        if self._vault.names() is not None:  # there are two copies: a kill may have come between them
            self._vault.save_names(vocabulary)
        keeper.destroy(
            None if order.what == "all" else order.records, order.code if order.what == "condition" else None
        )
        # 4. What the log says of it.
        self._purge()
        # 5. A receipt, now that all of it is true.
        receipt = receipts.Receipt(
            self._device, order.job, order.asked_s, now_s, order.what, len(order.records), order.gone,
            pointer.current, order.withdraw,
        )  # fmt: skip
        return ev.Forgotten(
            order.job,
            order.what,
            len(order.records),
            order.gone,
            pointer.current,
            pointer.previous,
            pointer.seq,
            receipts.write(self._root, receipt, self._files),
        )

    def _turn(self, order: do.Erase, release: str, before: str) -> Pointer:
        """The pointer names only what has not learnt from it; the release alone where that cannot serve."""
        now = self._versions.read_pointer()
        wanted = Pointer(now.seq, order.current, order.previous, order.probation, 1, release, before)
        if now == wanted:
            return now
        for current, previous in ((order.current, order.previous), (None, None)):
            try:
                return self._versions.activate(
                    current, previous, now.seq + 1, probation=order.probation, release=release, previous_release=before
                )
            except InvalidArtefact:
                continue
        raise AssertionError("the release alone needs no file")

    def _empty(self, path: Path) -> None:
        """What the agent has printed may name a condition; it goes on printing into the same file."""
        if path.exists():
            self._files.step("write", path)
            os.truncate(path, 0)


def forgotten_names(vocabulary: Vocabulary, released: Vocabulary, what: str, code: Code | None) -> Vocabulary:
    """The vocabulary without the user's own names for what is forgotten: one value, or all; numbers stay.

    A condition of several values loses no name: each of these may be in use elsewhere. The release's names are public.
    """
    said = [(factor, n) for factor, n in enumerate(code or ()) if n]
    for factor, number in vocabulary.added(released):
        if what == "all" or [(factor, number)] == said:
            vocabulary = vocabulary.without_name(factor, number)
    return vocabulary


def meant(
    request: msg.Forget, vocabulary: Vocabulary, vault: Vault, past: Callable[[], Iterable[ev.Event]]
) -> ev.ForgettingAsked:
    """Which records a wish to forget is about. Raises ``UsageError`` where there is nothing to forget.

    ``vocabulary`` is today's; ``past`` gives what the log still holds, oldest first.
    """
    if (request.observation != "") + bool(request.condition) + request.everything != 1:
        raise UsageError("what is to be forgotten? Name one of these: an observation, a condition, everything")
    if request.everything:
        return ev.ForgettingAsked("all", (), None)
    if request.condition:
        code = vocabulary.encode(request.condition)
        shown = ((entry.id, vocabulary.encode(entry.condition)) for entry in vault.entries)
        records = tuple(record for record, its in shown if within(its, code))
        return ev.ForgettingAsked("condition", records, code)
    if request.observation in vault.ids():
        return ev.ForgettingAsked("observation", (request.observation,), None)
    return ev.ForgettingAsked("observation", (request.observation,), _code_of(request.observation, past()))


def _code_of(observation: str, past: Iterable[ev.Event]) -> Code:
    """What an observation showed that has left the replay buffer, as long as the log tells of it.

    A version may have learnt from it. Raises ``UsageError`` for one that was never kept, or is unknown.
    """
    found: Code | None = None
    for fact in past:
        match fact:
            case ev.ObservationKept(observation=name) if name == observation:
                found = fact.code
            case ev.ReleaseActivated() if found is not None:
                found = renumbered(found, fact.table)
            case ev.ObservationDropped(observation=name) if name == observation:
                raise UsageError(f"the observation {observation} was not kept, so nothing is to forget: {fact.reason}")
            case _:
                pass
    if found is not None:
        return found
    raise UsageError(
        f"there is no observation '{observation[:40]}' here; `observe --json` says what each is called. One that "
        "left the replay buffer long ago is forgotten with its condition, or with everything"
    )
