"""A noised sum: its name is its content, and what is not whole is refused."""

import hashlib

import msgspec
import numpy as np
import pytest

from evergrove.core import sums
from evergrove.core.errors import InvalidInput
from evergrove.core.sums import NoisedSum, noised_sum


def some(values: list[float] | None = None, **changed: object) -> NoisedSum:
    one = noised_sum(
        np.array([1.0, -2.5] if values is None else values, np.float32),
        generation=3,
        base="b" * 64,
        basis="a" * 64,
        n_updates=7,
        denominator=8,
        noise={"std": 0.5, "clip": 1.0},
        number=4,
    )
    return msgspec.structs.replace(one, **changed)


def test_the_name_is_the_hash_of_the_content_as_written_down() -> None:
    """Anybody can compute it from the contract alone: a msgpack array, keys of the noise sorted."""
    one = some()
    noise = {"clip": 1.0, "std": 0.5}
    vector = b"\x00\x00\x80\x3f\x00\x00\x20\xc0"
    content = msgspec.msgpack.encode([1, 3, 4, "b" * 64, "a" * 64, 7, 8, noise, vector])
    assert one.vector == vector
    assert one.id == hashlib.sha256(content).hexdigest()


def test_the_order_of_the_noise_words_does_not_count() -> None:
    """A map has no order."""
    backwards = noised_sum(
        some().values, generation=3, base="b" * 64, basis="a" * 64, n_updates=7, denominator=8,
        noise={"clip": 1.0, "std": 0.5}, number=4,
    )  # fmt: skip
    assert backwards.id == some().id


def test_it_comes_back_from_the_wire_as_it_was() -> None:
    """Bytes out, bytes in."""
    two = [some(), some([0.0] * 5)]
    assert sums.decode(sums.encode(two)) == two
    np.testing.assert_array_equal(two[0].values, [1.0, -2.5])


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"vector": b""}, "0 bytes"),
        ({"vector": b"\0\0\0"}, "3 bytes"),
        ({"vector": b"\0\0\x80\x7f"}, "not finite"),
        ({"vector": b"\0\0\xc0\x7f"}, "not finite"),
        ({"vector": b"\0\0\0\0"}, "its content is"),
        ({"n_updates": 0}, "0 updates"),
        ({"denominator": 0}, "over 0"),
        ({"generation": -1}, "generation -1"),
        ({"number": 5}, "its content is"),
        ({"noise": None}, "its content is"),
        ({"base": "x" * 300}, "more than 256"),
        ({"noise": {str(i): 1 for i in range(40)}}, "40 words"),
        ({"id": "0" * 64}, "its content is"),
    ],
)
def test_what_is_not_whole_is_refused_by_its_fault(changed: dict[str, object], word: str) -> None:
    """Every field is bound by the name or checked on its own."""
    with pytest.raises(InvalidInput, match=word):
        sums.check(some(**changed))


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x91\x80", msgspec.msgpack.encode([{"id": "x", "extra": 1}])])
def test_bytes_of_another_form_are_refused(data: bytes) -> None:
    """Unknown fields too."""
    with pytest.raises(InvalidInput, match="not understood"):
        sums.decode(data)
