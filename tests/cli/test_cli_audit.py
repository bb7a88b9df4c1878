"""`evergrove audit` of a device, a fog and a cloud, of an exported ledger; each broken once, so that it can fail."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest

from evergrove import bootstrap
from evergrove.adapters.fog_store import FogStore
from evergrove.adapters.log import Codec, EventLog
from evergrove.adapters.tuf_keys import new_signers
from evergrove.adapters.tuf_metadata import THRESHOLDS
from evergrove.adapters.tuf_repository import Repository
from evergrove.core import cloud_events, fog
from evergrove.core import events as ev
from evergrove.core.conditions import Factor, Vocabulary
from evergrove.core.fog import Plan
from evergrove.rules import params
from evergrove.rules.privacy import books, words
from evergrove.rules.privacy import ledger as ledgers
from evergrove.rules.privacy.accounting import epsilon_of
from evergrove.rules.privacy.blt import Blt
from evergrove.rules.privacy.ledger import Budget
from evergrove.rules.privacy.plan import NoisePlan
from evergrove.runtime import canaries
from evergrove.runtime.canaries import Attack
from evergrove.runtime.driver import recover
from evergrove.runtime.fog_noise import FogNoise, budget_of
from evergrove.runtime.fog_service import FogService
from evergrove.tiers import device as tier
from evergrove.tiers.cloud import State

VOCABULARY = Vocabulary((Factor("emotion", ("happy", "sad")),))
LAYOUT = params.Layout("22" * 32, "33" * 32, 1, VOCABULARY, (params.Slot("a.B", (3, 2)),))


@pytest.fixture
def device(release: Path, tmp_path: Path) -> Path:
    """A device whose log tells of three sendings, the first of which it does not hold any more."""
    folder = tmp_path / "device"
    bootstrap.make_device(folder, release, "")
    log = EventLog(folder / "log.sqlite", bootstrap.CODEC)
    with closing(log):
        log.append([ev.BytesSent("update", 1000, "https://fog")], 1.0)
        config = bootstrap.read_config(folder)
        log.purge(msgspec.json.encode(recover(partial(tier.step, config), log)[0]))
        log.append([ev.BytesSent("update", 500, "https://fog"), ev.BytesSent("terms_request", 20, "https://fog")], 2.0)
        log.append([ev.TermsRead("north", 1, None, "NO NOISE")], 3.0)
    return folder


def test_a_device(device: Path, evergrove, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Bytes by kind, the fog's word in large print, who is trusted; the export is checked, and its change found."""
    said = evergrove("audit", device, "--json")
    assert said.code == 0, said.err
    assert (said.json["kind"], said.json["events"], said.json["faults"]) == ("device", 3, [])
    assert [(one["category"], one["n"], one["n_bytes"]) for one in said.json["sent"]] == [
        ("update", 1, 1000), ("update", 1, 500), ("terms_request", 1, 20),
    ]  # fmt: skip
    out = tmp_path / "ledger.jsonl"
    said = evergrove("audit", device, "--export", out)
    assert said.code == 0
    assert "ε = ∞: NO BOUND" in said.out
    assert "1.5 kB" in said.out
    assert "Who is trusted with what" in said.out
    assert "the chain holds" in evergrove("audit", out).out
    lines = out.read_text().splitlines()
    assert len(lines) == 4
    lines[2] = lines[2].replace("500", "501")
    out.write_text("\n".join(lines) + "\n")
    said = evergrove("audit", out)
    assert (said.code, "the chain is broken at line 3" in said.err) == (1, True)


def test_a_device_whose_log_was_altered(device: Path, evergrove) -> None:  # type: ignore[no-untyped-def]
    """Exit 1, with the event at which the chain breaks; what can be read is told all the same."""
    with closing(sqlite3.connect(device / "log.sqlite")) as db:
        altered = "CAST(replace(CAST(payload AS TEXT), ':500', ':5') AS BLOB)"
        assert db.execute(f"UPDATE events SET payload = {altered} WHERE seq = 3").rowcount == 1
        db.commit()
    said = evergrove("audit", device, "--json")
    assert said.code == 1
    assert "event 3 was changed or damaged" in said.json["faults"][0]


@pytest.fixture
def fogs(tmp_path: Path) -> Path:
    """A fog that has handed up three noised cohorts of one device each, at ε = 1."""
    folder = tmp_path / "fog-north"
    store = FogStore(folder / "fog")
    with closing(store):
        noise = FogNoise("north", budget_of(1.0, 1e-6, None), bytes(range(32)))
        service = FogService("north", store, lambda: 100.0, noise)
        plan = Plan(
            1, LAYOUT.base, LAYOUT.basis, LAYOUT.digest, ("11" * 32,), (LAYOUT.n_bytes("float32"),), 1, 1, 60.0, 20,
            1, 4, 10.0, 100.0,
        )  # fmt: skip
        service.open(plan, LAYOUT)
        for i, name in enumerate("abc"):
            service.feed(fog.DeviceEnrolled(name))
            data = params.encode(np.full(6, 0.1 * i, np.float32), LAYOUT, "float32")
            _submit(service, name, data, i)
            service.work()
    return folder


def _submit(service: FogService, device: str, data: bytes, nonce: int) -> None:
    from evergrove.core.release import sha256_hex
    from evergrove.core.transport import Update
    from evergrove.rules import tokens

    token = tokens.token_of(device, 1, nonce.to_bytes(16, "big"))
    update = Update("11" * 32, LAYOUT.base, LAYOUT.basis, 1, token, sha256_hex(data), len(data))
    assert service.offer(device, update) or True
    upload = service.store.bodies.begin(update.digest, update.n_bytes)
    upload.write(data)
    service.decide([service.measure(device, update, upload)])


def test_a_fog(fogs: Path, evergrove) -> None:  # type: ignore[no-untyped-def]
    """Three rounds of its budget, each with its bytes; the noise is attacked under its own constants."""
    said = evergrove("audit", fogs, "--json", "--empirical", "--canaries", 400)
    assert said.code == 0, said.err
    (stream,) = said.json["streams"]
    assert (stream["fog"], stream["rounds"], stream["rounds_most"]) == ("north", 3, 20)
    assert 0 < stream["epsilon"] < 1.0
    assert [entry["cohort"] for entry in said.json["rounds"]] == [0, 1, 2]
    assert [one["category"] for one in said.json["sent"]] == ["cohort_sum"] * 3
    attack = said.json["empirical"]
    assert (attack["claim"], attack["rounds"], attack["participations"], attack["canaries"]) == (1.0, 20, 4, 400)
    said = evergrove("audit", fogs)
    assert "budget 1 a generation, 8 a lifetime" in said.out
    assert "no differential privacy from that operator" in said.out


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("UPDATE ledger SET entry = replace(entry, '\"cohort\":1', '\"cohort\":7') WHERE seq = 2", "line 2 of the ε"),
        ("DELETE FROM ledger WHERE seq = 3", "its history 2 lines"),
    ],
)
def test_a_fog_whose_books_were_altered(fogs: Path, evergrove, statement: str, fault: str) -> None:  # type: ignore[no-untyped-def]
    """A line that was changed, one that was cut off."""
    with closing(sqlite3.connect(fogs / "fog" / "fog.db")) as db:
        assert db.execute(statement).rowcount == 1
        db.commit()
    said = evergrove("audit", fogs, "--json")
    assert said.code == 1
    assert fault in said.json["faults"][0]


def test_a_fog_past_its_budget_and_with_a_line_that_says_less(fogs: Path, evergrove) -> None:  # type: ignore[no-untyped-def]
    """A budget that was lowered afterwards; a history, chained anew, that claims half of what its plan costs."""
    from evergrove.rules.privacy import history

    with closing(sqlite3.connect(fogs / "fog" / "fog.db")) as db:
        (text,) = db.execute("SELECT ledger FROM head").fetchone()
        ledger = ledgers.decode(text.encode())
        less = msgspec.structs.replace(ledger, budget=msgspec.structs.replace(ledger.budget, generation=0.05))
        db.execute("UPDATE head SET ledger = ?", (ledgers.encode(less).decode(),))
        before = ""
        for seq, line in db.execute("SELECT seq, entry FROM ledger ORDER BY seq").fetchall():
            entry = history.decode(line)
            assert entry.epsilon is not None
            line = history.encode(msgspec.structs.replace(entry, epsilon=entry.epsilon / 2))
            before = history.link(before, line)
            db.execute("UPDATE ledger SET entry = ?, chain = ? WHERE seq = ?", (line, before, seq))
        db.commit()
    said = evergrove("audit", fogs, "--json")
    assert said.code == 1
    assert "the budget is 0.05" in said.json["faults"][0]
    assert sum("its plan costs" in fault for fault in said.json["faults"]) == 3


@pytest.fixture
def cloud(release: Path, tmp_path: Path) -> Path:
    """A cloud with one release that says ε = 0 and was made of one noised cohort."""
    folder, signers = tmp_path / "cloud", new_signers(THRESHOLDS)
    repository = Repository(folder / "repository")
    repository.create(signers, 1_800_000_000.0)
    done = repository.publish(release, signers, 1_800_000_000.0, version=1, epsilon=0.7, delta=1e-6, parent=None)
    log = EventLog(folder / "log", Codec(cloud_events.encode, cloud_events.decode))
    with closing(log):
        cohort = cloud_events.CohortSum("north", 1, 0, "ab" * 32, 4000, 5, 0.7)
        log.append(
            [
                cloud_events.CohortReceived(cohort),
                cloud_events.ConsolidationBegan("job-1", ("north/1/0",)),
                cloud_events.ReleaseSigned("job-1", done.release, 1, 1),
            ],
            5.0,
        )
    return folder


def test_a_cloud(cloud: Path, evergrove) -> None:  # type: ignore[no-untyped-def]
    """Each release with what was signed of it and what its cohorts cost; one that says too little is a fault."""
    said = evergrove("audit", cloud, "--json")
    assert said.code == 0, said.err
    (release,) = said.json["releases"]
    assert (release["claimed"], release["spent"], release["cohorts"]) == (0.7, 0.7, 1)
    assert "signed" in evergrove("audit", cloud).out
    log = EventLog(cloud / "log", Codec(cloud_events.encode, cloud_events.decode))
    with closing(log):
        dear = cloud_events.CohortSum("south", 1, 0, "cd" * 32, 4000, 5, None)
        log.append(
            [
                cloud_events.CohortReceived(dear),
                cloud_events.ConsolidationBegan("job-2", ("south/1/0",)),
                cloud_events.ReleaseSigned("job-2", release["release"], 1, 1),
            ],
            6.0,
        )
    said = evergrove("audit", cloud)
    assert (said.code, "says ε = 0.7, its cohorts cost ∞" in said.err) == (1, True)
    assert evergrove("audit", cloud, "--empirical").code == 2


def test_the_ledgers_of_a_cloud(cloud: Path, evergrove) -> None:  # type: ignore[no-untyped-def]
    """By the cloud's name of each fog: from its snapshot and from its log; a round of both is there once."""
    plan = NoisePlan(1, "north", 8, 2, 2, 10, 25, 1.0, 4.2, Blt((0.5,), (0.5,)))
    noise = words.words_of(plan, Budget())
    assert noise is not None
    assert evergrove("audit", cloud, "--json").json["streams"] == []
    log = EventLog(cloud / "log", Codec(cloud_events.encode, cloud_events.decode))
    with closing(log):
        known = State(books=books.booked({}, "7", noise, 1, 4))
        log.snapshot(3, msgspec.json.encode(known))
        for fog, number in (("7", 3), ("8", 0)):
            cohort = cloud_events.CohortSum(fog, 1, number, "ab" * 32, 4000, 5, 0.7)
            log.append([cloud_events.CohortReceived(cohort, noise)], 6.0)
    said = evergrove("audit", cloud, "--json")
    assert [(one["fog"], one["rounds"]) for one in said.json["streams"]] == [("7", 5), ("8", 1)]
    assert said.json["streams"][0]["epsilon"] == pytest.approx(epsilon_of(plan.mu_squared(5), 1e-6))
    assert "ε ledgers that this cloud keeps" in evergrove("audit", cloud).out


def test_the_noise_of_settings_and_of_nothing(evergrove, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Without a folder, the noise that a fog would make; a folder that is nothing is said."""
    said = evergrove("audit", "--empirical", "--epsilon", 2, "--canaries", 500)
    assert said.code == 0, said.err
    assert "claims ε = 2" in said.out
    assert "could show" in said.out
    assert evergrove("audit").code == 2
    said = evergrove("audit", tmp_path)
    assert (said.code, "neither a device, nor a fog, nor a cloud" in said.err) == (2, True)


def test_the_adapter_of_a_device_that_has_none(device: Path, evergrove) -> None:  # type: ignore[no-untyped-def]
    """The release alone gives nothing away."""
    said = evergrove("audit", device, "--empirical")
    assert (said.code, "no personal adapter" in said.err) == (2, True)


def test_a_claim_that_the_attack_refutes_ends_with_one(fogs: Path, evergrove, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """A fog's, and that of settings: exit 1, and what was shown against what is claimed; within it, 0."""

    def found(bound: float) -> Callable[..., Attack]:
        return lambda plan, budget, canaries: Attack(
            canaries=canaries, guesses=100, correct=97, rounds=20, participations=4, bound=bound, ceiling=9.0,
            estimate=bound, estimate_error=0.1, claim=1.0, delta=1e-6,
        )  # fmt: skip

    for bound, code in ((1.01, 1), (0.99, 0)):
        monkeypatch.setattr(canaries, "attack", found(bound))
        words = ["--empirical", "--canaries", 500]
        for said in (evergrove("audit", fogs, *words), evergrove("audit", *words, "--epsilon", 1)):
            assert said.code == code, said.out
            assert ("the claim is 1: the noise is weaker than it says" in said.err) == bool(code)
        for said in (evergrove("audit", fogs, *words, "--json"), evergrove("audit", *words, "--epsilon", 1, "--json")):
            assert (said.code, len(said.json["faults"])) == (code, code)
