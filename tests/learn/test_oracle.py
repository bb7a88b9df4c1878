"""The oracle: it learns what it is shown, ignores what is not said, and comes back from its file."""

from pathlib import Path

import numpy as np
import pytest
import torch

from evergrove.core.conditions import Factor, Vocabulary
from evergrove.core.errors import InvalidArtefact, UsageError
from evergrove.learn.oracle import Oracle, disturb, load_oracle, save_oracle, train_oracle

WORDS = Vocabulary((Factor("tone", ("dark", "bright")), Factor("side", ("left", "right"))))
CODES = np.array([[1 + i % 2, 1 + i // 2 % 2] for i in range(32)], np.int16)


def pictures() -> np.ndarray:
    """Dark or bright, with a white bar on the left or on the right."""
    images = np.where(CODES[:, 0, None, None, None] == 1, 60, 160) * np.ones((32, 16, 16, 3))
    for image, code in zip(images, CODES, strict=True):
        image[:, slice(2, 5) if code[1] == 1 else slice(11, 14)] = 255
    return images.astype(np.uint8)


@pytest.fixture(scope="module")
def judge() -> Oracle:
    codes = CODES.copy()
    codes[::5, 1] = 0  # not said: teaches nothing
    return train_oracle(WORDS, pictures(), codes, steps=80, batch=16)


def test_reads_what_pictures_show(judge: Oracle) -> None:
    """All of them, per factor and per value; factors that a code does not name do not count."""
    assert np.array_equal(judge.read(pictures()), CODES)
    assert judge.accuracy(pictures(), CODES) == {"tone": 1.0, "side": 1.0}
    assert judge.accuracy_by_value(pictures(), CODES, "side") == {"left": 1.0, "right": 1.0}
    wrong = CODES.copy()
    wrong[0, 0], wrong[:, 1] = 3 - wrong[0, 0], 0
    accuracy = judge.accuracy(pictures(), wrong)
    assert accuracy["tone"] == pytest.approx(31 / 32)
    assert np.isnan(accuracy["side"])


def test_comes_back_from_its_file(judge: Oracle, tmp_path: Path) -> None:
    """In fp16 it reads the same; something else is refused."""
    path = tmp_path / "oracle.safetensors"
    save_oracle(judge, path)
    again = load_oracle(path)
    assert again.vocabulary == WORDS
    assert np.array_equal(again.read(pictures()), CODES)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InvalidArtefact, match="no readable oracle"):
        load_oracle(path)


def test_disturbing_is_light() -> None:
    """A grey picture stays nearly grey, and pictures stay in their range."""
    x = torch.zeros(8, 3, 16, 16)
    out = disturb(x, torch.Generator().manual_seed(0))
    assert out.shape == x.shape
    assert float(out.abs().mean()) < 0.12
    assert float(disturb(torch.ones(2, 3, 16, 16), torch.Generator().manual_seed(0)).max()) <= 1.0


def test_odd_sizes_are_refused() -> None:
    """Four halvings need a multiple of 16."""
    with pytest.raises(UsageError, match="multiple of 16"):
        Oracle(WORDS, 40)
