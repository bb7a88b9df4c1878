"""Makes the helpers beside these tests importable by their plain names, and ends what they made."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    """Machines of ``hosts`` hold files open."""
    yield
    hosts = sys.modules.get("hosts")
    if hosts is not None:
        hosts.end_machines()
