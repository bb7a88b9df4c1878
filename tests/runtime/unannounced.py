"""Lives a short life and prints every change of its folder that was not announced to ``Files`` first.

Python itself says what it changes (audit events, PEP 578). A hook cannot be taken away again, hence the process of its
own. What sqlite writes is not heard here; it stands between the steps of the log.
"""

import asyncio
import os
import sys
from pathlib import Path

from evergrove.adapters.files import Files
from evergrove.bench.kills_acts import confirm, forget, learn, make, meet_new, restart, roll_back
from evergrove.bench.kills_life import Life, Setting, Told

CHANGES = {
    "os.mkdir": 0,
    "os.rename": 1,
    "os.link": 1,
    "os.symlink": 1,
    "os.remove": 0,
    "os.rmdir": 0,
    "os.truncate": 0,
}
"""The events, and which argument is the path that changes."""


def main(home: Path) -> None:
    """Prints ``heard N`` in the end: that the ears were open."""
    announced, heard = Path(), 0

    def at(step: str, path: Path) -> None:
        nonlocal announced
        announced = path

    def hear(event: str, args: tuple[object, ...]) -> None:
        nonlocal heard
        makes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_CREAT | os.O_TRUNC)
        path = args[CHANGES[event]] if event in CHANGES else args[0] if makes else None
        if isinstance(path, str | os.PathLike) and str(path).startswith(str(home)):
            heard += 1
            if Path(path) != announced:
                print(event, path, flush=True)

    async def live() -> None:
        life = Life(home / "device", Setting(), Files(at), Told())
        for act in (make, meet_new, learn, confirm, roll_back, forget, restart):
            await act(life)
        life.end()

    sys.addaudithook(hear)
    asyncio.run(live())
    print(f"heard {heard}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
