"""Novelty: the decision from scalars, the private measurement, and both together on a labelled stream."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evergrove.core import config
from evergrove.core.measures import Facts
from evergrove.core.rng import stream
from evergrove.rules.features import FEATURE_LEN
from evergrove.rules.kept import RETIRED_MAX, KeptIndex, measure
from evergrove.rules.novelty import RECENT_MAX, Chance, Decision, Policy, Reason, State, decide, draw, forget, is_near
from evergrove.rules.replay import Limits

LOVE, HAPPY = (7, 0), (2, 0)
NOTHING_KEPT = Facts(exact_duplicate=False, hash_bits=None, distance=None)
FAR = Facts(exact_duplicate=False, hash_bits=30, distance=3.0)
POLICY = Policy(Limits(capacity=10, golden_every=5, golden_capacity=2))
FACTS = st.builds(
    Facts, st.booleans(), st.one_of(st.none(), st.integers(0, 64)), st.one_of(st.none(), st.floats(0, 50))
)


def run(facts: list[Facts], policy: Policy = POLICY, new: bool = False) -> tuple[State, list[Decision]]:
    """Decides about observations of one condition in a row."""
    rng, state, decisions = stream(0, "test"), State(), []
    for i, one in enumerate(facts):
        state, decision = decide(state, policy, str(i), LOVE, 100, one, draw(rng), golden=new)
        decisions.append(decision)
    return state, decisions


def test_duplicates_are_dropped_with_their_reason() -> None:
    """Exact first; near at distance 1 or below, unless the hash says otherwise or the labels differ (no bits)."""
    near = Facts(exact_duplicate=False, hash_bits=3, distance=0.9)
    other_scene = Facts(exact_duplicate=False, hash_bits=40, distance=0.9)
    other_label = Facts(exact_duplicate=False, hash_bits=None, distance=0.9)
    exact = Facts(exact_duplicate=True, hash_bits=0, distance=0.0)
    _, decisions = run([NOTHING_KEPT, exact, near, other_scene, other_label])
    assert [d.reason for d in decisions] == [Reason.FIRST, Reason.EXACT, Reason.NEAR, Reason.ROOM, Reason.ROOM]
    assert [d.keep for d in decisions] == [True, False, False, True, True]
    assert not is_near(POLICY, NOTHING_KEPT)


def test_duplicates_change_nothing_but_the_count() -> None:
    """Idempotence: neither the reservoir nor the surprises know that a copy came by."""
    state, _ = run([NOTHING_KEPT, FAR, FAR])
    exact = Facts(exact_duplicate=True, hash_bits=0, distance=0.0)
    after, decision = decide(state, POLICY, "x", LOVE, 100, exact, Chance(0, 0, 0), golden=False)
    assert not decision.keep
    assert msgspec.structs.replace(after, n_decided=state.n_decided) == state


def test_a_full_reservoir_draws() -> None:
    """Capacity holds, later arrivals have less and less of a chance, and the reasons say what happened."""
    state, decisions = run([NOTHING_KEPT] + [FAR] * 299)
    assert state.buffer.n_records == 10
    assert all(d.keep and not d.evict for d in decisions[:10])
    late = decisions[10:]
    assert {d.reason for d in late} <= {Reason.DRAWN, Reason.SURPRISING, Reason.NOT_DRAWN}
    assert {d.reason for d in late} >= {Reason.DRAWN, Reason.NOT_DRAWN}
    assert all(len(d.evict) == d.keep for d in late)
    assert sum(d.keep for d in late[:90]) > sum(d.keep for d in late[-90:])


def test_new_conditions_have_a_golden_part() -> None:
    """Two of the first ten distinct observations, and none after that."""
    state, decisions = run([NOTHING_KEPT] + [FAR] * 40, new=True)
    golden = [i for i, d in enumerate(decisions) if d.reason == Reason.GOLDEN]
    assert [i // 5 for i in golden] == [0, 1]
    assert state.buffer.counts("golden") == {LOVE: 2}
    assert all(decisions[i].split == "golden" for i in golden)


def test_surprise_is_capped_at_the_95th_percentile() -> None:
    """An outlier weighs no more than the 95th percentile of the recent ones: here what everything else weighs."""
    state, _ = run([NOTHING_KEPT] + [FAR] * 60)
    outlier = Facts(exact_duplicate=False, hash_bits=60, distance=1e9)
    chance = Chance(slot=0.999, weight=0.9999, spare=0.0)  # not drawn uniformly, best luck by weight
    with_outlier, _ = decide(state, POLICY, "x", LOVE, 100, outlier, chance, golden=False)
    with_usual, _ = decide(state, POLICY, "x", LOVE, 100, FAR, chance, golden=False)
    assert with_outlier.buffer == with_usual.buffer
    assert with_outlier.windows[0].recent[-1] == 1e9
    assert len(with_outlier.windows[0].recent) <= RECENT_MAX


def test_conditions_are_bounded() -> None:
    """Past the limit a new condition is refused in words, a known one still served."""
    policy = Policy(Limits(conditions_max=1))
    state, _ = decide(State(), policy, "a", LOVE, 10, NOTHING_KEPT, Chance(0, 0.5, 0.9), golden=False)
    _, decision = decide(state, policy, "b", HAPPY, 10, NOTHING_KEPT, Chance(0, 0.5, 0.9), golden=False)
    assert decision == Decision(False, Reason.TOO_MANY)
    assert decide(state, policy, "c", LOVE, 10, FAR, Chance(0, 0.5, 0.9), golden=False)[1].keep


def test_too_large_for_the_buffer() -> None:
    """What cannot fit is dropped with the reason, even as the first of its condition."""
    policy = Policy(Limits(n_bytes_max=50))
    assert decide(State(), policy, "a", LOVE, 100, NOTHING_KEPT, Chance(0, 0.5, 0.9), golden=False)[1] == Decision(
        False, Reason.NO_ROOM
    )


def test_policy_of_config() -> None:
    """Every number of the configuration arrives."""
    policy = Policy.of(config.Novelty(capacity_per_condition=7, near_duplicate_distance=1.5), config.Replay(123, 45))
    assert policy.limits == Limits(capacity=7, n_bytes_max=123, n_records_max=45)
    assert policy.distance_max == 1.5


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(FACTS, st.sampled_from([LOVE, HAPPY])), max_size=80))
def test_state_is_bounded_and_goes_into_a_snapshot(stream_: list[tuple[Facts, tuple[int, int]]]) -> None:
    """Whatever arrives: bounded state, equal after a round trip through JSON, same decisions from a replay."""
    rng, state = stream(1, "test"), State()
    draws = [draw(rng) for _ in stream_]
    for i, (facts, condition) in enumerate(stream_):
        state, decision = decide(state, POLICY, str(i), condition, 1, facts, draws[i], golden=condition == LOVE)
        assert decision.keep == (decision.split is not None) == str(decision.reason).startswith("kept")
    assert state.n_decided == len(stream_)
    assert state.buffer.n_records <= 2 * 10 + 2
    assert all(len(w.recent) <= RECENT_MAX for w in state.windows)
    assert msgspec.json.decode(msgspec.json.encode(state), type=State) == state
    again = State()
    for i, (facts, condition) in enumerate(stream_):
        again, _ = decide(again, POLICY, str(i), condition, 1, facts, draws[i], golden=condition == LOVE)
    assert again == state
    everything = state.buffer.records()
    assert forget(state, everything).buffer.n_records == 0


# The private half.


def feature(value: int) -> np.ndarray:
    """A feature with a step of this height in the middle: heights that differ by 60 are no copies."""
    out = np.full(FEATURE_LEN, 128, np.uint8)
    out[200 : 200 + 2 * value] = 255
    return out


def test_measure_nothing_kept() -> None:
    """No distance, no bits, no duplicate."""
    assert measure("d", 1, feature(1), KeptIndex.empty()) == NOTHING_KEPT


def test_measure_finds_the_nearest_and_the_exact() -> None:
    """Distance and bits are of the nearest record; an equal digest is an exact duplicate wherever it is."""
    kept = KeptIndex.empty().add("a", "da", 0b1111, feature(10)).add("b", "db", 0b0001, feature(200))
    facts = measure("da", 0b0011, feature(200), kept)
    assert (facts.exact_duplicate, facts.hash_bits, facts.distance) == (True, 1, 0.0)
    far = measure("dx", 0b1111, feature(100), kept)
    assert far.distance is not None
    assert far.distance > 1
    assert not far.exact_duplicate


def test_other_labels_are_no_copies() -> None:
    """The same picture under another full code has no hash bits, so it is never 'near'."""
    kept = KeptIndex.empty().add("a", "da", 1, feature(10), code=(7, 1))
    assert measure("dx", 1, feature(10), kept, code=(7, 1)).hash_bits == 0
    assert measure("dx", 1, feature(10), kept, code=(7, 2)).hash_bits is None


def test_removed_records_leave_no_trace_and_retired_ones_do() -> None:
    """A forgotten picture is new again; an evicted one is still known, and comes to nothing twice."""
    kept = KeptIndex.empty().add("a", "da", 1, feature(10)).add("b", "db", 2, feature(200))
    removed = kept.remove("a")
    assert removed.records == ("b",)
    assert removed.looks.shape == (1, FEATURE_LEN)
    assert not measure("da", 1, feature(10), removed).exact_duplicate
    retired = kept.retire("a")
    assert measure("da", 1, feature(10), retired).exact_duplicate
    assert retired.retire("a").records == ("a", "b")
    assert retired.remove("a").retired == frozenset()
    assert kept.remove("unknown") is kept
    assert kept.retire("unknown") is kept


def test_retired_records_are_bounded() -> None:
    """The oldest one goes first; what is still held stays."""
    kept = KeptIndex.empty().add("held", "d", 0, feature(1))
    for i in range(RETIRED_MAX + 5):
        kept = kept.add(str(i), f"d{i}", i, feature(i)).retire(str(i))
    assert len(kept.retired) == RETIRED_MAX
    assert kept.records[:2] == ("held", "5")


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_features_may_come_back_as_floats(dtype: type) -> None:
    """A store may hand features back in another dtype; values count."""
    kept = KeptIndex.empty().add("a", "da", 1, feature(10).astype(dtype))
    assert measure("x", 1, feature(10).astype(dtype), kept).distance == 0.0
