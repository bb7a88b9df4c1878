"""The same act in a process of its own, which ends by SIGKILL at its n-th write: nothing is made up, the kernel kills.

The process is forked, starts an agent on the device's folder, and lives the act. What it is killed at, and what apps
had been told by then, is known from a child that was let live: the same folder and names give the same writes.
"""

import asyncio
import os
import signal
import traceback
from collections.abc import Callable
from pathlib import Path

import msgspec

from evergrove.adapters.files import Files
from evergrove.bench.kills_acts import Act
from evergrove.bench.kills_life import Life, Setting, Told
from evergrove.core.errors import EvergroveError


class Mark(msgspec.Struct, frozen=True):
    """One write of a child: what apps had been told before it, and what the world was like."""

    told: Told
    setting: Setting


class Course(msgspec.Struct, frozen=True):
    """All writes of a child that was let live, and what apps knew in the end."""

    marks: tuple[Mark, ...]
    end: Told

    def told(self, n: int) -> tuple[Told, Told]:
        """What apps knew before the ``n``-th write, and what they are told next."""
        now = self.marks[n].told
        later = (mark.told for mark in self.marks[n:] if mark.told != now)
        return now, next(later, self.end)


def live(home: Path, act: Act, first: bool, setting: Setting, told: Told) -> Course:
    """A child's whole act; raises ``EvergroveError`` where it did not come to its end."""
    reader, writer = os.pipe()
    marks: list[Mark] = []

    def body() -> None:
        os.close(reader)
        life = _life(home, act, setting, told, lambda step, path: note())

        def note() -> None:
            marks.append(Mark(life.told, msgspec.structs.replace(life.setting)))

        asyncio.run(_act(life, act, first))
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(msgspec.msgpack.encode(Course(tuple(marks), life.told)))

    pid = _child(body)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        data = pipe.read()
    if (code := _end_of(pid)) != 0:
        raise EvergroveError(f"the act ended with {code}")
    return msgspec.msgpack.decode(data, type=Course)


def die(home: Path, act: Act, first: bool, setting: Setting, told: Told, n: int) -> None:
    """A child's act, ended by SIGKILL before its ``n``-th write. Raises ``EvergroveError`` where it ended otherwise."""
    left = n

    def at(step: str, path: Path) -> None:
        nonlocal left
        left -= 1
        if left == -1:
            os.kill(os.getpid(), signal.SIGKILL)

    def body() -> None:
        life = _life(home, act, setting, told, at)
        asyncio.run(_act(life, act, first))

    if (code := _end_of(_child(body))) != -signal.SIGKILL:
        raise EvergroveError(f"the act was to be killed at write {n}, but ended with {code}")


def _life(home: Path, act: Act, setting: Setting, told: Told, at: Callable[[str, Path], None]) -> Life:
    """What it observes is named after the act: the acts before it have used the names of the whole life."""
    return Life(home / "device", msgspec.structs.replace(setting), Files(at), told, names=act.__name__)


async def _act(life: Life, act: Act, first: bool) -> None:
    if not first:
        life.boot()
    await act(life)


def _child(body: Callable[[], None]) -> int:
    """Forks; the child never returns from here."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            body()
            code = 0
        except BaseException:  # noqa: BLE001 - whatever it is, a child must not go on as its parent
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def _end_of(pid: int) -> int:
    """How a child ended: its exit code, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
