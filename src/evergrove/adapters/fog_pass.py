"""By what a cloud knows a fog that asks for releases: a signature by the key that the cloud was given for Flower.

One header holds the key's fingerprint, the time in whole seconds since 1970, and an ECDSA signature (P-384, SHA-256)
of method, path and time. Whoever is not among the keys in the cloud's folder gets nothing; a key that is taken out of
it opens no release any more. By the same keys a fog's SuperNode is let in, whose calls name theirs (Flower's header).
"""

import base64
import re
from collections.abc import Callable, Generator
from pathlib import Path

import httpx
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from evergrove.adapters.clock import now_s
from evergrove.adapters.files import read_bounded
from evergrove.core.errors import InvalidInput
from evergrove.core.release import sha256_hex

HEADER, NODE_HEADER = "evergrove-fog", "flwr-public-key"
SKEW_S = 300.0
"""How far the clocks of fog and cloud may be apart."""
KEY_BYTES_MAX, HEADER_CHARS_MAX = 65_536, 512
SCHEME = ec.ECDSA(hashes.SHA256())
TIME = re.compile("[0-9]{1,12}")


class FogPass(httpx.Auth):
    """Signs every request with a fog's key, the private one beside Flower's SuperNode."""

    def __init__(self, private: Path, now: Callable[[], float] = now_s) -> None:
        key = serialization.load_ssh_private_key(read_bounded(private, KEY_BYTES_MAX), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey), "made by adapters/flower/identity"
        self._key, self._now = key, now
        public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        self._name = fingerprint(public)

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Adds the header. Raises ``httpx.RequestError`` where the cloud does not know who asks."""
        at = str(int(self._now()))
        signature = self._key.sign(_words(request.method, request.url.path, at), SCHEME)
        request.headers[HEADER] = f"{self._name} {at} {base64.b64encode(signature).decode()}"
        answer = yield request
        if answer.status_code == 401:
            raise httpx.RequestError(
                "the cloud does not know this fog: give it the fog's public key; else the clocks are over five minutes"
                " apart"
            )


def fog_of(keys: Path, header: str, method: str, path: str, now_s: float) -> str | None:
    """The name of the fog that signed, by the ``NAME.pub`` files in ``keys``; None where none of them did, or long ago.

    A file that is no key is nobody's.
    """
    name, _, rest = header[:HEADER_CHARS_MAX].partition(" ")
    at, _, signature = rest.partition(" ")
    if not TIME.fullmatch(at) or abs(now_s - int(at)) > SKEW_S:
        return None
    for file in sorted(keys.glob("*.pub")):
        try:
            line = read_bounded(file.resolve(), KEY_BYTES_MAX).strip()
            if fingerprint(line) != name:
                continue
            public = serialization.load_ssh_public_key(line)
            if isinstance(public, ec.EllipticCurvePublicKey):
                public.verify(base64.b64decode(signature, validate=True), _words(method, path, at), SCHEME)
                return file.stem
        except (OSError, ValueError, UnsupportedAlgorithm, InvalidInput, InvalidSignature):
            continue
    return None


def is_known(keys: Path, header: str) -> bool:
    """Whether the key that a SuperNode names (``NODE_HEADER``, base64 of PEM) is in one of the ``NAME.pub`` files.

    That it is the caller's own is for the SuperLink to check, by the signature beside it.
    """
    try:
        public = serialization.load_pem_public_key(base64.b64decode(header[:KEY_BYTES_MAX], validate=True))
        name = fingerprint(public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH))
    except (ValueError, UnsupportedAlgorithm):
        return False
    for file in keys.glob("*.pub"):
        try:
            if fingerprint(read_bounded(file.resolve(), KEY_BYTES_MAX)) == name:
                return True
        except (OSError, InvalidInput):
            continue
    return False


def fingerprint(public: bytes) -> str:
    """A public key's name: the SHA-256 of its OpenSSH line, without a comment."""
    return sha256_hex(b" ".join(public.split()[:2]))


def _words(method: str, path: str, at: str) -> bytes:
    return f"evergrove releases\n{method}\n{path}\n{at}".encode()
