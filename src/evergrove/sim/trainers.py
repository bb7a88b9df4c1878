"""What learning costs and what comes of it: a surrogate with declared numbers, behind one protocol with the real one.

A candidate's harm to each old condition and its gain on each new one are drawn once, from a stream with the job's
name; a measurement adds the noise of as many golden items as there are. So the golden gate, the real one, has
something to judge, and is right or wrong about it for the reasons that it is in life.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from evergrove.core import effects as do
from evergrove.core.conditions import Code
from evergrove.core.jobs import Chosen, Failed, Measured, Refused, Trained
from evergrove.core.measures import Comparison, Kind
from evergrove.core.rng import stream
from evergrove.sim.scenario import Trainer as Spec
from evergrove.sim.worker import Order

Truth = Mapping[Code, float]
"""What an adapter does to conditions, in parts of what each is worth: harm positive."""


class Trainer(Protocol):
    """What a worker would do. Costs are in seconds of one core at full share, or watts while it computes."""

    def cost_s(self, order: Order) -> float:
        """Core-seconds of the whole job."""

    def power_w(self) -> float:
        """What a trainer draws with a whole core."""

    def train(self, order: do.StartTraining | do.SendTrusted) -> Trained | Failed:
        """The outcome of a training, once its time has passed."""

    def measure(self, order: do.StartMeasuring) -> Measured | Refused | Failed:
        """The outcome of a measurement."""

    def choose(self, order: do.StartChoosing) -> Chosen | Refused | Failed:
        """What may run on another release that is here."""


class Surrogate:
    """Learning by declaration, for fleets of any size."""

    def __init__(
        self, spec: Spec, known: Code, seed: int, device: str, golden: Callable[[], Mapping[Code, int]]
    ) -> None:
        """``golden`` counts the device's own golden items by condition, ``known`` are the release's sizes."""
        self._spec, self._seed, self._device, self._golden = spec, seed, device, golden
        rest = (0,) * (len(known) - 1)
        self._known = tuple((n + 1, *rest) for n in range(known[0]))
        self._truths: dict[str | None, Truth] = {None: {}}

    def cost_s(self, order: Order) -> float:
        """Steps times their cost, less what a fog has done already; a measurement costs the same each time."""
        if not isinstance(order, do.StartTraining):
            return self._spec.measure_s
        share = self._spec.assisted_share if order.assist is not None else 1.0
        return order.steps * self._spec.step_s * share

    def power_w(self) -> float:
        """A step's joules over its seconds."""
        return self._spec.step_j / self._spec.step_s

    def train(self, order: do.StartTraining | do.SendTrusted) -> Trained | Failed:
        """A candidate whose truth is drawn by its job's name: a training that is resumed gives the same one."""
        if not order.fresh:
            return Failed("none of the observations to learn is left in the replay buffer")
        rng, spec = stream(self._seed, self._device, "candidate", order.job), self._spec
        before = self._truths.get(order.parent, {})
        bad = rng.random() < spec.bad_share
        truth = dict(before)
        for condition in self._known:
            harm = float(rng.normal(spec.bad_harm if bad else spec.harm, spec.harm_spread))
            truth[condition] = before.get(condition, 0.0) + harm
        for condition in sorted(self._golden()):
            gain = float(rng.normal(spec.gain, spec.gain_spread))
            truth[condition] = min(0.0, max(-1.0, before.get(condition, 0.0) * 0.5 - gain))
        candidate = self._name(order.job, 1.0)
        self._truths[candidate] = truth
        return Trained(candidate, order.steps, order.steps * spec.step_s, 0.1, spec.candidate_bytes)

    def measure(self, order: do.StartMeasuring) -> Measured | Refused | Failed:
        """Comparisons as ``learn.evaluate`` makes them: every old condition, and those of the device's golden set."""
        if order.source is not None:
            return Refused("the surrogate trainer knows no adapters from elsewhere")
        candidate = order.candidate or order.incumbent
        truth, incumbent = self._truths.get(candidate, {}), self._truths.get(order.incumbent, {})
        if order.candidate is not None and order.gamma != 1.0:
            # The adapter is linear: a part of its strength does about a part of its harm and of its good.
            truth = {c: order.gamma * v for c, v in truth.items()}
            candidate = self._name(order.job, order.gamma)
            self._truths[candidate] = truth
        same = order.candidate is None
        rng = stream(self._seed, self._device, "measure", order.job, str(order.gamma))
        n, found = self._spec.golden_items, []
        for condition in self._known:
            mine, theirs = truth.get(condition, 0.0), incumbent.get(condition, 0.0)
            found.append(self._compared("incumbent", condition, n, 0.0 if same else mine - theirs, rng))
            found.append(self._compared("release", condition, n, mine, rng))
            found.append(self._compared("teacher", condition, n, 0.5 * mine, rng))
        for condition, n in sorted(self._golden().items()):
            change = truth.get(condition, 0.0) - incumbent.get(condition, 0.0)
            kinds: tuple[Kind, ...] = () if condition in self._known else ("incumbent",)
            if condition in order.learnt:
                kinds = (*kinds, "gain")
            found += [self._compared(kind, condition, n, change, rng) for kind in kinds]
        return Measured(candidate or "release", tuple(found), self._spec.measure_s)

    def choose(self, order: do.StartChoosing) -> Chosen | Refused | Failed:
        """By declaration there is one release only."""
        return Refused("the surrogate trainer knows no other release")

    def _compared(self, kind: Kind, condition: Code, n: int, truth: float, rng: np.random.Generator) -> Comparison:
        std = self._spec.item_std
        noise = float(rng.normal(0.0, std / math.sqrt(max(n, 1))))
        return Comparison(kind, condition, n, round(truth + noise, 6), std)

    def _name(self, job: str, gamma: float) -> str:
        return hashlib.sha256(f"{self._seed}/{self._device}/{job}/{gamma}".encode()).hexdigest()
