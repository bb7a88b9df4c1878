"""What the tiers' drivers ask of the outside world, where more than one thing can answer.

A port is a Protocol with at least two implementations: one at work and one in the simulator or a test.
"""

from typing import Protocol


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
