"""The private half of novelty: what is kept of one watched condition, and how an observation compares with it.

Runs beside the encrypted store, which alone holds features and hashes; only the scalars of ``Facts`` go into the log.
An index also remembers a bounded number of *retired* records, evicted from the buffer, so that a copy of something that
was trained on never passes for new, and so never enters the golden set.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from evergrove.core.conditions import Code
from evergrove.core.measures import Facts
from evergrove.rules import features

RETIRED_MAX = 128
"""Retired records that an index remembers, at 1.5 kB each."""


def _no_features() -> features.Feature:
    return np.empty((0, features.FEATURE_LEN), np.uint8)


@dataclass(frozen=True)
class KeptIndex:
    """What is kept of one condition, training and golden records alike; ``looks`` has one feature per record (n, L)."""

    records: tuple[str, ...] = ()
    codes: tuple[Code, ...] = ()
    digests: tuple[str, ...] = ()
    fingerprints: tuple[int, ...] = ()
    looks: features.Feature = field(default_factory=_no_features)
    retired: frozenset[str] = frozenset()

    @classmethod
    def empty(cls) -> "KeptIndex":
        """The index of a condition that was never met."""
        return cls()

    def add(
        self, record: str, digest: str, fingerprint: int, feature: features.Feature, code: Code = ()
    ) -> "KeptIndex":
        """The index with one more record: see ``features`` for what is remembered of it. ``code`` is its full code."""
        return replace(
            self,
            records=(*self.records, record),
            codes=(*self.codes, code),
            digests=(*self.digests, digest),
            fingerprints=(*self.fingerprints, fingerprint),
            looks=np.concatenate([self.looks, feature[None].astype(np.uint8)]),
        )

    def retire(self, record: str) -> "KeptIndex":
        """The index after a record was evicted: copies of it are still recognised. The oldest retired one may go."""
        if record not in self.records:
            return self
        retired = self.retired | {record}
        index = replace(self, retired=retired)
        if len(retired) > RETIRED_MAX:
            return index.remove(next(r for r in index.records if r in retired))
        return index

    def remove(self, record: str) -> "KeptIndex":
        """The index without a trace of a record."""
        if record not in self.records:
            return self
        at = self.records.index(record)
        return KeptIndex(
            self.records[:at] + self.records[at + 1 :],
            self.codes[:at] + self.codes[at + 1 :],
            self.digests[:at] + self.digests[at + 1 :],
            self.fingerprints[:at] + self.fingerprints[at + 1 :],
            np.delete(self.looks, at, axis=0),
            self.retired - {record},
        )


def measure(digest: str, fingerprint: int, feature: features.Feature, kept: KeptIndex, code: Code = ()) -> Facts:
    """The facts of one observation against the index of its condition.

    ``distance`` is to the nearest record, in units of ``features.REENCODED``; ``hash_bits`` is of that same record, and
    None if nothing is kept or if that record has another full ``code``: labelled otherwise it is no copy, however near.
    """
    if not kept.records:
        return Facts(exact_duplicate=False, hash_bits=None, distance=None)
    far = features.distances(feature, kept.looks)
    nearest = int(np.argmin(far))
    same = kept.codes[nearest] == code
    bits = (fingerprint ^ kept.fingerprints[nearest]).bit_count() if same else None
    return Facts(exact_duplicate=digest in kept.digests, hash_bits=bits, distance=float(far[nearest]))
