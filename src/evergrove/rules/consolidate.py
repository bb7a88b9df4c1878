"""What a cloud makes of the fleet's mean update: a server optimiser's step, a merge, and personal B's carried over.

A is frozen, so the mean of B is the mean of ΔW, exactly (DESIGN §4). Server optimisers are values, pairs of pure
functions (init, apply) as in optax and fedjax: Reddi et al. 2021 ('Adaptive federated optimization', Algorithm 2).
Vectors are flat float64; the step is B ← B + apply(Δ), Δ the mean of what the devices learnt (``aggregate.combine``).
"""

from collections.abc import Callable
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from evergrove.core.errors import CorruptState, InvalidInput, UsageError

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]


class ServerState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a server optimiser remembers: steps made, and m and v as float64 little endian (empty where not used)."""

    steps: int = 0
    m: bytes = b""
    v: bytes = b""


class ServerOptimiser(NamedTuple):
    """``init(size)`` → state; ``apply(state, delta)`` → (state, step), the step to be added to the released B.

    ``apply`` raises ``InvalidInput`` for a Δ that is not finite, ``CorruptState`` for a state of another size.
    ``linear``: its steps add up noise as they add up updates, so that correlated noise goes on cancelling.
    """

    name: str
    init: Callable[[int], ServerState]
    apply: Callable[[ServerState, Vector], tuple[ServerState, Vector]]
    linear: bool


def fed_avg(rate: float = 1.0) -> ServerOptimiser:
    """The mean update times ``rate``; 1 is plain federated averaging (McMahan et al. 2017)."""
    _check_rate(rate)

    def apply(state: ServerState, delta: Vector) -> tuple[ServerState, Vector]:
        _check_delta(delta)
        return ServerState(state.steps + 1), rate * delta

    return ServerOptimiser("FedAvg", lambda size: ServerState(), apply, linear=True)


def fed_avg_m(rate: float = 1.0, momentum: float = 0.9) -> ServerOptimiser:
    """Server momentum (Hsu et al. 2019): m ← momentum·m + Δ, step = rate·m."""
    _check_rate(rate)
    _check_decay(momentum)

    def init(size: int) -> ServerState:
        return ServerState(m=_bytes(np.zeros(size)))

    def apply(state: ServerState, delta: Vector) -> tuple[ServerState, Vector]:
        _check_delta(delta)
        m = momentum * _vector(state.m, delta.size) + delta
        return ServerState(state.steps + 1, _bytes(m)), rate * m

    return ServerOptimiser("FedAvgM", init, apply, linear=True)


def fed_adam(
    rate: float = 1e-2, momentum: float = 0.9, second: float = 0.99, adaptivity: float = 1e-3
) -> ServerOptimiser:
    """FedAdam: m ← β₁m + (1−β₁)Δ, v ← β₂v + (1−β₂)Δ², step = rate·m/(√v + τ), without bias correction; v₀ = τ².

    ``adaptivity`` is τ. With DP noise v is mostly the noise's variance, and dividing by it spoils the cancellation
    over rounds: prefer FedAvgM there.
    """
    _check_rate(rate)
    _check_rate(adaptivity)
    for decay in (momentum, second):
        _check_decay(decay)

    def init(size: int) -> ServerState:
        return ServerState(m=_bytes(np.zeros(size)), v=_bytes(np.full(size, adaptivity**2)))

    def apply(state: ServerState, delta: Vector) -> tuple[ServerState, Vector]:
        _check_delta(delta)
        m = momentum * _vector(state.m, delta.size) + (1 - momentum) * delta
        v = second * _vector(state.v, delta.size) + (1 - second) * delta**2
        return ServerState(state.steps + 1, _bytes(m), _bytes(v)), rate * m / (np.sqrt(v) + adaptivity)

    return ServerOptimiser("FedAdam", init, apply, linear=False)


def fisher_merge(step: Vector, fisher: Vector, precision: float = 1.0) -> Vector:
    """A step that spares what the released model relies on: each coordinate times π/(F/F̄ + π), float64.

    The mean of two Gaussians per coordinate (Matena & Raffel 2022): the release with precision F, its own diagonal
    Fisher in units of the mean F̄, and the fleet's update with the same precision π = ``precision`` everywhere, since a
    Fisher of the devices' would be one more thing to learn about them. π → ∞ is the plain step; where F = 0 it
    is as well. Raises ``InvalidInput`` for a Fisher that is negative or not finite.
    """
    if fisher.shape != step.shape or not np.isfinite(fisher).all() or fisher.min(initial=0.0) < 0:
        raise InvalidInput(
            f"a Fisher of shape {fisher.shape} for a step of {step.shape}: as many numbers, none negative"
        )
    if not precision > 0:
        raise UsageError(f"a precision of {precision}; say a positive number")
    mean = float(fisher.mean()) if fisher.size else 0.0
    return step.copy() if mean == 0 else step * (precision / (fisher / mean + precision))


class Carried(NamedTuple):
    """A personal B in the words of a new A, and the part of ‖B·A‖ that the new A cannot say (0-1)."""

    B: Matrix
    lost: float


def carry_over(B: Matrix, A: Matrix, new_A: Matrix) -> Carried:
    """argmin over B' of ‖B'·A' − B·A‖ (Frobenius), for one layer: ``B`` out × r, ``A`` r × in, ``new_A`` r' × in.

    B' = B·A·A'⁺; the least norm where A' is rank deficient. With orthonormal rows that is B·A·A'ᵀ. How much of what was
    learnt survives is for the gate to say; ``lost`` tells beforehand where retraining is the better choice. Raises
    ``InvalidInput`` for shapes that do not fit or numbers that are not finite.
    """
    if B.ndim != 2 or A.ndim != 2 or new_A.ndim != 2 or B.shape[1] != A.shape[0] or A.shape[1] != new_A.shape[1]:
        raise InvalidInput(f"B {B.shape}, A {A.shape}, new A {new_A.shape}: (out, r), (r, in) and (r', in) are needed")
    if not all(np.isfinite(matrix).all() for matrix in (B, A, new_A)):
        raise InvalidInput("an adapter with numbers that are not finite cannot be carried over")
    # In the row space alone: rank r and r', never out × in. Qᵀ spans both A and A'.
    _, R = np.linalg.qr(np.concatenate([A, new_A]).T)
    old, new = R.T[: len(A)], R.T[len(A) :]
    target = B @ old
    carried = np.linalg.lstsq(new.T, target.T, rcond=None)[0].T
    whole = float(np.linalg.norm(target))
    lost = float(np.linalg.norm(carried @ new - target)) / whole if whole else 0.0
    return Carried(carried, min(lost, 1.0))


def _bytes(vector: Vector) -> bytes:
    return vector.astype("<f8").tobytes()


def _vector(data: bytes, size: int) -> Vector:
    if len(data) != 8 * size:
        raise CorruptState(
            f"the server optimiser remembers {len(data) // 8} numbers, the update has {size}: start anew"
        )
    return np.frombuffer(data, "<f8").astype(np.float64)


def _check_delta(delta: Vector) -> None:
    if delta.ndim != 1 or not np.isfinite(delta).all():
        raise InvalidInput(f"a mean update of shape {delta.shape} that is not flat and finite: consolidate nothing")


def _check_rate(rate: float) -> None:
    if not 0 < rate < float("inf"):
        raise UsageError(f"a rate of {rate}; say a positive number")


def _check_decay(decay: float) -> None:
    if not 0 <= decay < 1:
        raise UsageError(f"a decay of {decay}; say one from 0 to below 1")
