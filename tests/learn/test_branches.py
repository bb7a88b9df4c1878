"""Branches: what is learnt of one condition moves nothing else, in any batch; files, sums, limits and the way back."""

import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from evergrove.core.conditions import Factor, Vocabulary
from evergrove.core.errors import InvalidArtefact, UpdateRefused, UsageError
from evergrove.learn import adapter as ad
from evergrove.learn.adapter_file import adapter_bytes, adapter_of_bytes
from evergrove.learn.branches import BRANCHES, BRANCHES_MAX, RANK, lesson_of, stands_alone
from evergrove.learn.flow import sample
from evergrove.learn.slots import LiveModel
from evergrove.learn.strategies import Recipe, Samples, Task
from evergrove.learn.trainer import Hooks, train
from evergrove.rules import carry, learnt, params

World = Any  # the one of conftest.py
Probe = tuple[Tensor, Tensor, Tensor]
KEY = "0:4"  # "corners", which the base does not know


def with_branches(world: World, keys: tuple[str, ...] = (KEY,), seed: int = 0) -> ad.Adapter:
    """An adapter whose shared B is zero and whose branches hold something, in numbers that fp16 has."""
    rng = torch.Generator().manual_seed(seed)
    blank = ad.blank_adapter(world.model, world.basis, world.wider, rank=1)

    def filled(*shape: int) -> Tensor:
        return (0.1 * torch.randn(shape, generator=rng)).half().float()

    branches = {key: {name: filled(len(b), 3) for name, b in blank.b.items()} for key in keys}
    return replace(blank, branches=branches, rows={KEY: filled(*blank.rows[KEY].shape)})


def lesson(world: World, folder: Path, start: ad.Adapter | None = None, values: tuple[int, ...] = (4,)) -> ad.Adapter:
    """What 60 steps of a branch make of some values' pictures."""
    both = Samples(
        np.concatenate((world.old.images, world.new.images)), np.concatenate((world.old.codes, world.new.codes))
    )
    rows = np.isin(both.codes[:, 0], values)
    new = Samples(both.images[rows], both.codes[rows])
    nothing = Samples(new.images[:0], new.codes[:0])
    recipe = Recipe(steps=60, checkpoint_every=20)
    task = Task(world.model, world.basis, world.wider, new, nothing, BRANCHES, recipe, start=start)
    outcome = train(task, folder)
    assert outcome.candidate is not None
    return adapter_of_bytes(outcome.candidate.read_bytes())


def test_who_has_no_branch_is_the_base_to_the_bit(world: World, probe: Probe) -> None:
    """In batches of old conditions and in mixed ones, in a pass, in a plan and in whole pictures with guidance."""
    x_t, t, code = probe
    routed = ad.fuse(world.model, world.basis, with_branches(world))
    assert torch.equal(routed(*probe), world.model(*probe))
    mixed = code.clone()
    mixed[1, 0] = mixed[4, 0] = 4
    old = [0, 2, 3, 5]
    plain = ad.fuse(world.model, world.basis, ad.extend_rows(world.model, ad.blank_adapter(
        world.model, world.basis, world.known), world.wider))  # fmt: skip
    assert torch.equal(routed(x_t, t, mixed)[old], plain(x_t, t, mixed)[old])
    assert not torch.allclose(routed(x_t, t, mixed)[1], plain(x_t, t, mixed)[1], atol=1e-3)
    with torch.no_grad():
        times = [0.0, 0.25, 0.5]
        for mine, base in zip(routed.plan(times, mixed), plain.plan(times, mixed), strict=True):
            assert torch.equal(mine(x_t)[old], base(x_t)[old])
    for guidance in (1.0, 2.0):
        pictures = partial(sample, condition=mixed, noise=x_t, steps=3, guidance=guidance)
        assert torch.equal(pictures(routed)[old], pictures(plain)[old])


def test_a_branch_is_the_adapter_that_has_it_as_its_only_b(world: World, probe: Probe) -> None:
    """One value, two in one batch, a smaller rank beside a larger one: as each alone, fused, to rounding."""
    x_t, t, code = probe
    two = with_branches(world, (KEY, "0:2"))
    two = replace(two, branches={**two.branches, "0:2": {n: b[:, :1] for n, b in two.branches["0:2"].items()}})
    code = code.clone()
    code[:, 0] = torch.tensor([4, 2, 4, 1, 2, 0])
    found = ad.fuse(world.model, world.basis, two)(x_t, t, code)
    for key, rows in ((KEY, [0, 2]), ("0:2", [1, 4])):
        b = two.branches[key]
        alone = replace(two, b=b, rank=b["blocks.0.qkv"].shape[1], branches={})
        expected = ad.fuse(world.model, world.basis, alone)(x_t, t, code)[rows]
        torch.testing.assert_close(found[rows], expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(found[[3, 5]], world.model(x_t, t, code.clamp(max=3))[[3, 5]])


def test_lessons_do_not_touch_one_another(world: World, probe: Probe, tmp_path: Path) -> None:
    """A new value, then a known one, then the first again: each moves its own tensors alone, and learns."""
    first = lesson(world, tmp_path / "1")
    assert set(first.branches) == {KEY}
    assert not any(b.any() for b in first.b.values())
    second = lesson(world, tmp_path / "2", first, (2,))
    assert set(second.branches) == {KEY, "0:2"}
    assert all(torch.equal(b, second.branches[KEY][name]) for name, b in first.branches[KEY].items())
    assert torch.equal(first.rows[KEY], second.rows[KEY])
    x_t, t, code = probe
    code = code.clone()
    code[:, 0] = torch.tensor([1, 4, 3, 0, 4, 1])
    one, two = (ad.fuse(world.model, world.basis, each) for each in (first, second))
    assert torch.equal(one(x_t, t, code), two(x_t, t, code))
    third = lesson(world, tmp_path / "3", second)
    assert not torch.equal(third.branches[KEY]["blocks.0.qkv"], second.branches[KEY]["blocks.0.qkv"])
    assert all(torch.equal(b, second.branches["0:2"][name]) for name, b in third.branches["0:2"].items())

    def error(adapter: ad.Adapter | None) -> float:
        network = ad.fuse(world.model, world.basis, adapter or with_branches(world, ()))
        x, codes = world.own.pick()
        at = torch.full((len(x),), 0.5)
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
        return float((network(0.5 * noise + 0.5 * x, at, codes) - x).square().mean())

    untaught, taught, again = error(None), error(first), error(third)
    assert taught < 0.5 * untaught
    assert again < taught


def test_training_goes_on_to_the_bit(world: World, tmp_path: Path) -> None:
    """Paused at step 33 and gone on with from the checkpoint: the very bytes of a training without a pause."""
    whole = lesson(world, tmp_path / "whole")
    asked = iter(range(10**6))
    new = world.new
    nothing = Samples(new.images[:0], new.codes[:0])
    task = Task(world.model, world.basis, world.wider, new, nothing, BRANCHES, Recipe(steps=60, checkpoint_every=20))
    paused = train(task, tmp_path / "cut", Hooks(micro_batch=lambda rows: rows if next(asked) < 33 else 0))
    assert paused.candidate is None
    resumed = train(task, tmp_path / "cut")
    assert resumed.candidate is not None
    assert resumed.candidate.read_bytes() == adapter_bytes(whole)


def test_the_swap_takes_branches_along(world: World, probe: Probe) -> None:
    """Branches live, the release live again, branches once more; two threads on one network route each by its own."""
    x_t, t, code = probe
    learnt_code = code.clone()
    learnt_code[:, 0] = 4
    adapter = with_branches(world)
    live = LiveModel(world.model, world.basis, world.known, adapter, "first")
    expected = ad.fuse(world.model, world.basis, adapter)(x_t, t, learnt_code)
    for _ in range(2):
        with live.lease() as now:
            assert torch.equal(now.module(x_t, t, learnt_code), expected)
            assert torch.equal(now.module(*probe), world.model(*probe))
        live.stage(None, "release")
        live.swap()
        with live.lease() as now:
            assert torch.equal(now.module(*probe), world.model(*probe))
        live.stage(adapter, "again")
        live.swap()
    wrong: list[str] = []

    def ask(codes: Tensor, wanted: Tensor) -> None:
        for _ in range(40):
            with live.lease() as now, torch.no_grad():
                if not torch.equal(now.module(x_t, t, codes), wanted):
                    wrong.append("another thread's branch")

    with torch.no_grad():
        plain, expected = world.model(*probe), ad.fuse(world.model, world.basis, adapter)(x_t, t, learnt_code)
    threads = [threading.Thread(target=ask, args=pair) for pair in ((code, plain), (learnt_code, expected)) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_files(world: World) -> None:
    """The round trip with and without torch; an adapter without branches is the file that it always was."""
    adapter = with_branches(world, (KEY, "0:2"))
    data = adapter_bytes(adapter)
    again = adapter_of_bytes(data)
    assert set(again.branches) == {KEY, "0:2"}
    assert adapter_bytes(again) == data == learnt.encode(learnt.decode(data))
    assert b'"format":"evergrove-adapter-2"' in data
    assert b'"format":"evergrove-adapter-1"' in adapter_bytes(replace(adapter, branches={}))
    assert again.n_numbers == sum(t.numel() for t in (*again.b.values(), *again.rows.values())) + 2 * 3 * sum(
        len(b) for b in again.b.values()
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"evergrove-adapter-2", b"evergrove-adapter-1"),
        (b"branch.0:4.blocks.0.qkv.B", b"branch.0:04.blocks.0.qkv."),
        (b"branch.0:4.blocks.0.qkv.B", b"branch.-:4.blocks.0.qkv.B"),
        (b"branch.0:4.blocks.0.qkv.B", b"branch.0:4.blocks.0.qkv.A"),
        (b"branch.0:4.blocks.0.qkv.B", b"branxh.0:4.blocks.0.qkv.B"),
        (b'"shape":[96,3]', b'"shape":[3,96,1]'),
    ],
)
def test_hostile_files_are_refused(world: World, old: bytes, new: bytes) -> None:
    """Another format, names that are none, other shapes: by torch's reader, or when it is to be attached."""
    data = adapter_bytes(with_branches(world))
    assert old in data
    n = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + n].replace(old, new).rstrip()
    header += b" " * (-len(header) % 8)
    bad = len(header).to_bytes(8, "little") + header + data[8 + n :]
    with pytest.raises(InvalidArtefact):
        ad.check_fit(world.model, world.basis, adapter_of_bytes(bad))
    if b"xh" not in new:  # which layers there are is for the base to say
        with pytest.raises(InvalidArtefact):
            learnt.decode(bad)


def test_numbers_that_are_not_finite_are_refused(world: World) -> None:
    """The last number of a branch is NaN: both readers say so."""
    adapter = with_branches(world)
    data = bytearray(adapter_bytes(adapter))
    header = int.from_bytes(data[:8], "little")
    at = data.index(b"branch.0:4.blocks.0.qkv.B")
    offset = int(bytes(data[at:]).split(b'"data_offsets":[')[1].split(b",")[0])
    data[8 + header + offset : 8 + header + offset + 2] = np.array([np.nan], np.float16).tobytes()
    for read in (adapter_of_bytes, learnt.decode):
        with pytest.raises(InvalidArtefact, match="NaN"):
            read(bytes(data))


def test_what_does_not_fit_is_refused(world: World) -> None:
    """A value that nobody knows, a layer too few, a rank beyond A's, ordinary LoRA, two factors."""
    good = with_branches(world)
    branch = good.branches[KEY]
    few = {name: b for name, b in branch.items() if name != "blocks.0.qkv"}
    wide = {name: torch.zeros(len(b), 7) for name, b in branch.items()}
    for branches in ({"0:5": branch}, {"0:0": branch}, {"2:1": branch}, {KEY: few}, {KEY: wide}):
        with pytest.raises(InvalidArtefact, match="branch"):
            ad.check_fit(world.model, world.basis, replace(good, branches=branches))
    with pytest.raises(InvalidArtefact, match="one factor"):
        ad.check_fit(world.model, world.basis, replace(good, branches={KEY: branch, "1:1": branch}))
    with pytest.raises(UsageError, match="beneath"):
        ad.attach(world.model, world.basis, good)


def test_rescaling_weakens_what_is_new_alone(world: World) -> None:
    """At γ = ¼ towards what serves: the earlier branch and its row to the bit, a quarter of the later one."""
    before = with_branches(world)
    after = with_branches(world, (KEY, "0:2"), seed=1)
    after = replace(after, branches={**after.branches, **before.branches}, rows=before.rows)
    weak = adapter_of_bytes(adapter_bytes(ad.rescale(after, 0.25, before)))
    assert all(torch.equal(b, before.branches[KEY][name]) for name, b in weak.branches[KEY].items())
    assert torch.equal(weak.rows[KEY], before.rows[KEY])
    for name, b in weak.branches["0:2"].items():
        torch.testing.assert_close(b, 0.25 * after.branches["0:2"][name], atol=1e-4, rtol=1e-3)
    alone = ad.rescale(before, 0.5)
    assert torch.equal(alone.branches[KEY]["blocks.0.qkv"], 0.5 * before.branches[KEY]["blocks.0.qkv"])


def test_a_device_is_bounded_and_says_so(world: World, tmp_path: Path) -> None:
    """One value more than there may be: refused in words; the same values again are taken."""
    many = Vocabulary(
        (Factor("pattern", (*world.known.factors[0].values, *map(str, range(70)))), world.known.factors[1])
    )
    blank = ad.blank_adapter(world.model, world.basis, many, rank=1)
    branch = {name: torch.zeros(len(b), 1) for name, b in blank.b.items()}
    full = replace(blank, branches={f"0:{n}": branch for n in range(5, 5 + BRANCHES_MAX)})
    new = world.new
    nothing = Samples(new.images[:0], new.codes[:0])
    task = Task(world.model, world.basis, many, new, nothing, BRANCHES, Recipe(steps=1), start=full)
    with pytest.raises(UsageError, match=f"may have {BRANCHES_MAX}; forget"):
        train(task, tmp_path / "one more")
    again = replace(task, new=Samples(new.images, new.codes + np.array([1, 0], np.int16)))
    found = train(again, tmp_path / "again")
    assert found.candidate is not None
    assert len(adapter_of_bytes(found.candidate.read_bytes()).branches) == BRANCHES_MAX


def test_which_devices_have_branches(world: World) -> None:
    """One factor and our strategy; never by another name or with more factors, but always on top of branches."""
    single = Vocabulary((Factor("digit", ("0", "1")),))
    assert stands_alone("evergrove", single, None)
    assert not stands_alone("shared", single, None)
    assert not stands_alone("evergrove", world.known, None)
    assert not stands_alone("evergrove", world.known, with_branches(world))
    assert not stands_alone("evergrove", world.known, ad.blank_adapter(world.model, world.basis, world.known))
    assert stands_alone("naive", single, with_branches(world))
    assert not stands_alone("shared", single, with_branches(world))


def test_what_is_replayed_beside_a_branch() -> None:
    """Of the old only what is of the same values; pictures that say nothing are left out, and if all do, refused."""
    images = np.zeros((4, 2, 2, 3), np.uint8)
    new = Samples(images, np.array([[9], [0], [3], [9]], np.int16))
    pack = Samples(images, np.array([[1], [3], [3], [0]], np.int16))
    kept, replay = lesson_of(new, (pack, Samples(images[:1], np.array([[9]], np.int16))))
    assert kept.codes[:, 0].tolist() == [9, 3, 9]
    assert replay.codes[:, 0].tolist() == [3, 3, 9]
    with pytest.raises(UsageError, match="condition"):
        lesson_of(Samples(images, np.zeros((4, 1), np.int16)), (pack,))


def test_a_branch_has_the_rank_that_a_has(world: World, tmp_path: Path) -> None:
    """RANK columns at most: here A has six."""
    b = lesson(world, tmp_path).branches[KEY]
    assert {tensor.shape[1] for tensor in b.values()} == {RANK}


def test_branches_go_along_to_another_release(world: World) -> None:
    """R1 + γ·(P − R0): half of the branch, under the number that its value has there; none of it at γ = 0."""
    own = learnt.decode(adapter_bytes(with_branches(world)))
    wider = Vocabulary((replace_values(world.known.factors[0], "spiral"), world.known.factors[1]))
    found = carry.on_release(own, None, None, wider, 0.5)
    assert found.vocabulary.factors[0].values == ("rows", "columns", "square", "spiral", "corners")
    b = found.tensors["branch.0:5.blocks.0.qkv.B"]
    np.testing.assert_array_equal(b, 0.5 * own.tensors["branch.0:4.blocks.0.qkv.B"])
    assert not carry.on_release(own, None, None, wider, 0.0).has_branches


def test_branches_go_across_to_another_a(world: World) -> None:
    """Onto the same A nothing is lost, and a branch keeps its rank."""
    own = learnt.decode(adapter_bytes(with_branches(world)))
    a = {name: rows.numpy() for name, rows in world.basis.a.items()}
    starts = {f: np.zeros(32, np.float32) for f in range(2)}
    before = carry.Ground("b" * 64, "a" * 64, 1.0, a, starts, world.known)
    after = carry.Ground("c" * 64, "d" * 64, 1.0, a, starts, world.known)
    found = carry.across(own, None, before, None, after, 1.0)
    assert found.error < 1e-6
    for name, b in own.tensors.items():
        if name.startswith("branch."):
            np.testing.assert_allclose(found.adapter.tensors[name], b, atol=1e-6)


def test_a_fleet_is_told_why_nothing_comes(world: World) -> None:
    """The sum of a fleet is of one B: an update with branches is refused here, for good, in a sentence."""
    own = learnt.decode(adapter_bytes(with_branches(world)))
    layout = params.Layout("b" * 64, "a" * 64, 1, world.known, ())
    with pytest.raises(UpdateRefused, match="a B of its own for each condition") as refused:
        carry.since(own, None, layout)
    assert refused.value.reason == "branches"


def replace_values(factor: Factor, *more: str) -> Factor:
    """The factor with values behind its own."""
    return Factor(factor.name, (*factor.values, *more))
