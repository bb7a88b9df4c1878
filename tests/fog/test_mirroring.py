"""A fog whose cloud is on another machine: the real door over TLS, a mirror that devices could read, and its faults."""

import datetime
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from published import Cloud

from evergrove.adapters.files import Files
from evergrove.adapters.flower import identity
from evergrove.adapters.tuf_client import ReleaseClient, from_folder
from evergrove.adapters.tuf_mirror import ReleaseMirror
from evergrove.core.errors import InvalidArtefact, UsageError
from evergrove.runtime import flower, mirroring
from evergrove.runtime.supervisor import answers, free_port

FILES = Files()


@contextmanager
def door(cloud: Cloud, home: Path, port: int) -> Iterator[None]:
    """The cloud's door as ``up cloud`` runs it; the SuperLink behind it is never asked."""
    tls = identity.server_files(home / "tls", ("127.0.0.1",), datetime.datetime.now(datetime.UTC), FILES)
    (home / "fogs").mkdir(exist_ok=True)
    command = [
        sys.executable, "-m", "evergrove.web.fleet_door", "--listen", "127.0.0.1", "--port", str(port),
        "--superlink-port", "9", "--certificate", str(tls.certificate), "--key", str(tls.key),
        "--authority", str(tls.authority), "--releases", str(cloud.folder), "--fogs", str(home / "fogs"),
    ]  # fmt: skip
    process = subprocess.Popen(command)
    try:
        until_s = time.monotonic() + 60
        while not answers("127.0.0.1", port):
            assert process.poll() is None
            assert time.monotonic() < until_s
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(20)


def test_a_mirror_of_a_cloud_elsewhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused until the cloud has the fog's key, then whole; away and back again; each fault is said once."""
    monkeypatch.setattr(mirroring, "EVERY_S", 0.0)
    caplog.set_level(logging.WARNING, "evergrove.fog")
    cloud, home, port = Cloud(tmp_path), tmp_path / "cloud", free_port()
    home.mkdir()
    first = cloud.publish(1)
    cloud.direct(1, first)
    root = cloud.folder / "metadata" / "1.root.json"
    fog = flower.Fog(tmp_path / "fog", "north", f"127.0.0.1:{port}", home / "tls" / "authority.crt", "")
    with door(cloud, home, port):
        mirror = mirroring.mirror_of(tmp_path / "mirror", fog, root, FILES)

        def said(act: Callable[[], object] = mirror.look) -> list[str]:
            caplog.clear()
            act()
            return [record.getMessage() for record in caplog.records]

        (line,) = said()
        assert "not mirrored now" in line
        assert "the cloud does not know this fog: give it the fog's public key" in line
        assert said() == []
        assert not (mirror.repository / "metadata" / "timestamp.json").exists()
        (home / "fogs" / "north.pub").write_bytes(flower.public_key(fog.folder, FILES).read_bytes())
        assert "is here now" in said()[0]
        assert said() == []
        device = ReleaseClient(tmp_path / "device", from_folder(mirror.repository), root.read_bytes())
        assert device.fetch(1).publication.release == first
    second = cloud.publish(2)
    assert "could not be fetched" in said()[0]
    assert said() == []
    assert device.fetch(1).publication.release == first
    with door(cloud, home, port):
        assert "is here now" in said()[0]
        assert device.fetch(2).publication.release == second
    mirror.close()


def test_it_looks_now_and_then_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is called; ten seconds later once more."""
    looks, now = [], [0.0]
    cloud = Cloud(tmp_path)
    client = ReleaseMirror(tmp_path / "mirror", from_folder(cloud.folder), cloud.repository.root())
    monkeypatch.setattr(client, "mirror", lambda place: looks.append(place))
    monkeypatch.setattr(mirroring, "elapsed_s", lambda: now[0])
    mirror = mirroring.Mirror(client, "the cloud")
    for at in (0.0, 1.0, 9.9, 10.0, 15.0, 20.1):
        now[0] = at
        mirror.look()
    assert len(looks) == 3


def test_a_root_that_is_none_is_refused_at_once(tmp_path: Path) -> None:
    """Missing, or something else."""
    with pytest.raises(UsageError, match=r"there is no '.*nowhere\.json'"):
        mirroring.given_root(tmp_path / "nowhere.json")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(InvalidArtefact, match="no signed root"):
        mirroring.given_root(tmp_path / "other.json")


def test_another_root_than_before_is_said_at_the_start(tmp_path: Path) -> None:
    """So that no two clouds' roots are ever mixed; and an address or a certificate that is none."""
    cloud, other = Cloud(tmp_path / "one"), Cloud(tmp_path / "two")
    tls = identity.server_files(tmp_path / "tls", ("127.0.0.1",), datetime.datetime.now(datetime.UTC), FILES)
    fog = flower.Fog(tmp_path / "fog", "north", "127.0.0.1:9", tls.authority, "")
    roots = [one.folder / "metadata" / "1.root.json" for one in (cloud, other)]
    for _ in range(2):
        mirroring.mirror_of(tmp_path / "mirror", fog, roots[0], FILES).close()
    with pytest.raises(UsageError, match="believes another root"):
        mirroring.mirror_of(tmp_path / "mirror", fog, roots[1], FILES)
    with pytest.raises(UsageError, match=r"--cloud host:port: .* it is HOST:PORT"):
        mirroring.mirror_of(tmp_path / "mirror", replace(fog, superlink="host:port"), roots[0], FILES)
    with pytest.raises(UsageError, match="is no certificate"):
        mirroring.mirror_of(tmp_path / "mirror", replace(fog, authority=roots[0]), roots[0], FILES)
