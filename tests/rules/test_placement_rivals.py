"""The rivals of the price ceiling: what each of them takes and leaves, and that all of them obey the shield."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergrove.rules import placement_rivals as rivals
from evergrove.rules.placement import Fog, Policy, Rule, Situation, State, decide, safe_offers
from evergrove.rules.shield import Limit

HOUR_S = 3600.0
POLICY = Policy(deadline_s=10 * HOUR_S, energy_ref_j=500.0)
FOG = Fog(assist_bytes=5_000_000, assist_wait_s=60.0, assist_saving=0.5)
TRUSTED = msgspec.structs.replace(FOG, trusted=True, trusted_bytes=2_000_000, trusted_wait_s=120.0)
FREE = Limit(1.0, "no limit is near")
JOB = Situation(age_s=0.0, limit=FREE, energy_j=500.0, battery_share=1.0)
"""A new job on a full battery, without a fog: local costs 1."""


def with_(**changes: object) -> Situation:
    return msgspec.structs.replace(JOB, **changes)


def taken(rule: Rule, **changes: object) -> str:
    return rule(POLICY, State(), with_(**changes), 0.0)[1].choice


def test_greedy_local_learns_here_at_any_price_and_asks_no_fog() -> None:
    """A trusted fog at 0.38 would be cheaper; a job that began with an assist goes on with it."""
    assert taken(rivals.greedy_local, fog=TRUSTED, energy_j=5000.0) == "local"
    assert taken(rivals.greedy_local, fog=FOG, begun="assisted") == "assisted"
    assert taken(rivals.greedy_local, fog=TRUSTED, limit=Limit(0.0, "hot")) == "defer"


def test_always_offload_takes_trusted_before_assisted_and_never_learns_alone() -> None:
    """Without a fog it waits for ever, on mains too."""
    assert taken(rivals.always_offload, fog=TRUSTED) == "trusted"
    assert taken(rivals.always_offload, fog=FOG) == "assisted"
    assert taken(rivals.always_offload, on_mains=True, age_s=99 * HOUR_S) == "defer"


def test_googles_rule_wants_idle_charging_and_unmetered() -> None:
    """All three, however old the job; a fog is not asked."""
    ready = {"on_mains": True, "fog": TRUSTED}
    assert taken(rivals.google, **ready) == "local"
    assert taken(rivals.google, **ready, begun="assisted") == "assisted"
    old = {"age_s": 99 * HOUR_S}
    assert taken(rivals.google, **(ready | old | {"on_mains": False})) == "defer"
    assert taken(rivals.google, **ready, **old, metered=True) == "defer"
    assert taken(rivals.google, **ready, **old, network_up=False) == "defer"
    assert taken(rivals.google, **ready, **old, limit=Limit(0.75, "an app is at work")) == "defer"


@pytest.mark.parametrize(
    ("changes", "choice"),
    [
        ({"on_mains": True}, "local"),
        ({"fog": TRUSTED}, "defer"),
        ({"fog": TRUSTED, "begun": "assisted"}, "assisted"),
        ({"fog": TRUSTED, "age_s": 5 * HOUR_S}, "assisted"),
        ({"fog": TRUSTED, "age_s": 5 * HOUR_S, "limit": Limit(0.0, "hot")}, "trusted"),
        ({"age_s": 9 * HOUR_S}, "defer"),
        ({"age_s": 10 * HOUR_S}, "local"),
        ({"age_s": 10 * HOUR_S, "limit": Limit(0.0, "hot")}, "defer"),
    ],
)
def test_if_else_is_what_one_writes_first(changes: dict[str, object], choice: str) -> None:
    """Mains; from half the age D a fog; past D anything safe."""
    assert taken(rivals.if_else, **changes) == choice


def test_drift_plus_penalty_acts_once_waiting_outweighs_the_price() -> None:
    """V = 0.5 at a price of 1: after half the age D, or a quarter with two jobs waiting; V = 1 after all of it."""
    half, whole = rivals.drift_plus_penalty(0.5), rivals.drift_plus_penalty(1.0)
    assert [taken(half, age_s=h * HOUR_S) for h in (0.0, 4.9, 5.0)] == ["defer", "defer", "local"]
    assert [taken(half, age_s=h * HOUR_S, backlog=2) for h in (2.4, 2.5)] == ["defer", "local"]
    assert [taken(whole, age_s=h * HOUR_S) for h in (9.9, 10.0)] == ["defer", "local"]
    assert taken(half, age_s=2 * HOUR_S, fog=TRUSTED) == "trusted"  # 0.19 ≤ 0.2
    assert taken(whole, age_s=99 * HOUR_S, limit=Limit(0.0, "hot")) == "defer"


def test_a_rivals_sentence_reads_like_ours() -> None:
    """What, why, and what stood in the way."""
    state, decision = rivals.greedy_local(POLICY, State(), with_(limit=Limit(0.5, "cpu is warm")), 7.0)
    assert (decision.share, decision.cause) == (0.5, "price")
    assert decision.sentence == ("learns here with 0.5 of a core: here, as soon as it is safe (0 min old); cpu is warm")
    assert (state.at_s, state.share, state.share_at_s) == (7.0, 0.5, 7.0)
    _, decision = rivals.google(POLICY, State(), with_(limit=Limit(0.0, "hot")), 7.0)
    assert (decision.cause, decision.sentence) == ("unsafe", "deferred (0 min old): hot")


def test_ours_stands_first_in_the_table() -> None:
    """The bench compares everything with the first of them."""
    assert next(iter(rivals.RULES.items())) == ("price ceiling", decide)
    assert len(set(rivals.RULES)) == 7


situations = st.builds(
    Situation,
    age_s=st.floats(0, 30 * HOUR_S),
    limit=st.builds(Limit, st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.just("because")),
    energy_j=st.floats(0, 1e4),
    on_mains=st.booleans(),
    battery_share=st.none() | st.floats(0, 1),
    begun=st.sampled_from(["defer", "local", "assisted"]),
    network_up=st.booleans(),
    metered=st.booleans(),
    fog=st.sampled_from([None, FOG, TRUSTED]),
    backlog=st.integers(1, 5),
)


@pytest.mark.parametrize("name", rivals.RULES)
@given(situation=situations, now_s=st.floats(0, 1e6))
def test_every_rule_obeys_the_shield_and_chooses_among_the_offers(
    name: str, situation: Situation, now_s: float
) -> None:
    """Only their will differs: the same safe offers, the shield's share, the same answer every time."""
    rule = rivals.RULES[name]
    state, decision = rule(POLICY, State(), situation, now_s)
    assert (state, decision) == rule(POLICY, State(), situation, now_s)
    offers = safe_offers(POLICY, state, situation, now_s)
    assert decision.choice in {choice for _, choice in offers.prices} | {"defer"}
    assert decision.share <= situation.limit.share
    assert (decision.cause == "unsafe") == (not offers.prices)
    assert decision.sentence
