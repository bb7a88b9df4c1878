"""X.509 as Evergrove uses it: P-256 keys, a device's name in its certificate, and who stands at the end of a line.

A device's certificate carries its name as the URI ``urn:evergrove:device:NAME`` and is for clients only; a fog's
carries host names and is for servers only. Keys are made where they are used and never travel.
"""

import datetime
import ipaddress
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from evergrove.adapters.files import read_bounded
from evergrove.core.errors import CorruptState, InvalidInput, Unreachable, UsageError

URN = "urn:evergrove:device:"
DEVICE = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
"""What a device may be called."""
PEM_BYTES_MAX = 16_384
CRL_BYTES_MAX = 64 << 20
SKEW_S = 3600.0
"""Certificates hold from this long before they are made: clocks of devices differ."""
Key = ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Peer:
    """A device as its certificate names it."""

    device: str
    serial: int
    not_after_s: float


# ---- keys and requests -----------------------------------------------------------------------------------------------


def new_key() -> Key:
    """A P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: Key) -> bytes:
    """The key as PEM, not encrypted: it goes into a file of mode 600."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def load_key(pem: bytes, where: str) -> Key:
    """The way back. Raises ``CorruptState``."""
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError) as fault:
        raise CorruptState(f"{where}: holds no private key") from fault
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CorruptState(f"{where}: holds a key of another kind than P-256")
    return key


def request_pem(key: Key) -> bytes:
    """A certificate signing request: the public key, and proof that its private one is held. It names nobody."""
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


def key_of_request(pem: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of a request from outside, whose signature holds. Raises ``InvalidInput``."""
    if len(pem) > PEM_BYTES_MAX:
        raise InvalidInput(f"a certificate request of {len(pem)} bytes; at most {PEM_BYTES_MAX} are read")
    try:
        request = x509.load_pem_x509_csr(pem)
        valid, key = request.is_signature_valid, request.public_key()
    except Exception as fault:  # a stranger's ASN.1: cryptography raises several kinds
        raise InvalidInput("the certificate request is damaged; make a new one") from fault
    if not valid or not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidInput("the certificate request must be of a P-256 key, and signed by it")
    return key


# ---- certificates ----------------------------------------------------------------------------------------------------


def ca_certificate(key: Key, name: str, now_s: float, valid_s: float) -> x509.Certificate:
    """A self-signed authority that signs certificates and revocation lists, and no other authority."""
    subject = _name(name)
    builder = _builder(subject, subject, key.public_key(), now_s, valid_s)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(sign=False, ca=True), critical=True)
    return builder.sign(key, hashes.SHA256())


def device_certificate(
    ca: x509.Certificate, ca_key: Key, key: ec.EllipticCurvePublicKey, device: str, now_s: float, valid_s: float
) -> x509.Certificate:
    """A client's certificate for a device."""
    return _leaf(
        ca, ca_key, key, device, [x509.UniformResourceIdentifier(URN + device)],
        ExtendedKeyUsageOID.CLIENT_AUTH, now_s, valid_s,
    )  # fmt: skip


def server_certificate(
    ca: x509.Certificate,
    ca_key: Key,
    key: ec.EllipticCurvePublicKey,
    hosts: Sequence[str],
    now_s: float,
    valid_s: float,
) -> x509.Certificate:
    """A server's certificate for host names and addresses."""
    if not hosts:
        raise UsageError("a server's certificate needs at least one host name or address")
    return _leaf(
        ca, ca_key, key, hosts[0], [_host(host) for host in hosts], ExtendedKeyUsageOID.SERVER_AUTH, now_s, valid_s
    )


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """A certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def load_certificate(pem: bytes, where: str) -> x509.Certificate:
    """The way back. Raises ``CorruptState``."""
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as fault:
        raise CorruptState(f"{where}: holds no certificate") from fault


@lru_cache(maxsize=4096)
def peer_of(der: bytes) -> Peer | None:
    """Whose certificate this is; None where it names no device. TLS has verified it before."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (ValueError, x509.ExtensionNotFound):
        return None
    if len(uris) != 1 or not uris[0].startswith(URN) or not DEVICE.fullmatch(uris[0].removeprefix(URN)):
        return None
    until_s = certificate.not_valid_after_utc.timestamp()
    return Peer(uris[0].removeprefix(URN), certificate.serial_number, until_s)


# ---- revocation ------------------------------------------------------------------------------------------------------


class Revocations:
    """The authority's revocation list as a fog reads it: a file that somebody else renews. Thread-safe."""

    def __init__(self, path: Path, ca: x509.Certificate) -> None:
        self._path, self._ca = path, ca
        self._read: tuple[tuple[int, int], x509.CertificateRevocationList] | None = None

    def revoked(self, peer: Peer, now_s: float) -> bool:
        """Whether the list names this certificate.

        Raises ``Unreachable`` where there is no list of this authority that still holds: then nobody is let in.
        """
        crl = self._load()
        until = crl.next_update_utc
        if until is None or until.timestamp() <= now_s:
            raise Unreachable(f"{self._path}: the revocation list is out of date; fetch a fresh one from the cloud")
        return crl.get_revoked_certificate_by_serial_number(peer.serial) is not None

    def _load(self) -> x509.CertificateRevocationList:
        try:
            facts = self._path.stat()
            stamp = (facts.st_mtime_ns, facts.st_ino)
            if self._read is None or self._read[0] != stamp:
                crl = x509.load_pem_x509_crl(read_bounded(self._path, CRL_BYTES_MAX))
                if not crl.is_signature_valid(self._ca.public_key()):  # type: ignore[arg-type]
                    raise InvalidSignature
                self._read = (stamp, crl)
            return self._read[1]
        except (OSError, ValueError, InvalidInput, InvalidSignature) as fault:
            raise Unreachable(f"{self._path}: no revocation list of this authority; fetch it from the cloud") from fault


# ---- contexts --------------------------------------------------------------------------------------------------------


def server_context(ca: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.3 for a fog: a client may show a certificate (to enrol it needs none), and it must be the authority's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_OPTIONAL
    context.num_tickets = 0  # a resumed session would not show the certificate anew
    return _filled(context, ca, certificate, key)


def client_context(ca: Path, certificate: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """TLS 1.3 for a device: the fog must have a certificate of the authority for its host name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return _filled(context, ca, certificate, key)


def _filled(context: ssl.SSLContext, ca: Path, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    try:
        context.load_verify_locations(ca)
        if certificate is not None:
            context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as fault:
        raise CorruptState(f"{ca.parent}: its certificates or key cannot be used ({fault}); enrol again") from fault
    return context


def _leaf(
    ca: x509.Certificate,
    ca_key: Key,
    key: ec.EllipticCurvePublicKey,
    name: str,
    names: Sequence[x509.GeneralName],
    use: x509.ObjectIdentifier,
    now_s: float,
    valid_s: float,
) -> x509.Certificate:
    builder = _builder(_name(name), ca.subject, key, now_s, valid_s)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(sign=True, ca=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([use]), critical=True)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    return builder.add_extension(issuer, critical=False).sign(ca_key, hashes.SHA256())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now_s: float, valid_s: float
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(moment(now_s - SKEW_S)).not_valid_after(moment(now_s + valid_s))
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _usage(sign: bool, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=sign, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=ca, crl_sign=ca, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def moment(at_s: float) -> datetime.datetime:
    """Seconds since 1970 as X.509 wants them."""
    return datetime.datetime.fromtimestamp(at_s, datetime.UTC).replace(microsecond=0)
