"""``bench placement``: an optimum by hand, rules that can be followed slot by slot, and one small day of everything."""

import msgspec
import numpy as np
import pytest

from evergrove.bench.placement import OURS, Sizes, in_time, live, run, total_h
from evergrove.bench.placement_optimum import Curve, columns, solve
from evergrove.bench.placement_world import Device, Job, fleet
from evergrove.rules.placement import Fog, Policy
from evergrove.rules.placement_rivals import RULES, greedy_local
from evergrove.rules.shield import Limit

POLICY = Policy(
    deadline_s=1800.0, energy_ref_j=600.0, mains_factor=0.1, scarcity=1.0, ceiling_low=0.2, ceiling_high=0.5
)
"""D is six slots."""


def home(shares: list[float], mains: list[int], jobs: list[Job], fog: Fog | None = None) -> Device:
    """A full battery, 2 W for a core (600 J a slot, a whole reference job), the network always there."""
    n, yes = len(shares), np.ones(len(shares), bool)
    limits = [Limit(share, "shut" if share == 0 else "free") for share in shares]
    charge = np.ones(n)
    return Device(2.0, np.asarray(mains, bool), charge, yes, ~yes, yes, limits, fog, jobs)


def test_the_optimum_waits_for_the_mains_and_haste_costs() -> None:
    """One job in slot 0, mains in slot 3: 0.1 after four slots, or 1.0 after one; a price of 4 for an hour hastens."""
    device = home([1.0] * 5, [0, 0, 0, 1, 0], [Job(0, 600.0)])
    assert solve(columns(POLICY, device), 0.0) == pytest.approx((0.1, 4 / 12))
    assert solve(columns(POLICY, device), 4.0) == pytest.approx((1.0, 1 / 12))
    # Between the two: half of the job now and half later, (0.1 + 1.0) / 2 at 2.5 slots.
    curve = Curve([columns(POLICY, device)], (0.1, 10.0))
    assert curve.least_cost(2.5 / 12, rounds=20) == pytest.approx(0.55, abs=1e-3)
    assert curve.least_cost(9.0) == pytest.approx(0.1)


def test_the_optimum_shares_a_slot_between_jobs_that_fit() -> None:
    """Two whole jobs and one slot on mains: the second has to be done on battery."""
    device = home([1.0] * 3, [0, 1, 0], [Job(0, 600.0), Job(0, 600.0)])
    assert solve(columns(POLICY, device), 0.0)[0] == pytest.approx(1.1)


def test_nothing_is_asked_of_the_optimum_that_the_shield_forbids() -> None:
    """Mains while the shield is shut are of no use; half a core does half a job."""
    device = home([1.0, 0.0, 0.5, 0.0], [0, 1, 1, 0], [Job(0, 600.0)])
    assert solve(columns(POLICY, device), 0.0)[0] == pytest.approx(0.5 * 0.1 + 0.5 * 1.0)


def test_within_d_a_job_may_not_wait_for_mains_that_come_later() -> None:
    """D is six slots and the mains come after nine: on battery, unless nothing was safe until then."""
    mains = [0] * 9 + [1] * 3
    device = home([1.0] * 12, mains, [Job(0, 600.0)])
    assert solve(columns(POLICY, device), 0.0)[0] == pytest.approx(0.1)
    assert solve(in_time(POLICY, device), 0.0)[0] == pytest.approx(1.0)
    shut = home([0.0] * 9 + [1.0] * 3, mains, [Job(0, 600.0)])
    assert solve(in_time(POLICY, shut), 0.0)[0] == pytest.approx(0.1)


def test_an_assist_and_a_trusted_fog_are_offered_to_the_optimum_too() -> None:
    """Half of the energy spared for 0.03; or all of it for 0.03 and 0.3 of privacy."""
    fog = Fog(assist_bytes=1_000_000, assist_saving=0.5)
    assert solve(columns(POLICY, home([1.0], [0], [Job(0, 600.0)], fog)), 0.0)[0] == pytest.approx(0.53)
    trusted = msgspec.structs.replace(fog, trusted=True, trusted_bytes=1_000_000)
    assert solve(columns(POLICY, home([0.0], [0], [Job(0, 600.0)], trusted)), 0.0)[0] == pytest.approx(0.33)


def test_a_rule_pays_for_what_it_does_slot_by_slot() -> None:
    """Greedy on half a core: two slots of half a job, 1.0 in all, half after one slot and half after two."""
    device = home([0.5] * 4, [0] * 4, [Job(0, 600.0)])
    outcome = live(greedy_local, POLICY, [device]).outcomes[0]
    assert (outcome.cost, outcome.delay) == pytest.approx((1.0, 1.5))
    assert outcome.end == 2


def test_ours_waits_until_d_and_no_longer_for_want_of_will() -> None:
    """At 1.0 over a ceiling of 0.5 the job waits six slots; shut slots past D are told as forbidden."""
    device = home([1.0] * 6 + [0.0] * 2 + [1.0] * 2, [0] * 10, [Job(0, 600.0)])
    outcome = live(RULES[OURS], POLICY, [device]).outcomes[0]
    assert (outcome.end, outcome.forbidden, outcome.busy, outcome.unwilling) == (9, 2, 1, 0)
    idle = live(RULES["idle, charging, unmetered"], POLICY, [device])
    assert (idle.outcomes[0].end, idle.outcomes[0].unwilling) == (None, 2)
    assert total_h(idle) == pytest.approx(10 / 12)


def test_a_fleet_is_the_same_for_the_same_seed() -> None:
    """Device by device, whatever the number of the others."""
    few, more = fleet(3, 2, 1, 1), fleet(3, 3, 1, 1)
    for one, other in zip(few, more, strict=False):
        assert np.array_equal(one.battery_share, other.battery_share)
        assert (one.jobs, one.limits, one.fog) == (other.jobs, other.limits, other.fog)
    assert fleet(4, 1, 1, 1)[0].jobs != few[0].jobs


def test_a_small_day_under_all_rules() -> None:
    """Six devices, one day, one seed: nobody beats the optimum that knows the future, and ours keeps its word on D."""
    told: list[str] = []
    found = run(Sizes((0,), 6, 1, 2), lambda what, done, total: told.append(what))
    assert told == ["seed 0"]
    rows = {row.rule: row for row in found.rows}
    assert list(rows) == list(RULES)
    assert found.n_jobs > 5
    done = [row for row in found.rows if row.undone_share == 0.0]
    assert all(row.unlimited >= 1.0 - 1e-3 for row in done)
    ours = rows[OURS]
    assert (ours.unwilling_h, ours.undone_share) == (0.0, 0.0)
    assert ours.equal_delay >= 1.0 - 1e-3
    assert ours.worst_h <= found.deadline_h + ours.forbidden_h_max + ours.busy_h_max + 2 / 12
    assert rows["greedy local"].mean_h == min(row.mean_h for row in found.rows)
    assert found.bars[0].name == "cost over the optimum at equal mean delay"


def test_the_command_prints_a_table_and_a_document(capsys: pytest.CaptureFixture[str]) -> None:
    """The same rows for people and for machines; a missed bar is an exit with 1, ``--quick`` never is."""
    from evergrove.cli.main import run as evergrove

    small = ["bench", "placement", "--seeds", "1", "--devices", "3", "--days", "1"]
    code = evergrove(small)
    text = capsys.readouterr().out
    assert "÷ optimum" in text
    assert all(rule in text for rule in RULES)
    assert evergrove([*small, "--json"]) == code
    found = msgspec.json.decode(capsys.readouterr().out)
    assert [row["rule"] for row in found["rows"]] == list(RULES)
    assert code == (0 if all(bar["met"] for bar in found["bars"]) else 1)
    assert found["quick"] is False
