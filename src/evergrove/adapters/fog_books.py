"""What a fog's database keeps of privacy: each generation's noise state, the ε ledger over all, its chained history.

Every call is inside of a transaction of the caller's: nothing of it commits without the sum that it belongs to.
"""

from dataclasses import dataclass

import sqlalchemy as sa

from evergrove.adapters import fog_database as db
from evergrove.core.fog import Cohort
from evergrove.rules.privacy import history
from evergrove.rules.privacy import ledger as ledgers
from evergrove.rules.privacy.history import Entry
from evergrove.rules.privacy.ledger import Ledger


@dataclass(frozen=True)
class Kept:
    """What is durable between two rounds of a generation: its noise's state, encrypted (None: none yet), and the ε
    ledger over all generations (``ledger.encode``; empty: none yet)."""

    noise: bytes | None
    ledger: bytes


def kept(link: sa.Connection, generation: int) -> Kept:
    """The noise of a generation, and the ε ledger."""
    noise = sa.select(db.GENERATIONS.c.noise).where(db.GENERATIONS.c.generation == generation)
    return Kept(link.execute(noise).scalar_one_or_none(), _text(link).encode())


def keep(link: sa.Connection, cohort: Cohort, after: Kept, entry: Entry) -> None:
    """Replaces noise and ledger, and adds one line to the history, bound to those before it."""
    generation = db.GENERATIONS.c.generation == cohort.generation
    link.execute(db.GENERATIONS.update().where(generation).values(noise=after.noise))
    write_ledger(link, after.ledger)
    last = sa.select(db.LEDGER.c.chain).order_by(db.LEDGER.c.seq.desc()).limit(1)
    line = history.encode(entry)
    chain = history.link(link.execute(last).scalar_one_or_none() or "", line)
    row = {"generation": cohort.generation, "number": cohort.number, "entry": line, "chain": chain}
    link.execute(db.LEDGER.insert().values(**row))


def write_ledger(link: sa.Connection, ledger: bytes) -> None:
    """Replaces the ε ledger."""
    link.execute(db.HEAD.update().values(ledger=ledger.decode()))


def ledger(link: sa.Connection) -> Ledger:
    """The ε ledger; an empty one where nothing was ever gathered."""
    text = _text(link)
    return ledgers.decode(text.encode()) if text else Ledger()


def lines(link: sa.Connection) -> list[tuple[str, str]]:
    """The history's lines, each with its hash, oldest first."""
    asked = sa.select(db.LEDGER.c.entry, db.LEDGER.c.chain).order_by(db.LEDGER.c.seq)
    return [(entry, chain) for entry, chain in link.execute(asked)]


def _text(link: sa.Connection) -> str:
    return str(link.execute(sa.select(db.HEAD.c.ledger)).scalar_one())
