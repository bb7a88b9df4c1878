"""What the agent costs as a process: how long its imports take, and how much memory they hold. It imports no torch."""

import json
import subprocess
import sys

import msgspec

from evergrove.bench.measure import Spread
from evergrove.core.errors import EvergroveError

ABSENT = ("torch", "scipy", "matplotlib", "sklearn")
"""What an agent must never import: each alone would cost more than the agent may."""

PROBE = """
import time
started_s = time.perf_counter()
import evergrove.bootstrap
seconds = time.perf_counter() - started_s
import json, sys
from evergrove.bench.measure import rss_mb
heavy = [name for name in {absent!r} if name in sys.modules]
print(json.dumps({{"import_s": seconds, "rss_mb": rss_mb(), "heavy": heavy}}))
"""


class AgentCost(msgspec.Struct, frozen=True):
    """``import_ms`` and ``imported_mb`` are of fresh processes; ``working_mb`` is an agent that owns a device."""

    import_ms: Spread
    imported_mb: Spread
    working_mb: float


def start_cost(n: int) -> tuple[Spread, Spread]:
    """Start ``n`` processes that import what an agent imports; gives milliseconds and resident MB.

    Raises ``EvergroveError`` if one of them imports something that no agent may.
    """
    seconds, megabytes = [], []
    for _ in range(n):
        command = [sys.executable, "-c", PROBE.format(absent=ABSENT)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            raise EvergroveError(f"an agent's imports failed: {done.stderr.strip().splitlines()[-1:]}")
        found = json.loads(done.stdout)
        if found["heavy"]:
            raise EvergroveError(f"the agent imports {', '.join(found['heavy'])}, which it must not")
        seconds.append(found["import_s"] * 1000)
        megabytes.append(found["rss_mb"])
    return Spread.of(seconds, "ms"), Spread.of(megabytes, "MB")
