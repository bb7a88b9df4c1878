"""``evergrove demo fleet``: six devices, two fogs and a cloud as real processes, told with real pictures and measured.

``run`` is all that the command line needs; nothing heavy is imported before it is called.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evergrove.demo.record import Outcome


def run(quick: bool = False, runs: Path = Path("runs"), seed: int = 0) -> "Outcome":
    """Tells the story on stderr and leaves its run under ``runs``; the outcome holds metrics and a verdict in lines.

    Raises ``MissingDependency`` where Flower or what a fog needs is missing, and ``EvergroveError`` where something
    that has nothing to do with the story goes wrong (no disk, no port).
    """
    from importlib.util import find_spec

    from evergrove.core.errors import MissingDependency

    needed = ("alembic", "dp_accounting", "flwr", "httpx", "scipy", "sqlalchemy", "starlette", "tuf", "uvicorn")
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise MissingDependency(f"a grove needs {', '.join(missing)}: pip install 'evergrove[grove]'")
    from evergrove.demo.fleet.story import tell

    return tell(quick, Path(runs), seed)
