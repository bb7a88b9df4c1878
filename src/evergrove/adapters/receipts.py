"""Receipts of forgetting: one JSON file each, written once everything that it says is true, and whole or not at all.

A receipt names nothing that was forgotten: no condition, no hash, only how much of what kind. It is for the owner of a
device, who may have to show it to somebody.
"""

from pathlib import Path

import msgspec

from evergrove.adapters.files import Files, read_bounded
from evergrove.core.errors import CorruptState, InvalidInput
from evergrove.core.release import sha256_hex

FOLDER = "receipts"
RECEIPT_BYTES_MAX = 1 << 20
LEFT = (
    "an update that a fog had received before, and every sum and release that it is in",
    "what was handed to a trusted fog before",
    "remnants in flash: of observations they cannot be opened, the key is gone; adapters were never encrypted",
    "backups and copies of this folder, and adapters, pictures or ledgers that were taken out of it",
    "what demos, simulations and benches left in runs/, reports and pictures included: forgetting does not look there",
)
"""What nobody here can take back."""


class Receipt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was forgotten, when (seconds since 1970), and what of it cannot be undone.

    ``what``: observation, condition or all. ``versions`` are the adapters that had learnt from it and are deleted,
    ``serves`` what is used instead (None: the release alone). ``withdrawn``: updates that waited to be sent
    were deleted, and the device takes no further part in this generation.
    """

    device: str
    job: str
    asked_at_s: float
    done_at_s: float
    what: str
    n_records: int
    versions: tuple[str, ...]
    serves: str | None
    withdrawn: bool
    cannot_be_undone: tuple[str, ...] = LEFT
    schema: int = 1


def write(root: Path, receipt: Receipt, files: Files) -> str:
    """Leaves a receipt in the device's folder; its SHA-256. Raises ``DiskFull``."""
    data = msgspec.json.format(msgspec.json.encode(receipt), indent=2) + b"\n"
    files.make_folder(root / FOLDER)
    files.write(path_of(root, receipt.job), data)
    return sha256_hex(data)


def read(root: Path, job: str) -> Receipt:
    """The receipt of a job. Raises ``CorruptState``."""
    path = path_of(root, job)
    try:
        return msgspec.json.decode(read_bounded(path, RECEIPT_BYTES_MAX), type=Receipt)
    except (FileNotFoundError, InvalidInput, msgspec.MsgspecError) as fault:
        raise CorruptState(f"{path}: the receipt cannot be read: {fault}") from fault


def path_of(root: Path, job: str) -> Path:
    """Where the receipt of a job lies."""
    return root / FOLDER / f"{job}.json"
