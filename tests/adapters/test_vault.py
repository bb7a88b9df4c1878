"""The encrypted replay buffer: durable, bounded, unreadable without its key, and never serving what is damaged."""

import hashlib
import os
import shutil
import stat
import sys
import types
from pathlib import Path

import msgspec
import pytest
from faults import Killed, count_steps, full_at, killed_at

from evergrove.adapters.files import DiskFull, Files
from evergrove.adapters.keys import FileKey, KeyringKey
from evergrove.adapters.sealed import OVERHEAD_BYTES, unseal
from evergrove.adapters.vault import QUARANTINE, Record, Vault, new_id
from evergrove.core.conditions import Factor, Vocabulary
from evergrove.core.config import Replay
from evergrove.core.errors import CorruptState, EvergroveError, MissingDependency, UsageError

NAMES = Vocabulary((Factor("emotion", ("happy", "Grandma's smile")),))


def record(n: int, media: bytes = b"", **change: object) -> Record:
    """A record whose whole content follows from its number."""
    media = media or hashlib.sha256(b"%d" % n).digest() * 10
    fields: dict[str, object] = {
        "id": f"{n:032x}",
        "media": media,
        "condition": {"emotion": "Grandma's smile", "hair": f"style {n}"},
        "code": (2, n),
        "split": "golden" if n % 5 == 0 else "train",
        "feature": bytes([n % 256]) * 64,
        "phash": (1 << 64) - 1 - n,
        "kept_at_s": 1000.0 + n,
        "sha256": hashlib.sha256(media).hexdigest(),
    }
    return Record(**(fields | change))  # type: ignore[arg-type]


def opened(folder: Path, device: str = "kitchen", files: Files | None = None, **limits: int) -> Vault:
    keys = FileKey(folder / "device.key", files=files)
    return Vault(folder / "vault", device, keys, Replay(**limits), files=files)


def test_round_trip_survives_reopening(tmp_path: Path) -> None:
    """What was put is there again, equal, with its index entry; what was evicted is not."""
    vault = opened(tmp_path)
    for n in range(1, 7):
        vault.put(record(n))
    vault.evict(record(3).id)
    vault.evict(record(3).id)
    vault = opened(tmp_path)
    assert vault.ids() == [record(n).id for n in (1, 2, 4, 5, 6)]
    assert vault.get(record(4).id) == record(4)
    assert [r.code[1] for r in vault.all("golden")] == [5]
    assert [r.code[1] for r in vault.all()] == [1, 2, 4, 5, 6]
    entry = vault.entries[0]
    assert (entry.code, entry.split, entry.phash, entry.feature) == ((2, 1), "train", (1 << 64) - 2, bytes([1]) * 64)
    assert vault.n_bytes == sum(p.stat().st_size for p in (tmp_path / "vault").glob("*.rec"))
    with pytest.raises(UsageError, match="no record"):
        vault.get(record(3).id)


def test_nothing_readable_on_disk(tmp_path: Path) -> None:
    """Neither media nor names appear in any file, and every file is its owner's alone."""
    vault = opened(tmp_path)
    vault.put(record(1, media=b"PLAINTEXT-MEDIA" * 10))
    vault.save_names(NAMES)
    for path in (tmp_path / "vault").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        content = path.read_bytes()
        assert b"PLAINTEXT" not in content
        assert b"smile" not in content
    assert stat.S_IMODE((tmp_path / "vault").stat().st_mode) == 0o700


def test_put_twice_and_clashes(tmp_path: Path) -> None:
    """The same record again is fine (a driver may repeat itself); another one under its id is refused."""
    vault = opened(tmp_path)
    vault.put(record(1))
    vault.put(record(1))
    with pytest.raises(UsageError, match="other content"):
        vault.put(record(1, split="golden"))
    assert vault.get(record(1).id) == record(1)


@pytest.mark.parametrize(
    "bad",
    [
        record(1, id="../../etc/passwd"),
        record(1, id="A" * 32),
        record(1, sha256="0" * 64),
        record(1, split="test"),
        record(1, phash=1 << 64),
        record(1, phash=-(1 << 64)),
        record(1, kept_at_s=float("nan")),
        record(1, code=("x",)),
        record(1, media=bytes(18 << 20)),
    ],
    ids=["path", "upper", "hash", "split", "phash", "negative", "nan", "code", "large"],
)
def test_malformed_records_are_refused(tmp_path: Path, bad: Record) -> None:
    """Checked before anything touches the disk."""
    vault = opened(tmp_path)
    with pytest.raises(UsageError):
        vault.put(bad)
    assert vault.ids() == []
    assert not list((tmp_path / "vault").glob("*.rec"))


def test_limits_in_records_and_bytes(tmp_path: Path) -> None:
    """Beyond a limit nothing is put; after an eviction there is room."""
    vault = opened(tmp_path, n_records_max=3)
    for n in (1, 2, 3):
        vault.put(record(n))
    with pytest.raises(UsageError, match=r"full \(3 of 3 records.*evict"):
        vault.put(record(4))
    vault.evict(record(1).id)
    vault.put(record(4))
    size = vault.entries[0].n_bytes
    vault = opened(tmp_path, n_bytes_max=3 * size + 100)
    with pytest.raises(UsageError, match="full"):
        vault.put(record(5))
    assert len(vault.ids()) == 3


def test_every_region_of_a_record_flipped_or_cut(tmp_path: Path) -> None:
    """Damage in any part sets the record aside with a reason; the other records are served as before."""
    vault = opened(tmp_path)
    vault.put(record(1))
    vault.put(record(2))
    path = tmp_path / "vault" / f"{record(1).id}.rec"
    whole = path.read_bytes()
    reasons = set()
    for position in sorted({*range(0, len(whole), 11), 3, 4, 12, 24, 72, 84, len(whole) - 1}):
        for data in (whole[:position], whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :]):
            path.write_bytes(data)
            vault = opened(tmp_path)
            assert vault.ids() == [record(2).id], position
            assert [q.id for q in vault.quarantined] == [record(1).id]
            reasons.add(vault.quarantined[0].reason.split(" at ")[0])
            assert not path.exists()
    assert len(reasons) == 5
    assert len(list((tmp_path / "vault" / QUARANTINE).iterdir())) == 1
    path.write_bytes(whole)
    assert opened(tmp_path).get(record(1).id) == record(1)


def altered(data: bytes) -> bytes:
    """The same with another last byte, whatever it was."""
    return data[:-1] + bytes([data[-1] ^ 1])


def test_damage_after_opening_is_found_at_get(tmp_path: Path) -> None:
    """A record that was altered or deleted while the vault is open is never served; ``all`` leaves it out."""
    vault = opened(tmp_path)
    for n in (1, 2, 3, 4):
        vault.put(record(n))
    for n in (1, 3):
        path = tmp_path / "vault" / f"{record(n).id}.rec"
        path.write_bytes(altered(path.read_bytes()))
    (tmp_path / "vault" / f"{record(2).id}.rec").unlink()
    with pytest.raises(CorruptState, match="altered or cut off; it was set aside"):
        vault.get(record(1).id)
    with pytest.raises(CorruptState, match="missing"):
        vault.get(record(2).id)
    assert [r.code[1] for r in vault.all()] == [4]
    assert [q.id for q in vault.quarantined] == [record(n).id for n in (1, 2, 3)]


def test_foreign_files_are_set_aside(tmp_path: Path) -> None:
    """Another device's record, a renamed one, links, folders, odd names: aside, with a reason, the rest served."""
    vault, other = opened(tmp_path / "a"), opened(tmp_path / "b", device="hall")
    vault.put(record(1))
    other.put(record(2))
    folder = tmp_path / "a" / "vault"
    (folder / f"{record(2).id}.rec").write_bytes((tmp_path / "b" / "vault" / f"{record(2).id}.rec").read_bytes())
    (folder / f"{record(3).id}.rec").write_bytes((folder / f"{record(1).id}.rec").read_bytes())
    (folder / f"{record(4).id}.rec").symlink_to(folder / f"{record(1).id}.rec")
    (folder / f"{record(5).id}.rec").mkdir()
    (folder / "holiday.rec").write_bytes(b"hello")
    vault = opened(tmp_path / "a")
    assert vault.ids() == [record(1).id]
    reasons = {q.id[-7:]: q.reason for q in vault.quarantined}
    assert "device key that is gone" in reasons["0000002"]
    assert "another device or name" in reasons["0000003"]
    assert "name is not" in reasons["holiday"]
    assert len(reasons) == 5


def test_the_quarantine_is_bounded(tmp_path: Path) -> None:
    """However many damaged files appear, at most 32 are kept."""
    opened(tmp_path)
    for n in range(50):
        (tmp_path / "vault" / f"{n:032x}.rec").write_bytes(b"junk")
    assert len(opened(tmp_path).quarantined) == 50
    assert len(list((tmp_path / "vault" / QUARANTINE).iterdir())) == 32


def test_a_wrong_or_missing_key_touches_nothing(tmp_path: Path) -> None:
    """The key of another device, no key, a torn key, another device's name: an error, and every record still there."""
    opened(tmp_path / "b")
    vault = opened(tmp_path / "a")
    vault.put(record(1))
    key, foreign = tmp_path / "a" / "device.key", (tmp_path / "b" / "device.key").read_bytes()
    right = key.read_bytes()
    for content, match in (
        (foreign, "not the one that these records"),
        (right[:40], "no device key"),
        (b"\xff", "no dev"),
    ):
        key.write_bytes(content)
        with pytest.raises(CorruptState, match=match):
            opened(tmp_path / "a")
    key.unlink()
    with pytest.raises(CorruptState, match="device key is missing"):
        opened(tmp_path / "a")
    assert not key.exists()
    Files().write(key, right)
    with pytest.raises(CorruptState, match="vault of 'kitchen', not of 'hall'"):
        opened(tmp_path / "a", device="hall")
    (tmp_path / "a" / "vault" / "vault.json").unlink()
    Files().write(key, foreign)
    with pytest.raises(CorruptState, match="not the one that these records"):
        opened(tmp_path / "a")
    Files().write(key, right)
    assert opened(tmp_path / "a").get(record(1).id) == record(1)


def test_rotation_makes_leftovers_unreadable(tmp_path: Path) -> None:
    """After ``destroy`` a stolen copy of the record does not open under any key that is left; the others do."""
    vault = opened(tmp_path)
    for n in (1, 2, 3):
        vault.put(record(n))
    vault.save_names(NAMES)
    stolen = {p.name: p.read_bytes() for p in (tmp_path / "vault").iterdir() if p.is_file()}
    old = FileKey(tmp_path / "device.key").load()
    vault.destroy([record(1).id, record(1).id, new_id()])
    new = FileKey(tmp_path / "device.key").load()
    assert len(new) == 1
    assert new != old
    for name, box in stolen.items():
        if name.endswith((".rec", ".enc")):
            assert unseal(old, "kitchen", name.removesuffix(".rec"), box)
            with pytest.raises(CorruptState, match="gone"):
                unseal(new, "kitchen", name.removesuffix(".rec"), box)
    for seen in (vault, opened(tmp_path)):
        assert seen.get(record(2).id) == record(2)
        assert seen.ids() == [record(2).id, record(3).id]
        assert seen.names() == NAMES


def test_rotation_killed_at_every_step_is_finished_at_the_next_opening(tmp_path: Path) -> None:
    """Every record and the names stay readable whatever step the kill fell into, and one key is left in the end."""

    def filled(folder: Path) -> Path:
        vault = opened(folder)
        for n in (1, 2, 3):
            vault.put(record(n))
        vault.save_names(NAMES)
        return folder

    n_steps = count_steps(lambda files: opened(filled(tmp_path / "count"), files=files).rotate())
    assert n_steps > 30
    filled(tmp_path / "whole")
    for step in range(n_steps):
        folder = tmp_path / f"at{step}"
        shutil.copytree(tmp_path / "whole", folder)
        with pytest.raises(Killed):
            opened(folder, files=killed_at(step)).rotate()
        vault = opened(folder)
        assert [vault.get(record(n).id) for n in (1, 2, 3)] == [record(n) for n in (1, 2, 3)]
        assert vault.names() == NAMES
        assert vault.quarantined == []
        assert len(FileKey(folder / "device.key").load()) == 1


@pytest.mark.parametrize("disk", [killed_at, full_at], ids=["killed", "full"])
def test_put_at_every_step_loses_nothing_that_was_acknowledged(tmp_path: Path, disk: object) -> None:
    """A fault at any step of the second put leaves the first record whole, and the second whole or absent."""
    folder = tmp_path / "v"
    opened(folder).put(record(1))
    for step in range(5):
        vault = opened(folder)
        vault._files = disk(step)  # type: ignore[operator]
        with pytest.raises((Killed, DiskFull)):
            vault.put(record(2))
        vault = opened(folder)
        assert vault.get(record(1).id) == record(1)
        assert vault.ids() == [record(1).id] or vault.get(record(2).id) == record(2)
        assert not list((folder / "vault").glob(".*"))
        vault.evict(record(2).id)


def test_a_full_disk_during_rotation_is_retried_later(tmp_path: Path) -> None:
    """The vault opens all the same, says so, keeps both keys, and finishes when there is room."""
    vault = opened(tmp_path)
    vault.put(record(1))
    vault._files = full_at(0)
    with pytest.raises(DiskFull):
        vault.rotate()
    assert len(FileKey(tmp_path / "device.key").load()) == 2
    vault = Vault(tmp_path / "vault", "kitchen", FileKey(tmp_path / "device.key"), files=full_at(0))
    assert "not finished" in vault.notices[0]
    assert vault.get(record(1).id) == record(1)
    vault = opened(tmp_path)
    assert "finished an interrupted change" in vault.notices[0]
    assert len(FileKey(tmp_path / "device.key").load()) == 1


def test_names_survive_one_damaged_copy(tmp_path: Path) -> None:
    """Either copy serves; with both damaged the way out is named, because numbers must not change their meaning."""
    vault = opened(tmp_path)
    assert vault.names() is None
    vault.save_names(NAMES)
    first, second = (tmp_path / "vault" / name for name in ("names.enc", "names.backup.enc"))
    first.write_bytes(first.read_bytes()[:-3])
    assert opened(tmp_path).names() == NAMES
    second.write_bytes(b"")
    with pytest.raises(CorruptState, match=r"own conditions cannot be read.*restore"):
        opened(tmp_path).names()


def test_a_trainer_reads_and_changes_nothing(tmp_path: Path) -> None:
    """A read-only vault serves records, sets nothing aside on disk, and refuses to write."""
    vault = opened(tmp_path)
    vault.put(record(1))
    (tmp_path / "vault" / f"{record(2).id}.rec").write_bytes(b"junk")
    (tmp_path / "vault" / ".half.tmp").write_bytes(b"junk")
    before = sorted(p.name for p in (tmp_path / "vault").rglob("*"))
    reader = Vault(tmp_path / "vault", "kitchen", FileKey(tmp_path / "device.key"), read_only=True)
    assert list(reader.all()) == [record(1)]
    assert [q.id for q in reader.quarantined] == [record(2).id]
    for write in (
        lambda: reader.put(record(3)),
        lambda: reader.evict(record(1).id),
        lambda: reader.destroy([]),
        lambda: reader.save_names(NAMES),
    ):
        with pytest.raises(UsageError, match="reading only"):
            write()
    assert sorted(p.name for p in (tmp_path / "vault").rglob("*")) == before
    vault.rotate()
    assert list(reader.all()) == [record(1)], "the key changed beside the reader"
    with pytest.raises(UsageError, match="there is no vault"):
        Vault(tmp_path / "none", "kitchen", FileKey(tmp_path / "none.key"), read_only=True)
    assert not (tmp_path / "none").exists()


def test_key_files_of_others_are_refused(tmp_path: Path) -> None:
    """A key that a group or the world may read is refused, with the command that mends it."""
    keys = FileKey(tmp_path / "device.key")
    keys.store((os.urandom(32),))
    assert stat.S_IMODE(keys.path.stat().st_mode) == 0o600
    assert (keys.kind, "mode 600" in keys.describe()) == ("file", True)
    for mode in (0o640, 0o604, 0o660, 0o666):
        keys.path.chmod(mode)
        with pytest.raises(CorruptState, match=r"chmod 600 .*device\.key"):
            keys.load()
    with pytest.raises(EvergroveError, match="one or two keys"):
        keys.store((b"short",))


def test_keys_in_the_keyring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keyring is a second place for the same keys; absent or locked, the error says what to do."""
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(MissingDependency, match="pip install keyring"):
        KeyringKey("kitchen")
    ring = _Ring()
    monkeypatch.setitem(sys.modules, "keyring", ring)
    keys = KeyringKey("kitchen")
    assert keys.load() == ()
    vault = Vault(tmp_path, "kitchen", keys)
    vault.put(record(1))
    vault.rotate()
    assert Vault(tmp_path, "kitchen", KeyringKey("kitchen")).get(record(1).id) == record(1)
    assert "keyring of the operating system" in keys.describe()
    ring.locked = True
    with pytest.raises(MissingDependency, match="unlock it"):
        keys.load()


class _Ring(types.ModuleType):
    """A keyring as the package of that name shows it."""

    def __init__(self) -> None:
        super().__init__("keyring")
        self.held: dict[tuple[str, str], str] = {}
        self.locked = False

    def get_keyring(self) -> "_Ring":
        return self

    def get_password(self, service: str, user: str) -> str | None:
        if self.locked:
            raise RuntimeError("locked")
        return self.held.get((service, user))

    def set_password(self, service: str, user: str, password: str) -> None:
        self.held[service, user] = password


def test_a_future_record_is_set_aside(tmp_path: Path) -> None:
    """A record with fields that this program does not know is not guessed at."""
    from evergrove.adapters.sealed import seal

    opened(tmp_path)
    content = msgspec.msgpack.encode(msgspec.to_builtins(record(1), builtin_types=(bytes,)) | {"mood": "new"})
    key = FileKey(tmp_path / "device.key").load()[0]
    (tmp_path / "vault" / f"{record(1).id}.rec").write_bytes(seal(key, "kitchen", record(1).id, content))
    (tmp_path / "vault" / f"{record(2).id}.rec").write_bytes(
        seal(key, "kitchen", record(2).id, msgspec.msgpack.encode(record(1)))
    )
    vault = opened(tmp_path)
    assert [q.reason.split(":")[0] for q in vault.quarantined] == [
        "its content is not understood",
        "it holds another record than its name says",
    ]


def test_size_on_disk_is_known_beforehand(tmp_path: Path) -> None:
    """A record takes its msgpack size and 100 bytes: what a reducer may count on."""
    vault = opened(tmp_path)
    vault.put(record(1))
    assert vault.n_bytes == len(msgspec.msgpack.encode(record(1))) + OVERHEAD_BYTES
    assert OVERHEAD_BYTES == 100


def test_a_half_written_key_file_is_gone_after_the_next_start(tmp_path: Path) -> None:
    """It may hold a key in the clear: whoever opens the vault to write deletes it, and says so."""
    Vault(tmp_path / "vault", "device", FileKey(tmp_path / "device.key"))
    (tmp_path / ".device.key.0badf00d.tmp").write_text("half a key")
    notices = Vault(tmp_path / "vault", "device", FileKey(tmp_path / "device.key")).notices
    assert not list(tmp_path.glob(".device.key*"))
    assert any("device.key" in notice for notice in notices)
