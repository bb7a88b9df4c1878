"""The race: equal passes and bytes, declared and counted; a line for every run; what is done is not done again."""

import math
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from evergrove.bench import json_lines
from evergrove.bench.forgetting import lines, plan, race, summary, tables
from evergrove.bench.forgetting.lines import Line
from evergrove.bench.forgetting.page import page
from evergrove.bench.forgetting.plan import Form, Places
from evergrove.bench.forgetting.race import Room, evened
from evergrove.bench.forgetting.scores import Scores
from evergrove.bench.forgetting.streams import Classes, Sizes, Stream
from evergrove.bench.forgetting.worlds import Judge, World
from evergrove.core.conditions import Factor, Vocabulary
from evergrove.core.errors import CorruptState, UsageError
from evergrove.learn.oracle import Oracle
from evergrove.learn.rivals import RIVALS
from evergrove.learn.strategies import Samples

from .conftest import BUDGET, TINY, silent

RACED = ("naive", "ewc-lora", "isolated", "evergrove", "shared", "joint")


@pytest.fixture(scope="session")
def raced(world: World, judge: Judge, stream: Stream) -> dict[str, Line]:
    """One line of each kind of strategy."""
    return {name: race.run(RIVALS[name], world, judge, stream, 0, BUDGET) for name in RACED}


def test_all_get_the_same_passes(raced: dict[str, Line]) -> None:
    """What is declared is what is counted, within the rows of a last Fisher; and nobody has more than naive's."""
    whole = 3 * BUDGET.steps * BUDGET.batch * 3
    for name, line in raced.items():
        assert line.rows_declared <= whole
        assert line.rows_declared > whole - 3 * BUDGET.batch * 3, name
    assert raced["naive"].rows_counted == raced["naive"].rows_declared == whole
    assert raced["evergrove"].rows_counted == raced["evergrove"].rows_declared
    assert raced["joint"].rows_counted == whole
    # A Fisher is also made after the first lesson, before which there was nothing to prepare.
    assert raced["ewc-lora"].rows_counted == raced["ewc-lora"].rows_declared + 3 * 192


def test_bytes_are_counted_and_filled(raced: dict[str, Line], world: World) -> None:
    """Who replays fills the second half with observations and stays within; who stores a number a weight is over."""
    ours = raced["shared"]
    assert ours.over <= 1
    one = 16 * 16 + 2
    assert ours.n_bytes == 2 * _adapter_numbers(world) + ours.n_observations * one
    assert ours.n_observations > 0
    assert raced["naive"].n_bytes == 2 * _adapter_numbers(world)
    assert raced["ewc-lora"].over > 1
    assert raced["naive"].n_observations == 0


def _adapter_numbers(world: World) -> int:
    out = sum(world.model.get_submodule(name).out_features * len(a) for name, a in world.basis.a.items())
    return out + 6 * TINY.network.width


def test_r_is_measured_where_it_should_be(raced: dict[str, Line]) -> None:
    """What was learnt so far, after every lesson; drift of what was learnt before; joint has its last row."""
    fid = raced["naive"].matrix("fid")
    assert fid.shape == (4, 3)
    assert np.isnan(fid).tolist() == [[True] * 3, [False, True, True], [False, False, True], [False] * 3]
    drift = raced["naive"].matrix("drift")
    assert np.isfinite(drift).tolist() == [[False] * 3, [False] * 3, [True, False, False], [True, True, False]]
    assert np.isfinite(raced["joint"].matrix("fid")).any(axis=1).tolist() == [False, False, False, True]
    assert raced["naive"].frequency_kl[0] is None
    assert raced["naive"].frequency_kl[-1] is not None


def test_isolated_adapters_do_not_drift(raced: dict[str, Line]) -> None:
    """Nothing that came later changes a picture of theirs; the naive adapter's do change."""
    assert np.nanmax(raced["isolated"].matrix("drift")) == 0
    assert np.nanmax(raced["naive"].matrix("drift")) > 0
    assert tables.lost(raced["isolated"], "fid") == 0


def test_the_same_seed_gives_the_same_line(world: World, judge: Judge, stream: Stream, raced: dict[str, Line]) -> None:
    """All but the time is the same to the digit."""
    again = race.run(RIVALS["evergrove"], world, judge, stream, 0, BUDGET)
    assert msgspec.structs.replace(again, cpu_s=0) == msgspec.structs.replace(raced["evergrove"], cpu_s=0)


def test_a_race_goes_on_where_it_stopped(
    world: World,
    judge: Judge,
    stream: Stream,
    folder: Path,
    classes: Classes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Lines that are there are not run again; other settings are another race."""
    monkeypatch.setattr(plan, "classes_of", lambda name, data, small: classes)
    form = Form("S1", TINY, Sizes(n_lessons=3, n_train=6, n_real=8, n_asked=4), replace(BUDGET, steps=2))
    places = Places(None, folder, tmp_path / "lines.jsonl")
    rivals = [RIVALS["naive"], RIVALS["isolated"]]
    told: list[tuple[str, int, int]] = []
    first = plan.run(form, rivals[:1], [0, 1], places, lambda *what: told.append(what))
    assert told[-1][1:] == (6, 6)
    assert [line.key for line in first] == [("S1", "naive", 0), ("S1", "naive", 1)]
    n_bytes = places.results.stat().st_size
    both = plan.run(form, rivals, [0, 1], places, silent)
    assert [line.strategy for line in both] == ["naive", "isolated"] * 2
    assert [line for line in both if line.strategy == "naive"] == first
    assert places.results.stat().st_size > n_bytes
    other = plan.run(replace(form, budget=replace(BUDGET, steps=3)), rivals[:1], [0], places, silent)
    assert other[0].steps == (3, 3, 3)
    with pytest.raises(UsageError, match="at least one"):
        plan.run(form, [], [0], places, silent)


def test_a_line_cut_short_is_run_again(raced: dict[str, Line], tmp_path: Path) -> None:
    """A kill while writing costs one line; damage in the middle is named."""
    path = tmp_path / "lines.jsonl"
    json_lines.append(path, raced["naive"])
    with path.open("ab") as file:
        file.write(b'{"stream": "S1", "stra')
    assert set(lines.read(path)) == {("S1", "naive", 0)}
    json_lines.append(path, raced["joint"])
    assert set(lines.read(path)) == {("S1", "naive", 0), ("S1", "joint", 0)}
    path.write_bytes(b"nonsense\n" + path.read_bytes())
    with pytest.raises(CorruptState, match="line 1"):
        lines.read(path)


def test_tables_and_page_come_from_the_lines(raced: dict[str, Line]) -> None:
    """One row a strategy in the race's order; ours against each, paired by seed; the page names them all."""
    shifted = [msgspec.structs.replace(line, seed=1) for line in raced.values()]
    found = tables.table_of([*raced.values(), *shifted])
    assert [row.strategy for row in found.rows] == list(RACED)
    ours = next(row for row in found.rows if row.strategy == "evergrove")
    naive = next(row for row in found.rows if row.strategy == "naive")
    assert ours.against is None
    assert naive.against is not None
    expected = summary.average(raced["evergrove"].matrix("fid")) - summary.average(raced["naive"].matrix("fid"))
    assert naive.against.mean == pytest.approx(expected)
    assert math.isnan(next(row for row in found.rows if row.strategy == "joint").lost_fid.mean)
    fids = {row.strategy: row.fid.mean for row in found.rows}
    order = sorted(fids, key=lambda name: fids[name])
    assert tables.in_order(found, order)
    assert not tables.in_order(found, order[::-1])
    assert tables.in_order(found, ["absent", *order[:1]])
    text = page([found], [*raced.values(), *shifted], "evergrove bench forgetting")
    assert all(name in text for name in RACED)


def test_every_lesson_keeps_the_same_part_of_the_room() -> None:
    """Room for 12 pictures of 6 bytes: 12 of the first lesson; after the second 6 and 6; numbers are taken off."""

    def lesson(value: int) -> Samples:
        return Samples(np.full((20, 2, 2, 1), value, np.uint8), np.full((20, 1), value, np.int16))

    room = Room(12 * 6)
    room.keep(0, lesson(1), 0, seed=0)
    assert room.n == 12
    room.keep(1, lesson(2), 0, seed=0)
    assert [len(part) for part in room.held] == [6, 6]
    room.keep(2, lesson(3), 36, seed=0)
    assert [len(part) for part in room.held] == [2, 2, 2]
    assert room.n_bytes == 36


def test_few_of_a_device_weigh_as_much_as_many_of_a_release() -> None:
    """Three repeated four times beside twelve; without a release's nothing is repeated."""
    many = Samples(np.zeros((12, 1, 1, 1), np.uint8), np.ones((12, 1), np.int16))
    few = Samples(np.ones((3, 1, 1, 1), np.uint8), np.full((3, 1), 2, np.int16))
    assert np.bincount(evened([many, few]).codes[:, 0]).tolist() == [0, 12, 12]
    assert len(evened([Samples(many.images[:0], many.codes[:0]), few])) == 3


def test_combinations_are_asked_for_that_nobody_showed(world: World) -> None:
    """Two codes of two factors and four known values of the first: eight; with one factor there is nothing to mix."""
    part = Samples(np.zeros((2, 1, 1, 1), np.uint8), np.array([(1, 7), (2, 8)], np.int16))
    found = race.recombined(part, world.model).codes
    assert found.tolist() == [[v, look] for look in (7, 8) for v in (1, 2, 3, 4)]
    single = Samples(part.images, part.codes[:, :1])
    assert race.recombined(single, world.model) is single


def test_passes_are_counted_by_whichever_way(world: World) -> None:
    """Ten rows forward, once called and once through the sampler's plan in two steps; with a gradient three each."""
    counter = race.Counter(TINY.network.depth)
    x, code = torch.zeros(10, 1, 16, 16), torch.ones(10, 1, dtype=torch.int64)
    with counter.counting():
        with torch.no_grad():
            world.model(x, torch.zeros(10), code)
        assert counter.passes == 10
        race.sample(world.model, code, x, 2)
        assert counter.passes == 30
        world.model(x, torch.zeros(10), code)
    assert counter.passes == 60
    world.model(x, torch.zeros(10), code)
    assert counter.passes == 60


def test_right_is_the_first_factor_and_whatever_the_base_did_not_know(judge: Judge, stream: Stream) -> None:
    """Wrong in the first factor is wrong; what the base knew does not count elsewhere, what it did not does."""
    base = Vocabulary((Factor("sign", ("a", "b")), Factor("hat", ("none",))))
    wider = base.extend({"hat": "crown"})
    codes = np.array([(1, 1), (1, 1), (1, 2), (1, 2)], np.int16)
    images = np.zeros((4, 16, 16, 1), np.uint8)
    lesson = replace(stream.lessons[0], vocabulary=wider, asked=codes, real=Samples(images, codes))
    reads = np.array([(1, 2), (2, 1), (1, 2), (1, 1)], np.int16)
    oracle = Told(wider, 16, 1)
    oracle.told = reads
    scores = Scores(replace(judge, oracle=oracle), replace(stream, base=base, lessons=(lesson,)))
    scores.add(1, 0, images)
    # Wrong hat where none was new: right. Wrong sign: wrong. New hat read: right. New hat missed: wrong.
    assert scores.r["accuracy"][1, 0] == 0.5


class Told(Oracle):
    """An oracle that reads what it is told."""

    told: "np.ndarray[tuple[int, int], np.dtype[np.int16]]"

    def read(self, images: "np.ndarray", batch: int = 128) -> "np.ndarray":  # type: ignore[type-arg]
        """Whatever the pictures show."""
        return self.told
