"""A fog's memory: the reducer's state in a database, the waiting updates and the sums as files beside it.

``feed`` is one transaction: it locks, loads the part of the state that its events can touch, lets the reducer decide,
and commits state, facts and the rows of bodies together. What survives a kill at any instant is what was committed;
files are durable before the row that names them. Any number of workers may share one store.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import sqlalchemy as sa

from evergrove.adapters import fog_books
from evergrove.adapters import fog_database as db
from evergrove.adapters.files import Files
from evergrove.adapters.fog_bodies import ORPHAN_S, Bodies
from evergrove.adapters.fog_books import Kept
from evergrove.adapters.fog_reports import Reports
from evergrove.adapters.fog_sums import Ready, Sums
from evergrove.core import fog
from evergrove.core.errors import CorruptState
from evergrove.core.fog import Cohort, FogEvent
from evergrove.core.sums import NoisedSum
from evergrove.rules.params import Layout
from evergrove.rules.privacy import history
from evergrove.rules.privacy.history import Entry
from evergrove.rules.privacy.ledger import Ledger
from evergrove.tiers.fog import Counted, Member, State, settle, touches

EVENTS_KEPT = 100_000
"""Facts kept for people to read."""
COMPACT_EVERY = 500
# Made once: to build them anew took longer than to run them.
_HEAD = sa.select(db.HEAD.c.state)
_SOME_DEVICES = sa.select(db.DEVICES.c.device, db.DEVICES.c.member).where(
    db.DEVICES.c.device.in_(sa.bindparam("names", expanding=True))
)
_SOME_TOKENS = sa.select(
    db.TOKENS.c.token, db.TOKENS.c.device, db.TOKENS.c.digest, db.TOKENS.c.generation, db.TOKENS.c.number
).where(db.TOKENS.c.token.in_(sa.bindparam("tokens", expanding=True)))
_NEW_DEVICE = db.DEVICES.insert().values(device=sa.bindparam("name"), member=sa.bindparam("text"))
_OLD_DEVICE = db.DEVICES.update().where(db.DEVICES.c.device == sa.bindparam("name")).values(member=sa.bindparam("text"))
_SET_HEAD = db.HEAD.update().values(state=sa.bindparam("text"))


@dataclass(frozen=True)
class Part:
    """One waiting update of a cohort: its file's name, and the SHA-256 that it must have."""

    token: str
    file: str
    digest: str


@dataclass(frozen=True)
class Sealed:
    """A cohort's sum as it will be handed over, and what commits with it.

    ``data`` None: the cohort is withheld for ``reason``, and ``head`` is not there either. ``entry`` is the ε ledger's
    line, without the sum's digest. ``then``: what is known from now on.
    """

    data: bytes | None
    head: NoisedSum | None
    epsilon: float | None
    kept: Kept
    entry: Entry
    reason: str = ""
    then: tuple[FogEvent, ...] = ()


class FogStore:
    """Opened over a database and a folder. Thread-safe. ``files`` may kill or fill the disk, in tests."""

    def __init__(self, folder: Path, url: str | None = None, files: Files | None = None) -> None:
        """``url`` None: SQLite in the folder. Several workers share the folder too."""
        self._files = files or Files()
        self._files.make_folder(folder)
        self.bodies = Bodies(folder / "bodies", self._files)
        self._sums = Sums(folder / "sums", self._files)
        self._database = db.Database(url or db.sqlite_url(folder / "fog.db"), self._files)
        self.reports = Reports(self._database)
        self._n_fed = 0

    def close(self) -> None:
        """Lets go of the database."""
        self._database.close()

    # ---- deciding ----------------------------------------------------------------------------------------------------

    def feed(
        self, events: Sequence[FogEvent], now_s: float, files: Mapping[tuple[str, str], str] | None = None
    ) -> tuple[list[list[FogEvent]], list[fog.FogOrder]]:
        """Decides about events in one transaction: the facts per event, and the orders to carry out afterwards.

        ``files``: the body's file of each (token, digest) that may be counted. Raises ``Unreachable`` where the
        database does not answer; then nothing happened.
        """
        if files:
            self.bodies.sync()
        with self._database.writing() as (link, head):
            facts, orders = self._decide(link, head, events, now_s, files or {})
        self._n_fed += 1
        if self._n_fed % COMPACT_EVERY == 0:
            self._compact()
        return facts, orders

    def glance(self, events: Sequence[FogEvent], now_s: float) -> tuple[list[list[FogEvent]], list[fog.FogOrder]]:
        """What ``feed`` would say now, without a lock, and without a trace."""
        with self._database.reading() as link:
            state = _slice(link, link.execute(_HEAD).scalar_one(), events)
        _, facts, orders = settle(state, events, now_s)
        return facts, orders

    def state(self) -> State:
        """The state without its devices and tokens."""
        with self._database.reading() as link:
            return _decoded(link.execute(_HEAD).scalar_one())

    def open_generation(
        self, plan: fog.Plan, layout: Layout, opening: Callable[[Kept, int], bytes], now_s: float
    ) -> tuple[list[FogEvent], list[fog.FogOrder]]:
        """Feeds ``GenerationPlanned``, and keeps the layout that its updates have and the clip, both for good.

        ``opening`` gets what is kept and how many cohorts have closed, and gives the ε ledger with the generation in
        it. What it raises undoes everything.
        """
        plan.check()
        with self._database.writing() as (link, head):
            known = sa.select(db.GENERATIONS.c.generation).where(db.GENERATIONS.c.generation == plan.generation)
            if link.execute(known).first() is None:
                text = msgspec.json.encode(layout).decode()
                row = {"generation": plan.generation, "layout": text, "clip": plan.clip, "noise": None}
                link.execute(db.GENERATIONS.insert().values(**row))
            facts, orders = self._decide(link, head, [fog.GenerationPlanned(plan)], now_s, {})
            if not any(isinstance(fact, fog.PlanRefused) for fact in facts[0]):
                n_closed = _decoded(link.execute(_HEAD).scalar_one()).number
                ledger = opening(fog_books.kept(link, plan.generation), n_closed)
                fog_books.write_ledger(link, ledger)
        return facts[0], orders

    def layout(self, generation: int) -> tuple[Layout, float]:
        """The layout and the clip of a generation. Raises ``CorruptState`` for one that was never opened."""
        g = db.GENERATIONS.c
        with self._database.reading() as link:
            row = link.execute(sa.select(g.layout, g.clip).where(g.generation == generation)).one_or_none()
        if row is None:
            raise CorruptState(f"the fog's database knows no generation {generation}; open it again")
        return msgspec.json.decode(row.layout, type=Layout), float(row.clip)

    # ---- summing -----------------------------------------------------------------------------------------------------

    def parts(self, cohort: Cohort) -> list[Part]:
        """The updates of a cohort in the canonical order: by token."""
        b = db.BODIES.c
        with self._database.reading() as link:
            rows = link.execute(
                sa.select(b.token, b.file, b.digest).where(*_in(db.BODIES, cohort)).order_by(b.token)
            ).all()
        return sorted((Part(*row) for row in rows), key=lambda part: part.token)  # whatever the collation

    def kept(self, generation: int) -> Kept:
        """The noise of a generation, and the ε ledger."""
        with self._database.reading() as link:
            return fog_books.kept(link, generation)

    def seal(
        self, cohort: Cohort, make: Callable[[Kept], Sealed], now_s: float
    ) -> tuple[list[FogEvent], list[fog.FogOrder]]:
        """Commits a cohort's sum, the noise's state and the ledger's entry together, once.

        ``make`` gets what is kept and is called under the lock. Where another worker was faster, or it is not this
        cohort's turn, nothing happens. What ``make`` raises undoes everything.
        """
        with self._database.writing() as (link, head):
            if _decoded(head).closed[:1] != (cohort,):
                return [], []
            sealed = make(fog_books.kept(link, cohort.generation))
            digest = ""
            done: FogEvent = fog.CohortWithheld(cohort, sealed.reason)
            if sealed.data is not None:
                assert sealed.head is not None, "what goes up is named"
                digest = self._sums.put(link, cohort, sealed.data, sealed.head, sealed.epsilon, now_s)
                done = fog.CohortSummed(cohort, digest, len(sealed.data), sealed.epsilon)
            fog_books.keep(link, cohort, sealed.kept, msgspec.structs.replace(sealed.entry, sum=digest))
            facts, orders = self._decide(link, head, [done, *sealed.then], now_s, {})
        return [fact for kept in facts for fact in kept], orders

    def delete_bodies(self, cohort: Cohort) -> int:
        """Deletes a cohort's single updates: the files, then their rows; how many."""
        parts = self.parts(cohort)
        self.bodies.delete([part.file for part in parts])
        with self._database.writing() as (link, _):
            link.execute(db.BODIES.delete().where(*_in(db.BODIES, cohort)))
        return len(parts)

    # ---- handing over ------------------------------------------------------------------------------------------------

    def ready(self) -> list[Ready]:
        """The sums that wait for the cloud, in order."""
        with self._database.reading() as link:
            return self._sums.ready(link, _decoded(link.execute(_HEAD).scalar_one()).ready)

    def find_sum(self, name: str) -> Cohort | None:
        """The cohort whose sum goes up under this name (``core/sums``), handed over or not; None: there is none."""
        with self._database.reading() as link:
            return self._sums.find(link, name)

    def read_sum(self, cohort: Cohort) -> bytes:
        """The bytes of a sum, always the same. Raises ``CorruptState`` where they are damaged or not kept any more."""
        with self._database.reading() as link:
            return self._sums.read(link, cohort)

    def ledger(self) -> Ledger:
        """The ε ledger over all generations."""
        with self._database.reading() as link:
            return fog_books.ledger(link)

    def history(self) -> tuple[Entry, ...]:
        """The ε ledger's lines, oldest first. Raises ``CorruptState`` where one was altered, or they do not add up."""
        with self._database.reading() as link:
            return history.check(fog_books.lines(link), fog_books.ledger(link))

    def sums_made(self) -> list[tuple[int, float]]:
        """Bytes of every sum that was made for the cloud, and when (seconds since 1970), oldest first."""
        s = db.SUMS.c
        with self._database.reading() as link:
            found = link.execute(sa.select(s.n_bytes, s.at_s).order_by(s.generation, s.number))
            return [(n_bytes, at_s) for n_bytes, at_s in found]

    def events(self, after_seq: int = 0, n_max: int = 1000) -> list[tuple[int, float, FogEvent]]:
        """Facts after a number, oldest first: (number, seconds since 1970, fact)."""
        e = db.EVENTS.c
        asked = sa.select(e.seq, e.at_s, e.event).where(e.seq > after_seq).order_by(e.seq).limit(n_max)
        with self._database.reading() as link:
            return [(seq, at_s, fog.decode(text)) for seq, at_s, text in link.execute(asked)]

    # ---- housekeeping ------------------------------------------------------------------------------------------------

    def tidy(self, orphan_s: float = ORPHAN_S) -> None:
        """What kills left: files that no row names, updates of cohorts that are over, sums that the cloud has."""
        b, s = db.BODIES.c, db.SUMS.c
        with self._database.reading() as link:
            # The rows before the state: where the database gives no snapshot, what came in between is spared.
            rows = link.execute(sa.select(b.generation, b.number, b.file)).all()
            state = _decoded(link.execute(_HEAD).scalar_one())
        live = {*state.closed, *([state.open] if state.plan is not None else [])}
        for cohort in {Cohort(generation, number) for generation, number, _ in rows} - live:
            self.delete_bodies(cohort)
        self.bodies.sweep({file for _, _, file in rows}, orphan_s)
        with self._database.writing() as (link, head):
            ready = set(_decoded(head).ready)
            known = link.execute(sa.select(s.generation, s.number)).all()
            self._sums.sweep(link, {Cohort(*row) for row in known} - ready)

    def _compact(self) -> None:
        with self._database.writing() as (link, _):
            newest = link.execute(sa.select(sa.func.max(db.EVENTS.c.seq))).scalar_one() or 0
            link.execute(db.EVENTS.delete().where(db.EVENTS.c.seq <= newest - EVENTS_KEPT))

    def _decide(
        self,
        link: sa.Connection,
        head: str,
        events: Sequence[FogEvent],
        now_s: float,
        files: Mapping[tuple[str, str], str],
    ) -> tuple[list[list[FogEvent]], list[fog.FogOrder]]:
        """The reducer's word on a locked slice of the state, and every row that it changes."""
        before = _slice(link, head, events)
        after, facts, orders = settle(before, events, now_s)
        text = _encoded(after)
        if text != head:
            link.execute(_SET_HEAD, {"text": text})
        if before.plan is not None and after.plan is not None and after.plan.generation != before.plan.generation:
            link.execute(db.TOKENS.delete())
        _save_devices(link, before, after)
        new = [(token, after.tokens[token]) for token in after.tokens if token not in before.tokens]
        if new:
            link.execute(db.TOKENS.insert(), [_token_row(token, counted) for token, counted in new])
        flat = [fact for kept in facts for fact in kept]
        bodies = [
            _body_row(fact, files[fact.token, fact.digest]) for fact in flat if isinstance(fact, fog.UpdateCounted)
        ]
        if bodies:
            link.execute(db.BODIES.insert(), bodies)
        if flat:
            link.execute(db.EVENTS.insert(), [{"at_s": now_s, "event": fog.encode(fact).decode()} for fact in flat])
        return facts, orders


def _slice(link: sa.Connection, head: str, events: Sequence[FogEvent]) -> State:
    """The state with the devices and tokens that the events can touch."""
    names, tokens = touches(events)
    state = _decoded(head)
    if names:
        rows = link.execute(_SOME_DEVICES, {"names": list(names)})
        devices = {name: msgspec.json.decode(text, type=Member) for name, text in rows}
        state = msgspec.structs.replace(state, devices=devices)
    if tokens:
        counted = {
            token: Counted(device, digest, Cohort(generation, number))
            for token, device, digest, generation, number in link.execute(_SOME_TOKENS, {"tokens": list(tokens)})
        }
        state = msgspec.structs.replace(state, tokens=counted)
    return state


def _save_devices(link: sa.Connection, before: State, after: State) -> None:
    changed = {name: member for name, member in after.devices.items() if member != before.devices.get(name)}
    rows = [
        {"name": name, "text": msgspec.json.encode(member).decode(), "new": name not in before.devices}
        for name, member in changed.items()
    ]
    for statement, new in ((_NEW_DEVICE, True), (_OLD_DEVICE, False)):
        some = [{"name": row["name"], "text": row["text"]} for row in rows if row["new"] == new]
        if some:
            link.execute(statement, some)


def _token_row(token: str, counted: Counted) -> dict[str, object]:
    at = counted.cohort
    return {"token": token, "device": counted.device, "digest": counted.digest, "generation": at.generation,
            "number": at.number}  # fmt: skip


def _body_row(fact: fog.UpdateCounted, file: str) -> dict[str, object]:
    at = fact.cohort
    return {"token": fact.token, "generation": at.generation, "number": at.number, "digest": fact.digest,
            "file": file}  # fmt: skip


def _in(table: sa.Table, cohort: Cohort) -> tuple[sa.ColumnElement[bool], ...]:
    return table.c.generation == cohort.generation, table.c.number == cohort.number


def _encoded(state: State) -> str:
    """The state without what has tables of its own."""
    return msgspec.json.encode(msgspec.structs.replace(state, devices={}, tokens={})).decode()


def _decoded(text: str) -> State:
    try:
        return msgspec.json.decode(text, type=State)
    except msgspec.MsgspecError as fault:
        raise CorruptState(f"the fog's state was not understood ({fault}); made by another version?") from fault
