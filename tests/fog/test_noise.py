"""A fog's noise at work, over both databases: one stream, one ledger, one transaction; and what the budget refuses."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import sqlalchemy as sa
from fogs import LAYOUT, body, head, plan, vector
from numpy.typing import NDArray

from evergrove.adapters.fog_books import Kept
from evergrove.adapters.fog_database import sqlite_url
from evergrove.adapters.fog_store import FogStore
from evergrove.core import fog, sums
from evergrove.core.errors import BudgetSpent, CorruptState, InvalidInput, UpdateRefused, UsageError
from evergrove.core.fog import Cohort, Receipt
from evergrove.rules import params, tokens
from evergrove.rules.privacy import ledger as ledgers
from evergrove.rules.privacy.accounting import epsilon_of
from evergrove.rules.privacy.ledger import Budget
from evergrove.rules.privacy.noise import normals
from evergrove.rules.privacy.plan import NoisePlan
from evergrove.rules.privacy.quantile import N_COUNTS, bucket
from evergrove.rules.privacy.rounds import row_std
from evergrove.rules.privacy.words import plan_of
from evergrove.runtime.fog_noise import FogNoise, budget_of, empty
from evergrove.runtime.fog_service import Answer, FogService

KEY = bytes(range(32))
ONE = budget_of(1.0, 1e-6, None)
ALONE = {"cohort": 1, "cohort_min": 1, "rounds": 20, "separation": 1, "participations": 4}
Open = Callable[..., FogService]


class Chance:
    """The operating system's, as far as anybody can tell; remembers what it gave."""

    def __init__(self) -> None:
        self.rng, self.given = np.random.default_rng(7), list[bytes]()

    def __call__(self, n_bytes: int) -> bytes:
        self.given.append(self.rng.bytes(n_bytes))
        return self.given[-1]


@pytest.fixture
def opener(tmp_path: Path, url: str | None) -> Iterator[Open]:
    """Opens worker after worker over one store; noise is ε = 1 but where another is given."""
    stores = []

    def one(budget: Budget = ONE, key: bytes = KEY, chance: Callable[[int], bytes] | None = None) -> FogService:
        stores.append(FogStore(tmp_path / "fog", url))
        noise = FogNoise("north", budget, key, *([chance] if chance else []))
        return FogService("north", stores[-1], lambda: 100.0, noise)

    yield one
    for store in stores:
        store.close()


def planned(worker: FogService, *devices: str, **changes: object) -> FogService:
    """A worker whose fog has a plan and these devices."""
    for device in devices:
        worker.feed(fog.DeviceEnrolled(device))
    worker.open(plan(**{**ALONE, **changes}), LAYOUT)
    return worker


def submit(worker: FogService, device: str, data: bytes, nonce: int = 0) -> Answer:
    """As the web does it: head, body, decision."""
    update = head(device, data, nonce)
    if not worker.offer(device, update):
        return worker.decide([(fog.UpdateOffered(device, update), "")])[0]
    upload = worker.store.bodies.begin(update.digest, update.n_bytes)
    upload.write(data)
    return worker.decide([worker.measure(device, update, upload)])[0]


def handed(worker: FogService) -> list[NDArray[np.float64]]:
    """What goes up, in order."""
    return [one.values.astype(np.float64) for one in worker.sums()]


def rows(one: NoisePlan, fresh: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """σ·C⁻¹Z by the dense matrix."""
    c = one.blt.coefficients(len(fresh))
    dense = np.array([[c[i - j] if i >= j else 0.0 for j in range(len(fresh))] for i in range(len(fresh))])
    return one.noise_std * np.linalg.solve(dense, np.array(fresh))


# ---- the stream ------------------------------------------------------------------------------------------------------


def test_what_goes_up_is_the_sums_and_the_streams_noise(opener: Open) -> None:
    """Five cohorts, each by a worker that has just been started: exactly σ·C⁻¹Z of the chance that was drawn, once."""
    chance = Chance()
    planned(opener(chance=chance), *"abcde")
    for i, device in enumerate("abcde"):
        worker = opener(chance=chance)
        worker.start()
        assert isinstance(submit(worker, device, body(i)), Receipt)
        worker.work()
    assert [len(data) for data in chance.given] == [8 * (LAYOUT.n_numbers + N_COUNTS)] * 5
    spent = worker.store.ledger().find(1, "north")
    assert spent is not None
    assert spent.rounds == 5
    fresh = [normals(data)[: LAYOUT.n_numbers] for data in chance.given]
    expected = np.array([vector(i) for i in range(5)]) + rows(spent.plan, fresh)
    assert np.allclose(handed(worker), expected, rtol=1e-5, atol=1e-4)
    assert np.abs(rows(spent.plan, fresh)).max() > 20, "the noise is no decoration"


def test_the_operating_systems_noise_has_the_strength_and_the_correlation_of_the_plan() -> None:
    """40,000 numbers, five rounds: the covariance between rounds is σ²·C⁻¹C⁻ᵀ, within five deviations of the mean."""
    size, noise = 40_000, FogNoise("north", ONE, KEY)
    gathered = plan(**{**ALONE, "clip": 1.0})
    kept = Kept(None, noise.open(Kept(None, b""), gathered, size, 0))
    values = []
    for number in range(5):
        noised = noise.close(kept, Cohort(1, number), empty(size, 1.0))
        kept = noised.kept
        values.append(noised.values)
    spent = ledgers.decode(kept.ledger).find(1, "north")
    assert spent is not None
    one = spent.plan
    inverse = one.blt.inverse_coefficients(5)
    lower = np.array([[inverse[i - j] if i >= j else 0.0 for j in range(5)] for i in range(5)])
    expected = one.noise_std**2 * lower @ lower.T
    found = np.array(values) @ np.array(values).T / size
    assert np.abs(found / expected - 1).diagonal().max() < 5 * np.sqrt(2 / size)
    scale = np.sqrt(np.outer(expected.diagonal(), expected.diagonal()))
    assert (np.abs(found - expected) / scale).max() < 5 * np.sqrt(2 / size)
    assert expected[0, 1] < -0.05 * expected[0, 0], "later noise takes back what earlier noise added"
    assert np.std(values[0]) == pytest.approx(row_std(one, 0), rel=0.02)


def test_chance_is_the_operating_systems_and_never_the_same() -> None:
    """Two streams under one key share nothing."""
    values = []
    for _ in range(2):
        noise = FogNoise("north", ONE, KEY)
        kept = Kept(None, noise.open(Kept(None, b""), plan(**ALONE), 1000, 0))
        values.append(noise.close(kept, Cohort(1, 0), empty(1000, 10.0)).values)
    assert abs(float(np.corrcoef(values)[0, 1])) < 0.2


def test_several_workers_give_one_stream(opener: Open) -> None:
    """Four threads with a store each, 12 devices in cohorts of three: four rounds, each noised once."""
    chance, names = Chance(), [f"d{i:02d}" for i in range(12)]
    planned(opener(chance=chance), *names, cohort=3, cohort_min=1)
    workers = [opener(chance=chance) for _ in range(4)]

    def serve(n: int) -> None:
        for name in names[n::2] if n < 2 else names[3 - n :: 2][::-1]:
            submit(workers[n], name, body(names.index(name)))
            workers[n].work()

    threads = [threading.Thread(target=serve, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    worker = opener(chance=chance)
    worker.tick()
    worker.work()
    assert [(entry.cohort, entry.noise) for entry in worker.store.history()] == [(n, "blt") for n in range(4)]
    assert len(chance.given) == 4
    assert [one.number for one in worker.sums()] == [0, 1, 2, 3]
    spent = worker.store.ledger().find(1, "north")
    assert spent is not None
    fresh = [normals(data)[: LAYOUT.n_numbers] for data in chance.given]
    whole = np.sum(np.array(handed(worker)) - rows(spent.plan, fresh), axis=0)
    assert np.allclose(whole, np.sum([vector(i) for i in range(12)], axis=0), atol=1e-3)


def test_what_goes_up_says_what_was_added_and_a_cloud_can_check_it(opener: Open) -> None:
    """The words rebuild the very plan and the budget; altered ones are refused."""
    worker = planned(opener(), "a", "b")
    submit(worker, "a", body(1))
    worker.work()
    (one,) = worker.sums()
    found = plan_of(one)
    assert found is not None
    spent = worker.store.ledger().find(1, "north")
    assert spent is not None
    assert found == (spent.plan, ONE)
    assert (one.n_updates, one.denominator, one.base, one.basis) == (1, 1, LAYOUT.base, LAYOUT.basis)
    assert one.noise is not None
    assert len(one.noise) <= 32
    for changes in ({"multiplier": 0.5}, {"kind": "other"}, {"more": 1}, {"rounds": "many"}, {"cohort": 2}):
        with pytest.raises(InvalidInput):
            plan_of(msgspec.structs.replace(one, noise={**one.noise, **changes}))  # type: ignore[dict-item]
    for key in one.noise:
        if key != "epsilon_lifetime":
            with pytest.raises(InvalidInput):
                plan_of(msgspec.structs.replace(one, noise={k: v for k, v in one.noise.items() if k != key}))
    assert opener(budget_of(1.0, 1e-6, float("inf"))).noise.budget.lifetime is None


def counts_of(*norms: float) -> NDArray[np.int64]:
    """What updates of these norms add to the counts, under the tests' clip of 10."""
    counts = np.zeros(N_COUNTS, np.int64)
    for norm in norms:
        where = bucket(norm, 10.0)
        assert where is not None
        counts[where] += 1
    return counts


def test_counts_of_norms_go_up_with_their_sum_once(opener: Open) -> None:
    """Two rounds, two norms: the counts and z_q·S·C⁻¹Z of the same chance. Asked again by another worker, after an
    attempt whose commit failed, they are the same bytes under the same name; the ledger has charged them with the sum.
    """
    chance = Chance()
    worker = planned(opener(chance=chance), "a", "b")
    for device, norm in (("a", 1.0), ("b", 30.0)):
        assert isinstance(submit(worker, device, body(1, norm)), Receipt)
    before = worker.store.kept(1)
    with pytest.raises(RuntimeError, match="power"):
        worker.store.seal(Cohort(1, 0), lambda kept: (_ for _ in ()).throw(RuntimeError("power")), 1.0)
    assert (worker.sums(), worker.store.kept(1)) == ([], before)
    worker.work()
    first, second = worker.sums()
    spent = worker.store.ledger().find(1, "north")
    assert spent is not None
    one = spent.plan
    fresh = np.array([normals(data)[LAYOUT.n_numbers :] for data in chance.given])
    c = one.blt.coefficients(2)
    noise = one.quantile_std * np.linalg.solve(np.array([[1.0, 0.0], [c[1], 1.0]]), fresh)
    assert np.abs(noise).max() > 20, "the noise is no decoration"
    exact = np.array([counts_of(1.0), counts_of(10.0)])
    assert np.abs(np.array([first.counts, second.counts]) - exact - noise).max() <= 0.5 + 1e-9
    again = opener(chance=chance)
    again.start()
    assert again.sums() == [first, second]
    (entry, _) = worker.store.history()
    assert one.multiplier is not None
    assert one.quantile_multiplier is not None
    scale = (one.sensitivity(1) / one.sensitivity()) ** 2
    assert entry.epsilon == epsilon_of(scale * (one.multiplier**-2 + one.quantile_multiplier**-2), 1e-6)
    assert epsilon_of(one.mu_squared(one.rounds), 1e-6) <= 1.0
    told = plan_of(first)
    assert told is not None
    assert told[0] == one
    altered = msgspec.structs.replace(first, counts=second.counts)
    with pytest.raises(InvalidInput, match="wrongly named"):
        sums.check(altered)


def test_without_noise_counts_are_exact(opener: Open) -> None:
    """ε = ∞ either way; an update of nothing is in no count."""
    worker = planned(opener(Budget(1e-6, None, None)), "a", "b", "c", cohort=3, cohort_min=3)
    for device, norm in (("a", 1.0), ("b", 30.0), ("c", 0.0)):
        assert isinstance(submit(worker, device, body(1, norm)), Receipt)
    worker.work()
    (one,) = worker.sums()
    assert one.counts == tuple(counts_of(1.0, 10.0))


def test_a_stream_that_began_without_counts_goes_on_without(opener: Open) -> None:
    """What is promised at a generation's beginning holds to its end, whatever a newer program would do."""
    noise = FogNoise("north", ONE, KEY)
    gathered = plan(**ALONE)
    ledger = ledgers.decode(noise.open(Kept(None, b""), gathered, 10, 0))
    older = msgspec.structs.replace(ledger.streams[0].plan, quantile_multiplier=None)
    known = ledgers.encode(ledgers.open_stream(ledgers.Ledger(ONE), older))
    kept = Kept(None, noise.open(Kept(None, known), gathered, 10, 0))
    noised = noise.close(kept, Cohort(1, 0), empty(10, 10.0))
    assert noised.counts == ()
    assert "quantile_multiplier" not in (noised.words or {})


# ---- what is kept ----------------------------------------------------------------------------------------------------


def test_the_state_is_a_secret_and_its_key_is_needed(opener: Open) -> None:
    """Encrypted at rest: another key opens nothing, and no noise is made without it; the old key goes on."""
    chance = Chance()
    worker = planned(opener(chance=chance), "a", "b")
    submit(worker, "a", body(1))
    worker.work()
    kept = worker.store.kept(1).noise
    assert kept is not None
    first = normals(chance.given[0])[: LAYOUT.n_numbers]
    assert first.tobytes() not in kept, "the buffers after one round are the round's noise itself"
    stranger = opener(key=bytes(32))
    with pytest.raises(CorruptState, match="bring the fog's noise key back"):
        stranger.start()
    submit(worker, "b", body(2))
    stranger.tick()
    stranger.work()
    assert worker.store.state().closed == (Cohort(1, 1),), "not summed, not withheld: it waits for the key"
    worker.tick()
    worker.work()
    assert [one.number for one in worker.sums()] == [0, 1]
    with pytest.raises(UsageError, match="it has 32"):
        FogNoise("north", ONE, b"short")


def test_a_failing_commit_leaves_nothing(opener: Open) -> None:
    """The round's noise is drawn anew then, and the ledger has it once."""
    chance = Chance()
    worker = planned(opener(chance=chance), "a")
    submit(worker, "a", body(1))
    before = worker.store.kept(1)
    with pytest.raises(RuntimeError, match="power"):
        worker.store.seal(Cohort(1, 0), lambda kept: (_ for _ in ()).throw(RuntimeError("power")), 1.0)
    assert (worker.store.history(), worker.store.kept(1)) == ((), before)
    worker.work()
    assert len(worker.store.history()) == 1
    assert worker.store.seal(Cohort(1, 0), lambda kept: pytest.fail("never twice"), 1.0) == ([], [])
    with pytest.raises(CorruptState, match="sent again"):
        worker.noise.close(worker.store.kept(1), Cohort(1, 0), empty(LAYOUT.n_numbers, 10.0))


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE ledger SET entry = replace(entry, '\"cohort\":0', '\"cohort\":5')",
        "DELETE FROM ledger WHERE number = 0",
        "DELETE FROM ledger WHERE number = 1",
    ],
)
def test_a_history_that_was_altered_is_noticed(opener: Open, tmp_path: Path, url: str | None, change: str) -> None:
    """A line changed, one left out, the last one cut off."""
    worker = planned(opener(), "a", "b")
    for device in "ab":
        submit(worker, device, body(1))
    worker.work()
    assert [entry.epsilon for entry in worker.store.history()][1] > 0  # type: ignore[operator]
    where = (
        sqlite_url(tmp_path / "fog" / "fog.db") if url is None else url.replace("postgresql:", "postgresql+psycopg:")
    )
    engine = sa.create_engine(where)
    with engine.begin() as link:
        link.exec_driver_sql(change)
    engine.dispose()
    with pytest.raises(CorruptState, match="altered"):
        worker.store.history()


def test_noise_stays_as_it_is_within_a_generation(opener: Open) -> None:
    """Another ε, δ or lifetime, none at all, another name, another clip: refused; the next generation may change it."""
    worker = planned(opener(), "a")
    submit(worker, "a", body(1))
    worker.work()
    for budget in (Budget(1e-6, 2.0, 8.0), Budget(1e-7, 1.0, 8.0), Budget(1e-6, 1.0, 4.0), Budget(1e-6, None, None)):
        with pytest.raises(UsageError, match="within a generation"):
            opener(budget).start()
        with pytest.raises(UsageError, match="within a generation"):
            opener(budget).open(plan(**ALONE), LAYOUT)
    with pytest.raises(UsageError, match="clip must stay"):
        opener().open(plan(**{**ALONE, "clip": 3.0}), LAYOUT)
    renamed = FogService("south", opener().store, lambda: 1.0, FogNoise("south", ONE, KEY))
    with pytest.raises(UsageError, match="had another name"):
        renamed.open(plan(**ALONE), LAYOUT)
    opener().open(plan(**ALONE), LAYOUT)
    following = msgspec.structs.replace(LAYOUT, generation=2)
    opener(Budget(1e-6, 2.0, 8.0)).open(plan(**{**ALONE, "generation": 2, "layout": following.digest}), following)
    assert worker.store.ledger().budget.generation == 2.0


# ---- the budget ------------------------------------------------------------------------------------------------------


def test_epsilon_is_counted_round_by_round_and_over_generations(opener: Open) -> None:
    """As the plans say: what the generation spent, and with what came before it, the lifetime; a restart loses none."""
    worker = planned(opener(), "a", "b", "c")
    for device in "ab":
        submit(worker, device, body(1))
    worker.work()
    following = msgspec.structs.replace(LAYOUT, generation=2)
    opener().open(plan(**{**ALONE, "generation": 2, "layout": following.digest}), following)
    update = msgspec.structs.replace(head("c", body(1)), generation=2, token=tokens.token_of("c", 2, bytes(16)))
    data = params.encode(vector(1), following, "float32")
    upload = worker.store.bodies.begin(update.digest, update.n_bytes)
    upload.write(data)
    assert isinstance(worker.decide([worker.measure("c", update, upload)])[0], Receipt)
    worker.work()
    first, second, third = worker.store.history()
    ledger = worker.store.ledger()
    mu = [ledger.streams[0].plan.mu_squared(n) for n in (1, 2)]
    assert (first.epsilon, second.epsilon) == (epsilon_of(mu[0], 1e-6), epsilon_of(mu[1], 1e-6))
    assert third.epsilon == epsilon_of(ledger.streams[1].plan.mu_squared(1), 1e-6)
    assert third.epsilon_lifetime == ledger.epsilon_lifetime()
    assert third.epsilon_lifetime > second.epsilon > first.epsilon > 0  # type: ignore[operator]
    assert ledgers.lines(ledger)[1].epsilon_lifetime == third.epsilon_lifetime


def spent_after_two(opener: Open) -> Budget:
    """A budget whose lifetime bears two rounds of the tests' stream, and not three."""
    noise = FogNoise("north", ONE, KEY)
    ledger = ledgers.decode(noise.open(Kept(None, b""), plan(**{**ALONE, "cohort": 2, "cohort_min": 1}), 10, 0))
    return Budget(1e-6, 1.0, epsilon_of(ledger.streams[0].plan.mu_squared(2), 1e-6) * 1.001)


def test_a_budget_that_is_spent_ends_the_generation_in_words_and_deeds(opener: Open, tmp_path: Path) -> None:
    """With the last cohort that it bears: no more updates, those that waited go, terms say so, a restart fails."""
    budget = spent_after_two(opener)
    worker = planned(opener(budget), *"abcdef", cohort=2, cohort_min=1)
    for device in "abcde":
        assert isinstance(submit(worker, device, body(1)), Receipt)
    worker.work()
    assert [one.number for one in worker.sums()] == [0, 1]
    terms = worker.terms()
    assert terms is not None
    assert terms.budget_spent
    assert terms.protection.endswith("no update is taken in it any more.")
    refused = submit(worker, "f", body(1))
    assert isinstance(refused, UpdateRefused)
    assert refused.reason == "budget spent"
    assert refused.reason not in fog.RETRY
    facts = [type(event).__name__ for _, _, event in worker.store.events()]
    assert facts[-4:] == ["CohortSummed", "BudgetEnded", "CohortDropped", "UpdateRefused"]
    assert list((tmp_path / "fog" / "bodies").iterdir()) == []
    again = opener(budget)
    again.start()
    with pytest.raises(BudgetSpent, match="start the fog without --release") as caught:
        again.open(plan(**{**ALONE, "cohort": 2, "cohort_min": 1}), LAYOUT)
    assert caught.value.exit_code == 6
    following = msgspec.structs.replace(LAYOUT, generation=2)
    with pytest.raises(BudgetSpent, match="the lifetime of a device"):
        again.open(plan(**{**ALONE, "generation": 2, "layout": following.digest}), following)
    assert again.store.state().plan.generation == 1  # type: ignore[union-attr]
    more = opener(budget_of(1.0, 1e-6, 8.0))
    more.open(plan(**{**ALONE, "generation": 2, "layout": following.digest}), following)
    terms = more.terms()
    assert terms is not None
    assert not terms.budget_spent


def test_what_closed_before_the_budget_ended_is_withheld(opener: Open, tmp_path: Path) -> None:
    """Three cohorts wait, two fit: the third's updates are deleted and its sum leaves nowhere; ε is that of two."""
    budget = spent_after_two(opener)
    worker = planned(opener(budget), *"abcdef", cohort=2, cohort_min=1)
    for device in "abcdef":
        assert isinstance(submit(worker, device, body(1)), Receipt)
    assert len(worker.store.state().closed) == 3
    worker.work()
    assert [one.number for one in worker.sums()] == [0, 1]
    (withheld,) = [event for _, _, event in worker.store.events() if isinstance(event, fog.CohortWithheld)]
    assert withheld.cohort == Cohort(1, 2)
    assert "the lifetime of a device" in withheld.reason
    assert worker.store.state().closed == ()
    assert list((tmp_path / "fog" / "bodies").iterdir()) == []
    assert len(worker.store.history()) == 2
    assert worker.store.ledger().epsilon_lifetime() <= budget.lifetime  # type: ignore[operator]


def test_a_cohort_that_cannot_be_read_is_closed_empty(opener: Open, tmp_path: Path) -> None:
    """Nothing of it leaves; noise and ledger go on by one round all the same, since b and k count them."""
    chance = Chance()
    worker = planned(opener(chance=chance), "a", "b")
    submit(worker, "a", body(1))
    (path,) = (tmp_path / "fog" / "bodies").iterdir()
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    submit(worker, "b", body(2))
    worker.work()
    (one,) = worker.sums()
    assert one.number == 1
    first, second = worker.store.history()
    assert (first.cohort, first.sum) == (0, "")
    assert second.sum == worker.ready()[0].digest
    assert second.epsilon > first.epsilon > 0  # type: ignore[operator]
    spent = worker.store.ledger().find(1, "north")
    assert spent is not None
    fresh = [normals(data)[: LAYOUT.n_numbers] for data in chance.given]
    assert np.allclose(one.values, vector(2) + rows(spent.plan, fresh)[1], rtol=1e-5, atol=1e-4)


def test_without_noise_epsilon_is_infinite_for_good(opener: Open) -> None:
    """The sum is exact; who released without noise can claim no lifetime afterwards, but a bound of a generation."""
    free = Budget(1e-6, None, None)
    worker = planned(opener(free), "a")
    submit(worker, "a", body(1))
    worker.work()
    (one,) = worker.sums()
    assert one.noise is None
    assert np.allclose(one.values, vector(1), atol=1e-6)
    (entry,) = worker.store.history()
    assert (entry.noise, entry.epsilon, entry.epsilon_lifetime) == ("none", None, None)
    assert worker.store.kept(1).noise is None
    terms = worker.terms()
    assert terms is not None
    assert terms.epsilon is None
    following = msgspec.structs.replace(LAYOUT, generation=2)
    after = plan(**{**ALONE, "generation": 2, "layout": following.digest})
    with pytest.raises(BudgetSpent, match="ε = inf"):
        opener().open(after, following)
    opener(budget_of(1.0, 1e-6, float("inf"))).open(after, following)


def test_the_sentence_says_who_is_protected_from_whom() -> None:
    """And from whom not."""
    words = FogNoise("north", ONE, KEY).protection
    for part in ("ε = 1 at most in a generation", "lifetime, of at most 8", "δ = 1e-06", "against the cloud",
                 "not protect against this fog's operator", "if one operator runs fog and cloud"):  # fmt: skip
        assert part in words
    assert "without a bound" in FogNoise("north", budget_of(4.0, 1e-6, float("inf")), KEY).protection
    assert budget_of(16.0, 1e-6, None).lifetime == 16.0
