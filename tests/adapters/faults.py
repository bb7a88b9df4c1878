"""Faults for tests of durable writes: a process killed, or a disk full, at the n-th step that changes the disk."""

import errno
from collections.abc import Callable, Iterator
from pathlib import Path

from evergrove.adapters.files import Files


class Killed(BaseException):
    """Stands for SIGKILL: no handler of ``Exception`` may catch it, so nothing is cleaned up."""


def killed_at(n: int) -> Files:
    """Files of a process that is killed just before its ``n``-th step (from 0)."""
    return Files(_nth(n, Killed()))


def full_at(n: int) -> Files:
    """Files of a disk that is full at the ``n``-th step (from 0), and has room again afterwards."""
    return Files(_nth(n, OSError(errno.ENOSPC, "No space left on device")))


def count_steps(work: Callable[[Files], object]) -> int:
    """How many steps ``work`` takes when nothing goes wrong."""
    steps: list[str] = []
    work(Files(lambda step, path: steps.append(step)))
    return len(steps)


def _nth(n: int, fault: BaseException) -> Callable[[str, Path], None]:
    numbers: Iterator[int] = iter(range(1 << 30))

    def at(step: str, path: Path) -> None:
        if next(numbers) == n:
            raise fault

    return at
