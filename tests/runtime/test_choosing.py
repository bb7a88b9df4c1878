"""What may run on another release, by the code of the real worker: equal things come out equal, words keep meaning."""

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from msgspec.structs import replace as replace_learn

from evergrove.adapters.images import encode_png
from evergrove.adapters.keys import FileKey
from evergrove.adapters.release import MANIFEST, Release, open_release
from evergrove.adapters.release_write import grow, write_release
from evergrove.adapters.vault import Vault
from evergrove.adapters.versions import Versions
from evergrove.bootstrap import make_device, read_identity
from evergrove.core.conditions import Code
from evergrove.core.config import Gate, Learn
from evergrove.core.errors import InvalidArtefact
from evergrove.core.jobs import Choose, Chosen
from evergrove.core.release import FileRef, sha256_hex
from evergrove.learn.basis import basis_bytes
from evergrove.learn.strategies import EVERGROVE, Recipe, Samples, Task
from evergrove.rules import gate
from evergrove.rules.carry import renumbered
from evergrove.rules.learnt import Learnt, decode, encode, tensors_of
from evergrove.runtime import assembly, choosing
from evergrove.runtime.choosing import choose
from evergrove.runtime.keeper import Keeper
from evergrove.sim.real import Unpaced

from .conftest import strange_pictures

LEARN = Learn(strategy="replay", steps=4, batch=4, checkpoint_every=4)
MINE = "auntie"


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The tiny release for a fleet that is to learn love: it changes nothing that the base knows."""
    return grow(open_release("tiny"), tmp_path_factory.mktemp("grown") / "fleet", [{"emotion": "love"}])


class Home:
    """A device of the tiny release that was shown a word of its own, and has an adapter for it.

    Its ``gate`` lets nothing in, so that all choices are measured.
    """

    gate = Gate(items_min=1000)

    def __init__(self, root: Path) -> None:
        make_device(root, "tiny", "")
        self.root, self.tiny = root, open_release("tiny")
        self.words = self.tiny.manifest.vocabulary.extend({"emotion": MINE})
        self.vault = Vault(root / "vault", read_identity(root).device, FileKey(root / "device.key"))
        self.vault.save_names(self.words)
        self.versions = Versions(root / "versions")
        keeper = Keeper(self.vault, self.tiny.manifest.known)
        self.records = []
        for i, picture in enumerate(strange_pictures(9)):
            code = self.words.encode({"emotion": MINE})
            record, _ = keeper.receive(encode_png(picture), picture, {"emotion": MINE}, code, float(i))
            keeper.store(record, "golden" if i < 6 else "train", "kept")
            self.records.append(record)

    @property
    def mine(self) -> tuple[Code, ...]:
        """Its own word, as a condition."""
        return (self.words.encode({"emotion": MINE}),)

    def adapter(self, seed: int = 0, size: float = 0.02) -> str:
        """What it has learnt: some B, and the row of its own word."""
        from evergrove.adapters.release_write import blank

        manifest, rng = self.tiny.manifest, np.random.default_rng(seed)
        start = blank(manifest, self.tiny.read(manifest.base), self.tiny.read(manifest.basis))
        tensors = {n: (size * rng.standard_normal(t.shape)).astype(np.float32) for n, t in start.tensors.items()}
        f, n = self.words.added(manifest.vocabulary)[0]
        tensors[f"row.{f}:{n}"] = rng.standard_normal(64).astype(np.float32)
        return self.versions.add(encode(replace(start, vocabulary=self.words, tensors=tensors)))

    def choose(
        self,
        arriving: Release,
        incumbent: str | None,
        given: str | None = None,
        waiting: bool = True,
        learn: Learn = LEARN,
    ) -> Chosen:
        """The worker's job, in this process; ``waiting``: the incumbent was trained on none of the records."""
        places = str(self.root), str(self.tiny.folder), str(arriving.folder)
        job = Choose(*places, incumbent, given, tuple(self.records) if waiting else (), learn, self.mine, self.gate)
        return choose(job, self.root / "job", Unpaced())

    def read(self, name: str | None) -> Learnt:
        """A version."""
        assert name is not None
        return decode(self.versions.load(name))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "device")


def test_a_release_that_changes_nothing_leaves_what_was_learnt_as_it_was(home: Home, grown: Release) -> None:
    """At γ = 1 the candidate gives the incumbent's very numbers, though its own word has another number now."""
    version = home.adapter()
    found = home.choose(grown, version, version)
    assert [choice.gamma for choice in found.choices if choice.candidate is None] == [0.0]
    assert sorted(choice.gamma for choice in found.choices) == [0.0, 0.25, 0.5, 1.0]
    assert [choice.score for choice in found.choices] == sorted(choice.score for choice in found.choices)
    whole = next(choice for choice in found.choices if choice.gamma == 1.0)
    own = home.tiny.manifest.known[0] + 2
    assert found.table[0] == (*range(own - 1), own)
    assert found.known == home.tiny.manifest.known
    against = [c for c in whole.comparisons if c.kind == "incumbent"]
    assert {c.condition[0] for c in against} == {*range(1, own - 1), own}
    assert all(abs(c.mean) < 1e-3 for c in against)
    assert next(c.n for c in against if c.condition[0] == own) == 6
    learnt = home.read(whole.candidate)
    assert learnt.vocabulary.factors[0].values[-2:] == ("love", MINE)
    assert np.allclose(learnt.tensors[f"row.0:{own}"], home.read(version).tensors[f"row.0:{own - 1}"])
    assert whole.given == whole.candidate


def test_what_the_gate_lets_in_is_the_last_that_is_measured(home: Home, grown: Release) -> None:
    """The best that does no harm; what scores worse is not even looked at. Judged as the reducer will."""
    version, easy = home.adapter(), Gate(items_min=2, delta=9.0, cumulative=9.0, tau=9.0, own=9.0)
    every = home.choose(grown, version, version).choices
    home.gate = easy
    (first,) = home.choose(grown, version, version).choices
    assert first == every[0]
    home.gate = Gate(items_min=2)
    found = home.choose(grown, version, version)
    own = [renumbered(one, found.table) for one in home.mine]
    expected = gate.of_release(found.known, own, teacher=found.teacher)
    passed = [not gate.examine(gate.Policy.of(home.gate), choice.comparisons, expected) for choice in found.choices]
    assert passed == [False] * (len(passed) - 1) + [True]
    assert [choice.candidate for choice in found.choices] == [choice.candidate for choice in every[: len(passed)]]


def test_what_was_not_sent_yet_stays_the_difference(home: Home, grown: Release) -> None:
    """Of the version that the last update was made of: given' − candidate' = γ·(given − candidate)."""
    version, given = home.adapter(0), home.adapter(1)
    for choice in home.choose(grown, version, given).choices:
        if choice.candidate is not None:
            for name, b in home.read(version).tensors.items():
                if name.endswith(".B"):
                    before = b - home.read(given).tensors[name]
                    after = home.read(choice.candidate).tensors[name] - home.read(choice.given).tensors[name]
                    assert np.allclose(after, choice.gamma * before, atol=2e-4)


def test_what_was_learnt_can_be_learnt_again_on_the_release(home: Home, grown: Release) -> None:
    """From the release, on the records that the incumbent was trained on and on no others; the same when killed."""
    version = home.adapter()
    choices = home.choose(grown, version, version, waiting=False).choices
    assert sorted(choice.gamma for choice in choices) == [0.0, 0.25, 0.5, 1.0, 1.0]
    (again,) = [choice for choice in choices if choice.relearnt]
    (alone,) = [choice for choice in choices if choice.gamma == 0.0]
    assert again.given is None, "the next update is what there is more than the release"
    assert again.score < alone.score, "its own pictures are known again"
    learnt = home.read(again.candidate)
    assert learnt.vocabulary.factors[0].values[-2:] == ("love", MINE)
    (left,) = (home.root / "job").glob("relearnt-*/checkpoint.safetensors")
    left.unlink()
    (other,) = [c for c in home.choose(grown, version, version, waiting=False).choices if c.relearnt]
    assert other.candidate == again.candidate
    none = home.choose(grown, version, version, waiting=False, learn=replace_learn(LEARN, relearn_steps=0)).choices
    assert not any(choice.relearnt for choice in none)
    assert not any(choice.relearnt for choice in home.choose(grown, version, version).choices)


def test_learnt_again_at_another_setting_begins_anew(home: Home, grown: Release) -> None:
    """A checkpoint that was left by a job at other settings is no reason to refuse the release."""
    version = home.adapter()
    home.choose(grown, version, version, waiting=False)
    other = home.choose(grown, version, version, waiting=False, learn=replace_learn(LEARN, relearn_steps=3)).choices
    assert any(choice.relearnt for choice in other)
    assert len(list((home.root / "job").glob("relearnt-*"))) == 2


@pytest.mark.parametrize(("steps", "lr", "expected"), [(40, None, 0.3 * 1e-2), (24, 4e-3, 2e-3), (12, None, 1e-2)])
def test_what_is_learnt_again_is_learnt_gently(home: Home, steps: int, lr: float | None, expected: float) -> None:
    """Twelve steps' way at a lesson's rate (the strategy's own, or the configured one), never faster than a lesson."""
    parts = assembly.open_parts(home.tiny)
    none = Samples(np.zeros((0, 8, 8, 3), np.uint8), np.zeros((0, len(home.tiny.manifest.known)), np.int16))
    recipe = Recipe(steps=steps, lr=lr)
    task = Task(parts.model, parts.basis, home.tiny.manifest.vocabulary, none, none, EVERGROVE, recipe)
    assert choosing.gently(task).recipe == replace(recipe, lr=pytest.approx(expected))


def test_of_what_a_device_never_saw_all_conditions_count_alike() -> None:
    """Forty pictures of one, twenty of another, and some that it has: as many of each as there is room for."""
    codes = np.array([[7]] * 40 + [[8]] * 20 + [[9]] * 30 + [[1]] * 30, np.int16)
    rehearsal = Samples(np.zeros((len(codes), 2, 2, 3), np.uint8), codes)
    held = Samples(np.zeros((5, 2, 2, 3), np.uint8), np.full((5, 1), 9, np.int16))
    found = choosing._with_fleet(held, rehearsal, (6,)).codes[:, 0].tolist()
    half = choosing.HELD_BACK_MAX // 2
    assert (found.count(9), found.count(7), found.count(8), len(found)) == (5, half, half, 5 + 2 * half)


def test_a_device_that_has_learnt_nothing_has_the_release_alone(home: Home, grown: Release) -> None:
    """And is told how it does on what was held back."""
    (only,) = home.choose(grown, None).choices
    assert (only.gamma, only.candidate, only.given) == (0.0, None, None)
    assert only.score > 0


def test_a_release_that_spoils_what_is_known_shows_it(home: Home, grown: Release, tmp_path: Path) -> None:
    """Every B at random: harm on what the base knows, at any γ."""
    released, rng = decode(grown.read(grown.manifest.adapter)), np.random.default_rng(0)  # type: ignore[arg-type]
    tensors = {n: (t + 0.5 * rng.standard_normal(t.shape)).astype(np.float32) for n, t in released.tensors.items()}
    spoilt = write_release(grown, encode(replace(released, tensors=tensors)), tmp_path / "spoilt", 9)
    for choice in home.choose(spoilt, home.adapter()).choices:
        assert max(c.mean for c in choice.comparisons if c.kind == "incumbent") > 0.5


def test_a_damaged_release_is_refused(home: Home, grown: Release, tmp_path: Path) -> None:
    """A flipped bit in one of its files: nothing is measured."""
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(grown.folder, copy)
    path = copy / grown.manifest.base.name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    damaged = Release(grown.manifest, copy, grown.manifest_hash)
    with pytest.raises(InvalidArtefact, match="SHA-256 differs"):
        home.choose(damaged, None)


# ---- another generation ----------------------------------------------------------------------------------------------


def next_generation(tiny: Release, folder: Path, foreign: bool) -> Release:
    """The tiny release as generation 2: one bit of the base is another, and so is A.

    A spans what it did before, turned; or, ``foreign``, only what it did not: then least squares find nothing again.
    """
    folder.mkdir()
    manifest, rng = tiny.manifest, np.random.default_rng(0)
    base = bytearray(tiny.read(manifest.base))
    base[-4] ^= 1
    new = {}
    for name, rows in tensors_of(tiny.read(manifest.basis), "A").items():
        rank, n_in = rows.shape
        assert n_in >= 2 * rank
        whole = np.linalg.qr(np.concatenate((rows, rng.standard_normal((rank, n_in)))).T)[0].T
        turn = np.linalg.qr(rng.standard_normal((rank, rank)))[0]
        new[name.removesuffix(".A")] = torch.from_numpy(turn @ (whole[rank:] if foreign else whole[:rank])).float()
    files = {manifest.base.name: bytes(base), manifest.basis.name: basis_bytes(new, sha256_hex(bytes(base)))}
    refs = {name: FileRef(name, sha256_hex(data), len(data)) for name, data in files.items()}
    after = replace_learn(
        manifest, generation=2, version=9, base=refs[manifest.base.name], basis=refs[manifest.basis.name]
    )
    for ref in after.files():
        (folder / ref.name).write_bytes(files[ref.name] if ref.name in files else tiny.read(ref))
    (folder / MANIFEST).write_bytes(msgspec.json.encode(after))
    return open_release(folder)


@pytest.mark.parametrize(("foreign", "relearn_steps"), [(False, 1), (True, 40)], ids=["carried", "learnt again"])
def test_across_a_generation_the_better_way_serves(
    home: Home, tmp_path: Path, foreign: bool, relearn_steps: int
) -> None:
    """By least squares at any γ, and learnt again from its own records: both are offered, and the better one is taken.

    Where the new A can say all that was learnt, a single step of learning does not come near; where it can say nothing
    of it, least squares keep nothing but the word's row, and learning again wins.
    """
    first = home.adapter(size=0.0)
    (learnt,) = [
        choice
        for choice in home.choose(home.tiny, first, waiting=False, learn=replace_learn(LEARN, relearn_steps=40)).choices
        if choice.relearnt
    ]
    arriving = next_generation(home.tiny, tmp_path / "next", foreign)
    learn = replace_learn(LEARN, relearn_steps=relearn_steps)
    every = home.choose(arriving, learnt.candidate, learnt.candidate, waiting=False, learn=learn).choices
    assert sorted((choice.gamma, choice.relearnt) for choice in every) == [
        (0.0, False), (0.25, False), (0.5, False), (1.0, False), (1.0, True),
    ]  # fmt: skip
    assert [choice.score for choice in every] == sorted(choice.score for choice in every)
    manifest = arriving.manifest
    for choice in every:
        if choice.candidate is not None:
            one = home.read(choice.candidate)
            assert (one.base, one.basis) == (manifest.base.sha256, manifest.basis.sha256), "in the new A's words"
    home.gate = Gate(items_min=2, delta=9.0, cumulative=9.0, tau=9.0, own=9.0)
    (taken,) = home.choose(arriving, learnt.candidate, learnt.candidate, waiting=False, learn=learn).choices
    assert taken == every[0]
    assert (taken.gamma, taken.relearnt) == (1.0, foreign)
