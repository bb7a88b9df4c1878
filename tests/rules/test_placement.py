"""The price ceiling: prices that add up by hand, one sentence for each way that a decision can go, and its laws."""

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergrove.core import config
from evergrove.rules import placement
from evergrove.rules.placement import Fog, Policy, Situation, State, ceiling, decide, energy_price, safe_offers
from evergrove.rules.shield import Limit

HOUR_S = 3600.0
NEW = State()
POLICY = Policy(
    deadline_s=10 * HOUR_S,
    ceiling_low=0.3,
    ceiling_high=1.5,
    energy_ref_j=500.0,
    mains_factor=0.1,
    scarcity=1.0,
    energy_mean_w=0.05,
    kappa=0.2,
    bytes_ref=10_000_000,
    bytes_weight=0.3,
    wait_ref_s=600.0,
    wait_weight=0.1,
    privacy_price=0.3,
    stay_share=0.1,
    raise_hold_s=60.0,
)
FREE, SHUT = Limit(1.0, "no limit is near"), Limit(0.0, "battery 20% is under its floor of 30%")
FULL = Situation(age_s=0.0, limit=FREE, energy_j=500.0, battery_share=1.0)
"""A new job of one reference energy on a full battery, without a fog: local costs exactly 1."""
FOG = Fog(assist_bytes=5_000_000, assist_wait_s=60.0, assist_saving=0.5)
"""0.15 for the bytes and 0.01 for the wait, and half of the energy stays: assisted costs 0.66."""
TRUSTED = msgspec.structs.replace(FOG, trusted=True, trusted_bytes=2_000_000, trusted_wait_s=120.0)
"""0.06 for the bytes, 0.02 for the wait, 0.3 for privacy: trusted costs 0.38."""


def with_(situation: Situation = FULL, **changes: object) -> Situation:
    return msgspec.structs.replace(situation, **changes)


def prices(situation: Situation, state: State = NEW, now_s: float = 0.0) -> dict[str, float]:
    found = safe_offers(POLICY, state, situation, now_s).prices
    return {choice: round(price, 6) for price, choice in found}


def said(situation: Situation, state: State = NEW, now_s: float = 0.0) -> tuple[str, float, str, str]:
    decision = decide(POLICY, state, situation, now_s)[1]
    return decision.choice, decision.share, decision.cause, decision.sentence


@pytest.mark.parametrize(
    ("situation", "debt", "price"),
    [
        (FULL, 0.0, 1.0),
        (with_(battery_share=0.5), 0.0, 1.5),
        (with_(battery_share=None), 0.0, 1.0),
        (with_(battery_share=7.0), 0.0, 1.0),
        (with_(battery_share=-1.0), 0.0, 2.0),
        (FULL, 5.0, 2.0),
        (with_(on_mains=True), 5.0, 0.1),
    ],
)
def test_energy_costs_more_from_an_empty_battery_and_in_debt(situation: Situation, debt: float, price: float) -> None:
    """w_e · energy · (2 − charge) · (1 + Z/5), and a tenth on mains whatever the debt."""
    assert energy_price(POLICY, State(debt=debt), situation, 500.0) == pytest.approx(price)


def test_the_ceiling_rises_with_the_square_of_the_age() -> None:
    """0.3 when new, 0.3 + 1.2/4 at half the age D, 1.5 from D on; a clock that went back makes a job new."""
    ages_h = (0.0, 5.0, 10.0, 99.0, -1.0)
    assert [ceiling(POLICY, age * HOUR_S, 500.0) for age in ages_h] == pytest.approx([0.3, 0.6, 1.5, 1.5, 0.3])


def test_offers_are_the_safe_choices_cheapest_first() -> None:
    """Alone 1.0; with an assist 0.66; on a trusted fog 0.38."""
    assert prices(FULL) == {"local": 1.0}
    assert list(prices(with_(fog=TRUSTED)).items()) == [("trusted", 0.38), ("assisted", 0.66), ("local", 1.0)]
    assert prices(with_(fog=msgspec.structs.replace(TRUSTED, assisted=False))) == {"trusted": 0.38, "local": 1.0}


def test_a_begun_job_goes_on_as_it_began_or_leaves_for_the_trusted_fog() -> None:
    """What an assist cost is paid: only the energy that is left counts. What began alone gets no help anew."""
    assert prices(with_(begun="assisted", energy_j=250.0, fog=TRUSTED)) == {"trusted": 0.38, "assisted": 0.5}
    assert prices(with_(begun="local", fog=TRUSTED)) == {"trusted": 0.38, "local": 1.0}
    gone = with_(begun="assisted", energy_j=250.0, fog=FOG, network_up=False)
    assert prices(gone) == {"assisted": 0.5}


def test_where_the_shield_is_shut_only_the_trusted_fog_is_left() -> None:
    """Nothing runs here, and the reason is said."""
    found = safe_offers(POLICY, State(), with_(limit=SHUT, fog=TRUSTED), 0.0)
    assert [choice for _, choice in found.prices] == ["trusted"]
    assert found.without == (SHUT.reason,)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"network_up": False}, "fog unreachable: no network"),
        ({"metered": True}, "fog not asked: the network is metered"),
        ({"fog": msgspec.structs.replace(TRUSTED, unreachable="no answer")}, "fog unreachable: no answer"),
    ],
)
def test_a_fog_that_cannot_be_asked_is_named(change: dict[str, object], why: str) -> None:
    """The job may still run here, and the sentence says why no fog is in it."""
    found = safe_offers(POLICY, State(), with_(with_(fog=TRUSTED), **change), 0.0)
    assert [choice for _, choice in found.prices] == ["local"]
    assert found.without == (why,)


def test_a_fog_that_failed_rests_longer_each_time_and_at_most_an_hour() -> None:
    """60 s, 120 s, 240 s … 3600 s; an answer forgives everything."""
    state, rests = State(), []
    for _ in range(8):
        state = placement.fog_failed(POLICY, state, 1000.0)
        rests.append(state.fog_again_s - 1000.0)
    assert rests == [60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 3600.0, 3600.0]
    resting = safe_offers(POLICY, state, with_(fog=TRUSTED), 4000.0)
    assert resting.without == ("fog not asked: it failed, next try in 600 s",)
    assert "trusted" in prices(with_(fog=TRUSTED), state, 4600.0)
    assert placement.fog_answered(state) == State()


def test_debt_is_what_was_drawn_over_the_mean_and_never_below_nothing() -> None:
    """3000 J in 10,000 s, of which 500 J were due: five reference jobs. Ten thousand quiet seconds pay back one."""
    state = placement.account(POLICY, State(at_s=0.0), with_(drawn_j=3000.0), 10_000.0)
    assert state.debt == pytest.approx(5.0)
    assert placement.account(POLICY, state, FULL, 20_000.0).debt == pytest.approx(4.0)
    assert placement.account(POLICY, state, FULL, 1e9).debt == 0.0
    assert placement.account(POLICY, state, with_(drawn_j=1e9), 0.0).debt == placement.DEBT_MAX
    assert placement.account(POLICY, State(), FULL, 1e9) == State(at_s=1e9)


def test_too_dear_is_deferred_with_both_numbers() -> None:
    """Local 1.0 against a ceiling of 0.6 at half the age D."""
    assert said(with_(age_s=5 * HOUR_S)) == (
        "defer",
        0.0,
        "price",
        "deferred: local 1.0 > ceiling 0.6 (5 h old)",
    )


def test_the_cheapest_under_the_ceiling_is_taken_and_the_others_are_named() -> None:
    """At five hours the ceiling is 0.6: the trusted fog, at no share of this device."""
    assert said(with_(age_s=5 * HOUR_S, fog=TRUSTED)) == (
        "trusted",
        0.0,
        "price",
        "learns on the trusted fog: trusted 0.4 ≤ ceiling 0.6 (5 h old); assisted 0.7; local 1.0",
    )
    assert said(with_(age_s=6 * HOUR_S, fog=FOG))[3] == (
        "learns here with a fog's assist and 1 of a core: assisted 0.66 ≤ ceiling 0.73 (6 h old); local 1.0"
    )
    assert said(with_(on_mains=True))[3] == "learns here with 1 of a core: local 0.1 ≤ ceiling 0.3 (0 min old)"


def test_past_the_age_d_any_safe_choice_is_taken() -> None:
    """Ten times too dear, and yet: it is ten hours old."""
    assert said(with_(age_s=10 * HOUR_S, energy_j=5000.0)) == (
        "local",
        1.0,
        "late",
        "learns here with 1 of a core: 10 h old, past the limit of 10 h, so any safe choice is taken; local 10.0",
    )


def test_what_a_person_asks_for_is_not_weighed() -> None:
    """Too dear and new, but somebody waits; the shield still has the last word."""
    assert said(with_(urgent=True)) == (
        "local", 1.0, "asked", "learns here with 1 of a core: somebody asked for it (0 min old); local 1.0"
    )  # fmt: skip
    assert said(with_(urgent=True, limit=SHUT))[:3] == ("defer", 0.0, "unsafe")


def test_nothing_safe_is_deferred_even_past_the_age_d() -> None:
    """The shield's reason and the fog's, in one sentence."""
    shut = with_(age_s=11 * HOUR_S, limit=SHUT, fog=TRUSTED, network_up=False)
    assert said(shut) == (
        "defer",
        0.0,
        "unsafe",
        "deferred (11 h old): battery 20% is under its floor of 30%; fog unreachable: no network",
    )


def test_a_running_job_may_go_a_tenth_over_the_ceiling() -> None:
    """1.0 against 0.95: not begun, but gone on with; against 0.9 it is over both."""
    for low, going_on in ((0.95, "local"), (0.9, "defer")):
        policy = msgspec.structs.replace(POLICY, ceiling_low=low)
        running = with_(begun="local", share=0.5)
        assert decide(policy, State(), FULL, 0.0)[1].choice == "defer"
        assert decide(policy, State(), running, 0.0)[1].choice == going_on
        assert decide(policy, State(), with_(running, share=0.0), 0.0)[1].choice == "defer"


def test_the_ceiling_is_a_part_of_the_jobs_own_price() -> None:
    """A large job does not wait on mains (0.6 of 6.0), and a small one does not rush on battery (0.2 of 0.2)."""
    assert ceiling(POLICY, 0.0, 3000.0) == pytest.approx(0.3 * 6.0)
    assert said(with_(on_mains=True, energy_j=3000.0))[0] == "local"
    assert said(with_(energy_j=100.0))[0] == "defer"
    assert said(with_(energy_j=0.0))[0] == "local"


def test_less_is_obeyed_at_once_and_more_only_after_a_minute() -> None:
    """Half a core since 100 s: a quarter at once, a whole one at 160 s; from a standstill at once."""
    state = State(at_s=100.0, share=0.5, share_at_s=100.0)
    running = with_(on_mains=True, begun="local", share=0.5)
    assert said(with_(running, limit=Limit(0.25, "cpu is at 70 °C")), state, 110.0)[1:] == (
        0.25,
        "price",
        "learns here with 0.25 of a core: local 0.1 ≤ ceiling 0.3 (0 min old); cpu is at 70 °C",
    )
    assert said(running, state, 159.0)[1] == 0.5
    assert said(running, state, 160.0)[1] == 1.0
    assert said(with_(running, share=0.0), state, 110.0)[1] == 1.0


def test_the_state_remembers_when_the_share_changed() -> None:
    """The same share again is no change."""
    state, _ = decide(POLICY, State(), with_(on_mains=True), 50.0)
    assert (state.share, state.share_at_s) == (1.0, 50.0)
    state, _ = decide(POLICY, state, with_(on_mains=True, begun="local", share=1.0), 90.0)
    assert (state.at_s, state.share_at_s) == (90.0, 50.0)


def test_numbers_are_told_with_as_many_digits_as_it_takes() -> None:
    """1.04 and 1.02 differ in the second; what differs in none is told with four."""
    assert placement.compared("local", 1.04, 1.02, "new") == "local 1.04 > ceiling 1.02 (new)"
    assert placement.compared("local", 1.0001, 1.0, "new") == "local 1.0001 > ceiling 1.0000 (new)"
    assert placement.compared("local", 1.0, 1.0, "new") == "local 1.0000 ≤ ceiling 1.0000 (new)"
    assert [placement.hours(s) for s in (0.0, 300.0, 3569.0, 3570.0, 7560.0, 43_200.0)] == [
        "0 min", "5 min", "59 min", "1 h", "2.1 h", "12 h"
    ]  # fmt: skip


def test_the_policy_is_that_of_the_configuration() -> None:
    """Field by field, and its defaults are those of the configuration."""
    assert Policy.of(config.Placement(kappa=0.7)).kappa == 0.7
    assert Policy.of(config.Placement()) == Policy()


# Laws

shares = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
fogs = st.none() | st.builds(
    Fog,
    unreachable=st.sampled_from(["", "no answer"]),
    assisted=st.booleans(),
    assist_bytes=st.integers(0, 10**8),
    assist_wait_s=st.floats(0, 1e4),
    assist_saving=st.floats(0, 1),
    trusted=st.booleans(),
    trusted_bytes=st.integers(0, 10**8),
    trusted_wait_s=st.floats(0, 1e4),
)
situations = st.builds(
    Situation,
    age_s=st.floats(0, 30 * HOUR_S),
    limit=st.builds(Limit, shares, st.just("because")),
    energy_j=st.floats(0, 1e4),
    on_mains=st.booleans(),
    battery_share=st.none() | st.floats(0, 1),
    begun=st.sampled_from(["defer", "local", "assisted"]),
    share=shares,
    drawn_j=st.floats(0, 1e4),
    network_up=st.booleans(),
    metered=st.booleans(),
    fog=fogs,
    urgent=st.booleans(),
)
states = st.builds(State, at_s=st.none() | st.floats(0, 1e6), debt=st.floats(0, 100), fog_again_s=st.floats(0, 2e6))


@given(states, situations, st.floats(0, 1e6))
def test_a_decision_is_safe_and_the_same_every_time(state: State, situation: Situation, now_s: float) -> None:
    """Never more than the shield's share, nothing here where it is shut, and no second opinion on a second look."""
    found, decision = decide(POLICY, state, situation, now_s)
    assert (found, decision) == decide(POLICY, state, situation, now_s)
    assert decision.share <= situation.limit.share
    assert (decision.share > 0) == (decision.choice in ("local", "assisted"))
    offered = {choice for _, choice in safe_offers(POLICY, found, situation, now_s).prices}
    assert decision.choice in offered | {"defer"}
    assert decision.sentence
    assert 0.0 <= found.debt <= placement.DEBT_MAX


@given(states, situations, st.floats(0, 1e6))
def test_no_job_waits_past_d_for_want_of_will(state: State, situation: Situation, now_s: float) -> None:
    """Ten hours old, or asked for by a person: it is put off only where nothing is safe."""
    old = with_(situation, age_s=situation.age_s + POLICY.deadline_s)
    for must in (old, with_(situation, urgent=True)):
        found, decision = decide(POLICY, state, must, now_s)
        safe = bool(safe_offers(POLICY, found, must, now_s).prices)
        assert (decision.choice != "defer") == safe


@given(st.floats(0, 40 * HOUR_S), st.floats(0, 40 * HOUR_S), st.floats(0, 1e4))
def test_the_ceiling_never_falls_with_waiting(one_s: float, other_s: float, energy_j: float) -> None:
    """Older may cost as much or more, between the two ends of the ceiling."""
    low, high = sorted((one_s, other_s))
    own = energy_j / POLICY.energy_ref_j
    bounds = [POLICY.ceiling_low * own, ceiling(POLICY, low, energy_j), ceiling(POLICY, high, energy_j)]
    bounds.append(POLICY.ceiling_high * own)
    for lower, upper in pairwise(bounds):
        assert lower <= upper * (1 + 1e-9)  # the last bits are the arithmetic's


@given(situations, st.floats(0, 1e6))
def test_alone_the_size_of_a_job_does_not_decide(situation: Situation, now_s: float) -> None:
    """Without a fog, a job of four times the energy waits as long as the small one."""
    small = with_(situation, fog=None, begun="local")
    large = with_(small, energy_j=4 * small.energy_j)
    assert decide(POLICY, State(), small, now_s)[1].choice == decide(POLICY, State(), large, now_s)[1].choice


@given(states, situations, st.floats(0, 1e6), st.floats(0, 20 * HOUR_S))
def test_what_is_taken_now_is_taken_when_older(state: State, situation: Situation, now_s: float, more_s: float) -> None:
    """Age alone never puts a job off."""
    taken = decide(POLICY, state, situation, now_s)[1].choice
    older = decide(POLICY, state, with_(situation, age_s=situation.age_s + more_s), now_s)[1].choice
    assert older == taken or taken == "defer"


@given(states, situations, st.floats(0, 1e6))
def test_the_cheapest_offer_stands_first(state: State, situation: Situation, now_s: float) -> None:
    """Prices are sorted and not below nothing; a fog that was not configured is in none."""
    offers = safe_offers(POLICY, state, situation, now_s).prices
    assert [price for price, _ in offers] == sorted(price for price, _ in offers)
    assert all(price >= 0.0 for price, _ in offers)
    if situation.fog is None:
        assert {choice for _, choice in offers} <= {"local"}
