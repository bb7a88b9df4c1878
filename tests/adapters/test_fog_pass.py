"""What a cloud knows a fog by: its key, the path that it asks for, and a clock that is about right."""

from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from evergrove.adapters.files import Files
from evergrove.adapters.flower.identity import fog_key
from evergrove.adapters.fog_pass import HEADER, SKEW_S, FogPass, fingerprint, fog_of

NOW_S = 1_800_000_000.0
PATH = "/v1/releases/metadata/timestamp.json"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """The cloud's folder of keys, with that of *north*; the fogs' own folders lie beside it."""
    folder = tmp_path / "fogs"
    folder.mkdir()
    private, public = fog_key(tmp_path / "north", Files())
    assert private.exists()
    (folder / "north.pub").write_bytes(public.read_bytes().strip() + b" north@example\n")
    (folder / "broken.pub").write_text("ssh-nonsense")
    (folder / "empty.pub").write_text("")
    return folder


def test_a_key_of_another_kind_is_nobodys(keys: Path, tmp_path: Path) -> None:
    """Even where it is the one that is named."""
    line = Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    (keys / "other.pub").write_bytes(line)
    _, at, signature = header(tmp_path / "north").split(" ")
    assert fog_of(keys, f"{fingerprint(line)} {at} {signature}", "GET", PATH, NOW_S) is None


def header(folder: Path, path: str = PATH, method: str = "GET", at_s: float = NOW_S) -> str:
    """What the fog in ``folder`` sends."""
    fog_key(folder, Files())
    request = httpx.Request(method, f"https://cloud.example{path}")
    next(FogPass(folder / "supernode.key", lambda: at_s).auth_flow(request))
    return request.headers[HEADER]


def test_a_fog_whose_key_was_given_is_known(keys: Path, tmp_path: Path) -> None:
    """By name, within the clocks' difference that is allowed; a comment behind the key makes no difference."""
    words = header(tmp_path / "north")
    for now_s in (NOW_S, NOW_S + SKEW_S - 1, NOW_S - SKEW_S + 1):
        assert fog_of(keys, words, "GET", PATH, now_s) == "north"
    for now_s in (NOW_S + SKEW_S + 1, NOW_S - SKEW_S - 1):
        assert fog_of(keys, words, "GET", PATH, now_s) is None


def test_everybody_else_is_nobody(keys: Path, tmp_path: Path) -> None:
    """Another key, another path or method, a key that was taken back, another fog's name, and nonsense."""
    words = header(tmp_path / "north")
    stranger = header(tmp_path / "stranger")
    name, at, signature = words.split(" ")
    assert fog_of(keys, stranger, "GET", PATH, NOW_S) is None
    assert fog_of(keys, words, "GET", PATH + "x", NOW_S) is None
    assert fog_of(keys, words, "HEAD", PATH, NOW_S) is None
    for odd in (
        "", " ", "  ", words[:-1], words + "A", f"{name} {int(at) + 1} {signature}", f"{name} ٣ {signature}",
        f"{name} {at} {stranger.split(' ')[2]}", f"{stranger.split(' ')[0]} {at} {signature}", "é" * 999,
        f"{name} {'9' * 400} {signature}", f"{name} {at} {'A' * 400}", f"{name} -1 {signature}",
    ):  # fmt: skip
        assert fog_of(keys, odd, "GET", PATH, NOW_S) is None, odd
    (keys / "north.pub").unlink()
    assert fog_of(keys, words, "GET", PATH, NOW_S) is None
