"""Training a base: it learns, it resumes to the bit, and it refuses what does not belong to it."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from evergrove.core.conditions import Factor, Vocabulary
from evergrove.core.errors import InvalidArtefact, UsageError
from evergrove.learn.base import base_bytes, load_network
from evergrove.learn.base_train import Progress, TrainPlan, learning_rate, train
from evergrove.learn.dit import DiTConfig

CONFIG = DiTConfig(image_px=8, patch_px=4, width=32, depth=2, heads=2)
WORDS = Vocabulary((Factor("tone", ("dark", "bright")),))
CODES = np.array([[1], [2]] * 8, np.int16)
IMAGES = np.where(CODES[:, :, None, None] == 1, 40, 200).astype(np.uint8) * np.ones((16, 8, 8, 3), np.uint8)
PLAN = TrainPlan(steps=12, batch=8, checkpoint_every=5, warmup=2)


def test_goes_on_from_a_checkpoint_to_the_same_bits(tmp_path: Path) -> None:
    """Killed at step 7 with a checkpoint at 5, the result is that of a training in one go."""
    whole = train(CONFIG, WORDS, IMAGES, CODES, PLAN)
    checkpoint = tmp_path / "base.safetensors"

    def power_cut(p: Progress) -> None:
        if p.step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, WORDS, IMAGES, CODES, PLAN, checkpoint=checkpoint, report=power_cut)
    for _ in range(2):  # goes on; then finds itself done
        resumed = train(CONFIG, WORDS, IMAGES, CODES, PLAN, checkpoint=checkpoint)
        assert base_bytes(resumed) == base_bytes(whole)


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    """Other settings, other pictures, or bytes that are no checkpoint."""
    checkpoint = tmp_path / "base.safetensors"
    train(CONFIG, WORDS, IMAGES, CODES, PLAN, checkpoint=checkpoint)
    with pytest.raises(InvalidArtefact, match="another training"):
        train(CONFIG, WORDS, IMAGES, CODES, msgspec.structs.replace(PLAN, lr=5e-4), checkpoint=checkpoint)
    with pytest.raises(InvalidArtefact, match="another training"):
        train(CONFIG, WORDS, 255 - IMAGES, CODES, PLAN, checkpoint=checkpoint)
    checkpoint.write_bytes(b"not safetensors")
    with pytest.raises(InvalidArtefact, match="no checkpoint"):
        train(CONFIG, WORDS, IMAGES, CODES, PLAN, checkpoint=checkpoint)


def test_learns_what_the_conditions_mean() -> None:
    """After 150 steps, dark comes out darker than bright by most of what there is between them."""
    from evergrove.core.release import Sampler
    from evergrove.learn.generator import FlowGenerator, to_uint8

    model = train(CONFIG, WORDS, IMAGES, CODES, TrainPlan(steps=150, batch=16, warmup=10, lr=3e-3))
    generator = FlowGenerator(model, (3, 8, 8), Sampler(steps=4))
    pictures = to_uint8(generator.sample(torch.tensor([[1], [2]]), torch.Generator().manual_seed(0)))
    assert pictures[1].mean() - pictures[0].mean() > 100


def test_a_student_aims_at_its_teacher() -> None:
    """With distil = 1 the pictures do not matter any more, only what the teacher makes of them."""
    teacher = train(CONFIG, WORDS, IMAGES, CODES, PLAN)
    losses: list[Progress] = []
    plan = TrainPlan(steps=25, batch=8, distil=1.0, distil_from=0.0, warmup=1)
    train(CONFIG, WORDS, IMAGES, CODES, plan, teacher=teacher, report=losses.append)
    plain: list[Progress] = []
    train(CONFIG, WORDS, IMAGES, CODES, msgspec.structs.replace(plan, distil=0.0), teacher=teacher, report=plain.append)
    assert losses[-1].loss != plain[-1].loss


def test_the_rate_rises_stays_and_falls_to_zero() -> None:
    """Warm-up over 10 of 100 steps, cool-down over the last 40."""
    plan = TrainPlan(steps=100, warmup=10, cooldown=0.4, lr=1.0)
    rates = [learning_rate(step, plan) for step in (0, 9, 50, 60, 80, 99)]
    assert rates == pytest.approx([0.1, 1.0, 1.0, 1.0, 0.5, 0.025])


def test_networks_on_disk_are_checked(tmp_path: Path) -> None:
    """A file comes back as it went (in fp16); a cut one, a strange one and one with NaN do not."""
    model = train(CONFIG, WORDS, IMAGES, CODES, PLAN)
    path = tmp_path / "base.safetensors"
    data = base_bytes(model)
    path.write_bytes(data)
    again = load_network(path)
    assert again.vocabulary == WORDS
    assert base_bytes(again) == data
    for broken in (data[:-20], b"\x80\x04pickle", b""):
        path.write_bytes(broken)
        with pytest.raises(InvalidArtefact, match=r"base\.safetensors"):
            load_network(path)
    with torch.no_grad():
        model.patch_out.bias[0] = float("nan")
    with pytest.raises(UsageError, match=r"patch_out\.bias"):
        base_bytes(model)


def test_pictures_that_do_not_fit_are_refused() -> None:
    """A wrong size, and a code that the vocabulary does not know."""
    with pytest.raises(UsageError, match="uint8"):
        train(CONFIG, WORDS, IMAGES[:, :4], CODES, PLAN)
    with pytest.raises(UsageError, match="codes"):
        train(CONFIG, WORDS, IMAGES, CODES + 1, PLAN)
    with pytest.raises(UsageError, match="positive"):
        train(CONFIG, WORDS, IMAGES, CODES, TrainPlan(steps=0))
