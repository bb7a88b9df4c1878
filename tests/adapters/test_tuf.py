"""Releases over TUF: what is signed arrives; the five attacks, and others, are refused by the real client."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import msgspec
import pytest
from groves import COUNTS, HOUR_S, NOW_S, Grove, grow

from evergrove.adapters import tuf_client
from evergrove.adapters.release import open_release
from evergrove.adapters.release_write import grow as widen
from evergrove.adapters.tuf_client import ReleaseClient, from_http
from evergrove.adapters.tuf_keys import new_signers
from evergrove.adapters.tuf_metadata import Metadata, TargetFile, Targets, publication_of
from evergrove.adapters.tuf_repository import Repository
from evergrove.core.errors import CorruptState, InvalidArtefact, Unreachable, UsageError
from evergrove.core.release import FileRef, Publication, sha256_hex
from evergrove.core.rollout import FULL, Directive, offer


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Grove:
    """Made once; every test gets a copy."""
    return grow(tmp_path_factory.mktemp("grove") / "made")


@pytest.fixture
def grove(made: Grove, tmp_path: Path) -> Grove:
    """A grove with release 1."""
    twin = made.twin(tmp_path / "grove")
    twin.shelf = tmp_path / "shelf"
    return twin


# ---- what is signed arrives ------------------------------------------------------------------------------------------


def test_a_release_arrives_whole(grove: Grove) -> None:
    """Verified, in a folder of its own by the release's hash, with what is signed about it."""
    device = grove.device("device")
    told = device.look()
    assert told is not None
    got = device.fetch(told.version)
    assert got.release.folder == device.folder / "releases" / told.release
    assert (got.release.folder / "README.md").read_text() == "# Release 1\n"
    assert got.release.read(got.release.manifest.base) == b"base" * 100
    manifest = got.release.manifest
    assert got.publication == Publication(
        1, told.release, "tiny", 1, 4, manifest.base.sha256, manifest.basis.sha256, manifest.golden.sha256,
        0.994, 1e-6, None, got.publication.card,
    )  # fmt: skip
    assert grove.repository().publications() == (got.publication,)
    assert grove.repository().directive() == told


def test_files_that_are_shared_lie_and_travel_once(grove: Grove, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second release differs in its manifest and card alone: nothing else is stored or fetched again."""
    device, stored = grove.device("device"), grove.home / "repository" / "targets" / "files"
    device.fetch(1)
    before = {p.name for p in stored.iterdir()}
    grove.publish(2)
    assert len({p.name for p in stored.iterdir()} - before) == 1
    asked: list[str] = []
    fetch = tuf_client.FolderFetcher._fetch

    def listening(self: tuf_client.FolderFetcher, url: str) -> Iterator[bytes]:
        asked.append(url.removeprefix("folder:/"))
        return fetch(self, url)

    monkeypatch.setattr(tuf_client.FolderFetcher, "_fetch", listening)
    got = device.fetch(2)
    assert len([url for url in asked if url.startswith("targets/files/")]) == 1, "the card"
    asked.clear()
    assert device.fetch(2) == got
    assert not [url for url in asked if url.startswith("targets/")], "a whole one is not fetched twice"
    (got.release.folder / "base.bin").write_bytes(b"altered")
    assert device.fetch(2).release.read(got.release.manifest.base) == b"base" * 100, "a damaged one is"


def test_a_released_adapter_travels_by_itself(grove: Grove, tmp_path: Path) -> None:
    """It is one more file of the release: stored and fetched once, and nothing else with it but the manifest."""
    plain, device = open_release("tiny"), grove.device("device")
    stored = grove.home / "repository" / "targets" / "files"
    repository = grove.repository()
    repository.publish(plain.folder, grove.signers, NOW_S, version=2, epsilon=0.0)
    device.fetch(2)
    before = {p.name for p in stored.iterdir()}
    grown = widen(plain, tmp_path / "grown", [{"emotion": "love"}])
    repository.publish(grown.folder, grove.signers, NOW_S, version=3, epsilon=0.0)
    adapter = grown.manifest.adapter
    assert adapter is not None
    assert {p.name for p in stored.iterdir()} - before == {f"{adapter.sha256}.{adapter.sha256}"}
    got = device.fetch(3).release
    assert got.manifest == grown.manifest
    assert got.read(adapter) == grown.read(adapter)
    (stored / f"{adapter.sha256}.{adapter.sha256}").write_bytes(bytes(adapter.n_bytes))
    with pytest.raises(InvalidArtefact, match="altered"):
        grove.device("another").fetch(3)


def test_over_http_it_is_the_same(grove: Grove) -> None:
    """Through the caller's client, without redirects or encodings; what a server says is an error of ours."""
    folder = grove.home / "repository"

    def serve(request: httpx.Request) -> httpx.Response:
        path = folder / request.url.path.lstrip("/")
        assert request.headers["Accept-Encoding"] == "identity"
        return httpx.Response(200, content=path.read_bytes()) if path.is_file() else httpx.Response(404)

    with httpx.Client(transport=httpx.MockTransport(serve)) as client:
        device = ReleaseClient(grove.home / "http", from_http(client, "https://fog.example/"), grove.root)
        assert device.fetch(1).release.manifest.name == "tiny"
        slow = ReleaseClient(grove.home / "slow", from_http(client, "https://fog.example", -1.0), grove.root)
        with pytest.raises(Unreachable, match="not done after -1 s"):
            slow.look()

    def ill(request: httpx.Request) -> httpx.Response:
        return httpx.Response(503)

    def gone(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no route to host")

    for answer, words in ((ill, "HTTP 503"), (gone, "no route to host")):
        with httpx.Client(transport=httpx.MockTransport(answer)) as client, pytest.raises(Unreachable, match=words):
            ReleaseClient(grove.home / "ill", from_http(client, "https://fog.example"), grove.root).look()


def test_going_back_is_a_new_higher_version_with_the_old_hash(grove: Grove) -> None:
    """Version 3 is release 1 again; the version before cannot be published once more."""
    first, device = grove.repository().publications()[0], grove.device("device")
    grove.direct(2, grove.publish(2))
    device.fetch(2)
    back = grove.repository().republish(3, 1, grove.signers, NOW_S, back_from=2)
    assert (back.version, back.release, back.back_from) == (3, first.release, 2)
    got = device.fetch(3)
    assert got.publication == back
    assert got.release.manifest_hash == first.release
    for version in (1, 2, 3):
        with pytest.raises(UsageError, match=f"version {version} cannot be published: 3 is out"):
            grove.repository().publish(grove.release(1), grove.signers, NOW_S, version=version, epsilon=1.0)
    with pytest.raises(UsageError, match="version 9 was never published; there are 1, 2, 3"):
        grove.repository().republish(10, 9, grove.signers, NOW_S, back_from=3)


# ---- the five attacks ------------------------------------------------------------------------------------------------


def test_rollback_is_refused(grove: Grove) -> None:
    """1: an old, rightly signed repository is shown to a device that has seen a newer one."""
    old, device = grove.copy("old"), grove.device("device")
    grove.direct(2, grove.publish(2))
    assert device.look() is not None
    with pytest.raises(InvalidArtefact, match="goes back behind what this device has seen"):
        grove.device("device", repository=old).look()
    assert device.fetch(2).publication.version == 2, "and the device goes on with the right one"


def test_rollback_of_one_part_is_refused(grove: Grove) -> None:
    """1b: a thief of the online keys signs a newer timestamp over older targets."""
    device = grove.device("device")
    old = grove.copy("old")
    grove.direct(2, grove.publish(2))
    device.look()
    thief = Repository(old)
    for _ in range(8):
        thief.refresh(grove.signers, NOW_S)
    with pytest.raises(InvalidArtefact, match="goes back behind"):
        grove.device("device", repository=old).look()


def test_freeze_is_refused(grove: Grove) -> None:
    """2: nothing new is ever shown. After 24 hours without a fresh timestamp the device says so."""
    grove.repository().refresh(grove.signers, NOW_S - 23.9 * HOUR_S)
    assert grove.device("device").look() is not None
    grove.repository().refresh(grove.signers, NOW_S - 24.1 * HOUR_S)
    for name in ("device", "another"):
        with pytest.raises(InvalidArtefact, match=r"timestamp.json is expired.*frozen.*clock is wrong \(it says 20"):
            grove.device(name).look()
    grove.repository().refresh(grove.signers, NOW_S)
    assert grove.device("device").look() is not None


def test_mix_and_match_is_refused(grove: Grove) -> None:
    """3: parts of two publications are shown together, each rightly signed by itself."""
    grove.direct(2, grove.publish(2))
    metadata = grove.home / "repository" / "metadata"
    for new, old in (("3.targets.json", "2.targets.json"), ("3.rollout.json", "2.rollout.json")):
        whole = (metadata / new).read_bytes()
        (metadata / new).write_bytes((metadata / old).read_bytes())
        with pytest.raises(InvalidArtefact, match=r"altered, or mixed from two publications|more bytes came"):
            grove.device(f"device-{new}").look()
        (metadata / new).write_bytes(whole)
    assert grove.device("device").look() is not None


def files_of(grove: Grove, pattern: str) -> list[Path]:
    """What lies in the repository."""
    return sorted((grove.home / "repository").glob(pattern))


def test_tampering_is_refused(grove: Grove) -> None:
    """4: one bit of any file of the repository is turned, and each is refused; so is a file of another length."""
    paths = [*files_of(grove, "metadata/*.json"), *(p for p in files_of(grove, "targets/**/*") if p.is_file())]
    read = 0
    for i, path in enumerate(paths):
        whole = path.read_bytes()
        for at, change in enumerate((bytes([whole[len(whole) // 2] ^ 1]), b"longer")):
            path.write_bytes(whole[: len(whole) // 2] + change + whole[len(whole) // 2 + 1 :])
            device = grove.device(f"device-{i}-{at}")
            try:
                device.look()
                device.fetch(1)
            except InvalidArtefact:
                read += 1
            else:
                # What a device does not read: superseded versions, and the root, which it was made with.
                assert path.name in (
                    "1.root.json",
                    "1.targets.json",
                    "1.snapshot.json",
                    "2.snapshot.json",
                    "1.rollout.json",
                )
        path.write_bytes(whole)
    assert read == 2 * (len(paths) - 5)
    assert grove.device("device").fetch(1).publication.version == 1


def test_wrong_keys_are_refused(grove: Grove) -> None:
    """5: another repository, whole and fresh, but signed by somebody else's keys."""
    mallory = Grove(grove.home / "mallory", new_signers(COUNTS), grove.root, grove.shelf)
    mallory.repository().create(mallory.signers, NOW_S)
    mallory.direct(1, mallory.publish(1))
    with pytest.raises(InvalidArtefact, match="not signed by the keys that count"):
        mallory.device("device").look()


@pytest.mark.parametrize("role", ["snapshot", "timestamp", "rollout", "targets"])
def test_one_wrong_key_is_enough_to_be_refused(grove: Grove, role: str) -> None:
    """5b: everything is right but the signature of one role."""
    path = files_of(grove, f"metadata/*{role}.json")[-1]
    metadata: Metadata = Metadata.from_bytes(path.read_bytes())
    metadata.signatures.clear()
    for signer in new_signers({role: 2})[role]:
        metadata.sign(signer, append=True)
    path.write_bytes(metadata.to_bytes())
    with pytest.raises(InvalidArtefact, match=r"not signed by the keys|altered, or mixed|more bytes"):
        grove.device("device").look()


def test_less_than_the_threshold_is_refused_on_both_sides(grove: Grove) -> None:
    """One of two targets keys cannot publish; and what it signed all the same, no device takes."""
    alone = {**grove.signers, "targets": grove.signers["targets"][:1]}
    with pytest.raises(UsageError, match="targets role needs 2 of its 2 keys, 1 at hand"):
        grove.repository().publish(grove.release(2), alone, NOW_S, version=2, epsilon=1.0)
    repository = grove.home / "repository" / "metadata"
    targets = json.loads((repository / "2.targets.json").read_text())
    targets["signatures"] = targets["signatures"][:1]
    forged = json.dumps(targets).encode()
    (repository / "2.targets.json").write_bytes(forged)
    now = grove.repository().current()
    now.snapshot.signed.meta["targets.json"].length = len(forged)
    now.snapshot.signed.meta["targets.json"].hashes = {"sha256": sha256_hex(forged)}
    now.snapshot.sign(grove.signers["snapshot"][0])
    snapshot = now.snapshot.to_bytes()
    (repository / f"{now.snapshot.signed.version}.snapshot.json").write_bytes(snapshot)
    now.timestamp.signed.snapshot_meta.length = len(snapshot)
    now.timestamp.signed.snapshot_meta.hashes = {"sha256": sha256_hex(snapshot)}
    now.timestamp.sign(grove.signers["timestamp"][0])
    (repository / "timestamp.json").write_bytes(now.timestamp.to_bytes())
    with pytest.raises(InvalidArtefact, match="targets was signed by 1/2 keys"):
        grove.device("device").look()


def test_the_rollout_s_key_can_neither_sign_a_release_nor_send_a_device_back(grove: Grove) -> None:
    """Whoever steals it may point to a signed version, but not to an unsigned one, and no device takes a lower one."""
    grove.direct(2, grove.publish(2))
    with pytest.raises(UsageError, match="version 7 was never published"):
        grove.direct(7, "ab" * 32)
    with pytest.raises(InvalidArtefact, match="version 7 was never published"):
        grove.device("device").fetch(7)
    told = Directive("r", "x", 1, FULL, True)
    assert offer(told, "device", 2) is None
    stolen = {**grove.signers, "targets": grove.signers["rollout"] * 2}
    with pytest.raises(UsageError, match="targets role needs 2 of its 2 keys, 0 at hand"):
        grove.repository().publish(grove.release(2), stolen, NOW_S, version=3, epsilon=1.0)


# ---- rotation and time -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp", "rollout"])
def test_keys_can_be_changed(grove: Grove, role: str) -> None:
    """A device made with the first root follows, old keys sign nothing any more, new ones do."""
    device = grove.device("device")
    device.look()
    fresh = new_signers({role: 3 if role == "root" else COUNTS[role]})[role]
    grove.repository().rotate(role, fresh, grove.signers, NOW_S)
    assert device.look() is not None
    assert grove.device("late").look() is not None
    old, grove.signers = grove.signers, {**grove.signers, role: fresh}
    grove.direct(2, grove.publish(2))
    assert device.fetch(2).publication.version == 2
    again = new_signers({role: COUNTS[role]})[role]
    acts: dict[str, Callable[[], object]] = {
        "root": lambda: grove.repository().rotate("root", again, old, NOW_S),
        "targets": lambda: grove.repository().publish(grove.release(3), old, NOW_S, version=3, epsilon=1.0),
    }
    act = acts.get(role, lambda: grove.repository().direct(Directive("r", "x", 1, FULL, True), old, NOW_S))
    with pytest.raises(UsageError, match=r"keys, 0 at hand"):
        act()


def test_a_threshold_can_be_changed_and_must_be_reached(grove: Grove) -> None:
    """Three of three from now on; four of three never."""
    fresh = new_signers({"root": 3})["root"]
    with pytest.raises(UsageError, match="3 keys cannot reach a threshold of 4"):
        grove.repository().rotate("root", fresh, grove.signers, NOW_S, threshold=4)
    grove.repository().rotate("root", fresh, grove.signers, NOW_S, threshold=3)
    assert grove.repository().current().root.signed.roles["root"].threshold == 3
    assert grove.device("device").look() is not None


def test_a_forged_root_is_refused(grove: Grove) -> None:
    """A next root that the keys so far did not sign, even if its own did."""
    mallory = {**grove.signers, **new_signers({"root": 3})}
    path = grove.home / "repository" / "metadata" / "2.root.json"
    root: Metadata = Metadata.from_bytes(grove.root)
    root.signed.version = 2
    root.signatures.clear()
    for signer in mallory["root"]:
        root.signed.add_key(signer.public_key, "root")
        root.sign(signer, append=True)
    path.write_bytes(root.to_bytes())
    with pytest.raises(InvalidArtefact, match="not signed by the keys that count"):
        grove.device("device").look()


def test_a_refresh_signs_no_more_than_it_must(grove: Grove) -> None:
    """A timestamp every time; snapshot and rollout once half of their week is over."""
    repository = grove.repository()
    start = repository.current()
    repository.refresh(grove.signers, NOW_S + HOUR_S)
    now = repository.current()
    assert now.timestamp.signed.version == start.timestamp.signed.version + 1
    assert now.snapshot.signed.version == start.snapshot.signed.version
    repository.refresh(grove.signers, NOW_S + 4 * 24 * HOUR_S)
    later = repository.current()
    assert later.snapshot.signed.version == start.snapshot.signed.version + 1
    assert later.rollout.signed.version == start.rollout.signed.version + 1
    assert repository.directive() == grove.repository().directive()
    left_s = {role: until - NOW_S for role, until in repository.expires_s().items()}
    assert left_s["timestamp"] == pytest.approx(5 * 24 * HOUR_S, abs=2)
    assert left_s["root"] > 364 * 24 * HOUR_S


# ---- faults ----------------------------------------------------------------------------------------------------------


def test_what_is_signed_must_be_understood(grove: Grove) -> None:
    """Even behind good signatures: another schema, unknown fields, another release than the path says."""
    publication = grove.repository().publications()[0]
    good = {**msgspec.to_builtins(publication), "epsilon": "0.994", "delta": "1e-06"}

    def target(custom: object, version: int = 1) -> TargetFile:
        hashes = {"sha256": publication.release}
        return TargetFile(1, hashes, f"releases/{version}/manifest.json", {"custom": custom})

    assert publication_of(target(good)) == publication
    for bad, words in (
        (target({**good, "mood": 1}), "unknown field `mood`"),
        (target(None), "not understood"),
        (target(good, 2), "signed as version 1 of another release"),
        (target({**good, "release": "cd" * 32}), "of another release"),
    ):
        with pytest.raises(CorruptState, match=words):
            publication_of(bad)
    newer = msgspec.json.encode(Directive("r", "x", 1, 1, True, schema=2))
    for bytes_, words in ((b"{}", "not understood"), (newer, "schema 2")):
        with pytest.raises(CorruptState, match=words):
            tuf_client.decode_directive(bytes_)


def test_a_caller_s_mistakes_are_named(grove: Grove, tmp_path: Path) -> None:
    """A repository twice, none at all, a version 0, a privacy that there is not, a release that is not whole."""
    repository, folder = grove.repository(), grove.release(2)
    nan = float("nan")
    calls: list[tuple[Callable[[], object], type[Exception], str]] = [
        (lambda: repository.create(grove.signers, NOW_S), UsageError, "is a release repository already"),
        (lambda: Repository(tmp_path / "none").current(), UsageError, "`evergrove keys create` makes one"),
        (lambda: repository.publish(folder, grove.signers, NOW_S, version=0, epsilon=1.0), UsageError, "begin with 1"),
        (lambda: repository.publish(folder, grove.signers, NOW_S, version=2, epsilon=nan), UsageError, "ε = nan"),
    ]  # fmt: skip
    for call, kind, words in calls:
        with pytest.raises(kind, match=words):
            call()
    (grove.release(2) / "base.bin").unlink()
    with pytest.raises(InvalidArtefact, match=r"base\.bin"):
        grove.publish(2)
    timestamp = grove.home / "repository" / "metadata" / "timestamp.json"
    timestamp.write_bytes(b"{")
    with pytest.raises(CorruptState, match="not TUF metadata"):
        repository.current()
    shutil.rmtree(timestamp.parent)
    with pytest.raises(CorruptState, match="holds no root"):
        repository.root()


def test_a_path_cannot_leave_the_folder(grove: Grove) -> None:
    """Whatever a repository names, the fetcher reads what a web server would."""
    secret = grove.home / "secret.json"
    secret.write_text("{}")
    fetcher = tuf_client.FolderFetcher(grove.home / "repository")
    with pytest.raises(tuf_client.tuf.DownloadHTTPError):
        fetcher.download_bytes("folder:/../secret.json", 100)


# ---- a mirror --------------------------------------------------------------------------------------------------------


def tree(folder: Path) -> dict[str, bytes]:
    """Every file and what is in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_mirror_holds_what_is_signed_and_who_reads_it_needs_nobody_else(grove: Grove) -> None:
    """All that a device reads, byte for byte; nothing to do until something is published; then that, too."""
    mirror, place = grove.mirror(), grove.home / "place"
    assert mirror.mirror(place)
    assert not mirror.mirror(place)
    whole = tree(grove.home / "repository")
    for kind in ("metadata", "targets"):
        assert {f"{kind}/{name}": data for name, data in tree(place / kind).items()}.items() <= whole.items()
    assert grove.device("by-mirror", repository=place).fetch(1).publication.version == 1
    grove.direct(2, grove.publish(2))
    assert grove.device("by-mirror", repository=place).look() == grove.device("early", repository=place).look()
    assert mirror.mirror(place)
    device = grove.device("by-mirror", repository=place)
    told = device.look()
    assert told is not None
    assert told.version == 2
    assert device.fetch(2).publication.version == 2


def test_a_mirror_takes_changed_keys_along(grove: Grove) -> None:
    """A device of the first root finds every root since."""
    mirror, place = grove.mirror(), grove.home / "place"
    assert mirror.mirror(place)
    grove.repository().rotate("timestamp", new_signers({"timestamp": 1})["timestamp"], grove.signers, NOW_S)
    assert mirror.mirror(place)
    assert grove.device("device", repository=place).fetch(1).publication.version == 1
    grove.repository().rotate("root", new_signers({"root": 3})["root"], grove.signers, NOW_S)  # no new timestamp
    assert mirror.mirror(place)
    assert (place / "metadata" / "3.root.json").exists()
    assert grove.device("late", repository=place).fetch(1).publication.version == 1


@pytest.mark.parametrize("pattern", ["metadata/timestamp.json", "metadata/*.targets.json", "targets/files/*"])
def test_what_does_not_verify_never_gets_into_a_mirror(grove: Grove, pattern: str) -> None:
    """A bit is turned at the cloud's: the mirror stays as it was, and goes on once the cloud's is whole."""
    mirror, place = grove.mirror(), grove.home / "place"
    mirror.mirror(place)
    before, known = tree(place / "metadata"), set(files_of(grove, pattern))
    grove.direct(2, grove.publish(2))
    path = max(set(files_of(grove, pattern)) - known or known)
    data = path.read_bytes()
    turned = bytes([data[0] ^ 1]) + data[1:]
    path.write_bytes(turned)
    with pytest.raises(InvalidArtefact):
        mirror.mirror(place)
    assert tree(place / "metadata") == before
    assert turned not in tree(place).values()
    told = grove.device("device", repository=place).look()
    assert told is not None
    assert told.version == 1
    path.write_bytes(data)
    assert mirror.mirror(place)


def test_a_mirror_mends_what_was_damaged_and_keeps_no_more_than_two_states(grove: Grove) -> None:
    """A damaged target is fetched again with the next publication; what nobody is led to goes, so it cannot grow."""
    mirror, place = grove.mirror(), grove.home / "place"
    mirror.mirror(place)
    damaged = max((place / "targets" / "files").iterdir(), key=lambda path: path.stat().st_size)
    damaged.write_bytes(b"damaged")
    second = grove.publish(2)
    sizes = []
    for n in range(5):
        grove.repository().direct(Directive(f"r{n}", second, 2, FULL - n, True), grove.signers, NOW_S)
        assert mirror.mirror(place)
        sizes.append(len(tree(place)))
    assert damaged.read_bytes() != b"damaged"
    assert len(set(sizes[1:])) == 1
    assert len([folder for folder in place.iterdir() if folder.name.startswith(".")]) == 2
    assert grove.device("device", repository=place).fetch(2).publication.release == second


def test_a_signed_path_that_leads_out_is_not_followed(
    grove: Grove, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even who has the offline keys writes nowhere else on a fog's disk."""
    add = Repository._add

    def add_more(self: Repository, targets: Targets, ref: FileRef, data: bytes) -> None:
        add(self, targets, ref, data)
        path = "../../../outside"
        targets.targets[path] = TargetFile(ref.n_bytes, {"sha256": ref.sha256}, path)

    monkeypatch.setattr(Repository, "_add", add_more)
    grove.direct(2, grove.publish(2))
    with pytest.raises(InvalidArtefact, match=r"\.\./outside leads out of the repository"):
        grove.mirror().mirror(grove.home / "place")
    assert not list(tmp_path.rglob("*outside*"))
    assert not (grove.home / "place" / "metadata" / "timestamp.json").exists()
