"""The shipped releases: whole, within their bars, and able to draw what is asked for."""

from pathlib import Path

import numpy as np
import pytest
import torch

from evergrove.adapters.release import Release, open_release
from evergrove.learn import flow
from evergrove.learn.adapter import blank_adapter
from evergrove.learn.adapter_file import adapter_bytes
from evergrove.learn.base import load_base, load_teacher
from evergrove.learn.basis import load_basis
from evergrove.learn.generator import to_condition, to_uint8
from evergrove.learn.oracle import load_oracle
from evergrove.media.packs import read_pack


@pytest.fixture(scope="module", params=["avatars", "tiny"])
def release(request: pytest.FixtureRequest) -> Release:
    return open_release(str(request.param))


def test_files_are_as_small_as_promised(release: Release) -> None:
    """Base ≤ 12 MB, teacher ≤ 24 MB, cached pictures ≤ 10 MB, oracle ≤ 1 MB; all of tiny ≤ 2 MB."""
    sizes = {path.name: path.stat().st_size for path in release.folder.iterdir() if path.is_file()}
    if release.manifest.name == "tiny":
        assert sum(sizes.values()) < 4_000_000
        assert sizes["base.safetensors"] <= 2_000_000
    assert sizes["base.safetensors"] <= 12_000_000
    assert sizes["teacher.safetensors"] <= 24_000_000
    assert sizes["oracle.safetensors"] <= 1_000_000
    assert sum(size for name, size in sizes.items() if name.endswith(".npz")) <= 10_000_000


def test_an_adapter_for_two_new_emotions_stays_under_300_kb(release: Release) -> None:
    """B, two new rows and the metadata, as stored."""
    manifest = release.manifest
    model = load_base(release.folder)
    basis = load_basis(release.path_of(manifest.basis), manifest.base.sha256, manifest.scale)
    vocabulary = manifest.vocabulary.extend({"emotion": "love"}).extend({"emotion": "dizzy"})
    assert len(adapter_bytes(blank_adapter(model, basis, vocabulary))) <= 300_000


def test_packs_hold_what_the_manifest_understands(release: Release) -> None:
    """Golden and rehearsal show only known emotions, every one of them; none of their pictures is in both."""
    vocabulary = release.manifest.vocabulary
    golden, rehearsal = (read_pack(release.path_of(r)) for r in (release.manifest.golden, release.manifest.rehearsal))
    for pack in (golden, rehearsal):
        pack.check(vocabulary)
        assert set(pack.codes[:, 0].tolist()) == set(range(1, vocabulary.sizes[0] + 1))
    assert not {p.tobytes() for p in golden.images} & {p.tobytes() for p in rehearsal.images}
    assert not {tuple(c) for c in golden.codes.tolist()} & {tuple(c) for c in rehearsal.codes.tolist()}


@pytest.mark.parametrize("who", ["base", "teacher"])
def test_draws_what_is_asked_for(release: Release, who: str) -> None:
    """At the default sampler settings the oracle reads the emotion, hair and skin that were asked for."""
    manifest = release.manifest
    model = load_base(release.folder) if who == "base" else load_teacher(release.folder)
    oracle = load_oracle(Path(release.folder / "oracle.safetensors"))
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(1, size + 1, size=48) for size in manifest.vocabulary.sizes], axis=1)
    codes[:, 0] = np.arange(48) % manifest.vocabulary.sizes[0] + 1
    noise = torch.randn((48, 3, manifest.image_px, manifest.image_px), generator=torch.Generator().manual_seed(0))
    x = flow.sample(model, to_condition(codes.astype(np.int16)), noise, manifest.sampler.steps)
    accuracy = oracle.accuracy(to_uint8(x), codes.astype(np.int16))
    assert accuracy["emotion"] >= 0.97
    assert min(accuracy["hair"], accuracy["skin"]) >= 0.95
