"""The database under a fog: SQLite in WAL mode by default, PostgreSQL by URL; its tables, and one lock for writers.

Every transaction that writes begins by taking the lock: SQLite's own (``BEGIN IMMEDIATE``), in PostgreSQL that of the
one row of ``head``. So several workers decide one after the other, each on what the last one committed.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc

from evergrove.adapters.files import Files
from evergrove.core.errors import CorruptState, EvergroveError, MissingDependency, Unreachable, UsageError

BUSY_S = 30.0
"""How long a writer waits for another one."""
REVISION = "0002"
"""Today's form: the newest of ``fog_migrations/versions``."""
MIGRATION_LOCK = 0x65766772
"""PostgreSQL's advisory lock while the tables are brought to today's form."""

tables = sa.MetaData()
HEAD = sa.Table(
    "head", tables, sa.Column("id", sa.Integer, primary_key=True), sa.Column("state", sa.Text),
    sa.Column("ledger", sa.Text),
)  # fmt: skip
DEVICES = sa.Table(
    "devices", tables, sa.Column("device", sa.String, primary_key=True), sa.Column("member", sa.Text)
)  # fmt: skip
TOKENS = sa.Table(
    "tokens", tables, sa.Column("token", sa.String, primary_key=True), sa.Column("device", sa.String),
    sa.Column("digest", sa.String), sa.Column("generation", sa.Integer), sa.Column("number", sa.Integer),
)  # fmt: skip
BODIES = sa.Table(
    "bodies", tables, sa.Column("token", sa.String, primary_key=True), sa.Column("generation", sa.Integer),
    sa.Column("number", sa.Integer), sa.Column("digest", sa.String), sa.Column("file", sa.String),
)  # fmt: skip
SUMS = sa.Table(
    "sums", tables, sa.Column("generation", sa.Integer, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True), sa.Column("digest", sa.String), sa.Column("n_bytes", sa.Integer),
    sa.Column("epsilon", sa.Double), sa.Column("at_s", sa.Double), sa.Column("name", sa.String),
    sa.Column("head", sa.Text),
)  # fmt: skip
GENERATIONS = sa.Table(
    "generations", tables, sa.Column("generation", sa.Integer, primary_key=True), sa.Column("layout", sa.Text),
    sa.Column("clip", sa.Double), sa.Column("noise", sa.LargeBinary),
)  # fmt: skip
LEDGER = sa.Table(
    "ledger", tables, sa.Column("seq", sa.Integer, primary_key=True), sa.Column("generation", sa.Integer),
    sa.Column("number", sa.Integer), sa.Column("entry", sa.Text), sa.Column("chain", sa.String),
)  # fmt: skip
REPORTS = sa.Table(
    "reports", tables, sa.Column("position", sa.Integer, primary_key=True), sa.Column("device", sa.String),
    sa.Column("rollout", sa.String), sa.Column("mark", sa.String), sa.Column("shadow", sa.Boolean),
)  # fmt: skip
EVENTS = sa.Table(
    "events", tables, sa.Column("seq", sa.Integer, primary_key=True), sa.Column("at_s", sa.Double),
    sa.Column("event", sa.Text),
)  # fmt: skip
_LOCK = sa.select(HEAD.c.state).with_for_update()


class Database:
    """Opened and brought to today's form. Thread-safe; any number of processes may hold one."""

    def __init__(self, url: str, files: Files | None = None) -> None:
        """``url``: ``sqlite:////path/to/fog.db`` or ``postgresql://…``. Commits are announced to ``files``.

        Raises ``UsageError`` for another kind, ``Unreachable`` where it does not answer.
        """
        self._engine, self._files = _engine(url), files or Files()
        self._path = Path(self._engine.url.database or "fog.db")
        with _named():
            self._migrate()

    @contextlib.contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that only reads, beside writers."""
        with _named(), self._engine.connect().execution_options(reading=True) as link, link.begin():
            yield link

    @contextlib.contextmanager
    def writing(self) -> Iterator[tuple[sa.Connection, str]]:
        """A transaction under the writers' lock, and the text of ``head``. Commits at its end; an error undoes it."""
        with _named(), self._engine.begin() as link:
            yield link, link.execute(_LOCK).scalar_one()
            self._files.step("commit", self._path)
        self._files.step("committed", self._path)

    def close(self) -> None:
        """Closes its connections."""
        self._engine.dispose()

    def _migrate(self) -> None:
        """Alembic's steps up to ``REVISION``, one process at a time; it is not even imported where none is missing."""
        with self._engine.connect().execution_options(reading=True) as link:
            if sa.inspect(link).has_table("alembic_version"):
                found = link.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
                if found == REVISION:
                    return
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "fog_migrations"))
        with self._engine.begin() as link:
            if link.dialect.name == "postgresql":
                link.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
            config.attributes["connection"] = link
            command.upgrade(config, REVISION)


def sqlite_url(path: Path) -> str:
    """The URL of a database in a file."""
    return f"sqlite:///{path.absolute()}"


def _engine(url: str) -> sa.Engine:
    try:
        parsed = sa.make_url(url)
    except exc.ArgumentError as fault:
        raise UsageError(f"'{url[:20]}…' is no database URL; say sqlite:////path/fog.db or postgresql://…") from fault
    if parsed.drivername == "sqlite" and parsed.database:
        engine = sa.create_engine(parsed, connect_args={"timeout": BUSY_S})
        event.listen(engine, "connect", _as_wal)
        event.listen(engine, "begin", _begin)
        return engine
    if parsed.drivername in ("postgresql", "postgresql+psycopg"):
        try:
            return sa.create_engine(parsed.set(drivername="postgresql+psycopg"), pool_size=2, pool_pre_ping=True)
        except ModuleNotFoundError as fault:
            raise MissingDependency("PostgreSQL needs psycopg: pip install 'evergrove[grove]'") from fault
    raise UsageError(f"a fog keeps its state in sqlite:////path/fog.db or postgresql://…, not in {parsed.drivername}")


def _as_wal(link: Any, _: object) -> None:
    """Python's sqlite3 must not begin transactions by itself; what is committed survives a power cut."""
    link.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={round(BUSY_S * 1000)}"):
        link.execute(f"PRAGMA {pragma}")


def _begin(link: sa.Connection) -> None:
    link.exec_driver_sql("BEGIN" if link.get_execution_options().get("reading") else "BEGIN IMMEDIATE")


@contextlib.contextmanager
def _named() -> Iterator[None]:
    """The database's errors in our words."""
    try:
        yield
    except exc.OperationalError as fault:
        raise Unreachable(f"the fog's database does not answer: {fault.orig}") from fault
    except exc.IntegrityError as fault:
        raise CorruptState(f"the fog's database contradicts itself: {fault.orig}") from fault
    except exc.SQLAlchemyError as fault:
        raise EvergroveError(f"the fog's database failed: {fault}") from fault
