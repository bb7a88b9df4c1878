"""Makes the helpers beside these tests importable by their plain names; one PostgreSQL for all tests that want it."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from servers import Postgres, postgres


@pytest.fixture(scope="session")
def server() -> Iterator[Postgres]:
    """A PostgreSQL; the tests that need it are skipped, with the reason, where none can be had."""
    with postgres() as found:
        if isinstance(found, str):
            pytest.skip(found)
        yield found


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str | None:
    """None: SQLite in the store's own folder."""
    return None if request.param == "sqlite" else request.getfixturevalue("server").url()
