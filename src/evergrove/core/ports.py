"""What the tiers' drivers ask of the outside world, where more than one thing can answer.

A port is a Protocol with at least two implementations: one at work and one in the simulator or a test.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from evergrove.core.fog import Cohort


class Fog(Protocol):
    """A fog as a device sees it. In one process (``runtime/fog``), simulated, or over a network.

    Both methods block, may take minutes, and raise ``Unreachable`` where nobody answers and ``InvalidInput`` or
    ``UsageError`` where the fog refuses.
    """

    @property
    def peer(self) -> str:
        """The name that stands in the byte ledger."""

    def assist(self, release: str) -> bytes:
        """The signed assist (``rules/trust``, ``learn/assist``) of a release, by its manifest's SHA-256."""

    def trusted(self, request: bytes) -> bytes:
        """The answer to an encoded ``core.transport.TrustedRequest``: a signed candidate, sealed for its sender."""


@dataclass(frozen=True)
class Noised:
    """A cohort's sum with its noise, float64, and what must be durable together with it.

    ``state`` is the noise stream's state afterwards (None: it has none), encrypted by who makes it; ``entry`` the line
    of the ε ledger, JSON; ``epsilon`` what the generation has spent with this cohort (None: no bound).
    """

    numbers: NDArray[np.float64]
    state: bytes | None
    entry: str
    epsilon: float | None


class Noise(Protocol):
    """What protects a fog's sums. Called for cohorts of a generation in order, each committed before the next."""

    @property
    def epsilon(self) -> float | None:
        """The budget of a generation; None: there is none, and ε is infinite."""

    @property
    def protection(self) -> str:
        """One sentence: who is protected from whom, and how far."""

    def add(self, state: bytes | None, cohort: Cohort, total: NDArray[np.float64]) -> Noised:
        """The sum that may leave. ``state`` is what the last one left (None: the generation's first).

        Raises ``BudgetSpent`` where this cohort is past the budget: then its sum leaves nowhere.
        """
