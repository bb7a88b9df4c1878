"""The keys that sign releases: one file each, Ed25519, PEM (PKCS #8), readable by their owner only.

Five roles (The Update Framework, https://theupdateframework.io): *root* says which keys count, *targets* signs
releases; both lie offline, several keys each of which some must sign. *snapshot*, *timestamp* and *rollout* lie with
the cloud: they cannot sign a release, only say which of the signed ones is the newest, and whose turn it is.
"""

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # handed on without saying so

from evergrove.adapters.files import Files, read_bounded
from evergrove.core.errors import CorruptState, UsageError

OFFLINE, ONLINE = ("root", "targets"), ("snapshot", "timestamp", "rollout")
ROLES = (*OFFLINE, *ONLINE)
SUFFIX = ".pem"
KEY_BYTES_MAX = 8192

Signers = Mapping[str, tuple[CryptoSigner, ...]]
"""The keys at hand, by role; a role without any is absent or empty."""


def new_signers(counts: Mapping[str, int]) -> dict[str, tuple[CryptoSigner, ...]]:
    """Fresh keys from the operating system's randomness: so many of each role."""
    return {role: tuple(CryptoSigner.generate_ed25519() for _ in range(n)) for role, n in counts.items()}


def save_keys(folder: Path, signers: Signers, passphrase: bytes | None, files: Files | None = None) -> list[Path]:
    """Writes one file for each key, encrypted where there is a passphrase; returns the paths, sorted.

    The name is the role and the first digits of the key's id, so that nothing is ever replaced by another key.
    """
    files = files or Files()
    files.make_folder(folder)
    lock = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    paths = []
    for role, held in signers.items():
        for signer in held:
            key = load_pem_private_key(signer.private_bytes, None)
            path = folder / f"{role}-{signer.public_key.keyid[:12]}{SUFFIX}"
            files.write(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock))
            paths.append(path)
    return sorted(paths)


def load_keys(folder: Path, passphrase: bytes | None = None, roles: Iterable[str] = ROLES) -> Signers:
    """The keys of some roles in a folder.

    Raises ``UsageError`` for a folder that is not there or a wrong passphrase, ``CorruptState`` for a file that others
    may read or that holds no such key.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no folder of keys '{folder}'; `evergrove keys create` makes one")
    wanted, found = set(roles), dict[str, tuple[CryptoSigner, ...]]()
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        role = path.name.split("-", 1)[0]
        if role in wanted:
            found[role] = (*found.get(role, ()), _load(path, passphrase))
    return found


def remove_keys(folder: Path, keep: Iterable[str], roles: Iterable[str], files: Files | None = None) -> list[str]:
    """Deletes the keys of some roles whose ids are not in ``keep``; returns their file names."""
    files, kept = files or Files(), {keyid[:12] for keyid in keep}
    gone = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        role, _, rest = path.name.removesuffix(SUFFIX).partition("-")
        if role in set(roles) and rest not in kept:
            files.write(path, b"", scrub=True)
            files.remove(path)
            gone.append(path.name)
    return gone


def _load(path: Path, passphrase: bytes | None) -> CryptoSigner:
    facts = os.lstat(path)
    if facts.st_mode & 0o077 or facts.st_uid != os.geteuid():
        raise CorruptState(
            f"{path}: this signing key has mode {stat.S_IMODE(facts.st_mode):o} and owner {facts.st_uid}; it must be "
            f"yours alone: `chmod 600 {path}`, and rotate it if others could read it"
        )
    data = read_bounded(path, KEY_BYTES_MAX)
    encrypted = b"BEGIN ENCRYPTED PRIVATE KEY" in data
    if encrypted and not passphrase:
        raise UsageError(f"{path} is encrypted: give its passphrase")
    try:
        key = load_pem_private_key(data, passphrase if encrypted else None)
    except (ValueError, TypeError) as fault:
        if encrypted:
            raise UsageError(f"{path}: the passphrase is wrong, or the file is damaged") from fault
        raise CorruptState(f"{path}: holds no signing key; restore it from your copy") from fault
    if not isinstance(key, Ed25519PrivateKey):
        raise CorruptState(f"{path}: a {type(key).__name__}; signing keys are Ed25519")
    return CryptoSigner(key)
