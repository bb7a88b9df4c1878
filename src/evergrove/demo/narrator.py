"""Tells on stderr what happens, how far the story is and how long it will still take."""

import sys
import time
from collections.abc import Sequence
from typing import TextIO

QUIET_S = 5.0
"""Between two lines of progress where nobody watches live; six times as long where the words have not changed."""


class Narrator:
    """One line per thing that happened; progress overwrites itself on a terminal and is rare in a file.

    ``chapters`` are (title, expected seconds): the time to go is what is left of them, scaled by the pace so far.
    """

    def __init__(self, chapters: Sequence[tuple[str, float]], out: TextIO | None = None) -> None:
        self._chapters = chapters
        self._out = out or sys.stderr
        self._live = self._out.isatty()
        self._number = 0
        self._share = 0.0
        self._started_s = time.monotonic()
        self._hinted_s = 0.0
        self._hint = ""

    def chapter(self) -> None:
        """Begins the next chapter."""
        self._number, self._share, self._hinted_s = self._number + 1, 0.0, 0.0
        title, _ = self._chapters[self._number - 1]
        self.tell(f"\n{self._number}/{len(self._chapters)}  {title}   ({_clock(self.to_go_s())} to go)", indent="")

    def tell(self, words: str, indent: str = "     ") -> None:
        """Says something that happened."""
        start = "\r\x1b[K" if self._live else ""
        print(f"{start}{indent}{words}", file=self._out, flush=True)

    def progress(self, share: float, words: str) -> None:
        """How much of this chapter is done (0-1), and with what."""
        self._share = share
        now_s = time.monotonic()
        quiet_s = 0.1 if self._live else QUIET_S * (6 if words == self._hint else 1)
        if now_s - self._hinted_s < quiet_s:
            return
        self._hinted_s, self._hint = now_s, words
        line = f"     {words}   ({_clock(self.to_go_s())} to go)"
        print(f"\r\x1b[K{line}" if self._live else line, end="" if self._live else "\n", file=self._out, flush=True)

    def to_go_s(self) -> float:
        """The estimate of the seconds that are left."""
        done_chapters = self._chapters[: max(self._number - 1, 0)]
        now = self._chapters[self._number - 1][1] if self._number else 0.0
        expected = sum(s for _, s in done_chapters) + now * self._share
        left = sum(s for _, s in self._chapters) - expected
        passed_s = time.monotonic() - self._started_s
        pace = min(max(passed_s / expected, 0.5), 4.0) if expected > 10 else 1.0
        return left * pace

    @property
    def elapsed_s(self) -> float:
        """Seconds since the story began."""
        return time.monotonic() - self._started_s


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
