"""Branches: several Bs side by side on one frozen A, of which each row of a batch takes the one of its condition.

A network, A, and for some values of one factor a B of its own come in; out comes a network that is called as the first
one is. A row whose value has no branch runs through the very same operations as without any, and so comes out
bit-identical, in mixed batches too: y = x·Wᵀ + bias for all rows at once, then s·(x·Aᵀ)·B_kᵀ is added to the rows of
branch k. Nothing is fused a second time: a branch costs its own numbers and two thin products a layer.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from evergrove.core.conditions import Vocabulary
from evergrove.learn.flow import estimates
from evergrove.learn.place import place_of

NONE = -1
"""In place of a branch's number: the row has none."""


class Taken(NamedTuple):
    """Which ``rows`` (n,) of a batch take a branch (None: all), and which one: a number each (n,), or one for all."""

    rows: Tensor | None
    branch: Tensor | int


_TAKEN: ContextVar[Taken | None] = ContextVar("the branches of the rows of this call", default=None)
"""By context, since several threads may use one network at a time."""


class RoutedLinear(nn.Module):
    """y = x·Wᵀ + bias, plus s·(x·Aᵀ)·B_kᵀ where a row takes branch k. W, bias, A are frozen; ``b`` is (K, out, r)."""

    def __init__(self, base: nn.Linear, a: Tensor, b: Tensor, scale: float, train: bool = False) -> None:
        super().__init__()
        self.weight, self.bias, self.scale = base.weight, base.bias, scale
        self.register_buffer("a", a)
        self.b = nn.Parameter(b, requires_grad=train)

    def forward(self, x: Tensor) -> Tensor:
        """(N, …, in) → (N, …, out)."""
        y = functional.linear(x, self.weight, self.bias)
        taken = _TAKEN.get()
        if taken is None:
            return y
        rows, branch = taken
        low = functional.linear(x if rows is None else x[rows], cast(Tensor, self.a))
        if isinstance(branch, int):
            flat = torch.addmm(y.flatten(0, -2), low.flatten(0, -2), self.b[branch].T, alpha=self.scale)
            return flat.view_as(y)
        by_row = torch.bmm(low.reshape(len(low), -1, low.shape[-1]), self.b[branch].transpose(1, 2))
        high = by_row.reshape(*low.shape[:-1], -1)
        if rows is None:
            return torch.add(y, high, alpha=self.scale)
        return y.index_add(0, rows, high, alpha=self.scale)


class OpenedTable(nn.Module):
    """An embedding table of which the rows of some ``values`` are trained, as start row + ``rows`` (k, width)."""

    def __init__(self, weight: Tensor, start: Tensor, values: Sequence[int], rows: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach())
        self.register_buffer("start", start)
        self.register_buffer("values", torch.tensor(values, dtype=torch.long).to(weight.device))
        self.rows = nn.Parameter(rows.clone())

    def forward(self, index: Tensor) -> Tensor:
        """int64 (N,) → (N, width)."""
        weight, start, values = (cast(Tensor, one) for one in (self.weight, self.start, self.values))
        return functional.embedding(index, weight.index_copy(0, values, start + self.rows))


class Routed(nn.Module):
    """A network whose adapted layers are ``RoutedLinear``: x̂ = routed(x_t, t, condition), each row by its branch.

    ``numbers[n]`` is the branch of value n of factor ``factor``, ``NONE`` where it has none.
    """

    def __init__(self, network: nn.Module, factor: int, numbers: Sequence[int]) -> None:
        super().__init__()
        self.network, self.factor = network, factor
        self.register_buffer("numbers", torch.tensor(numbers, dtype=torch.long).to(place_of(network)))

    @property
    def tables(self) -> nn.ModuleList:
        """The network's condition tables."""
        return cast(nn.ModuleList, self.network.tables)

    @property
    def vocabulary(self) -> Vocabulary:
        """What the network understands."""
        return cast(Vocabulary, self.network.vocabulary)

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """x̂ (N, C, H, W)."""
        with _taking(self._branches(condition)):
            return cast(Tensor, self.network(x_t, t, condition))

    def plan(self, times: Sequence[float], condition: Tensor) -> list[Callable[[Tensor], Tensor]]:
        """For each time x̂ = f(x_t), as ``DiT.plan``, which works out all times in one pass, one after the other."""
        branches = self._branches(condition)
        with _taking(branches.repeat(len(times))):
            steps = estimates(self.network, times, condition)
        return [partial(_step, step, branches) for step in steps]

    def _branches(self, condition: Tensor) -> Tensor:
        return cast(Tensor, self.numbers)[condition[:, self.factor]]


def _step(step: Callable[[Tensor], Tensor], branches: Tensor, x_t: Tensor) -> Tensor:
    with _taking(branches):
        return step(x_t)


@contextmanager
def _taking(branches: Tensor) -> Iterator[None]:
    """Within this context row i of every batch takes branch ``branches[i]``."""
    token = _TAKEN.set(taken(branches))
    try:
        yield
    finally:
        _TAKEN.reset(token)


def taken(branches: Tensor) -> Taken | None:
    """Which rows take which of the ``branches`` (N,); None where no row takes any."""
    hit = branches >= 0
    if not hit.any():
        return None
    first = int(branches[0])
    if (branches == first).all():
        return Taken(None, first)
    if hit.all():
        return Taken(None, branches)
    rows = hit.nonzero().squeeze(1)
    return Taken(rows, branches[rows])


def stacked(parts: Sequence[Tensor]) -> Tensor:
    """Bs (out, r_k) of several branches as one (K, out, r), the smaller ranks padded with zeros."""
    rank = max(part.shape[1] for part in parts)
    return torch.stack([functional.pad(part, (0, rank - part.shape[1])) for part in parts])


def numbers_of(values: Mapping[int, int], size: int) -> list[int]:
    """``Routed``'s numbers of a factor with ``size`` values, from value → branch."""
    return [values.get(n, NONE) for n in range(size + 1)]
