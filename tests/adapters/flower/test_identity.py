"""Keys and certificates of the link: made once, renewed in time, of the right kind, readable by their owner only."""

import datetime
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from evergrove.adapters.files import Files
from evergrove.adapters.flower import identity
from evergrove.core.errors import CorruptState

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
HOSTS = ("127.0.0.1", "cloud.example")


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_a_server_is_vouched_for_by_its_authority(tmp_path: Path) -> None:
    """By name and address, for a year and a bit; private parts are private."""
    found = identity.server_files(tmp_path, HOSTS, NOW, Files())
    server, authority = certificate(found.certificate), certificate(found.authority)
    server.verify_directly_issued_by(authority)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["cloud.example"]
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    for private in (found.key, tmp_path / "authority.key"):
        assert private.stat().st_mode & 0o077 == 0
    ssl.create_default_context(cafile=str(found.authority))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(found.certificate, found.key)


def test_it_is_kept_until_it_must_be_renewed_and_the_authority_stays(tmp_path: Path) -> None:
    """Fogs trust the authority: it outlives its certificates."""
    found = identity.server_files(tmp_path, HOSTS, NOW, Files())
    first, authority = found.certificate.read_bytes(), found.authority.read_bytes()
    identity.server_files(tmp_path, HOSTS[:1], NOW + datetime.timedelta(days=300), Files())
    assert found.certificate.read_bytes() == first
    identity.server_files(tmp_path, HOSTS, NOW + datetime.timedelta(days=380), Files())
    second = found.certificate.read_bytes()
    assert second != first
    identity.server_files(tmp_path, (*HOSTS, "10.0.0.1"), NOW + datetime.timedelta(days=380), Files())
    assert found.certificate.read_bytes() != second
    assert found.authority.read_bytes() == authority


def test_a_fogs_key_is_of_the_kind_that_flower_takes(tmp_path: Path) -> None:
    """P-384 in OpenSSH's form; the public half is made anew where it is lost."""
    private, public = identity.fog_key(tmp_path, Files())
    key = serialization.load_ssh_public_key(public.read_bytes())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp384r1"
    assert private.stat().st_mode & 0o077 == 0
    line = public.read_bytes()
    public.unlink()
    assert identity.fog_key(tmp_path, Files())[1].read_bytes() == line
    private.write_bytes(b"not a key")
    with pytest.raises(CorruptState, match="not a private key"):
        identity.fog_key(tmp_path, Files())
