"""A world too small to learn much, in which the race can be followed: 16 px, a few steps of everything."""

from pathlib import Path

import pytest
import torch

from evergrove.bench.forgetting import glyphs, worlds
from evergrove.bench.forgetting.race import Budget
from evergrove.bench.forgetting.streams import Classes, Sizes, Stream, class_incremental
from evergrove.bench.forgetting.worlds import Judge, World, WorldPlan
from evergrove.core.rng import stream as named
from evergrove.learn.basis import BasisPlan
from evergrove.learn.dit import DiTConfig

TINY = WorldPlan("glyphs", DiTConfig(16, 1, 4, 16, 2, 2), 30, BasisPlan(rank=4, tasks=1, steps=4), 40, 4, 8)
BUDGET = Budget(steps=48, batch=8)


def silent(what: str, done: int, total: int) -> None:
    """Nobody listens."""


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the world is kept."""
    torch.set_num_threads(1)
    return tmp_path_factory.mktemp("worlds")


@pytest.fixture(scope="session")
def classes() -> Classes:
    """Six signs that the base does not know, 20 pictures each."""
    drawn = []
    for i in range(6):
        rng = named(9, "tests", "sign", i)
        drawn.append(glyphs.pictures(glyphs.draw_sign(rng), 20, 16, rng))
    names = tuple(f"new-{i}" for i in range(6))
    return Classes(names, tuple(d[:12] for d in drawn), tuple(d[12:] for d in drawn))


@pytest.fixture(scope="session")
def world(folder: Path) -> World:
    """The base and its A."""
    return worlds.open_world(TINY, folder, silent)


@pytest.fixture(scope="session")
def judge(folder: Path, classes: Classes) -> Judge:
    """The judge of the six signs."""
    return worlds.open_judge("test", TINY, classes, folder, silent)


@pytest.fixture(scope="session")
def stream(world: World, classes: Classes) -> Stream:
    """Three lessons of two signs."""
    sizes = Sizes(n_train=10, n_real=8, n_asked=6)
    return class_incremental("S1", classes, world.model.vocabulary, [[0, 1], [4, 2], [5, 3]], sizes, seed=1)
