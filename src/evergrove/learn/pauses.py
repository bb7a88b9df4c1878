"""Places to pause inside a pass of the network: after every block forward, and before every block back.

A whole pass of one picture takes longer than the gap between two frames; one block does not. Nothing is computed
differently: the same operations run in the same order, with a call of ``ask`` between them, which may wait.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from evergrove.learn.dit import Block


@contextmanager
def asking(ask: Callable[[], None], kinds: tuple[type[nn.Module], ...] = (Block,)) -> Iterator[None]:
    """Within this context every module of these kinds, in any network of the process, calls ``ask`` when it is done."""

    def after(module: nn.Module, given: Any, made: Any) -> None:
        if isinstance(module, kinds):
            if isinstance(made, Tensor) and made.requires_grad:
                made.register_hook(before_back)  # type: ignore[no-untyped-call]
            ask()

    def before_back(gradient: Tensor) -> None:
        ask()

    handle = register_module_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()
