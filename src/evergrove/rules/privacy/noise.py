"""Streaming correlated noise: row t of C⁻¹z from a fresh normal vector and one buffer of its size for each θ.

    y_t = z_t − Σ_j ω_j s_j      s_j ← θ_j s_j + y_t

Equal to the dense C⁻¹ (tested), at O(buffers) memory whatever the number of rounds. The state is a secret: who has it
can take the correlated part of later noise off. Chance is an argument: cryptographic in production, seeded in tests.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from evergrove.core.errors import CorruptState, UsageError
from evergrove.rules.privacy.blt import Vector
from evergrove.rules.privacy.plan import NoisePlan


class NoiseState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``plan`` is the digest of the plan, ``round`` the next round, from 0.

    ``buffers``: n_buffers × width float64, little endian, in units of one standard deviation.
    """

    plan: str
    round: int
    buffers: bytes

    def __repr__(self) -> str:
        """Without the secret: a state may end up in a message or a traceback."""
        return f"NoiseState(plan={self.plan[:12]}…, round={self.round}, {len(self.buffers)} secret bytes)"


def start(plan: NoisePlan) -> NoiseState:
    """The state before the first round."""
    return NoiseState(plan.digest, 0, bytes(8 * plan.blt.n_buffers * plan.width))


def advance(plan: NoisePlan, state: NoiseState, fresh: NDArray[np.float64]) -> tuple[NoiseState, Vector]:
    """The next state, and this round's noise in units of one standard deviation.

    ``fresh`` is ``plan.width`` independent standard normal numbers, float64, never used before. Raises ``UsageError``
    for another vector, ``CorruptState`` for a state that is not of this plan or was damaged.
    """
    if fresh.shape != (plan.width,) or fresh.dtype != np.float64 or not np.isfinite(fresh).all():
        raise UsageError(f"fresh noise of shape {fresh.shape}, {fresh.dtype}; {plan.width} finite float64 are needed")
    buffers = _buffers(plan, state)
    noise = fresh - np.array(plan.blt.omega) @ buffers
    after = np.array(plan.blt.theta)[:, None] * buffers + noise
    return NoiseState(state.plan, state.round + 1, after.astype("<f8").tobytes()), noise


def normals(data: bytes) -> Vector:
    """As many independent standard normal numbers as ``data`` has groups of eight bytes, float64 (Box & Muller 1958).

    ``data`` is uniform chance: of the operating system in production, of a named stream in a simulation. Pairs of
    numbers come from pairs of 64-bit words, and reach 9.4 standard deviations. The low bits of a float are no secret
    kept: the noise is rounded to a grid before it is added (``rounds``). Raises ``UsageError`` for no whole pairs.
    """
    if len(data) % 16:
        raise UsageError(f"{len(data)} bytes of chance; normal numbers are made in pairs from 16 bytes each")
    words = np.frombuffer(data, "<u8").astype(np.float64).reshape(2, -1)
    length = np.sqrt(-2 * np.log((words[0] + 1) / 2.0**64))
    angle = 2 * np.pi * (words[1] / 2.0**64)
    return np.concatenate([length * np.cos(angle), length * np.sin(angle)])


def _buffers(plan: NoisePlan, state: NoiseState) -> NDArray[np.float64]:
    if state.plan != plan.digest:
        raise CorruptState(
            f"the noise state is of plan {state.plan[:12]}…, not of {plan.digest[:12]}… (generation {plan.generation} "
            f"at '{plan.fog}'): a noise stream goes on only under the plan that it began with"
        )
    n_bytes = 8 * plan.blt.n_buffers * plan.width
    if state.round < 0 or len(state.buffers) != n_bytes:
        raise CorruptState(
            f"the noise state has {len(state.buffers)} bytes of buffers, {n_bytes} belong to it: restore it together "
            "with its ledger, or begin a new generation"
        )
    buffers = np.frombuffer(state.buffers, "<f8").reshape(plan.blt.n_buffers, plan.width).astype(np.float64)
    if not np.isfinite(buffers).all():
        raise CorruptState("the noise state holds numbers that are not finite: begin a new generation")
    return buffers
