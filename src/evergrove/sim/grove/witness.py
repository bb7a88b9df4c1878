"""What a bystander of a simulated grove sees on the wires and in the shop windows; the grove never asks it anything."""

from evergrove.adapters.flower.port import Answer
from evergrove.core.cloud_jobs import ConsolidateJob, Made
from evergrove.core.fog import Receipt


class Witness:
    """Sees nothing; a test writes its own books over it."""

    def sent(self, device: str, fog: str, frame: bytes) -> None:
        """A device has put an update on the air."""

    def told(self, device: str, fog: str, receipt: Receipt) -> None:
        """A receipt has reached a device: its update is counted."""

    def left(self, fog: str, answer: Answer) -> None:
        """An answer has left a fog for the cloud: what is in it cannot be taken back."""

    def made(self, name: str, job: ConsolidateJob, made: Made) -> None:
        """A worker of the cloud's has made a candidate of sums, for the job of this name."""

    def serves(self, device: str, release: str, version: int) -> None:
        """A device has begun to serve a release, published under this version."""

    def stands(self, fog: str) -> None:
        """A fog has started, perhaps after a kill."""
