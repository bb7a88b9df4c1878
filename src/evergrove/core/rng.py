"""Named random streams: chance is an argument, and every use of it has a name.

``stream(7, "novelty", "kitchen")`` always gives the same generator, whatever else was drawn before, so adding one use
of chance never changes another one (the pattern of fedjax's keys and of NumPy's ``SeedSequence``).
"""

import hashlib

import numpy as np


def seed_of(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream called ``names`` under ``seed``: for libraries that take an integer."""
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """The random stream called ``names`` under ``seed``."""
    return np.random.default_rng(seed_of(seed, *names))
