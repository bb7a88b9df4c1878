"""The cheapest that could have been done, had the future been known: a linear programme for each device (HiGHS).

A job may be split over slots and choices, and only as much may run in a slot as the shield allows; so it is a
relaxation of what any policy can do, and a bound on all of them. Delay is priced at λ per job and hour; over all λ this
traces the curve of least cost against mean delay. The programmes are solved exactly with few columns (Dantzig-Wolfe
pricing): what is left out is checked against the duals, and let in where it would pay.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from evergrove.bench.placement_world import SLOT_S, Device, Floats
from evergrove.core.errors import EvergroveError, MissingDependency
from evergrove.rules.placement import Policy, Situation, State, carried, energy_price
from evergrove.rules.shield import Limit

FIRST_COLUMNS = 48
TOLERANCE = 1e-9
Ints = NDArray[np.int64]


class Columns(msgspec.Struct, frozen=True):
    """Everything that may be done for the jobs of one device, one column each, per whole job.

    ``work`` is what it takes of a slot's capacity, in slots of a whole core. ``delay_h`` counts to the end of the slot.
    """

    job: Ints
    slot: Ints
    work: Floats
    price: Floats
    delay_h: Floats
    capacity: Floats
    n_jobs: int


class Point(msgspec.Struct, frozen=True):
    """The optimum of a fleet at one price of delay: total cost and total delay in hours."""

    weight: float
    cost: float
    delay_h: float


def columns(policy: Policy, device: Device, last: Callable[[int], int] | None = None) -> Columns:
    """What may be done on a device; ``last`` gives the last slot allowed to a job, by its number (None: the end).

    An assist costs the same whenever a fog can be reached, so it is fetched at the first chance after a job's arrival;
    and so is a job sent to a trusted fog, since later is no cheaper.
    """
    capacity = np.asarray([limit.share for limit in device.limits])
    price = energy_prices(policy, device)
    usable, fog = device.fog_usable, device.fog
    parts: list[tuple[int, Ints, float, Floats]] = []
    for j, job in enumerate(device.jobs):
        end = device.n_slots if last is None else min(last(j) + 1, device.n_slots)
        here = np.flatnonzero(capacity[job.slot : end]) + job.slot
        whole = job.energy_j / (device.train_w * SLOT_S)
        parts.append((j, here, whole, price[here] * job.energy_j))
        met = np.flatnonzero(usable[job.slot : end]) + job.slot
        if fog is None or not len(met):
            continue
        rest, after = 1 - fog.assist_saving, here[here >= met[0]]
        fetched = carried(policy, fog.assist_bytes, fog.assist_wait_s)
        parts.append((j, after, whole * rest, fetched + price[after] * job.energy_j * rest))
        if fog.trusted:
            sent = carried(policy, fog.trusted_bytes, fog.trusted_wait_s) + policy.privacy_price
            parts.append((j, met[:1], 0.0, np.asarray([sent])))
    arrival = np.asarray([job.slot for job in device.jobs])
    owner = np.concatenate([np.full(len(slots), j) for j, slots, _, _ in parts])
    slot = np.concatenate([slots for _, slots, _, _ in parts])
    return Columns(
        job=owner,
        slot=slot,
        work=np.concatenate([np.full(len(slots), work) for _, slots, work, _ in parts]),
        price=np.concatenate([prices for *_, prices in parts]),
        delay_h=(slot - arrival[owner] + 1) * SLOT_S / 3600,
        capacity=capacity,
        n_jobs=len(device.jobs),
    )


def energy_prices(policy: Policy, device: Device) -> Floats:
    """The price of one joule in each slot, as the policy has it while no debt weighs on it."""
    state, free = State(), Limit(1.0, "")
    prices = (
        energy_price(policy, state, Situation(0.0, free, 1.0, bool(mains), float(charge)), 1.0)
        for mains, charge in zip(device.on_mains, device.battery_share, strict=True)
    )
    return np.fromiter(prices, np.float64, device.n_slots)


def solve(of: Columns, weight: float) -> tuple[float, float]:
    """Least cost plus ``weight`` × delay of one device; gives its (cost, delay in hours) in total.

    Raises ``EvergroveError`` where no plan does all jobs in time, ``MissingDependency`` without scipy.
    """
    linprog, csr = _scipy()
    if not of.n_jobs:
        return 0.0, 0.0
    value = of.price + weight * of.delay_h
    chosen = _cheapest(of, value)
    while True:
        mine = np.flatnonzero(chosen)
        slots, row = np.unique(of.slot[mine], return_inverse=True)
        at = np.arange(len(mine))
        once = csr((np.ones(len(mine)), (of.job[mine], at)), shape=(of.n_jobs, len(mine)))
        load = csr((of.work[mine], (row, at)), shape=(len(slots), len(mine)))
        # A little more than the capacity keeps rounding from making a full slot impossible; it only helps the optimum.
        room = of.capacity[slots] + 1e-9
        found = linprog(value[mine], A_ub=load, b_ub=room, A_eq=once, b_eq=np.ones(of.n_jobs), method="highs")
        if found.status == 2 and not chosen.all():
            chosen[:] = True
            continue
        if found.status != 0:
            raise EvergroveError(f"no optimum for a device: {found.message}")
        scarce = np.zeros(len(of.capacity))
        scarce[slots] = found.ineqlin.marginals
        reduced = value - found.eqlin.marginals[of.job] - scarce[of.slot] * of.work
        better = (reduced < -TOLERANCE) & ~chosen
        if not better.any():
            return float(found.x @ of.price[mine]), float(found.x @ of.delay_h[mine])
        chosen |= better


def trace(fleet: Sequence[Columns], weight: float) -> Point:
    """The optimum of a whole fleet at one price of delay."""
    parts = [solve(one, weight) for one in fleet]
    return Point(weight, sum(cost for cost, _ in parts), sum(delay_h for _, delay_h in parts))


class Curve:
    """Least cost against total delay of a fleet, traced where it is asked for."""

    def __init__(self, fleet: Sequence[Columns], weights: Sequence[float]) -> None:
        self._fleet = fleet
        self._points = {weight: trace(fleet, weight) for weight in sorted({0.0, *weights})}

    @property
    def points(self) -> list[Point]:
        """What has been traced, by the price of delay."""
        return [self._points[weight] for weight in sorted(self._points)]

    def least_cost(self, delay_h: float, rounds: int = 6) -> float:
        """The least cost at this total delay, from below.

        Every λ gives a bound, ``cost + λ·(its delay − delay_h)`` (weak duality); the best of them is returned, after
        the bracket around the delay has been halved ``rounds`` times. It is never above the true optimum.
        """
        for _ in range(rounds):
            slow = [p.weight for p in self.points if p.delay_h >= delay_h]
            fast = [p.weight for p in self.points if p.delay_h < delay_h]
            if not slow or not fast or max(slow) >= min(fast):
                break
            low, high = max(slow), min(fast)
            middle = (low * high) ** 0.5 if low > 0 else high / 4
            self._points[middle] = trace(self._fleet, middle)
        return max(p.cost + p.weight * (p.delay_h - delay_h) for p in self.points)


def _cheapest(of: Columns, value: Floats) -> NDArray[np.bool_]:
    """The cheapest columns of each job to begin with."""
    chosen = np.zeros(len(value), bool)
    order = np.argsort(value, kind="stable")
    owner = of.job[order]
    for j in range(of.n_jobs):
        chosen[order[owner == j][:FIRST_COLUMNS]] = True
    return chosen


def _scipy() -> tuple[Any, Any]:
    try:
        from scipy.optimize import linprog
        from scipy.sparse import csr_matrix
    except ImportError as fault:
        raise MissingDependency(
            "the optimum is a linear programme, and scipy is not installed: pip install scipy"
        ) from fault
    return linprog, csr_matrix
