"""Updates as vectors and as bytes: the round trip, what stays behind, and every way in which bytes can be wrong."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from evergrove.adapters.release import open_release
from evergrove.core.conditions import Factor, Vocabulary
from evergrove.core.errors import InvalidArtefact, UpdateRefused, UsageError
from evergrove.core.release import FileRef, Manifest
from evergrove.rules import params

FLEET = Vocabulary((Factor("emotion", ("happy", "sad", "love")),))
LAYOUT = params.Layout(
    "ab" * 32,
    "cd" * 32,
    1,
    FLEET,
    (params.Slot("a.B", (3, 2)), params.Slot("b.B", (2, 2)), params.Slot("row.0:3", (4,))),
)


def tensors() -> dict[str, np.ndarray]:
    """What a device has learnt: 6 + 4 + 4 numbers, 1 to 14."""
    return {
        "a.B": np.arange(1, 7, dtype=np.float32).reshape(3, 2),
        "b.B": np.arange(7, 11, dtype=np.float32).reshape(2, 2),
        "row.0:3": np.arange(11, 15, dtype=np.float32),
    }


def rebuilt(data: bytes, change: object) -> bytes:
    """The file with its header changed by ``change(header)``; the numbers stay."""
    n = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + n])
    header = change(header) or header  # type: ignore[operator]
    text = json.dumps(header, separators=(",", ":")).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + n :]


# ---- layouts ---------------------------------------------------------------------------------------------------------


def test_the_layout_of_a_release_is_what_its_adapters_hold() -> None:
    """The shipped avatars: 20 layers of (out, 12), 138,240 numbers; no rows, the base knows every value."""
    release = open_release("avatars")
    manifest = release.manifest
    layout = params.layout_of(manifest, release.read(manifest.base), release.read(manifest.basis))
    assert layout.n_numbers == 4 * (768 + 192 + 1152 + 192 + 576) * 12
    assert {slot.name for slot in layout.slots} >= {"blocks.0.qkv.B", "blocks.3.mlp_out.B"}
    assert layout.n_bytes("float16") == len(params.encode(np.zeros(layout.n_numbers), layout))


def test_a_value_that_the_base_has_no_row_for_gets_one(tmp_path: Path) -> None:
    """A base that knows two emotions, a manifest that names three: row.0:3."""
    ref = FileRef("f", "00" * 32, 1)
    manifest = Manifest("t", 2, 1, 8, FLEET, 2, 1.0, ref, ref, ref, ref)
    base = safetensors.numpy.save({"a.weight": np.zeros((3, 5), "f2"), "tables.0.weight": np.zeros((3, 4), "f2")})
    basis = safetensors.numpy.save({"a.A": np.zeros((2, 5), "f4")})
    layout = params.layout_of(manifest, base, basis)
    assert layout.slots == (params.Slot("a.B", (3, 2)), params.Slot("row.0:3", (4,)))
    assert layout.generation == 2
    other = safetensors.numpy.save({"a.A": np.zeros((2, 6), "f4")})
    with pytest.raises(InvalidArtefact, match="'a' of A"):
        params.layout_of(manifest, base, other)
    with pytest.raises(InvalidArtefact, match="the base of the release"):
        params.layout_of(manifest, base[:20], basis)


# ---- vectors ---------------------------------------------------------------------------------------------------------


def test_the_numbers_stand_in_the_order_of_the_names() -> None:
    """1 to 14, and back."""
    vector = params.flat(tensors(), FLEET, LAYOUT)
    assert vector.tolist() == list(range(1, 15))
    for name, tensor in params.named(vector, LAYOUT).items():
        assert np.array_equal(tensor, tensors()[name])


def test_a_condition_that_a_user_invented_stays_behind() -> None:
    """The device numbers 'secret' 3 and the fleet's 'love' 4: love's row goes, secret's does not."""
    own = Vocabulary((Factor("emotion", ("happy", "sad", "secret", "love")),))
    learnt = tensors() | {"row.0:3": np.full(4, 99.0, np.float32), "row.0:4": np.arange(4, dtype=np.float32)}
    vector = params.flat(learnt, own, LAYOUT)
    assert vector[-4:].tolist() == [0, 1, 2, 3]
    assert 99.0 not in vector
    unlisted = params.flat(tensors(), Vocabulary((Factor("emotion", ("happy", "sad")),)), LAYOUT)
    assert unlisted[-4:].tolist() == [0, 0, 0, 0]


def test_a_smaller_rank_is_padded_and_a_larger_one_refused() -> None:
    """Column 2 of a rank-1 device is zero."""
    small = {name: t[:, :1] for name, t in tensors().items() if name.endswith(".B")}
    assert params.flat(small, FLEET, LAYOUT)[:6].tolist() == [1, 0, 3, 0, 5, 0]
    with pytest.raises(UsageError, match="rank 3"):
        params.flat(tensors() | {"a.B": np.zeros((3, 3))}, FLEET, LAYOUT)
    with pytest.raises(UsageError, match=r"'b\.B' is not of this release's base"):
        params.flat({"a.B": np.zeros((3, 2))}, FLEET, LAYOUT)
    with pytest.raises(UsageError, match="does not federate"):
        params.flat(tensors() | {"a.A": np.zeros((2, 3))}, FLEET, LAYOUT)


def test_the_norm_does_not_overflow() -> None:
    """3-4-5, and numbers whose squares are beyond float32."""
    assert params.norm(np.array([3.0, 4.0], np.float32)) == 5.0
    assert params.norm(np.array([3e30, 4e30], np.float32)) == pytest.approx(5e30)


# ---- bytes -----------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e4, 1e4, width=16), min_size=14, max_size=14), st.sampled_from(["float16", "float32"]))
def test_bytes_give_the_vector_back(numbers: list[float], dtype: params.Dtype) -> None:
    """decode(encode(v)) == v, in the size foretold, and other programs can read the file."""
    vector = np.array(numbers, np.float32)
    data = params.encode(vector, LAYOUT, dtype)
    assert len(data) == LAYOUT.n_bytes(dtype)
    assert np.array_equal(params.decode(data, LAYOUT), vector)
    others = safetensors.numpy.load(data)
    assert {name: t.shape for name, t in others.items()} == {slot.name: slot.shape for slot in LAYOUT.slots}
    assert np.array_equal(others["b.B"].ravel(), vector[6:10])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=14, max_size=14), st.integers(0, 2**32 - 1))
def test_eight_bits_are_off_by_less_than_a_step(numbers: list[float], seed: int) -> None:
    """A step is the largest of its tensor over 127; the size is foretold, and other programs can read the file."""
    vector = np.array(numbers, np.float32)
    data = params.encode_rounded(vector, LAYOUT, np.random.default_rng(seed).random(14))
    assert len(data) == LAYOUT.n_bytes("int8")
    found = params.decode(data, LAYOUT)
    for part in (slice(0, 6), slice(6, 10), slice(10, 14)):
        step = float(np.abs(vector[part]).max()) / 127 * (1 + 1e-6) + 3e-45
        assert np.abs(found[part].astype(float) - vector[part]).max() <= step * (1 + 1e-6)
    others = safetensors.numpy.load(data)
    assert {name: (str(t.dtype), t.shape) for name, t in others.items()} == {
        "scales": ("float32", (3,)), **{slot.name: ("int8", slot.shape) for slot in LAYOUT.slots}
    }  # fmt: skip
    assert np.array_equal(others["b.B"].ravel() * others["scales"][1], found[6:10])


def test_eight_bits_are_right_on_average() -> None:
    """20 000 roundings of 1 to 14, each tensor with a step of its own: the mean is them, to four deviations of it; a
    number that lies on a step, the largest and 0, is never moved.
    """
    vector, rng = np.array([*range(1, 7), 7, 8, 9, 10, 0, 0.001, -14, 3], np.float32), np.random.default_rng(0)
    found = np.array(
        [params.decode(params.encode_rounded(vector, LAYOUT, rng.random(14)), LAYOUT) for _ in range(20_000)]
    )
    steps = np.repeat([6 / 127, 10 / 127, 14 / 127], [6, 4, 4])
    assert (
        np.abs(found.mean(axis=0, dtype=float) - vector) <= 4 * 0.5 * steps / np.sqrt(20_000) + 1e-6 * np.abs(vector)
    ).all()
    assert found[:, 10].tolist() == [0.0] * 20_000
    assert np.abs(found[:, 12] + 14).max() < 1e-4
    assert found[:, 11].max() > 0, "what is far below a step is not lost for good"


def test_eight_bits_of_nothing_and_of_what_cannot_be_sent() -> None:
    """Zeros stay zeros; NaN, infinity, chance that is none, and another length are refused."""
    assert not params.decode(params.encode_rounded(np.zeros(14), LAYOUT, np.full(14, 0.999)), LAYOUT).any()
    for number in (np.nan, np.inf, 1e39):
        with pytest.raises(UsageError, match="not finite"):
            params.encode_rounded(np.full(14, number), LAYOUT, np.zeros(14))
    for chance in (np.zeros(13), np.ones(14), np.full(14, -0.1), np.full(14, np.nan)):
        with pytest.raises(UsageError, match="chance"):
            params.encode_rounded(np.ones(14), LAYOUT, chance)
    with pytest.raises(UsageError, match="14 numbers"):
        params.encode_rounded(np.ones(13), LAYOUT, np.zeros(13))


def test_eight_bits_of_the_shipped_release_are_half_of_sixteen() -> None:
    """138,240 numbers in 20 tensors: 138 kB and a header, for 276 kB and a header."""
    release = open_release("avatars")
    layout = params.layout_of(
        release.manifest, release.read(release.manifest.base), release.read(release.manifest.basis)
    )
    assert layout.n_bytes("int8") < 0.51 * layout.n_bytes("float16")


def test_what_is_not_finite_is_not_written() -> None:
    """NaN never, and 1e30 not as float16."""
    for number, dtype in ((np.nan, "float32"), (1e30, "float16")):
        with pytest.raises(UsageError, match="not finite"):
            params.encode(np.full(14, number), LAYOUT, dtype)  # type: ignore[arg-type]


GOOD = params.encode(np.arange(14.0), LAYOUT, "float32")
SIXTEEN = params.encode(np.arange(14.0), LAYOUT, "float16")
EIGHT = params.encode_rounded(np.arange(1.0, 15.0), LAYOUT, np.zeros(14))


def scaled(*scales: float) -> bytes:
    """``EIGHT`` with other scales."""
    return EIGHT[: -14 - 12] + np.array(scales, "<f4").tobytes() + EIGHT[-14:]


def _entry(header: dict[str, object], **change: object) -> None:
    header["a.B"] = {**header["a.B"], **change}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (GOOD + bytes(200), "too large"),
        (GOOD + b"\0", "malformed"),
        (b"", "malformed"),
        (b"\xff" * 8 + GOOD[8:], "malformed"),
        (GOOD[:-1], "malformed"),
        (GOOD[:30], "malformed"),
        (b"\x08\0\0\0\0\0\0\0[[[[[[[[", "malformed"),
        ((20000).to_bytes(8, "little") + b"[" * 20000, "too large"),
        (rebuilt(GOOD, lambda h: h.update(__metadata__={"format": "x"})), "wrong format"),
        (rebuilt(GOOD, lambda h: h.pop("__metadata__") and None), "wrong format"),
        (rebuilt(GOOD, lambda h: h.pop("b.B") and None), "wrong names"),
        (rebuilt(GOOD, lambda h: {("c.B" if k == "b.B" else k): v for k, v in h.items()}), "wrong names"),
        (rebuilt(GOOD, lambda h: _entry(h, dtype="I32")), "wrong dtype"),
        (rebuilt(GOOD, lambda h: _entry(h, dtype="F16")), "wrong dtype"),
        (rebuilt(GOOD, lambda h: _entry(h, shape=[2, 3])), "wrong shape"),
        (rebuilt(GOOD, lambda h: _entry(h, data_offsets=[0, 8])), "malformed"),
        (rebuilt(GOOD, lambda h: _entry(h, shape="much")), "malformed"),
        (rebuilt(GOOD, lambda h: {**dict(reversed(h.items()))}), "malformed"),
        (GOOD[:-4] + np.array([np.nan], "<f4").tobytes(), "not finite"),
        (GOOD[:-4] + np.array([-np.inf], "<f4").tobytes(), "not finite"),
        (EIGHT[:-1], "malformed"),
        (EIGHT[:-1] + b"\x80", "malformed"),
        (scaled(1.0, -1.0, 1.0), "malformed"),
        (scaled(1.0, -0.0, 1.0), "malformed"),
        (scaled(1.0, np.nan, 1.0), "not finite"),
        (scaled(1.0, np.inf, 1.0), "not finite"),
        (scaled(1.0, 3e38, 1.0), "not finite"),
        (rebuilt(EIGHT, lambda h: h.pop("scales") and None), "wrong names"),
        (
            rebuilt(SIXTEEN, lambda h: h.update(scales={"dtype": "F32", "shape": [3], "data_offsets": [0, 12]})),
            "wrong names",
        ),
        (rebuilt(EIGHT, lambda h: _entry(h, dtype="F16")), "wrong dtype"),
        (rebuilt(EIGHT, lambda h: h.update(scales={**h["scales"], "dtype": "F16"})), "wrong dtype"),
        (rebuilt(EIGHT, lambda h: h.update(scales={**h["scales"], "shape": [3, 1]})), "wrong shape"),
        (rebuilt(EIGHT, lambda h: h.update(scales=h.pop("scales"))), "malformed"),
    ],
)
def test_every_fault_has_its_word(data: bytes, reason: str) -> None:
    """The first fault is the answer, and it is a typed one."""
    with pytest.raises(UpdateRefused) as caught:
        params.decode(data, LAYOUT)
    assert caught.value.reason == reason


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=600))
def test_no_bytes_crash_it(data: bytes) -> None:
    """Whatever arrives is refused in words."""
    with pytest.raises(UpdateRefused):
        params.decode(data, LAYOUT)


def test_two_layouts_have_one_digest_only_if_they_are_the_same() -> None:
    """Another generation, another digest."""
    assert LAYOUT.digest == msgspec.structs.replace(LAYOUT).digest
    assert LAYOUT.digest != msgspec.structs.replace(LAYOUT, generation=2).digest
