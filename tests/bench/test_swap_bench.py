"""``evergrove bench swap``: versions really change under a stream, and a frame of no one version would be noticed."""

from dataclasses import replace
from pathlib import Path

from evergrove.adapters.release import open_release
from evergrove.bench import serving, swap
from evergrove.learn.adapter_file import adapter_bytes
from evergrove.runtime.assembly import open_parts
from evergrove.runtime.picture import Frame, Picture


def test_versions_change_under_a_stream_and_every_frame_is_of_one() -> None:
    """A second with promotions: about five of them, most seen by the app, no frame that its version does not make."""
    found = swap.run("tiny", swap.Sizes(seconds=1.0, block_s=0.5, settle_s=0.1))
    assert (found.still.n, found.swapping.n, found.p99.n) == (30, 30, 2)
    assert found.promotions >= 3
    assert found.swaps >= 2
    assert len(found.frames_by_version) == 2
    assert sum(found.frames_by_version.values()) == found.compared >= 30
    assert found.torn == 0
    assert found.telling == found.compared
    assert [bar.limit for bar in found.bars] == [0, 0]


def test_a_torn_frame_is_found(tmp_path: Path) -> None:
    """Right, one bit off, under the other version's name, and under the name of a version that nobody knows."""
    release = open_release("tiny")
    parts = open_parts(release)
    data = [adapter_bytes(serving.some_adapter(parts, seed)) for seed in range(2)]
    studios = {name: swap.lone_studio(release, tmp_path / name, some) for name, some in zip("ab", data, strict=True)}
    pixels, whole, _ = studios["a"].generate({}, 7, None, None)
    right = Frame.of(Picture("id", pixels, whole, 7, "a", 1.0), 0, 0.0, 0.0)
    changed = pixels.copy()
    changed[3, 4, 1] ^= 1
    assert swap.compare([right], studios) == (0, 1)
    assert swap.compare([replace(right, array=changed)], studios) == (1, 1)
    assert swap.compare([replace(right, version="b")], studios) == (1, 0)
    assert swap.compare([replace(right, version="c")], studios) == (1, 0)
