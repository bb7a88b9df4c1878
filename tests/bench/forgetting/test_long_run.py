"""The gate's long run: its counts by hand, its parts, and a whole run in a world of a few steps that can be killed."""

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from evergrove.bench.forgetting import long_run, worlds
from evergrove.bench.forgetting.long_run import Device, Ground, Sizes, Update
from evergrove.bench.forgetting.worlds import WorldPlan
from evergrove.core.conditions import Factor, Vocabulary
from evergrove.learn.adapter import blank_adapter
from evergrove.learn.basis import BasisPlan
from evergrove.learn.dit import DiTConfig
from evergrove.learn.strategies import Samples
from evergrove.rules import gate

from .conftest import silent

FACES = WorldPlan("avatars", DiTConfig(32, 3, 8, 32, 1, 2), 6, BasisPlan(rank=2, tasks=1, steps=2), 4, 24, base_batch=4)
SIZES = Sizes(n_updates=5, steps=2, n_golden=36, n_truth=36, n_kept=16)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the world lies."""
    torch.set_num_threads(1)
    return tmp_path_factory.mktemp("faces")


@pytest.fixture(scope="module")
def ground(made: Path) -> Ground:
    """A golden set of six emotions, a truth, and a gate."""
    return long_run._ground(worlds.open_world(FACES, made, silent), SIZES, 0, made / "cache")


def update(n: int, kind: str, outcome: str, harm: float, gain: float, promoted: float | None = None) -> Update:
    """One line; what was promoted is at .1 of the release."""
    return Update(n, kind, outcome, 1.0, harm, harm, gain, promoted, None if promoted is None else 0.1, "")


def test_the_verdict_by_hand() -> None:
    """δ = .2: harmful from .4 on, innocent up to .1 with a gain. One innocent of three rejected is over a tenth."""
    done = [
        update(0, "good", "accept", 0.05, 0.5, promoted=0.05),
        update(1, "good", "reject", 0.1, 0.5),
        update(2, "good", "accept", 0.3, 0.5, promoted=0.12),  # harmful to nobody, and not innocent
        update(3, "good", "reject", 0.05, -0.1),  # no gain: rightly rejected
        update(4, "naive", "reject", 0.4, 0.5),
        update(5, "noise", "accept", 0.05, 0.5, promoted=0.05),  # spoilt, and so not innocent
        update(6, "good", "accept", 0.0, 0.1, promoted=0.0),
    ]
    found = long_run.verdict(done, 0.2, 9)
    assert (found.harmful, found.harmful_promoted) == (1, 0)
    assert (found.innocent, found.innocent_rejected) == (3, 1)
    assert (found.good, found.good_rejected) == (5, 2)
    assert (found.worst_promoted, found.drift_max, found.looks) == (0.12, 0.1, 9)
    assert found.false_reject == pytest.approx(1 / 3)
    assert not found.met
    assert long_run.verdict([done[0]], 0.2, 1).met
    let_through = long_run.verdict([done[0], update(7, "naive", "accept", 0.9, 0.5, promoted=0.4)], 0.2, 2)
    assert let_through.harmful_promoted == 1
    assert not let_through.met


def test_every_fifth_is_spoilt_in_turn() -> None:
    """Of twenty updates four are spoilt, each in another way, and the twenty-fifth as the fifth."""
    kinds = [long_run.kind_of(n) for n in range(25)]
    assert [n for n, kind in enumerate(kinds) if kind != "good"] == [4, 9, 14, 19, 24]
    assert kinds[4::5] == ["naive", "mislabelled", "hurried", "noise", "naive"]


def test_a_mislabelled_picture_has_another_emotion() -> None:
    """No row keeps its emotion, every one has one of the six, and the other factors stay."""
    codes = np.stack((np.tile(np.arange(1, 7), 20), np.arange(120)), axis=1).astype(np.int16)
    samples = Samples(np.zeros((120, 2, 2, 3), np.uint8), codes)
    found = long_run.mislabelled(samples, np.random.default_rng(0))
    assert (found.codes[:, 0] != codes[:, 0]).all()
    assert set(found.codes[:, 0].tolist()) == {1, 2, 3, 4, 5, 6}
    assert np.array_equal(found.codes[:, 1], codes[:, 1])


def test_a_look_is_told_in_the_devices_own_numbers() -> None:
    """A hat that is the user's second value is the device's fourth, which learnt another one before."""
    theirs = Vocabulary((Factor("face", ("glad", "sad")), Factor("hat", ("none", "crown"))))
    ours = Vocabulary((Factor("face", ("glad", "sad")), Factor("hat", ("none", "bowler", "cap"))))
    samples = Samples(np.zeros((2, 2, 2, 3), np.uint8), np.array([[2, 1], [1, 2]], np.int16))
    found, wider = long_run._in_numbers(samples, theirs, ours)
    assert found.codes.tolist() == [[2, 1], [1, 4]]
    assert wider.factors[1].values == ("none", "bowler", "cap", "crown")


def test_eight_of_the_new_are_kept_and_the_rest_gives_way() -> None:
    """Ten old and twelve new with room for twelve: eight new and four old."""
    old = Samples(np.zeros((10, 1, 1, 1), np.uint8), np.full((10, 1), 1, np.int16))
    new = Samples(np.zeros((12, 1, 1, 1), np.uint8), np.full((12, 1), 2, np.int16))
    found = long_run._latest(old, new, 12, np.random.default_rng(0))
    assert (found.codes == 2).sum() == 8
    assert (found.codes == 1).sum() == 4


def test_an_adapter_that_does_nothing_harms_nobody(ground: Ground) -> None:
    """B = 0 is the release: harm and drift are exactly 0; a B of ones is neither."""
    world = ground.world
    device = Device(None, world.model.vocabulary, long_run._none(ground.rehearsal), gate.State())
    nothing = blank_adapter(world.model, world.basis, world.model.vocabulary)
    assert long_run.true_harm(ground, device, nothing) == (0.0, 0.0)
    ones = replace(nothing, b={name: torch.ones_like(b) for name, b in nothing.b.items()})
    harm, drift = long_run.true_harm(ground, device, ones)
    assert harm == drift > 0


def test_a_run_that_was_cut_short_goes_on(made: Path, tmp_path: Path) -> None:
    """Two updates, a torn line, then three more: the same file as five in one go; the fifth is the first spoilt one."""
    whole = long_run.run(FACES, made, tmp_path / "whole", SIZES, 0, silent)
    assert whole.n == 5
    assert whole.looks >= 5
    long_run.run(FACES, made, tmp_path / "cut", replace(SIZES, n_updates=2), 0, silent)
    lines = tmp_path / "cut" / "updates.jsonl"
    with lines.open("ab") as file:
        file.write(b'{"n":2,"kind"')
    assert long_run.run(FACES, made, tmp_path / "cut", SIZES, 0, silent) == whole
    assert lines.read_bytes() == (tmp_path / "whole" / "updates.jsonl").read_bytes()
    kinds = [msgspec.json.decode(row, type=Update).kind for row in lines.read_bytes().splitlines()]
    assert kinds == ["good"] * 4 + ["naive"]
