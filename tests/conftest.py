"""Where tests run when several processes share them: the slowest first, and together what shares something costly."""

import gc

import pytest

TOGETHER = ("tests/bench/forgetting", "tests/cloud", "tests/learn")
"""Folders whose tests share what takes seconds to train. Elsewhere the tests of a file stay together."""
SLOWEST_FIRST = (
    "tests/learn",
    "tests/cloud",
    "tests/runtime/test_kills.py",
    "tests/fog/test_followed.py",
    "tests/runtime/test_device.py",
)
"""What a process that starts it last would still be busy with when the others have nothing left to do."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Groups and orders the tests of a process of pytest-xdist; without it they run as they stand."""
    if not hasattr(config, "workerinput"):
        return
    for item in items:
        file = item.nodeid.partition("::")[0]
        group = next((folder for folder in TOGETHER if file.startswith(f"{folder}/")), file)
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=_rank)


def pytest_collection_finish(session: pytest.Session) -> None:
    """All that was imported and collected stays: nobody needs to look for garbage in it, a hundred times and more."""
    gc.collect()
    gc.freeze()


def _rank(item: pytest.Item) -> int:
    """The place of a test's file among the slowest; behind them, as it stood."""
    return next((i for i, name in enumerate(SLOWEST_FIRST) if item.nodeid.startswith(name)), len(SLOWEST_FIRST))
