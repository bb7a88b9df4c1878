"""The reservoir: laws that hold for every stream (hypothesis), and that its draws are what they claim (chi-square)."""

from collections import Counter

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from evergrove.core.rng import stream
from evergrove.rules.replay import Buffer, Chance, Limits, Offered, draw, draw_batch, forget, offer

A, B, C = (1, 0), (2, 0), (7, 0)
LIMITS = Limits(capacity=10, golden_every=5, golden_capacity=3, n_records_max=40, n_bytes_max=3000)
RECORD = st.tuples(st.sampled_from([A, B, C]), st.integers(1, 400), st.floats(0.01, 5))


def feed(
    arrivals: list[tuple[tuple[int, int], int, float]], limits: Limits = LIMITS, seed: int = 0, new: bool = True
) -> tuple[Buffer, list[Offered]]:
    """Offers (condition, n_bytes, weight) one after the other; record names are their numbers."""
    rng, buffer, outcomes = stream(seed, "test"), Buffer(), []
    for i, (condition, n_bytes, weight) in enumerate(arrivals):
        fresh = new and condition == C
        buffer, outcome = offer(buffer, limits, str(i), condition, n_bytes, weight, draw(rng), golden=fresh)
        outcomes.append(outcome)
    return buffer, outcomes


@settings(max_examples=120, deadline=None)
@given(st.lists(RECORD, max_size=120), st.integers(0, 5))
def test_bounds_and_books_hold_for_every_stream(arrivals: list[tuple[tuple[int, int], int, float]], seed: int) -> None:
    """After every arrival: no bound is broken, what was kept and not evicted is what is held, golden ones all stay."""
    rng, buffer, held, golden = stream(seed, "test"), Buffer(), set(), set()
    for i, (condition, n_bytes, weight) in enumerate(arrivals):
        buffer, outcome = offer(buffer, LIMITS, str(i), condition, n_bytes, weight, draw(rng), golden=condition == C)
        if outcome.split:
            held.add(str(i))
        if outcome.split == "golden":
            golden.add(str(i))
        assert str(i) not in outcome.evicted
        assert set(outcome.evicted) <= held
        assert len(set(outcome.evicted)) == len(outcome.evicted)
        held -= set(outcome.evicted)
        assert set(buffer.records()) == held
        assert len(buffer.records()) == len(held) == buffer.n_records <= LIMITS.n_records_max
        assert buffer.n_bytes == sum(p.n_bytes for p in buffer.parts) <= LIMITS.n_bytes_max
        assert set(buffer.records("golden")) == golden  # never evicted for others
        for part in buffer.parts:
            assert part.n_train <= LIMITS.capacity
            assert len(part.golden) <= LIMITS.golden_capacity
    assert set(buffer.records("train")).isdisjoint(buffer.records("golden"))
    assert sum(p.n_distinct for p in buffer.parts) == len(arrivals)
    assert msgspec.json.decode(msgspec.json.encode(buffer), type=Buffer) == buffer


@settings(max_examples=50, deadline=None)
@given(st.permutations([A] * 15 + [B] * 4 + [C] * 30), st.integers(0, 5))
def test_counts_do_not_depend_on_the_order(order: list[tuple[int, int]], seed: int) -> None:
    """With room for all conditions, how much of each is held depends on how much of each came, not on when."""
    limits = Limits(capacity=10, golden_every=5, golden_capacity=3)
    buffer, _ = feed([(condition, 10, 1.0) for condition in order], limits, seed)
    assert {c: n for c, n in buffer.counts("train").items() if n} == {A: 10, B: 4, C: 10}
    assert buffer.counts("golden") == {A: 0, B: 0, C: 3}


def test_a_full_buffer_is_balanced() -> None:
    """Under a byte bound the largest condition gives way until the conditions that have enough share it evenly."""
    limits = Limits(capacity=50, n_bytes_max=3000)
    buffer, _ = feed([(A, 100, 1.0)] * 60 + [(B, 100, 1.0)] * 60 + [((3, 0), 100, 1.0)] * 4, limits)
    counts = buffer.counts("train")
    assert counts[(3, 0)] == 4
    assert sum(counts.values()) == 30
    assert abs(counts[A] - counts[B]) <= 1


def test_uniform_sample_is_uniform() -> None:
    """Algorithm R: every one of 60 arrivals is held equally often (chi-square over 600 streams)."""
    limits = Limits(capacity=12, surprise_share=0.0)
    hits: Counter[str] = Counter()
    for seed in range(600):
        buffer, _ = feed([(A, 1, 1.0)] * 60, limits, seed)
        hits.update(buffer.records("train"))
    observed = [hits[str(i)] for i in range(60)]
    assert sum(observed) == 600 * 12
    assert stats.chisquare(observed).pvalue > 1e-3


def test_shrunk_sample_is_still_uniform() -> None:
    """When bytes run out half-way through a stream the sample shrinks and stays uniform over all arrivals."""
    limits = Limits(capacity=20, surprise_share=0.0, n_bytes_max=200)
    hits: Counter[int] = Counter()
    for seed in range(300):
        arrivals = [(A, 10, 1.0)] * 30 + [(B, 10, 1.0)] * 30 + [(A, 10, 1.0)] * 30
        buffer, _ = feed(arrivals, limits, seed)
        held = [int(r) for p in buffer.parts if p.condition == A for r in buffer.records() if r in _names(p)]
        hits.update(i // 10 for i in held)
    observed = [hits[i] for i in (0, 1, 2, 6, 7, 8)]
    assert stats.chisquare(observed).pvalue > 1e-3


def _names(part: object) -> set[str]:
    return {h.record for h in part.uniform}  # type: ignore[attr-defined]


def test_surprise_is_preferred_but_capped_weights_share() -> None:
    """In the 20 % part a weight of 4 is held about four times as often as one of 1; without the part, as often."""
    arrivals = [(A, 1, 4.0 if i % 10 == 0 else 1.0) for i in range(200)]
    kept: Counter[bool] = Counter()
    for seed in range(80):
        buffer, _ = feed(arrivals, Limits(capacity=40, surprise_share=0.2), seed)
        part = buffer.parts[0]
        assert (len(part.uniform), len(part.surprising)) == (32, 8)
        kept.update(int(h.record) % 10 == 0 for h in part.surprising)
    ratio = (kept[True] / 20) / (kept[False] / 180)
    assert 2.7 < ratio < 4.7


def test_golden_is_one_of_every_five_at_a_random_place() -> None:
    """Of each block of five distinct arrivals exactly one is golden, until there are enough; places vary."""
    places: Counter[int] = Counter()
    for seed in range(300):
        _, outcomes = feed([(C, 1, 1.0)] * 40, Limits(capacity=50, golden_capacity=6), seed)
        where = [i for i, o in enumerate(outcomes) if o.split == "golden"]
        assert [i // 5 for i in where] == list(range(6))
        places.update(i % 5 for i in where)
    assert stats.chisquare([places[i] for i in range(5)]).pvalue > 1e-3


def test_where_none_is_asked_for_there_is_no_golden_part() -> None:
    """A device asks for one of every condition; a caller that judges by other pictures need not."""
    assert feed([(C, 1, 1.0)] * 40, new=False)[0].counts("golden") == {C: 0}


def test_what_cannot_fit_is_not_held_and_costs_nobody() -> None:
    """A record larger than the buffer, golden or not, leaves everything as it was but the counts."""
    buffer, _ = feed([(A, 100, 1.0)] * 3)
    after, outcome = offer(buffer, LIMITS, "huge", B, 10_000, 1.0, Chance(0, 0.5, 0), golden=False)
    assert outcome == Offered("no room")
    assert after.records() == buffer.records()
    _, outcome = offer(buffer, LIMITS, "huge", C, 10_000, 1.0, Chance(0, 0.5, 0), golden=True)
    assert outcome == Offered("no room")
    tiny = Limits(capacity=4, n_bytes_max=100, golden_every=1, golden_capacity=99)
    full, _ = feed([(C, 50, 1.0), (C, 50, 1.0)], tiny)
    assert full.counts("golden") == {C: 2}
    assert offer(full, tiny, "x", A, 50, 1.0, Chance(0, 0.5, 0), golden=False)[1] == Offered("no room")


def test_golden_makes_the_others_give_way() -> None:
    """A golden record is worth more than training records of the largest condition."""
    limits = Limits(capacity=50, n_bytes_max=1000, golden_every=1, golden_capacity=2)
    buffer, _ = feed([(A, 100, 1.0)] * 10, limits)
    after, outcome = offer(buffer, limits, "g", C, 250, 1.0, Chance(0, 0.5, 0.5), golden=True)
    assert outcome.split == "golden"
    assert len(outcome.evicted) == 3
    assert after.counts("train") == {A: 7, C: 0}


def test_giving_way_keeps_the_shares() -> None:
    """A condition that shrinks gives up of its uniform and its weighted sample in turn: 80 to 20 as before."""
    limits = Limits(capacity=20, n_bytes_max=2000)
    buffer, _ = feed([(A, 100, 1.0)] * 20 + [(B, 100, 1.0)] * 10, limits)
    part = buffer.part(A)
    assert part is not None
    assert (len(part.uniform), len(part.surprising)) == (8, 2)


def test_forget_takes_golden_ones_too_and_frees_the_room() -> None:
    """Forgotten records are gone everywhere; forgetting twice, or the unknown, changes nothing."""
    buffer, _ = feed([(C, 100, 1.0)] * 40)
    gone = [buffer.records("golden")[0], buffer.records("train")[0], "unknown"]
    after = forget(buffer, gone)
    assert set(after.records()) == set(buffer.records()) - set(gone)
    assert forget(after, gone) == after
    assert all(p.room is None for p in after.parts)
    assert after.part(A) is None


def test_batches_are_balanced_over_conditions() -> None:
    """Two conditions share a batch evenly, whether they hold 30 records or 2; nothing held is an error."""
    held = {A: [f"a{i}" for i in range(30)], B: ["b0", "b1"], C: []}
    batch = draw_batch(held, 16, stream(0, "batch"))
    assert Counter(r[0] for r in batch) == {"a": 8, "b": 8}
    assert {abs(Counter(r[0] for r in draw_batch(held, 5, stream(s, "b")))["a"] - 2.5) for s in range(20)} == {0.5}
    with pytest.raises(ValueError, match="no record"):
        draw_batch({C: []}, 4, stream(0, "batch"))


def test_chance_comes_from_the_stream() -> None:
    """Three uniforms, the same for the same name."""
    one, same, other = draw(stream(1, "a")), draw(stream(1, "a")), draw(stream(1, "b"))
    assert one == same != other
    assert all(0 <= v < 1 for v in (one.slot, one.weight, one.spare))
    assert np.unique([one.slot, one.weight, one.spare]).size == 3
