"""The independent judge: reads the devices' pictures with an oracle that no generator, gate or training ever sees."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from evergrove.demo.fleet.cast import FACTOR
from evergrove.demo.fleet.findings import Seen
from evergrove.demo.fleet.members import Member
from evergrove.learn.oracle import Oracle


def read(oracle: Oracle, member: Member, emotions: tuple[str, ...], n: int) -> Seen:
    """``n`` pictures of people whom the device has met in every emotion, drawn by the device as it serves now."""
    right, pictures, alike = {}, {}, []
    for emotion in emotions:
        made = member.draw(emotion, n)
        found = oracle.read(np.stack(made))
        right[emotion] = float(np.mean(_is(oracle, found, FACTOR, [{FACTOR: emotion}] * n)))
        asked = [member.look(i) for i in range(n)]
        alike.append(_is(oracle, found, "hair", asked) & _is(oracle, found, "skin", asked))
        pictures[emotion] = made
    return Seen(right, pictures, float(np.mean(alike)))


def _is(oracle: Oracle, codes: NDArray[np.int16], factor: str, asked: Sequence[Mapping[str, str]]) -> NDArray[np.bool_]:
    """Which pictures the oracle reads as what was asked for."""
    index = oracle.vocabulary.names.index(factor)
    values = oracle.vocabulary.factors[index].values
    return np.array([values[n - 1] == one[factor] for n, one in zip(codes[:, index], asked, strict=True)])
