"""The next release of a generation: made whole or not at all, and refused where its adapter does not belong to it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from evergrove.adapters.files import DiskFull, Files
from evergrove.adapters.release import Release, open_release
from evergrove.adapters.release_write import grow, write_release
from evergrove.core.errors import InvalidArtefact, UnknownCondition, UsageError
from evergrove.core.release import FileRef, Manifest, sha256_hex
from evergrove.rules.learnt import Learnt, decode, encode
from evergrove.rules.params import layout_of

LOVE = {"emotion": "love"}


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The tiny release, whose fleet is to learn love and a mohawk."""
    return grow(open_release("tiny"), tmp_path_factory.mktemp("grown") / "fleet", [LOVE, {"hair": "mohawk"}])


def adapter_of(release: Release) -> Learnt:
    """The released adapter."""
    assert release.manifest.adapter is not None
    return decode(release.read(release.manifest.adapter))


def test_growing_adds_rows_and_changes_nothing_else(grown: Release) -> None:
    """The same base, A and sets; one version on; B is zero; love is value 5 of emotion and has a row, as a device's."""
    old, new = open_release("tiny").manifest, grown.manifest
    assert (new.base, new.basis, new.golden, new.rehearsal, new.teacher) == (
        old.base, old.basis, old.golden, old.rehearsal, old.teacher,
    )  # fmt: skip
    assert (new.version, new.generation) == (old.version + 1, old.generation)
    assert new.vocabulary.encode({"emotion": "love", "hair": "mohawk"}) == (5, 3, 0, 0, 0)
    assert new.known == old.vocabulary.sizes == (4, 2, 2, 3, 2)
    adapter = adapter_of(grown)
    rows = {name: tensor for name, tensor in adapter.tensors.items() if name.startswith("row.")}
    assert set(rows) == {"row.0:5", "row.1:3"}
    assert not any(tensor.any() for name, tensor in adapter.tensors.items() if name not in rows)
    assert 0.8 < float(np.std(rows["row.0:5"])) < 1.2
    layout = layout_of(new, grown.read(new.base), grown.read(new.basis))
    assert {slot.name for slot in layout.slots} == set(adapter.tensors)
    assert (new.alone, old.alone) == (adapter_hash(grown), old.base.sha256)


def adapter_hash(release: Release) -> str:
    """The SHA-256 of the released adapter."""
    assert release.manifest.adapter is not None
    return release.manifest.adapter.sha256


def test_every_device_starts_from_the_same_row_whoever_made_the_release(grown: Release, tmp_path: Path) -> None:
    """Rows are drawn by the names: another order, or one after the other, gives the same."""
    first = grow(open_release("tiny"), tmp_path / "first", [{"hair": "mohawk"}], version=7)
    second = grow(first, tmp_path / "second", [LOVE])
    assert (first.manifest.version, second.manifest.version) == (7, 8)
    assert second.manifest.vocabulary == grown.manifest.vocabulary
    assert adapter_hash(second) == adapter_hash(grown)


def test_what_was_learnt_becomes_the_next_release(grown: Release, tmp_path: Path) -> None:
    """B of ones: the same release, but for the adapter and the version; a Fisher of the former model does not stay."""
    learnt = adapter_of(grown)
    ones = {name: np.ones_like(tensor) for name, tensor in learnt.tensors.items()}
    data = encode(replace(learnt, tensors=ones))
    (tmp_path / "next").mkdir()
    made = write_release(grown, data, tmp_path / "next", 9)
    assert made.manifest.version == 9
    assert (tmp_path / "next" / "adapter.safetensors").read_bytes() == data
    assert made.manifest.known == grown.manifest.known
    assert made.manifest.fisher is None
    assert {p.name for p in (tmp_path / "next").iterdir()} == {r.name for r in made.manifest.files()} | {
        "manifest.json"
    }
    assert [p.name for p in tmp_path.iterdir()] == ["next"]
    assert open_release(tmp_path / "next").manifest_hash == made.manifest_hash


def test_a_wish_that_makes_no_sense_is_refused_and_leaves_nothing(grown: Release, tmp_path: Path) -> None:
    """Known values, unknown factors, no values, taken folders, versions that go back."""
    tiny, taken = open_release("tiny"), tmp_path / "taken"
    taken.mkdir()
    (taken / "mine").write_text("x")
    asked: list[tuple[Callable[[], object], type[Exception], str]] = [
        (lambda: grow(tiny, tmp_path / "r", []), UsageError, "nothing to add"),
        (lambda: grow(tiny, tmp_path / "r", [LOVE, LOVE]), UsageError, "knows emotion=love already"),
        (lambda: grow(grown, tmp_path / "r", [LOVE]), UsageError, "already"),
        (lambda: grow(tiny, tmp_path / "r", [{"mood": "love"}]), UnknownCondition, "mood"),
        (lambda: grow(tiny, tmp_path / "r", [{"emotion": "x" * 65}]), UsageError, "64"),
        (lambda: grow(tiny, taken, [LOVE]), UsageError, "not an empty folder"),
        (lambda: grow(tiny, tmp_path / "r", [LOVE], version=2), UsageError, "does not follow"),
        (
            lambda: write_release(grown, encode(narrow(adapter_of(grown))), tmp_path / "r", 9),
            UsageError,
            "do not extend",
        ),
    ]
    for wish, kind, words in asked:
        with pytest.raises(kind, match=words):
            wish()
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


def narrow(learnt: Learnt) -> Learnt:
    """The same for a vocabulary without the last hair."""
    first, hair, *rest = learnt.vocabulary.factors
    shorter = msgspec.structs.replace(hair, values=hair.values[:-1])
    tensors = {name: tensor for name, tensor in learnt.tensors.items() if name != "row.1:3"}
    vocabulary = msgspec.structs.replace(learnt.vocabulary, factors=(first, shorter, *rest))
    return replace(learnt, vocabulary=vocabulary, tensors=tensors)


def test_a_full_disk_leaves_nothing_behind(grown: Release, tmp_path: Path) -> None:
    """The third write of five fails; the folder that was to be is not there."""
    writes: list[Path] = []

    def full(step: str, path: Path) -> None:
        if step == "write":
            writes.append(path)
            if len(writes) == 3:
                raise OSError(28, "no room")

    with pytest.raises(DiskFull):
        write_release(grown, encode(adapter_of(grown)), tmp_path / "next", 9, files=Files(full))
    assert list(tmp_path.iterdir()) == []


def tampered(grown: Release, folder: Path, data: bytes, **changes: object) -> Path:
    """A copy of the grown release with other bytes as its adapter, which its manifest names rightly."""
    manifest: Manifest = msgspec.structs.replace(
        grown.manifest, adapter=FileRef("adapter.safetensors", sha256_hex(data), len(data)), **changes
    )
    folder.mkdir()
    for ref in grown.manifest.files():
        (folder / ref.name).write_bytes(grown.read(ref))
    (folder / "adapter.safetensors").write_bytes(data)
    (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return folder


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("another base", lambda one: replace(one, base="ab" * 32)),
        ("another A", lambda one: replace(one, basis="ab" * 32)),
        ("scale", lambda one: replace(one, scale=2.0)),
        ("same conditions", narrow),
        ("row.0:5", lambda one: replace(one, tensors={k: v for k, v in one.tensors.items() if k != "row.0:5"})),
        ("row.9:9", lambda one: replace(one, tensors={**one.tensors, "row.9:9": np.ones(4, np.float32)})),
        ("row.0:5", lambda one: replace(one, tensors={**one.tensors, "row.0:5": np.ones(4, np.float32)})),
        ("qkv.B", lambda one: replace(one, tensors={**one.tensors, "blocks.0.qkv.B": np.ones((4, 8), np.float32)})),
        ("shape", lambda one: widened(one, 9)),
    ],
)
def test_an_adapter_of_something_else_is_no_release(
    grown: Release, tmp_path: Path, words: str, change: Callable[[Learnt], Learnt]
) -> None:
    """Signed or not: base, A, scale, conditions, rows, layers and rank are held against the release."""
    folder = tampered(grown, tmp_path / "bad", encode(change(adapter_of(grown))))
    with pytest.raises(InvalidArtefact, match=words) as fault:
        open_release(folder)
    assert "adapter.safetensors" in str(fault.value)


def widened(learnt: Learnt, rank: int) -> Learnt:
    """The same with more columns."""
    tensors = {
        name: np.pad(tensor, ((0, 0), (0, rank - learnt.rank))) if name.endswith(".B") else tensor
        for name, tensor in learnt.tensors.items()
    }
    return replace(learnt, rank=rank, tensors=tensors)


def test_damage_and_numbers_that_are_none_are_refused(grown: Release, tmp_path: Path) -> None:
    """A bit of the file as it lies; NaN in one that the manifest names."""
    whole = encode(adapter_of(grown))
    folder = tampered(grown, tmp_path / "good", whole)
    open_release(folder)
    (folder / "adapter.safetensors").write_bytes(whole[:-1] + b"\x01")
    with pytest.raises(InvalidArtefact, match="SHA-256 differs"):
        open_release(folder)
    with pytest.raises(InvalidArtefact, match="NaN"):
        open_release(tampered(grown, tmp_path / "nan", whole[:-2] + b"\x00\x7e"))


def test_what_is_judged_is_a_part_of_the_vocabulary(grown: Release, tmp_path: Path) -> None:
    """More values judged than there are, or of another number of factors."""
    whole = encode(adapter_of(grown))
    for i, judged in enumerate(((9, 2, 2, 3, 2), (4, 2))):
        with pytest.raises(InvalidArtefact, match="judged"):
            open_release(tampered(grown, tmp_path / str(i), whole, judged=judged))
