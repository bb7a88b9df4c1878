"""``evergrove demo``: the whole story of one device, told with real pictures and measured as it goes.

``run`` is all that the command line needs; nothing heavy is imported before it is called.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evergrove.demo.record import Outcome


def run(quick: bool = False, runs: Path = Path("runs"), seed: int = 0) -> "Outcome":
    """Tells the story on stderr and leaves its run under ``runs``; the outcome holds metrics and a four-line verdict.

    The same seed gives the same pictures, choices and adapters; only times differ. Raises ``EvergroveError`` where
    something that has nothing to do with the story goes wrong (no disk, no release).
    """
    from evergrove.demo.story import tell

    return tell(quick, Path(runs), seed)
