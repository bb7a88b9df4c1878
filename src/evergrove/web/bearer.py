"""The bearer token of a device's HTTP API: made at the first start, in a file that only its owner can read."""

import hmac
import os
import re
import secrets
import stat
from pathlib import Path

from evergrove.adapters.files import Files, read_bounded
from evergrove.core.errors import CorruptState

TOKEN_FILE = "http.token"
TOKEN_BYTES = 32
FORM = re.compile(rb"[A-Za-z0-9_.~+/=-]{20,256}")
"""What may stand after ``Bearer`` (RFC 6750), of at least 120 bits if it was chosen at random."""


def read_or_make(path: Path, files: Files | None = None) -> str:
    """The token in a file; a new one of 256 bits is made where there is no file.

    Raises ``CorruptState`` where others may read or write the file, or it does not hold one token.
    """
    try:
        facts = os.lstat(path)
    except FileNotFoundError:
        token = secrets.token_urlsafe(TOKEN_BYTES)
        files = files or Files()
        files.sweep(path.parent, of=path.name)  # half a token that a killed start left
        files.write(path, f"{token}\n".encode(), mode=0o600)
        return token
    if facts.st_mode & 0o077 or facts.st_uid != os.geteuid():
        raise CorruptState(
            f"{path}: the token has mode {stat.S_IMODE(facts.st_mode):o} and owner {facts.st_uid}; it must be yours "
            f"alone: delete it, and a new one is made at the next start"
        )
    text = read_bounded(path, 4096).strip()
    if not FORM.fullmatch(text):
        raise CorruptState(
            f"{path}: holds no token (20 to 256 letters, digits or -._~+/=); delete it for a new one at the next start"
        )
    return text.decode("ascii")


def matches(header: bytes | None, token: str) -> bool:
    """Whether an ``Authorization`` header carries the token; how long it takes tells nothing about the token."""
    scheme, _, given = (header or b"").partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), token.encode("ascii"))
