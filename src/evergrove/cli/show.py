"""What the commands print: JSON and tables on stdout, progress with the time that is left on stderr.

rich is imported when something is drawn; colours follow ``NO_COLOR`` and whether anybody looks.
"""

import sys
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

import msgspec

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

PLAIN_EVERY_S = 5.0
"""Where nobody watches (stderr is a file or a pipe), progress is one line in this many seconds."""


def json(document: object) -> None:
    """One JSON document on stdout: plain values, and structs of ``core``. What is not finite becomes null."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n")


def plain(struct: msgspec.Struct) -> dict[str, object]:
    """A struct as plain values, for a document that says more."""
    found: dict[str, object] = msgspec.to_builtins(struct)
    return found


def line(text: str = "") -> None:
    """One line on stdout, as it is."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """One line on stderr: something to know that is not the answer."""
    sys.stderr.write(text + "\n")


def table(rows: Iterable[Sequence[str]], heads: Sequence[str] = (), right: Sequence[int] = ()) -> None:
    """A table on stdout; the columns in ``right`` are numbers and stand on the right."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, show_header=bool(heads), pad_edge=False, padding=(0, 3, 0, 0))
    rows = [list(row) for row in rows]
    for i in range(len(heads) if heads else max((len(row) for row in rows), default=0)):
        drawn.add_column(heads[i] if heads else "", justify="right" if i in right else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    screen = console()
    with screen.capture() as text:
        screen.print(drawn)
    sys.stdout.write("".join(f"{row.rstrip()}\n" for row in text.get().splitlines()))


def console(*, err: bool = False) -> "Console":
    """A rich console on stdout or stderr. Into a file or a pipe it writes long lines unbroken."""
    from rich.console import Console

    stream = sys.stderr if err else sys.stdout
    return Console(file=stream, highlight=False, width=None if stream.isatty() else 200)


def size(n_bytes: float) -> str:
    """``1_572_864`` → ``1.6 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} TB"


def duration(seconds: float) -> str:
    """``75.2`` → ``1 min 15 s``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def plural(n: int, word: str) -> str:
    """``plural(1, "picture")`` → ``1 picture``; ``plural(3, "picture")`` → ``3 pictures``."""
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


def version_name(sha256: str | None) -> str:
    """How people see a version: the first eight digits of its adapter's hash; ``release`` is the release alone."""
    return sha256[:8] if sha256 else "release"


def version_words(sha256: str | None) -> str:
    """A version inside a sentence: ``version 3f9ac012``, or ``the release alone``."""
    return f"version {sha256[:8]}" if sha256 else "the release alone"


def sentence(text: str) -> str:
    """``the gate accepted the update`` → ``The gate accepted the update.``"""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


class Progress:
    """Progress on stderr, with the time that is left: a bar for a person who watches, else a line now and then.

    ::

        with Progress("observe") as progress:
            for i, item in enumerate(items):
                progress.update(i + 1, len(items), note=item.name)
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._started_s = time.monotonic()
        self._said_s = self._started_s
        self._bar: RichProgress | None = None
        self._task: tuple[str, TaskID] | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as RichProgress

            columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}")
            self._bar = RichProgress(*columns, console=console(err=True), transient=True)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, total: int, note: str = "", eta_s: float | None = None, label: str = "") -> None:
        """``done`` of ``total`` (0: unknown). ``eta_s`` is what the rest takes, in seconds; None: by the pace."""
        now_s = time.monotonic()
        if eta_s is None and done:
            eta_s = (now_s - self._started_s) / done * (total - done)
        label = label or self._label
        parts = (f"{done}/{total}" if total else "", note, f"{duration(eta_s)} left" if eta_s and eta_s >= 0.5 else "")
        words = ", ".join(part for part in parts if part)
        if self._bar is not None:
            if self._task is None or self._task[0] != label:
                if self._task is not None:
                    self._bar.remove_task(self._task[1])
                self._task = label, self._bar.add_task(label, total=total or None, note=words)
            self._bar.update(self._task[1], completed=done, total=total or None, note=words)
        elif now_s - self._said_s >= (PLAIN_EVERY_S if words else 6 * PLAIN_EVERY_S):
            self._said_s = now_s
            sys.stderr.write(f"{label}: {words or 'under way'}\n")
            sys.stderr.flush()
