"""A small device for the tests of the processes: the tiny release, few steps, pictures of a condition it never saw."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from evergrove.adapters.release import open_release
from evergrove.bootstrap import Device
from evergrove.core.messages import JobResult, Observed
from evergrove.core.rng import stream
from evergrove.media.packs import read_pack

Picture = NDArray[np.uint8]
RELEASE = "tiny"
CONFIG = """
[learn]
auto = false
steps = 12
batch = 8
checkpoint_every = 4
[novelty]
golden_every = 3
[gate]
items_min = 2
[placement]
enabled = false
[agent]
linger_s = 5.0
snapshot_every = 40
"""


def strange_pictures(n: int, seed: int = 0) -> list[Picture]:
    """Pictures of a new condition: known ones with inverted colours and a stripe of their own each."""
    release = open_release(RELEASE)
    pack = read_pack(release.path_of(release.manifest.rehearsal))
    rng = stream(seed, "tests", "strange")
    pictures = []
    for i in rng.integers(len(pack.images), size=n):
        picture = 255 - pack.images[int(i)]
        row = int(rng.integers(0, picture.shape[0] - 4))
        picture[row : row + 4] = rng.integers(0, 256, size=3)
        pictures.append(picture)
    return pictures


def new_condition() -> dict[str, str]:
    """A value of the first factor that the release does not know."""
    return {open_release(RELEASE).manifest.vocabulary.names[0]: "strange"}


@dataclass(frozen=True)
class Learnt:
    """A device whose agent is gone, to be copied: what it was shown and said, its learning, what it drew next."""

    root: Path
    shown: list[Picture]
    said: list[Observed]
    stages: list[str]
    result: JobResult
    drawn_by: str | None


def learn_once(root: Path, config: str, n: int) -> Learnt:
    """Shows a new device ``n`` pictures of the new condition and lets it learn them."""
    device = Device.create(root, RELEASE, config)
    try:
        shown = strange_pictures(n)
        said = [device.observe(picture, new_condition()) for picture in shown]
        stages: list[str] = []
        result = device.learn(progress=lambda p: stages.append(p.stage))
        return Learnt(root, shown, said, stages, result, device.generate({}, seed=1).version)
    finally:
        device.close(stop_agent=True)


@pytest.fixture
def make_device(tmp_path: Path) -> Iterator[Callable[..., Device]]:
    """Makes devices in the test's own folder and ends their agents afterwards."""
    made: list[Device] = []

    def make(config: str = CONFIG, name: str = "device", flags: dict[str, str] | None = None) -> Device:
        made.append(Device.create(tmp_path / name, RELEASE, config, flags))
        return made[-1]

    yield make
    for device in made:
        device.close(stop_agent=True)
