"""What the repository and its devices share about TUF metadata: names, lives, and what is in ``custom``."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import msgspec
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # handed on without saying so
from tuf.api.metadata import (  # type: ignore[attr-defined]
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Role,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from evergrove.adapters.release import MANIFEST
from evergrove.core.errors import CorruptState, UsageError
from evergrove.core.release import Publication, sha256_hex
from evergrove.core.rollout import Directive

__all__ = [
    "CARD",
    "DIRECTIVE",
    "LIFE",
    "METADATA_BYTES_MAX",
    "THRESHOLDS",
    "CryptoSigner",
    "DelegatedRole",
    "Delegations",
    "Metadata",
    "Role",
    "Root",
    "S",
    "Snapshot",
    "TargetFile",
    "Targets",
    "Timestamp",
    "custom",
    "decode_directive",
    "meta_file",
    "next_version",
    "publication_of",
    "replace_keys",
    "tired",
    "until",
]

DIRECTIVE = "directive.json"
CARD = "README.md"
LIFE = {
    "root": timedelta(days=365),
    "targets": timedelta(days=365),
    "rollout": timedelta(days=7),
    "snapshot": timedelta(days=7),
    "timestamp": timedelta(hours=24),
}
"""How long a signature holds. A timestamp's is the longest that a frozen repository goes unnoticed."""
METADATA_BYTES_MAX = 5_000_000
THRESHOLDS: Mapping[str, int] = {"root": 2, "targets": 2, "snapshot": 1, "timestamp": 1, "rollout": 1}

S = TypeVar("S", Root, Targets, Snapshot, Timestamp)


def decode_directive(data: bytes) -> Directive:
    """A directive of this schema. Raises ``CorruptState``."""
    try:
        directive = msgspec.json.decode(data, type=Directive)
    except msgspec.MsgspecError as fault:
        raise CorruptState(f"the rollout's directive is not understood: {fault}; update Evergrove") from fault
    if directive.schema != 1:
        raise CorruptState(f"the rollout's directive is of schema {directive.schema}, this program reads 1; update it")
    return directive


def publication_of(target: TargetFile) -> Publication:
    """What is signed about a release. Raises ``CorruptState``."""
    try:
        # Not strict: TUF's canonical JSON has no fractions, so they stand as text.
        publication = msgspec.convert(target.custom, Publication, strict=False)
    except msgspec.ValidationError as fault:
        raise CorruptState(f"{target.path}: what is signed about it is not understood: {fault}") from fault
    if target.path != f"releases/{publication.version}/{MANIFEST}" or publication.release != target.hashes["sha256"]:
        raise CorruptState(f"{target.path}: signed as version {publication.version} of another release")
    return publication


def custom(publication: Publication) -> dict[str, Any]:
    """What is signed about a release, as TUF can hold it."""
    facts: dict[str, Any] = msgspec.to_builtins(publication)
    return {key: repr(value) if isinstance(value, float) else value for key, value in facts.items()}


def next_version(metadata: Metadata[S], expires: datetime) -> Metadata[S]:
    """The next version of some metadata, unsigned, with a new life; the old one is not touched."""
    fresh: Metadata[S] = Metadata.from_bytes(metadata.to_bytes())
    fresh.signatures.clear()
    fresh.signed.version += 1
    fresh.signed.expires = expires
    return fresh


def replace_keys(holder: Root | Targets, role: str, fresh: tuple[CryptoSigner, ...], threshold: int | None) -> None:
    """Other keys for a role, and another threshold if there is one. Raises ``UsageError``."""
    had = holder.get_delegated_role(role)
    for keyid in list(had.keyids):
        holder.revoke_key(keyid, role)
    for signer in fresh:
        holder.add_key(signer.public_key, role)
    had.threshold = threshold or had.threshold
    if len(had.keyids) < had.threshold:
        raise UsageError(f"{len(had.keyids)} keys cannot reach a threshold of {had.threshold}")


def meta_file(version: int, data: bytes) -> MetaFile:
    """What a snapshot or a timestamp says of some metadata: version, size, hash."""
    return MetaFile(version, len(data), {"sha256": sha256_hex(data)})


def until(role: str, now_s: float) -> datetime:
    """When a signature of this role, made now, expires."""
    return datetime.fromtimestamp(now_s, UTC) + LIFE[role]


def tired(signed: Signed, role: str, now_s: float) -> bool:
    """Whether half of its life is over."""
    return signed.expires - datetime.fromtimestamp(now_s, UTC) < LIFE[role] / 2
