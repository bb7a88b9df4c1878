"""Keys and certificates of the link: a SuperLink's TLS, the secret of its SuperExec, and the key of each fog.

Everything is made once and kept; private parts are readable by their owner only. The authority here vouches for this
one server and nothing else: the devices' authority is another, so that neither key opens the other's door.
"""

import datetime
import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from evergrove.adapters.files import Files, read_bounded
from evergrove.core.errors import CorruptState

AUTHORITY_DAYS, SERVER_DAYS, RENEW_DAYS = 3650, 397, 30
SECRET_BYTES = 32
PEM_BYTES_MAX = 65_536


@dataclass(frozen=True)
class ServerFiles:
    """Where a SuperLink's certificate, key and authority lie. A fog needs the authority's certificate, no more."""

    certificate: Path
    key: Path
    authority: Path


def server_files(folder: Path, hosts: Sequence[str], now: datetime.datetime, files: Files) -> ServerFiles:
    """The TLS files of a SuperLink that is reached as ``hosts`` (names or addresses); made or renewed where needed.

    The authority stays as it is: fogs go on trusting the server after a renewal. Raises ``CorruptState``.
    """
    files.make_folder(folder)
    found = ServerFiles(folder / "server.crt", folder / "server.key", folder / "authority.crt")
    authority_key = _key(folder / "authority.key", files)
    if not found.authority.exists():
        files.write(found.authority, _pem(_authority(authority_key, now)), mode=0o644)
    if not _serves(found, hosts, now):
        server_key = ec.generate_private_key(ec.SECP256R1())
        authority = x509.load_pem_x509_certificate(read_bounded(found.authority, PEM_BYTES_MAX))
        certificate = _server(server_key, hosts, authority, authority_key, now)
        files.write(found.key, _private_pem(server_key))
        files.write(found.certificate, _pem(certificate), mode=0o644)
    return found


def secret_file(path: Path, files: Files) -> Path:
    """A file of random bytes that a SuperExec proves itself with; made where there is none."""
    files.make_folder(path.parent)
    if not path.exists():
        files.write(path, secrets.token_hex(SECRET_BYTES).encode())
    return path


def fog_key(folder: Path, files: Files) -> tuple[Path, Path]:
    """A fog's private key and its public one (OpenSSH, P-384), which the cloud registers; made where there are none."""
    files.make_folder(folder)
    private, public = folder / "supernode.key", folder / "supernode.pub"
    if not private.exists():
        key = ec.generate_private_key(ec.SECP384R1())
        data = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
        files.write(private, data)
    try:
        loaded = serialization.load_ssh_private_key(read_bounded(private, PEM_BYTES_MAX), None)
    except ValueError as fault:
        raise CorruptState(
            f"{private}: not a private key: {fault}; restore it, or delete it and register anew"
        ) from fault
    line = loaded.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    if not public.exists() or read_bounded(public, PEM_BYTES_MAX).strip() != line:
        files.write(public, line + b"\n", mode=0o644)
    return private, public


def _key(path: Path, files: Files) -> ec.EllipticCurvePrivateKey:
    if not path.exists():
        files.write(path, _private_pem(ec.generate_private_key(ec.SECP256R1())))
    try:
        key = serialization.load_pem_private_key(read_bounded(path, PEM_BYTES_MAX), None)
    except ValueError as fault:
        raise CorruptState(f"{path}: not a private key: {fault}; restore it from a backup") from fault
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CorruptState(f"{path}: not a key on an elliptic curve; restore it from a backup")
    return key


def _serves(found: ServerFiles, hosts: Sequence[str], now: datetime.datetime) -> bool:
    """Whether the certificate on disk is there, lasts, names all hosts, and belongs to the key beside it."""
    try:
        certificate = x509.load_pem_x509_certificate(read_bounded(found.certificate, PEM_BYTES_MAX))
        key = serialization.load_pem_private_key(read_bounded(found.key, PEM_BYTES_MAX), None)
    except (FileNotFoundError, ValueError):
        return False
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    fits = all(_general_name(host) in list(names) for host in hosts)
    lasts = certificate.not_valid_after_utc - now > datetime.timedelta(days=RENEW_DAYS)
    return fits and lasts and certificate.public_key() == key.public_key()


def _authority(key: ec.EllipticCurvePrivateKey, now: datetime.datetime) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Evergrove link authority")])
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    return (
        _builder(name, name, key.public_key(), now, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _server(
    key: ec.EllipticCurvePrivateKey,
    hosts: Sequence[str],
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    now: datetime.datetime,
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Evergrove SuperLink")])
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    return (
        _builder(name, authority.subject, key.public_key(), now, SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(issuer, critical=False)
        .sign(authority_key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime.datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
