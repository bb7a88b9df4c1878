"""Where a network computes: the device that its weights are on, and how work gets there and back.

All that is drawn, stored or sent (pictures, chance, adapters, Fishers) is on the CPU, so that a run takes the same rows
and noise wherever its network is. A network goes elsewhere by ``module.to(device)``, and whoever calls it brings it the
work.
"""

import platform

import torch
from torch import Tensor, nn

from evergrove.core.errors import MissingDependency, UsageError

CPU = torch.device("cpu")


def place_of(network: object) -> torch.device:
    """The device of a network's weights; the CPU for a function, and for a network that has none."""
    if not isinstance(network, nn.Module):
        return CPU
    first = next(network.parameters(), None)
    return CPU if first is None else first.device


def to_cpu(t: Tensor) -> Tensor:
    """A copy on the CPU without its gradient."""
    return t.detach().to(CPU, copy=True)


def described(device: str) -> str:
    """What computes there, for a line of results: the name of a CUDA device, else its type, a CPU's with its kind."""
    at = torch.device(device)
    if at.type == "cuda":
        return torch.cuda.get_device_name(at)
    return f"cpu {platform.machine()}" if at == CPU else at.type


def check_device(name: str) -> str:
    """The name, where torch can compute there. Raises ``UsageError`` for a name of none, else ``MissingDependency``."""
    try:
        device = torch.device(name)
    except RuntimeError as fault:
        raise UsageError(f"'{name}' names no device; known are cpu, cuda, cuda:1, mps and their like") from fault
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as fault:
        raise MissingDependency(
            f"torch {torch.__version__} cannot compute on '{name}' here; install its build for that device, or use cpu"
        ) from fault
    return name
