"""A: orthonormal, learnt on pseudo-tasks, resumable, and bound to its base."""

from pathlib import Path

import numpy as np
import pytest
import torch

from evergrove.core.conditions import Factor, Vocabulary
from evergrove.core.errors import InvalidArtefact, UsageError
from evergrove.learn.basis import BasisPlan, basis_bytes, learn_basis, load_basis, orthonormal, random_rows
from evergrove.learn.dit import DiT, DiTConfig, adapted_layers
from evergrove.learn.pseudo_tasks import STAMP_COLORS, draw_recipe, draw_task

WORDS = Vocabulary((Factor("tone", ("dark", "bright")), Factor("side", ("left", "right"))))
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, size=(24, 16, 16, 3), dtype=np.uint8)
CODES = RNG.integers(1, 3, size=(24, 2)).astype(np.int16)
PLAN = BasisPlan(rank=3, tasks=3, steps=4, batch=4, n_new=8)
BASE_HASH = "b" * 64


def network() -> DiT:
    torch.manual_seed(0)
    model = DiT(DiTConfig(image_px=16, patch_px=8, width=16, depth=2, heads=2), WORDS)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model.requires_grad_(False)


def test_rows_are_orthonormal_span_the_same_and_come_by_importance() -> None:
    """The rows of (3,0,0), (0,4,0) become ±e2, ±e1: the longest direction first."""
    rows = orthonormal(torch.tensor([[3.0, 0.0, 0.0], [0.0, 4.0, 0.0]]))
    assert rows.abs().round(decimals=5).tolist() == [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    with pytest.raises(UsageError, match="lower the rank"):
        orthonormal(torch.randn(4, 3))


def test_learning_moves_a_and_keeps_it_orthonormal() -> None:
    """Every adapted layer gets a new A of the same shape; B = 0 at the start of a task would leave it where it was."""
    model = network()
    before = random_rows(model, PLAN.rank, PLAN.seed)
    after = learn_basis(model, IMAGES, CODES, PLAN)
    assert list(after) == list(adapted_layers(model))
    for name, rows in after.items():
        assert rows.shape == before[name].shape
        assert torch.allclose(rows @ rows.T, torch.eye(3), atol=1e-5)
    moved = [float(torch.linalg.matrix_norm(after[n] @ before[n].T, 2)) for n in after]
    assert any(float(torch.dist(after[n].T @ after[n], before[n].T @ before[n])) > 1e-3 for n in after), moved


def test_goes_on_after_the_last_whole_task(tmp_path: Path) -> None:
    """Stopped after two tasks of three, the outcome is the same; for other settings the checkpoint is refused."""
    model, checkpoint = network(), tmp_path / "basis.safetensors"
    whole = learn_basis(model, IMAGES, CODES, PLAN)

    def stop(done: int, loss: float) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn_basis(model, IMAGES, CODES, PLAN, checkpoint, stop)
    resumed = learn_basis(model, IMAGES, CODES, PLAN, checkpoint)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    with pytest.raises(InvalidArtefact, match="other settings"):
        learn_basis(model, IMAGES, CODES, BasisPlan(rank=3, tasks=4, steps=4, batch=4, n_new=8), checkpoint)


def test_a_file_is_bound_to_its_base_and_checked(tmp_path: Path) -> None:
    """It comes back as it went; for another base, damaged, skewed or not finite it is refused."""
    path, rows = tmp_path / "basis.safetensors", random_rows(network(), 3, 0)
    path.write_bytes(basis_bytes(rows, BASE_HASH))
    basis = load_basis(path, BASE_HASH, 1.0)
    assert basis.rank == 3
    assert all(torch.equal(basis.a[name], rows[name]) for name in rows)
    with pytest.raises(InvalidArtefact, match="another base"):
        load_basis(path, "c" * 64, 1.0)
    name = next(iter(rows))
    for broken in (2 * rows[name], rows[name] * float("nan")):
        path.write_bytes(basis_bytes(rows | {name: broken}, BASE_HASH))
        with pytest.raises(InvalidArtefact, match="blocks"):
            load_basis(path, BASE_HASH, 1.0)
    path.write_bytes(b"junk")
    with pytest.raises(InvalidArtefact, match="no readable A"):
        load_basis(path, BASE_HASH, 1.0)


def test_a_pseudo_task_shows_new_values_of_one_factor() -> None:
    """Its new pictures carry one of two new numbers; the known ones are as they were."""
    for seed in range(12):
        task = draw_task(IMAGES, CODES, WORDS, 10, np.random.default_rng(seed))
        grown = [f for f in range(2) if task.vocabulary.sizes[f] > WORDS.sizes[f]]
        assert len(grown) == 1
        assert set(task.codes[:, grown[0]].tolist()) == {3, 4}
        assert (task.codes[:, 1 - grown[0]] <= 2).all()
        assert np.array_equal(task.known_images, IMAGES)
        images, codes = task.batch(3, 2, np.random.default_rng(0))
        assert (codes[:3, grown[0]] > 2).all()
        assert (codes[3:] <= 2).all()
        assert images.dtype == np.uint8


def test_a_recipe_changes_all_its_pictures_and_never_its_input() -> None:
    """The same recipe does the same to the same picture; what came in is not written to."""
    before, changed = IMAGES.copy(), 0
    for seed in range(40):
        recipe = draw_recipe(np.random.default_rng(seed))
        out = recipe(IMAGES)
        assert out.shape == IMAGES.shape
        assert out.dtype == np.uint8
        assert np.array_equal(out[:1], recipe(IMAGES[:1]))
        changed += int((out != IMAGES).any(axis=(1, 2, 3)).all())
    assert changed >= 38
    assert np.array_equal(IMAGES, before)


def test_stamps_are_neither_red_pink_nor_green() -> None:
    """What devices are to learn has red hearts and green mouths; no pseudo-task may look like it."""
    for r, g, b in STAMP_COLORS:
        assert not (g > r + 20 and g > b + 20)
        assert not (r > g + 110)
