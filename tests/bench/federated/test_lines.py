"""Lines, tables and the plan: what is read back, what a page says, and that no two arms share a name."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from evergrove.bench import json_lines
from evergrove.bench.federated import lines, plan, tables
from evergrove.bench.federated.lines import Line
from evergrove.bench.federated.reading import Reading
from evergrove.core.errors import CorruptState


def line(group: str, arm: str, right: float, **more: Any) -> Line:
    """A line with the same share everywhere."""
    seen = Reading(*[right] * 9, {}, {})
    spec = {"rate": 2.0, "momentum": 0.5, "clip": 0.1, "rounds": 10, "separation": 1}
    return Line(group, arm, 0, 20, None, spec, 0.01, seen, **more)


def test_lines_come_back_and_a_cut_last_one_does_not(tmp_path: Path) -> None:
    """Two lines, a kill in the third: two are read, and a race goes on; damage further up is named with its line."""
    path = tmp_path / "lines.jsonl"
    first, second = line("quality", "fleet n=20", 0.5), line("quality", "central n=20", 0.8)
    json_lines.append(path, first)
    json_lines.append(path, second)
    with path.open("ab") as file:
        file.write(msgspec.json.encode(first)[:50])
    assert lines.read(path) == {first.key: first, second.key: second}
    third = line("quality", "fleet n=100", 0.7)
    json_lines.append(path, third)  # in the place of what was cut short
    assert lines.read(path) == {first.key: first, second.key: second, third.key: third}
    path.write_bytes(path.read_bytes().replace(b'"fleet n=100"', b'"fleet n=100', 1))
    with pytest.raises(CorruptState, match="line 3"):
        lines.read(path)
    assert lines.read(tmp_path / "none") == {}


def test_a_page_divides_by_central_training_and_adds_up_the_path() -> None:
    """.6 beside .8 is .75, each beside the union in cohorts as large as its own; rate 2, momentum .5, clip .1 and ten
    rounds are a path of 4; 3 of 40 updates are 8 %."""
    found = [
        line("quality", "fleet n=20", 0.6),
        line("quality", "central n=20", 0.8),
        line("quality", "fleet n=20, 4 a round", 0.6),
        line("quality", "central n=20, 4 a round", 0.9),
        line("curve", "n=20 eps=8", 0.1, cohort=4, refused=3, epsilon_spent=8.0, noise_norm=2.0, moved=1.0),
    ]
    page = tables.page({one.key: one for one in found})
    assert "| fleet n=20 | 0.600 | 0.750 |" in page
    assert "| fleet n=20, 4 a round | 0.600 | 0.667 |" in page
    assert "| 4 | 2.0 | 1.0 | 8% | 8.000 |" in page


def test_bytes_to_a_level_lie_on_straight_lines() -> None:
    """1 MB a round, .2 at round 4 and .6 at round 8: .4 after 6 MB, .5 after 7, .7 never; half where two take turns."""
    curve = ((4, 0.2, 1.0), (8, 0.6, 1.0))
    own = [line("uplink", "8 bits n=20", 0.6, n_bytes=1_000_000, curve=curve)]
    assert [tables.megabytes(own, level) for level in (0.1, 0.4, 0.5, 0.7)] == ["2.0", "6.0", "7.0", "not reached"]
    in_turns = msgspec.structs.replace(own[0], spec={**own[0].spec, "separation": 2})
    assert tables.megabytes([in_turns], 0.4) == "3.0"


def test_bytes_are_compared_on_the_same_fleets() -> None:
    """The fleet's arm has a second seed, at .2, that the whole model has not: it is left out of their table."""
    curve = ((4, 0.6, 1.0),)
    found = [
        line("uplink", "whole model n=20", 0.6, n_bytes=20_000_000, curve=curve),
        line("quality", "fleet n=20", 0.6, n_bytes=1_000_000, curve=curve),
        msgspec.structs.replace(line("quality", "fleet n=20", 0.2, n_bytes=1_000_000, curve=((4, 0.2, 1.0),)), seed=1),
    ]
    uplink = tables.page({one.key: one for one in found}).partition("Uplink of a device")[2]
    assert "| fleet n=20 | 0.600 | 0.600 | 1,000,000 | 20.0 |" in uplink


def test_a_larger_fleet_turns_devices_into_rounds() -> None:
    """Twenty a round: 400 devices send the 15 updates each that they send in quarters of the fleet, in 300 rounds."""
    arms = {arm.name: arm for arm in plan.quality(plan.best({}), (20, 100, 400))}
    assert "fleet n=20, 20 a round" not in arms
    for n, rounds in ((100, 150), (400, 300)):
        few, many = arms[f"fleet n={n}, 20 a round"].spec, arms[f"fleet n={n}"].spec
        assert (n / few.separation, few.rounds) == (20, rounds)
        assert few.rounds / few.separation == many.rounds / many.separation
        assert arms[f"central n={n}, 20 a round"].spec == replace(few, local=arms[f"central n={n}"].spec.local)


def test_forms_of_an_uplink_take_as_many_steps_and_the_rival_has_momentum_too() -> None:
    """Whatever is sent and how often: 300 local steps a device; both sides are tried with and without momentum .9."""
    arms = plan.uplink(plan.best({}), 20)
    assert {arm.spec.rounds * arm.spec.local.steps for arm in arms} == {300}
    for kind in ("fleet", "whole"):
        assert 0.9 in {arm.spec.momentum for arm in arms if arm.kind == kind}
        assert {5, 10, 20} == {arm.spec.local.steps for arm in arms if arm.kind == kind}
    many = plan.uplink_of_many(plan.best({}), 100)
    assert {(arm.spec.rounds, arm.spec.separation, arm.spec.momentum) for arm in many if arm.kind == "whole"} == {
        (150, 5, 0.0), (150, 5, 0.7),
    }  # fmt: skip


def test_no_two_arms_share_a_name_and_the_least_error_is_chosen() -> None:
    """A name and a seed are a line's key; of three trials, the one of least error is used, and not the one of NaN."""
    trials = [arm for arm, _ in plan.tuning()]
    names = [arm.name for arm in trials if arm.name.startswith("tuning high:")]
    losses = zip(names, (0.3, 0.1, float("nan")), strict=False)
    found = {(name, plan.TUNING_SEED): Line("tuning", name, plan.TUNING_SEED, 400, 60.0, {}, e) for name, e in losses}
    chosen = plan.best(found)
    assert chosen["high"].name == names[1]
    keys = [
        (arm.name, seed)
        for arm, seed in [
            *plan.tuning(), *plan.quoted(chosen, range(2), (20, 100, 400)), *plan.quick(), *plan.large_trials(),
            *((arm, 0) for arm in [*plan.large_work(400), *plan.local_work(plan.AGREED, (20, 100, 400))]),
            *((arm, 0) for arm in plan.shared_work(plan.AGREED, 400)),
        ]
    ]  # fmt: skip
    assert len(keys) == len(set(keys))
    assert plan.level_of(400, 8.0) == "middle"
    assert plan.level_of(20, 8.0) == "low"
