"""One fleet's whole generation, round by round, by the production rules; and training on everyone's data beside it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evergrove.bench.federated.crowd import Crowd, Local, Pictures, on
from evergrove.bench.federated.fleet import Fleet
from evergrove.bench.federated.world import Part, World, layout_of, narrowed
from evergrove.core.rng import seed_of
from evergrove.core.rng import stream as named
from evergrove.rules import aggregate, consolidate
from evergrove.rules.params import Layout, decode, encode
from evergrove.rules.privacy import accounting, ledger, noise, optimise, participation, rounds
from evergrove.rules.privacy.blt import Blt
from evergrove.rules.privacy.clipping import clip_update
from evergrove.rules.privacy.ledger import Budget, Ledger
from evergrove.rules.privacy.plan import NoisePlan

DELTA = 1e-6
FOG = "fog"
Updates = NDArray[np.float32]
Attack = Callable[[Updates, NDArray[np.intp]], Updates]
"""Changes the updates (K, d) that a cohort's devices ``who`` (K,) send."""
NORM_MOST = 100.0
"""In clips: the fog refuses what is longer (the defaults of ``core.sections.Gathering``)."""


@dataclass(frozen=True)
class Spec:
    """How a generation is trained. ``epsilon`` None: no noise, ε = ∞.

    ``separation`` b: the fleet takes part in turns, a b-th of it a round, so K = devices/b and k = rounds/b. ``rate``
    and ``momentum`` are the server's (FedAvgM); ``average`` is the last part of the rounds whose releases are averaged
    into the final one; ``bits`` 8 rounds every update to int8 by chance; ``cool``: the devices' rate falls linearly
    over the second half of the rounds. ``rehearse`` and ``rehearse_last`` are the cloud's own steps on public pictures,
    after each round and at the end, which cost no privacy. ``clips`` False sums what comes, for the attacks alone.
    ``share``: devices learn from that share of what the release has moved, so that they do not spend their updates on
    undoing noise, and agree; what is released stays the whole.
    """

    part: Part = field(default_factory=Part)
    local: Local = field(default_factory=Local)
    rounds: int = 40
    separation: int = 1
    clip: float = 10.0
    rate: float = 1.0
    momentum: float = 0.0
    average: float = 0.0
    epsilon: float | None = None
    bits: int = 16
    cool: bool = True
    clips: bool = True
    rehearse: int = 0
    rehearse_last: int = 0
    rehearse_lr: float = 2e-3
    share: float = 1.0


@dataclass(frozen=True)
class Result:
    """A final release and what it took. ``norm`` is the median norm of an update as learnt (0 where no update had one),
    ``clipped`` the share above the clip, ``noise_norm`` the norm of all noise in the final release, in the units of B
    (expected; FedAvgM and averaging not counted), ``moved`` the norm of the release itself. ``epsilon`` is read off the
    ledger, ``refused`` counts updates of enormous norm."""

    crowd: Crowd
    vector: Tensor
    n_numbers: int
    n_bytes: int
    cohort: int
    participations: int
    norm: float
    clipped: float
    noise_norm: float
    moved: float
    epsilon: float | None
    multiplier: float | None
    seconds: float
    refused: int = 0


def federate(
    world: World,
    fleet: Fleet,
    spec: Spec,
    seed: int,
    attack: Attack = lambda updates, who: updates,
    told: Callable[[int, Crowd, Tensor], None] = lambda done, crowd, vector: None,
) -> Result:
    """A generation of ``spec.rounds`` rounds over the fleet."""
    started = time.monotonic()
    # 1. The layout, the public plan of noise, and its books.
    basis = narrowed(world, spec.part)
    layout = layout_of(world, basis, fleet.vocabulary)
    crowd, d = Crowd(world, basis, layout), layout.n_numbers
    plan = plan_of(spec, len(fleet), d)
    books = ledger.open_stream(Ledger(Budget(DELTA, spec.epsilon, spec.epsilon)), plan)
    state = noise.start(plan)
    turns = named(seed, "federated", "turns").permutation(len(fleet)) % spec.separation
    records = [participation.Record() for _ in range(len(fleet))]
    # 2. The first release, and the server's optimiser.
    rng = torch.Generator(world.device).manual_seed(seed_of(seed, "federated", "local"))
    chance = torch.Generator().manual_seed(seed_of(seed, "federated", "rows"))
    vector = crowd.start(chance)
    first = vector.clone()
    server = consolidate.fed_avg_m(spec.rate, spec.momentum) if spec.momentum else consolidate.fed_avg(spec.rate)
    memory = server.init(d)
    pictures = Pictures(*on(world.device, fleet.images, fleet.codes))
    n_refused, norms, late = 0, [], torch.zeros(d, dtype=torch.float64)
    n_late = max(1, round(spec.average * spec.rounds))
    # 3. Round by round.
    for r in range(spec.rounds):
        who = np.flatnonzero(turns == r % spec.separation)
        for device in who:
            records[device] = participation.taken(records[device], plan.limits, r)
        cool = min(1.0, (spec.rounds - r) / (spec.rounds / 2)) if spec.cool else 1.0
        start = vector if spec.share == 1.0 else first + spec.share * (vector - first)
        learnt = crowd.learn(start, pictures.of(torch.from_numpy(who).to(world.device)), spec.local, rng, cool)
        updates = attack(learnt.cpu().numpy(), who)
        length = np.linalg.norm(updates.astype(np.float64), axis=1)
        norms.append(length)
        if spec.clips:
            updates = updates[length <= NORM_MOST * spec.clip]
            n_refused += len(length) - len(updates)
        sent = [
            arrived(update, layout, spec, named(seed, "federated", "round", r, i)) for i, update in enumerate(updates)
        ]
        if spec.clips:
            cohort = aggregate.total(sent, d, plan.clip)
            fresh = None if spec.epsilon is None else _fresh(seed, r, d)
            closed = rounds.close(plan, cohort, state, books, fresh)
            state, books = closed.state, closed.ledger
            mean = aggregate.combine([rounds.handed_up(plan, r, closed.values)]).values
        else:
            mean = np.mean(np.stack(sent).astype(np.float64), axis=0)
        memory, step = server.apply(memory, mean)
        vector = vector + torch.from_numpy(step).to(vector)
        vector = crowd.rehearse(vector, spec.rehearse, spec.rehearse_lr, rng)
        if r >= spec.rounds - n_late:
            late += vector.double().cpu() / n_late
        told(r + 1, crowd, vector)
    # 4. The last releases' mean.
    final = crowd.rehearse(late.to(vector), spec.rehearse_last, spec.rehearse_lr, rng)
    every = np.concatenate(norms)
    return Result(
        crowd,
        final,
        d,
        bytes_of(layout, spec),
        plan.cohort,
        plan.most,
        float(np.median(every[np.isfinite(every)])) if np.isfinite(every).any() else 0.0,
        float((every > spec.clip).mean()),
        _noise_norm(plan, spec),
        float((final - first).norm()),
        None if spec.epsilon is None else books.epsilon_generation(plan.generation),
        plan.multiplier,
        time.monotonic() - started,
        n_refused,
    )


def centralise(world: World, fleet: Fleet, spec: Spec, seed: int, batch_max: int = 256) -> Result:
    """Training on the union at as many samples as ``federate`` sees with this spec, by the device's own recipe.

    A step takes a round's samples of one local step, at most ``batch_max``: never fewer steps than the fleet's rounds
    times local steps.
    """
    started = time.monotonic()
    basis = narrowed(world, spec.part)
    layout = layout_of(world, basis, fleet.vocabulary)
    crowd = Crowd(world, basis, layout)
    cohort = -(-len(fleet) // spec.separation)
    samples = spec.rounds * spec.local.steps * spec.local.batch * cohort
    batch = min(batch_max, spec.local.batch * cohort)
    local = Local(steps=round(samples / batch), batch=batch, lr=spec.local.lr)
    rng = torch.Generator(world.device).manual_seed(seed_of(seed, "federated", "central"))
    vector = crowd.start(torch.Generator().manual_seed(seed_of(seed, "federated", "rows")))
    images, codes = (
        fleet.images.reshape(1, -1, *fleet.images.shape[2:]),
        fleet.codes.reshape(1, -1, fleet.codes.shape[2]),
    )
    final = crowd.train(vector, Pictures(*on(world.device, images, codes)), local, rng)
    d = layout.n_numbers
    moved = float((final - vector).norm())
    return Result(crowd, final, d, 0, cohort, 0, 0.0, 0.0, 0.0, moved, None, None, time.monotonic() - started)


def plan_of(spec: Spec, n_devices: int, size: int) -> NoisePlan:
    """The public constants of the fog's noise stream."""
    most = -(-spec.rounds // spec.separation)
    multiplier = None if spec.epsilon is None else accounting.calibrate(spec.epsilon, DELTA)
    blt = Blt() if spec.epsilon is None else best_blt(spec.rounds, spec.separation, most)
    cohort = -(-n_devices // spec.separation)
    return NoisePlan(1, FOG, spec.rounds, spec.separation, most, cohort, size, spec.clip, multiplier, blt)


@lru_cache(maxsize=16)
def best_blt(n: int, separation: int, participations: int) -> Blt:
    """The least largest loss with two buffers."""
    return optimise.optimise(n, separation, participations)


def arrived(update: Updates, layout: Layout, spec: Spec, rng: np.random.Generator) -> Updates:
    """An update as the fog decodes it: clipped, then float16, or int8 with one scale a tensor."""
    if not spec.clips:
        return update
    clipped = clip_update(update, spec.clip)
    if spec.bits == 16:
        return decode(encode(clipped, layout), layout)
    out, at = np.empty_like(clipped), 0
    for slot in layout.slots:
        part = clipped[at : at + slot.size]
        scale = float(np.abs(part).max(initial=0.0)) / 127 or 1.0
        # Rounded by chance, so that the mean over devices is right on average (Alistarh et al. 2017, QSGD).
        out[at : at + slot.size] = np.floor(part / scale + rng.random(slot.size)).clip(-127, 127) * scale
        at += slot.size
    return out


def bytes_of(layout: Layout, spec: Spec) -> int:
    """What a device sends in one round."""
    if spec.bits == 16:
        return layout.n_bytes("float16")
    header = layout.n_bytes("float16") - 2 * layout.n_numbers
    return header + layout.n_numbers + 4 * len(layout.slots)


def _fresh(seed: int, r: int, size: int) -> NDArray[np.float64]:
    data = named(seed, "federated", "fog", r).bytes(16 * (-(-size // 2)))
    return noise.normals(data)[:size]


def _noise_norm(plan: NoisePlan, spec: Spec) -> float:
    if plan.multiplier is None:
        return 0.0
    sums = np.cumsum(plan.blt.inverse_coefficients(plan.rounds))
    one = plan.noise_std * float(np.sqrt(sums @ sums)) / plan.cohort * spec.rate / (1 - spec.momentum)
    return one * float(np.sqrt(plan.size))
