"""Where a network computes: the device that its weights are on, and how work gets there and back.

A network goes elsewhere by ``module.to(device)``. What is drawn, stored or sent (pictures, chance, adapters, Fishers)
stays on the CPU, so that learning takes the same rows and noise wherever the network is. The trainer and what it
prepares, the rivals, ``flow.sample`` and the oracle bring a network its work; what only devices and fogs do (the gate's
measurements, assists, learning together, reconciling) expects it on the CPU.
"""

import platform

import torch
from torch import Tensor, nn

from evergrove.core.errors import MissingDependency, UsageError

CPU = torch.device("cpu")


def place_of(network: object, otherwise: torch.device = CPU) -> torch.device:
    """The device of a network's weights; ``otherwise`` for a function, and for a network that has none."""
    first = next(network.parameters(), None) if isinstance(network, nn.Module) else None
    return otherwise if first is None else first.device


def to_cpu(t: Tensor) -> Tensor:
    """A copy on the CPU without its gradient."""
    return t.detach().to(CPU, copy=True)


def described(device: str) -> str:
    """What computes there, for a line of results: the name of a CUDA device, else its type, a CPU's with its kind."""
    at = torch.device(device)
    if at.type == "cuda":
        return torch.cuda.get_device_name(at)
    return f"cpu {platform.machine()}" if at.type == "cpu" else at.type


def check_device(name: str) -> str:
    """The name, where torch can compute there. Raises ``UsageError`` for a name of none, else ``MissingDependency``."""
    try:
        device = torch.device(name)
    except RuntimeError as fault:
        raise UsageError(f"'{name}' names no device; known are cpu, cuda, cuda:1, mps and their like") from fault
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as fault:
        raise MissingDependency(
            f"torch {torch.__version__} cannot compute on '{name}' here; install its build for that device, or use cpu"
        ) from fault
    return name
