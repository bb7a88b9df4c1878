"""A small release of an untrained network, and a way to run one command line inside the test."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from evergrove.core.conditions import Factor, Vocabulary

VOCABULARY = Vocabulary((Factor("emotion", ("neutral", "happy", "sad")), Factor("hair", ("bob", "curly"))))
IMAGE_PX = 16


def draw(emotion: int, hair: int, seed: int) -> np.ndarray[Any, Any]:
    """A uint8 picture (16, 16, 3): the emotion is a bar's place, the hair its colour, the seed its noise."""
    rng = np.random.default_rng(seed)
    image = np.full((IMAGE_PX, IMAGE_PX, 3), 200, np.uint8)
    image[2 + 4 * emotion : 5 + 4 * emotion, 2:14] = (40, 90, 160) if hair else (160, 40, 90)
    return (image - rng.integers(0, 40, image.shape)).astype(np.uint8)


def write_release(folder: Path) -> Path:
    """A whole release with an untrained network and a random A: everything about it is real but what it draws."""
    import torch

    from evergrove.core.release import Manifest
    from evergrove.learn.base import base_bytes, file_ref, write_manifest
    from evergrove.learn.basis import basis_bytes, random_rows
    from evergrove.learn.dit import DiT, DiTConfig
    from evergrove.media.packs import Pack, write_pack

    folder.mkdir(parents=True)
    torch.manual_seed(0)
    model = DiT(DiTConfig(image_px=IMAGE_PX, patch_px=4, width=32, depth=2, heads=2), VOCABULARY)
    torch.nn.init.normal_(model.patch_out.weight)  # zero at the start of a training, and then every picture is grey
    (folder / "base.safetensors").write_bytes(base_bytes(model))
    base = file_ref(folder, "base.safetensors")
    (folder / "basis.safetensors").write_bytes(basis_bytes(random_rows(model, 4, 0), base.sha256))
    codes = np.array([(e, h) for e in (1, 2, 3) for h in (1, 2)] * 20, np.int16)
    for name, seed in (("golden.npz", 0), ("rehearsal.npz", 1000)):
        images = np.stack([draw(int(e) - 1, int(h) - 1, seed + i) for i, (e, h) in enumerate(codes)])
        write_pack(folder / name, Pack(images, codes))
    refs = {name: file_ref(folder, f"{name}.npz") for name in ("golden", "rehearsal")}
    basis = file_ref(folder, "basis.safetensors")
    manifest = Manifest(
        name="test", generation=1, version=1, image_px=IMAGE_PX, vocabulary=VOCABULARY, rank=4, scale=1.0,
        base=base, basis=basis, **refs,
    )  # fmt: skip
    write_manifest(folder, manifest)
    return folder


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the small release."""
    return write_release(tmp_path_factory.mktemp("release") / "test")


@pytest.fixture
def picture() -> Callable[[int, int, int], np.ndarray[Any, Any]]:
    """The pictures that the small release knows: see ``draw``."""
    return draw


@dataclass(frozen=True)
class Said:
    """What one command line left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Stdout as the one JSON document that it must be."""
        return msgspec.json.decode(self.out)


Evergrove = Callable[..., Said]


@pytest.fixture
def evergrove(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Evergrove:
    """Run ``evergrove`` with these words in this process."""
    from evergrove.cli.main import run

    for name in ("EVERGROVE_DEVICE", "EVERGROVE_LEARN__STEPS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "120")

    def call(*words: object) -> Said:
        capsys.readouterr()
        code = run([str(word) for word in words])
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return call
