"""The sums of a fog: one durable file each and the row that names it, from its noise on until the cloud has it.

Every call is inside of a transaction of the caller's. Before a sum is written, what a killed attempt left of another
one goes: two noises of one round never lie on the disk together.
"""

import contextlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import msgspec
import sqlalchemy as sa

from evergrove.adapters import fog_database as db
from evergrove.adapters.files import Files, read_bounded
from evergrove.core.errors import CorruptState
from evergrove.core.fog import Cohort
from evergrove.core.release import sha256_hex
from evergrove.core.sums import NoisedSum

SUM_BYTES_MAX = 1 << 30
_S = db.SUMS.c
_COLUMNS = (_S.generation, _S.number, _S.digest, _S.n_bytes, _S.epsilon, _S.head)


@dataclass(frozen=True)
class Ready:
    """A sum that waits for the cloud. ``head`` is what goes up, without its vector."""

    cohort: Cohort
    digest: str
    n_bytes: int
    epsilon: float | None
    head: NoisedSum


class Sums:
    """The folder of them, and their rows."""

    def __init__(self, folder: Path, files: Files) -> None:
        self._folder, self._files = folder, files
        files.make_folder(folder)

    def put(
        self, link: sa.Connection, cohort: Cohort, data: bytes, head: NoisedSum, epsilon: float | None, now_s: float
    ) -> str:
        """Writes a sum and its row, under the writers' lock; its digest."""
        self.sweep(link)
        digest = sha256_hex(data)
        self._files.write(self._folder / digest, data)
        link.execute(
            db.SUMS.insert().values(
                generation=cohort.generation, number=cohort.number, digest=digest, n_bytes=len(data), epsilon=epsilon,
                at_s=now_s, name=head.id, head=msgspec.json.encode(msgspec.structs.replace(head, vector=b"")).decode(),
            )
        )  # fmt: skip
        return digest

    def sweep(self, link: sa.Connection, over: Collection[Cohort] = ()) -> None:
        """Deletes files that no row names, and those of cohorts that are ``over``; under the writers' lock."""
        rows = link.execute(sa.select(_S.generation, _S.number, _S.digest)).all()
        named = {digest for generation, number, digest in rows if Cohort(generation, number) not in over}
        for path in sorted(self._folder.iterdir()):
            if path.name not in named:
                self._files.remove(path)

    def ready(self, link: sa.Connection, waiting: Collection[Cohort]) -> list[Ready]:
        """The sums of these cohorts, in their order."""
        if not waiting:
            return []
        first = min(cohort.generation for cohort in waiting)
        rows = link.execute(sa.select(*_COLUMNS).where(_S.generation >= first)).all()
        found = {Cohort(row[0], row[1]): row for row in rows}
        return [
            Ready(cohort, row[2], row[3], row[4], msgspec.json.decode(row[5], type=NoisedSum))
            for cohort in waiting
            if (row := found.get(cohort)) is not None
        ]

    def find(self, link: sa.Connection, name: str) -> Cohort | None:
        """The cohort of the sum that goes up under this name; None: there never was one."""
        row = link.execute(sa.select(_S.generation, _S.number).where(_S.name == name)).one_or_none()
        return None if row is None else Cohort(row[0], row[1])

    def read(self, link: sa.Connection, cohort: Cohort) -> bytes:
        """The bytes of a sum, always the same. Raises ``CorruptState`` where they are damaged or not kept any more."""
        digest = link.execute(
            sa.select(_S.digest).where(_S.generation == cohort.generation, _S.number == cohort.number)
        ).scalar_one_or_none()
        data = b""
        if digest is not None:
            with contextlib.suppress(FileNotFoundError):
                data = read_bounded(self._folder / digest, SUM_BYTES_MAX)
        if sha256_hex(data) != digest:
            raise CorruptState(
                f"the sum of cohort {cohort.generation}.{cohort.number} is damaged, or not kept any more"
            )
        return data
