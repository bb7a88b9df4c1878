"""A release with an adapter: the release alone is base and adapter together, wherever a device or a fog uses it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import msgspec
import numpy as np
import pytest
import torch

from evergrove.adapters.images import encode_png
from evergrove.adapters.keys import FileKey
from evergrove.adapters.release import Release, open_release
from evergrove.adapters.release_write import grow, write_release
from evergrove.adapters.vault import Vault
from evergrove.adapters.versions import Versions
from evergrove.bootstrap import Device, make_device, read_identity, read_log
from evergrove.core import events as ev
from evergrove.core.config import Learn
from evergrove.core.errors import InvalidArtefact
from evergrove.core.jobs import Measure, Train
from evergrove.learn import assist
from evergrove.learn.adapter import Adapter, add, attach, rescale
from evergrove.learn.adapter_file import adapter_bytes, adapter_of_bytes
from evergrove.learn.base import BASE, BASIS, base_bytes, file_ref, write_manifest
from evergrove.learn.basis import basis_bytes, orthonormal
from evergrove.learn.dit import DiT
from evergrove.learn.fisher import estimate_fisher
from evergrove.learn.strategies import Samples, Task
from evergrove.media.packs import Pack, pack_bytes, read_pack
from evergrove.rules import carry
from evergrove.rules.learnt import decode, encode
from evergrove.runtime import assembly, tasks
from evergrove.runtime.keeper import Keeper
from evergrove.runtime.rehearsing import rehearsal_of
from evergrove.runtime.studio import LocalStudio
from evergrove.sim.real import Unpaced

from .conftest import CONFIG, strange_pictures

LOVE = {"emotion": "love"}
PLAIN = {"emotion": "happy", "hair": "bob", "skin": "tan", "hair_color": "red", "background": "sky"}
LEARN = Learn(strategy="replay", steps=4, batch=4, checkpoint_every=4)


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The tiny release for a fleet that is to learn love: its adapter changes nothing that the base knows."""
    return grow(open_release("tiny"), tmp_path_factory.mktemp("grown") / "fleet", [LOVE])


@pytest.fixture(scope="module")
def learnt(grown: Release, tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The release after it: some B, and the row of love moved."""
    return write_release(grown, some_adapter(grown, 0), tmp_path_factory.mktemp("learnt") / "fleet", 4)


def some_adapter(release: Release, seed: int, size: float = 0.03) -> bytes:
    """The released adapter, everything in it moved at random."""
    assert release.manifest.adapter is not None
    one, rng = decode(release.read(release.manifest.adapter)), np.random.default_rng(seed)
    moved = {name: tensor + size * rng.standard_normal(tensor.shape) for name, tensor in sorted(one.tensors.items())}
    return encode(replace(one, tensors=moved))


def released(release: Release) -> Adapter:
    """The released adapter as the learning code has it."""
    adapter = assembly.open_parts(release).adapter
    assert adapter is not None
    return adapter


def studio(release: Release, folder: Path, own: bytes | None = None) -> LocalStudio:
    """A generator of a release, with a version of the device's own."""
    versions = Versions(folder)
    if own is not None:
        versions.activate(versions.add(own), None, 1, probation=False)
    made = LocalStudio(release, versions, 1)
    assert made.refresh() is None
    return made


def draw(one: LocalStudio, condition: dict[str, str] = PLAIN) -> np.ndarray:
    """A picture uint8 (32, 32, 3)."""
    return one.generate(condition, 7, None, None)[0]


# ---- generating ------------------------------------------------------------------------------------------------------


def test_an_adapter_of_zeros_is_the_base_to_the_bit(grown: Release, tmp_path: Path) -> None:
    """The same picture of what the base knows, the same choice of what is left open, and love can be asked for."""
    base, alone = studio(open_release("tiny"), tmp_path / "a"), studio(grown, tmp_path / "b")
    for condition in (PLAIN, {"emotion": "angry"}, {}):
        assert (draw(base, condition) == draw(alone, condition)).all()
        assert base.generate(condition, 3, None, None)[1:] == alone.generate(condition, 3, None, None)[1:]
    assert (draw(alone, {**PLAIN, **LOVE}) != draw(alone)).any()


def test_a_released_adapter_is_worth_what_it_is_worth_as_a_personal_one(
    grown: Release, learnt: Release, tmp_path: Path
) -> None:
    """Released, or loaded as a device's own on the release before: the same pictures. A device's own replaces it."""
    assert learnt.manifest.adapter is not None
    data = learnt.read(learnt.manifest.adapter)
    alone, own = studio(learnt, tmp_path / "a"), studio(grown, tmp_path / "b", data)
    for condition in (PLAIN, {**PLAIN, **LOVE}):
        assert (draw(alone, condition) == draw(own, condition)).all()
        assert (draw(alone, condition) != draw(studio(grown, tmp_path / "c"), condition)).any()
    replaced = studio(learnt, tmp_path / "d", some_adapter(grown, 5))
    assert (draw(replaced) == draw(studio(grown, tmp_path / "e", some_adapter(grown, 5)))).all()


def test_a_version_that_is_taken_back_leaves_the_released_adapter(learnt: Release, tmp_path: Path) -> None:
    """Swapped in, rolled back: the picture of the release again, not of the base."""
    versions, before = Versions(tmp_path), draw(studio(learnt, tmp_path / "other"))
    one = LocalStudio(learnt, versions, 1)
    versions.activate(versions.add(some_adapter(learnt, 9, 0.2)), None, 1, probation=False)
    assert one.refresh() is None
    assert (draw(one) != before).any()
    versions.activate(None, None, 2, probation=False)
    assert one.refresh() is None
    assert (draw(one) == before).all()


def test_a_value_without_a_row_is_refused_by_name(tmp_path: Path) -> None:
    """A manifest that names love, over a base that has no row for it, and no adapter."""
    tiny, folder = open_release("tiny"), tmp_path / "bad"
    folder.mkdir()
    for ref in tiny.manifest.files():
        (folder / ref.name).write_bytes(tiny.read(ref))
    wider = msgspec.structs.replace(tiny.manifest, vocabulary=tiny.manifest.vocabulary.extend(LOVE))
    (folder / "manifest.json").write_bytes(msgspec.json.encode(wider))
    with pytest.raises(InvalidArtefact, match="emotion=love"):
        assembly.open_parts(open_release(folder))


# ---- learning and judging --------------------------------------------------------------------------------------------


@pytest.fixture
def home(learnt: Release, tmp_path: Path) -> Callable[..., Path]:
    """A device's folder on the learnt release with six pictures of love; its records' names are in ``fresh``."""

    def make() -> Path:
        root = tmp_path / "device"
        make_device(root, learnt.folder, "")
        return root

    return make


def observed(root: Path, release: Release, n: int, split: str = "train") -> tuple[str, ...]:
    """``n`` pictures of love in the vault."""
    vault = Vault(root / "vault", read_identity(root).device, FileKey(root / "device.key"))
    keeper, code = Keeper(vault, release.manifest.known), release.manifest.vocabulary.encode(LOVE)
    names = []
    for pixels in strange_pictures(n):
        record, _ = keeper.receive(encode_png(pixels), pixels, LOVE, code, 0.0)
        assert isinstance(keeper.store(record, split, "kept"), ev.ObservationKept)
        names.append(record)
    return tuple(names)


def trained(root: Path, release: Release, parent: str | None, fresh: tuple[str, ...]) -> str:
    """The name of a candidate."""
    job, folder = Train(str(root), str(release.folder), parent, fresh, LEARN, 0), root / "jobs" / (parent or "first")
    folder.mkdir(parents=True)
    return tasks.train(job, folder, Unpaced(), lambda *_: None).candidate


def test_training_starts_from_the_released_adapter(learnt: Release, home: Callable[..., Path]) -> None:
    """From no version of its own and from the released one as its own, the candidates are the same to the bit."""
    root = home()
    fresh, versions = observed(root, learnt, 6), Versions(root / "versions")
    assert learnt.manifest.adapter is not None
    own = versions.add(learnt.read(learnt.manifest.adapter))
    first, second = trained(root, learnt, None, fresh), trained(root, learnt, own, fresh)
    assert first == second
    moved, start = adapter_of_bytes(versions.load(first)), released(learnt)
    name = "blocks.0.qkv"
    step = (moved.b[name] - start.b[name]).norm() / start.b[name].norm()
    assert 0 < step < 1, "four steps away from the released B, not from zero"
    assert moved.vocabulary == learnt.manifest.vocabulary


def measured(root: Path, release: Release, candidate: str | None, gamma: float = 1.0) -> tuple[str, dict[str, float]]:
    """What was measured, and the largest difference against each of the compared."""
    job = Measure(str(root), str(release.folder), candidate, None, None, ((5, 0, 0, 0, 0),), gamma, LEARN)
    (root / "jobs").mkdir(exist_ok=True)
    found = tasks.measure(job, root / "jobs", Unpaced())
    worst: dict[str, float] = {}
    for one in found.comparisons:
        worst[one.kind] = max(worst.get(one.kind, 0.0), abs(one.mean) + one.std)
    return found.candidate, worst


def test_the_gate_compares_with_base_and_adapter(learnt: Release, grown: Release, home: Callable[..., Path]) -> None:
    """The release alone differs from itself by nothing; the same file as a device's own, too; the bare base does."""
    root = home()
    observed(root, learnt, 4, "golden")
    versions = Versions(root / "versions")
    name, nothing = measured(root, learnt, None)
    assert learnt.manifest.adapter is not None
    assert name == learnt.manifest.adapter.sha256
    assert nothing["incumbent"] == nothing["release"] == nothing["gain"] == 0.0
    own = versions.add(learnt.read(learnt.manifest.adapter))
    assert measured(root, learnt, own) == (own, nothing)
    assert grown.manifest.adapter is not None
    bare = versions.add(grown.read(grown.manifest.adapter))
    _, changed = measured(root, learnt, bare)
    assert min(changed["incumbent"], changed["release"], changed["gain"]) > 1e-3


def test_rescaling_goes_towards_the_release(learnt: Release, home: Callable[..., Path]) -> None:
    """γ = ½: half-way between the released B and the candidate's; the row of a value of the device's own is halved."""
    root = home()
    versions, start = Versions(root / "versions"), released(learnt)
    wider = start.vocabulary.extend({"emotion": "mine"})
    far = replace(
        start,
        vocabulary=wider,
        b={name: b + 0.5 for name, b in start.b.items()},
        rows={**start.rows, "0:6": torch.full_like(start.rows["0:5"], 2.0)},
    )
    Vault(root / "vault", read_identity(root).device, FileKey(root / "device.key")).save_names(wider)
    name, _ = measured(root, learnt, versions.add(adapter_bytes(far)), 0.5)
    half = adapter_of_bytes(versions.load(name))
    torch.testing.assert_close(half.b["blocks.0.qkv"], start.b["blocks.0.qkv"] + 0.25, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(half.rows["0:5"], start.rows["0:5"], atol=2e-3, rtol=1e-3)
    assert half.rows["0:6"].tolist() == [1.0] * len(half.rows["0:6"])
    assert adapter_bytes(rescale(far, 1.0, start)) == adapter_bytes(far)
    torch.testing.assert_close(rescale(far, 0.0, start).b["blocks.0.qkv"], start.b["blocks.0.qkv"])


def test_ordinary_lora_is_not_rescaled_towards_a_released_adapter(learnt: Release) -> None:
    """Its A is its own: what would come out is no adapter, and that is said."""
    start = released(learnt)
    own = {name: torch.eye(*layer.weight.shape)[: start.rank] for name, layer in layers(learnt).items()}
    with pytest.raises(InvalidArtefact, match="its own A"):
        rescale(replace(start, a=own), 0.5, start)


def layers(release: Release) -> dict[str, torch.nn.Linear]:
    """The adapted layers of the base."""
    parts = assembly.open_parts(release)
    return {name: parts.model.get_submodule(name) for name in parts.basis.a}  # type: ignore[misc]


def test_an_assist_is_of_base_and_adapter(learnt: Release) -> None:
    """Its Fisher is that of B at the released one; a device checks it as before."""
    parts = assembly.open_parts(learnt)
    settings = assist.Settings(n_trajectories=4, steps=2, n_fisher=8, k=2, n_rehearsal=4, draw_steps=2)
    known = assembly.released(parts, with_teacher=True)
    given = assist.read(assist.compute(known, settings), assembly.released(parts, with_teacher=False))
    assert parts.adapter is not None
    samples = Samples(given.rehearsal.images, given.rehearsal.codes)
    rng = torch.Generator().manual_seed(0)
    here = estimate_fisher(attach(parts.model, parts.basis, parts.adapter), *samples.pick(), rng, 64, 2)
    zero = rescale(parts.adapter, 0.0)
    there = estimate_fisher(attach(parts.model, parts.basis, zero), *samples.pick(), rng, 64, 2)
    name = "blocks.0.qkv"
    assert set(given.fisher.rest) == set(here.rest)
    assert not torch.equal(here.rest[name], there.rest[name])
    bare = assist.compute(replace(known, adapter=None), settings)
    assert not torch.equal(assist.read(bare, known).fisher.rest[name], given.fisher.rest[name])


def test_adapters_of_device_and_release_add_up(learnt: Release) -> None:
    """Released plus what was learnt since is the whole: what a device's file is."""
    start = released(learnt)
    since = replace(start, b={name: b + 1.0 for name, b in start.b.items()}, rows=dict(start.rows))
    torch.testing.assert_close(add(start, since).b["blocks.0.qkv"], 2 * start.b["blocks.0.qkv"] + 1.0)


def task(release: Release, new: Samples, known: Samples) -> Task:
    """What a device would learn."""
    lesson = assembly.Lesson(new, known, None, release.manifest.vocabulary, 0)
    return assembly.task_of(assembly.open_parts(release), lesson, Learn(strategy="evergrove", steps=2))


def test_what_only_the_fleet_knows_is_drawn_and_replayed(learnt: Release, grown: Release) -> None:
    """48 pictures of love by the release, the teacher's questions about them to the release; both are sound."""
    pack = read_pack(learnt.path_of(learnt.manifest.rehearsal))
    new, none = Samples(pack.images[:8], pack.codes[:8]), Samples(pack.images[:0], pack.codes[:0])
    made = task(learnt, new, none)
    love = made.replay.codes[:, 0] == 5
    assert love.sum() == assembly.N_DRAWN
    assert len(made.replay) == len(pack) + assembly.N_DRAWN
    assert (task(learnt, new, none).replay.images == made.replay.images).all()
    memory = made.strategy.remember(made, made.strategy)
    assert memory.points is not None
    assert int(memory.points.code[:, 0].max()) == 5
    rows = memory.points.code[:, 0] == 5
    x, t, code, x_hat = (
        part[rows] for part in (memory.points.x_t, memory.points.t, memory.points.code, memory.points.x_hat)
    )
    network = assembly.open_parts(learnt).network()
    torch.testing.assert_close(network(x.float(), t, code), x_hat.float(), atol=2e-2, rtol=2e-2)
    assert not (task(grown, new, none).replay.codes[:, 0] == 5).any(), "nobody has learnt love yet"


def test_what_others_are_to_teach_stays_as_the_release_draws_it(grown: Release) -> None:
    """Nobody has taught love: who learns something else is asked for the release's word on it, who learns it is not."""
    pack = read_pack(grown.path_of(grown.manifest.rehearsal))
    other, none = Samples(pack.images[:8], pack.codes[:8]), Samples(pack.images[:0], pack.codes[:0])
    made = task(grown, other, none)
    assert (made.old_codes()[:, 0] == 5).sum() == assembly.N_DRAWN
    points = made.strategy.remember(made, made.strategy).points
    assert points is not None
    rows = points.code[:, 0] == 5
    assert 0 < int(rows.sum()) < len(points) / 2
    said = assembly.open_parts(grown).network()(points.x_t[rows].float(), points.t[rows], points.code[rows])
    torch.testing.assert_close(said, points.x_hat[rows].float(), atol=2e-2, rtol=2e-2)
    codes = pack.codes[:8].copy()
    codes[:, 0] = 5
    assert int(task(grown, Samples(pack.images[:8], codes), none).old_codes()[:, 0].max()) == 4


def test_what_a_device_shows_itself_is_not_drawn(learnt: Release, tmp_path: Path) -> None:
    """Its own pictures of love, new or known, or public ones in the pack: these are replayed, nothing is made up."""
    pack = read_pack(learnt.path_of(learnt.manifest.rehearsal))
    codes = pack.codes[:8].copy()
    codes[:, 0] = 5
    own, other = Samples(pack.images[:8], codes), Samples(pack.images[:8], pack.codes[:8])
    none = Samples(pack.images[:0], pack.codes[:0])
    assert len(task(learnt, own, none).replay) == len(pack)
    known = task(learnt, other, own)
    assert len(known.replay) == len(pack) + 8
    assert int(known.old_codes()[:, 0].max()) == 4, "of what the device learnt itself its own pictures speak"
    assert learnt.manifest.adapter is not None
    wider = pack_bytes(Pack(np.concatenate((pack.images, own.images)), np.concatenate((pack.codes, codes))))
    made = write_release(learnt, learnt.read(learnt.manifest.adapter), tmp_path / "next", 9, rehearsal=wider)
    assert made.manifest.rehearsal.sha256 != learnt.manifest.rehearsal.sha256
    public = task(made, other, none)
    assert (public.replay.codes[:, 0] == 5).sum() == 8
    assert int(public.old_codes()[:, 0].max()) == 5


def test_a_release_can_bring_what_it_would_draw(learnt: Release, grown: Release, tmp_path: Path) -> None:
    """Four pictures of love in its pack; the next one draws them anew; of a value that nobody has learnt, none."""
    assert learnt.manifest.adapter is not None
    data, pack = rehearsal_of(assembly.open_parts(learnt), 4), read_pack(learnt.path_of(learnt.manifest.rehearsal))
    assert data == rehearsal_of(assembly.open_parts(learnt), 4)
    made = write_release(learnt, learnt.read(learnt.manifest.adapter), tmp_path / "next", 9, rehearsal=data)
    brought = read_pack(made.path_of(made.manifest.rehearsal))
    assert (brought.images[: len(pack)] == pack.images).all()
    love = brought.codes[len(pack) :]
    assert love[:, 0].tolist() == [5] * 4
    assert ((love[:, 1:] >= 1) & (love[:, 1:] <= np.array(made.manifest.known)[1:])).all()
    new, none = Samples(pack.images[:8], pack.codes[:8]), Samples(pack.images[:0], pack.codes[:0])
    assert len(task(made, new, none).replay) == len(pack) + 4
    (tmp_path / "again.npz").write_bytes(rehearsal_of(assembly.open_parts(made), 2))
    assert len(read_pack(tmp_path / "again.npz")) == len(pack) + 2
    (tmp_path / "none.npz").write_bytes(rehearsal_of(assembly.open_parts(grown), 4))
    assert len(read_pack(tmp_path / "none.npz")) == len(pack)


def test_an_assist_covers_the_fleets_vocabulary(learnt: Release) -> None:
    """The same for every device of the fleet: love is among its pictures and its trajectories."""
    settings = assist.Settings(n_trajectories=24, steps=2, n_fisher=8, k=2, n_rehearsal=24, draw_steps=2)
    known = assembly.released(assembly.open_parts(learnt), with_teacher=True)
    given = assist.read(assist.compute(known, settings), known)
    assert (given.rehearsal.codes[:, 0] == 5).any()
    assert (given.points.code[:, 0] == 5).any()


# ---- a new release ---------------------------------------------------------------------------------------------------


def test_what_was_learnt_is_the_same_on_a_release_that_only_knows_more_names(learnt: Release, tmp_path: Path) -> None:
    """The fleet gains two names, so the device's own value has another number: every picture is the one of before."""
    start = released(learnt)
    wider = start.vocabulary.extend({"emotion": "mine"})
    rng = torch.Generator().manual_seed(3)
    moved = {name: b + 0.02 * torch.randn(b.shape, generator=rng) for name, b in start.b.items()}
    rows = {**start.rows, "0:6": torch.randn(start.rows["0:5"].shape, generator=rng)}
    own = adapter_bytes(replace(start, vocabulary=wider, b=moved, rows=rows))
    new = grow(learnt, tmp_path / "new", [{"emotion": "shy"}, {"hair": "mohawk"}])
    assert new.manifest.adapter is not None
    assert learnt.manifest.adapter is not None
    there, here = decode(new.read(new.manifest.adapter)), decode(learnt.read(learnt.manifest.adapter))
    whole = carry.on_release(decode(own), here, there, new.manifest.vocabulary, 1.0)
    assert whole.vocabulary.encode({"emotion": "mine"})[0] == 7
    before, after = studio(learnt, tmp_path / "a", own), studio(new, tmp_path / "b", encode(whole))
    for condition in (PLAIN, {**PLAIN, **LOVE}, {**PLAIN, "emotion": "mine"}):
        assert (draw(before, condition) == draw(after, condition)).all()
    nothing = encode(carry.on_release(decode(own), here, there, new.manifest.vocabulary, 0.0))
    assert (draw(studio(new, tmp_path / "c", nothing)) == draw(studio(new, tmp_path / "d"))).all()


def test_a_personal_adapter_goes_across_a_generation(learnt: Release, tmp_path: Path) -> None:
    """The released adapter merged into the base, a new A that spans the old one: what was learnt is still there."""
    parts, manifest = assembly.open_parts(learnt), learnt.manifest
    start = released(learnt)
    moved = {name: b + 0.05 * torch.sign(b) for name, b in start.b.items()}
    own = adapter_bytes(replace(start, b=moved))
    folder = tmp_path / "next"
    folder.mkdir()
    for ref in (manifest.golden, manifest.rehearsal):
        (folder / ref.name).write_bytes(learnt.read(ref))
    (folder / BASE).write_bytes(base_bytes(cast(DiT, parts.network())))
    base = file_ref(folder, BASE)
    turned = {
        name: orthonormal(torch.cat((rows.flip(0), torch.randn(4, rows.shape[1]))))
        for name, rows in parts.basis.a.items()
    }
    (folder / BASIS).write_bytes(basis_bytes(turned, base.sha256))
    after = msgspec.structs.replace(
        manifest, generation=2, version=9, rank=12, base=base, basis=file_ref(folder, BASIS), adapter=None, teacher=None
    )
    write_manifest(folder, after)
    new = open_release(folder)
    grounds = [
        carry.ground_of(one.manifest, one.read(one.manifest.base), one.read(one.manifest.basis))
        for one in (learnt, new)
    ]
    assert manifest.adapter is not None
    got = carry.across(decode(own), decode(learnt.read(manifest.adapter)), grounds[0], None, grounds[1], 1.0)
    assert got.error < 1e-3
    assert got.left == ((0, "love"),)
    before, then = (
        draw(studio(learnt, tmp_path / "a", own)).astype(int),
        draw(studio(new, tmp_path / "b", encode(got.adapter))).astype(int),
    )
    lost = np.abs(draw(studio(new, tmp_path / "c")).astype(int) - before).mean()
    assert np.abs(then - before).mean() < 0.05 * lost


def ground_of(release: Release) -> carry.Ground:
    """What adapters of a release stand on."""
    manifest = release.manifest
    return carry.ground_of(manifest, release.read(manifest.base), release.read(manifest.basis))


# ---- a device --------------------------------------------------------------------------------------------------------


def test_a_device_on_such_a_release_generates_learns_and_is_judged(learnt: Release, tmp_path: Path) -> None:
    """Love is the fleet's: no new name, but new to the gate, which judges it by the device's own golden pictures."""
    device = Device.create(tmp_path / "home", learnt.folder, CONFIG.replace("steps = 12", "steps = 60"))
    try:
        first = device.generate({**PLAIN, **LOVE}, seed=7)
        assert first.version is None
        assert (first.array == draw(studio(learnt, tmp_path / "alone"), {**PLAIN, **LOVE})).all()
        kept = [device.observe(picture, LOVE) for picture in strange_pictures(24)]
        assert all(not seen.new_values for seen in kept)
        result = device.learn()
        assert result.verdict in ("accepted", "rejected")
        events = [line.event for line in read_log(device.root)]
        made = next(e for e in events if isinstance(e, ev.DeviceInitialised))
        assert (made.vocabulary, made.known) == ((5, 2, 2, 3, 2), (4, 2, 2, 3, 2))
        asked = [c for e in events if isinstance(e, ev.CandidateMeasured) for c in e.comparisons]
        assert {c.condition for c in asked if c.kind == "gain"} == {(5, 0, 0, 0, 0)}
        assert {c.condition for c in asked if c.kind == "release"} == {(n, 0, 0, 0, 0) for n in (1, 2, 3, 4)}
        if result.verdict == "accepted":
            own = adapter_of_bytes(Versions(device.root / "versions").load(result.adapter))
            assert not torch.equal(own.b["blocks.0.qkv"], released(learnt).b["blocks.0.qkv"])
            device.rollback()
            assert (device.generate({**PLAIN, **LOVE}, seed=7).array == first.array).all()
    finally:
        device.close(stop_agent=True)
