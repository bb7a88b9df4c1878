"""``evergrove up fog`` as a process: invited, enrolled, counted; told to stop; started again where it was."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evergrove import bootstrap_fog
from evergrove.adapters.files import Files
from evergrove.adapters.fog_client import connect, enrol
from evergrove.adapters.fog_store import FogStore
from evergrove.adapters.outbox import Outbox
from evergrove.adapters.release import open_release
from evergrove.core import fog, transport
from evergrove.core.errors import ConfigError, CorruptState, UsageError
from evergrove.core.release import sha256_hex
from evergrove.core.sections import Gathering
from evergrove.rules import params, tokens


@contextmanager
def up(folder: Path, *words: str, killed: bool = False) -> Iterator[dict[str, Any]]:
    """The command's own facts while it runs; it must end with 0, or is killed."""
    if "--epsilon" not in words:
        words = (*words, "--no-noise")
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
    assert ("ε = ∞" in said) == ("--no-noise" in words)


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


def test_a_private_fog_by_its_command(tmp_path: Path) -> None:
    """One cohort under ε = 1: noised, charged, said to devices; other settings are refused, a spent budget ends with 6.

    The lifetime's ε here bears the first round of a generation of one, and no other generation after it.
    """
    release = open_release("tiny")
    manifest = release.manifest
    layout = params.layout_of(manifest, release.read(manifest.base), release.read(manifest.basis))
    settings = ("cohort=1", "cohort_min=1", "rounds=1", "participations=1")
    words = ["--release", "tiny", *(word for setting in settings for word in ("--set", setting))]
    private = ("--epsilon", "1", "--lifetime-epsilon", "1")
    with up(tmp_path / "fog", *words, *private, "--invite", "kitchen") as facts:
        assert facts["protection"].startswith("ε = 1 at most in a generation")
        token, ca = facts["invitations"]["kitchen"], Path(facts["ca"]).read_bytes()
        enrol(facts["listening"], ca, token, tmp_path / "device")
        client = connect(facts["listening"], tmp_path / "device")
        terms = client.terms()
        assert (terms.epsilon, terms.budget_spent) == (1.0, False)
        box = Outbox(tmp_path / "outbox", "kitchen")
        box.put(np.ones(layout.n_numbers, np.float32), layout, release.manifest_hash, terms, bytes(16))
        (fate,) = box.deliver(client, time.time(), 0.5)
        assert fate.outcome == "counted"
        until_s = time.monotonic() + 20
        while not list((tmp_path / "fog" / "fog" / "sums").iterdir()) and time.monotonic() < until_s:
            time.sleep(0.05)
        client.close()
    assert (tmp_path / "fog" / "noise.key").stat().st_mode & 0o777 == 0o600
    store = FogStore(tmp_path / "fog" / "fog")
    (entry,) = store.history()
    assert entry.epsilon == pytest.approx(1.0, abs=1e-4)
    assert entry.epsilon <= 1.0
    (ready,) = store.ready()
    numbers = params.decode(store.read_sum(ready.cohort), layout)
    assert np.std(numbers) == pytest.approx(4.2247, rel=0.1), "noise of z = 4.22 clips on an update of one clip"
    store.close()
    assert refused(tmp_path / "fog", *words, "--epsilon", "2") == (2, "within a generation")
    assert refused(tmp_path / "fog", *words, "--no-noise") == (2, "within a generation")
    assert refused(tmp_path / "fog", *words) == (2, "say --epsilon 1")
    assert refused(tmp_path / "fog", *words, *private, "--no-noise") == (2, "say --epsilon 1")
    following = next_generation(tmp_path)
    assert refused(tmp_path / "fog", "--release", str(following), *words[2:], *private) == (
        6,
        "the lifetime of a device",
    )


def refused(folder: Path, *words: str) -> tuple[int, str]:
    """How the command ended, and which of the words that are waited for it said."""
    command = [sys.executable, "-m", "evergrove.cli.main", "up", "fog", str(folder), "--port", "0", *words]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    said = " ".join(done.stderr.split())
    known = ("within a generation", "say --epsilon 1", "the lifetime of a device")
    return done.returncode, next((word for word in known if word in said), said)


def next_generation(folder: Path) -> Path:
    """The tiny release once more, as generation 1 of the same base."""
    source = open_release("tiny").folder
    made = Path(shutil.copytree(source, folder / "next"))
    text = json.loads((made / "manifest.json").read_text())
    text["generation"] += 1
    (made / "manifest.json").write_text(json.dumps(text))
    return made


def test_two_workers_that_start_together_have_one_key(tmp_path: Path) -> None:
    """Whoever is first; and a key that others can read is none."""
    path, found = tmp_path / "noise.key", set()
    start = threading.Barrier(8)

    def take() -> None:
        start.wait()
        found.add(bootstrap_fog._key(path, Files()))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 1
    assert [one.name for one in tmp_path.iterdir()] == ["noise.key"]
    path.chmod(0o640)
    with pytest.raises(CorruptState, match="mode 600"):
        bootstrap_fog._key(path, Files())


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
    with pytest.raises(UsageError, match="invite the device there"):
        made.invite("kitchen")
    assert made.service.terms() is None
    assert not (given / "authority").exists()
    with pytest.raises(UsageError, match="need a --release"):
        bootstrap_fog.open_fog(bootstrap_fog.FogPlace(given, "south", ("x",), assist=True), [], Gathering())
    for one in (own, made):
        one.service.store.close()
