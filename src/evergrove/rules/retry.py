"""When to try again: exponential back-off with jitter, so that a fleet that lost its fog does not return as one wave.

'Equal jitter' of Brooker, 'Exponential Backoff And Jitter' (AWS, 2015): half of the delay is fixed, half is chance.
"""

import msgspec


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``first_s`` after the first failure, doubling up to ``most_s``."""

    first_s: float = 5.0
    most_s: float = 3600.0


def delay_s(policy: Policy, failures: int, jitter: float) -> float:
    """How long to wait after ``failures`` (≥ 1) in a row; ``jitter`` is a number of chance from 0 to 1."""
    whole = min(policy.most_s, policy.first_s * 2.0 ** min(max(failures, 1) - 1, 60))
    return whole * (0.5 + 0.5 * jitter)
