"""The labelled stream: its profile is what it says, and its labels tell the truth."""

import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image as Pillow

from evergrove.core.errors import UsageError
from evergrove.core.rng import stream as named
from evergrove.media.streams import Profile, Seen, stream

PICTURES = np.random.default_rng(0).integers(0, 256, (100, 8, 8, 3), np.uint8).repeat(4, axis=1).repeat(4, axis=2)
CONDITIONS = [{"emotion": "love" if i % 2 else "dizzy"} for i in range(100)]


def decoded(seen: Seen) -> np.ndarray:
    """The pixels of an observation."""
    return np.asarray(Pillow.open(io.BytesIO(seen.media)).convert("RGB"))


def test_profile() -> None:
    """Of 400 observations 100 are new, 120 exact copies, 140 near ones and 40 junk, and the first is new."""
    seen = stream(PICTURES, CONDITIONS, named(0, "stream"))
    assert Counter(s.label for s in seen) == {"new": 100, "exact duplicate": 120, "near duplicate": 140, "junk": 40}
    assert seen[0].label == "new"
    assert {s.how for s in seen if s.label == "junk"} == {"truncated", "blank", "one pixel"}
    assert stream(PICTURES, CONDITIONS, named(0, "stream")) == seen


def test_labels_tell_the_truth() -> None:
    """New pictures are the input's, in order; copies follow their original, exact ones byte for byte, near ones not."""
    first: dict[int, Seen] = {}
    for seen in stream(PICTURES, CONDITIONS, named(1, "stream")):
        match seen.label:
            case "new":
                assert seen.source == len(first)
                assert np.array_equal(decoded(seen), PICTURES[seen.source])
                first[seen.source] = seen
            case "junk":
                assert seen.source is None
            case "exact duplicate":
                assert seen.source is not None
                assert seen.media == first[seen.source].media
            case "near duplicate":
                assert seen.source is not None
                original = first[seen.source]
                assert seen.media != original.media
                assert decoded(seen).shape == PICTURES.shape[1:]
                assert seen.condition == original.condition
                assert seen.how


def test_impossible_requests_are_refused() -> None:
    """Too few pictures, conditions that do not match, a profile without news."""
    with pytest.raises(UsageError, match="100 distinct ones are needed"):
        stream(PICTURES[:50], CONDITIONS[:50], named(0, "stream"))
    with pytest.raises(UsageError, match="50 conditions"):
        stream(PICTURES, CONDITIONS[:50], named(0, "stream"))
    with pytest.raises(UsageError, match="0 of 10 observations new"):
        stream(PICTURES, CONDITIONS, named(0, "stream"), Profile(n=10, exact=0.5, near=0.5, junk=0.0))
