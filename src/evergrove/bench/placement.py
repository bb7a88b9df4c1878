"""``evergrove bench placement``: what deciding without knowing the future costs, against the best that was possible.

Synthetic devices (``placement_world``) live three days of five-minute slots under each rule; the optimum knows all of
it beforehand (``placement_optimum``). Two ratios are told of each rule:

- *at equal delay*: its cost over the least cost at which the same jobs could have had the same mean delay. The mean is
  over jobs, a job that was done in parts counting by its parts, for rule and optimum alike. The optimum has no limit on
  a single job's delay, which is to its advantage, and is taken from below (weak duality);
- *within D*: its cost over the least cost at which every job could be done within the age D, or as soon after it as
  physics allows, however long that takes on the mean. A rule that rushes looks good in the first and bad in this one.

Costs are the prices of DESIGN §6 without the debt term κZ, which is how a device steers and not what it pays. A rule
that leaves jobs undone pays nothing for them: its ratios say nothing, and its undone share stands beside them.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np

from evergrove.bench.measure import Bar
from evergrove.bench.placement_optimum import Columns, Curve, columns, energy_prices
from evergrove.bench.placement_world import SLOT_S, Device, fleet
from evergrove.core import config
from evergrove.rules.placement import Choice, Policy, Rule, Situation, State, carried, safe_offers
from evergrove.rules.placement_rivals import RULES

SLOT_H = SLOT_S / 3600
OURS = "price ceiling"
COST_BAR = 1.10
WEIGHTS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Prices of an hour's delay at which each curve is traced first; λ = 0 comes on top."""

Tell = Callable[[str, int, int], None]


class Sizes(msgspec.Struct, frozen=True):
    """How much is simulated. ``rest_days`` follow the days with new jobs, so that the last ones can be done."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    n_devices: int = 60
    days: int = 3
    rest_days: int = 2


QUICK = Sizes(seeds=(0,), n_devices=12, days=2)


class Outcome(msgspec.Struct, frozen=True):
    """What became of one device's job. Delays in slots, to the end of the slot in which (a part of) it was done.

    ``delay`` is the mean over the parts, ``end`` that of the last part (None: never done). ``forbidden`` and ``busy``
    count the slots past D in which nothing was safe and in which the device was at work, on this job or an older one;
    ``unwilling`` those in which it could have worked and did not.
    """

    cost: float
    delay: float
    end: int | None
    forbidden: int
    busy: int
    unwilling: int


class Row(msgspec.Struct, frozen=True):
    """A rule over all seeds: means, the ratios' worst seed, and delays in hours.

    ``forbidden_h_max`` and ``busy_h_max`` belong to the job with the worst delay; ``unwilling_h`` is a sum over all.
    ``starts`` and ``changes`` are the mean numbers of times that a job was begun or resumed, and its decision changed.
    """

    rule: str
    cost: float
    equal_delay: float
    equal_delay_worst: float
    patient: float
    unlimited: float
    mean_h: float
    p95_h: float
    worst_h: float
    forbidden_h_max: float
    busy_h_max: float
    unwilling_h: float
    undone_share: float
    changes: float


class Report(msgspec.Struct, frozen=True):
    """The table, ours first, and the bars."""

    n_jobs: int
    deadline_h: float
    rows: tuple[Row, ...]
    bars: tuple[Bar, ...]


class Bounds(msgspec.Struct, frozen=True):
    """One seed's least costs: at each rule's mean delay within D and without a D, and within D at any mean delay."""

    in_time: Mapping[str, float]
    free: Mapping[str, float]
    cheapest: float


class Life(msgspec.Struct, frozen=True):
    """One fleet under one rule: its jobs' outcomes, and how often a decision changed."""

    outcomes: tuple[Outcome, ...]
    n_changes: int


def run(sizes: Sizes, tell: Tell, policy: Policy | None = None, rules: Mapping[str, Rule] = RULES) -> Report:
    """Simulate all rules and the optimum. Takes about a minute and a half on one core at the default sizes.

    Raises ``MissingDependency`` without scipy.
    """
    policy = policy or ordinary()
    lives: dict[str, list[Life]] = {name: [] for name in rules}
    bounds: list[Bounds] = []
    for i, seed in enumerate(sizes.seeds):
        tell(f"seed {seed}", i, len(sizes.seeds))
        devices = fleet(seed, sizes.n_devices, sizes.days, sizes.rest_days)
        for name, rule in rules.items():
            lives[name].append(live(rule, policy, devices))
        curve = Curve([in_time(policy, device) for device in devices], WEIGHTS)
        free = Curve([columns(policy, device) for device in devices], WEIGHTS)
        delays_h = {name: total_h(lives[name][-1]) for name in rules}
        bounds.append(
            Bounds(
                in_time={name: curve.least_cost(delay_h) for name, delay_h in delays_h.items()},
                free={name: free.least_cost(delay_h) for name, delay_h in delays_h.items()},
                cheapest=curve.points[0].cost,
            )
        )
    rows = tuple(_row(name, lives[name], bounds) for name in rules)
    n_jobs = sum(len(life.outcomes) for life in next(iter(lives.values())))
    return Report(n_jobs, policy.deadline_s / 3600, rows, _bars(rows))


def ordinary(deadline_h: float | None = None) -> Policy:
    """The policy of an ordinary configuration, with another age D in hours (None: with its own)."""
    policy = Policy.of(config.Placement())
    return policy if deadline_h is None else msgspec.structs.replace(policy, deadline_s=deadline_h * 3600)


def live(rule: Rule, policy: Policy, devices: Sequence[Device]) -> Life:
    """All devices under one rule."""
    lives = [_live(rule, policy, device) for device in devices]
    return Life(tuple(outcome for life in lives for outcome in life.outcomes), sum(life.n_changes for life in lives))


def total_h(life: Life) -> float:
    """The sum of the jobs' delays in hours."""
    return sum(outcome.delay for outcome in life.outcomes) * SLOT_H


class _Doing:
    """A job on its way."""

    def __init__(self, slot: int, energy_j: float) -> None:
        self.slot, self.energy_j, self.left_j = slot, energy_j, energy_j
        self.left = 1.0
        self.begun: Choice = "defer"
        self.cost, self.delay, self.drawn_j = 0.0, 0.0, 0.0
        self.forbidden = self.busy = self.unwilling = 0
        self.end: int | None = None

    def outcome(self, n_slots: int) -> Outcome:
        """What became of it; a part that was never done waits until the end."""
        delay = self.delay + self.left * (n_slots - self.slot)
        return Outcome(self.cost, delay, self.end, self.forbidden, self.busy, self.unwilling)


def _live(rule: Rule, policy: Policy, device: Device) -> Life:
    """One device under one rule: its jobs first come, first served, each slot as the rule decides."""
    state, drawn_j, n_changes = State(), 0.0, 0
    prices = energy_prices(policy, device)
    away = device.fog and msgspec.structs.replace(device.fog, unreachable="no answer")
    jobs = [_Doing(job.slot, job.energy_j) for job in device.jobs]
    coming, waiting = deque(jobs), deque[_Doing]()
    before: tuple[Choice, float] = ("defer", 0.0)
    for t in range(device.n_slots):
        while coming and coming[0].slot <= t:
            waiting.append(coming.popleft())
        if not waiting:
            before = ("defer", 0.0)
            continue
        # 1. What the device knows at the beginning of the slot, and what it decides.
        job = waiting[0]
        situation = Situation(
            age_s=(t - job.slot) * SLOT_S,
            limit=device.limits[t],
            energy_j=job.left_j,
            on_mains=bool(device.on_mains[t]),
            battery_share=float(device.battery_share[t]),
            begun=job.begun,
            share=before[1],
            drawn_j=drawn_j,
            network_up=bool(device.network_up[t]),
            metered=bool(device.metered[t]),
            fog=device.fog if device.fog_up[t] else away,
            backlog=len(waiting),
        )
        state, decision = rule(policy, state, situation, t * SLOT_S)
        n_changes += (decision.choice, decision.share) != before
        before = (decision.choice, decision.share)
        # 2. What it does in the slot.
        drawn_j = _work(policy, device, job, decision.choice, decision.share, t, float(prices[t]))
        # 3. Whose fault a slot past D is.
        late = [one for one in waiting if (t - one.slot) * SLOT_S >= policy.deadline_s]
        if late:
            safe = decision.choice != "defer" or bool(safe_offers(policy, state, situation, t * SLOT_S).prices)
            for one in late:
                one.busy += decision.choice != "defer"
                one.forbidden += not safe
                one.unwilling += safe and decision.choice == "defer"
        if job.end is not None:
            waiting.popleft()
            before = ("defer", 0.0)
    return Life(tuple(job.outcome(device.n_slots) for job in jobs), n_changes)


def _work(policy: Policy, device: Device, job: _Doing, choice: Choice, share: float, t: int, price: float) -> float:
    """One slot of work on a job as decided; gives what it drew from the battery, in joules."""
    if choice == "defer":
        return 0.0
    waited = t - job.slot + 1
    if choice == "trusted":
        assert device.fog is not None
        job.cost += carried(policy, device.fog.trusted_bytes, device.fog.trusted_wait_s) + policy.privacy_price
        job.delay += job.left * waited
        job.left, job.left_j, job.end = 0.0, 0.0, waited
        return 0.0
    if choice == "assisted" and job.begun == "defer":
        assert device.fog is not None
        job.cost += carried(policy, device.fog.assist_bytes, device.fog.assist_wait_s)
        job.left_j *= 1 - device.fog.assist_saving
    job.begun = choice
    used_j = min(job.left_j, share * SLOT_S * device.train_w)
    part = job.left * used_j / job.left_j
    job.cost += used_j * price
    job.delay += part * waited
    job.left, job.left_j = job.left - part, job.left_j - used_j
    if job.left_j <= 1e-9 * job.energy_j:
        job.left, job.left_j, job.end = 0.0, 0.0, waited
    return 0.0 if device.on_mains[t] else used_j


def in_time(policy: Policy, device: Device) -> Columns:
    """What may be done on a device if no job may wait past the age D for want of will.

    A job may then be under way at D plus what it takes from there on: while nothing is safe, while older jobs that are
    as late are done, and while it runs itself. Any rule that takes any safe choice past D keeps to this.
    """
    capacity = np.cumsum([limit.share for limit in device.limits])
    sent = np.flatnonzero(device.fog_usable) if device.fog is not None and device.fog.trusted else np.empty(0, int)
    lasts, last = [], 0
    for job in device.jobs:
        start = max(job.slot + int(policy.deadline_s / SLOT_S), last)
        before = capacity[min(start, device.n_slots) - 1] if start else 0.0
        first = int(np.searchsorted(capacity, before, side="right"))
        last = int(np.searchsorted(capacity, before + job.energy_j / (device.train_w * SLOT_S)))
        met = sent[sent >= start]
        if len(met) and met[0] < first:
            last = int(met[0])
        lasts.append(last)
    return columns(policy, device, lambda j: lasts[j])


def _row(name: str, lives: Sequence[Life], bounds: Sequence[Bounds]) -> Row:
    """One rule's line of the table."""
    costs = [sum(outcome.cost for outcome in life.outcomes) for life in lives]
    ratios = [cost / bound.in_time[name] for cost, bound in zip(costs, bounds, strict=True)]
    free = [cost / bound.free[name] for cost, bound in zip(costs, bounds, strict=True)]
    cheapest = [cost / bound.cheapest for cost, bound in zip(costs, bounds, strict=True)]
    outcomes = [outcome for life in lives for outcome in life.outcomes]
    ends = np.asarray([outcome.end for outcome in outcomes if outcome.end is not None]) * SLOT_H
    latest = max((outcome for outcome in outcomes if outcome.end), key=lambda outcome: outcome.end or 0)
    return Row(
        rule=name,
        cost=round(sum(costs) / len(outcomes), 4),
        equal_delay=round(float(np.mean(ratios)), 3),
        equal_delay_worst=round(max(ratios), 3),
        patient=round(float(np.mean(cheapest)), 3),
        unlimited=round(float(np.mean(free)), 3),
        mean_h=round(sum(map(total_h, lives)) / len(outcomes), 2),
        p95_h=round(float(np.percentile(ends, 95)), 2),
        worst_h=round(float(ends.max()), 2),
        forbidden_h_max=round(latest.forbidden * SLOT_H, 2),
        busy_h_max=round(latest.busy * SLOT_H, 2),
        unwilling_h=round(sum(outcome.unwilling for outcome in outcomes) * SLOT_H, 2),
        undone_share=round(1 - len(ends) / len(outcomes), 4),
        changes=round(sum(life.n_changes for life in lives) / len(outcomes), 2),
    )


def _bars(rows: Sequence[Row]) -> tuple[Bar, ...]:
    """What ours promises."""
    ours = rows[0]
    return (
        Bar("cost over the optimum at equal mean delay", ours.equal_delay, COST_BAR, "×"),
        Bar("time past the age D in which something was safe and not taken", ours.unwilling_h, 0.0, "h"),
        Bar("jobs left undone", ours.undone_share, 0.0, ""),
    )
