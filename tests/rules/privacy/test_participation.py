"""Taking part: b, k and one home fog a generation, whatever fogs offer and in whatever order."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from noise_plans import PLAN

from evergrove.rules.privacy.participation import Limits, Record, obstacle, taken

NORTH = Limits(generation=2, fog="north", rounds=20, separation=3, participations=2)


def test_a_plan_says_the_limits() -> None:
    """What a device is told is what the noise is made for."""
    assert PLAN.limits == Limits(3, "north", 12, 4, 2)


def test_by_hand() -> None:
    """b = 3, k = 2: round 4, then not 6, then 7, then never again; another generation starts anew."""
    record = Record()
    assert obstacle(record, NORTH, 4) is None
    record = taken(record, NORTH, 4)
    assert obstacle(record, NORTH, 4) == "too soon"  # at most once per cohort
    assert obstacle(record, NORTH, 6) == "too soon"
    assert obstacle(record, NORTH, 7) is None
    record = taken(record, NORTH, 7)
    assert obstacle(record, NORTH, 19) == "too often"
    later = Limits(3, "south", 20, 3, 2)
    assert taken(record, later, 0) == Record(3, "south", 0, 1)


def test_one_home_fog_for_a_generation() -> None:
    """b and k count the rounds of one stream: a device in two streams would spend twice."""
    record = taken(Record(), NORTH, 0)
    assert obstacle(record, Limits(2, "south", 20, 3, 2), 10) == "another fog"


def test_no_way_back() -> None:
    """An old generation, an earlier round and one past the stream's end are refused."""
    record = taken(Record(), NORTH, 9)
    assert obstacle(record, Limits(1, "north", 20, 3, 2), 15) == "old generation"
    assert obstacle(record, NORTH, 2) == "too soon"
    assert obstacle(record, NORTH, 20) == "over"
    assert obstacle(record, NORTH, -1) == "over"
    with pytest.raises(AssertionError, match="ask first"):
        taken(record, NORTH, 9)


OFFER = st.tuples(st.integers(0, 2), st.sampled_from(["north", "south"]), st.integers(-2, 25))


@settings(max_examples=100, deadline=None)
@given(st.lists(OFFER, max_size=60), st.integers(1, 6), st.integers(1, 4))
def test_no_offers_lead_past_the_limits(offers: list[tuple[int, str, int]], b: int, k: int) -> None:
    """A device that obeys the rule is, in each generation, at one fog, b rounds apart, k times at most."""
    record, done = Record(), []
    for generation, fog, round_ in offers:
        limits = Limits(generation, fog, 20, b, k)
        if obstacle(record, limits, round_) is None:
            record = taken(record, limits, round_)
            done.append((generation, fog, round_))
    for generation in range(3):
        mine = [d for d in done if d[0] == generation]
        rounds = [d[2] for d in mine]
        assert len({d[1] for d in mine}) <= 1
        assert len(mine) <= k
        assert all(0 <= r < 20 for r in rounds)
        assert all(later - earlier >= b for earlier, later in pairwise(rounds))
