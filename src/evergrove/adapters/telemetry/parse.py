"""From what a file says to a number, or to the reason why not. Distrust is the rule: sensors lie in many ways.

Numbers are whole and in ASCII digits, as the kernel writes them; a register full of ones, a value outside what the
quantity can be, and text are each refused with a reason that quotes them.
"""

import errno
import os
import re

from evergrove.adapters.telemetry.host import Unusable

WHOLE = re.compile(r"[+-]?[0-9]{1,19}", re.ASCII)
DECIMAL = re.compile(r"[+-]?[0-9]{1,19}(\.[0-9]{1,9})?", re.ASCII)
FULL_REGISTERS = frozenset({65535, 2**31 - 1, -(2**31), 2**32 - 1})
"""What is read where nothing answers: all bits set, or the ends of the range."""
QUOTED_MAX = 20
REASONS = {
    errno.ENOENT: "no such file",
    errno.ENODEV: "no such device",
    errno.ENXIO: "no such device",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EIO: "input/output error",
}
VANISHED = frozenset({errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ENOTDIR})
"""What a sensor that was unplugged answers."""


def reason_of(fault: Exception) -> str:
    """A fault in a few words."""
    if isinstance(fault, OSError):
        known = REASONS.get(fault.errno or 0)
        return known or (os.strerror(fault.errno).lower() if fault.errno else type(fault).__name__)
    return str(fault)[:80] if isinstance(fault, Unusable) else f"{type(fault).__name__}: {str(fault)[:80]}"


def quote(text: str) -> str:
    """Enough of some text to recognise it by, printable."""
    quoted = ascii(text[: QUOTED_MAX + 1])
    return quoted if len(quoted) <= QUOTED_MAX + 2 else f"{quoted[: QUOTED_MAX + 1]}…'"


def whole(text: str, low: int, high: int, *, register: bool = False) -> int:
    """A whole number from ``low`` to ``high``; with ``register`` one that is no register full of ones.

    Raises ``Unusable``.
    """
    text = text.strip()
    if not WHOLE.fullmatch(text):
        raise Unusable(f"not a number: {quote(text)}" if text else "empty")
    number = int(text)
    if not low <= number <= high or (register and number in FULL_REGISTERS):
        raise Unusable(f"out of range: {text}")
    return number


def decimal(text: str, low: float, high: float) -> float:
    """A number with or without a fraction, from ``low`` to ``high``. Raises ``Unusable``."""
    text = text.strip()
    if not DECIMAL.fullmatch(text):
        raise Unusable(f"not a number: {quote(text)}" if text else "empty")
    number = float(text)
    if not low <= number <= high:
        raise Unusable(f"out of range: {text}")
    return number


def millidegrees(text: str) -> float:
    """A temperature in °C from thousandths, as the kernel gives it: −40 to 125.

    A running chip is never within 0.15 °C of freezing for long, but a sensor that is not connected says 0, and one that
    speaks in whole degrees says 42 for 42 °C: both are refused. Raises ``Unusable``.
    """
    raw = whole(text, -40_000, 125_000, register=True)
    if raw == 0:
        raise Unusable("0 exactly: not connected")
    if abs(raw) <= 150:
        raise Unusable(f"out of range: {raw} (not thousandths of a degree)")
    return raw / 1000
