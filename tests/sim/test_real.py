"""Real learning in virtual time: the production vault, keeper, worker tasks and versions behind the same ports."""

from pathlib import Path

import pytest

from evergrove.adapters.release import open_release
from evergrove.core import effects as do
from evergrove.core import events as ev
from evergrove.core.config import Config
from evergrove.core.errors import UsageError
from evergrove.core.jobs import Failed
from evergrove.core.rng import stream
from evergrove.sim import fleet, plants, scenario
from evergrove.sim.real import Cabinet, Gallery, Learner
from evergrove.sim.scenario import Stream, Trainer

LEARNS = """
name = "learns"
hours = 5
[[fleet]]
name = "board"
[fleet.power]
capacity_wh = 0
[fleet.stream]
per_day = 300
n_new = 1
near_share = 0
[fleet.trainer]
kind = "real"
step_s = 0.5
measure_s = 20
[fleet.config.learn]
steps = 4
min_new = 20
[fleet.config.telemetry]
period_s = 60
[faults.crash]
per_day = 8
"""


def gallery() -> Gallery:
    return Gallery(open_release("tiny"))


def test_a_device_really_learns_and_runs_the_same_twice(tmp_path: Path) -> None:
    """A few steps of torch, a real look of the golden gate, crashes between; the same digest in another folder."""
    outcomes = [
        fleet.World(scenario.parse(LEARNS), folder=tmp_path / name).run().outcome() for name in ("first", "second")
    ]
    jobs = fleet.summary(outcomes[0].devices)["jobs"]
    assert jobs["trained"] >= 1
    assert jobs.get("accepted", 0) + jobs.get("reject", 0) + jobs.get("rescale", 0) >= 1
    assert outcomes[0].digest == outcomes[1].digest
    device = outcomes[0].devices[0]
    assert device.n_missing == 0
    assert list((tmp_path / "first" / "board-1" / "versions").glob("*.safetensors"))
    assert device.state.release == open_release("tiny").manifest_hash


def test_devices_that_really_learn_need_a_folder() -> None:
    """The way out is named."""
    with pytest.raises(UsageError, match="give --out"):
        fleet.World(scenario.parse(LEARNS))


def test_a_gallery_shows_new_conditions_and_copies_again() -> None:
    """Every picture is of a value that the release does not know; a copy is the last one of its value."""
    shown = gallery()
    always = plants.pictures(Stream(known=shown.known, duplicate_share=1.0), "steady", stream(0, "s"), 0.0)
    seen = [next(it) for it in [shown.shown(always, stream(0, "g"))] * 12]
    assert all(p.code[0] > shown.known[0] for _, p in seen)
    assert all(shown.codes[p.image] == p.code for _, p in seen)
    by_value: dict[int, set[int]] = {}
    for _, picture in seen:
        by_value.setdefault(picture.code[0], set()).add(picture.image)
    assert all(len(images) == 1 for images in by_value.values())


def test_a_cabinet_knows_copies_and_survives_a_power_cut(tmp_path: Path) -> None:
    """The same picture twice is an exact duplicate, also after the vault was opened anew; names come from the seed."""
    shown = gallery()
    pictures = shown.shown(plants.pictures(Stream(known=shown.known), "steady", stream(0, "s"), 0.0), stream(0, "g"))
    picture = next(pictures)[1]
    cabinet = Cabinet(tmp_path, shown, "d", 3)
    name, facts = cabinet.receive(picture)
    assert facts.distance is None
    assert isinstance(cabinet.store(name, "train", "kept"), ev.ObservationKept)
    cabinet.lose_power()
    other, facts = cabinet.receive(picture)
    assert facts.exact_duplicate
    cabinet.drop(other)
    assert cabinet.records == {name: "train"}
    assert Cabinet(tmp_path / "b", shown, "d", 3).receive(picture)[0] == name
    assert cabinet.reconcile(set(), {}) == []
    assert cabinet.records == {}


def test_a_training_without_records_fails_with_the_workers_own_words(tmp_path: Path) -> None:
    """As a worker process would say it; costs are declared."""
    release = open_release("tiny")
    Cabinet(tmp_path, gallery(), "d", 0)
    learner = Learner(tmp_path, release, Trainer(step_s=2.0, step_j=3.0, measure_s=7.0), Config(), 0)
    outcome = learner.train(do.StartTraining("job-00001", None, ("f" * 32,), 2, 1))
    assert isinstance(outcome, Failed)
    assert "none of the observations" in outcome.reason
    unknown = do.StartMeasuring("job-00002", None, str(tmp_path / "nothing.safetensors"), None, (), 1.0, 1)
    assert isinstance(learner.measure(unknown), Failed)
    assert learner.cost_s(do.StartTraining("j", None, (), 10, 1)) == 20.0
    assert learner.cost_s(unknown) == 7.0
    assert learner.power_w() == 1.5


def test_a_release_without_pictures_cannot_be_shown(tmp_path: Path) -> None:
    """The pack is missing: the message names it."""
    import shutil

    source = open_release("tiny").folder
    shutil.copytree(source, tmp_path / "bare", ignore=shutil.ignore_patterns("demo.npz"))
    with pytest.raises(UsageError, match=r"demo\.npz"):
        Gallery(open_release(tmp_path / "bare"))
    shutil.copy(source / "golden.npz", tmp_path / "bare" / "demo.npz")
    with pytest.raises(UsageError, match="nothing that the release does not know"):
        Gallery(open_release(tmp_path / "bare"))
