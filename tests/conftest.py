"""Where tests run when several processes share them: in which order, and together what shares something costly."""

import gc
from typing import Any

import pytest

TOGETHER = ("tests/bench/forgetting", "tests/cloud", "tests/learn")
"""Folders whose tests share what takes seconds to train. Elsewhere the tests of a file stay together."""
FIRST = (
    "tests/runtime/test_kills.py",
    "tests/fog/test_followed.py",
    "tests/runtime/test_device.py",
    "tests/cli/test_cli_device.py",
    "tests/runtime/test_forget.py",
    "tests/runtime/test_released.py",
    "tests/fog/test_enrolled.py",
    "tests/runtime/test_membership.py",
    "tests/bench/test_latency_bench.py",
    "tests/cloud/",
    "tests/learn/",
    "tests/bench/forgetting/",
    "tests/runtime/test_every_write.py",
    "tests/sim/test_fleet.py",
)
"""What waits for trainers, while nobody takes the cores from them; then what computes most, so that no tail is left."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In the order of ``FIRST`` in a process of pytest-xdist; elsewhere, and behind them, tests run as they stand."""
    if hasattr(config, "workerinput"):
        items.sort(
            key=lambda item: next((i for i, name in enumerate(FIRST) if item.nodeid.startswith(name)), len(FIRST))
        )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """For ``--dist loadfile``: by file, or by folder."""
    from xdist.scheduler import LoadScopeScheduling

    class ByPlace(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return next((folder for folder in TOGETHER if file.startswith(f"{folder}/")), file)

    return ByPlace(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_finish(session: pytest.Session) -> None:
    """All that was imported and collected stays: nobody needs to look for garbage in it, a hundred times and more."""
    gc.collect()
    gc.freeze()
