"""``evergrove up all`` with real processes: cloud, fog and device from one file; nothing is left when it is stopped."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr", reason="Flower is not installed: pip install 'flwr==1.41.0'")

from evergrove.adapters.fog_client import connect, enrol
from evergrove.adapters.release import open_release
from evergrove.core.errors import UpdateRefused
from evergrove.runtime.supervisor import answers, free_port

pytestmark = pytest.mark.grove
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "NO_COLOR": "1"}
WAIT_S = 120.0


def evergrove(*words: object) -> None:
    """One command, as a person types it."""
    command = [sys.executable, "-m", "evergrove.cli.main", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def below(folder: Path) -> dict[int, str]:
    """The processes that name something in this folder."""
    found = {}
    for place in Path("/proc").iterdir():
        try:
            words = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode() if place.name.isdigit() else ""
        except OSError:
            continue
        if str(folder) in words:
            found[int(place.name)] = words
    return found


def planted(home: Path) -> dict[str, int]:
    """Keys, the first release, a device and ``grove.toml``; the fog is told of no release. The ports."""
    ports = {name: free_port() for name in ("cloud", "fog", "device")}
    evergrove("keys", "create", home / "offline", "--cloud", home / "cloud", "--no-passphrase")
    evergrove("rollout", "start", home / "cloud", "tiny", "--keys", home / "offline", "--epsilon", "0", "--at-once",
              "--no-passphrase")  # fmt: skip
    evergrove("init", home / "kitchen", "--release", "tiny", "--set", "learn.auto=false")
    (home / "grove.toml").write_text(
        f"""
        [cloud]
        port = {ports["cloud"]}
        [[fog]]
        folder = "north"
        name = "north"
        port = {ports["fog"]}
        settings = ["cohort=2", "cohort_min=1"]
        [[device]]
        folder = "kitchen"
        port = {ports["device"]}
        """
    )
    return ports


def test_a_grove_from_one_file_starts_serves_and_ends(tmp_path: Path) -> None:
    """All answer; the fog gathers for the release that it fetched from the cloud's; SIGTERM ends all of it."""
    ports = planted(tmp_path)
    command = [sys.executable, "-m", "evergrove.cli.main", "up", "all", str(tmp_path), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    try:
        facts = announced(process, tmp_path)
        assert facts["fogs"] == {"north": f"https://127.0.0.1:{ports['fog']}"}
        assert all(answers("127.0.0.1", port) for port in ports.values())
        assert terms_of(tmp_path, facts["fogs"]["north"]) == (open_release("tiny").manifest_hash,)
        registered = tmp_path / "cloud" / "flower" / "fogs" / "north.registered"
        until_s = time.monotonic() + WAIT_S
        while not registered.exists():
            assert time.monotonic() < until_s, said(tmp_path)
            time.sleep(0.1)
        assert len(below(tmp_path)) > 6
    finally:
        process.send_signal(signal.SIGTERM)
        _, words = process.communicate(timeout=60)
    assert process.returncode == 0, words
    assert below(tmp_path) == {}
    assert not any(answers("127.0.0.1", port) for port in ports.values())


def announced(process: "subprocess.Popen[str]", home: Path) -> Any:
    """What the command says once all of it answers."""
    assert process.stdout is not None
    lines = [process.stdout.readline()]
    while lines[-1] not in ("}\n", ""):
        lines.append(process.stdout.readline())
    assert lines[-1], said(home)
    return json.loads("".join(lines))


def terms_of(home: Path, url: str) -> tuple[str, ...]:
    """The releases that the fog gathers for, as a device is told them; once it has fetched them from the cloud."""
    from evergrove.adapters.authority import Authority

    authority = Authority(home / "north" / "authority")
    token = authority.issue_token(time.time(), "hall")
    enrol(url, (home / "north" / "authority" / "ca.pem").read_bytes(), token, home / "hall")
    client, until_s = connect(url, home / "hall"), time.monotonic() + WAIT_S
    try:
        while time.monotonic() < until_s:
            with contextlib.suppress(UpdateRefused):
                return client.terms().plan.releases
            time.sleep(0.1)
        raise AssertionError(said(home))
    finally:
        client.close()


def said(home: Path) -> str:
    """The ends of all logs."""
    return "\n".join(f"== {log}\n{log.read_text()[-1500:]}" for log in sorted(home.rglob("*.log")))
