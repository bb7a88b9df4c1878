"""What a study starts from: a release with its A, oracle and packs, on the device that computes."""

from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import torch

import evergrove
from evergrove.core.conditions import Vocabulary
from evergrove.core.release import Manifest
from evergrove.learn.adapter import Basis
from evergrove.learn.base import load_base, read_manifest
from evergrove.learn.basis import basis_bytes, load_basis
from evergrove.learn.dit import DiT
from evergrove.learn.oracle import Oracle, load_oracle
from evergrove.learn.strategies import Samples
from evergrove.media.avatars import TINY_VIEW_BOX, VIEW_BOX, Atelier
from evergrove.media.packs import Pack, read_pack
from evergrove.rules import params
from evergrove.rules.params import Layout, Slot

ASSETS = Path(evergrove.__file__).parent / "assets"


@dataclass(frozen=True)
class World:
    """A release. ``model`` and ``basis`` lie on ``device``; ``rehearsal`` and ``golden`` are its public pictures."""

    folder: Path
    manifest: Manifest
    model: DiT
    basis: Basis
    oracle: Oracle
    rehearsal: Samples
    golden: Samples
    atelier: Atelier
    device: torch.device


@dataclass(frozen=True)
class Part:
    """What a fleet trains of the adapter: the first ``rank`` rows of A (0: new rows of conditions alone) in ``layers``
    (the ends of their names; empty: all) of the ``blocks`` last blocks (0: all)."""

    rank: int = 12
    layers: tuple[str, ...] = ()
    blocks: int = 0


def open_world(name: str, device: str) -> World:
    """A shipped release (``avatars`` or ``tiny``) on a torch device."""
    folder, at = ASSETS / name, torch.device(device)
    manifest = read_manifest(folder)
    basis = load_basis(folder / manifest.basis.name, manifest.base.sha256, manifest.scale)
    return World(
        folder=folder,
        manifest=manifest,
        model=load_base(folder).to(at),
        basis=replace(basis, a={name: rows.float().to(at) for name, rows in basis.a.items()}),
        oracle=load_oracle(folder / "oracle.safetensors"),
        rehearsal=_samples(read_pack(folder / manifest.rehearsal.name)),
        golden=_samples(read_pack(folder / manifest.golden.name)),
        atelier=Atelier(manifest.image_px, TINY_VIEW_BOX if name == "tiny" else VIEW_BOX),
        device=at,
    )


def narrowed(world: World, part: Part) -> Basis:
    """The A of a generation that adapts a part only."""
    last = world.model.config.depth - (part.blocks or world.model.config.depth)
    kept = {
        name: rows[: part.rank]
        for name, rows in world.basis.a.items()
        if part.rank and int(name.split(".")[1]) >= last and name.endswith(part.layers or ("",))
    }
    return replace(world.basis, a=kept)


def layout_of(world: World, basis: Basis, vocabulary: Vocabulary) -> Layout:
    """What the numbers of an update mean; as a fog and a cloud work it out, from the bytes of base and A."""
    manifest = replace_vocabulary(world.manifest, vocabulary)
    base = (world.folder / manifest.base.name).read_bytes()
    if basis.a:
        data = basis_bytes({name: rows.cpu() for name, rows in basis.a.items()}, manifest.base.sha256)
        return params.layout_of(manifest, base, data)
    whole = params.layout_of(manifest, base, (world.folder / manifest.basis.name).read_bytes())
    rows: tuple[Slot, ...] = tuple(slot for slot in whole.slots if slot.name.startswith("row."))
    return Layout(whole.base, whole.basis, whole.generation, vocabulary, rows)


def replace_vocabulary(manifest: Manifest, vocabulary: Vocabulary) -> Manifest:
    """The manifest of a release whose fleet knows more values."""
    return msgspec.structs.replace(manifest, vocabulary=vocabulary)


def _samples(pack: Pack) -> Samples:
    return Samples(pack.images, pack.codes)
