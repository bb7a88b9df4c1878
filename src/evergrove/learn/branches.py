"""A branch for each condition that stands alone: what is learnt of it moves nothing else, by construction.

Where the base knows one factor (digits, signs), a new value of it has nothing to combine with. So a job trains a B of
its own for each value that it shows, on the generation's frozen A, and that value's row; every other value, and the
null condition, keeps the network that it had, bit for bit. No teacher and no Fisher is needed, and of the old only what
is of the same values is replayed. Raced beside its rivals in docs/adr/0023 (``evergrove`` and ``branches``), built in
0028.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from evergrove.core.conditions import Vocabulary
from evergrove.core.errors import UsageError
from evergrove.core.sections import OURS, SHARED
from evergrove.learn.adapter import (
    Adapter,
    Basis,
    blank_adapter,
    check_fit,
    extend_rows,
    fuse,
    replace_module,
    row_key,
    share,
)
from evergrove.learn.adapter_file import adapter_bytes
from evergrove.learn.layers import start_row
from evergrove.learn.objective import Batch
from evergrove.learn.place import to_cpu
from evergrove.learn.routing import OpenedTable, Routed, RoutedLinear, numbers_of, stacked
from evergrove.learn.strategies import (
    Learner,
    Memory,
    Samples,
    Shares,
    Strategy,
    Task,
    draw_rows,
    remember_nothing,
    start_of,
)

RANK = 4
"""Of a branch, at most; the first rows of A are the most used ones."""
BRANCHES_MAX = 64
"""Of an adapter: a device's stays bounded, and says so when it is full."""


def stands_alone(strategy: str, vocabulary: Vocabulary, incumbent: Adapter | None) -> bool:
    """Whether what is learnt next gets branches: on a base of one factor, by our own strategy, or because the incumbent
    has branches already, beneath which nothing shared may move; never where one B for all is asked for."""
    branched = incumbent is not None and bool(incumbent.branches)
    return len(vocabulary.factors) == 1 and strategy != SHARED and (strategy == OURS or branched)


def lesson_of(new: Samples, known: Sequence[Samples]) -> tuple[Samples, Samples]:
    """``new`` without the pictures that name no value, which no branch could take, and what is replayed beside it:
    those of ``known`` that are of the same values. Raises ``UsageError`` where nothing is left to learn."""
    rows = new.codes[:, 0] > 0
    if not rows.any():
        raise UsageError("none of the observations to learn says what it shows; observe them with a condition")
    new = Samples(new.images[rows], new.codes[rows])
    images, codes = (np.concatenate(part) for part in zip(*((k.images, k.codes) for k in known), strict=True))
    same = np.isin(codes[:, 0], new.codes[:, 0])
    return new, Samples(images[same], codes[same])


def init_branches(task: Task) -> Learner:
    """Trains the branches of the values that ``task.new`` is of, and the rows of those that the base has none for.

    A branch that is there already goes on. Raises ``UsageError`` where an adapter would hold more than it may.
    """
    start = _incumbent(task)
    check_fit(task.model, task.basis, start)
    keys = [f"0:{n}" for n in sorted({int(n) for n in task.new.codes[:, 0]} - {0})]
    if len({*start.branches, *keys}) > BRANCHES_MAX:
        raise UsageError(
            f"this device has a B of its own for {len(start.branches)} conditions and may have {BRANCHES_MAX}; forget"
            " one that is not needed any more, then learn again"
        )
    # 1. What serves now, fused, and beside it the branches that are trained.
    module = share(fuse(task.model, task.basis, replace(start, branches={})))
    parameters: dict[str, nn.Parameter] = {}
    for name in task.basis.a:
        layer = module.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        b = stacked([_first_b(task.basis, start, key, name, layer.out_features) for key in keys]).to(layer.weight)
        a = task.basis.a[name][: b.shape[2]].to(layer.weight)
        routed = RoutedLinear(layer, a, b, task.basis.scale, train=True)
        replace_module(module, name, routed)
        parameters[f"{name}.branches"] = routed.b
    # 2. Their rows, where the base has none.
    rows = {key: start_of(task, key, start.rows[key]) for key in keys if key in start.rows}
    if rows:
        base, wider = task.model.get_submodule("tables.0"), module.get_submodule("tables.0")
        assert isinstance(base, nn.Embedding)
        assert isinstance(wider, nn.Embedding)
        values = [row_key(key)[1] for key in rows]
        first = torch.stack(list(rows.values())).to(base.weight)
        table = OpenedTable(wider.weight, start_row(base.weight.detach()), values, first)
        replace_module(module, "tables.0", table)
        parameters["rows.0"] = table.rows
    numbers = numbers_of({row_key(key)[1]: k for k, key in enumerate(keys)}, start.vocabulary.sizes[0])

    def candidate() -> bytes:
        trained = {name: to_cpu(parameter) for name, parameter in parameters.items()}
        own = {key: {name: trained[f"{name}.branches"][k] for name in task.basis.a} for k, key in enumerate(keys)}
        new_rows = dict(zip(rows, trained["rows.0"], strict=True)) if rows else {}
        return adapter_bytes(replace(start, branches={**start.branches, **own}, rows={**start.rows, **new_rows}))

    return Learner(Routed(module, 0, numbers), parameters, candidate)


def draw_named(task: Task, memory: Memory, strategy: Strategy, step: int) -> Batch:
    """The rows of a step, none of which has lost its condition: the null condition has no branch, and stays."""
    return draw_rows(replace(task, recipe=replace(task.recipe, label_drop=0.0)), memory, strategy, step)


def _incumbent(task: Task) -> Adapter:
    """What serves now; where that is the base alone, a shared B of the least rank, which stays zero."""
    if task.start is None:
        return blank_adapter(task.model, task.basis, task.vocabulary, rank=1)
    return extend_rows(task.model, task.start, task.vocabulary)


def _first_b(basis: Basis, start: Adapter, key: str, name: str, n_out: int) -> torch.Tensor:
    """Where a branch's B (out, r) begins: as it is, or at zero."""
    rank = min(RANK, len(basis.a[name]))
    if key not in start.branches:
        return torch.zeros(n_out, rank)
    b = start.branches[key][name]
    return functional.pad(b, (0, max(0, rank - b.shape[1])))


BRANCHES = Strategy(
    "evergrove-branches", init_branches, remember_nothing, draw_named, lr=4e-2, shares=Shares(replay=0.25)
)
