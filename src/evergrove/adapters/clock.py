"""Where time comes from: the only two clocks that Evergrove reads."""

import time


def now_s() -> float:
    """Seconds since 1970 by the system's clock: what events are stamped with."""
    return time.time()


def elapsed_s() -> float:
    """Seconds on a clock that never goes back: what durations are measured with."""
    return time.monotonic()
