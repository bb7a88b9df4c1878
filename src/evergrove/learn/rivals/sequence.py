"""A strategy over a whole stream: what it carries from one task to the next, and what that weighs.

One ``Strategy`` says how one task is learnt. Over a stream methods differ in what they carry on besides: one adapter,
a network, a Fisher, or an adapter for every task. That is a ``Rival``: a strategy, and a function ``after`` each task.
``bench/forgetting`` runs them; everything here is a value or a pure function of tensors.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from evergrove.core.conditions import Vocabulary
from evergrove.core.rng import seed_of
from evergrove.learn.adapter import Adapter, Attached, Basis, attach, blank_adapter, extend_rows, fuse, rescale
from evergrove.learn.adapter_file import adapter_of_bytes
from evergrove.learn.fisher import Fisher, estimate_fisher
from evergrove.learn.rivals import elastic
from evergrove.learn.strategies import Strategy, Task, full_of_bytes

NUMBER_BYTES = 2
"""Everything that is carried is stored in fp16, as adapters are."""
N_FISHER = 192


@dataclass(frozen=True)
class Carried:
    """``model``, ``basis`` and ``start`` are the next task's; ``fisher`` is given to it. ``parts`` are the adapters of
    methods that keep one a task, in order. ``n_numbers`` is how many numbers are stored beyond the release."""

    model: nn.Module
    basis: Basis
    start: Adapter | None = None
    fisher: Fisher | None = None
    parts: tuple[Adapter, ...] = ()
    n_numbers: int = 0

    @property
    def n_bytes(self) -> int:
        """Bytes stored beyond the release, observations not counted."""
        return NUMBER_BYTES * self.n_numbers


After = Callable[[Task, bytes, Carried], Carried]
"""(the task that was learnt, its candidate's bytes, what was carried until now) → what is carried on."""
Network = Callable[[Carried, Vocabulary, int], nn.Module]
"""(carried, what must be understood, the number of the task whose conditions are asked for) → a network. The number -1
asks for what the release knows."""
Prior = Callable[[nn.Module, Basis, Tensor, Tensor, torch.Generator], Fisher]


@dataclass(frozen=True)
class Rival:
    """One method in the race.

    ``begin`` prepares the release for it: (model, A, number of tasks) → carried. ``keeps_observations``: whether it
    fills with observations what its share of the bytes leaves. ``prepare_rows`` is what it does besides the steps of
    a task that has old conditions, in network passes of one row (a forward pass is 1, a backward pass 2).
    ``prior`` is the curvature of what the release knows, where that must be kept, from (model, A, x, codes, chance).
    ``recombines``: its teacher is also asked about combinations that nobody has shown, every known value of the first
    factor with all else that is known. ``joint``: it is given all tasks at once, as the bound. ``alone`` is the method
    that takes this one's place where a condition combines with nothing, see ``routed``.
    """

    name: str
    paper: str
    strategy: Strategy
    begin: Callable[[nn.Module, Basis, int], Carried]
    after: After
    network: Network
    keeps_observations: bool = False
    prepare_rows: int = 0
    prior: Prior | None = None
    recombines: bool = False
    joint: bool = False
    alone: "Rival | None" = None


def routed(rival: Rival, model: nn.Module) -> Rival:
    """The method that does the work: ``alone`` where the network knows one factor only, for then a new value of it has
    nothing to combine with and shares nothing that a B of its own would lack."""
    if rival.alone is None or len(cast(Vocabulary, model.vocabulary).factors) > 1:
        return rival
    return replace(rival.alone, name=rival.name)


# Beginnings: the release's A as it is, or rows of it such that A and B together have as many numbers.


def begin_frozen(model: nn.Module, basis: Basis, n_tasks: int) -> Carried:
    """The release and its whole A, which stays frozen."""
    return Carried(model, basis)


def begin_cut(model: nn.Module, basis: Basis, n_tasks: int, rank: int) -> Carried:
    """The first ``rank`` rows of the release's A, frozen."""
    return Carried(model, cut(basis, rank))


def begin_trained(model: nn.Module, basis: Basis, n_tasks: int) -> Carried:
    """An A of a smaller rank, so that training it too costs the same numbers (to the nearest rank)."""
    return Carried(model, cut(basis, max(1, round(frozen_numbers(model, basis) / _numbers_a_rank(model, basis)))))


def begin_growing(model: nn.Module, basis: Basis, n_tasks: int) -> Carried:
    """A rank such that an A and a B for every task fit into the bytes of two frozen-A adapters, but at least 1."""
    whole = 2 * frozen_numbers(model, basis) // n_tasks
    return Carried(model, cut(basis, min(basis.rank, max(1, whole // _numbers_a_rank(model, basis)))))


def begin_parts(model: nn.Module, basis: Basis, n_tasks: int) -> Carried:
    """A rank such that a B for every task, on the release's frozen A, fits into the same bytes, but at least 1."""
    return Carried(model, cut(basis, min(basis.rank, max(1, 2 * basis.rank // n_tasks))))


def begin_random(model: nn.Module, basis: Basis, n_tasks: int) -> Carried:
    """As ``begin_growing``, from random rows: every task has its own."""
    few = begin_growing(model, basis, n_tasks)
    return replace(few, basis=random_like(few.basis, 0))


# What the release's own pictures say, before the first task.


def prior_diagonal(model: nn.Module, basis: Basis, x: Tensor, code: Tensor, rng: torch.Generator) -> Fisher:
    """The diagonal at B = 0."""
    return elastic.diagonal(_bare(model, basis), x, code, rng, N_FISHER)


def prior_direction(model: nn.Module, basis: Basis, x: Tensor, code: Tensor, rng: torch.Generator) -> Fisher:
    """The mean gradient's direction at B = 0."""
    return elastic.mean_direction(_bare(model, basis), x, code, rng, N_FISHER)


def prior_sketch(model: nn.Module, basis: Basis, x: Tensor, code: Tensor, rng: torch.Generator) -> Fisher:
    """Our own at B = 0: a few directions a layer and the diagonal of the rest."""
    return estimate_fisher(_bare(model, basis), x, code, rng, N_FISHER)


def prior_weights(model: nn.Module, basis: Basis, x: Tensor, code: Tensor, rng: torch.Generator) -> Fisher:
    """The diagonal over whole weights."""
    return elastic.weight_diagonal(model, list(basis.a), x, code, rng, N_FISHER)


# After a task.


def after_adapter(task: Task, data: bytes, carried: Carried) -> Carried:
    """The adapter goes on."""
    adapter = adapter_of_bytes(data)
    return replace(carried, start=adapter, n_numbers=adapter.n_numbers)


def after_scaled(task: Task, data: bytes, carried: Carried, gamma: float) -> Carried:
    """γ times the adapter goes on, earlier tasks' share of it included, as a gate rescales a candidate."""
    adapter = rescale(adapter_of_bytes(data), gamma)
    return replace(carried, start=adapter, n_numbers=adapter.n_numbers)


def after_slowed(task: Task, data: bytes, carried: Carried, share: float) -> Carried:
    """Two speeds: what trained is the fast B, and what goes on is the slow one, ``share`` of the way towards it.

    Condition rows go on as they were trained: a new one has no slow part.
    """
    fast, slow = adapter_of_bytes(data), task.incumbent()
    adapter = replace(fast, b={name: slow.b[name].lerp(b, share) for name, b in fast.b.items()})
    return replace(carried, start=adapter, n_numbers=adapter.n_numbers)


def after_full(task: Task, data: bytes, carried: Carried) -> Carried:
    """The network goes on; all of its weights are stored, for all of them moved."""
    model = full_of_bytes(data, task.model, task.basis, task.vocabulary)
    return replace(carried, model=model, n_numbers=sum(p.numel() for p in model.parameters()))


def after_diagonal(task: Task, data: bytes, carried: Carried) -> Carried:
    """The adapter, and online EWC's diagonal with this task's observations counted in."""
    return _with_fisher(task, data, carried, elastic.diagonal, elastic.running)


def after_direction(task: Task, data: bytes, carried: Carried) -> Carried:
    """The adapter, and one more direction: this task's mean gradient."""
    return _with_fisher(task, data, carried, elastic.mean_direction, elastic.stacked)


def after_weights(task: Task, data: bytes, carried: Carried) -> Carried:
    """The adapter with its own A, and the diagonal over ΔW."""
    adapter = adapter_of_bytes(data)
    network = fuse(task.model, task.basis, adapter)
    x, code = task.new.pick()
    found = elastic.weight_diagonal(network, list(adapter.b), x, code, task.rng("after"), N_FISHER)
    fisher = elastic.running(carried.fisher, found)
    return replace(carried, start=adapter, fisher=fisher, n_numbers=adapter.n_numbers + fisher_numbers(fisher))


def after_merged(task: Task, data: bytes, carried: Carried) -> Carried:
    """The adapter goes into the network, its A is remembered, and the next task gets fresh random rows."""
    adapter = adapter_of_bytes(data)
    assert adapter.a is not None
    ones = {name: torch.ones(len(rows)) for name, rows in adapter.a.items()}
    fisher = elastic.stacked(carried.fisher, Fisher(dict(adapter.a), ones, {}, 0))
    return replace(
        carried,
        model=fuse(task.model, task.basis, adapter),
        basis=random_like(task.basis, len(carried.parts) + 1),
        fisher=fisher,
        parts=(*carried.parts, adapter),
        n_numbers=carried.n_numbers + _own_numbers(adapter, carried.parts),
    )


def after_isolated(task: Task, data: bytes, carried: Carried) -> Carried:
    """One more adapter; the release stays what every task starts from."""
    adapter = adapter_of_bytes(data)
    own = _own_numbers(adapter, carried.parts)
    return replace(carried, parts=(*carried.parts, adapter), n_numbers=carried.n_numbers + own)


# The network that is asked.


def network_of_all(carried: Carried, vocabulary: Vocabulary, task: int) -> nn.Module:
    """One network for everything that was learnt; rows of what was not stand at their tables' means."""
    start = carried.start or blank_adapter(carried.model, carried.basis, vocabulary)
    return fuse(carried.model, carried.basis, extend_rows(carried.model, start, vocabulary))


def network_of_task(carried: Carried, vocabulary: Vocabulary, task: int) -> nn.Module:
    """The adapter of the task that is asked about; the release where there is none."""
    if not 0 <= task < len(carried.parts):
        return network_of_all(carried, vocabulary, task)
    return fuse(carried.model, carried.basis, extend_rows(carried.model, carried.parts[task], vocabulary))


# Parts.


def fisher_numbers(fisher: Fisher) -> int:
    """How many numbers a Fisher stores: its directions with one c for each, and its diagonal."""
    n_directions = max((len(c) for c in fisher.c.values()), default=0)
    return sum(t.numel() for part in (fisher.u, fisher.rest) for t in part.values()) + n_directions


def frozen_numbers(model: nn.Module, basis: Basis) -> int:
    """The numbers in B when the whole of A is frozen."""
    return sum(model.get_submodule(name).out_features * len(a) for name, a in basis.a.items())  # type: ignore[misc, operator]


def cut(basis: Basis, rank: int) -> Basis:
    """The first ``rank`` rows of A, as an A of its own; the most used rows come first."""
    if rank == basis.rank:
        return basis
    name = f"{basis.basis_hash}/{rank}"
    return replace(basis, basis_hash=name, a={layer: a[:rank].contiguous() for layer, a in basis.a.items()})


def random_like(basis: Basis, n: int) -> Basis:
    """Random orthonormal rows of the same shapes; another ``n``, other rows."""
    rng = torch.Generator().manual_seed(seed_of(n, "rivals", "random A"))
    a: dict[str, Tensor] = {}
    for layer, rows in basis.a.items():
        drawn = torch.randn(rows.shape[1], len(rows), generator=rng)
        a[layer] = torch.linalg.qr(drawn)[0].T.contiguous()
    return replace(basis, basis_hash=f"random/{n}", a=a)


def _bare(model: nn.Module, basis: Basis) -> Attached:
    vocabulary = cast(Vocabulary, model.vocabulary)
    return attach(model, basis, blank_adapter(model, basis, vocabulary))


def _with_fisher(
    task: Task,
    data: bytes,
    carried: Carried,
    estimate: Callable[..., Fisher],
    together: Callable[[Fisher | None, Fisher], Fisher],
) -> Carried:
    adapter = adapter_of_bytes(data)
    attached = attach(task.model, task.basis, adapter)
    fisher = together(carried.fisher, estimate(attached, *task.new.pick(), task.rng("after"), N_FISHER))
    return replace(carried, start=adapter, fisher=fisher, n_numbers=adapter.n_numbers + fisher_numbers(fisher))


def _own_numbers(adapter: Adapter, earlier: tuple[Adapter, ...]) -> int:
    """An adapter's numbers without the rows that an earlier one of the same method has."""
    known = {key for part in earlier for key in part.rows}
    return adapter.n_numbers - sum(row.numel() for key, row in adapter.rows.items() if key in known)


def _numbers_a_rank(model: nn.Module, basis: Basis) -> int:
    return sum(model.get_submodule(name).out_features + a.shape[1] for name, a in basis.a.items())  # type: ignore[misc, operator]
