"""Offloading, both sides in one process: assists are made once and checked, trusted work is sealed and the same."""

import contextlib
import gc
import hashlib
import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from evergrove.adapters.assists import Assists
from evergrove.adapters.images import encode_png
from evergrove.adapters.keys import FileKey
from evergrove.adapters.letters import new_key_pair, open_letter, seal_letter
from evergrove.adapters.release import Release, open_release
from evergrove.adapters.vault import Record, Vault
from evergrove.adapters.versions import Versions
from evergrove.core import effects as do
from evergrove.core import events as ev
from evergrove.core import transport
from evergrove.core.conditions import Vocabulary
from evergrove.core.config import Config, Learn
from evergrove.core.config import Fog as FogConfig
from evergrove.core.config import load as load_config
from evergrove.core.errors import ConfigError, EvergroveError, InvalidInput, Unreachable, UsageError
from evergrove.core.jobs import Train
from evergrove.core.ports import Fog
from evergrove.core.release import sha256_hex
from evergrove.learn import assist
from evergrove.learn.adapter import blank_adapter
from evergrove.learn.adapter_file import adapter_bytes, adapter_of_bytes
from evergrove.learn.trainer import train
from evergrove.media.packs import read_pack
from evergrove.rules import trust
from evergrove.runtime import assembly, tasks
from evergrove.runtime import fog as fogs
from evergrove.runtime.fog import LocalFog
from evergrove.runtime.offload import ANSWER, REQUEST, Fogs, Offload

SIGNING = bytes(range(32))
LETTERS, _ = new_key_pair()
SETTINGS = assist.Settings(n_trajectories=16, steps=2, n_fisher=16, k=2, n_rehearsal=8, draw_steps=2)
LEARN = Learn(steps=4, batch=8, rate=5e-3, checkpoint_every=4)
NOW_S = 1_000_000.0
SECRET = "Grandma smiles"


class Wire:
    """A fog as it is reached over a line that keeps what went over it, and may change or lose it."""

    def __init__(self, fog: LocalFog, change: Callable[[bytes], bytes] = lambda data: data) -> None:
        self.fog, self.change = fog, change
        self.requests: list[bytes] = []
        self.n_assists = 0

    @property
    def peer(self) -> str:
        return self.fog.peer

    def assist(self, release: str) -> bytes:
        self.n_assists += 1
        return self.change(self.fog.assist(release))

    def trusted(self, request: bytes) -> bytes:
        self.requests.append(request)
        return self.change(self.fog.trusted(request))


class Home:
    """A device's folder without its processes: a vault with observations of a condition that the user invented."""

    def __init__(self, root: Path, release: Release, seed: int = 0, n: int = 10, name: str = SECRET) -> None:
        self.root, self.release = root, release
        root.mkdir()
        (root / "identity.json").write_bytes(msgspec.json.encode({"device": "d1"}))
        self.vault = Vault(root / "vault", "d1", FileKey(root / "device.key"))
        self.versions = Versions(root / "versions")
        self.versions.recover()
        self.vocabulary = release.manifest.vocabulary.extend({"emotion": name})
        self.vault.save_names(self.vocabulary)
        pack = read_pack(release.path_of(release.manifest.rehearsal))
        rng = np.random.default_rng(seed)
        self.fresh: tuple[str, ...] = ()
        for i in range(n):
            media = encode_png(255 - pack.images[int(rng.integers(len(pack)))])
            known = self.vocabulary.decode(tuple(int(k) for k in pack.codes[i]))
            condition = {**known, "emotion": name} if i < n - 2 else known
            code = self.vocabulary.encode(condition)
            sha256 = hashlib.sha256(media).hexdigest()
            self.vault.put(Record(f"{i:032x}", media, condition, code, "train", b"", i, float(i), sha256))
            if i < n - 2:
                self.fresh += (f"{i:032x}",)
        self.ledger: list[ev.BytesSent] = []

    def offload(self, fog: Fog | None, config: Config | None = None, now_s: float = NOW_S) -> Offload:
        """The device's side, with that fog for both kinds of help."""
        config = config or CONFIG
        ledger = self.ledger.append
        return Offload(
            self.root, config, self.release, self.vault, self.versions, Fogs(fog, fog), lambda: now_s, ledger
        )

    def send(self, parent: str | None = None) -> do.SendTrusted:
        """The reducer's order."""
        return do.SendTrusted("job-00001", parent, self.fresh, LEARN.steps)


def fog_at(folder: Path, release: Release, now_s: float = NOW_S, **changes: Any) -> LocalFog:
    """A fog for the tiny release."""
    parts = {"signing_key": SIGNING, "letter_key": LETTERS, "settings": SETTINGS} | changes
    return LocalFog(folder, [release], now_s=lambda: now_s, **parts)


@pytest.fixture(scope="session")
def release() -> Release:
    """The tiny release."""
    return open_release("tiny")


@pytest.fixture(scope="session")
def fog(tmp_path_factory: pytest.TempPathFactory, release: Release) -> LocalFog:
    """One fog for all tests that leave it alone."""
    return fog_at(tmp_path_factory.mktemp("fog"), release)


_KEYS = LocalFog(Path("unused"), [], SIGNING, LETTERS, lambda: NOW_S)
CONFIG = Config(learn=LEARN, fog=FogConfig(assist_key=_KEYS.assist_key, trusted_key=_KEYS.trusted_key))


@pytest.fixture
def home(tmp_path: Path, release: Release) -> Home:
    """A device's folder."""
    return Home(tmp_path / "device", release)


# ---- assisted --------------------------------------------------------------------------------------------------------


def test_an_assist_is_fetched_once_and_kept(fog: LocalFog, home: Home) -> None:
    """The first job asks the fog, the second finds it here; the ledger has the request's bytes, once."""
    wire, order = Wire(fog), do.FetchAssist("job-00001", home.release.manifest_hash)
    first = home.offload(wire).fetch(order)
    assert isinstance(first, ev.AssistReceived)
    assert first.n_bytes > 100_000
    second = home.offload(wire).fetch(msgspec.structs.replace(order, job="job-00002"))
    assert second == ev.AssistReceived("job-00002", first.assist, 0)
    assert wire.n_assists == 1
    n_bytes = len(transport.encode(transport.AssistRequest(order.release)))
    assert home.ledger == [ev.BytesSent("assist_request", n_bytes, "local fog")]


def test_a_fog_computes_once_and_signs_anew_in_time(tmp_path: Path, release: Release) -> None:
    """One computation for all devices and restarts; past half of the signature's time the same body is signed again."""
    name = release.manifest_hash
    early = fog_at(tmp_path, release)
    first, again = early.assist(name), early.assist(name)
    later = fog_at(tmp_path, release, now_s=NOW_S + 0.6 * fogs.VALID_S)
    third = later.assist(name)
    assert first == again
    assert (early.n_computed, later.n_computed) == (1, 0)
    assert third != first
    assert trust.body_of(third) == trust.body_of(first)
    other = fog_at(tmp_path, release, settings=msgspec.structs.replace(SETTINGS, seed=1))
    assert trust.body_of(other.assist(name)) != trust.body_of(first)
    with pytest.raises(UsageError, match="does not serve"):
        early.assist("00" * 32)


def test_a_bad_assist_is_not_stored(fog: LocalFog, home: Home) -> None:
    """Altered, expired, by another key, or none at all: the job is told why, and nothing lies in the folder."""
    order = do.FetchAssist("job-00001", home.release.manifest_hash)

    def gone(data: bytes) -> bytes:
        raise Unreachable("the fog does not answer")

    other = Config(fog=FogConfig(assist_key="11" * 32))
    small = msgspec.structs.replace(CONFIG, fog=msgspec.structs.replace(CONFIG.fog, assist_bytes_max=1000))
    for offload, reason in (
        (home.offload(Wire(fog, lambda data: data[:-1] + b"!")), "not what was signed"),
        (home.offload(Wire(fog, lambda data: data[:50])), "cut short"),
        (home.offload(Wire(fog), now_s=NOW_S + 2 * fogs.VALID_S), "expired"),
        (home.offload(Wire(fog), other), "not signed by the key"),
        (home.offload(Wire(fog), small), "at most 1000"),
        (home.offload(Wire(fog, gone)), "does not answer"),
        (home.offload(Wire(fog), Config()), "fog.assist_key"),
        (home.offload(None), "fog.assist_key"),
    ):
        failed = offload.fetch(order)
        assert isinstance(failed, ev.OffloadFailed)
        assert reason in failed.reason
    wrong = home.offload(Wire(fog)).fetch(msgspec.structs.replace(order, release="00" * 32))
    assert isinstance(wrong, ev.OffloadFailed)
    assert Assists(home.root / "assists").find(home.release.manifest_hash) is None


def test_a_stored_assist_is_asked_for_anew_when_its_time_is_over(tmp_path: Path, release: Release, home: Home) -> None:
    """The device's copy is verified at every job: expired, it is replaced by the fog's fresh signature."""
    order = do.FetchAssist("job-00001", release.manifest_hash)
    home.offload(fog_at(tmp_path / "fog", release)).fetch(order)
    later_s = NOW_S + 1.5 * fogs.VALID_S
    wire = Wire(fog_at(tmp_path / "fog", release, now_s=later_s))
    again = home.offload(wire, now_s=later_s).fetch(order)
    assert isinstance(again, ev.AssistReceived)
    assert (wire.n_assists, wire.fog.n_computed) == (1, 0)


def test_a_worker_trains_with_the_assist(fog: LocalFog, home: Home, tmp_path: Path, monkeypatch: Any) -> None:
    """The job names the assist by hash: it is trained with, without a teacher; an altered one is refused."""
    received = home.offload(fog).fetch(do.FetchAssist("job-00001", home.release.manifest_hash))
    assert isinstance(received, ev.AssistReceived)
    job = Train(str(home.root), str(home.release.folder), None, home.fresh, LEARN, 7, received.assist, True)
    trained = tasks.train(job, tmp_path / "job", Unhurried(), lambda *_: None)
    alone = msgspec.structs.replace(job, assist=None)
    other = tasks.train(alone, tmp_path / "alone", Unhurried(), lambda *_: None)
    assert trained.candidate != other.candidate
    path = home.root / "assists" / f"{received.assist}.assist"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(InvalidInput, match="altered"):
        tasks.train(job, tmp_path / "again", Unhurried(), lambda *_: None)


class Unhurried:
    """A pace that never waits."""

    within = None

    def micro_batch(self, rows: int) -> int:
        return rows

    def aside(self) -> None:
        return None


# ---- trusted ---------------------------------------------------------------------------------------------------------


def test_the_fog_trains_the_very_same_task(fog: LocalFog, home: Home, tmp_path: Path) -> None:
    """The candidate that comes back is, to the bit, the one that this device would have made, names and all."""
    finished = home.offload(fog).hand_over(home.send(), seed=7)
    assert isinstance(finished, ev.TrainingFinished)
    parts = assembly.open_parts(home.release)
    records = list(home.vault.all("train"))

    def samples(fresh: bool) -> Any:
        mine = [r for r in records if (r.id in home.fresh) == fresh]
        return assembly.samples_of(((r.media, home.vocabulary.encode(r.condition)) for r in mine), 32, 5)

    lesson = assembly.Lesson(samples(True), samples(False), None, home.vocabulary, 7)
    own = train(assembly.task_of(parts, lesson, LEARN), tmp_path / "own")
    assert finished.candidate == own.sha256
    assert (finished.steps, finished.job) == (LEARN.steps, "job-00001")
    assert adapter_of_bytes(home.versions.load(finished.candidate)).vocabulary == home.vocabulary


def test_it_goes_on_from_an_incumbent(fog: LocalFog, home: Home) -> None:
    """A second job sends B without the user's names; it may know fewer conditions than the device does by now."""
    first = home.offload(fog).hand_over(home.send(), seed=1)
    assert isinstance(first, ev.TrainingFinished)
    home.vault.save_names(home.vocabulary.extend({"emotion": "second"}))
    second = home.offload(fog).hand_over(home.send(first.candidate), seed=2)
    assert isinstance(second, ev.TrainingFinished), second
    assert second.candidate != first.candidate


def test_nothing_leaves_without_a_named_key(fog: LocalFog, home: Home) -> None:
    """No key, no fog, or another fog's key: nothing readable is sent, and nothing unnamed is in the ledger."""
    wire = Wire(fog)
    refused = home.offload(wire, msgspec.structs.replace(CONFIG, fog=FogConfig())).hand_over(home.send(), 0)
    assert isinstance(refused, ev.OffloadFailed)
    assert "fog.trusted_key" in refused.reason
    assert isinstance(home.offload(None).hand_over(home.send(), 0), ev.OffloadFailed)
    assert (wire.requests, home.ledger) == ([], [])
    _, stranger = new_key_pair()
    named = FogConfig(trusted_key=stranger.hex() + CONFIG.fog.trusted_key[64:])
    refused = home.offload(wire, msgspec.structs.replace(CONFIG, fog=named)).hand_over(home.send(), 0)
    assert isinstance(refused, ev.OffloadFailed)
    assert "another key" in refused.reason


def test_every_byte_is_in_the_ledger_before_it_leaves(fog: LocalFog, home: Home) -> None:
    """The entry has the size of the whole request; where the ledger cannot write, nothing is sent."""
    wire = Wire(fog)
    home.offload(wire).hand_over(home.send(), 0)
    assert home.ledger == [ev.BytesSent("trusted_request", len(wire.requests[0]), "local fog")]

    def full(fact: ev.BytesSent) -> None:
        raise UsageError("no room in the log")

    parts = (home.root, CONFIG, home.release, home.vault, home.versions, Fogs(wire, wire), lambda: NOW_S, full)
    failed = Offload(*parts).hand_over(home.send(), 0)
    assert isinstance(failed, ev.OffloadFailed)
    assert len(wire.requests) == 1


def test_two_devices_send_the_same_but_for_the_letter(fog: LocalFog, release: Release, tmp_path: Path) -> None:
    """Other pictures, another number of them, another invented name: equal outside of ``letter``, and of equal size."""
    sent = []
    for i, (n, name) in enumerate([(6, "love"), (10, SECRET)]):
        wire = Wire(fog)
        home = Home(tmp_path / str(i), release, seed=i, n=n, name=name)
        assert isinstance(home.offload(wire).hand_over(home.send(), 0), ev.TrainingFinished)
        sent.append(wire.requests[0])
        assert name.encode() not in wire.requests[0]
    first, second = (msgspec.to_builtins(transport.decode(data)) for data in sent)
    variable = transport.VARIABLE[transport.TrustedRequest]
    assert {k: v for k, v in first.items() if k not in variable} == {
        k: v for k, v in second.items() if k not in variable
    }
    assert first["letter"] != second["letter"]
    assert len(sent[0]) == len(sent[1])


def test_the_fog_never_learns_the_user_s_names(fog: LocalFog, home: Home) -> None:
    """Opened with the fog's own key, a letter has numbers where the user had words."""
    wire = Wire(fog)
    first = home.offload(wire).hand_over(home.send(), 0)
    assert isinstance(first, ev.TrainingFinished)
    home.offload(wire).hand_over(home.send(first.candidate), 0)
    for request in wire.requests:
        message = transport.decode(request)
        assert isinstance(message, transport.TrustedRequest)
        content = open_letter(LETTERS, REQUEST, message.letter, 64 << 20)
        assert SECRET.encode() not in content
        assert len(transport.decode_work(content).fresh) == len(home.fresh)


def test_an_answer_is_believed_only_as_signed_for_this_request(fog: LocalFog, home: Home, release: Release) -> None:
    """Altered on the way, an old answer again, signed by a stranger, or for other conditions: refused each time."""
    answers: list[bytes] = []

    def first_again(data: bytes) -> bytes:
        answers.append(data)
        return answers[0]

    def altered(data: bytes) -> bytes:
        return data[:-1] + bytes([data[-1] ^ 1])

    class Stranger(LocalFog):
        """Holds the letter key, but signs with a key of its own."""

    stranger = Stranger(home.root / "stranger", [release], bytes(32), LETTERS, lambda: NOW_S)
    wire = Wire(fog, first_again)
    assert isinstance(home.offload(wire).hand_over(home.send(), 0), ev.TrainingFinished)
    for fog_again, reason in (
        (wire, "another key"),  # sealed for the one-time key of the first request
        (Wire(fog, altered), "altered"),
        (Wire(stranger), "not signed by the key"),
    ):
        failed = home.offload(fog_again).hand_over(home.send(), 0)
        assert isinstance(failed, ev.OffloadFailed)
        assert reason in failed.reason


def test_an_answer_to_another_request_is_refused(fog: LocalFog, home: Home) -> None:
    """Even sealed for the right one-time key: the signature names the request that it answers."""

    class Mixer:
        """Knows both keys of the fog, and answers with what it made of another request of this device."""

        peer = "mixer"

        def assist(self, release: str) -> bytes:
            raise AssertionError("not asked for")

        def trusted(self, request: bytes) -> bytes:
            message = transport.decode(request)
            assert isinstance(message, transport.TrustedRequest)
            content = open_letter(LETTERS, REQUEST, message.letter, 64 << 20)
            again = transport.TrustedRequest(message.release, seal_letter(home_key(), REQUEST, content))
            return fog.trusted(transport.encode(again))

    def home_key() -> bytes:
        return bytes.fromhex(CONFIG.fog.trusted_key)[:32]

    failed = home.offload(Mixer()).hand_over(home.send(), 0)
    assert isinstance(failed, ev.OffloadFailed)
    assert "another request" in failed.reason


def work_for(home: Home, **changes: Any) -> transport.TrustedWork:
    """A fair piece of work, changed."""
    media = home.vault.get(home.fresh[0]).media
    good = transport.TrustedWork(
        release=home.release.manifest_hash,
        vocabulary=home.release.manifest.vocabulary,
        parent=None,
        fresh=(transport.Shown(media, (1, 0, 0, 0, 0)),),
        known=(),
        strategy="naive",
        steps=1,
        batch=4,
        seed=0,
        reply_to=new_key_pair()[1],
    )
    return msgspec.structs.replace(good, **changes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"release": "00" * 32}, "another release than its envelope"),
        ({"fresh": ()}, "1 to 4096"),
        ({"steps": 0}, "0 steps"),
        ({"steps": 10**9}, "steps of 4"),
        ({"batch": 10**9}, "steps of 1000000000"),
        ({"rate": float("nan")}, "learning rate of nan"),
        ({"rate": 2.0}, "learning rate of 2.0"),
        ({"vocabulary": Vocabulary(())}, "do not extend"),
        ({"fresh": (transport.Shown(b"", (9, 0, 0, 0, 0)),)}, "outside of the work's vocabulary"),
        ({"known": (transport.Shown(b"", (1,)),)}, "outside of the work's vocabulary"),
        ({"fresh": (transport.Shown(b"no picture", (1, 0, 0, 0, 0)),)}, "known format"),
        ({"parent": b"no adapter"}, "safetensors"),
        ({"strategy": "magic"}, "unknown strategy"),
        ({"reply_to": b"short"}, "public key"),
        ({"version": 2}, "version 2"),
    ],
)
def test_a_fog_checks_what_it_is_asked(fog: LocalFog, home: Home, changes: dict[str, Any], reason: str) -> None:
    """Bounds, vocabulary, media, adapter: everything from outside is checked, even from its owner's own device."""
    content = transport.encode_work(work_for(home, **changes))
    letter = seal_letter(bytes.fromhex(CONFIG.fog.trusted_key)[:32], REQUEST, content)
    request = transport.encode(transport.TrustedRequest(home.release.manifest_hash, letter))
    with pytest.raises((InvalidInput, UsageError), match=reason):
        fog.trusted(request)


def test_a_picture_of_another_size_is_refused(fog: LocalFog, home: Home) -> None:
    """Records have the release's size; others would be learnt wrongly."""
    shown = transport.Shown(
        encode_png(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)), (1, 0, 0, 0, 0)
    )
    letter = seal_letter(
        bytes.fromhex(CONFIG.fog.trusted_key)[:32], REQUEST, transport.encode_work(work_for(home, fresh=(shown,)))
    )
    with pytest.raises(InvalidInput, match="this release's are"):
        fog.trusted(transport.encode(transport.TrustedRequest(home.release.manifest_hash, letter)))


def test_a_fog_without_a_letter_key_takes_no_trusted_work(tmp_path: Path, home: Home, fog: LocalFog) -> None:
    """It has no trusted key to show, and refuses; another kind of message is refused by every fog."""
    bare = fog_at(tmp_path / "bare", home.release, letter_key=None)
    with pytest.raises(UsageError, match="without a letter key"):
        _ = bare.trusted_key
    request = transport.encode(transport.TrustedRequest(home.release.manifest_hash, b""))
    with pytest.raises(UsageError, match="takes no trusted work"):
        bare.trusted(request)
    with pytest.raises(InvalidInput, match="assist_request"):
        fog.trusted(transport.encode(transport.AssistRequest("r")))


def test_work_that_is_too_large_or_gone_is_not_sent(fog: LocalFog, home: Home) -> None:
    """Past the limit, or with none of its records left, a job stays here; the ledger stays empty."""
    small = msgspec.structs.replace(CONFIG, fog=msgspec.structs.replace(CONFIG.fog, trusted_bytes_max=1000))
    failed = home.offload(fog, small).hand_over(home.send(), 0)
    assert isinstance(failed, ev.OffloadFailed)
    assert "fog.trusted_bytes_max = 1000" in failed.reason
    for record in home.fresh:
        home.vault.evict(record)
    failed = home.offload(fog).hand_over(home.send(), 0)
    assert isinstance(failed, ev.OffloadFailed)
    assert "none of the observations" in failed.reason
    assert home.ledger == []


def test_keys_are_checked_where_they_are_written() -> None:
    """A key of the wrong length, or not in hex, is an error of the configuration that says how long it must be."""
    assert load_config(f'[fog]\nassist_key = "{"ab" * 32}"').fog.assist_key == "ab" * 32
    for line, reason in (('assist_key = "ab"', "64 digits"), (f'trusted_key = "{"xy" * 64}"', "128 digits")):
        with pytest.raises(ConfigError, match=reason):
            load_config(f"[fog]\n{line}")


def test_the_answer_is_sealed_for_its_sender_alone(fog: LocalFog, home: Home) -> None:
    """Not even the fog's own letter key opens the answer."""
    private, public = new_key_pair()
    content = transport.encode_work(work_for(home, reply_to=public))
    letter = seal_letter(bytes.fromhex(CONFIG.fog.trusted_key)[:32], REQUEST, content)
    answer = fog.trusted(transport.encode(transport.TrustedRequest(home.release.manifest_hash, letter)))
    with pytest.raises(InvalidInput, match="another key"):
        open_letter(LETTERS, ANSWER, answer, 64 << 20)
    assert trust.body_of(open_letter(private, ANSWER, answer, 64 << 20))


# ---- trusted, many at once -------------------------------------------------------------------------------------------


def sealed(work: transport.TrustedWork) -> bytes:
    """The request that carries the work."""
    letter = seal_letter(bytes.fromhex(CONFIG.fog.trusted_key)[:32], REQUEST, transport.encode_work(work))
    return transport.encode(transport.TrustedRequest(work.release, letter))


def many(home: Home, *changes: dict[str, Any]) -> tuple[list[bytes], list[bytes]]:
    """A request for each of the changes, of four steps on four pictures of the device's own, and the key to each
    one's answer."""
    requests, keys = [], []
    vocabulary = home.release.manifest.vocabulary.extend({"emotion": "1"})
    code = vocabulary.encode({**vocabulary.decode((1, 1, 1, 1, 1)), "emotion": "1"})
    for d, change in enumerate(changes):
        private, public = new_key_pair()
        media = [home.vault.get(record).media for record in home.fresh[d % 5 : d % 5 + 4]]
        usual = {"strategy": "replay", "steps": 4, "batch": 8, "rate": 5e-3, "seed": d, "vocabulary": vocabulary}
        shown = tuple(transport.Shown(data, code) for data in media)
        requests.append(sealed(work_for(home, **usual | {"fresh": shown, "reply_to": public} | change)))
        keys.append(private)
    return requests, keys


def gathered(fog: LocalFog, requests: list[bytes]) -> list[bytes | Exception]:
    """The answers to requests that all wait while something else has the fog's place; the first is in no pass with
    others, for it came when nothing else was there."""

    def ask(request: bytes) -> bytes | Exception:
        try:
            return fog.trusted(request)
        except EvergroveError as fault:
            return fault

    with ThreadPoolExecutor(len(requests)) as threads:
        with fog.passes.place:
            first = threads.submit(ask, requests[0])
            wait_until(lambda: fog.passes.sizes == [1])
            others = [threads.submit(ask, request) for request in requests[1:]]
            wait_until(lambda: fog.passes.n_waiting + sum(other.done() for other in others) == len(others))
        return [asked.result(timeout=60) for asked in (first, *others)]


def wait_until(true: Callable[[], bool]) -> None:
    """Looks every few milliseconds, for half a minute at most."""
    end_s = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end_s
        time.sleep(0.005)


def opened(request: bytes, key: bytes, answer: bytes | Exception) -> transport.TrustedResult:
    """What an answer holds, if it is sealed for that key and signed for that request."""
    assert isinstance(answer, bytes), answer
    release = open_release("tiny").manifest_hash
    signer = bytes.fromhex(CONFIG.fog.trusted_key)[32:]
    expected = trust.Expected("candidate", release, signer, 64 << 20, about=sha256_hex(request))
    return transport.decode_result(trust.verify(open_letter(key, ANSWER, answer, 64 << 20), expected, NOW_S))


def test_alike_requests_that_wait_are_trained_in_one_pass(tmp_path: Path, home: Home) -> None:
    """Each gets what it would have got alone, to 1e-5 and the rounding of halves: its own, signed for its request."""
    requests, keys = many(home, {}, {}, {}, {})
    alone_fog, fog = fog_at(tmp_path / "alone", home.release), fog_at(tmp_path / "together", home.release)
    alone = [opened(*known, alone_fog.trusted(known[0])) for known in zip(requests, keys, strict=True)]
    together = [opened(*known) for known in zip(requests, keys, gathered(fog, requests), strict=True)]
    assert (alone_fog.passes.sizes, fog.passes.sizes) == ([1, 1, 1, 1], [1, 3])
    assert len(fog._open) == 0  # the networks went with the last request
    assert together[0].candidate == alone[0].candidate
    learnt = []
    for own, one in zip(alone, together, strict=True):
        mine, its = adapter_of_bytes(own.candidate), adapter_of_bytes(one.candidate)
        assert (its.vocabulary, its.rank, list(its.rows)) == (mine.vocabulary, mine.rank, list(mine.rows))
        for name, number in {**mine.b, **mine.rows}.items():
            torch.testing.assert_close({**its.b, **its.rows}[name], number, atol=1e-5, rtol=2**-10)
        assert one.steps == own.steps
        assert one.loss == pytest.approx(own.loss, abs=1e-5)
        assert one.seconds > 0
        learnt.append(its)
    for this, that in itertools.combinations(learnt, 2):
        assert max(float((b - that.b[name]).abs().max()) for name, b in this.b.items()) > 1e-3


def test_one_that_cannot_be_trained_fails_alone(tmp_path: Path, home: Home) -> None:
    """Malformed ones never join; one whose numbers leave all bounds falls in the pass, and the others have theirs."""
    parts = assembly.open_parts(home.release)
    start = blank_adapter(parts.model, parts.basis, home.release.manifest.vocabulary)
    mad = adapter_bytes(replace(start, b={name: torch.full_like(b, 6e4) for name, b in start.b.items()}))
    bad = {"fresh": (transport.Shown(b"no picture", (1, 0, 0, 0, 0)),)}
    requests, keys = many(home, {}, {}, bad, {"parent": mad, "seed": 1}, {"strategy": "magic"}, {})
    fog = fog_at(tmp_path / "fog", home.release)
    answers = gathered(fog, requests)
    assert fog.passes.sizes == [1, 3]
    for d, reason in ((2, "known format"), (3, "diverged at step 1 "), (4, "unknown strategy")):
        assert isinstance(answers[d], EvergroveError)
        assert reason in str(answers[d])
    for d in (0, 1, 5):
        alone = opened(requests[d], keys[d], fog.trusted(requests[d]))
        assert opened(requests[d], keys[d], answers[d]).loss == pytest.approx(alone.loss, abs=1e-5)
    answers.clear()
    gc.collect()  # of the test's own making: each error was held by a future
    with contextlib.suppress(EvergroveError):
        fog.trusted(requests[3])
    assert len(fog._open) == 0  # a failure keeps no networks


def test_a_pass_that_cannot_begin_spoils_one_alone(tmp_path: Path, home: Home) -> None:
    """An incumbent that knows more than the candidate shall shows only as training begins: the others have theirs."""
    plain = {"vocabulary": home.release.manifest.vocabulary, "fresh": work_for(home).fresh}
    fog = fog_at(tmp_path / "fog", home.release)
    (first,), (key,) = many(home, {})
    more = opened(first, key, fog.trusted(first)).candidate
    requests, keys = many(home, plain, plain, plain | {"parent": more}, plain)
    answers = gathered(fog_at(tmp_path / "other", home.release), requests)
    assert isinstance(answers[2], InvalidInput)
    for d in (0, 1, 3):
        assert opened(requests[d], keys[d], answers[d]).steps == 4


def test_what_is_not_alike_is_trained_apart(tmp_path: Path, home: Home) -> None:
    """Other steps, an A of its own, or other conditions: in passes of their own, the oldest first; nobody is lost."""
    names = home.release.manifest.vocabulary
    changes: list[dict[str, Any]] = [{}, {"steps": 3}, {"strategy": "lora"}, {}, {"strategy": "lora"}, {}, {"steps": 3}]
    plain = {"vocabulary": names, "fresh": work_for(home).fresh}
    requests, keys = many(home, *changes, plain)
    fog = fog_at(tmp_path / "fog", home.release)
    results = [opened(*known) for known in zip(requests, keys, gathered(fog, requests), strict=True)]
    assert sorted(fog.passes.sizes) == [1, 1, 1, 1, 2, 2]
    assert [result.steps for result in results] == [4, 3, 4, 4, 4, 4, 3, 4]
    own_a = [adapter_of_bytes(result.candidate).a is not None for result in results]
    assert own_a == [change.get("strategy") == "lora" for change in (*changes, plain)]


def test_a_pass_has_no_more_rows_than_fit(tmp_path: Path, home: Home) -> None:
    """At 48 rows a task two go together; of the least tasks no more than eight."""
    fog = fog_at(tmp_path / "wide", home.release)
    requests, _ = many(home, *[{"batch": 48, "strategy": "naive", "steps": 1}] * 4)
    assert all(isinstance(answer, bytes) for answer in gathered(fog, requests))
    assert fog.passes.sizes == [1, 2, 1]
    fog = fog_at(tmp_path / "small", home.release)
    requests, _ = many(home, *[{"batch": 1, "strategy": "naive", "steps": 1}] * 10)
    assert all(isinstance(answer, bytes) for answer in gathered(fog, requests))
    assert fog.passes.sizes == [1, 8, 1]


def test_a_fog_that_ends_turns_away_who_waits(tmp_path: Path, home: Home) -> None:
    """What is being trained is finished; what waits, or comes later, is told at once."""
    requests, keys = many(home, {}, {})
    fog = fog_at(tmp_path / "fog", home.release)
    with ThreadPoolExecutor(2) as threads:
        with fog.passes.place:
            first = threads.submit(fog.trusted, requests[0])
            wait_until(lambda: fog.passes.sizes == [1])
            second = threads.submit(fog.trusted, requests[1])
            wait_until(lambda: fog.passes.n_waiting == 1)
            fog.close()
            with pytest.raises(Unreachable, match="about to end"):
                second.result(timeout=30)
        assert opened(requests[0], keys[0], first.result(timeout=60)).steps == 4
    with pytest.raises(Unreachable, match="about to end"):
        fog.trusted(requests[1])
