"""The linear adapter: nothing when off, exact sums, refuses what does not belong, swaps between two calls."""

import json
import pickle
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from evergrove.core.errors import EvergroveError, InvalidArtefact, UsageError
from evergrove.learn import adapter as ad
from evergrove.learn.adapter_file import adapter_bytes, adapter_of_bytes, load_adapter, read_header, save_adapter
from evergrove.learn.dit import adapted_layers, grow
from evergrove.learn.slots import LiveModel

World = Any  # the one of conftest.py
Probe = tuple[Tensor, Tensor, Tensor]


def learnt(world: World, seed: int = 0, rank: int | None = None, size: float = 0.05) -> ad.Adapter:
    """An adapter with something in it."""
    rng = torch.Generator().manual_seed(seed)
    blank = ad.blank_adapter(world.model, world.basis, world.wider, rank)

    def fill(tensor: Tensor) -> Tensor:
        return (size * torch.randn(tensor.shape, generator=rng)).half().float()

    b = {name: fill(t) for name, t in blank.b.items()}
    return replace(blank, b=b, rows={key: fill(row) for key, row in blank.rows.items()})


def test_off_is_the_base_to_the_bit(world: World, probe: Probe) -> None:
    """Fused with nothing, fused with zeros, attached with zeros: the base's very outputs."""
    expected = world.model(*probe)
    blank = ad.blank_adapter(world.model, world.basis, world.wider)
    for module in (
        ad.fuse(world.model, world.basis, None),
        ad.fuse(world.model, world.basis, blank),
        ad.attach(world.model, world.basis, blank).module,
    ):
        assert torch.equal(module(*probe), expected)


def test_attached_and_fused_agree(world: World, probe: Probe) -> None:
    """The two forms are one adapter: equal outputs on old and new conditions, and different from the base's."""
    adapter = learnt(world)
    x_t, t, code = probe
    code = code.clone()
    code[0, 0] = 4
    attached = ad.attach(world.model, world.basis, adapter).module(x_t, t, code)
    fused = ad.fuse(world.model, world.basis, adapter)(x_t, t, code)
    torch.testing.assert_close(attached, fused, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(fused[1:], world.model(x_t[1:], t[1:], code[1:]), atol=1e-3)


def test_training_touches_b_and_new_rows_only(world: World, probe: Probe) -> None:
    """After a step: old rows and every weight of the base bit-identical, B and the new row changed."""
    before = {name: p.clone() for name, p in world.model.named_parameters()}
    attached = ad.attach(world.model, world.basis, ad.blank_adapter(world.model, world.basis, world.wider))
    code = probe[2].clone()
    code[0, 0] = 4
    optimiser = torch.optim.AdamW(attached.parameters.values(), lr=0.1)
    attached.module(probe[0], probe[1], code).square().sum().backward()
    assert {n for n, p in attached.module.named_parameters() if p.requires_grad} == {
        *(f"{name}.b" for name in world.basis.a),
        "tables.0.rows",
    }
    optimiser.step()
    after = ad.read_adapter(attached)
    assert all(torch.equal(p, before[name]) for name, p in world.model.named_parameters())
    fused = ad.fuse(world.model, world.basis, after)
    assert torch.equal(fused.tables[0].weight[:4], world.model.tables[0].weight)
    assert torch.equal(fused.tables[1].weight, world.model.tables[1].weight)
    assert all(b.abs().max() > 0 for b in after.b.values())
    assert after.rows["0:4"].abs().max() > 0


def test_new_rows_start_where_the_network_grows_them(world: World) -> None:
    """A blank adapter's new row is the one that ``dit.grow`` makes."""
    grown = ad.fuse(world.model, world.basis, None)
    grow(grown, world.wider)
    fused = ad.fuse(world.model, world.basis, ad.blank_adapter(world.model, world.basis, world.wider))
    torch.testing.assert_close(fused.tables[0].weight, grown.tables[0].weight, atol=1e-6, rtol=0)


def test_fused_shares_nothing_with_the_base(world: World, probe: Probe) -> None:
    """Writing over a fused network leaves the base alone."""
    expected = world.model(*probe)
    fused = ad.fuse(world.model, world.basis, learnt(world))
    ours = {p.data_ptr() for p in world.model.parameters()}
    assert not ours & {p.data_ptr() for p in fused.parameters()}
    with torch.no_grad():
        for p in fused.parameters():
            p.zero_()
    assert torch.equal(world.model(*probe), expected)


def test_fusing_in_place_forgets_what_was_there(world: World, probe: Probe) -> None:
    """A slot that held another adapter ends up the same as a new one, in the same memory."""
    slot = ad.fuse(world.model, world.basis, learnt(world, 1))
    where = slot.blocks[0].qkv.weight.data_ptr()
    ad.fuse_into(slot, world.model, world.basis, learnt(world, 2))
    assert torch.equal(slot(*probe), ad.fuse(world.model, world.basis, learnt(world, 2))(*probe))
    ad.fuse_into(slot, world.model, world.basis, None)
    assert torch.equal(slot(*probe), world.model(*probe))
    assert slot.blocks[0].qkv.weight.data_ptr() == where


def test_rescale_and_add_are_linear(world: World) -> None:
    """γ·a + (1−γ)·a = a, and the weight change of a sum is the sum of the weight changes."""
    one, two = learnt(world, 1), learnt(world, 2)
    parts = ad.add(ad.rescale(one, 0.25), ad.rescale(one, 0.75))
    name = "blocks.0.qkv"
    torch.testing.assert_close(parts.b[name], one.b[name])
    torch.testing.assert_close(parts.rows["0:4"], one.rows["0:4"])
    base = world.model.blocks[0].qkv.weight
    changes = [ad.fuse(world.model, world.basis, a).blocks[0].qkv.weight - base for a in (one, two, ad.add(one, two))]
    torch.testing.assert_close(changes[0] + changes[1], changes[2], atol=1e-6, rtol=1e-5)
    with pytest.raises(UsageError, match="gamma"):
        ad.rescale(one, 1.5)


def test_a_smaller_rank_is_the_first_columns(world: World, probe: Probe) -> None:
    """Rank 2 of 6, padded with zeros, is the same adapter; it adds to a full one."""
    small = learnt(world, 3, rank=2)
    padded = ad.pad(small, 6)
    got = [ad.fuse(world.model, world.basis, a)(*probe) for a in (small, padded)]
    torch.testing.assert_close(got[0], got[1], atol=1e-5, rtol=1e-5)
    assert ad.add(small, learnt(world, 4)).rank == 6
    with pytest.raises(UsageError, match="without loss"):
        ad.pad(padded, 2)


def test_an_incumbent_grows_by_rows(world: World, probe: Probe) -> None:
    """Widening an adapter's vocabulary changes no output on what it knew."""
    adapter = learnt(world)
    wider = ad.extend_rows(world.model, adapter, world.wider.extend({"colour": "green"}))
    assert set(wider.rows) == {"0:4", "1:3"}
    got = [ad.fuse(world.model, world.basis, a)(*probe) for a in (adapter, wider)]
    assert torch.equal(got[0], got[1])


def test_works_on_a_plain_module(world: World) -> None:
    """Any module with linear layers fits, condition tables or not."""
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    basis = ad.Basis("b", "a", 0.5, {"0": torch.eye(5)[:2], "2": torch.eye(4)[:2]})
    blank = ad.blank_adapter(model, basis, msgspec.structs.replace(world.known, factors=()))
    adapter = replace(blank, b={name: torch.ones_like(b) for name, b in blank.b.items()})
    x = torch.randn(7, 5)
    layers = model[0].weight + 0.5 * torch.ones(4, 2) @ basis.a["0"]
    hidden = torch.tanh(x @ layers.T + model[0].bias)
    expected = hidden @ (model[2].weight + 0.5 * torch.ones(3, 2) @ basis.a["2"]).T + model[2].bias
    torch.testing.assert_close(ad.fuse(model, basis, adapter)(x), expected)
    torch.testing.assert_close(ad.attach(model, basis, adapter).module(x), expected)


def test_ordinary_lora_trains_its_own_a(world: World, probe: Probe) -> None:
    """With ``train_a`` A gets gradients, is read back, saved, and fuses to the same outputs."""
    attached = ad.attach(world.model, world.basis, learnt(world), train_a=True)
    optimiser = torch.optim.SGD(attached.parameters.values(), lr=0.1)
    attached.module(*probe).square().mean().backward()
    optimiser.step()
    adapter = ad.read_adapter(attached)
    assert adapter.a is not None
    assert not torch.equal(adapter.a["blocks.0.qkv"], world.basis.a["blocks.0.qkv"])
    again = adapter_of_bytes(adapter_bytes(adapter))
    torch.testing.assert_close(
        ad.fuse(world.model, world.basis, again)(*probe), attached.module(*probe), atol=5e-3, rtol=5e-3
    )
    with pytest.raises(InvalidArtefact, match="do not add"):
        ad.add(adapter, adapter)


def test_files_round_trip(world: World, tmp_path: Path) -> None:
    """fp16 numbers come back as they were; equal adapters give equal bytes; the header says what it belongs to."""
    adapter = learnt(world)
    path = tmp_path / "a.safetensors"
    n_bytes = save_adapter(adapter, path)
    again = load_adapter(path, world.model, world.basis)
    assert adapter_bytes(again) == path.read_bytes()
    assert len(path.read_bytes()) == n_bytes
    assert all(torch.equal(again.b[name], b) for name, b in adapter.b.items())
    assert torch.equal(again.rows["0:4"], adapter.rows["0:4"])
    assert (again.vocabulary, again.rank, again.scale) == (world.wider, 6, 1.0)
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata()["base"] == "b" * 64


class _Boom:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("a pickle was loaded",))


def _header_edit(data: bytes, old: str, new: str) -> bytes:
    n = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + n].decode().replace(old, new)
    assert header != data[8 : 8 + n].decode()
    return len(header.encode()).to_bytes(8, "little") + header.encode() + data[8 + n :]


def _nan(world: World) -> bytes:
    data = bytearray(adapter_bytes(learnt(world)))
    data[-2:] = np.float16(np.nan).tobytes()
    return bytes(data)


def _bad_files(world: World) -> dict[str, tuple[bytes, str]]:
    good = adapter_bytes(learnt(world))
    other = replace(learnt(world), base_hash="c" * 64)
    other_a = replace(learnt(world), basis_hash="c" * 64)
    b = learnt(world).b
    shape = replace(learnt(world), b={**b, "blocks.0.qkv": b["blocks.0.qkv"][:-1]})
    missing = replace(learnt(world), b={name: t for name, t in b.items() if name != "blocks.0.qkv"})
    foreign = safetensors.torch.save({"x": torch.zeros(2)})
    wide = safetensors.torch.save({"x.B": torch.zeros(2, 1)}, json.loads(_metadata(good)))
    return {
        "pickle": (pickle.dumps(_Boom()), "pickle"),
        "zip": (b"PK\x03\x04" + bytes(100), "pickle"),
        "text": (b"hello world, this is no adapter", "not a safetensors"),
        "empty": (b"", "not a safetensors"),
        "cut short": (good[:-100], "damaged"),
        "cut in the header": (good[:50], "cut short"),
        "huge header": ((1 << 40).to_bytes(8, "little") + good[8:], "not a safetensors"),
        "NaN": (_nan(world), "NaN"),
        "foreign": (foreign, "not of format"),
        "fp32": (wide, "dtype F32"),
        "wrong base": (adapter_bytes(other), "learnt on base cccc"),
        "wrong A": (adapter_bytes(other_a), "belongs to A cccc"),
        "wrong shape": (adapter_bytes(shape), "blocks.0.qkv.B' has shape"),
        "missing layer": (adapter_bytes(missing), "one side only"),
        "rank": (_header_edit(good, '"rank":"6"', '"rank":"5"'), "rank 5"),
        "scale": (_header_edit(good, '"scale":"1.0"', '"scale":"9.0"'), "scale is 9.0"),
        "vocabulary": (_header_edit(good, "factors", "factory"), "damaged"),
        "rows": (_header_edit(good, "row.0:4", "row.0:5"), "disagree"),
        "row name": (_header_edit(good, "row.0:4", "row.zero"), "no row"),
        "too large": (good + bytes(64 << 20), "more than"),
    }


def _metadata(data: bytes) -> str:
    n = int.from_bytes(data[:8], "little")
    return json.dumps(json.loads(data[8 : 8 + n])["__metadata__"])


def test_bad_files_are_refused_by_name(world: World, tmp_path: Path) -> None:
    """Each fault gives InvalidArtefact with the file's name and the fault; nothing is ever unpickled."""
    cases = _bad_files(world)
    for name, (data, words) in cases.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(data)
        with pytest.raises(InvalidArtefact, match=words) as caught:
            load_adapter(path, world.model, world.basis)
        assert str(path) in str(caught.value), name
    with pytest.raises(InvalidArtefact, match="cannot be read"):
        load_adapter(tmp_path / "absent", world.model, world.basis)


def test_nothing_infinite_is_saved(world: World) -> None:
    """A number beyond fp16 is refused when it is written, not when it is read."""
    adapter = learnt(world)
    with pytest.raises(InvalidArtefact, match="NaN or infinite"):
        adapter_bytes(replace(adapter, rows={"0:4": adapter.rows["0:4"] + 1e6}))


def test_a_foreign_basis_is_refused(world: World) -> None:
    """A whose layers are not the base's linear layers does not attach."""
    wrong = replace(world.basis, a={"blocks.9.qkv": world.basis.a["blocks.0.qkv"]})
    with pytest.raises(InvalidArtefact, match="no linear layer"):
        ad.blank_adapter(world.model, wrong, world.wider)
    with pytest.raises(UsageError, match="rank 9"):
        ad.blank_adapter(world.model, world.basis, world.wider, rank=9)


def test_swap_between_two_calls(world: World, probe: Probe) -> None:
    """A call that began before the swap ends on its version; the next one sees the new one."""
    live = LiveModel(world.model, world.basis, world.known, version="release")
    old = world.model(*probe)
    new = ad.fuse(world.model, world.basis, learnt(world))(*probe)
    with pytest.raises(UsageError, match="nothing is staged"):
        live.swap()
    with live.lease() as reader:
        live.stage(learnt(world), "one")
        live.swap()
        assert reader.version == "release"
        assert torch.equal(reader.module(*probe), old)
        with live.lease() as second:
            assert (second.version, second.vocabulary) == ("one", world.wider)
            assert torch.equal(second.module(*probe), new)
        with pytest.raises(EvergroveError, match="former version"):
            live.stage(None, "two", wait_s=0.01)
    live.stage(None, "two")
    live.swap()
    with live.lease() as third:
        assert torch.equal(third.module(*probe), old)


def test_a_fusion_waits_between_layers_for_a_gap_and_not_for_ever(world: World, probe: Probe) -> None:
    """It may pause before every weight and every layer; a call that does not end holds it up a quarter of a second."""
    asked = [0]

    def ask() -> None:
        asked[0] += 1

    adapter = learnt(world)
    slot = ad.fuse(world.model, world.basis, None)
    ad.fuse_into(slot, world.model, world.basis, adapter, ask)
    n_tables = sum(name.startswith("tables.") for name, _ in world.model.named_parameters())
    assert asked[0] == len(list(world.model.named_parameters())) - n_tables + len(adapter.b)
    live = LiveModel(world.model, world.basis, world.known)
    with live.lease():
        live.stage(adapter, "one")
    live.swap()
    assert torch.equal(live.current.module(*probe), slot(*probe))


def test_generating_never_tears(world: World, probe: Probe) -> None:
    """Readers on other threads only ever see one version whole, while versions change under them."""
    adapters = [None, learnt(world, 1), learnt(world, 2)]
    expected = {str(i): ad.fuse(world.model, world.basis, a)(*probe) for i, a in enumerate(adapters)}
    live = LiveModel(world.model, world.basis, world.known, version="0")
    stop, faults, seen = threading.Event(), [], set()

    def read() -> None:
        while not stop.is_set():
            with live.lease() as now:
                out = now.module(*probe)
                seen.add(now.version)
                if not torch.equal(out, expected[now.version]):
                    faults.append(now.version)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for i in range(12):  # each waits a quarter of a second for a gap that these readers never leave
        live.stage(adapters[i % 3], str(i % 3))
        live.swap()
    stop.set()
    for thread in threads:
        thread.join()
    assert not faults
    assert seen == set(expected)


def test_the_trained_numbers_are_few(world: World) -> None:
    """B and the new rows: out·r per layer, width per row."""
    n = sum(layer.out_features * 6 for layer in adapted_layers(world.model).values()) + 32
    assert ad.blank_adapter(world.model, world.basis, world.wider).n_numbers == n
    assert world.basis.rank == 6


def test_a_file_whose_header_has_the_length_of_a_pickles_first_byte_is_no_pickle() -> None:
    """0x180 = 384 bytes of header: the file begins with 0x80, as every pickle does, and is a safetensors file."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}).encode().ljust(384)
    assert read_header(len(header).to_bytes(8, "little") + header, "here")["a"]["dtype"] == "F32"
    with pytest.raises(InvalidArtefact, match="a pickle or zip file"):
        read_header(pickle.dumps({"a": 1}), "here")
