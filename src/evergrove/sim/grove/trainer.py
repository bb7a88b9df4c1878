"""What a device of a simulated grove learns: declared in its worth, and real in its numbers.

A candidate is the adapter file that it would be, in the versions folder: what served before, and a direction of the
job's own. So what a device sends is made from files by production's arithmetic, and every sum shows whose work is in
it.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import msgspec
import numpy as np

from evergrove.adapters.release import Release
from evergrove.adapters.versions import Versions
from evergrove.core import effects as do
from evergrove.core.conditions import Code
from evergrove.core.jobs import Chosen, Failed, Measured, Refused, Trained
from evergrove.core.measures import Choice, Comparison, Kind
from evergrove.core.rng import stream
from evergrove.rules import params
from evergrove.rules.carry import on_release
from evergrove.rules.learnt import Learnt, decode, encode
from evergrove.runtime.carrying import carried
from evergrove.runtime.fleet_consolidate import released
from evergrove.sim.scenario import Trainer as Spec
from evergrove.sim.trainers import Surrogate


class Gardener(Surrogate):
    """A surrogate with files. ``wear`` says on which release the device is, and where its versions are."""

    def __init__(
        self, spec: Spec, known: Code, seed: int, device: str, golden: Callable[[], Mapping[Code, int]], size: float
    ) -> None:
        """``size``: the length of what one job learns."""
        super().__init__(spec, known, seed, device, golden)
        self._size = size
        self._release: Release
        self._versions: Versions
        self._held: Learnt
        self._layout: params.Layout
        self._find: Callable[[str], Release]

    def wear(self, release: Release, versions: Versions, find: Callable[[str], Release]) -> None:
        """The device runs this release; ``find`` opens others that it has fetched."""
        self._release, self._versions, self._find = release, versions, find
        self._held, self._layout = released(release)

    def train(self, order: do.StartTraining | do.SendTrusted) -> Trained | Failed:
        """The incumbent and a direction of the job's own, as a file."""
        declared = super().train(order)
        if isinstance(declared, Failed):
            return declared
        before = decode(self._versions.load(order.parent)) if order.parent else self._held
        rng = stream(self._seed, self._device, "direction", order.job)
        step = rng.standard_normal(self._layout.n_numbers)
        step *= self._size / np.linalg.norm(step)
        moved = params.named(step, self._layout)
        tensors = {name: tensor + moved[name] if name in moved else tensor for name, tensor in before.tensors.items()}
        data = encode(replace(before, tensors=tensors))
        name = self._versions.add(data)
        self._truths[name] = self._worth(order, self._truths[declared.candidate])
        return msgspec.structs.replace(declared, candidate=name, n_bytes=len(data))

    def _worth(self, order: do.StartTraining | do.SendTrusted, declared: Mapping[Code, float]) -> Mapping[Code, float]:
        """As declared for what the release knows; on what is new every job gains as much as the first, without end."""
        before = self._truths.get(order.parent, {})
        gained = {c: before.get(c, 0.0) - self._spec.gain for c in self._golden() if c not in self._known}
        return {**declared, **gained}

    def measure(self, order: do.StartMeasuring) -> Measured | Refused | Failed:
        """Declared; what is rescaled is made as a file."""
        declared = super().measure(order)
        if not isinstance(declared, Measured) or order.candidate is None or order.gamma == 1.0:
            return declared
        whole = decode(self._versions.load(order.candidate))
        scaled = on_release(whole, self._held, self._held, self._release.manifest.vocabulary, order.gamma)
        name = self._versions.add(encode(scaled))
        self._truths[name] = self._truths[declared.candidate]
        return msgspec.structs.replace(declared, candidate=name)

    def choose(self, order: do.StartChoosing) -> Chosen | Refused | Failed:
        """What may run on the release that is here: production's candidates, the larger share first."""
        arriving = self._find(order.release)
        manifest, before = arriving.manifest, self._truths.get(order.incumbent, {})
        taught = manifest.teacher is not None
        choices = []
        for gamma, candidate, given in carried(self._versions, self._release, arriving, order.incumbent, order.given):
            rng = stream(self._seed, self._device, "choose", order.job, str(gamma))
            truth = {condition: gamma * harm for condition, harm in before.items()}
            if candidate is not None:
                self._truths[candidate] = truth
            changes = {c: truth.get(c, 0.0) - before.get(c, 0.0) for c in {*truth, *self._known, *self._golden()}}
            found = self._chosen(changes, truth, taught, rng)
            choices.append(Choice(gamma, candidate, given, -gamma, found))
        table = tuple(tuple(range(n + 1)) for n in manifest.known)
        return Chosen(tuple(choices), manifest.known, table, taught, self._spec.measure_s)

    def _chosen(
        self, changes: Mapping[Code, float], truth: Mapping[Code, float], taught: bool, rng: np.random.Generator
    ) -> tuple[Comparison, ...]:
        """Every old condition as the gate asks for it, and those of the device's own golden set."""
        n, found = self._spec.golden_items, list[Comparison]()
        kinds: tuple[Kind, ...] = ("incumbent", "release", "teacher") if taught else ("incumbent", "release")
        for condition in self._known:
            for kind in kinds:
                change = changes[condition] if kind == "incumbent" else truth.get(condition, 0.0)
                found.append(self._compared(kind, condition, n, change, rng))
        own = sorted((condition, n) for condition, n in self._golden().items() if condition not in self._known)
        return (*found, *(self._compared("incumbent", condition, n, changes[condition], rng) for condition, n in own))
