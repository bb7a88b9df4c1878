"""Makes the fog's door of the adapters' tests importable."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "adapters" / "flower"))
