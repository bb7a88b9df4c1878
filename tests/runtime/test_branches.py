"""A device whose base knows one factor, through the worker's own tasks, the gate and the generator.

It learns one value, then another, and whatever is not of that lesson stays bit-identical.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from evergrove.adapters.images import encode_png
from evergrove.adapters.keys import FileKey
from evergrove.adapters.release import open_release
from evergrove.adapters.vault import Vault
from evergrove.adapters.versions import Versions
from evergrove.bootstrap import make_device, read_identity, read_release
from evergrove.core.conditions import Code, Factor, Vocabulary
from evergrove.core.config import Config, Fleet, Learn
from evergrove.core.errors import InvalidArtefact, UnknownCondition
from evergrove.core.jobs import Measure, Measured, Train
from evergrove.core.release import Manifest
from evergrove.core.rng import stream
from evergrove.learn import base
from evergrove.learn.adapter import blank_adapter
from evergrove.learn.adapter_file import adapter_of_bytes, save_adapter
from evergrove.learn.base_train import TrainPlan
from evergrove.learn.base_train import train as train_base
from evergrove.learn.basis import basis_bytes, random_rows
from evergrove.learn.dit import DiTConfig
from evergrove.media.packs import Pack, write_pack
from evergrove.rules import gate
from evergrove.runtime import tasks
from evergrove.runtime.assembly import open_parts
from evergrove.runtime.keeper import Keeper
from evergrove.runtime.studio import LocalStudio
from evergrove.runtime.workers import strategy_of
from evergrove.sim.real import Unpaced

KNOWN = Vocabulary((Factor("sign", ("rows", "columns", "square")),))
CORNERS, CROSS = 4, 5
POLICY = gate.Policy.of(Config().gate)


def pictures(signs: list[int], n_each: int, seed: str) -> Pack:
    """``n_each`` noisy pictures of every sign (1-5), 16 px."""
    rng = stream(0, "signs", seed)
    masks = np.zeros((6, 16, 16))
    masks[1, ::4] = masks[1, 1::4] = 1
    masks[2, :, ::4] = masks[2, :, 1::4] = 1
    masks[3, 4:12, 4:12] = 1
    masks[CORNERS, :5, :5] = masks[CORNERS, :5, 11:] = masks[CORNERS, 11:, :5] = masks[CORNERS, 11:, 11:] = 1
    masks[CROSS, 6:10] = masks[CROSS, :, 6:10] = 1
    codes = np.array([(sign,) for sign in signs for _ in range(n_each)], np.int16)
    bright = rng.uniform(0.6, 1.0, (len(codes), 1, 1))
    grey = 200 * masks[codes[:, 0]] * bright + rng.uniform(0, 50, (len(codes), 16, 16))
    return Pack(np.repeat(grey.astype(np.uint8)[..., None], 3, axis=3), codes)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release that knows three signs and nothing else; its A is random."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("release")
    shown = pictures([1, 2, 3], 40, "base")
    plan = TrainPlan(steps=500, batch=32, lr=3e-3, ema=0.99)
    model = train_base(DiTConfig(16, 3, 4, 48, 2, 2), KNOWN, shown.images, shown.codes, plan)
    (folder / base.BASE).write_bytes(base.base_bytes(model))
    reference = base.file_ref(folder, base.BASE)
    (folder / base.BASIS).write_bytes(basis_bytes(random_rows(model, 8, 0), reference.sha256))
    write_pack(folder / base.GOLDEN, pictures([1, 2, 3], 24, "golden"))
    write_pack(folder / base.REHEARSAL, pictures([1, 2, 3], 12, "rehearsal"))
    refs = (base.file_ref(folder, name) for name in (base.BASIS, base.GOLDEN, base.REHEARSAL))
    base.write_manifest(folder, Manifest("signs", 1, 1, 16, KNOWN, 8, 1.0, reference, *refs))
    return folder


@dataclass
class Bench:
    """A device's folder, and what its agent would have done with it."""

    root: Path
    place: Path
    vault: Vault
    keeper: Keeper
    versions: Versions
    vocabulary: Vocabulary
    n_jobs: int = 0

    def show(self, sign: str, number: int) -> tuple[str, ...]:
        """24 pictures to learn and 8 golden ones; the names of the first."""
        self.vocabulary = self.vocabulary.extend({"sign": sign})
        self.vault.save_names(self.vocabulary)
        fresh = []
        pack = pictures([number], 32, sign)
        for i, pixels in enumerate(pack.images):
            code = self.vocabulary.encode({"sign": sign})
            record, _ = self.keeper.receive(encode_png(pixels), pixels, {"sign": sign}, code, 0.0)
            self.keeper.store(record, "golden" if i % 4 == 0 else "train", "kept")
            fresh += [record] if i % 4 else []
        return tuple(fresh)

    def learn(self, fresh: tuple[str, ...], strategy: str = "evergrove") -> str:
        """A job of 300 steps on top of what serves; the candidate."""
        self.n_jobs += 1
        folder = self.root / "jobs" / f"job-{self.n_jobs:05d}"
        learn = Learn(strategy=strategy, steps=300, batch=16)
        job = Train(str(self.root), str(self.place), self.versions.read_pointer().current, fresh, learn, 0)
        return tasks.train(job, folder, Unpaced(), lambda *_: None).candidate

    def measure(self, candidate: str, learnt: tuple[Code, ...], gamma: float = 1.0) -> Measured:
        """What the gate is told of a candidate."""
        current = self.versions.read_pointer().current
        job = Measure(str(self.root), str(self.place), candidate, None, current, learnt, gamma, Learn())
        return tasks.measure(job, self.root / "jobs", Unpaced())

    def promote(self, candidate: str) -> None:
        """It serves from now on."""
        now = self.versions.read_pointer()
        self.versions.activate(candidate, now.current, now.seq + 1, probation=False)


@pytest.fixture
def make(release: Path, tmp_path: Path) -> Callable[[str], Bench]:
    """Makes devices of that release."""

    def device(name: str) -> Bench:
        root = tmp_path / name
        identity = make_device(root, release, "")
        place = read_release(root, read_identity(root)).folder
        vault = Vault(root / "vault", identity.device, FileKey(root / "device.key"))
        return Bench(root, place, vault, Keeper(vault, KNOWN.sizes), Versions(root / "versions"), KNOWN)

    return device


def drawn(studio: LocalStudio, sign: str, n: int = 12) -> NDArray[np.uint8]:
    """Pictures of a sign as an app gets them."""
    return np.stack([studio.generate({"sign": sign}, seed, None, None)[0] for seed in range(n)])


def test_two_lessons_and_nothing_old_moves(make: Callable[[str], Bench]) -> None:
    """Corners, then a cross: both are accepted and drawn; the base's signs stay the very pictures, corners too."""
    device = make("own")
    studio = LocalStudio(open_release(device.place), device.versions, 1)
    base_pictures = {sign: drawn(studio, sign) for sign in KNOWN.factors[0].values}
    looking, learnt_before = gate.State(), ()
    known = tuple((n,) for n in range(1, 4))
    corners: NDArray[np.uint8] | None = None
    for sign, number in (("corners", CORNERS), ("cross", CROSS)):
        candidate = device.learn(device.show(sign, number))
        found = device.measure(candidate, ((number,),))
        # 1. To the gate nothing that it did not learn has changed by anything.
        untouched = [c for c in found.comparisons if c.condition != (number,)]
        assert {c.condition for c in untouched} == {*known, *learnt_before}
        assert all(c.mean == c.std == 0.0 for c in untouched)
        expected = gate.questions(known, learnt_before, ((number,),), teacher=False)
        looking, verdict = gate.judge(looking, POLICY, found.comparisons, expected, 1.0)
        assert verdict.outcome == "accept", verdict.sentence
        gain = next(c.mean for c in found.comparisons if c.kind == "gain")
        print(f"{sign}: {gain:.2f}")
        assert gain < -0.2  # of what is between not knowing the sign at all and nothing
        # 2. It goes live, and the base's signs are the very pictures that they were.
        device.promote(candidate)
        assert studio.refresh() is None
        assert {sign: drawn(studio, sign).tobytes() for sign in base_pictures} == {
            sign: images.tobytes() for sign, images in base_pictures.items()
        }
        learnt = drawn(studio, sign)
        if corners is not None:
            assert np.array_equal(drawn(studio, "corners"), corners)
        corners = learnt if number == CORNERS else corners
        learnt_before = (*learnt_before, (number,))
    held = adapter_of_bytes(device.versions.load(str(device.versions.read_pointer().current)))
    assert set(held.branches) == {"0:4", "0:5"}
    # 3. Back to the version before: the cross is not known any more, corners are.
    now = device.versions.read_pointer()
    device.versions.activate(now.previous, None, now.seq + 1, probation=False)
    assert studio.refresh() is None
    assert np.array_equal(drawn(studio, "corners"), corners)
    with pytest.raises(UnknownCondition, match="cross"):
        drawn(studio, "cross")


def test_a_weaker_candidate_keeps_the_lesson_before_it(make: Callable[[str], Bench]) -> None:
    """At γ = ½ the second branch is halved; the first one, which serves, is not."""
    device = make("weak")
    first = device.learn(device.show("corners", CORNERS))
    device.promote(first)
    second = device.learn(device.show("cross", CROSS))
    halved = device.measure(second, ((CROSS,),), 0.5).candidate
    whole, weak, before = (adapter_of_bytes(device.versions.load(one)) for one in (second, halved, first))
    name = "blocks.0.qkv"
    assert torch.equal(weak.branches["0:4"][name], before.branches["0:4"][name])
    torch.testing.assert_close(weak.branches["0:5"][name], 0.5 * whole.branches["0:5"][name], atol=1e-4, rtol=1e-3)


def test_a_known_sign_may_get_a_branch_and_goes_on_from_it(make: Callable[[str], Bench]) -> None:
    """The user's own squares: a branch on the base's row, with the release's squares replayed; again, from there."""
    device = make("known")
    first = device.learn(device.show("square", 3))
    adapter = adapter_of_bytes(device.versions.load(first))
    assert (set(adapter.branches), set(adapter.rows)) == ({"0:3"}, set())
    untouched = [c for c in device.measure(first, ((3,),)).comparisons if c.condition != (3,)]
    assert untouched
    assert all(c.mean == c.std == 0.0 for c in untouched)
    device.promote(first)
    assert device.learn(device.show("square", 3)) != first


def test_one_shared_b_where_a_device_gives_to_its_fleet(make: Callable[[str], Bench]) -> None:
    """Then its jobs are of the strategy 'shared', and no branch comes of them: sums of a fleet are of one B."""
    assert strategy_of(Config()) == "evergrove"
    assert strategy_of(Config(fleet=Fleet(fog="https://fog"))) == "shared"
    assert strategy_of(Config(fleet=Fleet(fog="https://fog", federate=False))) == "evergrove"
    assert strategy_of(Config(learn=Learn(strategy="replay"), fleet=Fleet(fog="https://fog"))) == "replay"
    device = make("member")
    adapter = adapter_of_bytes(device.versions.load(device.learn(device.show("corners", CORNERS), "shared")))
    assert not adapter.branches
    assert any(b.any() for b in adapter.b.values())


def test_who_has_branches_and_enters_a_fleet_learns_one_shared_b_anew(make: Callable[[str], Bench]) -> None:
    """From the release on, with what its branches were learnt from: no update could be summed else."""
    device = make("late member")
    first = device.learn(device.show("corners", CORNERS))
    device.promote(first)
    assert adapter_of_bytes(device.versions.load(first)).branches
    adapter = adapter_of_bytes(device.versions.load(device.learn(device.show("cross", CROSS), "shared")))
    assert not adapter.branches
    assert set(adapter.rows) == {f"0:{CORNERS}", f"0:{CROSS}"}
    assert all(row.any() for row in adapter.rows.values())
    assert any(b.any() for b in adapter.b.values())


def test_an_adapter_with_branches_is_refused_where_conditions_combine(tmp_path: Path) -> None:
    """Offered to a device of a base with five factors: unmeasured, in words."""
    root = tmp_path / "device"
    make_device(root, "tiny", "")
    parts = open_parts(read_release(root, read_identity(root)))
    blank = blank_adapter(parts.model, parts.basis, parts.release.manifest.vocabulary, rank=1)
    branch = {name: torch.zeros(len(b), 2) for name, b in blank.b.items()}
    path = tmp_path / "offered.safetensors"
    save_adapter(replace(blank, branches={"0:1": branch}), path)
    job = Measure(str(root), str(parts.release.folder), None, str(path), None, (), 1.0, Learn())
    with pytest.raises(InvalidArtefact, match="several factors"):
        tasks.measure(job, tmp_path, Unpaced())
