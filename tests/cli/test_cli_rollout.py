"""``evergrove keys`` and ``evergrove rollout``: from the first keys to a release that was taken back."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evergrove.cli.keys import PASSPHRASE

COMMANDS = (
    "keys create", "keys show", "keys rotate", "keys refresh", "rollout start", "rollout status", "rollout pause",
    "rollout resume", "rollout abort", "rollout back", "rollout report", "rollout tick",
)  # fmt: skip


@pytest.fixture
def cloud(tmp_path: Path, evergrove: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cloud with keys beside it and three known devices."""
    monkeypatch.delenv(PASSPHRASE, raising=False)
    said = evergrove("keys", "create", tmp_path / "keys", "--cloud", tmp_path / "cloud", "--no-passphrase", "--json")
    assert said.code == 0, said.err
    assert said.json["thresholds"]["root"] == 2
    (tmp_path / "cloud" / "devices.txt").write_text("a\nb\nc\n")
    return tmp_path / "cloud"


def start(evergrove: Any, cloud: Path, *more: object) -> Any:
    """A release of the package, to everybody in one stage after the shadow."""
    keys = cloud.with_name("keys")
    return evergrove(
        "rollout", "start", cloud, "tiny", "--keys", keys, "--no-passphrase", "--epsilon", 0, "--json", *more
    )


def test_help_has_examples_and_imports_nothing_heavy() -> None:
    """Neither torch nor tuf nor cryptography before something is to be done."""
    probe = (
        "import sys; from evergrove.cli.main import run; codes = [run([*c.split(), '--help']) for c in sys.argv[1:]];"
        "print(codes, [m for m in ('torch', 'numpy', 'tuf', 'securesystemslib', 'cryptography') if m in sys.modules],"
        " file=sys.stderr)"
    )
    words = [sys.executable, "-c", probe, *COMMANDS]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr.strip() == f"{[0] * len(COMMANDS)} []"
    for command in COMMANDS:
        assert f"Example: evergrove {command}" in done.stdout
    assert done.stdout.count("--json") == len(COMMANDS)


def test_the_whole_way(cloud: Path, evergrove: Any) -> None:
    """Shadow, stages, complete; the second is aborted after a pause; back is version 3."""
    began = start(evergrove, cloud)
    assert (began.code, began.json["status"], began.json["version"]) == (0, "running", 1)
    paused = evergrove("rollout", "pause", cloud, "--json").json
    assert paused["status"] == "paused"
    assert evergrove("rollout", "resume", cloud, "--json").json["status"] == "running"
    for _ in range(3):
        for device in ("a", "b", "c"):
            evergrove("rollout", "report", cloud, device, "accepted", "--shadow")
            evergrove("rollout", "report", cloud, device, "confirmed")
    view = evergrove("rollout", "status", cloud, "--json").json
    assert (view["status"], view["good_version"]) == ("complete", 1)
    assert all(stage["progress"] == "passed" for stage in view["stages"])
    second = evergrove(
        "rollout", "start", cloud, "avatars", "--keys", cloud.with_name("keys"), "--no-passphrase", "--epsilon", "inf"
    )
    assert second.code == 0
    assert "note: ε = ∞" in second.err
    assert "Signed avatars (" in second.out
    assert "Everybody else runs version 1" in second.out
    aborted = evergrove("rollout", "abort", cloud, "--yes", "--json").json
    assert aborted["status"] == "aborted"
    words = ("rollout", "back", cloud, "--keys", cloud.with_name("keys"), "--no-passphrase", "--yes")
    went = evergrove(*words)
    assert went.code == 0, went.err
    assert went.out.startswith("Version 3 is tiny (")
    view = evergrove("rollout", "status", cloud, "--json").json
    assert (view["version"], view["release"]) == (3, view["good_release"])
    assert evergrove("rollout", "tick", cloud).code == 0


def test_what_is_refused_exits_with_its_code(cloud: Path, evergrove: Any, tmp_path: Path) -> None:
    """One line with the way out, and nothing has changed."""
    assert "No release has been rolled out yet" in evergrove("rollout", "status", cloud).out
    begin, keys = ("rollout", "start", "--no-passphrase", cloud), cloud.with_name("keys")
    for words, code, hint in (
        (("rollout", "pause", cloud), 2, "no rollout has been started"),
        (("rollout", "status", tmp_path / "none"), 2, "keys create KEYS --cloud"),
        (("rollout", "back", cloud, "--keys", cloud.with_name("keys"), "--no-passphrase"), 2, "--yes"),
        (("rollout", "abort", cloud), 2, "--yes"),
        ((*begin, "tiny", "--keys", tmp_path / "none", "--epsilon", 0), 2, "no folder of keys"),
        ((*begin, "tiny", "--keys", cloud, "--epsilon", 0), 2, "0 at hand"),
        ((*begin, "tinny", "--keys", keys, "--epsilon", 0), 1, "packaged"),
        ((*begin, "tiny", "--keys", keys), 2, "--epsilon"),
        (("rollout", "report", cloud, "a", "happy"), 2, "confirmed"),
        (("keys", "create", tmp_path / "new", "--cloud", cloud, "--no-passphrase"), 2, "has its keys already"),
        (("keys", "create", cloud.with_name("keys"), "--cloud", cloud, "--no-passphrase"), 2, "not empty"),
        (("keys", "create", cloud / "keys" / "x", "--cloud", cloud, "--no-passphrase"), 2, "inside the cloud's folder"),
        (("keys", "create", "k", "--cloud", "c", "--root-keys", 1), 2, "never reach a threshold of 2"),
        (("keys", "create", tmp_path / "k", "--cloud", tmp_path / "c"), 2, PASSPHRASE),
        (("keys", "rotate", "root", cloud.with_name("keys"), "--cloud", cloud), 2, "--yes"),
        (("keys", "show", tmp_path / "none"), 2, "keys create"),
    ):  # fmt: skip
        said = evergrove(*words)
        assert (said.code, said.err.count("\n")) == (code, 1), (words, said.err)
        assert hint in said.err
    assert not (tmp_path / "c").exists()


def test_keys_are_changed_and_shown(cloud: Path, evergrove: Any) -> None:
    """Every role in turn; the old files are gone, and a release can still be signed."""
    keys = cloud.with_name("keys")
    before = evergrove("keys", "show", cloud, "--json").json
    for role in ("targets", "snapshot", "timestamp", "rollout", "root"):
        said = evergrove("keys", "rotate", role, keys, "--cloud", cloud, "--no-passphrase", "--yes", "--json")
        assert said.code == 0, said.err
        assert len(said.json["deleted"]) == len(said.json["keys"])
    after = evergrove("keys", "show", cloud, "--json").json
    assert after["root_version"] == before["root_version"] + 4
    for role, rule in after["roles"].items():
        assert not set(rule["keys"]) & set(before["roles"][role]["keys"])
        assert rule["threshold"] == before["roles"][role]["threshold"]
    assert start(evergrove, cloud).code == 0
    assert re.match(r"Devices believe this repository for another 2[34] h", evergrove("keys", "refresh", cloud).out)
    assert evergrove("keys", "refresh", cloud, "--json").json["expires_s"]["timestamp"] > 0
    assert "2 of 3" in evergrove("keys", "show", cloud).out


def test_offline_keys_are_locked_by_a_passphrase(
    tmp_path: Path, evergrove: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the environment; a wrong one, or none, signs nothing."""
    keys, cloud = tmp_path / "keys", tmp_path / "cloud"
    monkeypatch.setenv(PASSPHRASE, "correct horse")
    assert evergrove("keys", "create", keys, "--cloud", cloud).code == 0
    assert len(list(keys.glob("*.pem"))) == 6
    assert all(b"ENCRYPTED" in path.read_bytes() for path in keys.glob("*.pem"))
    (cloud / "devices.txt").write_text("a\n")
    words = ("rollout", "start", cloud, "tiny", "--keys", keys, "--epsilon", 0)
    monkeypatch.setenv(PASSPHRASE, "battery staple")
    assert "the passphrase is wrong" in evergrove(*words).err
    assert "is encrypted: give its passphrase" in evergrove(*words, "--no-passphrase").err
    monkeypatch.setenv(PASSPHRASE, "correct horse")
    assert evergrove(*words).code == 0
    next(keys.glob("targets-*.pem")).chmod(0o644)
    said = evergrove("rollout", "abort", cloud, "--yes") and evergrove(*words)
    assert (said.code, "it must be yours alone" in said.err) == (1, True)
