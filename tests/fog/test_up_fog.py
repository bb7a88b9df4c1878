"""``evergrove up fog`` as a process: invited, enrolled, counted; told to stop; started again where it was."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evergrove import bootstrap_fog
from evergrove.adapters.fog_client import connect, enrol
from evergrove.adapters.fog_store import FogStore
from evergrove.adapters.outbox import Outbox
from evergrove.adapters.release import open_release
from evergrove.core import fog, transport
from evergrove.core.errors import ConfigError, UsageError
from evergrove.core.release import sha256_hex
from evergrove.core.sections import Gathering
from evergrove.rules import params, tokens


@contextmanager
def up(folder: Path, *words: str, killed: bool = False) -> Iterator[dict[str, Any]]:
    """The command's own facts while it runs; it must end with 0, or is killed."""
    command = [sys.executable, "-m", "evergrove.cli.main", "up", "fog", str(folder), "--port", "0", "--json", *words]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    lines = [process.stdout.readline()]
    while lines[-1] not in ("}\n", ""):
        lines.append(process.stdout.readline())
    try:
        assert lines[-1], process.communicate(timeout=10)[1]
        yield json.loads("".join(lines))
    finally:
        process.send_signal(signal.SIGKILL if killed else signal.SIGTERM)
        _, said = process.communicate(timeout=20)
    assert process.returncode == (-9 if killed else 0), said
    assert "ε = ∞" in said


def test_a_fog_lives_through_its_command(tmp_path: Path) -> None:
    """Two lives: the second knows the device, and what it sent."""
    release = open_release("tiny")
    manifest = release.manifest
    layout = params.layout_of(manifest, release.read(manifest.base), release.read(manifest.basis))
    words = ("--release", "tiny", "--set", "cohort=2", "--set", "cohort_min=1", "--set", "clip=0.5")
    box = Outbox(tmp_path / "outbox", "kitchen")
    with up(tmp_path / "fog", *words, "--invite", "kitchen") as facts:
        assert "ε = ∞" in facts["protection"]
        token, ca = facts["invitations"]["kitchen"], Path(facts["ca"]).read_bytes()
        assert enrol(facts["listening"], ca, token, tmp_path / "device") == "kitchen"
        client = connect(facts["listening"], tmp_path / "device")
        terms = client.terms()
        assert (terms.plan.cohort, terms.plan.clip, terms.plan.layout) == (2, 0.5, layout.digest)
        box.put(np.ones(layout.n_numbers, np.float32), layout, release.manifest_hash, terms, bytes(16))
        (fate,) = box.deliver(client, time.time(), 0.5)
        assert fate.outcome == "counted"
        client.close()
    with up(tmp_path / "fog", *words) as facts:
        client = connect(facts["listening"], tmp_path / "device")
        assert client.terms().cohort == 0
        assert "evergrove_fog_cohort_updates 1" in client.metrics()
        client.close()


def test_kill_9_of_the_fog_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Six devices, three lives of the fog: who heard nothing, or too little, sends again; each is counted once."""
    release = open_release("tiny")
    manifest = release.manifest
    layout = params.layout_of(manifest, release.read(manifest.base), release.read(manifest.basis))
    settings = ("cohort=6", "cohort_min=6", "clip=1000", "norm_max=1000")
    words = ["--release", "tiny", *(word for setting in settings for word in ("--set", setting))]
    names = [f"d{i}" for i in range(6)]
    frames = {}
    for i, name in enumerate(names):
        body = params.encode(np.full(layout.n_numbers, i + 1.0), layout)
        token = tokens.token_of(name, layout.generation, bytes(16))
        update = transport.Update(
            release.manifest_hash, layout.base, layout.basis, layout.generation, token, sha256_hex(body), len(body)
        )
        frames[name] = transport.frame(update, body)
    repeated = []
    for life, senders in enumerate((names[:4], names[2:5], names)):
        invites = [word for name in names for word in ("--invite", name)] if life == 0 else []
        with up(tmp_path / "fog", *words, *invites, killed=life < 2) as facts:
            for name, token in facts["invitations"].items():
                enrol(facts["listening"], Path(facts["ca"]).read_bytes(), token, tmp_path / name)
            for name in senders:
                client = connect(facts["listening"], tmp_path / name, timeout_s=10.0)
                repeated.append(client.submit(frames[name]).repeated)
                client.close()
            until_s = time.monotonic() + 20  # the last one waits for the sum
            while life == 2 and list((tmp_path / "fog" / "fog" / "bodies").iterdir()) and time.monotonic() < until_s:
                time.sleep(0.05)
    assert repeated == [False] * 4 + [True, True, False] + [True] * 5 + [False]
    store = FogStore(tmp_path / "fog" / "fog")
    counted = [event.device for _, _, event in store.events() if isinstance(event, fog.UpdateCounted)]
    assert sorted(counted) == names
    (ready,) = store.ready()
    assert np.array_equal(params.decode(store.read_sum(ready.cohort), layout), np.full(layout.n_numbers, 21.0))
    store.close()


def test_settings_are_checked() -> None:
    """The nearest key, the range, the form."""
    assert bootstrap_fog.gathering_of(["cohort=20", "clip=0.5"]) == Gathering(cohort=20, clip=0.5)
    for word, match in (("cohorts=2", "did you mean 'cohort'"), ("cohort=0", "greater than 0"), ("clip=x", "--set")):
        with pytest.raises(ConfigError, match=match):
            bootstrap_fog.gathering_of([word])


def test_a_fog_of_another_authority_invites_nobody(tmp_path: Path) -> None:
    """It holds what the cloud gave it, and makes nothing of its own."""
    place = bootstrap_fog.FogPlace(tmp_path / "a", "north", ("127.0.0.1",))
    own = bootstrap_fog.open_fog(place, ["tiny"], Gathering())
    authority = own.authority
    assert authority is not None
    key, certificate = authority.server(["127.0.0.1"], time.time())
    given = tmp_path / "b"
    given.mkdir()
    for name, data in (("ca.pem", authority.ca_pem), ("server.pem", certificate), ("server.key", key),
                       ("crl.pem", authority.list_path.read_bytes())):  # fmt: skip
        (given / name).write_bytes(data)
    made = bootstrap_fog.open_fog(bootstrap_fog.FogPlace(given, "south", ("127.0.0.1",)), [], Gathering())
    with pytest.raises(UsageError, match="ask the cloud"):
        made.invite("kitchen")
    assert made.service.terms() is None
    assert not (given / "authority").exists()
    with pytest.raises(UsageError, match="need a --release"):
        bootstrap_fog.open_fog(bootstrap_fog.FogPlace(given, "south", ("x",), assist=True), [], Gathering())
    for one in (own, made):
        one.service.store.close()
