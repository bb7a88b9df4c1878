"""Asserts what a quick demo must show: ``python tools/check_metrics.py runs/latest/metrics.json``.

The bars stand here and not in the file that is judged. They are those of the full demo where a shorter run allows it.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Check = Callable[[Any], bool]

BARS: tuple[tuple[str, str, Check], ...] = (
    ("base.oracle_accuracy", ">= 0.95", lambda x: x >= 0.95),
    ("stream.observed", ">= 100", lambda x: x >= 100),
    ("stream.kept", "> 0", lambda x: x > 0),
    ("learning.evergrove.old_accuracy", ">= 0.95", lambda x: x >= 0.95),
    ("learning.evergrove.new_accuracy", ">= 0.70", lambda x: x >= 0.70),
    ("learning.evergrove.gate", "accept", lambda x: x == "accept"),
    ("learning.evergrove.steps", "> 0", lambda x: x > 0),
    ("learning.evergrove.seconds", "> 0", lambda x: x > 0),
    ("learning.evergrove.adapter_bytes", "1 to 300 kB", lambda x: 0 < x <= 300_000),
    ("learning.naive.old_accuracy", "<= 0.60", lambda x: x <= 0.60),
    ("learning.naive.new_accuracy", "0 to 1", lambda x: 0 <= x <= 1),
    ("learning.naive.gate", "reject", lambda x: x == "reject"),
    ("gate.injected", ">= 4", lambda x: x >= 4),
    ("recovery.kills", ">= 1", lambda x: x >= 1),
    ("inference.p50_ms", "> 0", lambda x: x > 0),
    ("inference.p99_ms", "> 0", lambda x: x > 0),
)

PAIRS: tuple[tuple[str, str, str], ...] = (
    ("gate.refused", "==", "gate.injected"),
    ("recovery.recovered", "==", "recovery.kills"),
    ("learning.naive.steps", "==", "learning.evergrove.steps"),
    ("stream.kept", "<", "stream.observed"),
)


def failures(metrics: dict[str, Any]) -> list[str]:
    """Every bar that does not hold, and every number that is missing, one sentence each."""
    found = []
    for path, words, holds in BARS:
        value = value_at(metrics, path)
        if value is None or not holds(value):
            found.append(f"{path} is {value}; it must be {words}")
    for left, relation, right in PAIRS:
        a, b = value_at(metrics, left), value_at(metrics, right)
        if a is None or b is None or not (a == b if relation == "==" else a < b):
            found.append(f"{left} is {a}, {right} is {b}; it must be that {left} {relation} {right}")
    return found


def value_at(metrics: dict[str, Any], path: str) -> Any:
    """The value at a dotted path; None when there is none."""
    value: Any = metrics
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def main(arguments: list[str]) -> int:
    """0 when every bar holds."""
    found = failures(json.loads(Path(arguments[0]).read_text(encoding="utf-8")))
    for line in found:
        print(f"FAILED: {line}", file=sys.stderr)
    if not found:
        print(f"{len(BARS) + len(PAIRS)} bars hold in {arguments[0]}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
