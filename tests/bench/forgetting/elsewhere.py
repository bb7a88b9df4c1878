"""A second device for tests: a torch backend that computes on the CPU and refuses to mix its tensors with the CPU's.

So code that a GPU would stop ("expected all tensors to be on the same device") is stopped where there is no GPU, and
what comes out can be compared. It is torch's own seam for backends in Python (``PrivateUse1``). Two things pass here
that a GPU refuses: chance drawn there by a generator of the CPU, and single numbers of both places in one operation.
"""

from functools import cache
from typing import Any, Self

import torch
from torch.utils._pytree import tree_leaves, tree_map

NAME = "elsewhere"
_CPU = torch.device("cpu")


class Far(torch.Tensor):
    """A tensor there; ``near`` holds its numbers."""

    near: torch.Tensor

    @staticmethod
    def __new__(cls, near: torch.Tensor) -> Self:
        shape = {"strides": near.stride(), "storage_offset": near.storage_offset()}
        make = torch.Tensor._make_wrapper_subclass  # type: ignore[attr-defined]
        made: Self = make(cls, near.size(), **shape, dtype=near.dtype, device=f"{NAME}:0")
        made.near = near
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(op, args, kwargs or {})


def _call(op: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation on the CPU; its tensors are all here or all there, but for copies and single numbers."""
    if op is torch.ops.aten.copy_.default:
        _near(args[0]).copy_(_near(args[1]))
        return args[0]
    given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    device = kwargs.get("device")
    if op is torch.ops.aten._to_copy.default:
        there = (device or given[0].device).type == NAME
    else:
        there = True
        if any(t.dim() for t in given if not isinstance(t, Far)):
            raise RuntimeError(f"{op}: expected all tensors to be on the same device")
    kwargs = {**kwargs, **({"device": _CPU} if device is not None else {})}
    out = op(*tree_map(_near, args), **tree_map(_near, kwargs))
    known = {id(t.near): t for t in given if isinstance(t, Far)}
    return tree_map(lambda t: known[id(t)] if id(t) in known else _far(t), out) if there else out


def _near(t: Any) -> Any:
    return t.near if isinstance(t, Far) else t


def _far(t: Any) -> Any:
    return Far(t) if isinstance(t, torch.Tensor) else t


@cache
def opened() -> str:
    """The name of the device, which is there from now on. To be called before a process's first pass backward."""
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend(NAME)
    library = torch.library.Library("_", "IMPL")
    library.fallback(lambda op, *args, **kwargs: _call(op, args, kwargs), "PrivateUse1")
    opened.library = library  # type: ignore[attr-defined]  # else it is taken down with the last reference
    return NAME
