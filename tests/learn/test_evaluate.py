"""The gate's measurements: the same noise for everybody, harm counted positive, statistics per condition only."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from evergrove.core.errors import UsageError
from evergrove.core.measures import Comparison
from evergrove.learn.adapter import blank_adapter, fuse
from evergrove.learn.evaluate import (
    CACHED_MAX,
    Golden,
    Network,
    Probe,
    Roles,
    compared,
    item_values,
    measure,
    network,
    rows_of,
    told_wrongly,
    worth,
)
from evergrove.learn.strategies import Samples

World = Any  # the one of conftest.py
KNOWN = ((1, 0), (2, 0), (3, 0))
LEARNT = ((4, 0),)


class Counted(nn.Module):
    """A network that counts how many pictures it was asked about."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.n = 0

    def forward(self, x_t: torch.Tensor, t: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
        """Counts, and passes on."""
        self.n += len(x_t)
        out: torch.Tensor = self.module(x_t, t, code)
        return out


def harmed(world: World, condition: int = 2, size: float = 1.0) -> nn.Module:
    """The release with one emotion's row moved towards another's."""
    module = fuse(world.model, world.basis, blank_adapter(world.model, world.basis, world.wider))
    with torch.no_grad():
        rows = module.tables[0].weight
        rows[condition] = (1 - size) * rows[condition] + size * rows[1 + condition % 3]
    return module


def sets(world: World) -> tuple[Golden, Golden]:
    """The release's golden set and the device's own."""
    return Golden(world.golden, KNOWN, 11), Golden(world.own, LEARNT, 12)


def release(world: World) -> Network:
    """The release alone, widened to the new vocabulary."""
    return network(world.model, world.basis, None, world.wider, "release")


def by(comparisons: tuple[Comparison, ...]) -> dict[tuple[str, int], Comparison]:
    """By kind and the first factor's value."""
    return {(c.kind, c.condition[0]): c for c in comparisons}


def test_statistics_by_hand() -> None:
    """Losses 2 and 4 against 1 and 2, in units of 2: differences .5 and 1, mean .75, deviation √.125."""
    c = compared("incumbent", (1,), np.array([2.0, 4.0]), np.array([1.0, 2.0]), 2.0)
    assert (c.n, c.mean) == (2, 0.75)
    assert c.std == pytest.approx(0.125**0.5)
    assert compared("gain", (1,), np.zeros(0), np.zeros(0), 1.0) == Comparison("gain", (1,), 0, 0.0, 0.0)


def test_a_condition_is_worth_what_its_name_saves() -> None:
    """Losses 1 told rightly, 5 told wrongly: worth 4; where the name changes nothing, the loss is the unit."""
    assert worth(np.array([1.0, 1.0]), np.array([4.0, 6.0])) == 4.0
    assert worth(np.array([3.0]), np.array([3.0])) == 3.0
    assert worth(np.zeros(0), np.zeros(0)) == 1.0


def test_told_wrongly_changes_the_judged_factor_and_nothing_else(world: World) -> None:
    """The first value becomes the second, any other the first; pictures and other factors stay."""
    golden, _ = sets(world)
    wrong = told_wrongly(golden)
    assert (wrong.samples.codes[:, 0] == np.where(golden.samples.codes[:, 0] == 1, 2, 1)).all()
    assert (wrong.samples.codes[:, 1] == golden.samples.codes[:, 1]).all()
    assert wrong.samples.images is golden.samples.images


def test_a_factor_of_one_value_has_no_other_to_be_told(world: World) -> None:
    """A base of one kind of picture (kind=cat, in any colour) has no row for a second kind: it is left open."""
    codes = np.array([[1, 2], [1, 3]], np.int16)
    golden = Golden(Samples(world.golden.images[:2], codes), ((1, 0),), 11, sizes=(1, 3))
    assert told_wrongly(golden).samples.codes.tolist() == [[0, 2], [0, 3]]
    assert told_wrongly(replace(golden, sizes=(2, 3))).samples.codes.tolist() == [[2, 2], [2, 3]]


def test_a_no_op_is_exactly_no_change(world: World) -> None:
    """The release as its own candidate: every difference is 0 to the bit."""
    golden, own = sets(world)
    for c in measure(Roles(release(world), release(world), release(world)), golden, own, LEARNT):
        assert (c.mean, c.std) == (0.0, 0.0)


def test_harm_shows_where_it_was_done(world: World) -> None:
    """A candidate that lost pattern 2 is worse there, by much, and hardly elsewhere; the counts are the items'."""
    golden, own = sets(world)
    found = by(measure(Roles(Network(harmed(world)), release(world), release(world)), golden, own, LEARNT))
    assert {kind for kind, _ in found} == {"incumbent", "release", "gain"}
    assert 0.5 < found["incumbent", 2].mean < 2.0  # 1 is 'as bad as being told another one'
    assert abs(found["incumbent", 1].mean) + abs(found["incumbent", 3].mean) < 0.01
    assert found["incumbent", 2].n == 12
    assert found["gain", 4].n == 6
    assert found["release", 2] == replace_kind(found["incumbent", 2])


def replace_kind(c: Comparison) -> Comparison:
    """The same numbers against the release: it is the incumbent here."""
    return Comparison("release", c.condition, c.n, c.mean, c.std, c.skew)


def test_the_cumulative_margin_looks_at_the_release(world: World) -> None:
    """Against an incumbent that was harmed already, the same candidate is no worse; against the release it is."""
    golden, own = sets(world)
    bad = Network(harmed(world))
    found = by(measure(Roles(bad, bad, release(world)), golden, own, LEARNT))
    assert found["incumbent", 2].mean == 0.0
    assert found["release", 2].mean > 0.5


def test_the_teacher_is_asked_about_old_conditions(world: World) -> None:
    """With the release as teacher its own distance is 0, a harmed candidate's is not; new conditions are left out."""
    golden, own = sets(world)
    roles = Roles(Network(harmed(world)), release(world), release(world), Network(world.model, "teacher"))
    found = by(measure(roles, golden, own, LEARNT))
    assert {value for kind, value in found if kind == "teacher"} == {1, 2, 3}
    assert found["teacher", 2].mean > 0.5
    assert abs(found["teacher", 1].mean) < 1e-3


def test_everybody_sees_the_same_noise(world: World) -> None:
    """The same set and seed give the same values; another seed gives others; the draws average per item."""
    golden, _ = sets(world)
    probe = Probe(draws=2)
    one, two = (item_values(world.model, golden, probe).loss for _ in range(2))
    assert np.array_equal(one, two)
    assert len(one) == len(world.golden)
    assert not np.array_equal(one, item_values(world.model, replace(golden, seed=99), probe).loss)


def test_values_are_cached_by_what_they_depend_on(world: World, tmp_path: Path) -> None:
    """A named network is asked once; another set, probe or name is asked anew; a damaged cache is measured again."""
    golden, own = sets(world)
    asked = Counted(release(world).module)
    roles = Roles(Network(harmed(world)), Network(asked, "one"), Network(asked, "one"))
    shallow = Probe(draws=1, draws_max=1)
    first = measure(roles, golden, own, LEARNT, shallow, cache=tmp_path)
    n = asked.n
    # Told rightly and told wrongly: as incumbent, and not again as release.
    assert n == 2 * (len(world.golden) + len(world.own))
    assert measure(roles, golden, own, LEARNT, shallow, cache=tmp_path) == first
    assert asked.n == n
    measure(roles, replace(golden, seed=5), own, LEARNT, shallow, cache=tmp_path)
    assert asked.n == n + 2 * len(world.golden)
    for path in tmp_path.iterdir():
        path.write_bytes(b"damaged")
    assert measure(roles, golden, own, LEARNT, shallow, cache=tmp_path) == first


def test_the_cache_stays_bounded_and_keeps_what_is_asked_for(world: World, tmp_path: Path) -> None:
    """Months of candidates: each leaves its values, the oldest go, and those of what serves are read every time."""
    golden, own = sets(world)
    asked = Counted(release(world).module)
    shallow = Probe(draws=1, draws_max=1)

    def look(candidate: str) -> None:
        roles = Roles(Network(release(world).module, candidate), Network(asked, "one"), Network(asked, "one"))
        measure(roles, golden, own, LEARNT, shallow, cache=tmp_path)

    look("first")
    n = asked.n
    for i in range(40):
        look(f"candidate {i}")
    assert len(list(tmp_path.glob("*.npz"))) == CACHED_MAX < 2 * 40
    assert asked.n == n


def test_few_items_are_looked_at_more_often(world: World) -> None:
    """96 looks for the smallest condition, six draws at most: 12 items get 6, 36 get 3, 150 get 2; none asked, 2."""
    image = world.golden.images[:1]
    for n, draws in ((12, 6), (36, 3), (150, 2), (0, 2)):
        samples = Samples(np.repeat(image, n, axis=0), np.ones((n, 2), np.int16))
        assert Probe().deepened(Golden(samples, ((1, 0),), 0)).draws == draws


def test_more_draws_of_an_item_leave_less_to_chance(world: World) -> None:
    """The deviation of a harm between items falls when each is looked at six times, and the mean stays."""
    golden, own = sets(world)
    roles = Roles(Network(harmed(world)), release(world), release(world))
    once, often = (measure(roles, golden, own, LEARNT, Probe(draws=n, draws_max=n)) for n in (1, 6))
    assert np.mean([c.std for c in often]) < 0.8 * np.mean([c.std for c in once])
    assert np.mean([c.mean for c in often]) == pytest.approx(np.mean([c.mean for c in once]), rel=0.3)


def test_rows_agree_wherever_the_condition_says_something() -> None:
    """0 in a masked code is 'any'."""
    codes = np.array([[1, 1], [1, 2], [2, 1]], np.int16)
    assert rows_of(codes, (1, 0)).tolist() == [0, 1]
    assert rows_of(codes, (0, 1)).tolist() == [0, 2]
    assert rows_of(codes, (3, 0)).tolist() == []
    with pytest.raises(UsageError, match="3 factors"):
        rows_of(codes, (1, 0, 0))


def test_nothing_of_its_own_is_fine(world: World) -> None:
    """A device that learnt nothing yet has no own items; the frame gate is asked before every batch."""
    golden, _ = sets(world)
    asked = [0]

    def ask() -> None:
        asked[0] += 1

    empty = Golden(Samples(world.own.images[:0], world.own.codes[:0]), (), 0)
    roles = Roles(release(world), release(world), release(world))
    assert len(measure(roles, golden, empty, (), Probe(draws=1, draws_max=1, batch=9), before_batch=ask)) == 6
    assert asked[0] == 4 * 4  # three networks and the release told wrongly, 36 items in batches of 9
