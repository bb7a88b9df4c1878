"""One contract over SQLite and PostgreSQL: what is committed stays, counts once, and is what one worker would make."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest
import workers
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from fogs import LAYOUT, body, head, plan, vector
from numpy.typing import NDArray
from servers import Postgres
from sqlalchemy import create_engine, inspect
from workers import submit

from evergrove.adapters import fog_database
from evergrove.adapters.fog_database import REVISION, Database, sqlite_url, tables
from evergrove.adapters.fog_store import FogStore
from evergrove.core import fog
from evergrove.core.errors import CorruptState, Unreachable, UpdateRefused, UsageError
from evergrove.core.fog import Cohort, Receipt
from evergrove.rules import aggregate, params, tokens
from evergrove.runtime.fog_service import Answer, FogService

Open = Callable[[], FogService]


@pytest.fixture
def opener(tmp_path: Path, url: str | None) -> Iterator[Open]:
    """Opens worker after worker over one store."""
    stores = []

    def one() -> FogService:
        stores.append(FogStore(tmp_path / "fog", url))
        return FogService("north", stores[-1], lambda: 100.0)

    yield one
    for store in stores:
        store.close()


def planned(worker: FogService, *devices: str, **changes: object) -> FogService:
    """A worker whose fog has a plan and these devices."""
    for device in devices:
        worker.feed(fog.DeviceEnrolled(device))
    worker.open(plan(**changes), LAYOUT)
    return worker


def total_of(worker: FogService, cohort: Cohort) -> NDArray[np.float32]:
    """A handed-over sum."""
    return params.decode(worker.store.read_sum(cohort), LAYOUT)


def files(tmp_path: Path, kind: str) -> list[str]:
    """What lies in a folder of the store."""
    return sorted(path.name for path in (tmp_path / "fog" / kind).iterdir())


def test_a_cohort_lives_through_a_restart_between_any_two_steps(opener: Open, tmp_path: Path) -> None:
    """Each step by a worker that has just been opened: counted, repeated, summed, handed over; nothing is left over."""
    planned(opener(), "a", "b", "c").store.close()
    for i, device in enumerate("abc"):
        assert submit(opener(), device, body(i)) == Receipt(head(device, body(i)).token, Cohort(1, 0), False)
    assert submit(opener(), "a", body(0)) == Receipt(head("a", body(0)).token, Cohort(1, 0), True)
    assert len(files(tmp_path, "bodies")) == 3
    worker = opener()
    worker.start()
    worker.work()
    assert files(tmp_path, "bodies") == []
    (ready,) = opener().ready()
    assert (ready.cohort, ready.epsilon) == (Cohort(1, 0), None)
    assert np.allclose(total_of(opener(), Cohort(1, 0)), sum(vector(i) for i in range(3)), atol=1e-6)
    opener().handed_over(Cohort(1, 0))
    assert opener().ready() == []
    kinds = " ".join(type(event).__name__ for _, _, event in opener().store.events())
    assert kinds == (
        "DeviceEnrolled DeviceEnrolled DeviceEnrolled GenerationPlanned UpdateCounted UpdateCounted UpdateCounted "
        "CohortClosed UpdateRepeated FogStarted CohortSummed CohortHandedOver"
    )
    (entry,) = opener().store.history()
    assert (entry.noise, entry.epsilon, entry.sum) == ("none", None, ready.digest)
    assert opener().store.layout(1)[0] == LAYOUT


def test_a_refused_update_leaves_an_event_and_no_file(opener: Open, tmp_path: Path) -> None:
    """Wrong bytes, wrong numbers, wrong device; each in words."""
    worker = planned(opener(), "a")
    nan = body(1)[:-4] + np.array([np.nan], "<f4").tobytes()
    short = head("a", body(1))
    for device, data, update, word in (
        ("a", nan, None, "not finite"),
        ("x", body(1), None, "unknown device"),
        ("a", body(1)[:-1] + b"x", short, "wrong digest"),
        ("a", body(1)[:-1], short, "wrong size"),
        ("a", body(1) + b"x", short, "wrong size"),
        ("a", body(1), head("b", body(1)), "token of another"),
    ):
        answer = submit(worker, device, data, update=update)
        assert isinstance(answer, UpdateRefused)
        assert answer.reason == word
    assert files(tmp_path, "bodies") == []
    refused = [event.reason for _, _, event in worker.store.events() if isinstance(event, fog.UpdateRefused)]
    assert refused == ["not finite", "unknown device", "wrong digest", "wrong size", "wrong size", "token of another"]
    assert worker.store.state().n_updates == 0


def test_one_token_with_two_bodies_in_one_batch_counts_the_first(opener: Open) -> None:
    """And its file is the one that is kept."""
    worker = planned(opener(), "a", cohort=1, cohort_min=1)
    batch = []
    for seed in (1, 2):
        update = head("a", body(seed))
        upload = worker.store.bodies.begin(update.digest, update.n_bytes)
        upload.write(body(seed))
        batch.append(worker.measure("a", update, upload))
    first, second = worker.decide(batch)
    assert isinstance(first, Receipt)
    assert isinstance(second, UpdateRefused)
    worker.work()
    assert np.allclose(total_of(worker, Cohort(1, 0)), vector(1))


def test_a_plan_that_another_worker_opened_is_known_at_once(opener: Open) -> None:
    """A no by an old plan is looked up before it is said; a yes is decided on the state as it is."""
    first, second = planned(opener(), "a"), opener()
    second.start()
    later = msgspec.structs.replace(LAYOUT, generation=2)
    first.open(plan(generation=2, layout=later.digest), later)
    token = tokens.token_of("a", 2, bytes(16))
    fresh = head("a", body(1), generation=2, token=token)
    assert second.offer("a", fresh)
    assert isinstance(submit(second, "a", body(1), update=fresh), Receipt)
    stale = head("a", body(1), 7)
    assert second.offer("a", stale), "by the old plan"
    answer = submit(second, "a", body(1), update=stale)
    assert isinstance(answer, UpdateRefused)
    assert answer.reason == "wrong generation"
    (answer,) = first.decide([(fog.UpdateOffered("a", head("a", body(1), 8, generation=2, token=token)), "")])
    assert isinstance(answer, Receipt)
    first.feed(fog.DeviceEnrolled("b"))
    mine = head("b", body(1), generation=2, token=tokens.token_of("b", 2, bytes(16)))
    (answer,) = first.decide([(fog.UpdateOffered("b", mine), "")])
    assert isinstance(answer, UpdateRefused)
    assert answer.reason == "busy"


def test_a_new_generation_ends_the_old_ones_tokens_and_open_updates(opener: Open, tmp_path: Path) -> None:
    """A closed cohort is still summed; the plan of an older generation, or another layout, is refused."""
    worker = planned(opener(), *"abc", cohort=2)
    for device in "abc":
        submit(worker, device, body(1))
    second = params.Layout(LAYOUT.base, LAYOUT.basis, 2, LAYOUT.vocabulary, LAYOUT.slots)
    worker.open(plan(generation=2, layout=second.digest), second)
    worker.work()
    assert files(tmp_path, "bodies") == []
    assert [ready.cohort for ready in worker.ready()] == [Cohort(1, 0)]
    with pytest.raises(UsageError, match="generation 1 was refused"):
        worker.open(plan(), LAYOUT)
    with pytest.raises(UsageError, match="the layout is not"):
        worker.open(plan(generation=2), second)
    terms = worker.terms()
    assert terms is not None
    assert (terms.epsilon, terms.cohort, terms.plan.generation) == (None, 0, 2)
    assert "ε = ∞" in terms.protection
    with pytest.raises(CorruptState, match="no generation 9"):
        worker.store.layout(9)


def test_time_closes_a_cohort_and_a_dead_workers_sum_is_taken_up(opener: Open) -> None:
    """The worker that closed it dies with its orders; another one's tick does the rest."""
    worker = planned(opener(), "a", "b")
    for device in "ab":
        submit(worker, device, body(1))
    later = opener()
    later._now_s = lambda: 161.0
    later.feed(fog.TimePassed())
    other = opener()
    other.tick()
    other.work()
    assert [ready.cohort for ready in other.ready()] == [Cohort(1, 0)]


def test_what_a_kill_left_is_swept_away(opener: Open, tmp_path: Path) -> None:
    """A body without a row, a body of a cohort that is over, a sum that the cloud has."""
    worker = planned(opener(), "a", cohort=1, cohort_min=1)
    submit(worker, "a", body(1))
    parts = worker.store.parts(Cohort(1, 0))
    data = worker.store.bodies.read(parts[0].file, 10**6)
    worker.work()
    (tmp_path / "fog" / "bodies" / parts[0].file).write_bytes(data)
    worker.store.bodies.begin("ab" * 32, 5).write(b"half")
    worker.handed_over(Cohort(1, 0))
    worker.store.tidy()
    assert len(files(tmp_path, "bodies")) == 2, "they may be on their way"
    worker.store.tidy(orphan_s=0.0)
    assert (files(tmp_path, "bodies"), files(tmp_path, "sums")) == ([], [])
    with pytest.raises(CorruptState, match="not kept any more"):
        worker.store.read_sum(Cohort(1, 0))


def test_an_update_that_rots_on_the_disk_is_not_summed(opener: Open, tmp_path: Path) -> None:
    """Its cohort is withheld, with an event, and the next one goes on."""
    worker = planned(opener(), "a", "b", cohort=1, cohort_min=1)
    submit(worker, "a", body(1))
    (name,) = files(tmp_path, "bodies")
    path = tmp_path / "fog" / "bodies" / name
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    submit(worker, "b", body(2))
    worker.work()
    assert [ready.cohort for ready in worker.ready()] == [Cohort(1, 1)]
    (withheld,) = [event for _, _, event in worker.store.events() if isinstance(event, fog.CohortWithheld)]
    assert "altered on the disk" in withheld.reason
    assert files(tmp_path, "bodies") == []


def test_several_workers_give_the_sums_of_one(opener: Open, tmp_path: Path) -> None:
    """Four threads with a store each, 40 devices, each update sent to two of them: counted once, and sums are exact."""
    names = [f"d{i:02d}" for i in range(40)]
    planned(opener(), *names, cohort=10, cohort_min=1)
    answers: list[Answer] = []

    def serve(mine: list[str]) -> None:
        worker = opener()
        for name in mine:
            answers.append(submit(worker, name, body(names.index(name))))
            worker.work()

    threads = [
        threading.Thread(target=serve, args=(names[n::2] if n < 2 else names[3 - n :: 2][::-1],)) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    summed_as_by_one(opener, names, answers)
    assert files(tmp_path, "bodies") == []


def test_several_processes_give_the_sums_of_one(server: Postgres, tmp_path: Path) -> None:
    """The same by four processes on one PostgreSQL, begun at the same time: no lock of this process helps them."""
    url, names = server.url(), [f"d{i:02d}" for i in range(40)]
    store = FogStore(tmp_path / "fog", url)
    with closing(store):
        planned(FogService("north", store, lambda: 100.0), *names, cohort=10, cohort_min=1)
        devices = [(name, i) for i, name in enumerate(names)]
        shares = [devices[n::2] if n < 2 else devices[3 - n :: 2][::-1] for n in range(4)]
        done = workers.in_processes(tmp_path / "fog", url, shares)
        assert len({pid for pid, _ in done} - {os.getpid()}) == 4
        answers = [answer for _, given in done for answer in given]
        summed_as_by_one(lambda: FogService("north", store, lambda: 100.0), names, answers)
    assert files(tmp_path, "bodies") == []


def summed_as_by_one(opener: Open, names: list[str], answers: Sequence[object]) -> None:
    """Each of 40 devices sent its update twice and counts once; four cohorts of ten, each with exactly their sum."""
    assert len(answers) == 80
    receipts = [answer for answer in answers if isinstance(answer, Receipt)]
    assert len(receipts) == 80, [str(answer) for answer in answers if not isinstance(answer, Receipt)]
    assert sum(not receipt.repeated for receipt in receipts) == 40
    worker = opener()
    worker.tick()
    worker.work()
    cohort_of = {receipt.token: receipt.cohort for receipt in receipts}
    assert [ready.cohort for ready in worker.ready()] == [Cohort(1, n) for n in range(4)]
    for number in range(4):
        tokens = sorted(token for token, cohort in cohort_of.items() if cohort.number == number)
        assert len(tokens) == 10
        numbers = {head(name, body(i)).token: vector(i) for i, name in enumerate(names)}
        alone = aggregate.total(
            (numbers[token] for token in tokens), LAYOUT.n_numbers, worker.store.layout(1)[1]
        ).values
        assert worker.store.read_sum(Cohort(1, number)) == params.encode(alone, LAYOUT, "float32")


def test_old_events_make_room(opener: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log is bounded; numbers go on."""
    monkeypatch.setattr("evergrove.adapters.fog_store.EVENTS_KEPT", 3)
    monkeypatch.setattr("evergrove.adapters.fog_store.COMPACT_EVERY", 5)
    worker = opener()
    for i in range(10):
        worker.feed(fog.DeviceEnrolled(f"d{i}"))
    assert [seq for seq, _, _ in worker.store.events()] == [8, 9, 10]
    assert [seq for seq, _, _ in worker.store.events(after_seq=9)] == [10]


def test_a_database_that_cannot_be_is_named(tmp_path: Path, server: Postgres) -> None:
    """A wrong kind, no URL, nobody there."""
    for bad in ("mysql://x/y", "nonsense", "sqlite://"):
        with pytest.raises(UsageError, match="sqlite:////"):
            Database(bad)
    with pytest.raises(Unreachable, match="does not answer"):
        Database(f"postgresql://nobody@/nothing?host={tmp_path}")
    with pytest.raises(Unreachable, match="does not answer"):
        Database(f"sqlite:///{tmp_path}/missing/fog.db")


def test_the_tables_are_those_that_the_migrations_make(opener: Open, tmp_path: Path, url: str | None) -> None:
    """Alembic finds nothing to change between its newest step and what the store is written for."""
    opener().start()
    link = create_engine(
        sqlite_url(tmp_path / "fog" / "fog.db") if url is None else url.replace("postgresql:", "postgresql+psycopg:")
    )
    with link.connect() as connection:
        context = MigrationContext.configure(connection)
        assert context.get_current_revision() == REVISION
        found = inspect(connection)
        for table in tables.tables.values():
            assert {column["name"] for column in found.get_columns(table.name)} == set(table.columns.keys())
    link.dispose()
    config = Config()
    config.set_main_option("script_location", str(Path(fog_database.__file__).parent / "fog_migrations"))
    assert ScriptDirectory.from_config(config).get_current_head() == REVISION
