"""Students: the arms differ in their aim alone, new pictures are new, and the check stops who leaves the teacher."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace as changed

from evergrove.bench.forgetting import student, worlds
from evergrove.bench.forgetting.worlds import Judge, World
from evergrove.learn.adapter import Adapter, Basis, blank_adapter
from evergrove.learn.basis import random_rows
from evergrove.learn.dit import DiT

from .conftest import TINY, silent

SIGNS = changed(TINY, n_known=student.N_SIGNS)


@pytest.fixture(scope="module")
def signs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the world of eight signs lies."""
    torch.set_num_threads(1)
    return tmp_path_factory.mktemp("signs")


@pytest.fixture(scope="module")
def world(signs: Path) -> World:
    """Its base is the teacher."""
    return worlds.open_world(SIGNS, signs, silent)


@pytest.fixture(scope="module")
def judge(signs: Path) -> Judge:
    """It reads the eight signs."""
    return student.judge_of(SIGNS, signs)


def test_new_pictures_are_of_the_known_signs_and_were_never_shown(world: World) -> None:
    """Three of each of eight signs, in order; no picture of them is among those that the base learnt from."""
    found = student.fresh(SIGNS, 3, seed=0)
    assert found.codes[:, 0].tolist() == [c for c in range(1, 9) for _ in range(3)]
    shown = {image.tobytes() for image in world.known.images}
    assert not any(image.tobytes() in shown for image in found.images)
    other = student.fresh(SIGNS, 3, seed=1)
    assert not np.array_equal(found.images, other.images)


def test_arms_differ_in_their_aim_alone(world: World) -> None:
    """Until the teacher is asked, *late* is *direct* to the bit: three of four steps. *All* is another from the first
    step on."""

    def numbers(model: DiT) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    def after(arm: str, steps: int) -> torch.Tensor:
        return numbers(student.taught(world.model, world.known, SIGNS, arm, 0, steps))

    assert not torch.equal(after("direct", 4), after("late", 4))
    assert not torch.equal(after("direct", 1), after("all", 1))
    assert torch.equal(after("direct", 4), after("direct", 4))
    share, start = student.ARMS["late"]
    assert (share, start * 4) == (0.5, 3)


def test_all_arms_and_the_teacher_are_judged(signs: Path) -> None:
    """Four rows: the teacher with its own steps, each arm with the same; shares lie in 0 to 1, distances are finite."""
    found = student.compare(SIGNS, signs, 0, 3, n_asked=2)
    assert [(row.arm, row.steps) for row in found] == [("teacher", 30), ("direct", 3), ("late", 3), ("all", 3)]
    assert all(0 <= row.accuracy <= 1 and np.isfinite(row.fid) and row.fid_random > 0 for row in found)


def test_the_check_passes_the_release_and_stops_who_leaves(world: World, judge: Judge) -> None:
    """A student that is its own teacher: B = 0 is at distance 0; B of deviation 10 leaves it, and is stopped."""
    pupil = student.taught(world.model, world.known, SIGNS, "direct", 0, 100)
    basis = Basis("student", "student", 1.0, random_rows(pupil, 4, 0))
    nothing = blank_adapter(pupil, basis, pupil.vocabulary)
    rng = torch.Generator().manual_seed(0)
    far = {name: 10 * torch.randn(b.shape, generator=rng) for name, b in nothing.b.items()}

    def noticed(adapter: Adapter) -> student.Noticed:
        return student._noticed(pupil, pupil, basis, adapter, judge, SIGNS, 0, "one")

    found = noticed(nothing)
    assert (found.stopped, found.bound) == (False, 0.0)
    left = noticed(replace(nothing, b=far))
    assert left.stopped
    assert left.bound > left.margin == 0.2
