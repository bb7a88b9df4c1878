"""How the sensors of a host are read: small files at once, slow ones in the background; and where findings are put.

Some attributes of sysfs wait for a bus (a fuel gauge on I²C, an NVMe drive) for milliseconds. A file that was slow
three times in a row is read in the background from then on, until the next scan, and its value carries its age.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

from evergrove.adapters.telemetry.host import Host, Unusable
from evergrove.adapters.telemetry.parse import VANISHED, millidegrees, reason_of, whole
from evergrove.adapters.telemetry.slow import Slow, Start
from evergrove.core.telemetry import Missing, Telemetry, Value, Zone

T = TypeVar("T")
N_BYTES_MAX = 4096
"""A sensor's file is one number; sysfs gives at most a page."""
SLOW_S = 0.0005
"""A quarter of what one reading may take: a file that takes longer is slow. Files of memory take about 0.02 ms."""
SLOW_TIMES = 3
"""How often in a row: one slow read may be the scheduler's doing."""


class Text(NamedTuple):
    """What a file says, and how old that is."""

    text: str
    age_s: float


class Probe:
    """Reads files of a host. ``vanished`` is set when one is gone that was there before: time for a new scan."""

    def __init__(self, host: Host, elapsed_s: Callable[[], float], start: Start) -> None:
        self.host = host
        self.elapsed_s = elapsed_s
        self.start = start
        self.vanished = False
        self._known: set[str] = set()
        self._strikes: dict[str, int] = {}
        self._slow: dict[str, Slow[str]] = {}

    # Reading

    def text(self, path: str, n_bytes: int = N_BYTES_MAX, *, head: bool = False) -> Text:
        """A whole file, or with ``head`` the beginning of one that may be longer. Raises ``Unusable``."""
        slow = self._slow.get(path)
        if slow is not None:
            return Text(*slow.latest())
        started_s = self.elapsed_s()
        text = self._fetch(path, n_bytes, head, keep=True)
        if self.elapsed_s() - started_s <= SLOW_S:
            self._strikes.pop(path, None)
        else:
            self._strikes[path] = self._strikes.get(path, 0) + 1
            if self._strikes[path] >= SLOW_TIMES:
                slow = self.later(lambda: self._fetch(path, n_bytes, head), every_s=0.0)
                slow.know(text)
                self._slow[path] = slow
        return Text(text, 0.0)

    def number(self, path: str, low: int, high: int, per: float = 1, *, register: bool = True) -> Value:
        """A whole number in ``low`` to ``high``, divided by ``per``. Raises ``Unusable``."""
        text, age_s = self.text(path)
        return Value(whole(text, low, high, register=register) / per, age_s)

    def celsius(self, path: str) -> Value:
        """A temperature in °C. Raises ``Unusable``."""
        text, age_s = self.text(path)
        return Value(millidegrees(text), age_s)

    # Scanning, off the path: nothing here is timed

    def names(self, path: str) -> list[str]:
        """The entries of a folder, none where it cannot be read."""
        try:
            return self.host.names(path)
        except OSError:
            return []

    def word(self, path: str) -> str:
        """What a small file says, empty where it cannot be read."""
        try:
            return self.host.read(path, N_BYTES_MAX).decode("ascii", "replace").strip("\0 \n\t")[:64]
        except OSError:
            return ""

    def fact(self, path: str, low: int, high: int) -> int | None:
        """A whole number in ``low`` to ``high`` that does not change, None where there is none."""
        try:
            return whole(self.word(path), low, high, register=True)
        except Unusable:
            return None

    def later(self, job: Callable[[], T], every_s: float) -> Slow[T]:
        """A job for the background, done again when its answer is ``every_s`` old and somebody asks."""
        return Slow(job, every_s, self.elapsed_s, self.start)

    def forgive(self) -> None:
        """Slow files get another chance."""
        self._slow, self._strikes = {}, {}

    def _fetch(self, path: str, n_bytes: int, head: bool, keep: bool = False) -> str:
        try:
            data = self.host.read(path, n_bytes if head else n_bytes + 1, keep=keep)
        except OSError as fault:
            if fault.errno in VANISHED and path in self._known:
                self._known.discard(path)
                self.vanished = True
            raise Unusable(reason_of(fault)) from fault
        if len(data) > n_bytes:
            raise Unusable(f"longer than {n_bytes} bytes")
        self._known.add(path)
        return data.decode("ascii", "replace")


class Sheet:
    """One reading while it is made."""

    def __init__(self) -> None:
        self.values: dict[str, Value] = {}
        self.zones: list[Zone] = []
        self._missing: dict[str, str] = {}

    def take(self, field: str, read: Callable[[], Value]) -> None:
        """What ``read`` gives becomes the field; its ``Unusable`` becomes the reason why it is missing."""
        try:
            self.values[field] = read()
        except Unusable as fault:
            self.miss(field, str(fault))

    def miss(self, field: str, reason: str) -> None:
        """A field that was looked for in vain; a later reason takes the place of an earlier one."""
        self._missing[field] = reason

    def lacks(self, field: str) -> bool:
        """Whether nothing has given the field yet."""
        return field not in self.values

    def telemetry(self, n_cores: int) -> Telemetry:
        """The finished reading."""
        gone = tuple(Missing(field, reason) for field, reason in self._missing.items() if field not in self.values)
        return Telemetry(n_cores=n_cores, zones=tuple(self.zones), missing=gone, **self.values)
