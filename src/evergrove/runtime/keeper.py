"""The private side of novelty: holds what has arrived, measures it against what is kept, and stores what was chosen.

The reducer decides from scalars; pixels, hashes and features stay here and in the vault. One index per condition holds
training and golden records alike, so that neither can become a copy of the other.
"""

from collections.abc import Callable, Collection, Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from evergrove.adapters.vault import IndexEntry, Record, Vault, new_id
from evergrove.core import events as ev
from evergrove.core.conditions import Code, Vocabulary, group, within
from evergrove.core.errors import EvergroveError
from evergrove.core.measures import Facts
from evergrove.core.release import sha256_hex
from evergrove.rules import features, kept
from evergrove.tiers.device import Pending


class Keeper:
    """The vault of a device with its novelty index, and the observations that wait for a decision."""

    def __init__(
        self, vault: Vault, known: Code, name: Callable[[], str] = new_id, words: Callable[[], Vocabulary] | None = None
    ) -> None:
        """``known`` are the release's numbers of values: they decide what a condition is (``group``); ``name`` names
        records. ``words`` gives today's vocabulary, where releases bring other numbers than records were written by."""
        self._words = words
        self._name = name
        self._vault = vault
        self._known = known
        self._index: dict[Code, kept.KeptIndex] = {}
        self._arriving: dict[str, Record] = {}
        for entry in vault.entries:
            self._add(entry.id, self._code(entry), entry.sha256, entry.phash, entry.feature)

    def receive(
        self, media: bytes, pixels: NDArray[np.uint8], condition: dict[str, str], code: Code, at_s: float
    ) -> tuple[str, Facts]:
        """Takes an observation in: gives it a random name and says how it compares with what is kept.

        ``media`` is the one lossless encoding of ``pixels`` uint8 (H, W, 3), so that equal bytes mean equal pixels.
        """
        feature, phash, digest = features.describe(pixels), features.perceptual_hash(pixels), sha256_hex(media)
        index = self._index.get(group(code, self._known), kept.KeptIndex.empty())
        facts = kept.measure(digest, phash, feature, index, code)
        record = Record(self._name(), media, condition, code, "train", feature.tobytes(), phash, at_s, digest)
        self._arriving[record.id] = record
        return record.id, facts

    def store(self, observation: str, split: str, reason: str) -> ev.Event:
        """Writes what was chosen; it is durable when this says that it was kept."""
        record = self._arriving.pop(observation, None)
        if record is None:
            return ev.ObservationLost(observation, "cut off before it was written")
        record = msgspec.structs.replace(record, split="golden" if split == "golden" else "train")
        try:
            self._vault.put(record)
        except EvergroveError as fault:
            return ev.ObservationLost(record.id, str(fault))
        self._add(record.id, record.code, record.sha256, record.phash, record.feature)
        return ev.ObservationKept(record.id, record.code, record.split, reason)

    @property
    def n_arriving(self) -> int:
        """Observations that wait for a decision, and are held in memory meanwhile."""
        return len(self._arriving)

    def drop(self, observation: str) -> None:
        """Forgets what was not chosen."""
        self._arriving.pop(observation, None)

    def evict(self, records: Collection[str]) -> None:
        """Deletes what the reservoir gave up."""
        for entry in [entry for entry in self._vault.entries if entry.id in records]:
            self._vault.evict(entry.id)
            condition = group(self._code(entry), self._known)
            if condition in self._index:
                self._index[condition] = self._index[condition].retire(entry.id)

    def destroy(self, records: Collection[str] | None, code: Code | None) -> None:
        """Deletes records (None: all there are) with every key that could open a leftover of them.

        What the novelty filter knew of them goes as well, and what it knew of anything that shows all of ``code``.
        """
        gone = set(self._vault.ids() if records is None else records)
        self._vault.destroy(sorted(gone))
        self._arriving = {name: one for name, one in self._arriving.items() if name not in gone}
        for condition, index in self._index.items():
            for record, shown in zip(index.records, index.codes, strict=True):
                if records is None or record in gone or (code is not None and within(shown, code)):
                    index = index.remove(record)
            self._index[condition] = index

    def reconcile(self, known: set[str], pending: Mapping[str, Pending]) -> list[ev.Event]:
        """After a start: no record without its event, no event without its record."""
        there = {entry.id: entry for entry in self._vault.entries}
        self.evict(there.keys() - known)
        facts: list[ev.Event] = []
        for record in sorted(known):
            if record not in there:
                facts.append(ev.ObservationLost(record, "not in the replay buffer after a restart"))
            elif record in pending:
                entry = there[record]
                facts.append(
                    ev.ObservationKept(record, self._code(entry), entry.split, "kept: finished after a restart")
                )
        return facts

    def _code(self, entry: IndexEntry) -> Code:
        return entry.code if self._words is None else self._words().encode(entry.condition)

    def _add(self, record: str, code: Code, digest: str, phash: int, feature: bytes) -> None:
        condition = group(code, self._known)
        index = self._index.get(condition, kept.KeptIndex.empty())
        self._index[condition] = index.add(record, digest, phash, np.frombuffer(feature, np.uint8), code)
