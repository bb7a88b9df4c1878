"""A PostgreSQL of the tests' own, from the machine's binaries, on a Unix socket; or why there is none."""

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa


def binaries() -> Path | None:
    """The newest server's folder."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


class Postgres:
    """A running server; ``url`` makes a database of its own."""

    def __init__(self, folder: Path, user: str) -> None:
        self._folder, self._user = folder, user

    def url(self) -> str:
        """A fresh database."""
        name = f"fog_{uuid.uuid4().hex}"
        engine = sa.create_engine(self._of("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as link:
            link.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE template0")
        engine.dispose()
        return self._of(name).replace("+psycopg", "")

    def _of(self, name: str) -> str:
        return f"postgresql+psycopg://{self._user}@/{name}?host={self._folder}"


@contextlib.contextmanager
def postgres() -> Iterator[Postgres | str]:
    """A server while the block lasts, or the reason why there is none."""
    where = binaries()
    if where is None:
        yield "no PostgreSQL under /usr/lib/postgresql: apt-get install postgresql"
        return
    prefix: list[str] = []
    folder = Path(tempfile.mkdtemp(prefix="fogpg-", dir="/tmp"))
    user = pwd.getpwuid(os.geteuid()).pw_name
    if os.geteuid() == 0:  # a server refuses to run as root
        user = "postgres"
        try:
            shutil.chown(folder, user)
        except LookupError:
            yield "PostgreSQL must not run as root, and there is no user postgres"
            return
        prefix = ["runuser", "-u", user, "--"]
    folder.chmod(0o755)
    data = folder / "data"
    try:
        subprocess.run(
            [*prefix, str(where / "initdb"), "-D", str(data), "-A", "trust", "-E", "UTF8", "--locale=C", "-N"],
            check=True, capture_output=True, cwd="/",
        )  # fmt: skip
        settings = {
            "listen_addresses": "''", "unix_socket_directories": folder, "max_connections": 40,
            "fsync": "off", "full_page_writes": "off", "autovacuum": "off",
        }  # fmt: skip
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        control = [*prefix, str(where / "pg_ctl"), "-D", str(data), "-w", "-t", "60"]
        subprocess.run(
            [*control, "-l", str(folder / "log"), "-o", options, "start"], check=True, capture_output=True, cwd="/"
        )
        try:
            yield Postgres(folder, user)
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], check=True, capture_output=True, cwd="/")
    except subprocess.CalledProcessError as fault:
        yield f"PostgreSQL did not start: {fault.stderr.decode()[-200:]}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
