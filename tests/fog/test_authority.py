"""The authority: tokens that count once, certificates at a real handshake, a list that bites."""

import hashlib
import socket
import sqlite3
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from evergrove.adapters import certificates as x
from evergrove.adapters.authority import CA, CA_KEY, CRL_VALID_S, DATABASE, DEVICE_VALID_S, Authority
from evergrove.core.errors import CorruptState, InvalidInput, Unreachable, UsageError

NOW_S = time.time()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """A fresh one."""
    return Authority.create(tmp_path / "ca", "test fleet", NOW_S)


def pair(folder: Path, key: x.Key, certificate: bytes) -> tuple[Path, Path]:
    """Both as files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "key.pem").write_bytes(x.key_pem(key))
    (folder / "cert.pem").write_bytes(certificate)
    return folder / "cert.pem", folder / "key.pem"


def enrolled(authority: Authority, folder: Path, device: str = "kitchen", now_s: float = NOW_S) -> tuple[Path, Path]:
    """A device's files."""
    key = x.new_key()
    given = authority.enrol(authority.issue_token(now_s, device), x.request_pem(key), now_s)
    assert given.device == device
    return pair(folder, key, given.certificate)


def shake(server: ssl.SSLContext, client: ssl.SSLContext, host: str = "localhost") -> bytes | None:
    """A real TLS handshake over a socket pair; what the server sees of the client. Raises ``ssl.SSLError``."""
    near, far = socket.socketpair()
    near.settimeout(5)
    far.settimeout(5)
    faults: list[Exception] = []

    def connect() -> None:
        try:
            with client.wrap_socket(near, server_hostname=host) as line:
                line.recv(1)  # TLS 1.3: the server's word on our certificate comes with its first bytes
        except OSError as fault:
            faults.append(fault)

    thread = threading.Thread(target=connect)
    thread.start()
    try:
        with server.wrap_socket(far, server_side=True) as line:
            line.send(b"x")
            seen = line.getpeercert(binary_form=True)
    finally:
        far.close()
        thread.join()
    if faults:
        raise faults[0]
    return seen


@pytest.fixture
def server(authority: Authority, tmp_path: Path) -> ssl.SSLContext:
    """A fog's context."""
    key, certificate = authority.server(["localhost", "127.0.0.1"], NOW_S)
    (tmp_path / "fog.key").write_bytes(key)
    (tmp_path / "fog.pem").write_bytes(certificate)
    return x.server_context(tmp_path / "ca" / CA, tmp_path / "fog.pem", tmp_path / "fog.key")


# ---- tokens ----------------------------------------------------------------------------------------------------------


def test_a_token_enrols_one_key_and_only_its_hash_is_kept(authority: Authority, tmp_path: Path) -> None:
    """The same key may ask again and gets the same certificate; another key finds the token used."""
    token, key = authority.issue_token(NOW_S, "kitchen"), x.new_key()
    first = authority.enrol(token, x.request_pem(key), NOW_S)
    assert authority.enrol(token, x.request_pem(key), NOW_S + 5) == first
    with pytest.raises(InvalidInput, match="used already"):
        authority.enrol(token, x.request_pem(x.new_key()), NOW_S)
    assert token.encode() not in (tmp_path / "ca" / DATABASE).read_bytes()
    with sqlite3.connect(tmp_path / "ca" / DATABASE) as link:
        rows = link.execute("SELECT hash, device FROM tokens").fetchall()
    link.close()
    assert rows == [(hashlib.sha256(token.encode()).hexdigest(), "kitchen")]
    assert Authority(tmp_path / "ca").devices() == [("kitchen", False)]


def test_a_token_expires(authority: Authority) -> None:
    """At the moment, not after it; an invented one never counted."""
    token = authority.issue_token(NOW_S, "kitchen", valid_s=60.0)
    with pytest.raises(InvalidInput, match="unknown or has expired"):
        authority.enrol(token, x.request_pem(x.new_key()), NOW_S + 60.0)
    for bad in ("", "x" * 43, "x" * 10_000):
        with pytest.raises(InvalidInput, match="token"):
            authority.enrol(bad, x.request_pem(x.new_key()), NOW_S)
    assert authority.enrol(token, x.request_pem(x.new_key()), NOW_S + 59.0).device == "kitchen"


def test_two_at_once_with_one_token_are_one(authority: Authority, tmp_path: Path) -> None:
    """Eight threads, eight keys, one certificate."""
    token, won, lost = authority.issue_token(NOW_S), [], []

    def attempt() -> None:
        try:
            won.append(Authority(tmp_path / "ca").enrol(token, x.request_pem(x.new_key()), NOW_S))
        except InvalidInput as fault:
            lost.append(str(fault))

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)


def test_names_are_checked(authority: Authority) -> None:
    """What would not stand in a certificate, a URL or a log."""
    for bad in ("Küche", "a b", "-x", "x" * 64, "a/b", "A"):
        with pytest.raises(UsageError, match="name is 1 to 63"):
            authority.issue_token(NOW_S, bad)


def test_requests_are_checked(authority: Authority) -> None:
    """Damage, size, another kind of key, another curve, another's signature; the token is still good afterwards."""
    token, good = authority.issue_token(NOW_S), x.request_pem(x.new_key())
    other = x.x509.CertificateSigningRequestBuilder().subject_name(x.x509.Name([]))
    rsa_key, curve = rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())
    pem = x.serialization.Encoding.PEM
    lines = good.splitlines()
    lines[-2] = lines[-2][:20] + (b"AAAA" if lines[-2][20:24] != b"AAAA" else b"BBBB") + lines[-2][24:]
    others = [other.sign(key, x.hashes.SHA256()).public_bytes(pem) for key in (rsa_key, curve)]
    bad = [
        b"", b"-----BEGIN CERTIFICATE REQUEST-----", good[:-60], b"x" * 20_000, b"\n".join(lines),
        *others,
    ]  # fmt: skip
    for request in bad:
        with pytest.raises(InvalidInput, match="certificate request"):
            authority.enrol(token, request, NOW_S)
    assert authority.enrol(token, good, NOW_S).device.startswith("device-")


# ---- handshakes ------------------------------------------------------------------------------------------------------


def test_a_device_is_known_by_its_certificate(authority: Authority, server: ssl.SSLContext, tmp_path: Path) -> None:
    """Its name reaches the server; without a certificate there is no name, and a line all the same, to enrol by."""
    files = enrolled(authority, tmp_path / "d")
    seen = shake(server, x.client_context(tmp_path / "ca" / CA, *files))
    assert seen is not None
    peer = x.peer_of(seen)
    assert peer is not None
    assert peer.device == "kitchen"
    assert peer.not_after_s == pytest.approx(NOW_S + DEVICE_VALID_S, abs=2)
    assert shake(server, x.client_context(tmp_path / "ca" / CA)) is None


def test_a_foreign_authority_is_refused_by_both_sides(
    authority: Authority, server: ssl.SSLContext, tmp_path: Path
) -> None:
    """A certificate of another fleet, even one of the same name; and a fog of another fleet."""
    foreign = Authority.create(tmp_path / "other", "test fleet", NOW_S)
    files = enrolled(foreign, tmp_path / "f")
    with pytest.raises(ssl.SSLError):
        shake(server, x.client_context(tmp_path / "ca" / CA, *files))
    with pytest.raises(ssl.SSLError):
        shake(server, x.client_context(tmp_path / "other" / CA))
    with pytest.raises(ssl.SSLError):
        shake(server, x.client_context(tmp_path / "ca" / CA), host="elsewhere.example")


def test_an_expired_certificate_is_refused(authority: Authority, server: ssl.SSLContext, tmp_path: Path) -> None:
    """Enrolled long ago; a fresh one under the old name is welcome."""
    old = enrolled(authority, tmp_path / "d", now_s=NOW_S - DEVICE_VALID_S - 10)
    with pytest.raises(ssl.SSLError):
        shake(server, x.client_context(tmp_path / "ca" / CA, *old))
    key = x.new_key()
    fresh = authority.renew("kitchen", x.request_pem(key), NOW_S)
    assert shake(server, x.client_context(tmp_path / "ca" / CA, *pair(tmp_path / "n", key, fresh.certificate)))


def test_a_fogs_certificate_is_no_devices(authority: Authority, server: ssl.SSLContext, tmp_path: Path) -> None:
    """Servers' certificates are for servers: TLS refuses them from a client, and they name no device."""
    with pytest.raises(ssl.SSLError):
        shake(server, x.client_context(tmp_path / "ca" / CA, tmp_path / "fog.pem", tmp_path / "fog.key"))
    certificate = x.load_certificate((tmp_path / "fog.pem").read_bytes(), "fog.pem")
    assert x.peer_of(certificate.public_bytes(x.serialization.Encoding.DER)) is None
    assert x.peer_of(b"nonsense") is None


# ---- revocation ------------------------------------------------------------------------------------------------------


def peer(files: tuple[Path, Path]) -> x.Peer:
    """Who a certificate's file names."""
    certificate = x.load_certificate(files[0].read_bytes(), "cert")
    found = x.peer_of(certificate.public_bytes(x.serialization.Encoding.DER))
    assert found is not None
    return found


def test_a_revoked_device_is_on_the_list_with_all_its_certificates(authority: Authority, tmp_path: Path) -> None:
    """The reader notices the new file; the device can neither renew nor enrol again; others go on."""
    mine, others = enrolled(authority, tmp_path / "d"), enrolled(authority, tmp_path / "o", "other")
    key = x.new_key()
    second = pair(tmp_path / "r", key, authority.renew("kitchen", x.request_pem(key), NOW_S).certificate)
    waiting = authority.issue_token(NOW_S, "kitchen")
    reader = x.Revocations(authority.list_path, authority.certificate)
    assert not reader.revoked(peer(mine), NOW_S)
    authority.revoke("kitchen", "stolen", NOW_S)
    assert reader.revoked(peer(mine), NOW_S)
    assert reader.revoked(peer(second), NOW_S)
    assert not reader.revoked(peer(others), NOW_S)
    assert authority.devices() == [("kitchen", True), ("other", False)]
    for refused in (
        lambda: authority.renew("kitchen", x.request_pem(x.new_key()), NOW_S),
        lambda: authority.enrol(waiting, x.request_pem(x.new_key()), NOW_S),
    ):
        with pytest.raises(InvalidInput, match="was revoked"):
            refused()
    with pytest.raises(UsageError, match="for good"):
        authority.issue_token(NOW_S, "kitchen")
    with pytest.raises(UsageError, match="no device 'nobody'"):
        authority.revoke("nobody", "?", NOW_S)


def test_without_a_list_that_holds_nobody_is_let_in(authority: Authority, tmp_path: Path) -> None:
    """Out of date, of another authority, damaged, missing; renewed in time it goes on."""
    device = peer(enrolled(authority, tmp_path / "d"))
    reader = x.Revocations(authority.list_path, authority.certificate)
    late_s = NOW_S + CRL_VALID_S + 1
    with pytest.raises(Unreachable, match="out of date"):
        reader.revoked(device, late_s)
    authority.mind_list(NOW_S + 1)
    with pytest.raises(Unreachable, match="out of date"):
        reader.revoked(device, late_s)
    authority.mind_list(NOW_S + CRL_VALID_S / 2 + 1)
    assert not reader.revoked(device, late_s)
    foreign = Authority.create(tmp_path / "other", "test fleet", NOW_S)
    breakers: list[Callable[[Path], object]] = [
        lambda path: path.write_bytes(foreign.list_path.read_bytes()),
        lambda path: path.write_bytes(b"nonsense"),
        lambda path: path.unlink(missing_ok=True),
    ]
    for broken in breakers:
        broken(authority.list_path)
        with pytest.raises(Unreachable, match="no revocation list"):
            reader.revoked(device, NOW_S)
    for broken in breakers[1:]:
        authority.mind_list(NOW_S)
        assert not reader.revoked(device, NOW_S)
        broken(authority.list_path)


# ---- the folder ------------------------------------------------------------------------------------------------------


def test_an_authority_is_made_once_and_its_key_is_its_owners(authority: Authority, tmp_path: Path) -> None:
    """A second one in the same folder, a key that others may read, no authority at all."""
    with pytest.raises(UsageError, match="already"):
        Authority.create(tmp_path / "ca", "again", NOW_S)
    with pytest.raises(CorruptState, match="no certificate authority"):
        Authority(tmp_path / "none")
    (tmp_path / "ca" / CA_KEY).chmod(0o644)
    with pytest.raises(CorruptState, match="mode 644"):
        Authority(tmp_path / "ca")
    (tmp_path / "ca" / CA_KEY).chmod(0o600)
    (tmp_path / "ca" / CA_KEY).write_bytes(b"nonsense")
    with pytest.raises(CorruptState, match="no private key"):
        Authority(tmp_path / "ca")
    with pytest.raises(UsageError, match="host name"):
        authority.server([], NOW_S)
