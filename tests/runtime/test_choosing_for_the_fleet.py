"""What a device scores its choices on: its own held-back pictures, and the release's of what it never saw."""

import numpy as np

from evergrove.learn.strategies import Samples
from evergrove.runtime.choosing import HELD_BACK_MAX, _with_fleet


def samples(codes: list[tuple[int, int]]) -> Samples:
    """Pictures that are told apart by their first pixel."""
    images = np.zeros((len(codes), 2, 2, 3), np.uint8)
    images[:, 0, 0, 0] = range(len(codes))
    return Samples(images, np.array(codes, np.int16).reshape(-1, 2))


def test_the_releases_pictures_speak_for_what_the_device_never_saw() -> None:
    """Known: 2 values of either factor. Of the fleet's 3 and 4, the device has seen 3: 4 is added, nothing else is."""
    held, rehearsal = samples([(3, 1), (3, 2)]), samples([(1, 1), (3, 1), (4, 1), (2, 2), (4, 2)])
    found = _with_fleet(held, rehearsal, (2, 2))
    assert found.codes.tolist() == [[3, 1], [3, 2], [4, 1], [4, 2]]
    assert found.images[:, 0, 0, 0].tolist() == [0, 1, 2, 4]


def test_a_release_without_such_pictures_adds_nothing_and_many_are_bounded() -> None:
    """A rehearsal pack of what the base knows; and one with more than is looked at."""
    held = samples([(3, 1)])
    assert len(_with_fleet(held, samples([(1, 1), (2, 2)]), (2, 2))) == 1
    assert len(_with_fleet(samples([]), samples([(4, 1)] * 200), (2, 2))) == HELD_BACK_MAX
