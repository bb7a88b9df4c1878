"""An update as numbers and as bytes: one flat float32 vector, and a safetensors file of exactly one form.

In come a release's manifest, base and A (only their headers are read) and the tensors that a device has learnt; out go
a ``Layout``, vectors, and bytes. What arrives from a device is believed step by step: size, header, format, names,
dtypes, shapes, finite; the first fault is the answer. numpy and msgspec alone, since fogs and clouds carry no torch.
"""

import math
from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from evergrove.core.conditions import Vocabulary
from evergrove.core.errors import InvalidArtefact, UpdateRefused, UsageError
from evergrove.core.release import Manifest, sha256_hex

FORMAT = "evergrove-update-1"
BRANCH = "branch."
"""How the tensors of a branch (``learn/branches.py``) begin: a device keeps those."""
HEADER_BYTES_MAX = 1 << 20
Dtype = Literal["float16", "float32", "int8"]
DTYPES: dict[str, np.dtype[np.generic]] = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4"), "I8": np.dtype("i1")}
_WORDS: dict[Dtype, str] = {"float16": "F16", "float32": "F32", "int8": "I8"}
Vector = NDArray[np.float32]
SCALES, LEVELS = "scales", 127
"""In eight bits each tensor is whole numbers from −127 to 127 times its own scale; these stand in a tensor before."""


class Slot(msgspec.Struct, frozen=True):
    """One tensor of an update: ``<layer>.B`` (out, r), or ``row.<f>:<n>`` (width,) for value n of factor f."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


class Layout(msgspec.Struct, frozen=True, dict=True):
    """What the numbers of an update mean: the tensors in order of their names, for one generation of one base and A.

    ``vocabulary`` is the fleet's, of the signed manifest; its values that the base has no row for have one here.
    """

    base: str
    basis: str
    generation: int
    vocabulary: Vocabulary
    slots: tuple[Slot, ...]

    @cached_property
    def n_numbers(self) -> int:
        """The length of a vector."""
        return sum(slot.size for slot in self.slots)

    @cached_property
    def digest(self) -> str:
        """The SHA-256 that two layouts share only if they are the same."""
        return sha256_hex(msgspec.json.encode(self))

    def n_bytes(self, dtype: Dtype) -> int:
        """The size of an update's file."""
        return _size(self, _WORDS[dtype])

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """The sizes that an update's file can have."""
        return tuple(sorted(_size(self, word) for word in DTYPES))


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


# ---- layouts --------------------------------------------------------------------------------------------------------


def layout_of(manifest: Manifest, base: bytes, basis: bytes) -> Layout:
    """The layout of a release, from the bytes of its base and of its A, which the caller has verified.

    B has one row for each output of an adapted layer and one column for each row of that layer's A. Raises
    ``InvalidArtefact`` where base, A and vocabulary do not fit together.
    """
    weights, rows_of_a = _shapes(base, "the base"), _shapes(basis, "A")
    slots = []
    for name, (rank, n_in) in _matrices(rows_of_a, ".A").items():
        weight = weights.get(f"{name}.weight", ())
        if len(weight) != 2 or weight[1] != n_in:
            raise InvalidArtefact(f"'{name}' of A is ({rank}, {n_in}), in the base {weight}; get the release again")
        slots.append(Slot(f"{name}.B", (weight[0], rank)))
    if not slots:
        raise InvalidArtefact("A adapts no layer; get the release again")
    for f, size in enumerate(manifest.vocabulary.sizes):
        table = weights.get(f"tables.{f}.weight", ())
        if len(table) != 2:
            raise InvalidArtefact(f"the base has no table for the factor {manifest.vocabulary.names[f]}")
        slots += [Slot(f"row.{f}:{n}", (table[1],)) for n in range(table[0], size + 1)]
    slots.sort(key=lambda slot: slot.name)
    return Layout(manifest.base.sha256, manifest.basis.sha256, manifest.generation, manifest.vocabulary, tuple(slots))


def flat(tensors: Mapping[str, NDArray[np.floating]], vocabulary: Vocabulary, layout: Layout) -> Vector:
    """What a device has learnt, as the vector that may leave it: a condition that is not the fleet's stays behind.

    ``tensors`` has the names of an adapter's file, its rows numbered by the device's own ``vocabulary``: they go by
    name to the fleet's numbers. A smaller rank is padded with zeros; what was not learnt is 0. Raises ``UsageError``
    for an adapter of another base, ``UpdateRefused`` for one with branches.
    """
    if any(name.startswith(BRANCH) for name in tensors):
        raise UpdateRefused(
            "branches",
            "what this device has learnt stands in a B of its own for each condition, and a fleet sums one B for all:"
            " it is not sent (docs/adr/0028)",
        )
    if any(name.endswith(".A") for name in tensors):
        raise UsageError("ordinary LoRA has an A of its own and does not federate")
    ours = _rows(vocabulary, layout)
    placed = {ours.get(name, "") if name.startswith("row.") else name: tensor for name, tensor in tensors.items()}
    vector = np.zeros(layout.n_numbers, np.float32)
    at = 0
    for slot in layout.slots:
        tensor, block = placed.get(slot.name), vector[at : at + slot.size].reshape(slot.shape)
        at += slot.size
        if tensor is None and slot.name.startswith("row."):
            continue
        if tensor is None or tensor.ndim != len(slot.shape) or tensor.shape[0] != slot.shape[0]:
            raise UsageError(
                f"'{slot.name}' is not of this release's base; an update is for the base that it was learnt on"
            )
        if tensor.shape[-1] > slot.shape[-1]:
            raise UsageError(f"'{slot.name}' has rank {tensor.shape[-1]}, this generation's A {slot.shape[-1]}")
        block[..., : tensor.shape[-1]] = tensor
    return vector


def named(vector: NDArray[np.floating], layout: Layout) -> dict[str, Vector]:
    """The tensors behind a vector, by the names of an adapter's file, float32."""
    _check_length(vector, layout)
    cuts = np.cumsum([slot.size for slot in layout.slots])[:-1]
    parts = np.split(np.asarray(vector, np.float32), cuts)
    return {slot.name: part.reshape(slot.shape) for slot, part in zip(layout.slots, parts, strict=True)}


def _rows(vocabulary: Vocabulary, layout: Layout) -> dict[str, str]:
    """The device's name of each row → the fleet's, or '' for a value that the fleet does not know."""
    fleet = layout.vocabulary
    if vocabulary.names != fleet.names:
        raise UsageError(f"the factors are {vocabulary.names}, the fleet's are {fleet.names}")
    found = {}
    for f, (mine, theirs) in enumerate(zip(vocabulary.factors, fleet.factors, strict=True)):
        for n, value in enumerate(mine.values, 1):
            known = value in theirs.values
            found[f"row.{f}:{n}"] = f"row.{f}:{theirs.values.index(value) + 1}" if known else ""
    return found


# ---- bytes ----------------------------------------------------------------------------------------------------------


def encode(vector: NDArray[np.floating], layout: Layout, dtype: Dtype = "float16") -> bytes:
    """A vector as the bytes of a safetensors file in float16 or float32; equal vectors give equal bytes.

    Raises ``UsageError`` where a number is not finite in ``dtype`` or the length is another.
    """
    _check_length(vector, layout)
    assert dtype != "int8", "eight bits take chance: encode_rounded"
    word = _WORDS[dtype]
    with np.errstate(over="ignore"):
        numbers = np.asarray(vector).astype(DTYPES[word])
    if not np.isfinite(numbers).all():
        raise UsageError(f"an update holds numbers that are not finite in {dtype}; it is not sent")
    return _header(layout, word) + numbers.tobytes()


def encode_rounded(vector: NDArray[np.floating], layout: Layout, chance: NDArray[np.float64]) -> bytes:
    """A vector in eight bits a number, half the bytes of float16; up or down by chance, so that it is right on average.

    QSGD (Alistarh et al. 2017) with the largest number of each tensor in place of its norm. ``chance``: as many numbers
    as the vector has, uniform in 0 … 1, 1 left out. Raises ``UsageError`` as ``encode``.
    """
    _check_length(vector, layout)
    if chance.shape != vector.shape or not ((chance >= 0) & (chance < 1)).all():
        raise UsageError(f"chance of shape {chance.shape} for {layout.n_numbers} numbers, each from 0 to below 1")
    sizes = [slot.size for slot in layout.slots]
    starts = np.cumsum([0, *sizes[:-1]])
    wide = np.asarray(vector, np.float64)
    largest = np.maximum.reduceat(np.abs(wide), starts)
    with np.errstate(over="ignore", invalid="ignore"):
        scales = np.where(largest > 0, np.nextafter((largest / LEVELS).astype(np.float32), np.float32(np.inf)), 0)
        in_range = np.isfinite(wide).all() and np.isfinite(scales * np.float32(LEVELS)).all()
    if not in_range:
        raise UsageError("an update holds numbers that are not finite in int8; it is not sent")
    steps = np.repeat(np.where(scales > 0, scales, 1).astype(np.float64), sizes)
    numbers = np.floor(wide / steps + chance).astype(np.int8)
    return _header(layout, "I8") + scales.astype("<f4").tobytes() + numbers.tobytes()


def decode(data: bytes, layout: Layout) -> Vector:
    """The vector in some bytes, float32, if they are what ``encode`` would write for this layout.

    Raises ``UpdateRefused`` with the first fault, in this order: size, header, format, names, dtypes, shapes, finite.
    """
    if len(data) > (limit := layout.sizes[-1]):
        raise UpdateRefused("too large", f"an update of {len(data)} bytes; at most {limit} belong to this release")
    word = _check_header(data, layout)
    start = len(_header(layout, word))
    if data[:start] != _header(layout, word) or len(data) != _size(layout, word):
        raise UpdateRefused("malformed", "the update's header or size is not in the one canonical form")
    vector = _rounded(data[start:], layout) if word == "I8" else np.frombuffer(data, DTYPES[word], offset=start)
    vector = vector.astype(np.float32)
    if not np.isfinite(vector).all():
        raise UpdateRefused("not finite", "the update holds NaN or infinite numbers")
    return vector


def norm(vector: NDArray[np.floating]) -> float:
    """The Euclidean norm over everything, in float64."""
    wide = np.asarray(vector, np.float64)
    return math.sqrt(float(wide @ wide))


def _rounded(numbers: bytes, layout: Layout) -> Vector:
    """The vector behind scales and whole numbers. Raises ``UpdateRefused`` for what ``encode_rounded`` never writes."""
    n = len(layout.slots)
    scales, steps = np.frombuffer(numbers, "<f4", n), np.frombuffer(numbers, np.int8, offset=4 * n)
    if np.signbit(scales).any() or (steps < -LEVELS).any():
        raise UpdateRefused("malformed", "a scale of the update is negative, or a number beyond its levels")
    with np.errstate(over="ignore", invalid="ignore"):
        return np.repeat(scales, [slot.size for slot in layout.slots]) * steps.astype(np.float32)


def _check_length(vector: NDArray[np.floating], layout: Layout) -> None:
    if vector.shape != (layout.n_numbers,):
        raise UsageError(f"a vector of shape {vector.shape} for {layout.n_numbers} numbers")


def _check_header(data: bytes, layout: Layout) -> str:
    """The dtype that all tensors of the file have."""
    n_header = int.from_bytes(data[:8], "little")
    if len(data) < 8 or not 2 <= n_header <= min(HEADER_BYTES_MAX, len(data) - 8):
        raise UpdateRefused("malformed", "the update is no safetensors file, or was cut short")
    try:
        header = msgspec.json.decode(data[8 : 8 + n_header], type=dict[str, msgspec.Raw])
        raw = header.pop("__metadata__", msgspec.Raw(b"{}"))
        metadata = msgspec.json.decode(raw, type=dict[str, str])
        if metadata != {"format": FORMAT}:
            raise UpdateRefused("wrong format", f"the update is not of format {FORMAT}")
        entries = {name: msgspec.json.decode(entry, type=_Entry) for name, entry in header.items()}
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as fault:
        raise UpdateRefused("malformed", "the update's header is not understood") from fault
    found = {entry.dtype for entry in entries.values()}
    word = next((word for word in ("I8", "F16", "F32") if word in found), "F32")
    wanted = _entries(layout, word)
    if set(entries) != set(wanted):
        odd = len(set(entries) ^ set(wanted))
        raise UpdateRefused("wrong names", f"{odd} of the update's tensors are not those of this release")
    if any(entries[name].dtype != entry.dtype for name, entry in wanted.items()):
        raise UpdateRefused("wrong dtype", "an update is float16 or float32 throughout, or int8 with its scales")
    if any(entries[name].shape != entry.shape for name, entry in wanted.items()):
        raise UpdateRefused("wrong shape", "a tensor of the update has another shape than this release's")
    return word


@lru_cache(maxsize=16)
def _header(layout: Layout, word: str) -> bytes:
    """The length and the header of a file, keys in order, padded to 8 bytes: determined by layout and dtype."""
    text = msgspec.json.encode({"__metadata__": {"format": FORMAT}, **_entries(layout, word)})
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


@lru_cache(maxsize=16)
def _entries(layout: Layout, word: str) -> dict[str, _Entry]:
    """The tensors of a file, in their order; in eight bits the scales stand before the numbers."""
    entries, at, width = dict[str, _Entry](), 0, DTYPES[word].itemsize
    if word == "I8":
        at = len(layout.slots) * DTYPES["F32"].itemsize
        entries[SCALES] = _Entry("F32", (len(layout.slots),), (0, at))
    for slot in layout.slots:
        entries[slot.name] = _Entry(word, slot.shape, (at, at + slot.size * width))
        at += slot.size * width
    return entries


def _size(layout: Layout, word: str) -> int:
    last = _entries(layout, word)[layout.slots[-1].name]
    return len(_header(layout, word)) + last.data_offsets[1]


def _shapes(data: bytes, where: str) -> dict[str, tuple[int, ...]]:
    """The shapes in a safetensors file of the release. Raises ``InvalidArtefact``."""
    n_header = int.from_bytes(data[:8], "little")
    try:
        if not 2 <= n_header <= min(HEADER_BYTES_MAX, len(data) - 8):
            raise ValueError("cut short")
        header = msgspec.json.decode(data[8 : 8 + n_header], type=dict[str, msgspec.Raw])
        header.pop("__metadata__", None)
        return {name: msgspec.json.decode(entry, type=_Entry).shape for name, entry in header.items()}
    except ValueError as fault:  # msgspec's errors are ValueErrors
        raise InvalidArtefact(
            f"{where} of the release is no safetensors file ({fault}); get the release again"
        ) from fault


def _matrices(shapes: Mapping[str, tuple[int, ...]], suffix: str) -> dict[str, tuple[int, int]]:
    found = {}
    for name, shape in shapes.items():
        if not name.endswith(suffix) or len(shape) != 2:
            raise InvalidArtefact(f"'{name}' is not a matrix of A; get the release again")
        found[name.removesuffix(suffix)] = (shape[0], shape[1])
    return found
