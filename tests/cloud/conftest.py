"""Makes the helper beside these tests importable by its plain name, and makes what they share."""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import fleets


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> fleets.Fleet:
    """Three devices that have learnt, once for all tests."""
    return fleets.fleet(tmp_path_factory.mktemp("fleet"))


@pytest.fixture(scope="session")
def made(fleet: fleets.Fleet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a cloud whose first release is everywhere, to be copied."""
    home = tmp_path_factory.mktemp("made")
    fleets.make_cloud(home / "cloud", fleet)
    return home


@pytest.fixture
def cloud(made: Path, tmp_path: Path) -> Path:
    """A cloud of a test's own."""
    shutil.copytree(made, tmp_path / "home")
    return tmp_path / "home" / "cloud"
