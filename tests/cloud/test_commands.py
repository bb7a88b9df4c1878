"""A person at the cloud: status, signing, giving up, holding and revoking devices; one line for what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fleets import DEVICES, NOW_S, SETTINGS, Fleet, Here, cohort, hand_up, strange

from evergrove.adapters.authority import Authority
from evergrove.adapters.certificates import new_key, request_pem
from evergrove.adapters.flower.inbox import Inbox
from evergrove.cli.main import run
from evergrove.cli.up_all import programs
from evergrove.core import grove
from evergrove.core.errors import ConfigError, UsageError
from evergrove.core.rollout import DeviceReport, offer
from evergrove.media.packs import read_pack
from evergrove.runtime.cloud import CloudDriver
from evergrove.runtime.rollouts import opened

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Say:
    """One command line: its code, stdout and stderr. The clock stands still."""
    for place in ("keys", "rollout", "fleet_devices"):
        monkeypatch.setattr(f"evergrove.cli.{place}.now_s", lambda: NOW_S + 60)
    monkeypatch.setattr("evergrove.cli.status.time.time", lambda: NOW_S + 60)

    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run([str(word) for word in words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def json(said: tuple[int, str, str]) -> Any:
    """Its one document."""
    assert said[0] == 0, said[2]
    return msgspec.json.decode(said[1])


def gathered(cloud: Path, fleet: Fleet) -> None:
    """A candidate waits."""
    hand_up(cloud, cohort(fleet, list(fleet.learnt), 0), cohort(fleet, list(fleet.learnt), 1))
    with CloudDriver(cloud, lambda: NOW_S + 10, workers=Here()) as driver:
        for _ in range(5):
            driver.tick()


def test_status_shows_what_was_counted_what_waits_and_what_each_release_spent(
    cloud: Path, fleet: Fleet, say: Say
) -> None:
    """Before and after a candidate is there."""
    before = json(say("status", cloud, "--json"))
    assert (before["counted"], before["candidate"], before["devices"]) == (0, None, 3)
    assert [(one["version"], one["epsilon"], one["serves"]) for one in before["lineage"]] == [(1, 0.0, True)]
    gathered(cloud, fleet)
    code, out, err = say("status", cloud)
    assert code == 0
    for words in (
        "2 counted: 0 wait, 0 spent",
        "cloud-00001 waits for the offline keys; 2 cohorts in it, ε ∞",
        "3 known",
    ):
        assert words in out
    assert "rollout sign CLOUD --keys KEYS" in err
    assert json(say("status", cloud, "--json"))["waits_for_signature"] == "cloud-00001"


def test_a_person_signs_by_the_offline_keys(cloud: Path, fleet: Fleet, say: Say) -> None:
    """Missing and foreign keys first: one line, nothing published. Then ε = ∞ is said, and the stages begin."""
    keys = cloud.with_name("offline")
    assert say("rollout", "sign", cloud, "--keys", keys, "--no-passphrase")[:2] == (2, "")
    gathered(cloud, fleet)
    for folder, hint in ((cloud / "none", "no folder of keys"), (cloud / "keys", "0 at hand")):
        code, _, err = say("rollout", "sign", cloud, "--keys", folder, "--no-passphrase")
        assert (code, err.count("\n"), hint in err) == (2, 1, True), err
    code, out, err = say("rollout", "sign", cloud, "--keys", keys, "--no-passphrase")
    assert code == 0, err
    assert "as version 2" in out
    assert "ε = ∞" in err
    assert json(say("rollout", "status", cloud, "--json"))["status"] == "running"
    spent = json(say("status", cloud, "--json"))["lineage"]
    assert [(one["version"], one["epsilon"]) for one in spent] == [(1, 0.0), (2, None)]


def test_a_person_gives_a_candidate_up(cloud: Path, fleet: Fleet, say: Say) -> None:
    """With a reason; without a candidate it is refused."""
    words = ("rollout", "refuse", cloud, "--reason", "it looks wrong", "--yes")
    assert "nothing waits" in say(*words)[2]
    gathered(cloud, fleet)
    assert "Given up: cloud-00001." in say(*words)[1]
    assert json(say("status", cloud, "--json"))["spent"] == 2


def test_the_next_generations_clip_is_shown_and_taken(cloud: Path, fleet: Fleet, say: Say) -> None:
    """Nothing counted: as it is. Six norms: what status proposes is what `merge` asks for, unless a person says other;
    nonsense is refused, and so is going on without a yes.
    """
    assert "8 now, 8 proposed for the next generation: no norms were counted yet" in say("status", cloud)[1]
    gathered(cloud, fleet)
    seen = json(say("status", cloud, "--json"))["clip"]
    assert (seen["now"], seen["counted"], seen["target"], seen["noise_std"]) == (8.0, 6, 0.5, 0.0)
    assert 0.5 <= seen["clip"] <= 16.0
    for value in (0, -1, "inf", "nan"):
        code, _, err = say("rollout", "merge", cloud, f"--clip={value}", "--yes")
        assert (code, "--clip" in err) == (2, True)
    assert say("rollout", "merge", cloud)[0] == 2, "nobody is there to say yes"
    with opened(cloud) as rollouts:
        assert not rollouts.cloud.merge
    for words, chosen in (((), seen["clip"]), (("--clip", 3.25), 3.25)):
        code, out, err = say("rollout", "merge", cloud, *words, "--yes")
        assert code == 0, err
        assert f"The next generation clips updates to {chosen:g}, this one to 8: " in out
        with opened(cloud) as rollouts:
            assert (rollouts.cloud.merge, rollouts.cloud.merge_clip) == (True, chosen)


def test_held_back_pictures_are_taken_from_a_folder(cloud: Path, fleet: Fleet, say: Say, tmp_path: Path) -> None:
    """In the release's size and numbers; a condition that it has no row for is refused, and nothing changes."""
    from PIL import Image

    folder = tmp_path / "held-back"
    folder.mkdir()
    shown = strange(fleet.release, 6, 5)
    for n, image in enumerate(shown.images):
        Image.fromarray(image).save(folder / f"{n}.png")
    before = (cloud / "fleet-golden.npz").read_bytes()
    for value, code in (("unheard", 1), ("strange", 0)):
        rows = [f"{n}.png,{value},short" for n in range(6)]
        (folder / "metadata.csv").write_text("\n".join(["file_name,emotion,hair", *rows]) + "\n")
        assert say("rollout", "golden", cloud, folder)[0] == code
        assert ((cloud / "fleet-golden.npz").read_bytes() == before) == bool(code)
    pack = read_pack(cloud / "fleet-golden.npz")
    assert (len(pack), {tuple(code) for code in pack.codes}) == (6, {(5, 1, 0, 0, 0)})
    assert (pack.images == shown.images).all()
    gathered(cloud, fleet)
    assert "is under way" in say("rollout", "golden", cloud, folder)[2]


def test_settings_with_a_fault_are_refused_with_the_way_out(cloud: Path, say: Say) -> None:
    """A key that is none, a value out of its range, a rule that nobody knows: exit code 3."""
    for text, hint in (
        ("[gater]", "did you mean 'gather'"),
        ("[gather]\ncohrt = 3", "did you mean 'cohort'"),
        ("[gate]\ndelta = -1.0", "gate.delta = -1.0"),
        ("[consolidate]\noptimiser = 'sgd'", "fedavg, fedavgm, fedadam"),
        ("[consolidate]\ncohorts = 2\ncohorts_min = 3", "cohorts_min = 3"),
        ("no toml", "not valid TOML"),
    ):
        (cloud / "cloud.toml").write_text(text)
        code, _, err = say("status", cloud)
        assert (code, hint in err) == (3, True), err
    assert say("up", "cloud", cloud)[0] == 3
    assert "keys create KEYS --cloud" in say("up", "cloud", cloud / "nowhere")[2]


def test_devices_are_listed_held_and_let_go(cloud: Path, say: Say) -> None:
    """The directive names a held device by a hash; it takes nothing above its version, and no stage waits for it."""
    place = cloud / "flower" / "collected"
    place.mkdir(parents=True)
    inbox = Inbox(place / "inbox.db")
    word = DeviceReport(1, "garden", "r1", "confirmed")
    inbox.hear("7", [word])
    inbox.reported([("7", word)])
    inbox.close()
    assert json(say("device", "pin", cloud, "garden", 1, "--json")) == {"device": "garden", "held_at": 1}
    listed = {one["device"]: one for one in json(say("device", "list", cloud, "--json"))["devices"]}
    assert set(listed) == {"garden", *DEVICES}
    assert (listed["garden"]["mark"], listed["garden"]["held_at"]) == ("confirmed", 1)
    assert "held at version 1" in say("device", "list", cloud)[1]
    with opened(cloud) as rollouts:
        told = rollouts.repository.directive()
        assert told is not None
        assert "garden" not in msgspec.json.encode(told).decode()
        assert (offer(told, "garden", 0) is None, offer(told, "garden", 1)) == (False, None)
        later = msgspec.structs.replace(told, version=2, before_version=1)
        assert offer(later, "garden", 1) is None
        assert offer(later, "a", 1) is not None
        fact = rollouts.planned("f" * 64, 2, ["garden", "a"])
        assert [stage.members for stage in fact.stages] == [1]
    assert say("device", "pin", cloud, "garden", "--release")[0] == 0
    with opened(cloud) as rollouts:
        told = rollouts.repository.directive()
        assert told is not None
        assert told.held == {}
    assert say("device", "pin", cloud, "nobody", 1)[0] == 2
    assert say("device", "pin", cloud, "garden")[0] == 2


def test_a_revoked_device_is_on_the_list_that_its_fog_reads(tmp_path: Path, say: Say) -> None:
    """Enrolled, listed, revoked: its certificate stands on the authority's list; where nobody enrols, it is said."""
    fog = tmp_path / "fog"
    authority = Authority.create(fog / "authority", "north", NOW_S)
    authority.enrol(authority.issue_token(NOW_S, "kitchen"), request_pem(new_key()), NOW_S)
    assert json(say("device", "list", fog, "--json"))["devices"] == [
        {"device": "kitchen", "enrolled": True, "revoked": False}
    ]
    before = authority.list_path.read_bytes()
    assert json(say("device", "revoke", fog, "kitchen", "--yes", "--json"))["revoked"]
    assert authority.list_path.read_bytes() != before
    assert "revoked" in say("device", "list", fog)[1]
    assert say("device", "revoke", fog, "nobody", "--yes")[0] == 2
    assert "enrols no devices" in say("device", "revoke", tmp_path, "kitchen", "--yes")[2]
    assert say("device", "list", tmp_path)[0] == 2


def test_a_grove_of_one_machine_is_a_list_of_the_same_commands(cloud: Path, tmp_path: Path) -> None:
    """Cloud, then fogs with their keys given to it; ports and names only once; a cloud without keys is refused."""
    home = cloud.parent
    text = "[cloud]\nport = 1\n[[fog]]\nfolder = 'n'\nname = 'north'\nport = 2\nreleases = ['tiny']\n"
    text += "settings = ['cohort=3']\n"
    found = programs(grove.load(text, "grove.toml"), home)
    assert [one.name for one in found] == ["cloud", "fog-north"]
    words = " ".join(found[1].command)
    for part in (
        f"up fog {home / 'n'}",
        "--name north --release tiny --no-noise --set cohort=3",
        "--cloud 127.0.0.1:1",
    ):
        assert part in words
    assert (cloud / "flower" / "fogs" / "north.pub").read_bytes().startswith(b"ecdsa-sha2-nistp384")
    for bad, hint in (("[[fog]]\nfolder = 'n'\nname = 'n'\nport = 8473\n", "a port twice: 8473"), ("[clud]", "cloud")):
        with pytest.raises(ConfigError, match=hint):
            grove.load(bad, "grove.toml")
    with pytest.raises(UsageError, match="has no keys yet"):
        programs(grove.load("", "grove.toml"), tmp_path / "nowhere")


def test_settings_of_the_tests_are_read(cloud: Path) -> None:
    """As a person writes them."""
    with opened(cloud) as rollouts:
        assert rollouts.policy.cohorts == 2
        assert f"cohort = {rollouts.settings.gather.cohort}" in SETTINGS
