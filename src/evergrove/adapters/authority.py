"""A fog's own certificate authority (ADR 0032): who is a device of this fleet, until when, and who is not any more.

A folder with the authority's key and certificate, its revocation list, and a small database of enrolment tokens (as
hashes) and of certificates given. A token is good once, for a while: the same device may fetch its certificate again
with the same key, since an answer can be lost; another key finds the token used. Time is an argument.
"""

import contextlib
import hashlib
import os
import secrets
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from evergrove.adapters import certificates as x
from evergrove.adapters.files import Files, read_bounded
from evergrove.core.errors import CorruptState, EvergroveError, InvalidInput, UsageError

CA, CA_KEY, CRL, DATABASE = "ca.pem", "ca.key", "crl.pem", "authority.db"
DAY_S = 86_400.0
CA_VALID_S, DEVICE_VALID_S, SERVER_VALID_S, CRL_VALID_S = 3650 * DAY_S, 90 * DAY_S, 397 * DAY_S, 7 * DAY_S
TOKEN_VALID_S = DAY_S
TOKEN_CHARS_MAX = 128
_TABLES = """
CREATE TABLE IF NOT EXISTS tokens (hash TEXT PRIMARY KEY, device TEXT NOT NULL, expires_s REAL NOT NULL, key TEXT);
CREATE TABLE IF NOT EXISTS certificates (
    serial TEXT PRIMARY KEY, device TEXT NOT NULL, key TEXT NOT NULL, not_after_s REAL NOT NULL, pem BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS revoked (device TEXT PRIMARY KEY, at_s REAL NOT NULL, reason TEXT NOT NULL)
"""


@dataclass(frozen=True)
class Enrolled:
    """What a device gets: its name, its certificate, and the authority's, by which it knows the fogs."""

    device: str
    certificate: bytes
    ca: bytes


class Authority:
    """An authority that ``create`` made. Any number of processes may use one folder."""

    def __init__(self, folder: Path, files: Files | None = None) -> None:
        """Raises ``CorruptState`` where the folder holds none, or others may read its key."""
        self._files = files or Files()
        self._folder = folder
        try:
            facts = os.lstat(folder / CA_KEY)
            if facts.st_mode & 0o077:
                raise CorruptState(
                    f"{folder / CA_KEY}: mode {stat.S_IMODE(facts.st_mode):o}; it must be yours alone: 600"
                )
            self._key = x.load_key(read_bounded(folder / CA_KEY, x.PEM_BYTES_MAX), str(folder / CA_KEY))
            self.ca_pem = read_bounded(folder / CA, x.PEM_BYTES_MAX)
        except FileNotFoundError as fault:
            raise CorruptState(f"{folder}: no certificate authority here; make one first") from fault
        self.certificate = x.load_certificate(self.ca_pem, str(folder / CA))
        with self._writing() as link:
            for table in _TABLES.split(";"):
                link.execute(table)

    @classmethod
    def create(cls, folder: Path, name: str, now_s: float, files: Files | None = None) -> "Authority":
        """A new authority. Raises ``UsageError`` where there is one: its devices would lose their fleet."""
        files = files or Files()
        if (folder / CA).exists():
            raise UsageError(f"{folder}: there is a certificate authority already; choose another folder")
        files.make_folder(folder)
        key = x.new_key()
        files.write(folder / CA_KEY, x.key_pem(key))
        files.write(folder / CA, x.certificate_pem(x.ca_certificate(key, name, now_s, CA_VALID_S)))
        made = cls(folder, files)
        made.renew_list(now_s)
        return made

    @property
    def list_path(self) -> Path:
        """Where the revocation list lies; a fog keeps a copy."""
        return self._folder / CRL

    # ---- devices -----------------------------------------------------------------------------------------------------

    def issue_token(self, now_s: float, device: str | None = None, valid_s: float = TOKEN_VALID_S) -> str:
        """A one-time token that enrols ``device`` (None: a name by chance); only its hash is kept.

        Raises ``UsageError`` for a name in no form, and for a device that was revoked.
        """
        device = device or f"device-{secrets.token_hex(6)}"
        if not x.DEVICE.fullmatch(device):
            raise UsageError(f"'{device[:64]}': a device's name is 1 to 63 of a-z 0-9 . _ -, such as kitchen-display")
        if self._is_revoked(device):
            raise UsageError(f"{device} was revoked, for good; enrol it under another name")
        token = secrets.token_urlsafe(32)
        with self._writing() as link:
            link.execute("DELETE FROM tokens WHERE expires_s < ?", (now_s - 30 * DAY_S,))
            link.execute("INSERT INTO tokens VALUES (?, ?, ?, NULL)", (_hash(token), device, now_s + valid_s))
        return token

    def enrol(self, token: str, request: bytes, now_s: float) -> Enrolled:
        """The certificate for the key of a signing request. Raises ``InvalidInput`` for a token that does not count."""
        if len(token) > TOKEN_CHARS_MAX:
            raise InvalidInput("this is no enrolment token")
        public = x.key_of_request(request)
        fingerprint = _fingerprint(public)
        with self._writing() as link:
            row = link.execute("SELECT device, expires_s, key FROM tokens WHERE hash = ?", (_hash(token),)).fetchone()
            if row is None or not now_s < row[1]:
                raise InvalidInput("the enrolment token is unknown or has expired; ask for a new one")
            device, _, used_by = row
            if used_by is not None and used_by != fingerprint:
                raise InvalidInput("the enrolment token was used already; ask for a new one")
            if link.execute("SELECT 1 FROM revoked WHERE device = ?", (device,)).fetchone():
                raise InvalidInput(f"{device} was revoked")
            if used_by is not None:
                pem = link.execute("SELECT pem FROM certificates WHERE key = ?", (fingerprint,)).fetchone()[0]
                return Enrolled(device, pem, self.ca_pem)
            link.execute("UPDATE tokens SET key = ? WHERE hash = ?", (fingerprint, _hash(token)))
            return self._give(link, device, request, now_s)

    def renew(self, device: str, request: bytes, now_s: float) -> Enrolled:
        """A fresh certificate for a device that has just proved itself by its old one. Raises ``InvalidInput``."""
        with self._writing() as link:
            if link.execute("SELECT 1 FROM revoked WHERE device = ?", (device,)).fetchone():
                raise InvalidInput(f"{device} was revoked")
            return self._give(link, device, request, now_s)

    def revoke(self, device: str, reason: str, now_s: float) -> None:
        """No certificate of this device counts any more, and it gets no other. Raises ``UsageError`` if unknown."""
        with self._writing() as link:
            known = link.execute("SELECT 1 FROM certificates WHERE device = ?", (device,)).fetchone()
            if not known and not link.execute("SELECT 1 FROM tokens WHERE device = ?", (device,)).fetchone():
                raise UsageError(f"no device '{device[:64]}' was enrolled here")
            link.execute("INSERT OR IGNORE INTO revoked VALUES (?, ?, ?)", (device, now_s, reason))
        self.renew_list(now_s)

    def devices(self) -> list[tuple[str, bool]]:
        """Every device that has a certificate, and whether it was revoked."""
        with self._writing() as link:
            rows = link.execute(
                "SELECT DISTINCT c.device, r.device IS NOT NULL FROM certificates c LEFT JOIN revoked r USING (device)"
                " ORDER BY c.device"
            )
            return [(device, bool(revoked)) for device, revoked in rows]

    # ---- fogs --------------------------------------------------------------------------------------------------------

    def server(self, hosts: Sequence[str], now_s: float) -> tuple[bytes, bytes]:
        """A new key and its certificate for a fog that is reached under these names and addresses, as PEM."""
        key = x.new_key()
        certificate = x.server_certificate(self.certificate, self._key, key.public_key(), hosts, now_s, SERVER_VALID_S)
        return x.key_pem(key), x.certificate_pem(certificate)

    def renew_list(self, now_s: float) -> None:
        """Signs the revocation list anew; due after every revocation and before half of its time is over."""
        with self._writing() as link:
            rows = link.execute(
                "SELECT c.serial, r.at_s FROM certificates c JOIN revoked r USING (device) WHERE c.not_after_s > ?",
                (now_s,),
            ).fetchall()
            builder = x509.CertificateRevocationListBuilder().issuer_name(self.certificate.subject)
            builder = builder.last_update(x.moment(now_s)).next_update(x.moment(now_s + CRL_VALID_S))
            for serial, at_s in rows:
                entry = x509.RevokedCertificateBuilder().serial_number(int(serial)).revocation_date(x.moment(at_s))
                builder = builder.add_revoked_certificate(entry.build())
            signed = builder.sign(self._key, hashes.SHA256())
            self._files.write(self.list_path, signed.public_bytes(serialization.Encoding.PEM), mode=0o644)

    def mind_list(self, now_s: float) -> None:
        """Signs the list anew where half of its time is over, or it is damaged or gone."""
        try:
            until = x509.load_pem_x509_crl(read_bounded(self.list_path, x.CRL_BYTES_MAX)).next_update_utc
        except (FileNotFoundError, ValueError):
            until = None
        if until is None or until.timestamp() - now_s < CRL_VALID_S / 2:
            self.renew_list(now_s)

    def _give(self, link: sqlite3.Connection, device: str, request: bytes, now_s: float) -> Enrolled:
        public = x.key_of_request(request)
        made = x.device_certificate(self.certificate, self._key, public, device, now_s, DEVICE_VALID_S)
        pem = x.certificate_pem(made)
        link.execute(
            "INSERT INTO certificates VALUES (?, ?, ?, ?, ?)",
            (str(made.serial_number), device, _fingerprint(public), made.not_valid_after_utc.timestamp(), pem),
        )
        return Enrolled(device, pem, self.ca_pem)

    def _is_revoked(self, device: str) -> bool:
        with self._writing() as link:
            return link.execute("SELECT 1 FROM revoked WHERE device = ?", (device,)).fetchone() is not None

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that only one process has at a time; an error undoes it."""
        path = self._folder / DATABASE
        try:
            link = sqlite3.connect(path, timeout=30.0, isolation_level=None)
            try:
                link.execute("PRAGMA synchronous=FULL")
                link.execute("BEGIN IMMEDIATE")
                yield link
                link.execute("COMMIT")
            finally:
                link.close()  # without its COMMIT, undone
        except sqlite3.Error as fault:
            raise EvergroveError(f"{path}: {fault}; check the disk and its permissions") from fault


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def _fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(key.public_bytes(serialization.Encoding.DER, form)).hexdigest()
