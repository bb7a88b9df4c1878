"""The linear adapter: W' = W + s·B·A on every adapted ``nn.Linear``, with A frozen and B (and new rows) learnt.

A base network and an ``Adapter`` come in; out comes the *attached* form, in which B and the rows of new conditions can
be trained, or the *fused* form, a second network that runs as fast as the base. The base itself is never written to.
FFA-LoRA (Sun et al. 2024): with one A for all devices of a generation, adapters add, average and rescale exactly.
Works on any ``nn.Module`` whose adapted layers are ``nn.Linear`` and whose condition tables stand in ``.tables``.
"""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from evergrove.core.conditions import Vocabulary
from evergrove.core.errors import InvalidArtefact, UsageError
from evergrove.learn.layers import AdaptedLinear, GrownTable, start_row
from evergrove.learn.place import to_cpu
from evergrove.learn.routing import Routed, RoutedLinear, numbers_of, stacked


@dataclass(frozen=True)
class Basis:
    """The frozen A of a generation: ``a[layer]`` is (r, in) with orthonormal rows; ``scale`` is s.

    ``base_hash`` is the SHA-256 of the base's file that it was learnt for, ``basis_hash`` that of its own file.
    """

    base_hash: str
    basis_hash: str
    scale: float
    a: Mapping[str, Tensor]

    @property
    def rank(self) -> int:
        """r, the largest rank of any layer."""
        return max(len(a) for a in self.a.values())


@dataclass(frozen=True)
class Adapter:
    """What a device has learnt. Zero in every tensor is 'nothing': the base, bit for bit.

    ``b[layer]`` is (out, rank). ``rows["f:n"]`` (width,) is the row of value n of factor f as its difference from the
    start row (the mean of the base table's own values), so that rescaling and adding are linear in all of an adapter.
    ``vocabulary`` is what base and adapter understand together. ``a`` is None, but for ordinary LoRA, which trains its
    own A[layer] (rank, in). ``branches["f:n"][layer]`` (out, r_n) is a B of value n's own, which is added to ``b``
    where that value is asked for and nowhere else (docs/adr/0028); all of them are of one factor.
    """

    base_hash: str
    basis_hash: str
    rank: int
    scale: float
    vocabulary: Vocabulary
    b: Mapping[str, Tensor]
    rows: Mapping[str, Tensor]
    a: Mapping[str, Tensor] | None = None
    branches: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)

    @property
    def n_numbers(self) -> int:
        """How many numbers it consists of."""
        shared = (*self.b.values(), *self.rows.values(), *(self.a or {}).values())
        return sum(t.numel() for t in (*shared, *(b for branch in self.branches.values() for b in branch.values())))


@dataclass(frozen=True)
class Attached:
    """The trainable form. ``module`` shares the base's frozen tensors; ``parameters`` are all that is trained:
    ``{layer}.B`` (out, r), ``rows.{f}`` (new values, width) and, for ordinary LoRA, ``{layer}.A`` (r, in)."""

    module: nn.Module
    parameters: Mapping[str, nn.Parameter]
    adapter: Adapter


def blank_adapter(model: nn.Module, basis: Basis, vocabulary: Vocabulary, rank: int | None = None) -> Adapter:
    """An adapter that changes nothing yet, for ``vocabulary``; a smaller ``rank`` uses the first rows of A."""
    rank = basis.rank if rank is None else rank
    if not 1 <= rank <= basis.rank:
        raise UsageError(f"rank {rank} is not in 1 to {basis.rank}, the rank of this generation's A")
    layers = _layers(model, basis.a)
    b = {name: torch.zeros(layer.out_features, rank, dtype=layer.weight.dtype) for name, layer in layers.items()}
    width = {f: table.weight.shape[1] for f, table in enumerate(_tables(model))}
    rows = {f"{f}:{n}": torch.zeros(width[f]) for f, n in unknown_values(model, vocabulary)}
    return Adapter(basis.base_hash, basis.basis_hash, rank, basis.scale, vocabulary, b, rows)


def attach(model: nn.Module, basis: Basis, adapter: Adapter, train_a: bool = False) -> Attached:
    """The trainable form of ``adapter`` on ``model``; old rows and all weights of the base are frozen and shared.

    ``train_a`` makes it ordinary LoRA: A starts at the adapter's own, else the basis's, and is trained too.
    Raises ``InvalidArtefact`` where adapter, basis and model do not belong together, ``UsageError`` for an adapter
    with branches, beneath which the shared B would move (``learn/branches.py`` trains those).
    """
    check_fit(model, basis, adapter)
    if adapter.branches:
        raise UsageError(
            "what this device has learnt stands in a B of its own for each condition, and a shared one cannot be"
            " trained beneath them; learn it anew from the release"
        )
    module = share(model)
    parameters: dict[str, nn.Parameter] = {}
    for name, layer in _layers(module, basis.a).items():
        a, b = _a_of(adapter, basis, name).to(layer.weight), adapter.b[name].to(layer.weight)
        adapted = AdaptedLinear(layer, a.clone(), b.clone(), adapter.scale, train_a)
        replace_module(module, name, adapted)
        parameters[f"{name}.B"] = adapted.b
        if train_a:
            parameters[f"{name}.A"] = cast(nn.Parameter, adapted.a)
    for f, table in enumerate(_tables(module)):
        rows = [row for key, row in sorted_rows(adapter) if key[0] == f]
        if rows:
            grown = GrownTable(table.weight, torch.stack(rows).to(table.weight))
            cast(nn.ModuleList, module.tables)[f] = grown
            parameters[f"rows.{f}"] = grown.rows
    if hasattr(module, "vocabulary"):
        module.vocabulary = cast(nn.Module, adapter.vocabulary)
    return Attached(module, parameters, adapter)


def read_adapter(attached: Attached) -> Adapter:
    """The adapter as trained so far (a copy, on the CPU)."""
    values = {name: to_cpu(p) for name, p in attached.parameters.items()}
    old = attached.adapter
    rows = dict(old.rows)
    for f in {key[0] for key, _ in sorted_rows(old)}:
        names = [f"{g}:{n}" for (g, n), _ in sorted_rows(old) if g == f]
        rows.update(zip(names, values[f"rows.{f}"], strict=True))
    a = {name: values[f"{name}.A"] for name in old.b} if f"{next(iter(old.b))}.A" in values else old.a
    return replace(old, b={name: values[f"{name}.B"] for name in old.b}, rows=rows, a=a)


def fuse(model: nn.Module, basis: Basis, adapter: Adapter | None) -> nn.Module:
    """A second network with the adapter in its weights; it shares nothing with ``model``. None: a plain copy.

    Where there are branches each row takes its own beside the weights (``routed``).
    """
    slot = copy.deepcopy(model).requires_grad_(False).eval()
    fuse_into(slot, model, basis, adapter)
    return routed(slot, basis, adapter)


def routed(slot: nn.Module, basis: Basis, adapter: Adapter | None) -> nn.Module:
    """``slot``, into which the adapter was fused, with its branches beside it; the slot itself where it has none.

    The network that comes out shares the slot's weights: it is made anew when something else is fused into the slot.
    """
    if adapter is None or not adapter.branches:
        return slot
    keys = sorted(adapter.branches, key=row_key)
    module = share(slot)
    for name, layer in _layers(module, basis.a).items():
        b = stacked([adapter.branches[key][name] for key in keys]).to(layer.weight)
        a = basis.a[name][: b.shape[2]].to(layer.weight)
        replace_module(module, name, RoutedLinear(layer, a, b, adapter.scale))
    factor = row_key(keys[0])[0]
    values = {row_key(key)[1]: k for k, key in enumerate(keys)}
    return Routed(module, factor, numbers_of(values, adapter.vocabulary.sizes[factor]))


@torch.no_grad()
def fuse_into(
    slot: nn.Module,
    model: nn.Module,
    basis: Basis,
    adapter: Adapter | None,
    before_layer: Callable[[], object] = lambda: None,
) -> None:
    """Writes base plus adapter over ``slot``, a copy of ``model``, in place and without new weights; no branches.

    Only a table whose vocabulary changes is made anew (some kilobytes). ``before_layer`` may wait.
    """
    if adapter is not None:
        check_fit(model, basis, adapter)
    base = dict(model.named_parameters())
    tables = {f"tables.{f}.weight" for f in range(len(_tables(model)))}
    for name, weight in slot.named_parameters():
        if name not in tables:
            before_layer()
            weight.copy_(base[name])
    for f, table in enumerate(_tables(model)):
        rows = [] if adapter is None else [row for key, row in sorted_rows(adapter) if key[0] == f]
        wider = torch.cat((table.weight, *((start_row(table.weight) + row.to(table.weight))[None] for row in rows)))
        if wider.shape == _tables(slot)[f].weight.shape:
            _tables(slot)[f].weight.copy_(wider)
        else:
            cast(nn.ModuleList, slot.tables)[f] = _table(wider)
    if adapter is not None:
        for name, layer in _layers(slot, adapter.b).items():
            before_layer()
            a, b = _a_of(adapter, basis, name).to(layer.weight), adapter.b[name].to(layer.weight)
            layer.weight.addmm_(b, a, alpha=adapter.scale)
    if hasattr(model, "vocabulary"):
        slot.vocabulary = model.vocabulary if adapter is None else cast(nn.Module, adapter.vocabulary)


def rescale(adapter: Adapter, gamma: float, released: Adapter | None = None) -> Adapter:
    """γ times what was learnt: B and the rows' distance from their start. 0 ≤ γ ≤ 1.

    What was learnt is ``adapter`` less the ``released`` one (None: all of it), on top of which it stays. Raises
    ``InvalidArtefact`` for ordinary LoRA on a released adapter: their sum is no adapter.
    """
    if not 0.0 <= gamma <= 1.0:
        raise UsageError(f"gamma={gamma} is not in 0 to 1")
    if gamma == 1.0 or released is None:
        return _times(adapter, gamma)
    return add(_times(adapter, gamma), _times(released, 1.0 - gamma))


def _times(adapter: Adapter, gamma: float) -> Adapter:
    return replace(
        adapter,
        b={name: gamma * b for name, b in adapter.b.items()},
        rows={name: gamma * row for name, row in adapter.rows.items()},
        branches={key: {name: gamma * b for name, b in branch.items()} for key, branch in adapter.branches.items()},
    )


def add(first: Adapter, second: Adapter) -> Adapter:
    """The exact sum of two adapters of one generation; the smaller rank is padded with zeros. Branches add by value.

    The vocabularies must be equal, or one must extend the other. Raises ``InvalidArtefact`` where they do not share
    base and A; ordinary LoRA has an A of its own and cannot be added.
    """
    if first.a is not None or second.a is not None:
        raise InvalidArtefact("ordinary LoRA adapters do not add: each has its own A; merge them into the base instead")
    if (first.base_hash, first.basis_hash, first.scale) != (second.base_hash, second.basis_hash, second.scale):
        raise InvalidArtefact("adapters of different generations do not add: base, A and scale must be the same")
    wide, narrow = (first, second) if len(first.rows) >= len(second.rows) else (second, first)
    known = zip(wide.vocabulary.factors, narrow.vocabulary.factors, strict=True)
    if any(w.name != n.name or w.values[: len(n.values)] != n.values for w, n in known):
        raise InvalidArtefact(
            "adapters whose new conditions have different numbers do not add; bring one to the other's"
        )
    rank = max(first.rank, second.rank)
    one, two = pad(wide, rank), pad(narrow, rank)
    b = {name: one.b[name] + two.b[name] for name in one.b}
    rows = {name: row + two.rows[name] if name in two.rows else row for name, row in one.rows.items()}
    branches = {**one.branches, **two.branches}
    for key in set(one.branches) & set(two.branches):
        pairs = ((name, stacked([mine, two.branches[key][name]])) for name, mine in one.branches[key].items())
        branches[key] = {name: pair.sum(0) for name, pair in pairs}
    return replace(one, b=b, rows=rows, branches=branches)


def pad(adapter: Adapter, rank: int) -> Adapter:
    """The same adapter at a larger rank: zero columns, exact because A's first rows are shared."""
    if rank < adapter.rank:
        raise UsageError(f"an adapter of rank {adapter.rank} cannot be cut to {rank} without loss")
    b = {name: functional.pad(b, (0, rank - adapter.rank)) for name, b in adapter.b.items()}
    return replace(adapter, b=b, rank=rank)


def extend_rows(model: nn.Module, adapter: Adapter, vocabulary: Vocabulary) -> Adapter:
    """The same adapter of ``model`` for a vocabulary that knows more values: their rows start at the table's mean."""
    rows, tables = dict(adapter.rows), _tables(model)
    for f, n in vocabulary.added(adapter.vocabulary):
        rows[f"{f}:{n}"] = torch.zeros(tables[f].weight.shape[1])
    return replace(adapter, vocabulary=vocabulary, rows=rows)


def sorted_rows(adapter: Adapter) -> list[tuple[tuple[int, int], Tensor]]:
    """The rows in the order of (factor, value number)."""
    return sorted(((row_key(key), row) for key, row in adapter.rows.items()), key=lambda pair: pair[0])


def check_fit(model: nn.Module, basis: Basis, adapter: Adapter) -> None:
    """Raises ``InvalidArtefact`` unless base, A, layers, shapes and new conditions all belong together."""
    if adapter.base_hash != basis.base_hash:
        raise InvalidArtefact(
            f"the adapter was learnt on base {adapter.base_hash[:12]}…, this device runs {basis.base_hash[:12]}…;"
            " ask for one of this release"
        )
    if adapter.a is None and adapter.basis_hash != basis.basis_hash:
        raise InvalidArtefact(
            f"the adapter belongs to A {adapter.basis_hash[:12]}…, this generation's is {basis.basis_hash[:12]}…;"
            " learn it anew on this release"
        )
    if not math.isclose(adapter.scale, basis.scale):
        raise InvalidArtefact(f"the adapter's scale is {adapter.scale}, this generation's {basis.scale}")
    layers = _layers(model, basis.a)
    if set(adapter.b) != set(layers):
        odd = min(set(adapter.b) ^ set(layers))
        raise InvalidArtefact(f"the adapter's layers are not the base's: '{odd}' stands on one side only")
    for name, layer in layers.items():
        if tuple(adapter.b[name].shape) != (layer.out_features, adapter.rank):
            shape = tuple(adapter.b[name].shape)
            raise InvalidArtefact(f"'{name}.B' has shape {shape}, this base needs {(layer.out_features, adapter.rank)}")
        if adapter.a is not None and tuple(adapter.a[name].shape) != (adapter.rank, layer.in_features):
            raise InvalidArtefact(f"'{name}.A' has shape {tuple(adapter.a[name].shape)}, this base needs another one")
        if adapter.a is None and len(basis.a[name]) < adapter.rank:
            raise InvalidArtefact(f"the adapter's rank {adapter.rank} is larger than A's {len(basis.a[name])}")
    needed = {f"{f}:{n}" for f, n in unknown_values(model, adapter.vocabulary)}
    if set(adapter.rows) != needed:
        odd = min(set(adapter.rows) ^ needed)
        raise InvalidArtefact(f"the adapter's rows and its vocabulary disagree over value '{odd}' (factor:number)")
    tables = _tables(model)
    for (f, n), row in sorted_rows(adapter):
        if tuple(row.shape) != (tables[f].weight.shape[1],):
            raise InvalidArtefact(
                f"row '{f}:{n}' has shape {tuple(row.shape)}, this base needs {tables[f].weight.shape[1]}"
            )
    _check_branches(basis, adapter, layers)


def _check_branches(basis: Basis, adapter: Adapter, layers: Mapping[str, nn.Linear]) -> None:
    keys = [row_key(key) for key in adapter.branches]
    if keys and (adapter.a is not None or len({f for f, _ in keys}) > 1):
        raise InvalidArtefact("an adapter's branches are all of one factor, and stand on the generation's A alone")
    for (f, n), branch in zip(keys, adapter.branches.values(), strict=True):
        sizes = adapter.vocabulary.sizes
        if f >= len(sizes) or not 1 <= n <= sizes[f]:
            raise InvalidArtefact(f"the adapter has a branch for value '{f}:{n}', which its vocabulary does not know")
        if set(branch) != set(layers):
            odd = min(set(branch) ^ set(layers))
            raise InvalidArtefact(f"the layers of branch '{f}:{n}' are not the base's: '{odd}' is on one side only")
        for name, layer in layers.items():
            shape = tuple(branch[name].shape)
            if len(shape) != 2 or shape[0] != layer.out_features or not 1 <= shape[1] <= len(basis.a[name]):
                most = (layer.out_features, len(basis.a[name]))
                raise InvalidArtefact(f"'{name}' of branch '{f}:{n}' has shape {shape}; at most {most} fits this base")


def unknown_values(model: nn.Module, vocabulary: Vocabulary) -> list[tuple[int, int]]:
    """The (factor, number) pairs of ``vocabulary`` that the base's tables have no row for."""
    tables = _tables(model)
    if len(tables) != len(vocabulary.factors):
        raise InvalidArtefact(f"{len(vocabulary.factors)} factors in the vocabulary, {len(tables)} tables in the base")
    return [
        (f, n)
        for f, (table, size) in enumerate(zip(tables, vocabulary.sizes, strict=True))
        for n in range(len(table.weight), size + 1)
    ]


def _layers(model: nn.Module, names: Mapping[str, Tensor]) -> dict[str, nn.Linear]:
    layers = {}
    for name in names:
        try:
            layer = model.get_submodule(name)
        except AttributeError:
            layer = None
        if not isinstance(layer, nn.Linear):
            raise InvalidArtefact(f"'{name}' is no linear layer of this base; A and base must be of one release")
        layers[name] = layer
    return layers


def _tables(model: nn.Module) -> list[nn.Embedding]:
    return [cast(nn.Embedding, table) for table in cast(nn.ModuleList, getattr(model, "tables", nn.ModuleList()))]


def share(model: nn.Module) -> nn.Module:
    """A copy of the module tree whose parameters are frozen views of the same storage."""
    views: dict[int, object] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    return copy.deepcopy(model, views)


def _a_of(adapter: Adapter, basis: Basis, name: str) -> Tensor:
    a = adapter.a[name] if adapter.a is not None else basis.a[name][: adapter.rank]
    return a.to(torch.get_default_dtype()) if a.dtype == torch.float16 else a


def replace_module(module: nn.Module, name: str, child: nn.Module) -> None:
    """Puts ``child`` in the place of the submodule called ``name``."""
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, child)


def _table(weight: Tensor) -> nn.Embedding:
    # Not by way of the meta device: that imports torch's compiler, seconds at the first swap of every process.
    table: nn.Embedding = nn.Embedding.from_pretrained(weight, freeze=True)  # type: ignore[no-untyped-call]
    return table


def row_key(key: str) -> tuple[int, int]:
    """(factor, value number) of a row's or a branch's key."""
    f, _, n = key.partition(":")
    return int(f), int(n)
